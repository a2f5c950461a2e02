/* What an edge of a status machine may ask of an order: StatusMachine.Edge.required_fields names parts of its content that must be there when the edge is
 * taken, after the transition's own patch. Names from a fixed table; whether they are there is read from the stored wire bytes. Pure. */
#ifndef ENGINE_REQUIRED_H
#define ENGINE_REQUIRED_H

#include "engine/order.h"

enum { REQUIRED_FIELDS_MAX = 16 }; /* of one edge */

struct required_field {
    struct slice name; /* as the machine says it: "address", "attributes.invoice_no" */
    struct slice key;  /* of the attribute; empty: any */
    uint32_t number;   /* of the field of Order */
    bool detail;       /* it is in the detail, not in the summary */
    bool patchable;    /* a transition's patch can set it */
};

#define REQUIRED_NAMES "order_type, address, payments, shipments, attributes, attributes.KEY, extension, merchant_id, client_order_no"
/* false: not one of REQUIRED_NAMES. Borrows name. */
bool required_find(struct slice name, struct required_field *out);
/* *met: an order with this content has it, and it is not empty. CHECKSUM_MISMATCH: no such content. */
enum status required_met(const struct required_field *r, const struct order_body *content, bool *met) MUST_USE;

#endif

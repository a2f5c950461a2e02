/* Content of an order from the command line: the flags that `order create`, `order update` and `order transition` have in common, and what they say. */
#ifndef TOOLS_CONTENT_H
#define TOOLS_CONTENT_H

#include "proto/base/arena.h"
#include "tools/cli.h"

struct content_flags {
    const char *type, *address, *extension;
    struct args_many attributes, payments, shipments;
    struct args_many clear; /* of changes alone: names of fields */
};

/* Rows of a table of flags; c: of static life. */
#define CONTENT_FLAGS(c) \
    {"--type", NULL, ARG_TEXT, &(c).type, "TYPE", "the order type"}, \
    {"--address", NULL, ARG_TEXT, &(c).address, "PARTS", "recipient=..,phone=..,region=..,line=..; \\, is a comma"}, \
    {"--payment", NULL, ARG_MANY, &(c).payments, "PARTS", "no=.. and, if you like, channel=..,amount=..,currency=..,time=..; repeat it"}, \
    {"--shipment", NULL, ARG_MANY, &(c).shipments, "PARTS", "no=.. and, if you like, carrier=..,sku=..,sku=..; repeat it"}, \
    {"--attr", NULL, ARG_MANY, &(c).attributes, "KEY=VALUE", "an attribute; repeat it"}, \
    {"--extension", NULL, ARG_TEXT, &(c).extension, "FILE|-", "bytes of your own"}
#define CONTENT_CHANGE_FLAGS(c) \
    CONTENT_FLAGS(c), \
    {"--clear", NULL, ARG_MANY, &(c).clear, "FIELD,..", "empty these: order_type, address, payments, shipments, attributes, extension"}

bool content_given(const struct content_flags *c); /* any of them */
/* Into the order, in the arena. currency: of amounts that name none; NULL: they must. false: told. */
bool content_read(const struct cli *cli, struct arena *a, const struct content_flags *c, const char *currency, Orderdb__V1__Order *o);
/* What a change replaces: all that was given, and what is to be cleared. NULL: told. */
Google__Protobuf__FieldMask *content_mask(const struct cli *cli, struct arena *a, const struct content_flags *c);

/* Next "key=value" of a list with commas; "\," is a comma of the value. Cuts the text in place. false: the end, or *bad. */
bool content_pair_next(char **text, char **key, char **value, bool *bad);
/* "A,B" and repeated flags alike, as one list in the arena; NULL: no memory. */
char **content_names_split(struct arena *a, const struct args_many *many, size_t *count);
Orderdb__V1__Money *content_money_new(struct arena *a, const char *currency, int64_t units); /* NULL: no memory */
bool content_amount_read(const struct cli *cli, const char *flag, const char *currency, const char *text, int64_t *units); /* false: told */

#endif

/* Shared by the files of check alone: where in the message we are, and saying what is wrong there. */
#ifndef ENGINE_CHECK_LOCAL_H
#define ENGINE_CHECK_LOCAL_H

#include "engine/check.h"

/* A place in the request, kept as a chain on the stack and only put into text when something is wrong there. */
struct path {
    const struct path *parent; /* NULL: the request */
    const char *name;
    long index;                /* -1: not an element */
};
#define AT(parent, name) (&(const struct path){(parent), (name), -1})
#define AT_INDEX(parent, name, i) (&(const struct path){(parent), (name), (long)(i)})

struct checker {
    struct arena *arena;
    struct failure *f;
    const char *currency; /* the first valid one met; all others must be the same. NULL: none yet */
};

void check_violation(struct checker *c, enum status s, const struct path *at, const char *format, ...) PRINTF_LIKE(4, 5);
/* A feature that a later version builds: named, never silently ignored. */
void check_not_built(struct checker *c, const char *field);
/* Length in bytes; min 1 means required. UTF-8 and NUL are scan.h's. */
void check_text(struct checker *c, const struct path *at, const char *s, size_t min, size_t max);
void check_count(struct checker *c, const struct path *at, size_t n, size_t max);
/* false: said. */
bool check_time(struct checker *c, const struct path *at, const Google__Protobuf__Timestamp *t, int64_t *unix_us);

/* The order's own shape, sums included; fills in items_total and payable where they were left out. Output-only fields are the caller's
 * business (check_assigned): an import may send some. */
void check_order(struct checker *c, const struct path *at, Orderdb__V1__Order *order);
/* The parts of an order that may change: those of them that are there. Unknown fields are dropped. */
void check_order_parts(struct checker *c, const struct path *at, Orderdb__V1__Order *part);
void check_options(struct checker *c, const Orderdb__V1__WriteOptions *o, bool required, struct command_origin *origin);
/* A valid traceparent, or none. */
struct slice check_traceparent(struct slice s);
/* Unknown fields of the message and of all in it; not of a message with a oneof. */
void check_drop_unknown(ProtobufCMessage *m);
/* The field must not be sent. */
void check_assigned(struct checker *c, const struct path *at, bool sent);

/* What `mask` names of `order` (NULL: an empty one), by the rules of UpdateOrder; `at`: where that order is in the request. Into `out`, with the hash of the
 * canonical content, unless anything of the request was found wrong so far. */
void check_change(struct checker *c, const struct path *at, const Orderdb__V1__Order *order, const Google__Protobuf__FieldMask *mask, enum request_method method,
                  struct content_change *out, struct hash128 *hash);

/* Canonical content of a checked order: method(1), user_id, client_order_no, machine, summary, detail, each counted, in one buffer of which
 * summary and detail are slices; data NULL: the arena is full. */
struct slice check_pack(struct checker *c, const Orderdb__V1__Order *order, enum request_method method, struct slice *summary, struct slice *detail);

/* Answers whether nothing was found, and sets out->command; a full arena is said too. */
bool check_done(struct checker *c, const struct command *command, struct checked *out);

#endif

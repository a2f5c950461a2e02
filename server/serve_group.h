/* What the serve_* files of consumer groups share: who the group is, by name, as the meta partition has it. */
#ifndef SERVER_SERVE_GROUP_H
#define SERVER_SERVE_GROUP_H

#include "engine/consumer_row.h"
#include "server/serve_common.h"

/* One unary call about a group, in the call's arena. */
struct group_call {
    struct call_op op;
    const void *message;            /* the request, unpacked */
    struct arena *arena;            /* of ops to partitions, if the handler takes one: reset for each. NULL: the call's */
    struct slice name;
    struct consumer_group_row row;  /* as the meta partition has it */
    struct consumer_definition definition;
    uint32_t partition;             /* that is being asked */
    void (*found)(struct call *call, struct group_call *g);
    void *own;                      /* the handler's */
};
/* Checks the name, asks the meta partition; found runs when the group is there. GROUP_NOT_FOUND, FIELD_INVALID otherwise. */
void serve_group_find(struct call *call, const void *message, const char *name, void (*found)(struct call *call, struct group_call *g));
/* The next op, to partition g->partition; what the op is about is filled in behind it. */
struct op *serve_group_op(struct call *call, struct group_call *g, enum op_kind kind);
/* The row of a name among those that OP_GROUPS found; NULL: none. */
const struct consumer_group_row *serve_group_row(const struct consumer_groups *groups, struct slice name);
void serve_group_not_found(struct failure *f, struct slice name);
/* A violation of "page_size", or its value. */
unsigned serve_page_size(struct failure *f, int32_t sent, unsigned max, unsigned unset);

#endif

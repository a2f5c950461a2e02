/* The nodes of a cluster, as the meta partition has them (docs/CLUSTER.md, "Nodes that come and go"): one row each, also of those that are gone, whose ids never come back. Each change is
 * a command of its log, decided in apply (apply_node.c); every node reads its own replica.
 *
 *   row 'O' = format(1) state(1) revision(8) zone address           texts as counted bytes; the node's id is in the key
 *   list    = { node id(8) row as counted bytes }*                  what OP_NODES answers, ascending by id
 *
 *              JOIN               ADD                DRAIN                            LOSE
 *   (not there) ---> JOINED ------------> UP <------------------> DRAINING     UP <------> LOST     founders of the cluster are UP at once
 *                      |            ADD   |                          |             BACK, ADD; REMOVE as from UP
 *                      | REMOVE           | REMOVE                   | REMOVE         LEAVING --ADD--> UP, as long as it is not gone
 *                      v                  v                          |
 *                   LEAVING <----------------------------------------+
 *                      | GONE: it is a member of no partition any more
 *                      v
 *                   REMOVED, for ever
 *
 * ALONE, of the node that goes on after a majority was lost (recover.h): it becomes UP, whatever it was, and all others that are UP, DRAINING or LOST become LEAVING.
 *
 * UP and DRAINING ones hold the partitions (placement.h); one that drains leads none. LOST: nothing was heard of it for --replace-after, others take its replicas over; it is UP again when it is
 * heard. One that drains is not lost, however long it is away: somebody means to bring it back. Golden bytes in tests/golden/. */
#ifndef ENGINE_NODE_ROW_H
#define ENGINE_NODE_ROW_H

#include "engine/query.h"

enum node_row_state { NODE_STATE_JOINED = 1, NODE_STATE_UP, NODE_STATE_DRAINING, NODE_STATE_LEAVING, NODE_STATE_REMOVED, NODE_STATE_LOST };
/* Stored in the log. */
enum node_action { NODE_FOUND = 1, NODE_JOIN, NODE_ADD, NODE_DRAIN, NODE_REMOVE, NODE_GONE, NODE_ALONE, NODE_LOSE, NODE_BACK };
enum { NODE_ROWS_MAX = 64, NODE_ZONE_BYTES_MAX = 32, NODE_ADDRESS_BYTES_MAX = 255, NODE_ROW_BYTES_MAX = 1 + 1 + 8 + 2 + NODE_ZONE_BYTES_MAX + 2 + NODE_ADDRESS_BYTES_MAX };
#define NODE_ID_MAX 1000000ull

struct node_row {
    uint64_t node_id;
    enum node_row_state state;
    uint64_t revision;          /* how many changes it has seen, from 1 */
    struct slice zone, address; /* address: HOST:PORT, for other nodes */
};
const char *node_state_name(enum node_row_state state); /* "UP" */
static inline bool node_state_is_member(enum node_row_state s) { return s == NODE_STATE_UP || s == NODE_STATE_DRAINING; }

void node_row_encode(const struct node_row *r, struct writer *w);
/* node_id: of its key. */
enum status node_row_decode(struct slice row, uint64_t node_id, struct node_row *out) MUST_USE;
/* Founders: { id(8) zone address }*, in a command. false: it is none. */
void node_founder_encode(const struct node_row *r, struct writer *w);
bool node_founder_next(struct reader *r, struct node_row *out);

/* A list's next row; false: no more, or (reader.bad) it is none. */
bool node_list_next(struct reader *list, struct node_row *out);
enum status query_nodes(const struct query *q, struct slice *list) MUST_USE;
/* What the nodes' rows have seen of changes, all together: it only grows. */
uint64_t node_list_epoch(struct slice list);

#endif

/* Leads spread over the nodes (docs/CLUSTER.md, "Where leads are"): each partition has a node that should lead it, by turns, of --lead-zone if that is given; who leads one that is another's
 * hands it over when that node has been up, and here, for a while. Owned by the core, of whose partitions it takes care; all calls on its thread. */
#ifndef SERVER_BALANCE_H
#define SERVER_BALANCE_H

struct balance;
struct core;

struct balance *balance_new(struct core *core); /* of a node with peers. NULL: no memory */
void balance_free(struct balance *b);
/* Once clients are let in. With --lead-hold 0 leads leave a node alone that drains. */
void balance_begin(struct balance *b);
void balance_stop(struct balance *b); /* this node drains: its leads leave otherwise (engine_yield) */

#endif

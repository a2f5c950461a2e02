/* orderctl cluster: the nodes of a cluster, who leads, how far the replicas are, and leads that move. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "tools/cli.h"
#include "tools/cluster_init.h"
#include "tools/table.h"

#define SERVICE "/orderdb.v1.AdminService/"
typedef Orderdb__V1__Topology Topology;
typedef Orderdb__V1__Topology__Node Node;
typedef Orderdb__V1__Topology__Partition Partition;
typedef Orderdb__V1__Topology__Replica Replica;

/* ---- what a topology says */

static const Replica *replica_of(const Partition *p, uint64_t node_id) {
    for (size_t i = 0; i < p->n_replicas; i++)
        if (p->replicas[i]->node_id == node_id) return p->replicas[i];
    return NULL;
}

/* In entries of the partition's log. Below 0: not known. */
static int64_t lag_of(const Partition *p, uint64_t node_id) {
    const Replica *leader = replica_of(p, p->leader_node_id), *r = replica_of(p, node_id);
    if (!leader || !r || !leader->applied_index || !r->applied_index) return -1;
    return leader->applied_index > r->applied_index ? leader->applied_index - r->applied_index : 0;
}

struct node_sum {
    unsigned leads, replicas, unknown;
    int64_t behind; /* of its replica that is furthest behind */
};
static struct node_sum sum_of(const Topology *t, uint64_t node_id) {
    struct node_sum s = {0};
    for (size_t i = 0; i < t->n_partitions; i++) {
        const Partition *p = t->partitions[i];
        if (!replica_of(p, node_id)) continue;
        int64_t lag = lag_of(p, node_id);
        s.leads += p->leader_node_id == node_id;
        s.replicas++;
        s.unknown += lag < 0;
        s.behind = MAX_OF(s.behind, lag);
    }
    return s;
}

/* ---- tables */

static void print_nodes(const Topology *t) {
    static const struct table_column columns[] = {{"NODE", .right = true}, {"ZONE", .shrinks_to = 6}, {"STATE"}, {"LEADS", .right = true}, {"REPLICAS", .right = true}, {"BEHIND", .right = true},
                                                  {"CLIENTS", .shrinks_to = 12}, {"PEERS", .shrinks_to = 8}};
    struct table table;
    table_init(&table, columns, ARRAY_LEN(columns));
    for (size_t i = 0; i < t->n_nodes; i++) {
        const Node *n = t->nodes[i];
        struct node_sum s = sum_of(t, n->node_id);
        table_cell(&table, "%llu", (unsigned long long)n->node_id);
        table_cell(&table, "%s", n->zone);
        table_cell(&table, "%s", n->state);
        table_cell(&table, "%u", s.leads);
        table_cell(&table, "%u", s.replicas);
        if (s.unknown == s.replicas) table_cell(&table, "?");
        else table_cell(&table, "%lld", (long long)s.behind);
        table_cell(&table, "%s", n->client_address);
        table_cell(&table, "%s", n->peer_address);
    }
    table_print(&table, stdout, TABLE_WIDTH);
    table_fini(&table);
}

/* "1 2(-40) 3(?)": who has it, and how far behind. */
static void replicas_text(const Partition *p, char *out, size_t cap) {
    size_t n = 0;
    out[0] = 0;
    for (size_t i = 0; i < p->n_replicas && n < cap; i++) {
        const Replica *r = p->replicas[i];
        int64_t lag = lag_of(p, r->node_id);
        n += (size_t)snprintf(out + n, cap - n, "%s%llu", i ? " " : "", (unsigned long long)r->node_id);
        if (n < cap && strcmp(r->role, "VOTER") != 0) n += (size_t)snprintf(out + n, cap - n, "/%s", strcmp(r->role, "LEARNER") == 0 ? "learner" : "spare");
        if (n < cap && lag < 0) n += (size_t)snprintf(out + n, cap - n, "(?)");
        else if (n < cap && lag > 0) n += (size_t)snprintf(out + n, cap - n, "(-%lld)", (long long)lag);
    }
}

static void print_partitions(const Topology *t) {
    static const struct table_column columns[] = {{"PARTITION", .right = true}, {"LEADER", .right = true}, {"TERM", .right = true}, {"REPLICAS", .shrinks_to = 20}, {"WRITES/S", .right = true}, {"ORDERS", .right = true}};
    struct table table;
    char replicas[256];
    table_init(&table, columns, ARRAY_LEN(columns));
    for (size_t i = 0; i < t->n_partitions; i++) {
        const Partition *p = t->partitions[i];
        replicas_text(p, replicas, sizeof replicas);
        table_cell(&table, "%d", p->partition_id);
        if (p->leader_node_id) table_cell(&table, "%llu", (unsigned long long)p->leader_node_id);
        else table_cell(&table, "none");
        table_cell(&table, "%lld", (long long)p->term);
        table_cell(&table, "%s", replicas);
        table_cell(&table, "%.0f", p->writes_per_second);
        table_cell(&table, "%lld", (long long)p->orders);
    }
    putchar('\n');
    table_print(&table, stdout, TABLE_WIDTH);
    table_fini(&table);
}

/* What somebody who looks should do something about. */
static void print_worries(const Topology *t) {
    unsigned down = 0, lost = 0, leaderless = 0;
    for (size_t i = 0; i < t->n_nodes; i++) down += strcmp(t->nodes[i]->state, "DOWN") == 0, lost += strcmp(t->nodes[i]->state, "LOST") == 0;
    for (size_t i = 0; i < t->n_partitions; i++) leaderless += !t->partitions[i]->leader_node_id;
    printf("\n%zu node%s, %u down", t->n_nodes, t->n_nodes == 1 ? "" : "s", down);
    if (lost) printf(", %u lost", lost); /* others have its replicas; it is to be brought back, or removed */
    printf("; %zu partition%s, %u without a leader\n", t->n_partitions, t->n_partitions == 1 ? "" : "s", leaderless);
}

static enum cli_exit print_topology(struct cli *cli, const Topology *t) {
    if (cli->json) return cli_print_json(&t->base);
    print_nodes(t);
    print_partitions(t);
    print_worries(t);
    return CLI_OK;
}

/* ---- commands */

static enum cli_exit status_run(struct cli *cli, int argc, char **argv) {
    Orderdb__V1__GetTopologyRequest r = ORDERDB__V1__GET_TOPOLOGY_REQUEST__INIT;
    Topology *t = orderdb_get_topology(cli->db, &r, NULL);
    if (!t) return cli_error(cli);
    enum cli_exit e = print_topology(cli, t);
    orderdb_message_free(t);
    return e;
}

static bool number(const char *text, long long high, long long *out) {
    char *end;
    errno = 0;
    *out = strtoll(text, &end, 10);
    return *text >= '0' && *text <= '9' && !*end && !errno && *out <= high;
}

static enum cli_exit transfer_run(struct cli *cli, int argc, char **argv) {
    long long partition = -1, node;
    if (strcmp(argv[0], "meta") != 0 && !number(argv[0], INT32_MAX, &partition)) return cli_usage(cli, "PARTITION is a number, or meta, not %.40s", argv[0]);
    if (!number(argv[1], 1000000, &node) || node < 1) return cli_usage(cli, "NODE is a node's id, not %.40s", argv[1]);
    struct arena a;
    enum cli_exit e;
    Orderdb__V1__TransferLeaderRequest r = ORDERDB__V1__TRANSFER_LEADER_REQUEST__INIT;
    r.partition_id = (int32_t)partition, r.to_node_id = (uint64_t)node;
    arena_init(&a, 64 * MIB);
    const Topology *t = cli_call(cli, SERVICE "TransferLeader", &r.base, &orderdb__v1__topology__descriptor, &a, &e);
    if (t) e = cli->json ? cli_print_json(&t->base) : CLI_OK;
    if (t && !cli->json) printf("partition %s is led by node %lld\n", argv[0], node);
    arena_fini(&a);
    return e;
}

/* ---- nodes */

static bool no_wait, dry_run, yes;

static const Node *node_of(const Topology *t, uint64_t id) {
    for (size_t i = 0; i < t->n_nodes; i++)
        if (t->nodes[i]->node_id == id) return t->nodes[i];
    return NULL;
}

/* Are its voters those that it is to have, and is nobody else on the way? */
static bool is_settled(const Partition *p) {
    unsigned wanted = 0;
    for (size_t i = 0; i < p->n_wanted_node_ids; i++) {
        const Replica *r = replica_of(p, p->wanted_node_ids[i]);
        wanted += r && strcmp(r->role, "VOTER") == 0;
    }
    return wanted == p->n_wanted_node_ids && p->n_replicas == wanted;
}

/* How many partitions are not as they should be: held by whom placement names; led by others; a member of none. */
static unsigned left_to_do(const Topology *t, uint64_t id, const char *what) {
    unsigned left = 0;
    for (size_t i = 0; i < t->n_partitions; i++) {
        const Partition *p = t->partitions[i];
        const Replica *r = replica_of(p, id);
        if (strcmp(what, "add") == 0) left += !is_settled(p);
        else if (strcmp(what, "drain") == 0) left += p->leader_node_id == id || !p->leader_node_id;
        else left += r != NULL;
    }
    return left;
}

/* What is wanted of partitions follows from it; and a node that is a member of none is REMOVED a moment later. */
static bool state_is_due(const Topology *t, uint64_t id, const char *what) {
    const Node *n = node_of(t, id);
    if (strcmp(what, "add") == 0) return !n || strcmp(n->state, "UP") != 0;
    return strcmp(what, "remove") == 0 && n && strcmp(n->state, "REMOVED") != 0;
}

static enum cli_exit fail_late(struct cli *cli, uint64_t id, const char *state, unsigned left) {
    fprintf(stderr, "orderctl %s: after %lld s ", cli->command, (long long)cli->timeout_s);
    if (left) fprintf(stderr, "%u partition%s left; ", left, left == 1 ? " is" : "s are");
    else fprintf(stderr, "no partition is left, and node %llu is still %s; ", (unsigned long long)id, state);
    fputs("it goes on by itself: orderctl cluster status\n", stderr);
    return CLI_UNAVAILABLE;
}

static enum cli_exit wait_until_done(struct cli *cli, uint64_t id, const char *what) {
    Orderdb__V1__GetTopologyRequest r = ORDERDB__V1__GET_TOPOLOGY_REQUEST__INIT;
    time_t until = time(NULL) + cli->timeout_s;
    for (;;) {
        Topology *t = orderdb_get_topology(cli->db, &r, NULL);
        if (!t) return cli_error(cli);
        unsigned left = left_to_do(t, id, what);
        bool done = !left && !state_is_due(t, id, what), late = !done && time(NULL) >= until;
        const Node *n = node_of(t, id);
        enum cli_exit e = CLI_OK;
        if (done) e = cli->json ? cli_print_json(&t->base) : CLI_OK;
        if (late) e = fail_late(cli, id, n ? n->state : "not known", left);
        orderdb_message_free(t);
        if (done) {
            if (!cli->json) printf("node %llu: %s\n", (unsigned long long)id, strcmp(what, "add") == 0 ? "it votes in the partitions that it is to hold" : strcmp(what, "drain") == 0 ? "it leads nothing" : "it is removed");
            return e;
        }
        if (late) return e;
        struct timespec pause = {.tv_nsec = 200 * 1000000l};
        nanosleep(&pause, NULL);
    }
}

static enum cli_exit ask_for(struct cli *cli, const char *what, uint64_t id, struct arena *a) {
    enum cli_exit e = CLI_OK;
    Orderdb__V1__DrainNodeRequest drain = ORDERDB__V1__DRAIN_NODE_REQUEST__INIT;
    Orderdb__V1__RemoveNodeRequest removal = ORDERDB__V1__REMOVE_NODE_REQUEST__INIT;
    Orderdb__V1__AddNodeRequest add = ORDERDB__V1__ADD_NODE_REQUEST__INIT;
    drain.node_id = removal.node_id = id;
    if (strcmp(what, "drain") == 0) return (void)cli_call(cli, SERVICE "DrainNode", &drain.base, &orderdb__v1__operation__descriptor, a, &e), e;
    if (strcmp(what, "remove") == 0) return (void)cli_call(cli, SERVICE "RemoveNode", &removal.base, &orderdb__v1__operation__descriptor, a, &e), e;
    Orderdb__V1__GetTopologyRequest r = ORDERDB__V1__GET_TOPOLOGY_REQUEST__INIT;
    const Topology *t = cli_call(cli, SERVICE "GetTopology", &r.base, &orderdb__v1__topology__descriptor, a, &e);
    if (!t) return e;
    const Node *n = node_of(t, id);
    if (!n) return fprintf(stderr, "orderctl %s: there is no node %llu: start it with --join first\n", cli->command, (unsigned long long)id), CLI_REFUSED;
    add.peer_address = n->peer_address;
    return (void)cli_call(cli, SERVICE "AddNode", &add.base, &orderdb__v1__topology__descriptor, a, &e), e;
}

/* What a removal would do, as the server says it. */
static enum cli_exit show_plan(struct cli *cli, uint64_t id) {
    Orderdb__V1__RemoveNodeRequest r = ORDERDB__V1__REMOVE_NODE_REQUEST__INIT;
    struct arena a;
    enum cli_exit e;
    r.node_id = id, r.dry_run = true;
    arena_init(&a, 64 * MIB);
    const Orderdb__V1__Operation *o = cli_call(cli, SERVICE "RemoveNode", &r.base, &orderdb__v1__operation__descriptor, &a, &e);
    if (o && cli->json) e = cli_print_json(&o->base);
    for (size_t i = 0; o && !cli->json && i < o->n_plan; i++) text_print(stdout, o->plan[i]), putchar('\n');
    if (o && !cli->json) puts("Dry run: nothing was done.");
    arena_fini(&a);
    return e;
}

static enum cli_exit node_run(struct cli *cli, int argc, char **argv) {
    const char *what = argv[0];
    long long id;
    if (strcmp(what, "add") != 0 && strcmp(what, "drain") != 0 && strcmp(what, "remove") != 0) return cli_usage(cli, "expected add, drain or remove, not %.40s", what);
    if (!number(argv[1], 1000000, &id) || id < 1) return cli_usage(cli, "NODE is a node's id, not %.40s", argv[1]);
    bool removes = strcmp(what, "remove") == 0;
    if (dry_run) return removes ? show_plan(cli, (uint64_t)id) : cli_usage(cli, "--dry-run is for remove: %s can be taken back", what);
    if (removes && !yes) return cli_usage(cli, "node %lld never comes back under this id: say --yes, or --dry-run to see what would be done", id);
    struct arena a;
    arena_init(&a, 64 * MIB);
    enum cli_exit e = ask_for(cli, what, (uint64_t)id, &a);
    arena_fini(&a);
    return e || no_wait ? e : wait_until_done(cli, (uint64_t)id, what);
}
static const struct arg node_flags[] = {{"--no-wait", NULL, ARG_SWITCH, &no_wait, NULL, "return at once: it goes on by itself"},
                                         {"--dry-run", NULL, ARG_SWITCH, &dry_run, NULL, "of a removal: say what would be done, change nothing"},
                                         {"--yes", NULL, ARG_SWITCH, &yes, NULL, "a removal is meant"},
                                         {NULL}};

const struct cli_command cluster_commands[] = {
    {"cluster", "init", "NODE...", "a key and command lines for the nodes of a new cluster", cluster_init_text, cluster_init_flags, 1, CLUSTER_FOUNDERS_MAX, cluster_init_run},
    {"cluster", "status", "", "nodes and zones, who leads, how far replicas are behind",
     "BEHIND, and the number behind a replica, are entries of the partition's log that it has not stored, as the leader knows; ? means that the leader could not be asked.\n\n"
     "Examples:\n  orderctl cluster status\n  orderctl cluster status -o json --server 10.0.0.7:7400\n", NULL, 0, 0, status_run},
    {"cluster", "transfer", "PARTITION NODE", "let another node lead a partition",
     "The leader hands over when the node has what it has; the partition takes nothing for those milliseconds. Ask any node. With --lead-hold above 0 the nodes put leads back where they belong after a while.\n\n"
     "Examples:\n  orderctl cluster transfer 3 2\n  orderctl cluster transfer meta 1\n", NULL, 2, 2, transfer_run},
    {"cluster", "node", "add|drain|remove NODE", "nodes come and go; waits until it is done",
     "add: a node that has joined (orderd --join) gets a replica of every partition, and leads as others do; or one that was drained leads again. drain: it leads nothing any more, and stays a member. remove: it is a member of nothing any more, "
     "and stops; its id never comes back. A node that is dead is removed first, then another one is added.\n\n"
     "Examples:\n  orderctl cluster node add 4 --timeout 600\n  orderctl cluster node drain 2\n  orderctl cluster node remove 2 --yes\n", node_flags, 2, 2, node_run},
    {NULL},
};

/* orderctl status: nodes and partitions as AdminService/GetTopology tells them. */
#include <stdio.h>

#include "tools/cli.h"
#include "tools/table.h"

static void bytes_text(int64_t n, char out[32]) {
    static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB"};
    double v = (double)n;
    unsigned u = 0;
    for (; v >= 1024 && u + 1 < ARRAY_LEN(units); u++) v /= 1024;
    snprintf(out, 32, u ? "%.1f %s" : "%.0f %s", v, units[u]);
}

static void print_nodes(const Orderdb__V1__Topology *topology) {
    static const struct table_column columns[] = {
        {"NODE", .right = true}, {"STATE"}, {"CLIENTS", .shrinks_to = 16}, {"PEERS", .shrinks_to = 12}, {"ZONE", .shrinks_to = 6},
        {"VERSION", .shrinks_to = 8},
    };
    struct table t;
    table_init(&t, columns, ARRAY_LEN(columns));
    for (size_t i = 0; i < topology->n_nodes; i++) {
        const Orderdb__V1__Topology__Node *n = topology->nodes[i];
        table_cell(&t, "%llu", (unsigned long long)n->node_id);
        table_cell(&t, "%s", n->state);
        table_cell(&t, "%s", n->client_address);
        table_cell(&t, "%s", n->peer_address);
        table_cell(&t, "%s", n->zone);
        table_cell(&t, "%s", n->version);
    }
    table_print(&t, stdout, TABLE_WIDTH);
    table_fini(&t);
}

/* "0-4095,8192-8200" */
static void slots_text(const Orderdb__V1__Topology__Partition *p, char *out, size_t cap) {
    size_t n = 0;
    out[0] = 0;
    for (size_t i = 0; i < p->n_slots && n < cap; i++) n += (size_t)snprintf(out + n, cap - n, "%s%d-%d", i ? "," : "", p->slots[i]->first, p->slots[i]->last);
}

static int64_t applied_of(const Orderdb__V1__Topology__Partition *p) {
    int64_t applied = 0;
    for (size_t i = 0; i < p->n_replicas; i++) {
        if (p->replicas[i]->node_id == p->leader_node_id || p->n_replicas == 1) applied = p->replicas[i]->applied_index;
    }
    return applied;
}

static void print_partitions(const Orderdb__V1__Topology *topology) {
    static const struct table_column columns[] = {
        {"PARTITION", .right = true}, {"SLOTS", .shrinks_to = 11}, {"LEADER", .right = true}, {"APPLIED", .right = true}, {"ORDERS", .right = true},
        {"SIZE", .right = true}, {"WRITES/S", .right = true}, {"READS/S", .right = true},
    };
    struct table t;
    char slots[128], bytes[32];
    int64_t orders = 0, all_bytes = 0;
    table_init(&t, columns, ARRAY_LEN(columns));
    for (size_t i = 0; i < topology->n_partitions; i++) {
        const Orderdb__V1__Topology__Partition *p = topology->partitions[i];
        slots_text(p, slots, sizeof(slots));
        bytes_text(p->bytes, bytes);
        table_cell(&t, "%d", p->partition_id);
        table_cell(&t, "%s", slots);
        if (p->leader_node_id) table_cell(&t, "%llu", (unsigned long long)p->leader_node_id);
        else table_cell(&t, "none");
        table_cell(&t, "%lld", (long long)applied_of(p));
        table_cell(&t, "%lld", (long long)p->orders);
        table_cell(&t, "%s", bytes);
        table_cell(&t, "%.0f", p->writes_per_second);
        table_cell(&t, "%.0f", p->reads_per_second);
        orders += p->orders, all_bytes += p->bytes;
    }
    putchar('\n');
    table_print(&t, stdout, TABLE_WIDTH);
    table_fini(&t);
    bytes_text(all_bytes, bytes);
    printf("\n%zu partition%s, %lld order%s, %s, map epoch %lld\n", topology->n_partitions, topology->n_partitions == 1 ? "" : "s", (long long)orders,
           orders == 1 ? "" : "s", bytes, (long long)topology->epoch);
}

static enum cli_exit status_run(struct cli *cli, int argc, char **argv) {
    Orderdb__V1__GetTopologyRequest r = ORDERDB__V1__GET_TOPOLOGY_REQUEST__INIT;
    Orderdb__V1__Topology *topology = orderdb_get_topology(cli->db, &r, NULL);
    if (!topology) return cli_error(cli);
    enum cli_exit e = CLI_OK;
    if (cli->json) {
        e = cli_print_json(&topology->base);
    } else {
        print_nodes(topology);
        print_partitions(topology);
    }
    orderdb_message_free(topology);
    return e;
}

const struct cli_command status_commands[] = {
    {"status", "", "", "nodes, partitions, leaders, sizes",
     "APPLIED is the index that the partition's leader has applied, as the node that is asked knows it; orderctl cluster status tells how far behind each replica is.\n\nExamples:\n  orderctl status\n  orderctl status -o json --server 10.0.0.7:7400\n", NULL, 0, 0, status_run},
    {NULL},
};

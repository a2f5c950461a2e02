#include "engine/apply_local.h"
#include "engine/node_row.h"
#include "engine/resource.h"

/* The nodes of the cluster, in the meta partition. Decisions are by the rows alone: whether a node can be reached is nobody's business here. */

struct nodes {
    unsigned rows, members, living; /* living: not REMOVED */
    bool found;
    struct node_row row; /* the command's node */
};

static enum status load(struct applying *x, uint64_t node_id, struct nodes *n) {
    struct key lower, upper;
    enum status st = STATUS_OK;
    *n = (struct nodes){0};
    key_node(&lower, 0), key_node(&upper, UINT64_MAX);
    struct store_iter *it = store_iter_open(&x->a->view, key_slice(&lower), key_slice(&upper));
    for (store_iter_first(it); !st && store_iter_valid(it); store_iter_next(it)) {
        struct node_row row;
        uint64_t id = key_node_id(store_iter_key(it));
        struct slice bytes = arena_copy(x->a->scratch, store_iter_value(it));
        if (!bytes.data) st = STATUS_MEMORY_LIMIT;
        else st = node_row_decode(bytes, id, &row);
        if (st) break;
        n->rows++, n->members += node_state_is_member(row.state), n->living += row.state != NODE_STATE_REMOVED;
        if (id == node_id) n->found = true, n->row = row;
    }
    if (!st) st = store_iter_status(it);
    store_iter_close(it);
    return st;
}

static enum status put(struct applying *x, const struct node_row *row, enum resource_effect effect) {
    struct resource_outcome *o = &x->out->resource;
    uint8_t *bytes = arena_alloc(x->a->scratch, NODE_ROW_BYTES_MAX);
    struct writer w = writer_of(bytes, bytes ? NODE_ROW_BYTES_MAX : 0);
    struct key k;
    if (!bytes) return STATUS_MEMORY_LIMIT;
    node_row_encode(row, &w);
    check(!w.full);
    key_node(&k, row->node_id);
    store_batch_put(x->a->view.batch, key_slice(&k), writer_slice(&w));
    o->effect = effect, o->revision = row->revision, o->bytes = writer_slice(&w);
    return STATUS_OK;
}

/* "node 4 WHAT". state: the node's, for the refusal's metadata; 0: it has none. */
static enum status refuse(struct applying *x, enum status why, const char *what, enum node_row_state state) {
    const char *text = arena_printf(x->a->scratch, "node %llu %s%s", (unsigned long long)x->command->node.node_id, what, state ? node_state_name(state) : "");
    x->out->resource.version = state;
    x->out->resource.error = slice_str(text ? text : "");
    return apply_refuse(x, why);
}

/* All of them at once, so that nobody ever sees a part of them; later ones change nothing. */
static enum status found(struct applying *x, const struct nodes *n) {
    struct reader r = reader_of(x->command->node.founders);
    x->out->resource.effect = RESOURCE_UNCHANGED;
    if (n->rows) return STATUS_OK;
    unsigned count = 0;
    for (struct node_row row; node_founder_next(&r, &row); count++) {
        enum status st = put(x, &row, RESOURCE_CREATED);
        if (st) return st;
    }
    return r.bad || !count || count > GROUP_MEMBERS_MAX ? STATUS_CHECKSUM_MISMATCH : STATUS_OK;
}

/* Who is gone is wanted no more, and who goes on is. Without a row of its own it changes nothing: a cluster that never had rows, or a node that never joined it. */
static enum status alone(struct applying *x, const struct nodes *n) {
    struct query q = {.view = x->a->view, .arena = x->a->scratch};
    struct slice list;
    x->out->resource.effect = RESOURCE_UNCHANGED;
    enum status st = n->found ? query_nodes(&q, &list) : STATUS_OK;
    if (st || !n->found) return st;
    struct reader r = reader_of(list);
    for (struct node_row row; !st && node_list_next(&r, &row);) {
        enum node_row_state to = row.node_id == x->command->node.node_id ? NODE_STATE_UP : node_state_is_member(row.state) || row.state == NODE_STATE_LOST ? NODE_STATE_LEAVING : row.state;
        if (to == row.state) continue;
        row.state = to, row.revision++;
        st = put(x, &row, RESOURCE_REPLACED);
    }
    return !st && r.bad ? STATUS_CHECKSUM_MISMATCH : st;
}

static enum status join(struct applying *x, struct nodes *n) {
    const struct command_node *c = &x->command->node;
    if (!n->rows) return refuse(x, STATUS_NODE_STATE, "can't join: the cluster has no nodes yet", 0);
    if (n->found && n->row.state == NODE_STATE_REMOVED) return refuse(x, STATUS_NODE_STATE, "can't join: its id was used before, and does not come back; it is ", n->row.state);
    if (n->found && n->row.state != NODE_STATE_JOINED)
        return refuse(x, STATUS_NODE_STATE, "can't join: if its disk was lost, remove it and let it join under another id; it is a member already: ", n->row.state);
    if (!n->found && n->living >= GROUP_MEMBERS_MAX) return refuse(x, STATUS_LIMIT_EXCEEDED, "can't join: the cluster has seven nodes, no more", 0);
    if (!n->found && n->rows >= NODE_ROWS_MAX) return refuse(x, STATUS_LIMIT_EXCEEDED, "can't join: too many nodes have come and gone", 0);
    struct node_row row = {.node_id = c->node_id, .state = NODE_STATE_JOINED, .revision = n->row.revision + 1, .zone = c->zone, .address = c->address};
    if (n->found && slice_equal(n->row.zone, c->zone) && slice_equal(n->row.address, c->address)) return x->out->resource.effect = RESOURCE_UNCHANGED, STATUS_OK;
    return put(x, &row, n->found ? RESOURCE_REPLACED : RESOURCE_CREATED);
}

/* 0: not from there. */
static enum node_row_state state_after(enum node_action action, enum node_row_state from) {
    switch (action) {
    case NODE_ADD: return from == NODE_STATE_REMOVED ? 0 : NODE_STATE_UP;
    case NODE_DRAIN: return node_state_is_member(from) ? NODE_STATE_DRAINING : 0;
    case NODE_REMOVE: return from == NODE_STATE_REMOVED ? from : NODE_STATE_LEAVING;
    case NODE_GONE: return from == NODE_STATE_LEAVING || from == NODE_STATE_REMOVED ? NODE_STATE_REMOVED : 0;
    case NODE_LOSE: return from == NODE_STATE_UP || from == NODE_STATE_LOST ? NODE_STATE_LOST : 0;
    case NODE_BACK: return from == NODE_STATE_LOST || from == NODE_STATE_UP ? NODE_STATE_UP : 0;
    case NODE_FOUND:
    case NODE_JOIN:
    case NODE_ALONE: break;
    }
    return 0;
}

enum status apply_node(struct applying *x) {
    const struct command_node *c = &x->command->node;
    struct nodes n;
    x->out->resource.kind = RESOURCE_NODE;
    if (c->action < NODE_FOUND || c->action > NODE_BACK || c->zone.len > NODE_ZONE_BYTES_MAX || c->address.len > NODE_ADDRESS_BYTES_MAX) return STATUS_CHECKSUM_MISMATCH;
    enum status st = load(x, c->node_id, &n);
    if (st) return st;
    if (c->action == NODE_FOUND) return found(x, &n);
    if (!c->node_id || c->node_id > NODE_ID_MAX) return STATUS_CHECKSUM_MISMATCH;
    if (c->action == NODE_JOIN) return join(x, &n);
    if (c->action == NODE_ALONE) return alone(x, &n);
    if (!n.found) return refuse(x, STATUS_NODE_NOT_FOUND, "is not known", 0);
    enum node_row_state to = state_after((enum node_action)c->action, n.row.state);
    if (!to) return refuse(x, STATUS_NODE_STATE, "can't do that: it is ", n.row.state);
    if ((to == NODE_STATE_LEAVING || to == NODE_STATE_LOST) && node_state_is_member(n.row.state) && n.members < 2) return refuse(x, STATUS_NODE_STATE, "is the last member: nothing would be left; it is ", n.row.state);
    if (to == n.row.state) return x->out->resource.effect = RESOURCE_UNCHANGED, x->out->resource.revision = n.row.revision, STATUS_OK;
    n.row.state = to, n.row.revision++;
    return put(x, &n.row, RESOURCE_REPLACED);
}

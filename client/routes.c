#include "client/routes.h"

#include <string.h>

#include "proto/base/hash.h"
#include "proto/pbwire.h"

#define OUT_NS_MIN (100 * NS_PER_MS)
#define OUT_NS_MAX (10 * NS_PER_S)
#define PROBE_NS (20 * NS_PER_MS) /* looked at again so soon, while one call tries the only node there is */

void routes_init(struct routes *r, uint32_t turn) { *r = (struct routes){.turn = turn}; }

/* ---- nodes */

static bool in_use(const struct routes_node *n) { return n->address[0] && (n->seed || n->listed || n->in_flight); }

static struct routes_node *node_of_id(struct routes *r, uint64_t id) {
    for (uint32_t i = 0; id && i < r->count; i++)
        if (r->nodes[i].node_id == id && in_use(&r->nodes[i])) return &r->nodes[i];
    return NULL;
}

static struct routes_node *node_of_address(struct routes *r, const char *address) {
    for (uint32_t i = 0; i < r->count; i++)
        if (in_use(&r->nodes[i]) && strcmp(r->nodes[i].address, address) == 0) return &r->nodes[i];
    return NULL;
}

/* NULL: there is no room. */
static struct routes_node *node_new(struct routes *r, const char *address) {
    struct routes_node *n = NULL;
    for (uint32_t i = 0; i < r->count && !n; i++)
        if (!in_use(&r->nodes[i])) n = &r->nodes[i];
    if (!n && r->count < ROUTES_NODES_MAX) n = &r->nodes[r->count++];
    if (!n) return NULL;
    *n = (struct routes_node){0};
    memcpy(n->address, address, strlen(address) + 1);
    return n;
}

bool routes_add_seed(struct routes *r, const char *address) {
    uint32_t seeds = 0;
    if (node_of_address(r, address)) return true;
    for (uint32_t i = 0; i < r->count; i++) seeds += r->nodes[i].seed;
    struct routes_node *n = *address && strlen(address) < ROUTES_ADDRESS_BYTES && seeds < ROUTES_SEEDS_MAX ? node_new(r, address) : NULL;
    if (n) n->seed = true;
    return n != NULL;
}

/* It names a host: what listens on all addresses of its machine says none. */
static bool address_usable(const char *address) {
    static const char *const all[] = {"0.0.0.0:", "[::]:", ":"};
    for (size_t i = 0; i < ARRAY_LEN(all); i++)
        if (strncmp(address, all[i], strlen(all[i])) == 0) return false;
    return *address && strlen(address) < ROUTES_ADDRESS_BYTES;
}

static bool state_is_member(const char *state) { return strcmp(state, "UP") == 0 || strcmp(state, "DOWN") == 0 || strcmp(state, "DRAINING") == 0; }

static void learn_node(struct routes *r, const Orderdb__V1__Topology__Node *m) {
    if (!m->node_id || !state_is_member(m->state)) return;
    struct routes_node *n = node_of_id(r, m->node_id);
    bool usable = address_usable(m->client_address);
    if (n && usable && strcmp(n->address, m->client_address) != 0) n->node_id = 0, n = NULL; /* it has moved */
    if (!n && usable) n = node_of_address(r, m->client_address);
    if (!n && usable) n = node_new(r, m->client_address);
    if (!n) return;
    n->node_id = m->node_id, n->listed = true;
    n->rests = strcmp(m->state, "DRAINING") == 0; /* DOWN is what one other node thinks: a try tells more */
}

/* ---- leaders */

static void learn_partition(struct routes *r, const Orderdb__V1__Topology__Partition *p) {
    if (p->partition_id < 0 || p->partition_id >= ROUTES_PARTITIONS_MAX) return;
    uint16_t mark = (uint16_t)(p->partition_id + 1);
    for (size_t i = 0; i < p->n_slots; i++) {
        const Orderdb__V1__Topology__SlotRange *s = p->slots[i];
        if (s->first < 0 || s->last >= SLOT_COUNT) continue;
        for (int32_t slot = s->first; slot <= s->last; slot++) r->partition_of[slot] = mark;
    }
    if (p->term < r->partitions[p->partition_id].term) return; /* whoever tells it is behind */
    r->partitions[p->partition_id].term = p->term;
    r->partitions[p->partition_id].leader = p->leader_node_id;
}

void routes_learn(struct routes *r, const Orderdb__V1__Topology *t) {
    bool newer = t->epoch >= r->epoch; /* else whoever tells it does not know all nodes yet */
    for (uint32_t i = 0; newer && i < r->count; i++) r->nodes[i].listed = false;
    for (size_t i = 0; newer && i < t->n_nodes; i++) learn_node(r, t->nodes[i]);
    for (size_t i = 0; i < t->n_partitions; i++) learn_partition(r, t->partitions[i]);
    r->epoch = MAX_OF(r->epoch, MAX_OF(t->epoch, (int64_t)1));
}

static uint16_t partition_at(const struct routes *r, int slot) { return slot >= 0 && slot < SLOT_COUNT ? r->partition_of[slot] : 0; }

void routes_hint(struct routes *r, int slot, uint64_t node_id) {
    uint16_t mark = partition_at(r, slot);
    if (mark) r->partitions[mark - 1].leader = node_id;
}

int routes_leader(const struct routes *r, int slot) {
    uint16_t mark = partition_at(r, slot);
    uint64_t id = mark ? r->partitions[mark - 1].leader : 0;
    for (uint32_t i = 0; id && i < r->count; i++)
        if (r->nodes[i].node_id == id && r->nodes[i].listed) return (int)i;
    return -1;
}

/* ---- pick */

static bool is_there(const struct routes_node *n) { return n->address[0] && (n->seed || n->listed); }
static bool is_well(const struct routes_node *n, uint64_t now) { return is_there(n) && n->out_until_ns <= now && !(n->failures && n->in_flight); }

/* Those that are first in line have the lower figure. */
static unsigned rank(const struct routes_node *n) { return n->listed && !n->rests ? 0 : 1; }

int routes_pick(struct routes *r, int slot, uint64_t now, uint64_t *at_ns) {
    int best = routes_leader(r, slot);
    if (best >= 0 && is_well(&r->nodes[best], now)) return best;
    *at_ns = UINT64_MAX;
    best = -1;
    for (uint32_t k = 0; k < r->count; k++) {
        uint32_t i = (r->turn + k) % r->count;
        const struct routes_node *n = &r->nodes[i], *b = best < 0 ? NULL : &r->nodes[best];
        if (is_well(n, now)) {
            if (!b || rank(n) < rank(b) || (rank(n) == rank(b) && n->in_flight < b->in_flight)) best = (int)i;
        } else if (is_there(n)) {
            *at_ns = MIN_OF(*at_ns, MAX_OF(n->out_until_ns, now + PROBE_NS));
        }
    }
    r->turn++;
    return best;
}

bool routes_is_well(const struct routes *r, int at, uint64_t now) { return is_well(&r->nodes[at], now); }

bool routes_any_well(const struct routes *r, uint64_t now) {
    for (uint32_t i = 0; i < r->count; i++)
        if (is_well(&r->nodes[i], now)) return true;
    return false;
}

void routes_failed(struct routes *r, int at, uint64_t now) {
    struct routes_node *n = &r->nodes[at];
    if (n->out_until_ns > now) return; /* the calls of a lost connection end one after another: they are one failure */
    uint64_t random, pause = MIN_OF(OUT_NS_MIN << MIN_OF(n->failures, 10u), OUT_NS_MAX);
    random_bytes(&random, sizeof random);
    n->out_until_ns = now + pause / 2 + random % (pause / 2 + 1);
    n->failures++;
    r->ejections++;
}

void routes_answered(struct routes *r, int at) { r->nodes[at].failures = 0, r->nodes[at].out_until_ns = 0; }

/* ---- slots of requests */

/* Where in a request its user or its order is: field 1 of each but the order of a create, and perhaps further in. */
enum shape { SHAPE_USER, SHAPE_ORDER_USER, SHAPE_ID, SHAPE_CREATE, SHAPE_UPDATE, SHAPE_CREATES, SHAPE_TRANSITIONS };
static const enum shape within[] = {[SHAPE_CREATE] = SHAPE_ORDER_USER, [SHAPE_UPDATE] = SHAPE_ID, [SHAPE_CREATES] = SHAPE_CREATE, [SHAPE_TRANSITIONS] = SHAPE_ID};
static const struct {
    const char *path;
    enum shape shape;
} shapes[] = {
    {"/orderdb.v1.OrderService/CreateOrder", SHAPE_CREATE},
    {"/orderdb.v1.OrderService/TransitionOrder", SHAPE_ID},
    {"/orderdb.v1.OrderService/GetOrder", SHAPE_ID},
    {"/orderdb.v1.OrderService/ListOrders", SHAPE_USER},
    {"/orderdb.v1.OrderService/UpdateOrder", SHAPE_UPDATE},
    {"/orderdb.v1.OrderService/ListOrderHistory", SHAPE_ID},
    {"/orderdb.v1.OrderService/SetOrderTimer", SHAPE_ID},
    {"/orderdb.v1.OrderService/CancelOrderTimer", SHAPE_ID},
    {"/orderdb.v1.OrderService/GetRequestOutcome", SHAPE_USER},
    {"/orderdb.v1.OrderService/BatchGetOrders", SHAPE_ID},
    {"/orderdb.v1.OrderService/BatchCreateOrders", SHAPE_CREATES},
    {"/orderdb.v1.OrderService/BatchTransitionOrders", SHAPE_TRANSITIONS},
};

static int slot_of_order(uint64_t order_id) { return order_id && order_id <= INT64_MAX ? order_id_slot((int64_t)order_id) : ROUTES_SLOT_NONE; }

static int slot_within(struct slice message, enum shape shape) {
    uint32_t wanted = shape == SHAPE_ORDER_USER ? 2 : 1;
    struct reader r = reader_of(message), ids;
    for (struct pb_field f; pb_next(&r, &f);) {
        if (f.number != wanted) continue;
        if (shape == SHAPE_ID && f.wire_type == PB_VARINT) return slot_of_order(f.value);
        if (f.wire_type != PB_LEN || !f.bytes.len) break;
        if (shape == SHAPE_ID) return ids = reader_of(f.bytes), slot_of_order(read_varint(&ids)); /* packed: the first of them */
        if (shape == SHAPE_USER || shape == SHAPE_ORDER_USER) return slot_of_user(f.bytes);
        return slot_within(f.bytes, within[shape]);
    }
    return ROUTES_SLOT_NONE;
}

int routes_slot_of(const char *path, struct slice request) {
    for (size_t i = 0; i < ARRAY_LEN(shapes); i++)
        if (strcmp(shapes[i].path, path) == 0) return slot_within(request, shapes[i].shape);
    return ROUTES_SLOT_NONE;
}

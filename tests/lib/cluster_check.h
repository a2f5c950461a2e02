/* What must stand in the stores of replicas: sim_cluster.c's checks. */
#ifndef TESTS_LIB_CLUSTER_CHECK_H
#define TESTS_LIB_CLUSTER_CHECK_H

#include "tests/lib/cluster_world.h"

static void check_equal(struct sim *s, unsigned partition, struct node *x, struct node *y) {
    struct store_view vx = {.store = replica(x, partition)->store}, vy = {.store = replica(y, partition)->store};
    struct key all = {0};
    struct slice lower = slice_of(key_slice(&all).data, 0), upper = slice_str("\xff\xff\xff\xff\xff\xff\xff\xff");
    struct store_iter *ix = store_iter_open(&vx, lower, upper), *iy = store_iter_open(&vy, lower, upper);
    unsigned long long rows = 0;
    for (store_iter_first(ix), store_iter_first(iy); store_iter_valid(ix) && store_iter_valid(iy); store_iter_next(ix), store_iter_next(iy), rows++) {
        REQUIRE(slice_equal(store_iter_key(ix), store_iter_key(iy)), "partition %u, row %llu: nodes %llu and %llu have different keys", partition, rows, (unsigned long long)x->id, (unsigned long long)y->id);
        REQUIRE(slice_equal(store_iter_value(ix), store_iter_value(iy)), "partition %u, row %llu: nodes %llu and %llu differ", partition, rows, (unsigned long long)x->id, (unsigned long long)y->id);
    }
    REQUIRE(!store_iter_valid(ix) && !store_iter_valid(iy), "partition %u: nodes %llu and %llu differ in their number of rows", partition, (unsigned long long)x->id, (unsigned long long)y->id);
    REQUIRE(rows > 0, "partition %u has no rows", partition);
    store_iter_close(ix), store_iter_close(iy);
    s->compared++;
}

static void check_replicas(struct sim *s) {
    for (unsigned p = 0; p < PARTITIONS; p++)
        for (unsigned i = 0; i < NODES; i++)
            for (unsigned k = 0; k < i; k++) {
                struct node *x = &s->nodes[i], *y = &s->nodes[k];
                bool empty = x->engine && y->engine && replica(x, p)->record.applied_index == GROUP_FIRST_INDEX; /* one that was emptied knows other members than one that is new */
                if (x->engine && y->engine && !empty && replica(x, p)->record.applied_index == replica(y, p)->record.applied_index) check_equal(s, p, x, y);
            }
}

static void check_leaders(struct sim *s) {
    for (unsigned i = 0; i < NODES; i++)
        for (unsigned p = 0; s->nodes[i].engine && p < PARTITIONS; p++) {
            const struct group *g = replica(&s->nodes[i], p)->group;
            if (group_role(g) != GROUP_LEADER) continue;
            REQUIRE(group_term(g) < TERMS_MAX, "too many terms");
            uint64_t *leader = &s->leaders[p][group_term(g)];
            if (!*leader) *leader = s->nodes[i].id, s->elections++, tell(s, "node %u leads partition %u in term %llu", i + 1, p, (unsigned long long)group_term(g));
            REQUIRE(*leader == s->nodes[i].id, "partition %u: nodes %llu and %u lead term %llu", p, (unsigned long long)*leader, i + 1, (unsigned long long)group_term(g));
        }
}

static int64_t time_us(const Google__Protobuf__Timestamp *t) { return t->seconds * US_PER_S + t->nanos / 1000; }
static void timer_name(const struct request *r, char id[40]) { snprintf(id, 40, "timer-%llu", (unsigned long long)r->number); }

static bool by_timer(const Orderdb__V1__HistoryEntry *e, const char *id) {
    size_t n = strlen(id);
    return strcmp(e->operator_, "timer") == 0 && strncmp(e->reason, id, n) == 0 && (e->reason[n] == 0 || e->reason[n] == ':');
}

/* Each that was set and acknowledged fired once, and not before its time. */
static void check_timers(struct sim *s, const struct request *order, const Orderdb__V1__ListOrderHistoryResponse *m) {
    for (unsigned i = 0; i < s->request_count; i++) {
        const struct request *r = &s->requests[i];
        unsigned fired = 0;
        char id[40];
        if (r->kind != SET_TIMER || r->create != order) continue;
        timer_name(r, id);
        for (size_t k = 0; k < m->n_entries; k++) {
            if (!by_timer(m->entries[k], id)) continue;
            fired++;
            REQUIRE(time_us(m->entries[k]->time) >= r->fire_us, "%s of order %lld fired %lld us early", id, (long long)order->order_id, (long long)(r->fire_us - time_us(m->entries[k]->time)));
        }
        REQUIRE(fired <= 1, "%s of order %lld fired %u times", id, (long long)order->order_id, fired);
        REQUIRE(fired || !r->acked, "%s of order %lld never fired", id, (long long)order->order_id);
        s->timers_fired += fired;
    }
}

static Orderdb__V1__ListOrderHistoryResponse *history_of(struct sim *s, struct node *n, int64_t order_id) {
    struct arena arena;
    arena_init(&arena, 1 << 20);
    struct store_view view = {.store = replica(n, partition_of_slot(order_id_slot(order_id), PARTITIONS))->store};
    struct query q = {.view = view, .machines = n->machines, .arena = &arena};
    struct history_request request = {.order_id = order_id, .page_size = 1000};
    struct failure f;
    struct slice answer;
    failure_init(&f, &arena);
    q.failure = &f;
    REQUIRE(query_history(&q, &request, &answer) == STATUS_OK, "order %lld is not on node %llu", (long long)order_id, (unsigned long long)n->id);
    Orderdb__V1__ListOrderHistoryResponse *m = orderdb__v1__list_order_history_response__unpack(NULL, answer.len, answer.data);
    REQUIRE(m, "a history that does not unpack");
    arena_fini(&arena);
    return m;
}

static void check_order(struct sim *s, struct node *n, const struct request *r) {
    Orderdb__V1__ListOrderHistoryResponse *m = history_of(s, n, r->order_id);
    REQUIRE((int64_t)m->n_entries >= r->version, "order %lld on node %llu: %zu versions, acknowledged %lld", (long long)r->order_id, (unsigned long long)n->id, m->n_entries, (long long)r->version);
    for (size_t i = 0; i < m->n_entries; i++) REQUIRE(m->entries[i]->version == (int64_t)i + 1, "order %lld: its history has a gap", (long long)r->order_id);
    for (size_t i = 1; i < m->n_entries; i++) REQUIRE(time_us(m->entries[i]->time) >= time_us(m->entries[i - 1]->time), "order %lld: time goes back", (long long)r->order_id);
    if (n->id == 1) check_timers(s, r, m);
    orderdb__v1__list_order_history_response__free_unpacked(m, NULL);
}

/* ---- the stream: dense by slot, and each event a version of its order's history, in order, none left out */

struct told {
    int64_t order_id, version;
};

static void check_event(struct sim *s, const Orderdb__V1__ChangeEvent *e, int64_t last[SLOT_COUNT], struct told *told, unsigned *orders) {
    REQUIRE(e->seq == last[e->slot] + 1, "event %d:%lld follows %lld", e->slot, (long long)e->seq, (long long)last[e->slot]);
    last[e->slot] = e->seq;
    unsigned i = 0;
    while (i < *orders && told[i].order_id != e->order_id) i++;
    REQUIRE(i < REQUESTS_MAX, "more orders than were asked for");
    if (i == *orders) told[(*orders)++] = (struct told){.order_id = e->order_id};
    REQUIRE(e->after && e->after->version == told[i].version + 1, "event %d:%lld of order %lld is of version %lld, after %lld", e->slot, (long long)e->seq, (long long)e->order_id,
            e->after ? (long long)e->after->version : -1, (long long)told[i].version);
    told[i].version++;
    s->events++;
}

/* What the replica's stream has from request->at on, which moves; request->at_end: that is all. The caller frees it. */
static Orderdb__V1__ReadChangesResponse *stream_read(struct sim *s, struct node *n, unsigned partition, struct feed_request *request) {
    struct partition *p = replica(n, partition);
    struct arena arena;
    struct failure f;
    struct slice answer = {0};
    arena_init(&arena, 4 << 20);
    failure_init(&f, &arena);
    struct feed_read read = {.view = {.store = p->store}, .machines = n->machines, .arena = &arena, .last_index = p->record.applied_index, .failure = &f};
    REQUIRE(feed_read(&read, request, &answer) == STATUS_OK, "the stream of partition %u can't be read", partition);
    Orderdb__V1__ReadChangesResponse *m = orderdb__v1__read_changes_response__unpack(NULL, answer.len, answer.data);
    arena_fini(&arena);
    REQUIRE(m, "events that do not unpack");
    return m;
}

static void check_stream(struct sim *s, struct node *n, unsigned partition) {
    static int64_t last[SLOT_COUNT];
    static struct told told[REQUESTS_MAX];
    unsigned orders = 0;
    struct partition *p = replica(n, partition);
    struct feed_request request = {.payload = FEED_FULL, .bytes_max = 1 << 20};
    memset(last, 0, sizeof last);
    memset(told, 0, sizeof told);
    for (unsigned reads = 0; !request.at_end; reads++) {
        REQUIRE(reads < 1000, "the stream of partition %u does not end", partition);
        Orderdb__V1__ReadChangesResponse *m = stream_read(s, n, partition, &request);
        for (size_t i = 0; i < m->n_events; i++) check_event(s, m->events[i], last, told, &orders);
        orderdb__v1__read_changes_response__free_unpacked(m, NULL);
    }
    REQUIRE((int64_t)orders == p->record.order_count, "partition %u: events of %u orders, %lld there are", partition, orders, (long long)p->record.order_count);
    for (unsigned i = 0; i < orders; i++) {
        Orderdb__V1__ListOrderHistoryResponse *m = history_of(s, n, told[i].order_id);
        REQUIRE((int64_t)m->n_entries == told[i].version, "order %lld: %zu versions, %lld events", (long long)told[i].order_id, m->n_entries, (long long)told[i].version);
        orderdb__v1__list_order_history_response__free_unpacked(m, NULL);
    }
}

static void check_index(struct sim *s, struct node *n, unsigned partition) {
    struct store_view view = {.store = replica(n, partition)->store};
    struct arena scratch;
    struct index_count count;
    char error[256] = "";
    arena_init(&scratch, 1 << 20);
    enum status st = index_verify(&view, &scratch, partition_first_slot(partition, PARTITIONS), partition_last_slot(partition, PARTITIONS), &count, error);
    REQUIRE(st == STATUS_OK, "partition %u: its indexes: %s %s", partition, status_name(st), error);
    REQUIRE((int64_t)count.orders == replica(n, partition)->record.order_count, "partition %u: %llu orders are indexed, there are %lld", partition, (unsigned long long)count.orders,
            (long long)replica(n, partition)->record.order_count);
    arena_fini(&scratch);
}

#endif

/* The model against apply: its answers, and every row of the store. */
#include "engine/index.h"
#include "engine/query.h"
#include "engine/userlist.h"
#include "tests/lib/model.h"

static bool is(struct slice s, const char *text) { return slice_equal(s, slice_str(text)); }

static int find_order(const struct model *m, int64_t id)
{
    for (unsigned i = 0; i < m->order_count; i++)
        if (m->orders[i].id == id) return (int)i;
    return -1;
}


static void check_entry(const struct model_entry *e, unsigned version, const struct history_entry *h, const struct machines *ms)
{
    check(h->version == (int64_t)version);
    check(h->time_us == e->time_us);
    check(is(h->event, e->event));
    check(h->from ? is(machines_status_name(ms, h->from), e->from) : e->from[0] == 0);
    check(is(machines_status_name(ms, h->to), e->to));
    check(slice_equal(h->operator_, e->operator_));
    check(slice_equal(h->reason, e->reason));
    check(slice_equal(h->request_id, e->request_id));
    check(slice_equal(h->traceparent, e->traceparent));
    model_timers_check(e->timers, h->timers, ms);
    check(memcmp(h->chain_hash, e->chain_hash, SHA256_BYTES) == 0);
}

static void check_head(const struct model_order *o, unsigned version, const struct order_head *h, const struct machines *ms)
{
    const struct model_entry *e = &o->entries[version - 1];
    check(h->order_id == o->id);
    check(h->version == (int64_t)version);
    check(h->create_us == o->entries[0].time_us);
    check(h->update_us == e->time_us);
    check(is(machine_reference(machines_by_id(ms, h->machine)), o->machine));
    check(is(machines_status_name(ms, h->status), e->to));
    check(slice_equal(h->user_id, o->user_id));
    model_timers_check(e->timers, h->timers, ms);
    check(memcmp(h->chain_hash, e->chain_hash, SHA256_BYTES) == 0);
}

/* The whole order, as the outcome has it. */
static void check_shown(const struct model_entry *e, const struct outcome *o, const struct machines *ms)
{
    static struct arena arena;
    struct order_body body = {.summary = e->summary, .detail = e->detail};
    arena_init(&arena, 4 << 20);
    struct slice whole = query_order_wire(&o->head, &body, true, ms, &arena);
    check(whole.data);
    check(slice_equal(o->order, whole));
    arena_fini(&arena);
}

void model_check_outcome(const struct model *m, const struct model_outcome *x, const struct outcome *o, const struct machines *ms)
{
    check(o->status == x->status);
    check(o->replayed == x->replayed);
    check(o->already_there == x->already_there);
    check(o->slot == x->slot);
    check(o->applied == x->applied);
    check(o->batch == x->batch);
    check(o->fired == x->fired);
    if (x->batch && !x->status) {
        check(o->item_count == x->item_count);
        check(o->seq == x->seq);
        for (unsigned i = 0; i < x->item_count; i++) {
            struct outcome item = o->items[i];
            item.batch = false;
            model_check_outcome(m, &x->items[i], &item, ms);
        }
        return;
    }
    if (x->batch) check(o->item == x->item);
    if (x->fence) {
        check(o->head.order_id == (x->applied ? m->orders[x->order].id : 0));
        check(o->head.version == (int64_t)x->version);
        return;
    }
    check(o->first_order_id == x->first_order_id);
    check(o->first_time_us == x->first_time_us);
    if (x->version) check_head(&m->orders[x->order], x->version, &o->head, ms);
    if (x->status == STATUS_OK) {
        check(o->seq == x->seq);
        if (!x->already_there && x->version) check_entry(&m->orders[x->order].entries[x->version - 1], x->version, &o->entry, ms);
        if (o->order.len) check_shown(&m->orders[x->order].entries[x->version - 1], o, ms);
    }
    if (x->status == STATUS_STATUS_MISMATCH) {
        const struct model_entry *winner = &m->orders[x->order].entries[x->version - 1];
        check(slice_equal(o->winner_request_id, winner->request_id));
        check(o->winner_time_us == winner->time_us);
    }
    if (x->status == STATUS_EDGE_NOT_DEFINED || x->status == STATUS_FIELD_REQUIRED) check(is(o->machine_reference, x->machine));
    unsigned missing = !x->missing[0] ? 0 : !x->missing[1] ? 1 : 2;
    check(o->missing_count == missing);
    for (unsigned i = 0; i < missing; i++) check(is(o->missing[i], x->missing[i]));
    if (x->status == STATUS_FIELD_INVALID) check(o->expected_index == x->expected_index);
}

/* One row of the store, or nothing. */
static struct slice row_of(const struct store_view *view, const struct key *k, struct arena *arena)
{
    struct slice row = {0};
    enum status st = store_get(view, key_slice(k), arena, &row);
    check(st == STATUS_OK || st == STATUS_ABSENT);
    return st ? (struct slice){0} : row;
}

static void check_order_rows(const struct model_order *o, const struct store_view *view, const struct machines *ms, struct arena *arena)
{
    struct key k;
    struct order_head head;
    struct order_body body;
    struct history_entry h;
    uint16_t slot = slot_of_user(o->user_id);
    key_head(&k, o->id);
    check(order_head_decode(row_of(view, &k, arena), &head) == STATUS_OK);
    check_head(o, o->count, &head, ms);
    check(head.seq == o->seq);
    key_body(&k, o->id);
    check(order_body_decode(row_of(view, &k, arena), &body) == STATUS_OK);
    check(slice_equal(body.summary, o->summary));
    check(slice_equal(body.detail, o->detail));
    check_entry(&o->entries[0], 1, &body.origin, ms);
    for (unsigned v = 2; v <= o->count; v++) {
        key_history(&k, o->id, v);
        check(history_decode(row_of(view, &k, arena), &h) == STATUS_OK);
        check_entry(&o->entries[v - 1], v, &h, ms);
        key_content(&k, o->id, v);
        struct slice before = row_of(view, &k, arena);
        check((before.len != 0) == o->entries[v - 1].changed);
        if (!before.len) continue;
        struct order_body old;
        check(order_content_decode(before, &old) == STATUS_OK);
        check(slice_equal(old.summary, o->entries[v - 2].summary));
        check(slice_equal(old.detail, o->entries[v - 2].detail));
    }
    for (unsigned v = 1; v <= o->count; v++) {
        check(query_content_at(view, arena, o->id, v, &body) == STATUS_OK);
        check(slice_equal(body.summary, o->entries[v - 1].summary));
        check(slice_equal(body.detail, o->entries[v - 1].detail));
        body.summary = o->summary, body.detail = o->detail;
    }
    key_list(&k, slot, o->user_id, o->entries[0].time_us, o->id);
    struct slice row = row_of(view, &k, arena);
    uint16_t listed;
    struct slice card, summary = query_order_wire(&head, &body, false, ms, arena);
    check(summary.data);
    check(list_row_decode(row, o->id, &listed, &card) == STATUS_OK);
    check(listed == head.status);
    check(slice_equal(card, summary.len <= USERLIST_CARD_BYTES_MAX ? summary : (struct slice){0}));
    if (!o->client_order_no.len) return;
    key_client_no(&k, slot, o->user_id, o->client_order_no);
    row = row_of(view, &k, arena);
    check(row.len == 8);
    check(get_be64(row.data) == (uint64_t)o->id);
}

static void check_memories(const struct model *m, const struct store_view *view, struct arena *arena)
{
    for (unsigned i = 0; i < m->memory_count; i++, arena_reset(arena)) {
        const struct model_memory *r = &m->memories[i];
        struct key k;
        struct dedup_record d;
        key_dedup(&k, slot_of_user(r->user_id), r->user_id, r->request_id, (uint8_t)r->method);
        struct slice row = row_of(view, &k, arena);
        if (!row.len && r->expiry_us <= m->now_us) continue; /* may be gone */
        check(dedup_record_decode(row, &d) == STATUS_OK);
        check(d.expiry_us == r->expiry_us);
        check(d.fence == r->fence);
        if (r->fence) continue;
        check(d.order_id == m->orders[r->order].id);
        check(d.version == (int64_t)r->version);
        check(d.seq == r->seq);
        check(d.time_us == r->time_us);
    }
}

/* Counts and pages of one user against the array. */
static void check_user(const struct model *m, struct slice user, const struct store_view *view, const struct machines *ms, struct arena *arena)
{
    char error[256] = "";
    uint16_t slot = slot_of_user(user);
    struct userlist_range range = {.slot = slot, .user_id = user, .from_us = INT64_MIN, .to_us = INT64_MAX};
    static struct status_counts counts;
    static struct userlist_item page[100];
    unsigned orders = 0, listed = 0, got;
    int64_t counted = 0;
    bool more = true;
    enum status st = userlist_verify(view, arena, slot, user, error);
    if (st) panic_now("userlist_verify: %s", error);
    check(userlist_count(view, arena, &range, &counts) == STATUS_OK);
    for (unsigned i = 0; i < counts.n; i++) {
        int64_t n = 0;
        for (unsigned j = 0; j < m->order_count; j++)
            n += slice_equal(m->orders[j].user_id, user) &&
                 is(machines_status_name(ms, counts.at[i].status), m->orders[j].entries[m->orders[j].count - 1].to);
        check(counts.at[i].count == n);
        counted += n;
    }
    for (unsigned j = 0; j < m->order_count; j++) orders += slice_equal(m->orders[j].user_id, user);
    check(counted == orders);
    struct list_position last = {INT64_MAX, INT64_MAX};
    while (more) {
        check(userlist_page(view, arena, &range, listed, NULL, page, ARRAY_LEN(page), &got, &more, NULL) == STATUS_OK);
        for (unsigned i = 0; i < got; i++) {
            int at = find_order(m, page[i].at.order_id);
            check(at >= 0);
            check(m->orders[at].entries[0].time_us == page[i].at.create_us);
            check(page[i].at.create_us < last.create_us || (page[i].at.create_us == last.create_us && page[i].at.order_id < last.order_id));
            last = page[i].at;
        }
        listed += got;
        check(got || !more);
        arena_reset(arena);
    }
    check(listed == orders);
}

static bool user_seen_before(const struct model *m, unsigned i)
{
    for (unsigned j = 0; j < i; j++)
        if (slice_equal(m->orders[j].user_id, m->orders[i].user_id)) return true;
    return false;
}

void model_check_store(const struct model *m, const struct store_view *view, const struct machines *ms)
{
    struct arena arena;
    uint64_t expected[256] = {0}, found[256] = {0}, timers = 0;
    arena_init(&arena, 64 << 20);
    for (unsigned i = 0; i < m->order_count; i++, arena_reset(&arena)) {
        const struct model_order *o = &m->orders[i];
        check_order_rows(o, view, ms, &arena);
        expected[KEY_INDEX] += model_index_check(o, view, ms, &arena);
        expected[KEY_HEAD]++, expected[KEY_BODY]++, expected[KEY_LIST]++;
        expected[KEY_HISTORY] += o->count - 1;
        for (unsigned v = 0; v < o->count; v++) expected[KEY_CONTENT] += o->entries[v].changed;
        expected[KEY_CLIENT_NO] += o->client_order_no.len != 0;
        const struct model_timers *ts = o->entries[o->count - 1].timers;
        for (unsigned t = 0; ts && t < ts->count; t++) {
            struct key k;
            struct slice none;
            key_timer(&k, ts->at[t].fire_us, o->id, ts->at[t].no);
            check(store_get(view, key_slice(&k), &arena, &none) == STATUS_OK);
            timers++;
        }
        if (!user_seen_before(m, i)) check_user(m, o->user_id, view, ms, &arena);
    }
    check_memories(m, view, &arena);
    struct index_count indexed;
    char error[256];
    enum status st = index_verify(view, &arena, 0, SLOT_COUNT - 1, &indexed, error);
    if (st) panic_now("index_verify: %s", error);
    check(indexed.orders == m->order_count);
    check(indexed.rows == expected[KEY_INDEX]);
    for (uint32_t slot = 0; slot < SLOT_COUNT; slot++) {
        const struct model_slot *s = &m->slots[slot];
        if (!s->order_count) continue;
        struct key k;
        struct slot_record r;
        key_slot(&k, (uint16_t)slot);
        check(slot_record_decode(row_of(view, &k, &arena), &r) == STATUS_OK);
        check(r.last_order_id == s->last_order_id);
        check(r.last_seq == s->last_seq);
        check(r.order_count == s->order_count);
        expected[KEY_SLOT]++;
    }
    struct store_iter *it = store_iter_open(view, SLICE_LIT(""), SLICE_LIT("\xff\xff\xff\xff"));
    for (store_iter_first(it); store_iter_valid(it); store_iter_next(it)) found[store_iter_key(it).data[2]] += !is(store_iter_key(it), "\xff\xffI"); /* not the index record */
    check(store_iter_status(it) == STATUS_OK);
    store_iter_close(it);
    static const uint8_t kinds[] = {KEY_HEAD, KEY_BODY, KEY_LIST, KEY_HISTORY, KEY_CONTENT, KEY_CLIENT_NO, KEY_SLOT, KEY_INDEX};
    for (size_t i = 0; i < ARRAY_LEN(kinds); i++) check(found[kinds[i]] == expected[kinds[i]]);
    check(found[KEY_DEDUP] <= m->memory_count);
    check(found[KEY_PARTITION] <= 1);
    struct key k;
    struct timers_record record = {0};
    key_timers(&k);
    struct slice row = row_of(view, &k, &arena);
    if (row.len) check(timers_record_decode(row, &record) == STATUS_OK);
    check(record.pending == (int64_t)timers);
    check(found[KEY_TIMER] == timers + (row.len != 0));
    arena_fini(&arena);
}

uint64_t outcome_digest(const struct outcome *o)
{
    uint8_t bytes[16384];
    struct writer w = writer_of(bytes, sizeof bytes);
    for (unsigned i = 0; o->items && i < o->item_count; i++) write_be64(&w, outcome_digest(&o->items[i]));
    const int64_t numbers[] = {o->batch, o->item, o->item_count, o->applied, o->status, o->replayed, o->already_there, o->slot, o->seq, o->winner_time_us, o->first_order_id, o->first_time_us, o->order_id, o->patch, o->missing_count, o->timer, o->fired};
    const struct slice texts[] = {o->winner_request_id, o->machine_reference, o->event, o->expected_name, o->timer_id};
    for (size_t i = 0; i < ARRAY_LEN(numbers); i++) write_be64(&w, (uint64_t)numbers[i]);
    for (size_t i = 0; i < ARRAY_LEN(texts); i++) write_counted(&w, texts[i]);
    for (unsigned i = 0; i < o->missing_count; i++) write_counted(&w, o->missing[i]);
    order_head_encode(&o->head, &w);
    history_encode(&o->entry, &w);
    check(!w.full);
    return hash64(writer_slice(&w));
}

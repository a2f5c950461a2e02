/* The change stream under a seed: log, groups, apply, stream and retention are real, on a simulated clock, disk and stores (as sim_engine, which proves the orders).
 *
 * A seed draws users (two of them in one slot), sizes (a tail of nothing to 256 KiB, retention of seconds and of some 100 KiB, or none) and what happens: creates,
 * transitions with patches, updates, imports, atomic batches, orders above 8 KiB that events refer to; crashes at any event and while recovering, full disks, drains. Readers
 * of every kind follow meanwhile: from the earliest, a time, the latest; everything, one type, one user; FULL and SUMMARY; waiting at the end, or so slow that retention
 * overtakes them; after a crash they go on with the vector they held. Checked at every answer:
 *   - a reader's stream has no gap and no repeat; what a filter left out is not what it wants; log time never goes back; events fit their summaries;
 *   - who is refused with CURSOR_EXPIRED has missed what it is told, from the event it wanted next.
 * And after every round, when all that was UNKNOWN has been sent again:
 *   - events = histories, both ways: each commit is told once, with its entry, version and chain hash; a slot's last seq is the number of its commits;
 *   - an event told twice (from tail or store, before and after a crash) has the same bytes; its order is what the write answered, and what GetOrder says as of then;
 *   - seeks by time, by cursor and to the edge stand exactly where they must, CURSOR_EXPIRED with exactly the ranges that are gone.
 * One seed is one bug report: sim_feed --seed N [--trace].  --mutant=N: 1 drops an event in 300; 2 writes down a wrong place, one in 48; both must be caught. */
#include "tests/lib/feed_world.h"

#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>

#include "proto/base/log.h"
#include "proto/pbwire.h"

/* ---- mutants: the linker puts these in the place of the engine's (Makefile) */

static unsigned mutant;
enum status __real_feed_add(struct feed_writer *w, const struct event *e, uint64_t index, uint64_t log_time_us, const struct machines *ms);
enum status __wrap_feed_add(struct feed_writer *w, const struct event *e, uint64_t index, uint64_t log_time_us, const struct machines *ms);
enum status __wrap_feed_add(struct feed_writer *w, const struct event *e, uint64_t index, uint64_t log_time_us, const struct machines *ms) {
    static unsigned n;
    return mutant == 1 && ++n % 300 == 0 ? STATUS_OK : __real_feed_add(w, e, index, log_time_us, ms);
}
void __real_places_encode(const struct feed_places *p, uint64_t time_us, struct writer *w);
void __wrap_places_encode(const struct feed_places *p, uint64_t time_us, struct writer *w);
void __wrap_places_encode(const struct feed_places *p, uint64_t time_us, struct writer *w) {
    static unsigned n;
    struct feed_places wrong = *p;
    if (mutant == 2 && ++n % 3 == 0) wrong.at[FEED_CHUNK / 2]++;
    __real_places_encode(&wrong, time_us, w);
}

/* ---- events that are told */

/* What every event must be, whoever reads it: the same at every time. Returns what is known of it. */
static struct known_event *event_told(struct sim *s, struct slice raw, bool full, Orderdb__V1__ChangeEvent **out) {
    Orderdb__V1__ChangeEvent *m = *out = orderdb__v1__change_event__unpack(NULL, raw.len, raw.data);
    char id[40];
    REQUIRE(m && m->entry && m->after && m->commit_time, "an event that does not unpack, or lacks a part");
    struct known_event *e = event_at(s, m->slot, m->seq);
    snprintf(id, sizeof id, "%d:%lld", m->slot, LL(m->seq));
    int64_t commit_us = m->commit_time->seconds * US_PER_S + m->commit_time->nanos / 1000;
    unsigned user = 0;
    while (user < USERS && strcmp(s->names[user], m->user_id)) user++;
    REQUIRE(strcmp(id, m->event_id) == 0, "%s is called %s", id, m->event_id);
    REQUIRE(user < USERS && s->slots[s->users_slot[user]]->slot == m->slot, "%s is of %s", id, m->user_id);
    REQUIRE(m->after->order_id == m->order_id && m->after->version == m->entry->version && strcmp(m->after->status, m->entry->to_status) == 0, "%s: its order does not fit", id);
    REQUIRE(!(e->acked || e->seen || e->summed) || (e->order_id == m->order_id && e->version == m->entry->version), "%s: order %lld version %lld, and %lld version %lld", id,
            LL(e->order_id), LL(e->version), LL(m->order_id), LL(m->entry->version));
    uint64_t after = packed_hash(&m->after->base), raw_hash = hash64(raw);
    uint64_t entry = packed_hash(&m->entry->base);
    if (full) {
        REQUIRE(!e->acked || e->after == after, "%s: its order is not what the write answered", id);
        REQUIRE(!e->seen || e->raw == raw_hash, "%s was told with other bytes before", id);
        e->after = after, e->raw = raw_hash;
    }
    Orderdb__V1__Order brief = *m->after, *kept = m->after;
    REQUIRE(full || !(brief.n_items || brief.address || brief.extension.len), "%s: a summary with details", id);
    brief.n_items = 0, brief.address = NULL, brief.extension.len = 0;
    m->after = &brief;
    uint64_t brief_hash = packed_hash(&m->base);
    m->after = kept;
    REQUIRE(!(e->seen || e->summed) || e->brief == brief_hash, "%s: summary and whole differ", id);
    REQUIRE(!(e->unwanted_users >> user & 1) && !(e->unwanted_types >> m->type & 1), "%s was left out for a reader that wants it", id);
    REQUIRE(!e->before_us || (uint64_t)commit_us < e->before_us, "%s was left out for a reader from %llu on", id, (unsigned long long)e->before_us);
    e->brief = brief_hash, e->order_id = m->order_id, e->version = m->entry->version, e->commit_us = commit_us, e->entry = entry, e->user = user, e->type = (int)m->type;
    e->seen |= full, e->summed = true;
    s->told++;
    return e;
}

/* A reader passes over these: they must be nothing that it wants. */
static void passed_over(struct sim *s, const struct reader_of_feed *r, int64_t slot, int64_t from, int64_t to) {
    for (int64_t seq = from; seq <= to; seq++) {
        struct known_event *e = event_at(s, slot, seq);
        REQUIRE(r->user >= 0 || r->type || r->from_us, "reader %u: a gap at %lld:%lld", r->name, LL(slot), LL(seq));
        if (r->from_us) { /* it was under way when the reader began: its time may be before that */
            if (r->user < 0 && !r->type && (!e->before_us || r->from_us < e->before_us)) e->before_us = r->from_us;
            REQUIRE(!e->summed || !e->before_us || (uint64_t)e->commit_us < e->before_us, "reader %u wants %lld:%lld and was not told", r->name, LL(slot), LL(seq));
            continue;
        }
        if (r->user >= 0) e->unwanted_users |= (uint8_t)(1u << r->user);
        else e->unwanted_types |= (uint8_t)(1u << r->type);
        REQUIRE(!e->summed || !(e->unwanted_users >> e->user & 1 || e->unwanted_types >> e->type & 1), "reader %u wants %lld:%lld and was not told", r->name, LL(slot), LL(seq));
    }
}

static bool follows(const struct sim *s, const struct reader_of_feed *r, const struct slot *slot) {
    return r->user >= 0 ? s->slots[s->users_slot[r->user]] == slot : slot->slot >= partition_first_slot(r->partition, PARTITIONS) && slot->slot <= partition_last_slot(r->partition, PARTITIONS);
}

static void reader_answer(struct sim *s, struct reader_of_feed *r) {
    struct reader in = reader_of(r->op.answer);
    uint32_t n = 0;
    for (struct pb_field p; pb_next(&in, &p); n++) {
        Orderdb__V1__ChangeEvent *m;
        REQUIRE(p.number == 1 && p.wire_type == PB_LEN, "field %u", p.number);
        struct known_event *e = event_told(s, p.bytes, r->payload == FEED_FULL, &m);
        REQUIRE(m->seq > r->told[m->slot], "reader %u: %s again, behind it is %lld", r->name, m->event_id, LL(r->told[m->slot]));
        REQUIRE((r->user < 0 || e->user == (unsigned)r->user) && (!r->type || e->type == r->type), "reader %u does not want %s", r->name, m->event_id);
        REQUIRE((uint64_t)e->commit_us >= r->from_us && (uint64_t)e->commit_us >= r->last_us, "reader %u: %s is of %lld, before what it wants or had", r->name, m->event_id, LL(e->commit_us));
        r->last_us = (uint64_t)e->commit_us;
        passed_over(s, r, m->slot, r->told[m->slot] + 1, m->seq - 1);
        r->told[m->slot] = m->seq;
        orderdb__v1__change_event__free_unpacked(m, NULL);
    }
    REQUIRE(!in.bad && n == r->op.feed.events, "%u events, said to be %u", n, r->op.feed.events);
    for (unsigned i = 0; i < s->slot_count; i++) {
        uint16_t slot = s->slots[i]->slot;
        if (!follows(s, r, s->slots[i])) continue;
        REQUIRE(r->behind[slot] >= r->told[slot], "behind is less than what was told");
        passed_over(s, r, slot, r->told[slot] + 1, r->behind[slot]);
        r->told[slot] = r->behind[slot];
    }
}

static struct slice meta_of(const struct failure *f, const char *key) {
    for (const struct failure_meta *m = f->metas; m; m = m->next)
        if (strcmp(m->key, key) == 0) return m->value;
    return (struct slice){0};
}

/* Each range begins at what the reader wanted next; it goes on behind them. */
static void reader_expired(struct sim *s, struct reader_of_feed *r) {
    struct slice missing = meta_of(&r->op.failure, "missing");
    char text[1024];
    REQUIRE(s->retention_us || s->retention_bytes, "expired without retention");
    REQUIRE(missing.len && missing.len < sizeof text, "reader %u: expired, and nothing is missing: %s", r->name, r->op.failure.message);
    memcpy(text, missing.data, missing.len);
    text[missing.len] = 0;
    if (s->trace) printf("%llu reader %u has missed %s\n", (unsigned long long)sim_world_now_ns(s->world), r->name, text);
    for (char *at = text; at && *at; at = strchr(at, ',') ? strchr(at, ',') + 1 : NULL) {
        unsigned slot;
        long long from, to;
        REQUIRE(sscanf(at, "%u:%lld-%lld", &slot, &from, &to) == 3 && follows(s, r, slot_of(s, slot)), "%s", at);
        REQUIRE(from == r->told[slot] + 1 && to >= from, "reader %u has missed %s, behind it is %lld", r->name, at, LL(r->told[slot]));
        r->told[slot] = to;
        s->missed += (uint64_t)(to - from + 1);
    }
    s->expired++;
}

static void reader_done(struct op *op) {
    struct reader_of_feed *r = container_of(op, struct reader_of_feed, op);
    struct sim *s = r->sim;
    enum status st = op->failure.status;
    r->live = false;
    if (st == STATUS_CURSOR_EXPIRED) {
        REQUIRE(r->began, "expired at its beginning");
        reader_expired(s, r);
    } else if (!st && op->kind == OP_FEED_SEEK) {
        if (r->began) REQUIRE(memcmp(r->told, r->behind, sizeof r->told) == 0, "a cursor was moved by its seek");
        memcpy(r->told, r->behind, sizeof r->told);
        r->at = op->seek.at;
        r->began = r->placed = true;
        return;
    } else if (!st) {
        reader_answer(s, r);
        r->at = op->feed.at;
        return;
    } else {
        REQUIRE(st == STATUS_OVERLOADED || (st == STATUS_DRAINING && s->draining), "reader %u is refused: %s: %s", r->name, status_name(st), op->failure.message ? op->failure.message : "");
    }
    r->placed = false; /* with the vector that it holds */
}

static void reader_new(struct sim *s, struct reader_of_feed *r) {
    struct arena arena = r->arena;
    unsigned name = r->name;
    memset(r, 0, sizeof *r);
    r->sim = s, r->arena = arena, r->name = name;
    r->user = chance(s, 4) ? -1 : (int)chance(s, USERS);
    r->type = r->user < 0 && chance(s, 4) == 0 ? EVENT_TRANSITIONED : 0;
    r->partition = r->user < 0 ? (unsigned)chance(s, PARTITIONS) : partition_of_slot(s->slots[s->users_slot[r->user]]->slot, PARTITIONS);
    r->payload = chance(s, 2) ? FEED_FULL : FEED_SUMMARY;
    r->slow = chance(s, 3) == 0;
    r->from = chance(s, 3) ? FEED_EARLIEST : chance(s, 2) ? FEED_TIME : FEED_LATEST;
}

static void reader_send(struct sim *s, struct reader_of_feed *r) {
    uint64_t now = sim_world_now_ns(s->world);
    arena_fini(&r->arena);
    arena_init(&r->arena, 1 << 20);
    uint16_t slot = r->user >= 0 ? s->slots[s->users_slot[r->user]]->slot : partition_first_slot(r->partition, PARTITIONS);
    r->op = (struct op){.kind = OP_FEED_SEEK, .slot = slot, .arena = &r->arena, .done = reader_done};
    r->live = true;
    memcpy(r->behind, r->told, sizeof r->behind);
    if (r->placed) {
        r->op.kind = OP_FEED_READ;
        r->op.feed = (struct feed_request){.at = r->at, .payload = r->payload, .filter = r->type ? s->filter : NULL, .slot = slot, .from_us = r->from_us, .behind = r->behind,
                                           .user_id = r->user >= 0 ? slice_str(s->names[r->user]) : (struct slice){0}, .bytes_max = 1000 + chance(s, 256 * KIB),
                                           .events_max = chance(s, 3) ? 0 : 1 + (uint32_t)chance(s, 20)};
        r->op.wait_until_ns = chance(s, 3) ? now + chance(s, 300) * NS_PER_MS : 0;
        if (r->slow) r->rests_until_ns = now + chance(s, 8 * NS_PER_S);
    } else {
        if (!r->began) memset(r->behind, 0xff, sizeof r->behind);
        r->from_us = !r->began && r->from == FEED_TIME ? (uint64_t)s->env->ops->wall_us(s->env) - chance(s, 10 * US_PER_S) : 0;
        r->op.seek = (struct feed_seek){.from = r->began ? FEED_CURSOR : r->from, .time_us = r->from_us, .one_slot = r->user >= 0, .behind = r->behind};
        r->last_us = 0;
    }
    engine_submit(s->engine, &r->op);
}

static void read_along(struct sim *s) {
    for (unsigned i = 0; i < READERS; i++) {
        struct reader_of_feed *r = &s->readers[i];
        if (r->live || sim_world_now_ns(s->world) < r->rests_until_ns || chance(s, 4)) continue;
        if (chance(s, 150) == 0) reader_new(s, r);
        if (chance(s, 40) == 0) r->placed = false; /* its connection went; it comes with its cursor */
        reader_send(s, r);
    }
}

/* ---- after a round: all that is known, at rest */

struct ask {
    struct op op;
    struct arena arena;
    bool done;
};
static void ask_done(struct op *op) { container_of(op, struct ask, op)->done = true; }

static struct ask *ask_new(enum op_kind kind, uint16_t slot) {
    struct ask *a = mem_new(struct ask);
    arena_init(&a->arena, 16 << 20);
    a->op = (struct op){.kind = kind, .slot = slot, .arena = &a->arena, .done = ask_done};
    return a;
}
static enum status ask(struct sim *s, struct ask *a) {
    engine_submit(s->engine, &a->op);
    for (unsigned i = 0; !a->done; i++) {
        REQUIRE(i < STEPS_MAX, "a read never ended");
        run_once(s);
    }
    enum status st = a->op.failure.status;
    REQUIRE(!st || st == STATUS_CURSOR_EXPIRED, "a read was refused: %s %s", status_name(st), a->op.failure.message ? a->op.failure.message : "");
    return st;
}
static void ask_free(struct ask *a) {
    arena_fini(&a->arena);
    mem_free(a);
}

static struct ask *ask_seek(struct sim *s, unsigned partition, enum feed_from from, uint64_t time_us, int64_t behind[SLOT_COUNT]) {
    struct ask *a = ask_new(OP_FEED_SEEK, partition_first_slot(partition, PARTITIONS));
    a->op.seek = (struct feed_seek){.from = from, .time_us = time_us, .behind = behind};
    (void)ask(s, a);
    return a;
}

/* A whole partition from the earliest on, as a reader that is checked like any other. */
static void read_all(struct sim *s, unsigned partition) {
    static struct reader_of_feed r;
    memset(&r, 0, sizeof r);
    r.sim = s, r.name = READERS, r.partition = partition, r.user = -1, r.payload = FEED_FULL, r.from = FEED_EARLIEST;
    bool at_end = false;
    arena_init(&r.arena, 1 << 20);
    for (unsigned reads = 0; !r.placed || !at_end; reads++) {
        REQUIRE(reads < STEPS_MAX, "the stream has no end");
        reader_send(s, &r);
        r.rests_until_ns = 0;
        for (unsigned i = 0; r.live; i++) {
            REQUIRE(i < STEPS_MAX, "a read never ended");
            run_once(s);
        }
        if (r.op.kind == OP_FEED_SEEK && r.placed)
            for (unsigned i = 0; i < s->slot_count; i++)
                if (follows(s, &r, s->slots[i])) s->slots[i]->first = r.told[s->slots[i]->slot] + 1;
        if (r.op.kind == OP_FEED_READ && r.placed) at_end = r.op.feed.at_end;
    }
    for (unsigned i = 0; i < s->slot_count; i++)
        if (follows(s, &r, s->slots[i])) s->slots[i]->last = r.told[s->slots[i]->slot];
    arena_fini(&r.arena);
}

/* What the order was when the event's commit was made; of several commits at one time the last. */
static void check_as_of(struct sim *s, const struct known_event *e, int64_t time_us) {
    struct ask *a = ask_new(OP_GET, order_id_slot(e->order_id));
    a->op.get.order_id = e->order_id, a->op.get.full = a->op.get.has_as_of = true, a->op.get.as_of_us = time_us;
    (void)ask(s, a);
    Orderdb__V1__Order *m = orderdb__v1__order__unpack(NULL, a->op.answer.len, a->op.answer.data);
    REQUIRE(m && m->version >= e->version, "order %lld as of its version %lld", LL(e->order_id), LL(e->version));
    if (m->version == e->version) {
        s->as_of++;
        REQUIRE(packed_hash(&m->base) == e->after, "order %lld as of version %lld is not what its event tells", LL(e->order_id), LL(e->version));
    }
    orderdb__v1__order__free_unpacked(m, NULL);
    ask_free(a);
}

/* Every entry of an order's history is told by one event, but for those of an import's past (all that it brings, if it is untold); and commits[slot] is how many there are. */
static void check_order(struct sim *s, struct known_order *o, int64_t *commits) {
    struct ask *a = ask_new(OP_HISTORY, order_id_slot(o->order_id));
    a->op.history = (struct history_request){.order_id = o->order_id, .page_size = 1000};
    (void)ask(s, a);
    Orderdb__V1__ListOrderHistoryResponse *m = orderdb__v1__list_order_history_response__unpack(NULL, a->op.answer.len, a->op.answer.data);
    REQUIRE(m && (int64_t)m->n_entries >= o->version, "order %lld: a history of %zu, version %lld was acknowledged", LL(o->order_id), m ? m->n_entries : 0, LL(o->version));
    o->version = (int64_t)m->n_entries;
    int64_t past = !o->import ? 0 : import_untold(o->import) ? o->steps : o->steps - 1; /* entries that are told by no event */
    *commits += o->version - past;
    struct slot *slot = s->slots[s->users_slot[o->user]];
    for (int64_t seq = 1; seq <= slot->last; seq++) {
        struct known_event *e = &slot->events[seq];
        if (!e->seen || e->order_id != o->order_id) continue;
        REQUIRE(e->version <= o->version && e->entry == packed_hash(&m->entries[e->version - 1]->base), "%u:%lld is not version %lld of the history of order %lld", slot->slot, LL(seq), LL(e->version),
                LL(o->order_id));
        REQUIRE(e->version > past, "%u:%lld tells the past of an import", slot->slot, LL(seq));
        int type = o->import && e->version == o->steps ? EVENT_IMPORTED : e->version == 1 ? EVENT_CREATED : m->entries[e->version - 1]->event[0] && strcmp(m->entries[e->version - 1]->event, "update") ? EVENT_TRANSITIONED : EVENT_UPDATED;
        REQUIRE(e->type == type, "%u:%lld is of type %d, its entry %s of %d", slot->slot, LL(seq), e->type, m->entries[e->version - 1]->event, type);
        for (int64_t other = seq + 1; !e->joined && other <= slot->last; other++)
            REQUIRE(slot->events[other].order_id != e->order_id || slot->events[other].version != e->version, "order %lld version %lld is told twice: %lld and %lld", LL(e->order_id), LL(e->version), LL(seq),
                    LL(other));
        if (!e->joined || chance(s, 50) == 0) {
            const Google__Protobuf__Timestamp *t = m->entries[e->version - 1]->time;
            check_as_of(s, e, t->seconds * US_PER_S + t->nanos / 1000);
        }
        e->joined = true;
    }
    orderdb__v1__list_order_history_response__free_unpacked(m, NULL);
    ask_free(a);
}

static void check_slot(struct sim *s, struct slot *slot) {
    int64_t commits = 0;
    for (unsigned i = 0; i < s->order_count; i++)
        if (s->slots[s->users_slot[s->orders[i].user]] == slot) check_order(s, &s->orders[i], &commits);
    REQUIRE(commits == slot->last, "slot %u: %lld commits, last seq %lld", slot->slot, LL(commits), LL(slot->last));
    for (int64_t seq = 1; seq < SEQ_MAX; seq++) {
        const struct known_event *e = &slot->events[seq];
        REQUIRE(seq <= slot->last || !(e->acked || e->summed), "%u:%lld was there, and is not any more", slot->slot, LL(seq));
        REQUIRE(seq < slot->first || seq > slot->last || (e->seen && e->joined), "%u:%lld is of no commit", slot->slot, LL(seq));
    }
}

/* Where a seek must stand: computed from all events, told only if retention did not move meanwhile. */
static void check_seeks(struct sim *s, unsigned partition) {
    static int64_t behind[SLOT_COUNT], again[SLOT_COUNT], vector[SLOT_COUNT], wanted[SLOT_COUNT];
    char missing[1024] = "";
    size_t len = 0;
    enum feed_from from = chance(s, 2) ? FEED_TIME : FEED_CURSOR;
    struct slot *some = s->slots[chance(s, s->slot_count)];
    uint64_t time_us = some->last ? (uint64_t)some->events[1 + chance(s, (uint64_t)some->last)].commit_us + chance(s, 2) : 1;
    memset(vector, 0xff, sizeof vector);
    ask_free(ask_seek(s, partition, FEED_EARLIEST, 0, behind));
    for (unsigned i = 0; i < s->slot_count; i++) {
        const struct slot *slot = s->slots[i];
        if (slot->slot < partition_first_slot(partition, PARTITIONS) || slot->slot > partition_last_slot(partition, PARTITIONS)) continue;
        int64_t kept = behind[slot->slot] + 1, at = kept;
        if (from == FEED_TIME) {
            while (at <= slot->last && (uint64_t)slot->events[at].commit_us < time_us) at++;
        } else if (chance(s, 8)) {
            int64_t near = MAX_OF(kept - 6, (int64_t)0) + (int64_t)chance(s, 12), any = (int64_t)chance(s, (uint64_t)slot->last + 1);
            at = 1 + (chance(s, 2) ? any : MIN_OF(near, slot->last));
            vector[slot->slot] = at - 1;
        }
        wanted[slot->slot] = at - 1;
    }
    for (uint32_t n = partition_first_slot(partition, PARTITIONS); n <= partition_last_slot(partition, PARTITIONS); n++) /* as the engine walks them */
        for (unsigned i = 0; i < s->slot_count; i++)
            if (s->slots[i]->slot == n && wanted[n] < behind[n])
                len += (size_t)snprintf(missing + len, sizeof missing - len, "%s%u:%lld-%lld", len ? "," : "", n, LL(wanted[n] + 1), LL(behind[n]));
    struct ask *a = ask_seek(s, partition, from, time_us, vector);
    ask_free(ask_seek(s, partition, FEED_EARLIEST, 0, again));
    struct slice told = meta_of(&a->op.failure, "missing");
    bool moved = false;
    for (unsigned i = 0; i < s->slot_count; i++) {
        uint16_t n = s->slots[i]->slot;
        if (n < partition_first_slot(partition, PARTITIONS) || n > partition_last_slot(partition, PARTITIONS)) continue;
        moved |= again[n] != behind[n];
        REQUIRE(moved || a->op.failure.status || vector[n] == wanted[n], "%s: slot %u: behind is %lld, not %lld (first kept %lld, last %lld)", from == FEED_TIME ? "a time" : "a cursor", n, LL(vector[n]),
                LL(wanted[n]), LL(behind[n] + 1), LL(s->slots[i]->last));
    }
    REQUIRE(moved || (a->op.failure.status == STATUS_CURSOR_EXPIRED) == (len > 0), "expired: %d; missing is %s", a->op.failure.status, missing);
    REQUIRE(moved || slice_equal(told, slice_of(missing, len)), "missing is %.*s, not %s", (int)told.len, (const char *)told.data, missing);
    s->seeks++;
    s->expired_seeks += !moved && len;
    ask_free(a);
}

static void verify(struct sim *s) {
    for (unsigned p = 0; p < PARTITIONS; p++) read_all(s, p);
    for (unsigned i = 0; i < s->slot_count; i++) check_slot(s, s->slots[i]);
    for (unsigned i = 0; i < SEEKS * PARTITIONS; i++) check_seeks(s, i % PARTITIONS);
}

/* ---- the life of a node */

static void open_engine(struct sim *s) {
    static const uint32_t partitions[PARTITIONS] = {0, 1};
    char error[256] = "";
    struct engine_config config = {
        .node_id = 1,
        .partition_count = PARTITIONS,
        .partitions = partitions,
        .owned_count = PARTITIONS,
        .machines = s->machines,
        .log_live_bytes_max = s->live_bytes,
        .log_segment_bytes = (uint32_t)s->segment_bytes,
        .memtable_bytes = 256 * KIB,
        .row_cache_bytes = PARTITIONS * 16 * KIB, /* full all the time */
        .queue_ops_max = 16 + (uint32_t)chance(s, 100),
        .queue_bytes_max = 2 << 20,
        .feed_tail_bytes = s->tail_bytes,
        .feed_retention_us = s->retention_us,
        .feed_bytes_max = s->retention_bytes,
        .store_open = open_store,
        .store_ctx = s,
        .election_ms = 1000,
        .heartbeat_ms = 100,
    };
    s->env = sim_env_open(s->world, s->disk);
    enum status st = engine_open(&s->engine, s->env, &config, error);
    REQUIRE(st == STATUS_OK, "open: %s: %s", status_name(st), error);
}

static void wait_ready(struct sim *s) {
    for (unsigned i = 0; !engine_ready(s->engine); i++) {
        REQUIRE(i < STEPS_MAX, "never ready");
        run_once(s);
    }
}

static void crash(struct sim *s) {
    s->crashes++;
    if (s->trace) printf("%llu crash\n", (unsigned long long)sim_world_now_ns(s->world));
    for (unsigned i = 0; i < IN_FLIGHT_MAX; i++)
        if (s->requests[i].live) s->requests[i].live = false, s->requests[i].answer = ANSWER_UNKNOWN, s->unknown++, arena_init(&s->requests[i].arena, 0);
    for (unsigned i = 0; i < READERS; i++) {
        if (s->readers[i].live) arena_init(&s->readers[i].arena, 0); /* its memory is the dead process's */
        s->readers[i].live = s->readers[i].placed = false;
    }
    if (chance(s, 4)) sim_disk_crash(s->disk);
    else sim_disk_kill(s->disk);
    sim_env_abandon(s->env);
    s->engine = NULL; /* its memory goes with the process: each seed is one */
}

/* What was in flight is sent again, as it was, until there is an answer. */
static void settle(struct sim *s) {
    for (unsigned i = 0; i < IN_FLIGHT_MAX; i++) {
        struct request *r = &s->requests[i];
        for (unsigned tries = 0; r->answer == ANSWER_UNKNOWN || (tries && r->answer == ANSWER_REFUSED && r->op.failure.retry_delay_ms); tries++) {
            REQUIRE(tries < 10000, "request %llu is refused for ever: %s", (unsigned long long)r->number, r->op.failure.message);
            request_send(s, r);
            for (unsigned k = 0; r->live; k++) {
                REQUIRE(k < STEPS_MAX, "request %llu never ended", (unsigned long long)r->number);
                run_once(s);
            }
        }
    }
}

static void load(struct sim *s, unsigned steps) {
    unsigned width = 1 + (unsigned)chance(s, IN_FLIGHT_MAX);
    for (unsigned i = 0; i < steps; i++) {
        for (unsigned k = 0; k < width; k++)
            if (!s->requests[k].live && chance(s, 4) == 0) request_new(s, &s->requests[k]);
        read_along(s);
        if (chance(s, 50) == 0)
            for (unsigned k = 0, cold = (unsigned)chance(s, 2); k < PARTITIONS; k++) store_mem_disk_set_cold(s->stores[k], cold);
        run_once(s);
    }
}

/* Time passes, enough for retention to look around; readers read, little is written. */
static void rest(struct sim *s, uint64_t ns) {
    for (uint64_t until = sim_world_now_ns(s->world) + ns; sim_world_now_ns(s->world) < until;) {
        if (!s->requests[0].live && chance(s, 100) == 0) request_new(s, &s->requests[0]);
        read_along(s);
        run_once(s);
    }
}

static void set_full(struct sim *s, bool full) {
    if (s->trace) printf("%llu disk full: %d\n", (unsigned long long)sim_world_now_ns(s->world), full);
    sim_disk_faults(s->disk)->space_bytes = full ? sim_disk_bytes(s->disk) : 0;
    for (unsigned i = 0; i < PARTITIONS; i++) store_mem_disk_set_full(s->stores[i], full);
}

static void full_disk(struct sim *s) {
    s->disk_fulls++;
    set_full(s, true);
    load(s, 20 + (unsigned)chance(s, 300));
    set_full(s, false);
    rest(s, 5 * NS_PER_S);
}

static void drain(struct sim *s) {
    s->drains++;
    s->draining = true;
    engine_drain(s->engine);
    load(s, (unsigned)chance(s, 30));
    for (unsigned i = 0; !engine_drained(s->engine); i++) {
        REQUIRE(i < STEPS_MAX, "never drained");
        run_once(s);
    }
    for (unsigned i = 0; i < IN_FLIGHT_MAX; i++) REQUIRE(!s->requests[i].live, "drained, and request %llu has no answer", (unsigned long long)s->requests[i].number);
    for (unsigned i = 0; i < READERS; i++) {
        REQUIRE(!s->readers[i].live, "drained, and reader %u has no answer", i);
        s->readers[i].placed = false;
    }
    engine_close(s->engine);
    sim_env_close(s->env);
    s->draining = false;
}

static void draw_world(struct sim *s) {
    static const uint64_t tails[] = {0, 8 * KIB, 64 * KIB, 256 * KIB}, ages[] = {0, 2, 6, 20}, sizes[] = {0, 0, 100 * KIB, 400 * KIB};
    for (unsigned u = 0, n = 0; u < USERS; u++) {
        do snprintf(s->names[u], sizeof s->names[u], "user-%u-%u", (unsigned)(s->seed % 1000), n++);
        while (u == 1 && slot_of_user(slice_str(s->names[1])) != slot_of_user(slice_str(s->names[0])));
        uint16_t slot = slot_of_user(slice_str(s->names[u]));
        unsigned i = 0;
        while (i < s->slot_count && s->slots[i]->slot != slot) i++;
        if (i == s->slot_count) (s->slots[s->slot_count++] = mem_new(struct slot))->slot = slot;
        s->users_slot[u] = i;
    }
    s->segment_bytes = (128u << chance(s, 2)) * KIB;
    s->live_bytes = s->segment_bytes * (4 + chance(s, 6));
    s->tail_bytes = tails[chance(s, ARRAY_LEN(tails))];
    s->retention_us = ages[chance(s, ARRAY_LEN(ages))] * US_PER_S;
    s->retention_bytes = sizes[chance(s, ARRAY_LEN(sizes))];
}

static int run_seed(uint64_t seed, bool trace) {
    struct sim *s = mem_new(struct sim);
    struct failure f;
    s->seed = seed, s->trace = trace;
    s->world = sim_world_new(seed);
    s->disk = sim_disk_new(s->world);
    s->machines = machines_new();
    for (unsigned i = 0; i < PARTITIONS; i++) s->stores[i] = store_mem_disk_new();
    draw_world(s);
    arena_init(&s->filters, 1 << 16);
    failure_init(&f, &s->filters);
    REQUIRE(filter_parse(&s->filter, SLICE_LIT("type = \"TRANSITIONED\""), &filter_events, "filter", &s->filters, &f) == STATUS_OK, "the filter");
    for (unsigned i = 0; i < READERS; i++) s->readers[i].name = i, reader_new(s, &s->readers[i]);
    for (unsigned round = 0; round < ROUNDS; round++) {
        open_engine(s);
        if (chance(s, 4) == 0) { /* cut again while recovering */
            for (uint64_t n = chance(s, 40); n; n--) run_once(s);
            crash(s);
            open_engine(s);
        }
        wait_ready(s);
        settle(s);
        verify(s);
        load(s, 50 + (unsigned)chance(s, 600));
        if (chance(s, 3) == 0) full_disk(s);
        if (chance(s, 2)) rest(s, (5 + chance(s, 20)) * NS_PER_S);
        load(s, (unsigned)chance(s, 300));
        if (chance(s, 4)) crash(s);
        else drain(s);
    }
    open_engine(s);
    wait_ready(s);
    settle(s);
    verify(s);
    drain(s);
    printf("# seed %llu: tail %llu KiB, retention %llu s and %llu KiB, %llu crashes, %llu drains, %llu disk-fulls\n", (unsigned long long)seed, (unsigned long long)s->tail_bytes / KIB,
           (unsigned long long)(s->retention_us / US_PER_S), (unsigned long long)s->retention_bytes / KIB, (unsigned long long)s->crashes, (unsigned long long)s->drains, (unsigned long long)s->disk_fulls);
    printf("# seed %llu: %u orders, %llu acknowledged, %llu refused, %llu unknown\n", (unsigned long long)seed, s->order_count, (unsigned long long)s->acknowledged,
           (unsigned long long)s->refused, (unsigned long long)s->unknown);
    printf("# seed %llu: %llu events told, %llu readers overtaken, who missed %llu; %llu seeks, %llu of them expired; %llu orders as of then\n", (unsigned long long)seed, (unsigned long long)s->told,
           (unsigned long long)s->expired, (unsigned long long)s->missed, (unsigned long long)s->seeks, (unsigned long long)s->expired_seeks, (unsigned long long)s->as_of);
    fflush(stdout);
    return 0;
}

static bool seed_passes(uint64_t seed, bool quiet) {
    fflush(stdout);
    pid_t pid = fork();
    if (pid == 0) {
        if (quiet && !freopen("/dev/null", "w", stdout)) _exit(9);
        setrlimit(RLIMIT_CPU, &(struct rlimit){60, 60}); /* not time: the machine may be busy */
        _exit(run_seed(seed, false));
    }
    int status;
    waitpid(pid, &status, 0);
    return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

int main(int argc, char **argv) {
    uint64_t first = 1, count = 30, ran = 0, failed = 0, uncaught = 0;
    bool trace = false, one = false;
    log_set_level(LOG_OFF);
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--seed") == 0 && i + 1 < argc) first = strtoull(argv[++i], NULL, 10), one = true;
        else if (strcmp(argv[i], "--count") == 0 && i + 1 < argc) count = strtoull(argv[++i], NULL, 10);
        else if (strcmp(argv[i], "--trace") == 0) trace = true, log_set_level(LOG_INFO);
        else if (strncmp(argv[i], "--mutant=", 9) == 0) mutant = (unsigned)atoi(argv[i] + 9);
    }
    if (one) return run_seed(first, trace);
    time_t until = time(NULL) + 40; /* on a slow machine fewer seeds, never an endless test */
    for (; ran < count && time(NULL) < until; ran++)
        if (!seed_passes(first + ran, ran % 20 != 0)) printf("not ok sim_feed seed=%llu\n", (unsigned long long)(first + ran)), failed++;
    if (!failed) printf("ok sim_feed %llu seeds\n", (unsigned long long)ran);
    for (mutant = 1; mutant <= MUTANTS; mutant++) {
        uint64_t seeds = 0;
        bool caught = false;
        for (until = time(NULL) + 20; !caught && seeds < 50 && (seeds < MUTANT_SEEDS || time(NULL) < until); seeds++) caught = !seed_passes(first + seeds, true);
        printf("%s sim_feed mutant %u: caught at the %llu. seed\n", caught ? "ok" : "not ok", mutant, (unsigned long long)seeds);
        uncaught += !caught;
    }
    return failed || uncaught;
}

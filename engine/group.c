/* The port around libraft's raft_step(). The only file that includes <raft.h>.
 *
 * raft_step() is a pure function on struct raft: an event goes in, an update comes out (entries to persist, messages to send, changed term,
 * vote, state, commit index). It holds no entries, only a trail of terms; so the port holds the copies (group_log.h), attaches them to outgoing
 * messages, and takes them from incoming ones. Every event runs the same way:
 *
 *     reserve memory -> filter -> raft_step -> emit: vote, append, send, role -> settle (a new leader's barrier)
 *
 * What was reserved before the step cannot fail after it: the library's state and ours never part. Where the library itself runs out of memory
 * in the middle of a step its state is not to be trusted (it frees twice in two places); its heap therefore stops the process, except in the two
 * events where a failure provably has no effect: opening without membership entries, and submitting (ClientSubmit fails in TrailAppend first).
 *
 * libraft is a Debian package with its assertions compiled out: whatever breaks its assumptions corrupts it silently. So group_receive
 * verifies here what the library would only assert. Why each filter exists, and its reference: docs/RAFT.md. */
#include "engine/group.h"

#include <raft.h>
#include <stdio.h>

#include "engine/group_filter.h"
#include "engine/group_log.h"
#include "proto/base/buf.h"
#include "proto/base/log.h"
#include "proto/base/mem.h"
#include "proto/peer.h"

/* 0.15.0, Debian 12's standard version, loses acknowledged writes (docs/RAFT.md): it has neither a version number nor raft_step. */
#ifndef RAFT_VERSION_NUMBER
#error "libraft is too old (0.15 has no RAFT_VERSION_NUMBER and loses acknowledged writes): install 0.22.1 from Debian's backports"
#elif RAFT_VERSION_NUMBER < 2201 || RAFT_VERSION_NUMBER >= 2300
#error "the port and its filters were made for libraft 0.22.1 and later 0.22: read docs/RAFT.md before trying another"
#endif

static_assert((int)GROUP_COMMAND == RAFT_COMMAND && (int)GROUP_BARRIER == RAFT_BARRIER && (int)GROUP_CHANGE == RAFT_CHANGE, "types pass unchanged");
static_assert((int)GROUP_CHANGE == PEER_TYPE_MEMBERS, "the codec knows the membership type by number");

enum {
    GROUP_MAGIC = 0x47525550,
    DISK_CAPACITY = 60000,               /* the library's disk admission is unused: the engine has its own */
    SNAPSHOT_RETRY_MS = 10 * 60 * 1000,  /* longer than the slowest transfer */
    FRAME_DATA_BYTES_MAX = 4 << 20,      /* entries of one message, except a single larger one */
    VERSION_VOTE = 2, VERSION_VOTE_RESULT = 2, VERSION_APPEND_RESULT = 2, /* libraft's message.h; 0 for the others */
};

struct group {
    uint32_t magic;
    struct raft raft;
    struct group_config config;
    struct group_log log;
    struct group_snapshot snapshot;  /* the newest that the library was told about */
    struct group_snapshot fetching;  /* while raft.snapshot.installing */
    struct group_members members;    /* committed */
    struct { uint64_t node_id, index; } offered[GROUP_MEMBERS_MAX]; /* the newest snapshot offered to each */
    uint64_t now_ms, commit_max;
    uint64_t leader_heard_ms;        /* when the leader of our term last sent something */
    bool open_pending;               /* opened, and no event since: effects of the opening are still to be handed out */
    struct { uint64_t term, voted_for, leader; enum group_role role; uint64_t role_term; } seen; /* as last handed out */
    struct buf frame;
    bool answering_old_term;         /* during a step: see FILTER_STALE_ANSWER */
    unsigned filters_off;            /* tests: enum group_filter bits */
};

static bool filter_on(const struct group *g, enum group_filter f) { return !(g->filters_off & f); }
void group_filters_off(struct group *g, unsigned filters) { g->filters_off = filters; }

/* ---- the library's heap */

static _Thread_local bool heap_may_fail;

static void *heap_result(void *p) {
    if (!p && !heap_may_fail) panic_now("out of memory inside the consensus core: its state can't be trusted any more");
    return p;
}
static void *heap_malloc(void *d, size_t n) { return heap_result(mem_alloc(n)); }
static void *heap_calloc(void *d, size_t k, size_t n) { return heap_result(mem_zalloc(k * n)); }
static void *heap_realloc(void *d, void *p, size_t n) { return heap_result(mem_realloc(p, n)); }
static void *heap_aligned(void *d, size_t a, size_t n) { return heap_result(mem_alloc_aligned(a, n)); }
static void heap_free(void *d, void *p) { mem_free(p); }
static void heap_aligned_free(void *d, size_t a, void *p) { mem_free(p); }

/* Before main: groups are opened on several threads, and the library keeps one pointer for the process. */
__attribute__((constructor)) static void heap_install(void) {
    static struct raft_heap heap = {NULL, heap_malloc, heap_free, heap_calloc, heap_realloc, heap_aligned, heap_aligned_free};
    raft_heap_set(&heap);
}

/* ---- members */

static bool members_valid(const struct group_members *m) {
    unsigned voters = 0;
    if (m->count < 1 || m->count > GROUP_MEMBERS_MAX) return false;
    for (uint32_t i = 0; i < m->count; i++) {
        if (m->member[i].node_id == 0 || m->member[i].kind < GROUP_VOTER || m->member[i].kind > GROUP_SPARE) return false;
        voters += m->member[i].kind == GROUP_VOTER;
        for (uint32_t j = 0; j < i; j++)
            if (m->member[j].node_id == m->member[i].node_id) return false;
    }
    return voters > 0;
}

enum { MEMBERS_FORMAT = 1 };

size_t group_members_encode(const struct group_members *m, uint8_t *out, size_t cap) {
    struct writer w = writer_of(out, cap);
    write_u8(&w, MEMBERS_FORMAT), write_u8(&w, (uint8_t)m->count), write_le64(&w, m->index);
    for (uint32_t i = 0; i < m->count; i++) write_le64(&w, m->member[i].node_id), write_u8(&w, m->member[i].kind);
    return w.full ? 0 : w.len;
}

bool group_members_decode(struct slice s, struct group_members *out) {
    struct reader r = reader_of(s);
    struct group_members m = {0};
    if (read_u8(&r) != MEMBERS_FORMAT) return false;
    m.count = read_u8(&r), m.index = read_le64(&r);
    if (m.count > GROUP_MEMBERS_MAX) return false;
    for (uint32_t i = 0; i < m.count; i++) m.member[i].node_id = read_le64(&r), m.member[i].kind = read_u8(&r);
    if (r.bad || reader_left(&r) != 0 || m.index > PEER_NUMBER_MAX || !members_valid(&m)) return false;
    *out = m;
    return true;
}

static uint8_t member_kind(const struct group_members *m, uint64_t node_id) {
    for (uint32_t i = 0; i < m->count; i++)
        if (m->member[i].node_id == node_id) return m->member[i].kind;
    return 0;
}

static unsigned members_voters(const struct group_members *m) {
    unsigned n = 0;
    for (uint32_t i = 0; i < m->count; i++) n += m->member[i].kind == GROUP_VOTER;
    return n;
}

/* The library names servers by text too; ours is the id in decimal. */
struct address { char text[24]; };
static struct address address_of(uint64_t node_id) {
    struct address a;
    snprintf(a.text, sizeof a.text, "%llu", (unsigned long long)node_id);
    return a;
}

/* Members in the library's form, memory the library's to free. false: no memory (only where heap_may_fail). */
static bool configuration_of(const struct group_members *m, struct raft_configuration *c) {
    raft_configuration_init(c);
    for (uint32_t i = 0; i < m->count; i++) {
        static const int role[] = {[GROUP_VOTER] = RAFT_VOTER, [GROUP_LEARNER] = RAFT_STANDBY, [GROUP_SPARE] = RAFT_SPARE};
        struct address a = address_of(m->member[i].node_id);
        int rv = raft_configuration_add(c, m->member[i].node_id, a.text, role[m->member[i].kind]);
        if (rv == RAFT_NOMEM) return raft_configuration_close(c), raft_configuration_init(c), false;
        check(rv == 0);
    }
    return true;
}

static bool configuration_bytes(const struct group_members *m, struct raft_buffer *out) {
    struct raft_configuration c;
    if (!configuration_of(m, &c)) return false;
    int rv = raft_configuration_encode(&c, out);
    raft_configuration_close(&c);
    check(rv == 0 || rv == RAFT_NOMEM);
    return rv == 0;
}

/* ---- looking into struct raft (its layout is the public header's) */

static unsigned core_voters(const struct raft *r) {
    unsigned n = 0;
    for (unsigned i = 0; i < r->configuration.n; i++) n += r->configuration.servers[i].role == RAFT_VOTER;
    return n;
}

static const struct raft_server *core_server(const struct raft *r, uint64_t id) {
    for (unsigned i = 0; i < r->configuration.n; i++)
        if (r->configuration.servers[i].id == id) return &r->configuration.servers[i];
    return NULL;
}

static bool core_sole_voter(const struct raft *r) {
    const struct raft_server *s = core_server(r, r->id);
    return s && s->role == RAFT_VOTER && core_voters(r) == 1;
}

/* The term at an index of the log, or of the snapshot; 0: unknown. The library has this too (TrailTermOf) and does not export it. */
static uint64_t core_term_at(const struct raft *r, uint64_t index) {
    const struct raft_trail *t = &r->trail;
    unsigned n = t->front <= t->back ? t->back - t->front : t->size - t->front + t->back;
    if (n > 0 && index > t->offset && index <= t->records[(t->front + n - 1) % t->size].index)
        for (unsigned i = n; i-- > 0;)
            if (i == 0 || index > t->records[(t->front + i - 1) % t->size].index) return t->records[(t->front + i) % t->size].term;
    return index == t->snapshot.index ? t->snapshot.term : 0;
}

static uint64_t core_last_index(const struct group *g) { return raft_last_index((struct raft *)&g->raft); }
static enum raft_state core_state(const struct group *g) { return raft_state((struct raft *)&g->raft); }
static bool core_installing(const struct group *g) { return g->raft.snapshot.installing; }

/* ---- sending */

static void send_message(struct group *g, struct peer_message *m, uint64_t to) {
    m->group = g->config.group_id, m->from = g->config.node_id, m->to = to;
    size_t n = peer_encoded_bytes(m);
    g->frame.len = 0;
    if (n == 0 || !buf_reserve(&g->frame, n)) {
        log_warn("raft message dropped", "group=%llu to=%llu bytes=%zu", (unsigned long long)g->config.group_id, (unsigned long long)to, n);
        return; /* as if the network had lost it */
    }
    struct writer w = writer_of(g->frame.data, g->frame.cap);
    check(peer_encode(m, &w));
    g->config.ops->send(g->config.ctx, to, writer_slice(&w));
}

/* How many entries from `first` on go into one message: a membership change travels alone (filter 1), and bytes are bounded. */
static uint32_t append_part(const struct group *g, uint64_t first, uint32_t n, struct peer_entry *out) {
    size_t bytes = 0;
    uint32_t k = 0;
    for (; k < n && k < PEER_ENTRIES_MAX; k++) {
        const struct group_slot *s = group_log_at(&g->log, first + k);
        if (!s) return 0;
        bool change = s->type == GROUP_CHANGE || (k > 0 && out[k - 1].type == GROUP_CHANGE);
        change = change && filter_on(g, FILTER_CHANGE_ALONE);
        if (k > 0 && (change || bytes + s->len > FRAME_DATA_BYTES_MAX)) break;
        bytes += s->len;
        out[k] = (struct peer_entry){s->term, s->type, slice_of(s->data, s->len)};
    }
    return k;
}

static void send_append(struct group *g, const struct raft_append_entries *a, uint64_t to) {
    struct peer_entry entries[PEER_ENTRIES_MAX];
    uint64_t prev = a->prev_log_index, prev_term = a->prev_log_term;
    uint32_t left = a->n_entries;
    do {
        /* Released here (group_release ran ahead of a follower): a heartbeat keeps the contact until a snapshot brings it forward. */
        uint32_t n = left ? append_part(g, prev + 1, left, entries) : 0;
        struct peer_message m = {.kind = PEER_APPEND, .term = a->term};
        m.append.prev_index = prev, m.append.prev_term = prev_term;
        m.append.commit = MIN_OF(a->leader_commit, prev + n);
        if (a->n_entries == 0) m.append.commit = a->leader_commit;
        m.append.entries = entries, m.append.count = n;
        send_message(g, &m, to);
        if (n == 0) return;
        prev += n, prev_term = entries[n - 1].term, left -= n;
    } while (left > 0);
}

static uint64_t *offered_to(struct group *g, uint64_t node_id) {
    size_t i = 0;
    while (i < ARRAY_LEN(g->offered) - 1 && g->offered[i].node_id != node_id && g->offered[i].node_id != 0) i++;
    if (g->offered[i].node_id != node_id) g->offered[i].node_id = node_id, g->offered[i].index = 0;
    return &g->offered[i].index;
}

static void send_snapshot(struct group *g, const struct raft_install_snapshot *s, uint64_t to) {
    if (s->last_index != g->snapshot.index) return; /* older than what we have: the library asks again */
    uint8_t bytes[PEER_MEMBERS_BYTES_MAX];
    struct peer_message m = {.kind = PEER_SNAPSHOT, .term = s->term};
    m.snapshot.index = g->snapshot.index, m.snapshot.index_term = g->snapshot.term, m.snapshot.members_index = g->snapshot.members.index;
    m.snapshot.members = slice_of(bytes, group_members_encode(&g->snapshot.members, bytes, sizeof bytes));
    check(m.snapshot.members.len > 0);
    *offered_to(g, to) = g->snapshot.index;
    if (g->config.ops->install) g->config.ops->install(g->config.ctx, to, g->snapshot.index);
    send_message(g, &m, to);
}

static void send_one(struct group *g, const struct raft_message *m) {
    if (m->server_id == g->config.node_id) return; /* the answer to our vote for ourselves */
    struct peer_message p = {0};
    switch (m->type) {
    case RAFT_REQUEST_VOTE:
        p.kind = PEER_VOTE, p.term = m->request_vote.term;
        p.vote.last_index = m->request_vote.last_log_index, p.vote.last_term = m->request_vote.last_log_term;
        p.vote.pre_vote = m->request_vote.pre_vote, p.vote.disrupt = m->request_vote.disrupt_leader;
        break;
    case RAFT_REQUEST_VOTE_RESULT:
        p.kind = PEER_VOTE_RESULT, p.term = m->request_vote_result.term;
        p.vote_result.pre_vote = m->request_vote_result.pre_vote, p.vote_result.granted = m->request_vote_result.vote_granted;
        /* Filter 3: a refused pre-candidate must learn of a higher term, or two of them block each other for ever. */
        if (p.vote_result.pre_vote && !p.vote_result.granted && filter_on(g, FILTER_PRE_VOTE_TERM)) p.term = MAX_OF(p.term, (uint64_t)raft_current_term(&g->raft));
        break;
    case RAFT_APPEND_ENTRIES: send_append(g, &m->append_entries, m->server_id); return;
    case RAFT_APPEND_ENTRIES_RESULT:
        p.kind = PEER_APPEND_RESULT, p.term = m->append_entries_result.term;
        p.append_result.rejected = m->append_entries_result.rejected, p.append_result.last_index = m->append_entries_result.last_log_index;
        /* The library leaves the index unset when it answers an old term. Such an answer to InstallSnapshot reads like an acceptance, and
         * reaches a candidate that has since won the very term that it carries: a match out of thin air. */
        if (g->answering_old_term && filter_on(g, FILTER_STALE_ANSWER)) p.append_result.last_index = 0;
        if (p.append_result.last_index > PEER_NUMBER_MAX) p.append_result.last_index = 0;
        break;
    case RAFT_INSTALL_SNAPSHOT: send_snapshot(g, &m->install_snapshot, m->server_id); return;
    case RAFT_TIMEOUT_NOW:
        p.kind = PEER_TIMEOUT_NOW, p.term = m->timeout_now.term;
        p.timeout_now.last_index = m->timeout_now.last_log_index, p.timeout_now.last_term = m->timeout_now.last_log_term;
        break;
    default: panic(__FILE__, __LINE__, "a message type of libraft that the port does not know");
    }
    send_message(g, &p, m->server_id);
}

/* ---- one step: the library, then our effects */

static void emit_vote(struct group *g) {
    uint64_t term = raft_current_term(&g->raft), voted_for = raft_voted_for(&g->raft);
    if (term == g->seen.term && voted_for == g->seen.voted_for) return;
    check(term >= g->seen.term);
    g->seen.term = term, g->seen.voted_for = voted_for;
    g->config.ops->vote(g->config.ctx, term, voted_for);
}

/* Takes the new entries over from `slots` (slots[0] stands at index `first`) and hands them out. */
static void emit_entries(struct group *g, const struct raft_update *u, struct group_slot *slots, uint64_t first, size_t n) {
    struct group_entry out[PEER_ENTRIES_MAX];
    struct group_slot barrier = {.term = raft_current_term(&g->raft), .type = GROUP_BARRIER};
    uint64_t index = u->entries.index;
    if (u->entries.batch == &g->raft.barrier) { /* the library's own, at the start of a term; its eight bytes say nothing */
        raft_free(g->raft.barrier.buf.base);
        slots = &barrier, first = index, n = 1;
    }
    check(u->entries.n <= PEER_ENTRIES_MAX);
    check(index >= first && index + u->entries.n == first + n);
    check(index > g->commit_max);
    if (index < group_log_next(&g->log)) group_log_truncate(&g->log, index);
    check(index == group_log_next(&g->log));
    for (unsigned i = 0; i < u->entries.n; i++) {
        struct group_slot *s = &slots[index - first + i];
        check(s->term == u->entries.batch[i].term);
        out[i] = (struct group_entry){index + i, s->term, (enum group_entry_type)s->type, slice_of(s->data, s->len)};
        group_log_push(&g->log, *s);
        s->data = NULL;
    }
    group_log_launch(&g->log, index, index + u->entries.n - 1);
    g->config.ops->append(g->config.ctx, out, u->entries.n);
}

/* The library offers us a snapshot in place of our log: nothing that we hold counts any more. */
static void emit_fetch(struct group *g, struct raft_update *u, uint64_t from) {
    check(g->fetching.index == u->snapshot.metadata.index);
    raft_configuration_close(&u->snapshot.metadata.configuration);
    group_log_restart(&g->log, g->fetching.index + 1);
    g->config.ops->fetch(g->config.ctx, from, &g->fetching);
}

/* Runs one event. slots: copies of the entries that it brings, taken over as far as they are new. Returns the library's code; other than 0: no
 * effect was handed out. */
static int core_step(struct group *g, struct raft_event *e, struct group_slot *slots, uint64_t first, size_t n) {
    struct raft_update u;
    memset(&u, 0, sizeof u);
    e->time = g->now_ms, e->capacity = DISK_CAPACITY;
    int rv = raft_step(&g->raft, e, &u);
    if (rv != 0) return rv;
    emit_vote(g);
    if (u.flags & (RAFT_UPDATE_ENTRIES)) emit_entries(g, &u, slots, first, n);
    if (u.flags & (RAFT_UPDATE_SNAPSHOT)) emit_fetch(g, &u, e->receive.message->server_id);
    if (u.flags & (RAFT_UPDATE_MESSAGES))
        for (unsigned i = 0; i < u.messages.n; i++) send_one(g, &u.messages.batch[i]);
    g->commit_max = MAX_OF(g->commit_max, (uint64_t)raft_commit_index(&g->raft)); /* the library's value may go back */
    return 0;
}

static void must(int rv, const char *what) {
    if (rv != 0) panic_now("consensus core: %s: %s", what, raft_strerror(rv));
}

/* Every event begins here. What the opening decided is handed out by the first one. */
static void begin(struct group *g, uint64_t now_ms) {
    check(g->magic == GROUP_MAGIC);
    g->now_ms = MAX_OF(g->now_ms, now_ms); /* the library subtracts times */
    g->open_pending = false;
    emit_vote(g);
}

static bool leads_without_own_entry(const struct group *g) {
    return core_state(g) == RAFT_LEADER && g->raft.leader_state.transferee == 0 &&
           core_term_at(&g->raft, core_last_index(g)) != raft_current_term(&g->raft);
}

static enum status submit_slot(struct group *g, struct group_slot *slot, struct raft_buffer bytes) {
    static uint8_t no_batch; /* the library wants a pointer, and leaves it alone */
    if (!group_log_reserve(&g->log, 1)) return STATUS_MEMORY_LIMIT;
    struct raft_entry entry = {slot->term, (enum raft_entry_type)slot->type, bytes, bytes.base ? bytes.base : &no_batch};
    struct raft_event e = {.type = RAFT_SUBMIT};
    e.submit.entries = &entry, e.submit.n = 1;
    heap_may_fail = true;
    int rv = core_step(g, &e, slot, core_last_index(g) + 1, 1);
    heap_may_fail = false;
    if (rv == RAFT_NOMEM) return STATUS_MEMORY_LIMIT;
    if (rv == RAFT_NOTLEADER) return STATUS_NOT_LEADER;
    if (rv == RAFT_CANTCHANGE) return STATUS_OVERLOADED;
    must(rv, "submit");
    return STATUS_OK;
}

/* Every event ends here. A new leader needs an entry of its own term: only such a one commits those before it. Role comes last. */
static void finish(struct group *g) {
    if (leads_without_own_entry(g)) {
        struct group_slot barrier = {.term = raft_current_term(&g->raft), .type = GROUP_BARRIER};
        enum status st = submit_slot(g, &barrier, (struct raft_buffer){NULL, 0});
        check(st == STATUS_OK || st == STATUS_MEMORY_LIMIT); /* the latter: group_deadline_ms asks for another tick */
    }
    enum group_role role = group_role(g);
    uint64_t term = raft_current_term(&g->raft), leader = group_leader(g);
    if (role == g->seen.role && term == g->seen.role_term && leader == g->seen.leader) return;
    g->seen.role = role, g->seen.role_term = term, g->seen.leader = leader;
    g->config.ops->role(g->config.ctx, role, term, leader);
}

/* ---- open, close */

static bool found_is_sound(uint64_t term, const struct group_snapshot *s, const struct group_entry *e, size_t n) {
    if (s->index < GROUP_FIRST_INDEX || s->index > PEER_NUMBER_MAX || s->term < 1 || !members_valid(&s->members)) return false;
    if (s->members.index > s->index || term > PEER_NUMBER_MAX || (term < s->term && (term != 0 || n > 0))) return false;
    if (n > 0 && (e[0].index > s->index + 1 || e[n - 1].index < s->index)) return false;
    for (size_t i = 0; i < n; i++) {
        struct group_members m;
        if (e[i].index != e[0].index + i || e[i].term < 1 || e[i].term > term || (i > 0 && e[i].term < e[i - 1].term)) return false;
        if (e[i].index == s->index && e[i].term != s->term) return false;
        if (e[i].index == s->index + 1 && e[i].term < s->term) return false;
        if (e[i].type < GROUP_COMMAND || e[i].type > GROUP_CHANGE) return false;
        if (e[i].type == GROUP_CHANGE && !group_members_decode(e[i].data, &m)) return false;
    }
    return true;
}

/* The newest members in the log, committed or not: those count for elections (Raft dissertation, 4.1). */
static struct group_members newest_members(const struct group_snapshot *s, const struct group_entry *e, size_t n) {
    struct group_members m = s->members;
    for (size_t i = 0; i < n; i++)
        if (e[i].type == GROUP_CHANGE && e[i].index > s->index) check(group_members_decode(e[i].data, &m));
    return m;
}

static enum status copy_entries(struct group *g, const struct group_entry *e, size_t n) {
    group_log_init(&g->log, n ? e[0].index : g->snapshot.index + 1);
    if (!group_log_reserve(&g->log, n)) return STATUS_MEMORY_LIMIT;
    for (size_t i = 0; i < n; i++) {
        struct group_slot slot;
        if (!group_slot_set(&slot, e[i].term, (uint8_t)e[i].type, e[i].data)) return STATUS_MEMORY_LIMIT;
        group_log_push(&g->log, slot);
    }
    return STATUS_OK;
}

/* The START event. Its entries are read during the step alone (terms, and the members entries' bytes). */
static enum status core_start(struct group *g, uint64_t term, uint64_t voted_for, const struct group_entry *e, size_t n) {
    struct raft_snapshot_metadata meta = {.index = g->snapshot.index, .term = g->snapshot.term, .configuration_index = g->snapshot.members.index};
    struct raft_event event = {.type = RAFT_START};
    struct raft_entry *entries = NULL;
    bool members = false;
    if (n > 0 && !(entries = raft_calloc(n, sizeof *entries))) return STATUS_MEMORY_LIMIT;
    if (!configuration_of(&g->snapshot.members, &meta.configuration)) return raft_free(entries), STATUS_MEMORY_LIMIT;
    for (size_t i = 0; i < n; i++) members |= e[i].type == GROUP_CHANGE;
    heap_may_fail = !members; /* the library frees a members entry twice when it can't decode it for want of memory */
    for (size_t i = 0; i < n; i++) {
        entries[i] = (struct raft_entry){.term = e[i].term, .type = (enum raft_entry_type)e[i].type};
        struct group_members m;
        if (e[i].type == GROUP_CHANGE) check(group_members_decode(e[i].data, &m) && configuration_bytes(&m, &entries[i].buf));
    }
    event.start.term = term, event.start.voted_for = voted_for, event.start.metadata = &meta;
    event.start.start_index = g->log.first, event.start.entries = entries, event.start.n_entries = (unsigned)n;
    event.time = g->now_ms, event.capacity = DISK_CAPACITY;
    struct raft_update u;
    memset(&u, 0, sizeof u);
    int rv = raft_step(&g->raft, &event, &u); /* what it decided is handed out by the first event; its heartbeats are not missed */
    if (rv == RAFT_NOMEM) {
        /* The library freed `entries`, except when it got as far as electing itself; and freed its copy of the members without forgetting it. */
        if (g->raft.state != RAFT_FOLLOWER) raft_free(entries);
        if (g->raft.last_stored == 0) raft_configuration_init(&g->raft.configuration_committed);
        return STATUS_MEMORY_LIMIT;
    }
    must(rv, "start");
    for (size_t i = 0; i < n; i++) raft_free(entries[i].buf.base);
    raft_free(entries);
    g->commit_max = MAX_OF((uint64_t)raft_commit_index(&g->raft), g->snapshot.index);
    return STATUS_OK;
}

enum status group_open(struct group **out, const struct group_config *config, uint64_t now_ms, uint64_t term, uint64_t voted_for,
                       const struct group_snapshot *snapshot, const struct group_entry *entries, size_t n) {
    if (!found_is_sound(term, snapshot, entries, n)) return STATUS_CHECKSUM_MISMATCH;
    struct group *g = mem_new(struct group);
    if (!g) return STATUS_MEMORY_LIMIT;
    g->magic = GROUP_MAGIC, g->config = *config, g->now_ms = now_ms, g->open_pending = true;
    g->snapshot = *snapshot;
    if (g->snapshot.members.index == 0) g->snapshot.members.index = snapshot->index; /* the library takes 0 for "no members yet" */
    g->members = g->snapshot.members;
    g->seen.term = term, g->seen.voted_for = voted_for, g->seen.role_term = SIZE_MAX;
    heap_may_fail = true;
    struct address self = address_of(config->node_id);
    enum status st = raft_init(&g->raft, NULL, NULL, config->node_id, self.text) == 0 ? STATUS_OK : STATUS_MEMORY_LIMIT;
    bool inited = st == STATUS_OK;
    if (!st) {
        raft_seed(&g->raft, config->seed);
        raft_set_pre_vote(&g->raft, true);
        raft_set_election_timeout(&g->raft, config->election_ms);
        raft_set_heartbeat_timeout(&g->raft, config->heartbeat_ms);
        raft_set_max_inflight_entries(&g->raft, config->inflight_max);
        raft_set_install_snapshot_timeout(&g->raft, SNAPSHOT_RETRY_MS);
        st = copy_entries(g, entries, n);
    }
    if (!st) {
        /* A single voter elects itself during START without a new term: what it had sent to a learner and lost with its own disk's cache would
         * then come again under the same term and index with another content. A term of its own for each start forbids that. */
        struct group_members newest = newest_members(snapshot, entries, n);
        bool sole = member_kind(&newest, config->node_id) == GROUP_VOTER && members_voters(&newest) == 1;
        if (term < snapshot->term) term = snapshot->term;
        if (sole) term++, voted_for = config->node_id;
        st = core_start(g, term, voted_for, entries, n);
    }
    heap_may_fail = false;
    if (st) {
        if (inited) raft_close(&g->raft, NULL);
        group_log_fini(&g->log);
        mem_free(g);
        return st;
    }
    *out = g;
    return STATUS_OK;
}

void group_close(struct group *g) {
    if (!g) return;
    check(g->magic == GROUP_MAGIC);
    raft_close(&g->raft, NULL);
    group_log_fini(&g->log);
    buf_fini(&g->frame);
    g->magic = 0;
    mem_free(g);
}

/* ---- time and submits */

/* A follower that was left alone by a membership change would lead without a new term (convertToCandidate): in a term that may be another's.
 * It first votes for itself in the next one; the timeout after that makes it the leader. */
static bool needs_own_term(const struct group *g) {
    const struct raft *r = &g->raft;
    return filter_on(g, FILTER_SOLE_TERM) && core_state(g) == RAFT_FOLLOWER && core_sole_voter(r) && raft_voted_for(r) != r->id &&
           !core_installing(g) && r->last_stored == core_last_index(g);
}

static void vote_for_self(struct group *g) {
    struct address self = address_of(g->config.node_id);
    struct raft_message m = {.type = RAFT_REQUEST_VOTE, .server_id = g->config.node_id, .server_address = self.text};
    m.request_vote = (struct raft_request_vote){
        .version = VERSION_VOTE, .term = raft_current_term(&g->raft) + 1, .candidate_id = g->config.node_id, .disrupt_leader = true,
        .last_log_index = core_last_index(g), .last_log_term = core_term_at(&g->raft, core_last_index(g))};
    struct raft_event e = {.type = RAFT_RECEIVE};
    e.receive.message = &m;
    must(core_step(g, &e, NULL, 0, 0), "vote for self");
    check(raft_voted_for(&g->raft) == g->config.node_id);
}

/* A follower that is no voter (or, lagging, does not know that it is one) never stands, and so never forgets its leader (timeout.c:35); and who has
 * a leader refuses votes. It forgets here, when an election timeout has passed without a word. */
static void forget_silent_leader(struct group *g) {
    struct raft *r = &g->raft;
    const struct raft_server *own = core_server(r, r->id);
    if (!filter_on(g, FILTER_VOTE_OUTSIDE) || core_state(g) != RAFT_FOLLOWER || (own && own->role == RAFT_VOTER)) return;
    if (g->now_ms - g->leader_heard_ms < g->config.election_ms) return;
    raft_free(r->follower_state.current_leader.address);
    r->follower_state.current_leader.address = NULL, r->follower_state.current_leader.id = 0;
}

void group_tick(struct group *g, uint64_t now_ms) {
    begin(g, now_ms);
    forget_silent_leader(g);
    struct raft_event e = {.type = RAFT_TIMEOUT};
    if (raft_timeout(&g->raft) <= g->now_ms && group_log_reserve(&g->log, 1)) {
        if (needs_own_term(g)) vote_for_self(g);
        else must(core_step(g, &e, NULL, 0, 0), "timeout");
    }
    finish(g);
}

uint64_t group_deadline_ms(const struct group *g) {
    return g->open_pending || leads_without_own_entry(g) ? g->now_ms : raft_timeout(&g->raft);
}

static enum status submit_admit(const struct group *g) {
    if (core_state(g) != RAFT_LEADER || g->raft.leader_state.transferee != 0) return STATUS_NOT_LEADER;
    if (core_last_index(g) >= PEER_NUMBER_MAX - PEER_ENTRIES_MAX) return STATUS_OVERLOADED;
    /* Filter 6: libraft walks a conflicting suffix back one index a round trip, so no leader may have a long one. */
    if (filter_on(g, FILTER_UNCOMMITTED) && core_last_index(g) - g->commit_max >= g->config.uncommitted_max) return STATUS_OVERLOADED;
    return STATUS_OK;
}

enum status group_submit(struct group *g, uint64_t now_ms, uint8_t *data, size_t len, uint64_t *index) {
    check(len <= PEER_ENTRY_BYTES_MAX);
    begin(g, now_ms);
    enum status st = submit_admit(g);
    struct group_slot slot = {.term = raft_current_term(&g->raft), .type = GROUP_COMMAND, .len = (uint32_t)len, .data = len ? data : NULL};
    uint64_t at = core_last_index(g) + 1;
    if (!st) st = submit_slot(g, &slot, (struct raft_buffer){NULL, 0});
    if (!st && len == 0) mem_free(data);
    if (!st) *index = at;
    finish(g);
    return st;
}

enum status group_submit_barrier(struct group *g, uint64_t now_ms, uint64_t *index) {
    begin(g, now_ms);
    enum status st = submit_admit(g);
    struct group_slot slot = {.term = raft_current_term(&g->raft), .type = GROUP_BARRIER};
    uint64_t at = core_last_index(g) + 1;
    if (!st) st = submit_slot(g, &slot, (struct raft_buffer){NULL, 0});
    if (!st) *index = at;
    finish(g);
    return st;
}

/* ---- members, leadership */

/* One voter may come or go at a time: only then do the majorities of both configurations overlap (Raft dissertation, 4.1). */
static bool one_step(const struct group_members *from, const struct group_members *to) {
    unsigned voters = 0;
    for (uint32_t i = 0; i < from->count; i++)
        voters += from->member[i].kind == GROUP_VOTER && member_kind(to, from->member[i].node_id) != GROUP_VOTER;
    for (uint32_t i = 0; i < to->count; i++)
        voters += to->member[i].kind == GROUP_VOTER && member_kind(from, to->member[i].node_id) != GROUP_VOTER;
    return voters <= 1;
}

/* Filter 2: a member whose own configuration lags could refuse a vote that is needed. Spares store nothing. */
static bool last_members_stored(const struct group *g) {
    if (!filter_on(g, FILTER_CHANGE_STORED)) return true;
    for (unsigned i = 0; i < g->raft.configuration.n; i++) {
        const struct raft_server *s = &g->raft.configuration.servers[i];
        raft_index match;
        if (s->role == RAFT_SPARE) continue;
        if (raft_match_index(&g->raft, s->id, &match) != 0 || match < g->raft.configuration_committed_index) return false;
    }
    return true;
}

static enum status change_admit(const struct group *g, const struct group_members *to) {
    enum status st = submit_admit(g);
    if (st) return st;
    /* A leader that removes itself would leave: hand leadership over first. */
    if (!members_valid(to) || member_kind(to, g->config.node_id) != GROUP_VOTER) return STATUS_FIELD_INVALID;
    if (!group_ready(g) || g->raft.configuration_uncommitted_index != 0 || !last_members_stored(g)) return STATUS_OVERLOADED;
    return one_step(&g->members, to) ? STATUS_OK : STATUS_FIELD_INVALID;
}

enum status group_change(struct group *g, uint64_t now_ms, const struct group_members *members) {
    begin(g, now_ms);
    struct group_members to = *members;
    to.index = core_last_index(g) + 1;
    enum status st = change_admit(g, &to);
    if (!st) {
        uint8_t bytes[PEER_MEMBERS_BYTES_MAX];
        struct group_slot slot = {0};
        struct raft_buffer core_bytes = {0};
        size_t len = group_members_encode(&to, bytes, sizeof bytes);
        check(len > 0);
        heap_may_fail = true;
        bool ok = group_slot_set(&slot, raft_current_term(&g->raft), GROUP_CHANGE, slice_of(bytes, len)) && configuration_bytes(&to, &core_bytes);
        heap_may_fail = false;
        st = ok ? submit_slot(g, &slot, core_bytes) : STATUS_MEMORY_LIMIT;
        raft_free(core_bytes.base);
        group_slot_clear(&slot); /* the log took its data over, or nobody did */
    }
    finish(g);
    return st;
}

/* The library's view of a committed members entry; memory of `conf` goes to it. */
static void core_configuration(struct group *g, uint64_t index, const struct group_members *m) {
    struct raft_event e = {.type = RAFT_CONFIGURATION};
    e.configuration.index = index;
    check(configuration_of(m, &e.configuration.conf));
    must(core_step(g, &e, NULL, 0, 0), "members committed");
}

void group_members_applied(struct group *g, uint64_t now_ms, uint64_t index) {
    begin(g, now_ms);
    const struct group_slot *s = group_log_at(&g->log, index);
    struct group_members m;
    check(index <= g->commit_max);
    check(s && s->type == GROUP_CHANGE && group_members_decode(slice_of(s->data, s->len), &m));
    if (index > g->members.index) {
        g->members = m;
        g->members.index = index;
        core_configuration(g, index, &m);
    }
    finish(g);
}

enum status group_transfer(struct group *g, uint64_t now_ms, uint64_t node_id) {
    begin(g, now_ms);
    const struct raft_server *s = core_server(&g->raft, node_id);
    enum status st = STATUS_OK;
    if (core_state(g) != RAFT_LEADER || g->raft.leader_state.transferee != 0) st = STATUS_NOT_LEADER;
    else if (!s || s->role != RAFT_VOTER || node_id == g->config.node_id) st = STATUS_FIELD_INVALID;
    else if (!group_ready(g) || g->raft.configuration_uncommitted_index != 0) st = STATUS_OVERLOADED;
    if (!st) {
        struct raft_event e = {.type = RAFT_TRANSFER};
        e.transfer.server_id = node_id;
        must(core_step(g, &e, NULL, 0, 0), "transfer");
    }
    finish(g);
    return st;
}

/* ---- messages in */

static enum status receive_step(struct group *g, struct raft_message *m) {
    struct raft_event e = {.type = RAFT_RECEIVE};
    e.receive.message = m;
    must(core_step(g, &e, NULL, 0, 0), "message");
    return STATUS_OK;
}

static enum status receive_vote(struct group *g, const struct peer_message *p, struct raft_message *m) {
    m->type = RAFT_REQUEST_VOTE;
    m->request_vote = (struct raft_request_vote){.version = VERSION_VOTE, .term = p->term, .candidate_id = p->from, .disrupt_leader = p->vote.disrupt,
                                                 .last_log_index = p->vote.last_index, .last_log_term = p->vote.last_term, .pre_vote = p->vote.pre_vote};
    const struct raft_server *own = core_server(&g->raft, g->config.node_id);
    if (!filter_on(g, FILTER_VOTE_OUTSIDE) || (own && own->role == RAFT_VOTER)) return receive_step(g, m);
    /* Our configuration may lag behind the candidate's, which counts on our vote: "servers process incoming RPC requests without consulting their
     * current configurations" (Raft dissertation, 4.1). The library does consult it (election.c:207), and for nothing else in this event. */
    char name[] = "-";
    struct raft_server voter = {.id = g->config.node_id, .address = name, .role = RAFT_VOTER};
    struct raft_configuration real = g->raft.configuration;
    g->raft.configuration = (struct raft_configuration){&voter, 1};
    enum status st = receive_step(g, m);
    g->raft.configuration = real;
    return st;
}

static enum status receive_vote_result(struct group *g, const struct peer_message *p, struct raft_message *m) {
    /* The library reads candidate_state.in_pre_vote whatever the state: in a follower that is a byte of a pointer. */
    if (filter_on(g, FILTER_LATE_VOTE) && core_state(g) != RAFT_CANDIDATE) return STATUS_OK;
    if (p->vote_result.pre_vote && p->vote_result.granted && p->term > raft_current_term(&g->raft) + 1) return STATUS_FIELD_INVALID;
    m->type = RAFT_REQUEST_VOTE_RESULT;
    m->request_vote_result = (struct raft_request_vote_result){.version = VERSION_VOTE_RESULT, .term = p->term, .features = 1, .capacity = DISK_CAPACITY,
                                                               .vote_granted = p->vote_result.granted, .pre_vote = p->vote_result.pre_vote};
    return receive_step(g, m);
}

static enum status receive_append_result(struct group *g, const struct peer_message *p, struct raft_message *m) {
    m->type = RAFT_APPEND_ENTRIES_RESULT;
    m->append_entries_result = (struct raft_append_entries_result){.version = VERSION_APPEND_RESULT, .term = p->term, .features = 1, .capacity = DISK_CAPACITY,
                                                                   .rejected = p->append_result.rejected, .last_log_index = p->append_result.last_index};
    raft_index match;
    if (p->term != raft_current_term(&g->raft) || p->append_result.rejected == 0 || raft_match_index(&g->raft, p->from, &match) != 0) return receive_step(g, m);
    /* Filter 4: an old rejection overtaken by an acceptance would move next below match (progress.c:370), and so would an old hint. */
    if (filter_on(g, FILTER_STALE_REJECTION)) {
        if (p->append_result.rejected <= match) return STATUS_OK;
        m->append_entries_result.last_log_index = MAX_OF(m->append_entries_result.last_log_index, match);
    }
    enum status st = receive_step(g, m);
    /* While the library waits for a snapshot to arrive, its heartbeats are anchored to our newest one, but only a rejection of the one it offered
     * ends the wait (progress.c:332). The follower refuses the newest: that is a refusal of the offered one as well. */
    uint64_t offered = *offered_to(g, p->from);
    if (st || !filter_on(g, FILTER_MOVED_ANCHOR) || p->append_result.rejected != g->snapshot.index || offered >= g->snapshot.index || offered <= match) return st;
    m->append_entries_result.rejected = offered;
    m->append_entries_result.last_log_index = MIN_OF(MAX_OF(p->append_result.last_index, match), offered - 1);
    return receive_step(g, m);
}

static enum status receive_timeout_now(struct group *g, const struct peer_message *p, struct raft_message *m) {
    if (core_sole_voter(&g->raft)) return STATUS_OK; /* would lead at once, in the sender's term */
    m->type = RAFT_TIMEOUT_NOW;
    m->timeout_now = (struct raft_timeout_now){.term = p->term, .last_log_index = p->timeout_now.last_index, .last_log_term = p->timeout_now.last_term};
    return receive_step(g, m);
}

/* What a leader of our own term says while we lead it: two leaders of one term, which cannot be (or somebody forges). */
static enum status from_second_leader(const struct group *g, const struct peer_message *p) {
    if (core_state(g) != RAFT_LEADER || p->term != raft_current_term(&g->raft)) return STATUS_OK;
    log_error("two leaders in one term", "group=%llu term=%llu other=%llu", (unsigned long long)g->config.group_id, (unsigned long long)p->term,
              (unsigned long long)p->from);
    return STATUS_FIELD_INVALID;
}

static enum status receive_snapshot(struct group *g, const struct peer_message *p, struct raft_message *m) {
    struct group_members members;
    if (!group_members_decode(p->snapshot.members, &members) || p->snapshot.index < GROUP_FIRST_INDEX) return STATUS_FIELD_INVALID;
    enum status st = from_second_leader(g, p);
    /* While a transfer runs, the library would ignore the offer (and leak it). Heartbeats keep the contact. */
    if (st || !g->config.ops->fetch || core_installing(g)) return st;
    if (p->term >= raft_current_term(&g->raft) && p->snapshot.index <= g->commit_max && core_term_at(&g->raft, p->snapshot.index) == 0)
        return STATUS_OK; /* we are past it, and no longer know its term: the library would throw our log away for it */
    g->fetching = (struct group_snapshot){p->snapshot.index, p->snapshot.index_term, members};
    g->fetching.members.index = p->snapshot.members_index;
    m->type = RAFT_INSTALL_SNAPSHOT;
    m->install_snapshot = (struct raft_install_snapshot){.term = p->term, .last_index = p->snapshot.index, .last_term = p->snapshot.index_term,
                                                         .conf_index = p->snapshot.members_index};
    check(configuration_of(&members, &m->install_snapshot.conf)); /* the library's from here on: it frees it, or hands it to emit_fetch */
    return receive_step(g, m);
}

/* Filter 5: a follower that has cut its log refuses an append that starts below the cut, and the leader ignores the refusal. What is committed is
 * the same everywhere, so the message may as well start at our commit index. */
static void move_above_commit(const struct group *g, struct peer_message *p) {
    uint64_t prev = p->append.prev_index, to = g->commit_max, to_term = core_term_at(&g->raft, to);
    if (!filter_on(g, FILTER_BELOW_HEAD) || prev >= to || to_term == 0 || core_installing(g)) return;
    uint32_t skip = (uint32_t)MIN_OF(to - prev, (uint64_t)p->append.count);
    p->append.entries += skip, p->append.count -= skip;
    p->append.prev_index = to, p->append.prev_term = to_term;
}

/* A membership entry that comes after an uncommitted one proves that one committed (one change at a time). The library would forget the older
 * one instead, and roll back to the one before it. */
static void commit_older_members(struct group *g, const struct peer_message *p) {
    uint64_t older = g->raft.configuration_uncommitted_index, index = p->append.prev_index + 1;
    if (!filter_on(g, FILTER_CHANGE_COMMIT) || older == 0 || older >= index || p->append.entries[0].type != GROUP_CHANGE) return;
    if (core_term_at(&g->raft, p->append.prev_index) != p->append.prev_term) return; /* does not follow our log: will be refused */
    if (core_term_at(&g->raft, index) == p->append.entries[0].term) return;          /* nothing new */
    const struct group_slot *s = group_log_at(&g->log, older);
    struct group_members m;
    check(s && group_members_decode(slice_of(s->data, s->len), &m));
    core_configuration(g, older, &m);
}

/* The library's array for entries whose data stays with us. It frees `batch` itself unless it takes the entries. */
static struct raft_entry *core_entries(const struct peer_message *p) {
    struct raft_entry *e = raft_calloc(p->append.count, sizeof *e);
    struct raft_buffer bytes = {raft_malloc(1), 0};
    if (p->append.entries[0].type == GROUP_CHANGE) {
        struct group_members m;
        raft_free(bytes.base);
        check(group_members_decode(p->append.entries[0].data, &m) && configuration_bytes(&m, &bytes));
    }
    for (uint32_t i = 0; i < p->append.count; i++)
        e[i] = (struct raft_entry){p->append.entries[i].term, (enum raft_entry_type)p->append.entries[i].type, bytes, bytes.base};
    return e;
}

static enum status receive_append(struct group *g, struct peer_message *p, struct raft_message *m) {
    bool stale = p->term < raft_current_term(&g->raft);
    enum status st = from_second_leader(g, p);
    struct group_members members;
    if (st) return st;
    for (uint32_t i = 0; i < p->append.count; i++)
        if (p->append.entries[i].type == GROUP_CHANGE && !group_members_decode(p->append.entries[i].data, &members)) return STATUS_FIELD_INVALID;
    if (stale) p->append.count = 0; /* will be refused, unread */
    else move_above_commit(g, p);
    uint64_t prev_term = core_term_at(&g->raft, p->append.prev_index);
    if (!stale && p->append.prev_index <= g->commit_max && prev_term != 0 && prev_term != p->append.prev_term) return STATUS_FIELD_INVALID;
    if (p->append.count > 0 && !core_installing(g)) commit_older_members(g, p);

    uint32_t n = p->append.count;
    struct group_slot *slots = n ? mem_zalloc(n * sizeof *slots) : NULL;
    st = group_log_reserve(&g->log, n + 1) && (n == 0 || slots) ? STATUS_OK : STATUS_MEMORY_LIMIT;
    for (uint32_t i = 0; i < n && !st; i++)
        if (!group_slot_set(&slots[i], p->append.entries[i].term, p->append.entries[i].type, p->append.entries[i].data)) st = STATUS_MEMORY_LIMIT;
    if (!st) {
        struct raft_entry *entries = n ? core_entries(p) : NULL;
        void *batch = n ? entries[0].batch : NULL;
        m->type = RAFT_APPEND_ENTRIES;
        m->append_entries = (struct raft_append_entries){.term = p->term, .prev_log_index = p->append.prev_index, .prev_log_term = p->append.prev_term,
                                                         .leader_commit = p->append.commit, .entries = entries, .n_entries = n};
        struct raft_event e = {.type = RAFT_RECEIVE};
        e.receive.message = m;
        uint64_t appended = g->log.append_count;
        must(core_step(g, &e, slots, p->append.prev_index + 1, n), "entries");
        if (n > 0 && g->log.append_count != appended) raft_free(batch); /* taken: the library left it to us */
        raft_free(entries);
    }
    for (uint32_t i = 0; slots && i < n; i++) group_slot_clear(&slots[i]);
    mem_free(slots);
    return st;
}

static enum status receive_message(struct group *g, struct peer_message *p) {
    struct address from = address_of(p->from);
    struct raft_message m;
    memset(&m, 0, sizeof m);
    m.server_id = p->from, m.server_address = from.text;
    switch (p->kind) {
    case PEER_VOTE: return receive_vote(g, p, &m);
    case PEER_VOTE_RESULT: return receive_vote_result(g, p, &m);
    case PEER_APPEND: return receive_append(g, p, &m);
    case PEER_APPEND_RESULT: return receive_append_result(g, p, &m);
    case PEER_SNAPSHOT: return receive_snapshot(g, p, &m);
    case PEER_TIMEOUT_NOW: return receive_timeout_now(g, p, &m);
    }
    return STATUS_FIELD_INVALID;
}

enum status group_receive(struct group *g, uint64_t now_ms, uint64_t from_node_id, struct slice frame) {
    struct peer_entry entries[PEER_ENTRIES_MAX];
    struct peer_message p;
    if (peer_decode(frame, &p, entries) != STATUS_OK) return STATUS_FIELD_INVALID;
    if (p.group != g->config.group_id || p.from != from_node_id || p.to != g->config.node_id) return STATUS_FIELD_INVALID;
    begin(g, now_ms);
    g->answering_old_term = p.term < raft_current_term(&g->raft);
    if (!g->answering_old_term && (p.kind == PEER_APPEND || p.kind == PEER_SNAPSHOT)) g->leader_heard_ms = g->now_ms;
    enum status st = group_log_reserve(&g->log, 1) ? receive_message(g, &p) : STATUS_MEMORY_LIMIT;
    g->answering_old_term = false;
    finish(g);
    return st;
}

/* ---- disk */

uint64_t group_append_count(const struct group *g) { return g->log.append_count; }

void group_appends_persisted(struct group *g, uint64_t now_ms, uint64_t append_count) {
    begin(g, now_ms);
    uint64_t durable = group_log_land(&g->log, append_count);
    if (durable > g->raft.last_stored && !core_installing(g)) {
        check(durable <= core_last_index(g));
        check(core_state(g) != RAFT_CANDIDATE); /* nobody stands for election with writes under way */
        struct raft_event e = {.type = RAFT_PERSISTED_ENTRIES};
        e.persisted_entries.index = durable;
        must(core_step(g, &e, NULL, 0, 0), "persisted entries");
    }
    finish(g);
}

static struct raft_snapshot_metadata core_metadata(const struct group_snapshot *s) {
    struct raft_snapshot_metadata meta = {.index = s->index, .term = s->term, .configuration_index = s->members.index};
    check(configuration_of(&s->members, &meta.configuration)); /* the library's from then on */
    return meta;
}

void group_snapshotted(struct group *g, uint64_t now_ms, const struct group_snapshot *snapshot, uint32_t trailing) {
    begin(g, now_ms);
    if (snapshot->index > g->snapshot.index && !core_installing(g)) {
        check(snapshot->index <= group_applicable(g));
        check(snapshot->term == core_term_at(&g->raft, snapshot->index));
        check(members_valid(&snapshot->members) && snapshot->members.index <= snapshot->index);
        g->snapshot = *snapshot;
        struct raft_event e = {.type = RAFT_SNAPSHOT};
        e.snapshot.metadata = core_metadata(snapshot), e.snapshot.trailing = trailing;
        must(core_step(g, &e, NULL, 0, 0), "snapshot");
    }
    finish(g);
}

void group_installed(struct group *g, uint64_t now_ms, const struct group_snapshot *snapshot) {
    begin(g, now_ms);
    check(core_installing(g));
    check(snapshot->index == g->fetching.index && snapshot->term == g->fetching.term);
    g->snapshot = g->fetching, g->members = g->fetching.members;
    g->commit_max = MAX_OF(g->commit_max, snapshot->index);
    struct raft_event e = {.type = RAFT_PERSISTED_SNAPSHOT};
    e.persisted_snapshot.metadata = core_metadata(&g->fetching), e.persisted_snapshot.last = true;
    must(core_step(g, &e, NULL, 0, 0), "snapshot installed");
    finish(g);
}

void group_release(struct group *g, uint64_t index) { group_log_release(&g->log, MIN_OF(index, group_applicable(g))); }

/* ---- state */

enum group_role group_role(const struct group *g) {
    /* An opening that made a leader has not been handed out yet. */
    if (g->open_pending) return GROUP_FOLLOWER;
    enum raft_state s = core_state(g);
    return s == RAFT_LEADER ? GROUP_LEADER : s == RAFT_CANDIDATE ? GROUP_CANDIDATE : GROUP_FOLLOWER;
}

uint64_t group_term(const struct group *g) { return raft_current_term(&g->raft); }

uint64_t group_leader(const struct group *g) {
    if (g->open_pending) return 0;
    if (core_state(g) == RAFT_LEADER) return g->config.node_id;
    return core_state(g) == RAFT_FOLLOWER ? g->raft.follower_state.current_leader.id : 0;
}

uint64_t group_applicable(const struct group *g) {
    /* While a snapshot is under way the library counts from nothing. */
    return core_installing(g) ? g->snapshot.index : MIN_OF(g->commit_max, (uint64_t)g->raft.last_stored);
}

uint64_t group_last_index(const struct group *g) { return core_last_index(g); }

bool group_ready(const struct group *g) {
    return !g->open_pending && core_state(g) == RAFT_LEADER && core_term_at(&g->raft, g->commit_max) == raft_current_term(&g->raft);
}

const struct group_members *group_members(const struct group *g) { return &g->members; }

bool group_entry(const struct group *g, uint64_t index, struct group_entry *out) {
    const struct group_slot *s = group_log_at(&g->log, index);
    if (!s) return false;
    *out = (struct group_entry){index, s->term, (enum group_entry_type)s->type, slice_of(s->data, s->len)};
    return true;
}

size_t group_memory(const struct group *g) { return g->log.bytes; }

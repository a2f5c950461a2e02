/* What the port does with the library: its heap, its configurations, looking into struct raft, one step and the effects that come of it.
 * The essay is in group.c. */
#include "engine/group_core.h"

#include <stdio.h>

#include "proto/base/log.h"
#include "proto/base/mem.h"

_Thread_local unsigned group_filters_off_next;
void group_filters_off(unsigned filters) { group_filters_off_next = filters; }
bool group_filter_on(const struct group *g, enum group_filter f) { return !(g->filters_off & f); }

/* ---- the library's heap */

_Thread_local bool group_heap_may_fail;

static void *heap_result(void *p) {
    if (!p && !group_heap_may_fail) panic_now("out of memory inside the consensus core: its state can't be trusted any more");
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

/* ---- members in the library's form */

struct address group_address_of(uint64_t node_id) {
    struct address a;
    snprintf(a.text, sizeof a.text, "%llu", (unsigned long long)node_id);
    return a;
}

/* Members in the library's form, memory the library's to free. false: no memory (only where group_heap_may_fail). */
bool group_core_conf(const struct group_members *m, struct raft_configuration *c) {
    raft_configuration_init(c);
    for (uint32_t i = 0; i < m->count; i++) {
        static const int role[] = {[GROUP_VOTER] = RAFT_VOTER, [GROUP_LEARNER] = RAFT_STANDBY, [GROUP_SPARE] = RAFT_SPARE};
        struct address a = group_address_of(m->member[i].node_id);
        int rv = raft_configuration_add(c, m->member[i].node_id, a.text, role[m->member[i].kind]);
        if (rv == RAFT_NOMEM) return raft_configuration_close(c), raft_configuration_init(c), false;
        check(rv == 0);
    }
    return true;
}

bool group_core_conf_bytes(const struct group_members *m, struct raft_buffer *out) {
    struct raft_configuration c;
    if (!group_core_conf(m, &c)) return false;
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

const struct raft_server *group_core_server(const struct raft *r, uint64_t id) {
    for (unsigned i = 0; i < r->configuration.n; i++)
        if (r->configuration.servers[i].id == id) return &r->configuration.servers[i];
    return NULL;
}

bool group_core_sole_voter(const struct raft *r) {
    const struct raft_server *s = group_core_server(r, r->id);
    return s && s->role == RAFT_VOTER && core_voters(r) == 1;
}

/* The term at an index of the log, or of the snapshot; 0: unknown. The library has this too (TrailTermOf) and does not export it. */
uint64_t group_core_term_at(const struct raft *r, uint64_t index) {
    const struct raft_trail *t = &r->trail;
    unsigned n = t->front <= t->back ? t->back - t->front : t->size - t->front + t->back;
    if (n > 0 && index > t->offset && index <= t->records[(t->front + n - 1) % t->size].index)
        for (unsigned i = n; i-- > 0;)
            if (i == 0 || index > t->records[(t->front + i - 1) % t->size].index) return t->records[(t->front + i) % t->size].term;
    return index == t->snapshot.index ? t->snapshot.term : 0;
}

uint64_t group_core_last_index(const struct group *g) { return raft_last_index((struct raft *)&g->raft); }
enum raft_state group_core_state(const struct group *g) { return raft_state((struct raft *)&g->raft); }
bool group_core_installing(const struct group *g) { return g->raft.snapshot.installing; }

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
        change = change && group_filter_on(g, FILTER_CHANGE_ALONE);
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
        if (left && !n && g->config.ops->lacking) g->config.ops->lacking(g->config.ctx, to);
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

uint64_t *group_offered_to(struct group *g, uint64_t node_id) {
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
    *group_offered_to(g, to) = g->snapshot.index;
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
        /* Filter 3: a refused pre-candidate group_core_must learn of a higher term, or two of them block each other for ever. */
        if (p.vote_result.pre_vote && !p.vote_result.granted && group_filter_on(g, FILTER_PRE_VOTE_TERM)) p.term = MAX_OF(p.term, (uint64_t)raft_current_term(&g->raft));
        break;
    case RAFT_APPEND_ENTRIES: send_append(g, &m->append_entries, m->server_id); return;
    case RAFT_APPEND_ENTRIES_RESULT:
        p.kind = PEER_APPEND_RESULT, p.term = m->append_entries_result.term;
        p.append_result.rejected = m->append_entries_result.rejected, p.append_result.last_index = m->append_entries_result.last_log_index;
        /* The library leaves the index unset when it answers an old term. Such an answer to InstallSnapshot reads like an acceptance, and
         * reaches a candidate that has since won the very term that it carries: a match out of thin air. */
        if (g->answering_old_term && group_filter_on(g, FILTER_STALE_ANSWER)) p.append_result.last_index = 0;
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
int group_core_step(struct group *g, struct raft_event *e, struct group_slot *slots, uint64_t first, size_t n) {
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

void group_core_must(int rv, const char *what) {
    if (rv != 0) panic_now("consensus core: %s: %s", what, raft_strerror(rv));
}

/* Every event begins here. What the opening decided is handed out by the first one. */
void group_begin(struct group *g, uint64_t now_ms) {
    check(g->magic == GROUP_MAGIC);
    g->now_ms = MAX_OF(g->now_ms, now_ms); /* the library subtracts times */
    g->open_pending = false;
    emit_vote(g);
}

bool group_lacks_own_entry(const struct group *g) {
    return group_core_state(g) == RAFT_LEADER && g->raft.leader_state.transferee == 0 &&
           group_core_term_at(&g->raft, group_core_last_index(g)) != raft_current_term(&g->raft);
}

enum status group_submit_slot(struct group *g, struct group_slot *slot, struct raft_buffer bytes) {
    static uint8_t no_batch; /* the library wants a pointer, and leaves it alone */
    if (!group_log_reserve(&g->log, 1)) return STATUS_MEMORY_LIMIT;
    struct raft_entry entry = {slot->term, (enum raft_entry_type)slot->type, bytes, bytes.base ? bytes.base : &no_batch};
    struct raft_event e = {.type = RAFT_SUBMIT};
    e.submit.entries = &entry, e.submit.n = 1;
    group_heap_may_fail = true;
    int rv = group_core_step(g, &e, slot, group_core_last_index(g) + 1, 1);
    group_heap_may_fail = false;
    if (rv == RAFT_NOMEM) return STATUS_MEMORY_LIMIT;
    if (rv == RAFT_NOTLEADER) return STATUS_NOT_LEADER;
    if (rv == RAFT_CANTCHANGE) return STATUS_OVERLOADED;
    group_core_must(rv, "submit");
    return STATUS_OK;
}

/* Every event ends here. A new leader needs an entry of its own term: only such a one commits those before it. Role comes last. */
void group_finish(struct group *g) {
    if (group_lacks_own_entry(g)) {
        struct group_slot barrier = {.term = raft_current_term(&g->raft), .type = GROUP_BARRIER};
        enum status st = group_submit_slot(g, &barrier, (struct raft_buffer){NULL, 0});
        check(st == STATUS_OK || st == STATUS_MEMORY_LIMIT); /* the latter: group_deadline_ms asks for another tick */
    }
    enum group_role role = group_role(g);
    uint64_t term = raft_current_term(&g->raft), leader = group_leader(g);
    if (role == g->seen.role && term == g->seen.role_term && leader == g->seen.leader) return;
    g->seen.role = role, g->seen.role_term = term, g->seen.leader = leader;
    g->config.ops->role(g->config.ctx, role, term, leader);
}


/* The library's view of a committed members entry; memory of `conf` goes to it. */
void group_core_configuration(struct group *g, uint64_t index, const struct group_members *m) {
    struct raft_event e = {.type = RAFT_CONFIGURATION};
    e.configuration.index = index;
    check(group_core_conf(m, &e.configuration.conf));
    group_core_must(group_core_step(g, &e, NULL, 0, 0), "members committed");
}

/* The port around libraft's raft_step(). Its parts: group.c (events of ours), group_receive.c (messages in, most filters), group_core.c (the library:
 * heap, one step, its effects), group_log.c (our copies of entries). group_core.h is the only file that includes <raft.h>.
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
#include "engine/group_core.h"

#include "proto/base/mem.h"

/* ---- open, close */

static bool found_is_sound(uint64_t term, const struct group_snapshot *s, const struct group_entry *e, size_t n) {
    if (s->index < GROUP_FIRST_INDEX || s->index > PEER_NUMBER_MAX || s->term < 1 || !group_members_valid(&s->members)) return false;
    if (s->members.index > s->index || term > PEER_NUMBER_MAX || s->term > PEER_NUMBER_MAX) return false;
    if (n > 0 && (e[0].index > s->index + 1 || e[n - 1].index < s->index)) return false;
    for (size_t i = 0; i < n; i++) {
        struct group_members m;
        if (e[i].index != e[0].index + i || e[i].term < 1 || e[i].term > PEER_NUMBER_MAX || (i > 0 && e[i].term < e[i - 1].term)) return false;
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
    if (!group_core_conf(&g->snapshot.members, &meta.configuration)) return raft_free(entries), STATUS_MEMORY_LIMIT;
    for (size_t i = 0; i < n; i++) members |= e[i].type == GROUP_CHANGE;
    group_heap_may_fail = !members; /* the library frees a members entry twice when it can't decode it for want of memory */
    for (size_t i = 0; i < n; i++) {
        entries[i] = (struct raft_entry){.term = e[i].term, .type = (enum raft_entry_type)e[i].type};
        struct group_members m;
        if (e[i].type == GROUP_CHANGE) check(group_members_decode(e[i].data, &m) && group_core_conf_bytes(&m, &entries[i].buf));
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
    group_core_must(rv, "start");
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
    /* Votes and log are synced apart, so a crash can keep an entry of a term and lose the vote that began it. Nothing that depends on that vote has
     * left then: the term stands, the vote was never given. */
    uint64_t log_term = MAX_OF(snapshot->term, n ? entries[n - 1].term : 0), found_term = term;
    if (term < log_term) term = log_term, voted_for = 0;
    g->magic = GROUP_MAGIC, g->config = *config, g->now_ms = now_ms, g->open_pending = true;
    g->snapshot = *snapshot, g->filters_off = group_filters_off_next;
    if (g->snapshot.members.index == 0) g->snapshot.members.index = snapshot->index; /* the library takes 0 for "no members yet" */
    g->members = g->snapshot.members;
    g->seen.term = found_term, g->seen.voted_for = voted_for, g->seen.role_term = SIZE_MAX;
    group_heap_may_fail = true;
    struct address self = group_address_of(config->node_id);
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
        bool sole = group_member_kind(&newest, config->node_id) == GROUP_VOTER && group_members_voters(&newest) == 1;
        if (sole && group_filter_on(g, FILTER_SOLE_TERM)) term++, voted_for = config->node_id;
        st = core_start(g, term, voted_for, entries, n);
    }
    group_heap_may_fail = false;
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
    return group_filter_on(g, FILTER_SOLE_TERM) && group_core_state(g) == RAFT_FOLLOWER && group_core_sole_voter(r) && raft_voted_for(r) != r->id &&
           !group_core_installing(g) && r->last_stored == group_core_last_index(g);
}

static void vote_for_self(struct group *g) {
    struct address self = group_address_of(g->config.node_id);
    struct raft_message m = {.type = RAFT_REQUEST_VOTE, .server_id = g->config.node_id, .server_address = self.text};
    m.request_vote = (struct raft_request_vote){
        .version = VERSION_VOTE, .term = raft_current_term(&g->raft) + 1, .candidate_id = g->config.node_id, .disrupt_leader = true,
        .last_log_index = group_core_last_index(g), .last_log_term = group_core_term_at(&g->raft, group_core_last_index(g))};
    struct raft_event e = {.type = RAFT_RECEIVE};
    e.receive.message = &m;
    group_core_must(group_core_step(g, &e, NULL, 0, 0), "vote for self");
    check(raft_voted_for(&g->raft) == g->config.node_id);
}

/* A follower that is no voter (or, lagging, does not know that it is one) never stands, and so never forgets its leader (timeout.c:35); and who has
 * a leader refuses votes. It forgets here, when an election timeout has passed without a word. */
static void forget_silent_leader(struct group *g) {
    struct raft *r = &g->raft;
    const struct raft_server *own = group_core_server(r, r->id);
    if (!group_filter_on(g, FILTER_VOTE_OUTSIDE) || group_core_state(g) != RAFT_FOLLOWER || (own && own->role == RAFT_VOTER)) return;
    if (g->now_ms - g->leader_heard_ms < g->config.election_ms) return;
    raft_free(r->follower_state.current_leader.address);
    r->follower_state.current_leader.address = NULL, r->follower_state.current_leader.id = 0;
}

void group_tick(struct group *g, uint64_t now_ms) {
    group_begin(g, now_ms);
    forget_silent_leader(g);
    struct raft_event e = {.type = RAFT_TIMEOUT};
    if (raft_timeout(&g->raft) <= g->now_ms && group_log_reserve(&g->log, 1)) {
        if (needs_own_term(g)) vote_for_self(g);
        else group_core_must(group_core_step(g, &e, NULL, 0, 0), "timeout");
    }
    group_hand_on(g);
    group_finish(g);
}

uint64_t group_deadline_ms(const struct group *g) {
    return g->open_pending || group_lacks_own_entry(g) ? g->now_ms : raft_timeout(&g->raft);
}

static enum status submit_admit(const struct group *g) {
    if (group_core_state(g) != RAFT_LEADER || g->raft.leader_state.transferee != 0 || g->handing.node_id) return STATUS_NOT_LEADER;
    if (group_core_last_index(g) >= PEER_NUMBER_MAX - PEER_ENTRIES_MAX) return STATUS_OVERLOADED;
    /* Filter 6: libraft walks a conflicting suffix back one index a round trip, so no leader may have a long one. */
    if (group_filter_on(g, FILTER_UNCOMMITTED) && group_core_last_index(g) - g->commit_max >= g->config.uncommitted_max) return STATUS_OVERLOADED;
    return STATUS_OK;
}

enum status group_submit(struct group *g, uint64_t now_ms, uint8_t *data, size_t len, uint64_t *index) {
    check(len <= PEER_ENTRY_BYTES_MAX);
    group_begin(g, now_ms);
    enum status st = submit_admit(g);
    struct group_slot slot = {.term = raft_current_term(&g->raft), .type = GROUP_COMMAND, .len = (uint32_t)len, .data = len ? data : NULL};
    uint64_t at = group_core_last_index(g) + 1;
    if (!st) st = group_submit_slot(g, &slot, (struct raft_buffer){NULL, 0});
    if (!st && len == 0) mem_free(data);
    if (!st) *index = at;
    group_finish(g);
    return st;
}

enum status group_submit_barrier(struct group *g, uint64_t now_ms, uint64_t *index) {
    group_begin(g, now_ms);
    enum status st = submit_admit(g);
    struct group_slot slot = {.term = raft_current_term(&g->raft), .type = GROUP_BARRIER};
    uint64_t at = group_core_last_index(g) + 1;
    if (!st) st = group_submit_slot(g, &slot, (struct raft_buffer){NULL, 0});
    if (!st) *index = at;
    group_finish(g);
    return st;
}

/* ---- members, leadership */

/* One voter may come or go at a time: only then do the majorities of both configurations overlap (Raft dissertation, 4.1). */
static bool one_step(const struct group_members *from, const struct group_members *to) {
    unsigned voters = 0;
    for (uint32_t i = 0; i < from->count; i++)
        voters += from->member[i].kind == GROUP_VOTER && group_member_kind(to, from->member[i].node_id) != GROUP_VOTER;
    for (uint32_t i = 0; i < to->count; i++)
        voters += to->member[i].kind == GROUP_VOTER && group_member_kind(from, to->member[i].node_id) != GROUP_VOTER;
    return voters <= 1;
}

/* Filter 2: a member whose own configuration lags could refuse a vote that is needed. Spares store nothing; of who goes no vote is needed any more, and it may be dead. */
static bool last_members_stored(const struct group *g, const struct group_members *to) {
    if (!group_filter_on(g, FILTER_CHANGE_STORED)) return true;
    for (unsigned i = 0; i < g->raft.configuration.n; i++) {
        const struct raft_server *s = &g->raft.configuration.servers[i];
        raft_index match;
        if (s->role == RAFT_SPARE || !group_member_kind(to, s->id)) continue;
        if (raft_match_index(&g->raft, s->id, &match) != 0 || match < g->raft.configuration_committed_index) return false;
    }
    return true;
}

static enum status change_admit(const struct group *g, const struct group_members *to) {
    enum status st = submit_admit(g);
    if (st) return st;
    /* A leader that removes itself would leave: hand leadership over first. */
    if (!group_members_valid(to) || group_member_kind(to, g->config.node_id) != GROUP_VOTER) return STATUS_FIELD_INVALID;
    if (!group_ready(g) || g->raft.configuration_uncommitted_index != 0 || !last_members_stored(g, to)) return STATUS_OVERLOADED;
    return one_step(&g->members, to) ? STATUS_OK : STATUS_FIELD_INVALID;
}

enum status group_change(struct group *g, uint64_t now_ms, const struct group_members *members) {
    group_begin(g, now_ms);
    struct group_members to = *members;
    to.index = group_core_last_index(g) + 1;
    enum status st = change_admit(g, &to);
    if (!st) {
        uint8_t bytes[PEER_MEMBERS_BYTES_MAX];
        struct group_slot slot = {0};
        struct raft_buffer core_bytes = {0};
        size_t len = group_members_encode(&to, bytes, sizeof bytes);
        check(len > 0);
        group_heap_may_fail = true;
        bool ok = group_slot_set(&slot, raft_current_term(&g->raft), GROUP_CHANGE, slice_of(bytes, len)) && group_core_conf_bytes(&to, &core_bytes);
        group_heap_may_fail = false;
        st = ok ? group_submit_slot(g, &slot, core_bytes) : STATUS_MEMORY_LIMIT;
        raft_free(core_bytes.base);
        group_slot_clear(&slot); /* the log took its data over, or nobody did */
    }
    group_finish(g);
    return st;
}

void group_members_applied(struct group *g, uint64_t now_ms, uint64_t index) {
    if (index <= g->members.index) return; /* applied again, to a store that was opened anew: it may be gone from memory */
    group_begin(g, now_ms);
    const struct group_slot *s = group_log_at(&g->log, index);
    struct group_members m;
    check(index <= g->commit_max);
    check(s && s->type == GROUP_CHANGE && group_members_decode(slice_of(s->data, s->len), &m));
    g->members = m;
    g->members.index = index;
    group_core_configuration(g, index, &m);
    group_finish(g);
}

/* Filter 14: the library tells a follower that is behind to stand as soon as it has acknowledged anything (replication.c:483 compares its match with itself), and one that does not hold all, or is
 * still writing it, takes no notice: the group then takes nothing for an election timeout, and goes on as before. So it is told when it has acknowledged all; nothing is added meanwhile. */
void group_hand_on(struct group *g) {
    raft_index match;
    if (!g->handing.node_id) return;
    bool over = group_core_state(g) != RAFT_LEADER || raft_current_term(&g->raft) != g->handing.term || g->now_ms - g->handing.since_ms >= g->config.election_ms;
    over = over || raft_match_index(&g->raft, g->handing.node_id, &match) != 0;
    if (!over && match < group_core_last_index(g) && group_filter_on(g, FILTER_TRANSFER_EARLY)) return;
    struct raft_event e = {.type = RAFT_TRANSFER};
    e.transfer.server_id = g->handing.node_id;
    g->handing.node_id = 0;
    if (!over) group_core_must(group_core_step(g, &e, NULL, 0, 0), "transfer");
}

enum status group_transfer(struct group *g, uint64_t now_ms, uint64_t node_id) {
    group_begin(g, now_ms);
    const struct raft_server *s = group_core_server(&g->raft, node_id);
    enum status st = STATUS_OK;
    if (group_core_state(g) != RAFT_LEADER || g->raft.leader_state.transferee != 0 || g->handing.node_id) st = STATUS_NOT_LEADER;
    else if (!s || s->role != RAFT_VOTER || node_id == g->config.node_id) st = STATUS_FIELD_INVALID;
    else if (!group_ready(g) || g->raft.configuration_uncommitted_index != 0) st = STATUS_OVERLOADED;
    if (!st) g->handing.node_id = node_id, g->handing.term = raft_current_term(&g->raft), g->handing.since_ms = g->now_ms;
    group_hand_on(g);
    group_finish(g);
    return st;
}

uint64_t group_match(const struct group *g, uint64_t node_id) {
    raft_index match;
    return group_core_state(g) == RAFT_LEADER && raft_match_index(&g->raft, node_id, &match) == 0 ? match : 0;
}

enum status group_hand_over(struct group *g, uint64_t now_ms, uint64_t except) {
    uint64_t best = 0, most = 0;
    for (uint32_t i = 0; i < g->members.count; i++) {
        const struct group_member *m = &g->members.member[i];
        if (m->kind != GROUP_VOTER || m->node_id == g->config.node_id || m->node_id == except || group_match(g, m->node_id) < most) continue;
        best = m->node_id, most = group_match(g, m->node_id);
    }
    return best ? group_transfer(g, now_ms, best) : STATUS_FIELD_INVALID;
}

/* ---- disk */

uint64_t group_append_count(const struct group *g) { return g->log.append_count; }

void group_appends_persisted(struct group *g, uint64_t now_ms, uint64_t append_count) {
    group_begin(g, now_ms);
    uint64_t durable = group_log_land(&g->log, append_count);
    if (durable > g->raft.last_stored && !group_core_installing(g)) {
        check(durable <= group_core_last_index(g));
        check(group_core_state(g) != RAFT_CANDIDATE); /* nobody stands for election with writes under way */
        struct raft_event e = {.type = RAFT_PERSISTED_ENTRIES};
        e.persisted_entries.index = durable;
        group_core_must(group_core_step(g, &e, NULL, 0, 0), "persisted entries");
    }
    group_finish(g);
}

static struct raft_snapshot_metadata core_metadata(const struct group_snapshot *s) {
    struct raft_snapshot_metadata meta = {.index = s->index, .term = s->term, .configuration_index = s->members.index};
    check(group_core_conf(&s->members, &meta.configuration)); /* the library's from then on */
    return meta;
}

void group_snapshotted(struct group *g, uint64_t now_ms, const struct group_snapshot *snapshot, uint32_t trailing) {
    group_begin(g, now_ms);
    if (snapshot->index > g->snapshot.index && !group_core_installing(g)) {
        check(snapshot->index <= group_applicable(g));
        check(snapshot->term == group_core_term_at(&g->raft, snapshot->index));
        check(group_members_valid(&snapshot->members) && snapshot->members.index <= snapshot->index);
        g->snapshot = *snapshot;
        struct raft_event e = {.type = RAFT_SNAPSHOT};
        e.snapshot.metadata = core_metadata(snapshot), e.snapshot.trailing = trailing;
        group_core_must(group_core_step(g, &e, NULL, 0, 0), "snapshot");
    }
    group_finish(g);
}

void group_installed(struct group *g, uint64_t now_ms, const struct group_snapshot *snapshot) {
    group_begin(g, now_ms);
    check(group_core_installing(g));
    check(snapshot->index == g->fetching.index && snapshot->term == g->fetching.term);
    g->snapshot = g->fetching, g->members = g->fetching.members;
    g->commit_max = MAX_OF(g->commit_max, snapshot->index);
    struct raft_event e = {.type = RAFT_PERSISTED_SNAPSHOT};
    e.persisted_snapshot.metadata = core_metadata(&g->fetching), e.persisted_snapshot.last = true;
    group_core_must(group_core_step(g, &e, NULL, 0, 0), "snapshot installed");
    group_finish(g);
}

bool group_installing(const struct group *g) { return group_core_installing(g); }

void group_release(struct group *g, uint64_t index) { group_log_release(&g->log, MIN_OF(index, group_applicable(g))); }

/* ---- state */

enum group_role group_role(const struct group *g) {
    /* An opening that made a leader has not been handed out yet. */
    if (g->open_pending) return GROUP_FOLLOWER;
    enum raft_state s = group_core_state(g);
    return s == RAFT_LEADER ? GROUP_LEADER : s == RAFT_CANDIDATE ? GROUP_CANDIDATE : GROUP_FOLLOWER;
}

uint64_t group_term(const struct group *g) { return raft_current_term(&g->raft); }

uint64_t group_leader(const struct group *g) {
    if (g->open_pending) return 0;
    if (group_core_state(g) == RAFT_LEADER) return g->config.node_id;
    return group_core_state(g) == RAFT_FOLLOWER ? g->raft.follower_state.current_leader.id : 0;
}

uint64_t group_applicable(const struct group *g) {
    /* While a snapshot is under way the library counts from nothing. */
    return group_core_installing(g) ? g->snapshot.index : MIN_OF(g->commit_max, (uint64_t)g->raft.last_stored);
}

uint64_t group_commit_index(const struct group *g) { return g->commit_max; }

unsigned group_voters(const struct group *g, uint64_t node_ids[GROUP_MEMBERS_MAX]) {
    unsigned n = 0;
    for (unsigned i = 0; i < g->raft.configuration.n; i++)
        if (g->raft.configuration.servers[i].role == RAFT_VOTER) check(n < GROUP_MEMBERS_MAX), node_ids[n++] = g->raft.configuration.servers[i].id;
    return n;
}

uint64_t group_last_index(const struct group *g) { return group_core_last_index(g); }

bool group_ready(const struct group *g) {
    return !g->open_pending && group_core_state(g) == RAFT_LEADER && group_core_term_at(&g->raft, g->commit_max) == raft_current_term(&g->raft);
}

const struct group_members *group_members(const struct group *g) { return &g->members; }

bool group_entry(const struct group *g, uint64_t index, struct group_entry *out) {
    const struct group_slot *s = group_log_at(&g->log, index);
    if (!s) return false;
    *out = (struct group_entry){index, s->term, (enum group_entry_type)s->type, slice_of(s->data, s->len)};
    return true;
}

size_t group_memory(const struct group *g) { return g->log.bytes; }

uint64_t group_members_newest(const struct group *g) {
    return g->raft.configuration_uncommitted_index ? g->raft.configuration_uncommitted_index : MAX_OF((uint64_t)g->raft.configuration_committed_index, g->members.index);
}

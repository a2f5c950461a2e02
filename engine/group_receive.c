/* Messages in: what the library would only assert is verified here, and most filters stand here (docs/RAFT.md has their reasons). */
#include "engine/group_core.h"

#include "proto/base/log.h"
#include "proto/base/mem.h"

static enum status receive_step(struct group *g, struct raft_message *m) {
    struct raft_event e = {.type = RAFT_RECEIVE};
    e.receive.message = m;
    group_core_must(group_core_step(g, &e, NULL, 0, 0), "message");
    return STATUS_OK;
}

static enum status receive_vote(struct group *g, const struct peer_message *p, struct raft_message *m) {
    m->type = RAFT_REQUEST_VOTE;
    m->request_vote = (struct raft_request_vote){.version = VERSION_VOTE, .term = p->term, .candidate_id = p->from, .disrupt_leader = p->vote.disrupt,
                                                 .last_log_index = p->vote.last_index, .last_log_term = p->vote.last_term, .pre_vote = p->vote.pre_vote};
    const struct raft_server *own = group_core_server(&g->raft, g->config.node_id);
    if (!group_filter_on(g, FILTER_VOTE_OUTSIDE) || (own && own->role == RAFT_VOTER)) return receive_step(g, m);
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
    if (group_filter_on(g, FILTER_LATE_VOTE) && group_core_state(g) != RAFT_CANDIDATE) return STATUS_OK;
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
    if (group_filter_on(g, FILTER_STALE_REJECTION)) {
        if (p->append_result.rejected <= match) return STATUS_OK;
        m->append_entries_result.last_log_index = MAX_OF(m->append_entries_result.last_log_index, match);
    }
    enum status st = receive_step(g, m);
    /* While the library waits for a snapshot to arrive, its heartbeats are anchored to our newest one, but only a rejection of the one it offered
     * ends the wait (progress.c:332). The follower refuses the newest: that is a refusal of the offered one as well. */
    uint64_t offered = *group_offered_to(g, p->from);
    if (st || !group_filter_on(g, FILTER_MOVED_ANCHOR) || p->append_result.rejected != g->snapshot.index || offered >= g->snapshot.index || offered <= match) return st;
    m->append_entries_result.rejected = offered;
    m->append_entries_result.last_log_index = MIN_OF(MAX_OF(p->append_result.last_index, match), offered - 1);
    return receive_step(g, m);
}

static enum status receive_timeout_now(struct group *g, const struct peer_message *p, struct raft_message *m) {
    if (group_core_sole_voter(&g->raft)) return STATUS_OK; /* would lead at once, in the sender's term */
    m->type = RAFT_TIMEOUT_NOW;
    m->timeout_now = (struct raft_timeout_now){.term = p->term, .last_log_index = p->timeout_now.last_index, .last_log_term = p->timeout_now.last_term};
    return receive_step(g, m);
}

/* What a leader of our own term says while we lead it: two leaders of one term, which cannot be (or somebody forges). */
static enum status from_second_leader(const struct group *g, const struct peer_message *p) {
    if (group_core_state(g) != RAFT_LEADER || p->term != raft_current_term(&g->raft)) return STATUS_OK;
    log_error("two leaders in one term", "group=%llu term=%llu other=%llu", (unsigned long long)g->config.group_id, (unsigned long long)p->term,
              (unsigned long long)p->from);
    return STATUS_FIELD_INVALID;
}

/* The library learns of a snapshot by its leader's message alone. */
static enum status take_snapshot(struct group *g, const struct group_snapshot *s, uint64_t term, struct raft_message *m) {
    g->fetching = *s;
    m->type = RAFT_INSTALL_SNAPSHOT;
    m->install_snapshot = (struct raft_install_snapshot){.term = term, .last_index = s->index, .last_term = s->term, .conf_index = s->members.index};
    check(group_core_conf(&s->members, &m->install_snapshot.conf)); /* the library's from here on: it frees it, or hands it to emit_fetch */
    return receive_step(g, m);
}

void group_adopt(struct group *g, uint64_t now_ms, uint64_t term, uint64_t leader_node_id) {
    group_begin(g, now_ms);
    check(group_core_state(g) == RAFT_FOLLOWER && term >= raft_current_term(&g->raft) && !group_core_installing(g));
    if (term > raft_current_term(&g->raft)) {
        raft_free(g->raft.follower_state.current_leader.address);
        g->raft.follower_state.current_leader.address = NULL, g->raft.follower_state.current_leader.id = 0;
    }
    g->raft.current_term = term, g->raft.voted_for = leader_node_id;
    group_begin(g, now_ms); /* hands the vote out */
    group_finish(g);
}

enum status group_install(struct group *g, uint64_t now_ms, const struct group_snapshot *s) {
    group_begin(g, now_ms);
    check(g->config.ops->fetch && group_members_valid(&s->members) && s->members.index <= s->index);
    uint64_t leader = group_leader(g), term = raft_current_term(&g->raft);
    enum status st = STATUS_OK;
    if (s->index <= g->commit_max || group_core_term_at(&g->raft, s->index) >= s->term) st = STATUS_ABSENT;
    else if (group_core_state(g) != RAFT_FOLLOWER || !leader || group_core_installing(g) || s->term > term || !group_log_reserve(&g->log, 1)) st = STATUS_NOT_LEADER;
    if (!st) {
        struct address from = group_address_of(leader);
        struct raft_message m = {.server_id = leader, .server_address = from.text};
        st = take_snapshot(g, s, term, &m);
        check(group_core_installing(g));
    }
    group_finish(g);
    return st;
}

static enum status receive_snapshot(struct group *g, const struct peer_message *p, struct raft_message *m) {
    struct group_members members;
    if (!group_members_decode(p->snapshot.members, &members) || p->snapshot.index < GROUP_FIRST_INDEX) return STATUS_FIELD_INVALID;
    enum status st = from_second_leader(g, p);
    /* While a transfer runs, the library would ignore the offer (and leak it). Heartbeats keep the contact. */
    if (st || (!g->config.ops->fetch && !g->config.ops->offer) || group_core_installing(g)) return st;
    if (p->term >= raft_current_term(&g->raft) && p->snapshot.index <= g->commit_max) {
        uint64_t term = group_core_term_at(&g->raft, p->snapshot.index);
        if (term == 0) return STATUS_OK; /* we are past it, and no longer know its term: the library would throw our log away for it */
        if (term != p->snapshot.index_term) return STATUS_FIELD_INVALID; /* not what was committed */
    }
    members.index = p->snapshot.members_index;
    struct group_snapshot offered = {p->snapshot.index, p->snapshot.index_term, members};
    /* What is no news the library answers itself. */
    bool news = p->term >= raft_current_term(&g->raft) && offered.index > g->commit_max && group_core_term_at(&g->raft, offered.index) != offered.term;
    if (!g->config.ops->offer || !news) return take_snapshot(g, &offered, p->term, m);
    g->config.ops->offer(g->config.ctx, p->from, &offered);
    return STATUS_OK;
}

/* Filter 5: a follower that has cut its log refuses an append that starts below the cut, and the leader ignores the refusal. What is committed is
 * the same everywhere, so the message may as well start at our commit index. */
static void move_above_commit(const struct group *g, struct peer_message *p) {
    uint64_t prev = p->append.prev_index, to = g->commit_max, to_term = group_core_term_at(&g->raft, to);
    if (!group_filter_on(g, FILTER_BELOW_HEAD) || prev >= to || to_term == 0 || group_core_installing(g)) return;
    uint32_t skip = (uint32_t)MIN_OF(to - prev, (uint64_t)p->append.count);
    p->append.entries += skip, p->append.count -= skip;
    p->append.prev_index = to, p->append.prev_term = to_term;
}

/* A membership entry that comes after an uncommitted one proves that one committed (one change at a time). The library would forget the older
 * one instead, and roll back to the one before it. */
static void commit_older_members(struct group *g, const struct peer_message *p) {
    uint64_t older = g->raft.configuration_uncommitted_index, index = p->append.prev_index + 1;
    if (!group_filter_on(g, FILTER_CHANGE_COMMIT) || older == 0 || older >= index || p->append.entries[0].type != GROUP_CHANGE) return;
    if (group_core_term_at(&g->raft, p->append.prev_index) != p->append.prev_term) return; /* does not follow our log: will be refused */
    if (group_core_term_at(&g->raft, index) == p->append.entries[0].term) return;          /* nothing new */
    const struct group_slot *s = group_log_at(&g->log, older);
    struct group_members m;
    check(s && group_members_decode(slice_of(s->data, s->len), &m));
    group_core_configuration(g, older, &m);
}

/* The library's array for entries whose data stays with us. It frees `batch` itself unless it takes the entries. */
static struct raft_entry *core_entries(const struct peer_message *p) {
    struct raft_entry *e = raft_calloc(p->append.count, sizeof *e);
    struct raft_buffer bytes = {raft_malloc(1), 0};
    if (p->append.entries[0].type == GROUP_CHANGE) {
        struct group_members m;
        raft_free(bytes.base);
        check(group_members_decode(p->append.entries[0].data, &m) && group_core_conf_bytes(&m, &bytes));
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
    uint64_t prev_term = group_core_term_at(&g->raft, p->append.prev_index);
    if (!stale && p->append.prev_index <= g->commit_max && prev_term != 0 && prev_term != p->append.prev_term) return STATUS_FIELD_INVALID;
    if (p->append.count > 0 && !group_core_installing(g)) commit_older_members(g, p);

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
        group_core_must(group_core_step(g, &e, slots, p->append.prev_index + 1, n), "entries");
        if (n > 0 && g->log.append_count != appended) raft_free(batch); /* taken: the library left it to us */
        raft_free(entries);
    }
    for (uint32_t i = 0; slots && i < n; i++) group_slot_clear(&slots[i]);
    mem_free(slots);
    return st;
}

static enum status receive_message(struct group *g, struct peer_message *p) {
    struct address from = group_address_of(p->from);
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
    case PEER_FETCH:
    case PEER_CHUNK:
    case PEER_RETURN:
    case PEER_RETURNED:
    case PEER_CONFIRM:
    case PEER_CONFIRMED:
    case PEER_HOW_FAR:
    case PEER_SO_FAR: break; /* the engine's */
    }
    return STATUS_FIELD_INVALID;
}

enum status group_receive(struct group *g, uint64_t now_ms, uint64_t from_node_id, struct slice frame) {
    struct peer_entry entries[PEER_ENTRIES_MAX];
    struct peer_message p;
    if (peer_decode(frame, &p, entries) != STATUS_OK) return STATUS_FIELD_INVALID;
    if (p.group != g->config.group_id || p.from != from_node_id || p.to != g->config.node_id) return STATUS_FIELD_INVALID;
    group_begin(g, now_ms);
    g->answering_old_term = p.term < raft_current_term(&g->raft);
    if (!g->answering_old_term && (p.kind == PEER_APPEND || p.kind == PEER_SNAPSHOT)) g->leader_heard_ms = g->now_ms;
    enum status st = group_log_reserve(&g->log, 1) ? receive_message(g, &p) : STATUS_MEMORY_LIMIT;
    g->answering_old_term = false;
    group_hand_on(g);
    group_finish(g);
    return st;
}

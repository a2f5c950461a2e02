/* One Raft group behind a narrow port: events in, effects out. Nothing else knows libraft (0.22.1, raft_step alone), with the
 * filters of docs/RAFT.md. No I/O, no clock, no threads; owned by one engine, all calls on its core.
 *
 * Effects are handed out through group_ops during an event; an effect must not call back into the group. The group keeps the entries it
 * was given until group_release. */
#ifndef ENGINE_GROUP_H
#define ENGINE_GROUP_H

#include "proto/base/bytes.h"
#include "proto/status.h"

enum group_entry_type { GROUP_COMMAND = 1, GROUP_BARRIER = 2, GROUP_CHANGE = 3 };
enum group_role { GROUP_FOLLOWER, GROUP_CANDIDATE, GROUP_LEADER };
enum { GROUP_MEMBERS_MAX = 7, GROUP_FIRST_INDEX = 2 /* the synthetic snapshot that every group starts from: index 2, term 1 */ };

struct group_member {
    uint64_t node_id;
    uint8_t kind; /* enum group_member_kind */
};
enum group_member_kind { GROUP_VOTER = 1, GROUP_LEARNER = 2, GROUP_SPARE = 3 };
struct group_members {
    struct group_member member[GROUP_MEMBERS_MAX];
    uint32_t count;
    uint64_t index; /* of the entry that set them */
};
struct group_entry {
    uint64_t index, term;
    enum group_entry_type type;
    struct slice data; /* GROUP_CHANGE: group_members_encode's bytes */
};
struct group_snapshot { /* what the store's flushed state stands for */
    uint64_t index, term;
    struct group_members members;
};

struct group_ops {
    void (*vote)(void *ctx, uint64_t term, uint64_t voted_for);
    /* To be made durable, then group_appends_persisted(). Contiguous. entries[0].index may be at or below one appended before: it supersedes
     * that and all behind it. The data lives until group_release. */
    void (*append)(void *ctx, const struct group_entry *entries, size_t n);
    /* A frame for another node (peer.h), to leave only after all earlier vote effects are durable. Appends need not be: what tells of them is
     * handed out after group_appends_persisted. */
    void (*send)(void *ctx, uint64_t node_id, struct slice frame);
    void (*role)(void *ctx, enum group_role role, uint64_t term, uint64_t leader_node_id);
    /* A follower is behind the log's head: bring it snapshot `index` (issue: three zones). May be NULL with one member. */
    void (*install)(void *ctx, uint64_t node_id, uint64_t index);
    /* Our log is void, this snapshot takes its place: bring it there, then group_installed(). Without `offer`: get it from `node_id` first. May be NULL: offers are ignored. */
    void (*fetch)(void *ctx, uint64_t node_id, const struct group_snapshot *snapshot);
    /* We are behind the leader's log, and it would bring us this snapshot; said again and again. If not NULL, nothing else happens: the log and our vote stay what they are until
     * the state is here (this one or a later one) and group_install() says so. */
    void (*offer)(void *ctx, uint64_t node_id, const struct group_snapshot *snapshot);
    /* A follower needs entries that were released, and gets none until a snapshot covers them: group_snapshotted() soon. May be NULL. */
    void (*lacking)(void *ctx, uint64_t node_id);
};

struct group_config {
    uint64_t group_id, node_id;
    uint32_t election_ms, heartbeat_ms; /* 1000, 100 */
    uint32_t inflight_max;              /* entries not acknowledged by a follower; 256 */
    uint32_t uncommitted_max;           /* entries submitted and not committed: more answer STATUS_OVERLOADED; 64 */
    uint32_t seed;
    const struct group_ops *ops;
    void *ctx;
};

struct group;
/* The state found on disk. entries: all after snapshot->index (or from first_index <= snapshot->index + 1), copied. A new group: term 0,
 * voted_for 0, snapshot {GROUP_FIRST_INDEX, 1, its members}, no entries. No effect is handed out before the first event: call group_tick soon; a
 * single voter leads from that tick on. term may be behind the log's (votes and log are synced apart). CHECKSUM_MISMATCH: what was found can't be (a gap, terms that go back); MEMORY_LIMIT. */
enum status group_open(struct group **out, const struct group_config *config, uint64_t now_ms, uint64_t term, uint64_t voted_for,
                       const struct group_snapshot *snapshot, const struct group_entry *entries, size_t n) MUST_USE;
void group_close(struct group *g);

/* Events. */
void group_tick(struct group *g, uint64_t now_ms);          /* call when now_ms >= group_deadline_ms */
uint64_t group_deadline_ms(const struct group *g);
/* One command entry; takes over data (mem_alloc'ed) on STATUS_OK. NOT_LEADER, OVERLOADED. *index: where it will stand. */
enum status group_submit(struct group *g, uint64_t now_ms, uint8_t *data, size_t len, uint64_t *index) MUST_USE;
enum status group_submit_barrier(struct group *g, uint64_t now_ms, uint64_t *index) MUST_USE;
/* One membership step; refused (OVERLOADED) until every member that stays has stored the last one and the group is ready in its term. */
enum status group_change(struct group *g, uint64_t now_ms, const struct group_members *members) MUST_USE;
enum status group_transfer(struct group *g, uint64_t now_ms, uint64_t node_id) MUST_USE;
/* To the voter that holds most, this one and `except` (0: none) apart. FIELD_INVALID: there is none. */
enum status group_hand_over(struct group *g, uint64_t now_ms, uint64_t except) MUST_USE;
uint64_t group_match(const struct group *g, uint64_t node_id); /* what this leader knows that node to have stored; 0: nothing, or it does not lead */
/* A frame from another node; whatever it holds, a malformed one is FIELD_INVALID and changes nothing. */
enum status group_receive(struct group *g, uint64_t now_ms, uint64_t from_node_id, struct slice frame) MUST_USE;
/* Appends are acknowledged by their number, not by index: an index can be written, superseded and written again while syncs are under way.
 * Note group_append_count() when a sync begins (all append effects so far are in it or before it); hand that number in when it is done. */
uint64_t group_append_count(const struct group *g);
void group_appends_persisted(struct group *g, uint64_t now_ms, uint64_t append_count);
/* A snapshot of ours at `index` (flushed applied index) is durable; entries up to index - trailing may go. */
void group_snapshotted(struct group *g, uint64_t now_ms, const struct group_snapshot *snapshot, uint32_t trailing);
/* The members entry at `index` was applied; again, to a store that was opened anew: nothing. */
void group_members_applied(struct group *g, uint64_t now_ms, uint64_t index);
/* A committed state that is ahead of our log is here, complete and durable beside the old one: `fetch` follows at once, for this node. NOT_LEADER: later, when a leader is known;
 * ABSENT: the log has got there by itself, or will. */
enum status group_install(struct group *g, uint64_t now_ms, const struct group_snapshot *snapshot) MUST_USE;
/* A follower that does not remember its votes takes over term and vote: of a term at or above its own that this node leads. */
void group_adopt(struct group *g, uint64_t now_ms, uint64_t term, uint64_t leader_node_id);
bool group_installing(const struct group *g); /* between `fetch` and group_installed() */
/* What `fetch` asked for is in place and durable; the log starts behind it. */
void group_installed(struct group *g, uint64_t now_ms, const struct group_snapshot *snapshot);

/* State. */
enum group_role group_role(const struct group *g);
uint64_t group_term(const struct group *g);
uint64_t group_leader(const struct group *g);      /* 0: unknown */
/* May be applied: min(highest commit ever reported, last persisted). */
uint64_t group_applicable(const struct group *g);
uint64_t group_commit_index(const struct group *g); /* the highest ever reported: what is known to be committed, durable here or not yet */
uint64_t group_last_index(const struct group *g);
/* Of the newest members, committed or not: those whose majority counts in an election. Returns how many. */
unsigned group_voters(const struct group *g, uint64_t node_ids[GROUP_MEMBERS_MAX]);
bool group_ready(const struct group *g);           /* leader, and committed something in its term: may serve linearizable reads and change members */
const struct group_members *group_members(const struct group *g); /* committed ones */
uint64_t group_members_newest(const struct group *g);             /* index of the entry that set those in the log, committed or not */
/* An entry still held; false: released. Borrowed until the next event. */
bool group_entry(const struct group *g, uint64_t index, struct group_entry *out);
/* Entries up to index are applied and may be dropped from memory (followers that lag are served through ops later). */
void group_release(struct group *g, uint64_t index);
size_t group_memory(const struct group *g); /* bytes of entries held */

size_t group_members_encode(const struct group_members *m, uint8_t *out, size_t cap); /* 0: does not fit */
bool group_members_decode(struct slice s, struct group_members *out);

#endif

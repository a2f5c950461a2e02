/* Private to the port (group*.c): libraft and what stands around it. The only file that includes <raft.h>. */
#ifndef ENGINE_GROUP_CORE_H
#define ENGINE_GROUP_CORE_H

#include <raft.h>

#include "engine/group.h"
#include "engine/group_filter.h"
#include "engine/group_log.h"
#include "proto/base/buf.h"
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
    struct { uint64_t node_id, term, since_ms; } handing; /* who gets the lead as soon as it holds all of our log; node_id 0: nobody */
    uint64_t leader_heard_ms;        /* when the leader of our term last sent something */
    bool open_pending;               /* opened, and no event since: effects of the opening are still to be handed out */
    struct { uint64_t term, voted_for, leader; enum group_role role; uint64_t role_term; } seen; /* as last handed out */
    struct buf frame;
    bool answering_old_term;         /* during a step: see FILTER_STALE_ANSWER */
    unsigned filters_off;            /* tests: enum group_filter bits */
};

extern _Thread_local unsigned group_filters_off_next; /* tests: see group_filters_off */
bool group_filter_on(const struct group *g, enum group_filter f);

/* The library's heap stops the process when there is no memory, except while this is set (group.c's essay). */
extern _Thread_local bool group_heap_may_fail;

/* The library names servers by text too; ours is the id in decimal. */
struct address {
    char text[24];
};
struct address group_address_of(uint64_t node_id);
/* Members in the library's form, memory the library's to free. false: no memory (only where group_heap_may_fail). */
bool group_core_conf(const struct group_members *m, struct raft_configuration *c);
bool group_core_conf_bytes(const struct group_members *m, struct raft_buffer *out);

bool group_members_valid(const struct group_members *m);
uint8_t group_member_kind(const struct group_members *m, uint64_t node_id); /* 0: none */
unsigned group_members_voters(const struct group_members *m);

/* Looking into struct raft, whose layout is the public header's. */
const struct raft_server *group_core_server(const struct raft *r, uint64_t id);
bool group_core_sole_voter(const struct raft *r);
uint64_t group_core_term_at(const struct raft *r, uint64_t index); /* of the log, or of the snapshot; 0: unknown */
uint64_t group_core_last_index(const struct group *g);
enum raft_state group_core_state(const struct group *g);
bool group_core_installing(const struct group *g);

/* Every event: group_begin, some group_core_step, group_finish. */
void group_begin(struct group *g, uint64_t now_ms);
void group_finish(struct group *g);
/* Runs one event of the library and hands out its effects, roles excepted. slots: copies of the entries that it brings, slots[0] at index `first`,
 * taken over as far as they are new. Returns the library's code; other than 0: no effect was handed out. */
int group_core_step(struct group *g, struct raft_event *e, struct group_slot *slots, uint64_t first, size_t n);
void group_core_must(int rv, const char *what);
/* Tells the library that the members entry at `index` is committed. */
void group_core_configuration(struct group *g, uint64_t index, const struct group_members *m);
enum status group_submit_slot(struct group *g, struct group_slot *slot, struct raft_buffer bytes);
void group_hand_on(struct group *g); /* a transfer that waits: now, if it is time to */
bool group_lacks_own_entry(const struct group *g); /* a new leader whose barrier is still to come */
uint64_t *group_offered_to(struct group *g, uint64_t node_id); /* the index of the newest snapshot offered to a node */

#endif

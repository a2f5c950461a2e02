/* Status machines as data: states, edges, timers; versioned; enforced in apply. The registry of a process begins with the built-in
 * definitions (engine/machines/, compiled in as orderdb.v1.StatusMachine bytes) and only ever grows: what the meta partition has decided (resource.h), and what
 * partitions bring along when they are opened. Any thread may read it at any time; adding takes its lock. What was found stays where it is until machines_free.
 *
 * Machines and status names have small ids that are stored in rows, dense from 1, the same on every node: an id once given stays. A decision sees the machines
 * up to an id (`known`) and the statuses that came with them, so it does not depend on what other partitions of the process have brought in. */
#ifndef ENGINE_MACHINE_H
#define ENGINE_MACHINE_H

#include "proto/base/arena.h"
#include "proto/status.h"

enum { MACHINES_BUILT_IN = 1, MACHINE_BYTES_MAX = 64 << 10, MACHINE_STATES_MAX = 64, MACHINE_EDGES_MAX = 256, MACHINE_TIMERS_MAX = 8, STATUS_IDS_MAX = 1024, MACHINES_MAX = 1024, STATUS_NAME_BYTES_MAX = 64 };

struct machine;
struct required_field;
struct machines;

struct machine_edge {
    struct slice event;
    uint16_t from, to; /* status ids */
    unsigned required_count;
    const struct required_field *required; /* what the order must have then (required.h) */
};

struct machine_timer {
    struct slice timer_id, event; /* event empty: only told of */
    int64_t after_us;
};

struct machines *machines_new(void);          /* with the built-in ones; NULL: no memory. A built-in that does not validate is a panic. */
void machines_free(struct machines *ms);
/* One more definition (wire bytes of StatusMachine): exactly one initial state, all states reachable, only terminal states without an
 * edge out, edges and timers name known states and events, required_fields are in the table of required.h. error[] names what is wrong. */
enum status machines_add(struct machines *ms, struct slice definition, char error[256]) MUST_USE;
/* The same under ids that were given elsewhere; statuses: of its states. Again the same: OK, nothing changes. Ids that do not follow, or are taken by
 * another: CHECKSUM_MISMATCH. */
enum status machines_add_as(struct machines *ms, uint16_t id, const uint16_t *statuses, unsigned status_count, struct slice definition, char error[256]) MUST_USE;
/* All of that which needs no registry. version 0 passes. */
enum status machine_verify(struct slice definition, char error[256]) MUST_USE;
/* What histories call commits that no edge leads to. No new machine may have such an event (check_resource.h); those that were taken before there was this rule keep theirs. */
#define MACHINE_EVENTS_RESERVED "create, import, update, set_timer, cancel_timer and timer_fired"
bool machine_event_reserved(const char *event);
uint16_t machines_count(const struct machines *ms); /* the highest id */

/* What a definition would become as the next version of its machine. */
struct machine_plan {
    bool unchanged;          /* it is the newest version already: that one's id and version */
    uint16_t machine;        /* its id */
    int32_t version, newest; /* newest: the version there is, 0: none */
    unsigned status_count;
    uint16_t statuses[MACHINE_STATES_MAX];
    struct slice definition; /* with its version, canonical */
};
/* OK. MACHINE_VERSION_CONFLICT: version (0: any) is not the next one, or names the newest and differs from it. LIMIT_EXCEEDED: no room for more machines or
 * status names (error says which); FIELD_INVALID: error. In the arena. */
enum status machines_plan(const struct machines *ms, uint16_t known, struct slice definition, struct arena *arena, struct machine_plan *out, char error[256]) MUST_USE;

/* "": the default machine's newest; "retail": its newest; "retail@1": that one. NULL: none such. */
const struct machine *machines_find(const struct machines *ms, struct slice reference);
const struct machine *machines_find_known(const struct machines *ms, uint16_t known, struct slice reference);
const struct machine *machines_by_id(const struct machines *ms, uint16_t machine_id); /* NULL: none such */
uint16_t machine_id(const struct machine *m);                                         /* stored in rows */
struct slice machine_reference(const struct machine *m);                              /* "retail@1" */
struct slice machine_name(const struct machine *m);
int32_t machine_version(const struct machine *m);
struct slice machine_definition(const struct machine *m);                             /* StatusMachine, as it was added */
uint16_t machine_statuses_known(const struct machine *m);                              /* status ids that exist once it does */
const uint16_t *machine_statuses(const struct machine *m, unsigned *count);           /* of its states, as it names them */
uint16_t machine_initial(const struct machine *m);
bool machine_has_state(const struct machine *m, uint16_t status);
bool machine_terminal(const struct machine *m, uint16_t status);
/* The edge that `event` names from this state; NULL: not defined from here. */
const struct machine_edge *machine_edge_by_event(const struct machine *m, uint16_t from, struct slice event);
/* The edges from -> to; *count of them; the first is returned. */
const struct machine_edge *machine_edge_by_target(const struct machine *m, uint16_t from, uint16_t to, unsigned *count);
bool machine_has_event(const struct machine *m, struct slice event);
/* Some edge of the event leads there. */
bool machine_event_leads_to(const struct machine *m, struct slice event, uint16_t to);
/* Some edge leads there at all. */
bool machine_has_target(const struct machine *m, uint16_t to);

/* The timers of a state, in the definition's order; *count of them. */
const struct machine_timer *machine_timers(const struct machine *m, uint16_t status, unsigned *count);

uint16_t machines_status_id(const struct machines *ms, struct slice name); /* 0: no machine has it */
uint16_t machines_status_id_known(const struct machines *ms, uint16_t known, struct slice name);
struct slice machines_status_name(const struct machines *ms, uint16_t status); /* check()s that it exists */
bool machines_status_known(const struct machines *ms, uint16_t status);

#endif

/* Status machines as data: states, edges, timers; versioned; enforced in apply. The registry is filled at start from the built-in
 * definitions (engine/machines/, compiled in as orderdb.v1.StatusMachine bytes) and does not change while the engine runs, so any
 * thread may read it. Status names are interned into small ids that are stored in rows: an id once given stays (order of registration,
 * from 1). */
#ifndef ENGINE_MACHINE_H
#define ENGINE_MACHINE_H

#include "proto/base/bytes.h"
#include "proto/status.h"

enum { MACHINE_STATES_MAX = 64, MACHINE_EDGES_MAX = 256, STATUS_IDS_MAX = 1024, MACHINES_MAX = 1024, STATUS_NAME_BYTES_MAX = 64 };

struct machine;
struct required_field;
struct machines;

struct machine_edge {
    struct slice event;
    uint16_t from, to; /* status ids */
    unsigned required_count;
    const struct required_field *required; /* what the order must have then (required.h) */
};

struct machines *machines_new(void);          /* with the built-in ones; NULL: no memory. A built-in that does not validate is a panic. */
void machines_free(struct machines *ms);
/* One more definition (wire bytes of StatusMachine): exactly one initial state, all states reachable, only terminal states without an
 * edge out, edges and timers name known states and events, required_fields are in the table of required.h. error[] names what is wrong. */
enum status machines_add(struct machines *ms, struct slice definition, char error[256]) MUST_USE;

/* "": the default machine's newest; "retail": its newest; "retail@1": that one. NULL: none such. */
const struct machine *machines_find(const struct machines *ms, struct slice reference);
const struct machine *machines_by_id(const struct machines *ms, uint16_t machine_id); /* NULL: none such */
uint16_t machine_id(const struct machine *m);                                         /* stored in rows */
struct slice machine_reference(const struct machine *m);                              /* "retail@1" */
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

uint16_t machines_status_id(const struct machines *ms, struct slice name); /* 0: no machine has it */
struct slice machines_status_name(const struct machines *ms, uint16_t status); /* check()s that it exists */
bool machines_status_known(const struct machines *ms, uint16_t status);

#endif

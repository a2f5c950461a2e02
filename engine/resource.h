/* Resources: what operators set for the whole cluster (status machines, rate limits). The meta partition holds them: one more partition of the node, which owns
 * no slots and whose id does not depend on how many partitions there are. Changes are commands of its log, decided in apply (apply_resource.c).
 *
 * Status machines are given their ids there, and are then brought to every other partition as a command of that one's own log, so that each partition carries
 * the machines that its orders name, and knows them from a certain entry on (partition_record.machines_known). docs/MACHINES.md.
 *
 *   row 'R' = format(1) revision(8) Resource
 *   row 'M' = format(1) machine id(2) count(1) { status id(2) }* StatusMachine                the ids are of its states, in their order
 * Golden bytes in tests/golden/. */
#ifndef ENGINE_RESOURCE_H
#define ENGINE_RESOURCE_H

#include "engine/query.h"

/* The field's number in Resource's oneof. Stored. */
enum resource_kind { RESOURCE_ANY, RESOURCE_MACHINE, RESOURCE_INDEX, RESOURCE_LIMIT, RESOURCE_ARCHIVE, RESOURCE_ROLE, RESOURCE_PRINCIPAL, RESOURCE_KINDS, RESOURCE_NODE = 64 /* in outcomes alone: of COMMAND_NODE */ };
enum {
    RESOURCE_NAME_BYTES_MAX = 64,
    RESOURCE_BYTES_MAX = 64 << 10, /* of one, in canonical form */
    RESOURCES_MAX = 1024,          /* but machines: MACHINES_MAX */
    RESOURCE_PAGE_SIZE_MAX = QUERY_PAGE_SIZE_MAX,
};
/* "machine", "limit": as ListResources' kind spells it; RESOURCE_KINDS: no such kind. */
enum resource_kind resource_kind_of(struct slice name);
const char *resource_kind_name(enum resource_kind kind);

struct resource_row {
    uint64_t revision;  /* how many changes it has seen, from 1 */
    struct slice bytes; /* Resource */
};
enum { RESOURCE_ROW_HEAD_BYTES = 1 + 8 };
void resource_row_encode(const struct resource_row *r, struct writer *w);
enum status resource_row_decode(struct slice row, struct resource_row *out) MUST_USE;

struct machine_row {
    uint16_t machine;
    unsigned status_count;
    uint16_t statuses[MACHINE_STATES_MAX];
    struct slice definition; /* StatusMachine */
};
enum { MACHINE_ROW_HEAD_BYTES_MAX = 1 + 2 + 1 + 2 * MACHINE_STATES_MAX };
void machine_row_encode(const struct machine_row *m, struct writer *w);
enum status machine_row_decode(struct slice row, struct machine_row *out) MUST_USE;
struct slice machine_row_of(const struct machine *m, struct arena *arena); /* data NULL: it is full */
/* The machines that a partition brings along, up to what its record knows, into the registry. */
enum status machine_rows_load(const struct store_view *view, struct machines *ms, uint16_t known, struct arena *scratch, char error[256]) MUST_USE;

struct resources_request {
    enum resource_kind kind; /* RESOURCE_ANY: all */
    int32_t page_size;       /* 0: 100; at most RESOURCE_PAGE_SIZE_MAX */
    struct slice page_token;
    uint16_t machines_known; /* of the meta partition; its engine fills it in */
};
/* How many orders of certain machines stand in certain statuses: the heads of a partition, a stretch at a time, so that nobody waits behind it for long. Not of one
 * moment: each stretch sees what is there when it is looked at. */
struct census_pair {
    uint16_t machine, status;
    int64_t count; /* is added to */
};
enum { CENSUS_ROWS_MAX = 20000 };
struct census_request {
    struct census_pair *pairs; /* sorted by machine, then status */
    unsigned count;
    uint16_t slot, last_slot;  /* from here, to there; moved on */
    int64_t from_order_id;     /* moved on */
    bool done;                 /* answered: nothing is left */
};
enum status query_census(const struct query *q, struct census_request *r) MUST_USE;

/* ListResourcesResponse's wire bytes, of the meta partition: by kind, then by name, machines by version. */
enum status query_resources(const struct query *q, const struct resources_request *r, struct slice *response) MUST_USE;

#endif

/* AdminService.CheckIndexes: a stretch of a partition's indexes is proved on a reader thread, over a snapshot. The call is all the state there is: who asks says where to go on. */
#include "orderdb/v1/admin.pb-c.h"
#include "proto/route.h"
#include "server/call.h"
#include "server/cluster.h"
#include "server/core.h"
#include "server/node.h"
#include "server/serve_common.h"

enum { CHECK_LIMIT = 500, CHECK_LIMIT_MAX = 5000 }; /* some 10 and 100 ms of a reader thread, where rows are in memory */

struct checking {
    struct call_op op;
    struct index_check check;
};

static void reply(struct call *call, const struct index_check *c) {
    Orderdb__V1__CheckIndexesResponse m = ORDERDB__V1__CHECK_INDEXES_RESPONSE__INIT;
    m.next_position.data = (uint8_t *)(uintptr_t)c->position, m.next_position.len = c->position_len;
    m.orders = (int64_t)c->count.orders, m.rows = (int64_t)c->count.rows;
    m.defect = (char *)(uintptr_t)c->defect;
    m.building = c->building;
    if (c->building) m.next_position.len = 0;
    struct slice wire = {.data = arena_alloc(call_arena(call), orderdb__v1__check_indexes_response__get_packed_size(&m) + 1)};
    if (!wire.data) {
        serve_fail_memory(call);
        return;
    }
    wire.len = orderdb__v1__check_indexes_response__pack(&m, (uint8_t *)(uintptr_t)wire.data);
    call_reply(call, &wire, 1);
}

static void checked(struct call *call, struct call_op *o) {
    if (o->op.failure.status) serve_fail_with(call, &o->op.failure);
    else reply(call, &container_of(o, struct checking, op)->check);
}

static bool request_ok(struct call *call, const Orderdb__V1__CheckIndexesRequest *m, struct index_check *c) {
    const struct node *node = call_core(call)->node;
    struct failure *f = call_failure(call);
    bool known = m->partition_id >= 0 && (uint32_t)m->partition_id < node->partition_count;
    if (!known) failure_violation(f, STATUS_FIELD_INVALID, "partition_id", "there are partitions 0 to %u, got %d", node->partition_count - 1, m->partition_id);
    if (m->limit < 0) failure_violation(f, STATUS_FIELD_INVALID, "limit", "must not be negative, got %d", m->limit);
    if (m->limit > CHECK_LIMIT_MAX) failure_violation(f, STATUS_LIMIT_EXCEEDED, "limit", "at most %d, got %d", CHECK_LIMIT_MAX, m->limit);
    c->limit = m->limit ? (unsigned)m->limit : CHECK_LIMIT;
    if (!known) return false;
    c->first_slot = partition_first_slot((uint32_t)m->partition_id, node->partition_count);
    c->last_slot = partition_last_slot((uint32_t)m->partition_id, node->partition_count);
    if (!index_position_valid(slice_of(m->position.data, m->position.len), c->first_slot, c->last_slot))
        failure_violation(f, STATUS_FIELD_INVALID, "position", "not a next_position of this partition; begin again without one");
    else if (m->position.len) memcpy(c->position, m->position.data, c->position_len = m->position.len);
    return !f->status;
}

void serve_check_indexes(struct call *call) {
    Orderdb__V1__CheckIndexesRequest *m = (void *)serve_decode(call, &orderdb__v1__check_indexes_request__descriptor);
    if (!m) return;
    struct checking *c = arena_zalloc(call_arena(call), sizeof *c);
    if (!c) {
        serve_fail_memory(call);
        return;
    }
    if (!request_ok(call, m, &c->check)) {
        call_fail(call);
        return;
    }
    c->op.op = (struct op){.kind = OP_INDEX_CHECK, .any_replica = true, .slot = c->check.first_slot, .arena = call_arena(call), .deadline_ns = call_deadline_ns(call), .index_check = &c->check};
    const struct node *node = call_core(call)->node;
    if (node->cluster && !cluster_holds(node->cluster, (uint32_t)m->partition_id)) { /* there is nothing to look at here */
        c->check.position_len = 0;
        reply(call, &c->check);
        return;
    }
    call_submit(call, &c->op, checked);
}

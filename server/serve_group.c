/* Consumer groups: create, update, get, list, delete, lag. What is sent is checked in engine/check_group.c; the meta partition decides (COMMAND_GROUP), and then every partition gets
 * the definition (COMMAND_GROUP_BRING), one after the other, before the answer: who has it may subscribe. A call that is cut off in between leaves the rest to groups.c. */
#include "server/serve_group.h"

#include <stdlib.h>

#include "engine/check_group.h"
#include "engine/page_token.h"
#include "orderdb/v1/stream.pb-c.h"
#include "proto/pbwire.h"
#include "proto/route.h"
#include "server/clock.h"
#include "server/core.h"
#include "server/groups.h"
#include "server/node.h"

enum { GROUPS_PAGE_SIZE = 50, GROUPS_PAGE_SIZE_MAX = 1000 };

/* ---- one group */

void serve_group_not_found(struct failure *f, struct slice name) {
    failure_meta(f, "group", "%.*s", (int)name.len, (const char *)name.data);
    failure_set(f, STATUS_GROUP_NOT_FOUND, "there is no consumer group \"%.*s\"", (int)name.len, (const char *)name.data);
}

const struct consumer_group_row *serve_group_row(const struct consumer_groups *groups, struct slice name) {
    for (unsigned i = 0; i < groups->count; i++) {
        struct consumer_definition d;
        if (!consumer_definition_decode(groups->rows[i].definition, &d) && slice_equal(d.name, name)) return &groups->rows[i];
    }
    return NULL;
}

struct op *serve_group_op(struct call *call, struct group_call *g, enum op_kind kind) {
    if (g->arena) arena_reset(g->arena);
    g->op.op = (struct op){
        .kind = kind,
        .slot = partition_first_slot(g->partition, call_core(call)->node->partition_count),
        .arena = g->arena ? g->arena : call_arena(call),
        .deadline_ns = call_deadline_ns(call),
    };
    return &g->op.op;
}

static bool failed(struct call *call, struct group_call *g) {
    if (!g->op.op.failure.status) return false;
    serve_fail_with(call, &g->op.op.failure);
    return true;
}

static void on_groups(struct call *call, struct call_op *o) {
    struct group_call *g = container_of(o, struct group_call, op);
    if (failed(call, g)) return;
    const struct consumer_group_row *row = serve_group_row(&o->op.groups, g->name);
    if (!row || consumer_definition_decode(row->definition, &g->definition)) {
        serve_group_not_found(call_failure(call), g->name);
        call_fail(call);
        return;
    }
    g->row = *row;
    g->found(call, g);
}

static struct group_call *group_call_new(struct call *call, const void *message) {
    struct group_call *g = arena_new(call_arena(call), struct group_call);
    if (!g) {
        serve_fail_memory(call);
        return NULL;
    }
    g->message = message;
    return g;
}

static void ask_meta(struct call *call, struct group_call *g, void (*next)(struct call *call, struct call_op *o)) {
    g->op.op = (struct op){.kind = OP_GROUPS, .slot = SLOT_META, .arena = call_arena(call), .deadline_ns = call_deadline_ns(call)};
    call_submit(call, &g->op, next);
}

void serve_group_find(struct call *call, const void *message, const char *name, void (*found)(struct call *call, struct group_call *g)) {
    if (!check_group_name(name, "group", call_failure(call)) || call_failure(call)->status) { /* the handler may have found more */
        call_fail(call);
        return;
    }
    struct group_call *g = group_call_new(call, message);
    if (!g) return;
    g->name = slice_str(name);
    g->found = found;
    ask_meta(call, g, on_groups);
}

/* ---- changes */

static void change_ended(struct call *call) { groups_changed(call_core(call)); }

static void bring_next(struct call *call, struct group_call *g);

static void on_brought(struct call *call, struct call_op *o) {
    struct group_call *g = container_of(o, struct group_call, op);
    if (failed(call, g)) return;
    g->partition++;
    bring_next(call, g);
}

static void bring_next(struct call *call, struct group_call *g) {
    const struct node *node = call_core(call)->node;
    bool remove = !g->row.definition.len;
    if (g->partition == node->partition_count) {
        call_reply(call, &g->row.definition, remove ? 0 : 1);
        return;
    }
    struct command c = {.type = COMMAND_GROUP_BRING, .bring = {.group_id = g->row.group_id, .remove = remove, .revision = g->row.revision, .definition = g->row.definition}};
    struct op *op = serve_group_op(call, g, OP_WRITE);
    op->command = command_encode(&c, call_arena(call));
    if (op->command.data) call_submit(call, &g->op, on_brought);
    else serve_fail_memory(call);
}

static void on_decided(struct call *call, struct call_op *o) {
    struct group_call *g = container_of(o, struct group_call, op);
    struct command c;
    if (failed(call, g)) return;
    if (command_decode(o->op.command, call_arena(call), &c)) {
        serve_fail_memory(call);
        return;
    }
    g->row = (struct consumer_group_row){.group_id = o->op.outcome.group.group_id, .revision = o->op.outcome.group.revision, .definition = c.group.definition};
    bring_next(call, g);
}

static void decide(struct call *call, struct group_call *g, struct slice command) {
    groups_changing(call_core(call));
    call_on_end(call, change_ended);
    g->op.op = (struct op){.kind = OP_WRITE, .slot = SLOT_META, .arena = call_arena(call), .deadline_ns = call_deadline_ns(call), .command = command};
    call_submit(call, &g->op, on_decided);
}

void serve_create_consumer_group(struct call *call) {
    struct slice command;
    Orderdb__V1__CreateConsumerGroupRequest *m = (void *)serve_decode(call, &orderdb__v1__create_consumer_group_request__descriptor);
    if (!m) return;
    if (!check_group_create(m->group, call_arena(call), &command, call_failure(call))) {
        call_fail(call);
        return;
    }
    struct group_call *g = group_call_new(call, m);
    if (g) decide(call, g, command);
}

static void update_found(struct call *call, struct group_call *g) {
    struct slice command;
    if (check_group_update(g->message, &g->definition, call_arena(call), &command, call_failure(call))) decide(call, g, command);
    else call_fail(call);
}

void serve_update_consumer_group(struct call *call) {
    struct slice command;
    struct consumer_definition any = {0};
    Orderdb__V1__UpdateConsumerGroupRequest *m = (void *)serve_decode(call, &orderdb__v1__update_consumer_group_request__descriptor);
    if (!m) return;
    /* What is wrong with the request is said whether the group is there or not. */
    if (m->group) any.name = slice_str(m->group->group);
    if (!check_group_update(m, &any, call_arena(call), &command, call_failure(call))) {
        call_fail(call);
        return;
    }
    serve_group_find(call, m, m->group->group, update_found);
}

static void delete_found(struct call *call, struct group_call *g) {
    struct command c = {.type = COMMAND_GROUP, .group = {.action = GROUP_DELETE, .name = g->name}};
    struct slice command = command_encode(&c, call_arena(call));
    if (command.data) decide(call, g, command);
    else serve_fail_memory(call);
}

void serve_delete_consumer_group(struct call *call) {
    Orderdb__V1__DeleteConsumerGroupRequest *m = (void *)serve_decode(call, &orderdb__v1__delete_consumer_group_request__descriptor);
    if (m) serve_group_find(call, m, m->group, delete_found);
}

/* ---- get, list */

unsigned serve_page_size(struct failure *f, int32_t sent, unsigned max, unsigned unset) {
    if (sent < 0) failure_violation(f, STATUS_FIELD_INVALID, "page_size", "%d; 1 to %u, or 0 for %u", (int)sent, max, unset);
    if (sent > (int64_t)max) failure_violation(f, STATUS_LIMIT_EXCEEDED, "page_size", "%d; at most %u", (int)sent, max);
    return sent ? (unsigned)sent : unset;
}

static void get_found(struct call *call, struct group_call *g) {
    enum { FIELD_SEEKING_SINCE = 11, CAP = PB_TIMESTAMP_BYTES_MAX + 8 };
    uint8_t *bytes = arena_alloc(call_arena(call), CAP);
    if (!bytes) {
        serve_fail_memory(call);
        return;
    }
    struct writer w = writer_of(bytes, CAP);
    if (g->row.seeking_us) pb_timestamp_us(&w, FIELD_SEEKING_SINCE, (int64_t)g->row.seeking_us);
    check(!w.full);
    const struct slice parts[] = {g->row.definition, writer_slice(&w)};
    call_reply(call, parts, ARRAY_LEN(parts));
}

void serve_get_consumer_group(struct call *call) {
    Orderdb__V1__GetConsumerGroupRequest *m = (void *)serve_decode(call, &orderdb__v1__get_consumer_group_request__descriptor);
    if (m) serve_group_find(call, m, m->group, get_found);
}

struct listed {
    struct slice name, definition;
};

static int by_name(const void *a, const void *b) { return slice_compare(((const struct listed *)a)->name, ((const struct listed *)b)->name); }

/* false: no memory. */
static bool list_reply(struct call *call, const struct listed *all, unsigned count, struct slice after, unsigned page_size) {
    const struct node *node = call_core(call)->node;
    unsigned first = 0;
    size_t cap = PAGE_TOKEN_NAMED_TEXT_BYTES_MAX + 16;
    while (first < count && after.len && slice_compare(all[first].name, after) <= 0) first++;
    unsigned end = MIN_OF(count, first + page_size);
    for (unsigned i = first; i < end; i++) cap += pb_bytes_max(all[i].definition);
    uint8_t *bytes = arena_alloc(call_arena(call), cap);
    if (!bytes) return false;
    struct writer w = writer_of(bytes, cap);
    for (unsigned i = first; i < end; i++) pb_message(&w, 1, &all[i].definition, 1);
    if (end < count) {
        char text[PAGE_TOKEN_NAMED_TEXT_BYTES_MAX + 3];
        pb_bytes(&w, 2, page_token_encode_named(PAGE_TOKEN_GROUPS, (struct hash128){0}, all[end - 1].name, slice_of(node->identity.token_key, sizeof node->identity.token_key), text));
    }
    check(!w.full);
    serve_reply(call, writer_slice(&w));
    return true;
}

static void on_list(struct call *call, struct call_op *o) {
    struct group_call *g = container_of(o, struct group_call, op);
    const Orderdb__V1__ListConsumerGroupsRequest *m = g->message;
    if (failed(call, g)) return;
    const struct consumer_groups *groups = &o->op.groups;
    struct listed *all = arena_array(call_arena(call), struct listed, (size_t)groups->count + 1);
    unsigned count = 0;
    for (unsigned i = 0; all && i < groups->count; i++) {
        struct consumer_definition d;
        if (!consumer_definition_decode(groups->rows[i].definition, &d)) all[count++] = (struct listed){d.name, groups->rows[i].definition};
    }
    if (all) qsort(all, count, sizeof *all, by_name);
    if (!all || !list_reply(call, all, count, g->name, serve_page_size(call_failure(call), m->page_size, GROUPS_PAGE_SIZE_MAX, GROUPS_PAGE_SIZE))) serve_fail_memory(call);
}

void serve_list_consumer_groups(struct call *call) {
    const struct node *node = call_core(call)->node;
    struct failure *f = call_failure(call);
    uint8_t after[PAGE_TOKEN_NAME_BYTES_MAX];
    size_t len = 0;
    Orderdb__V1__ListConsumerGroupsRequest *m = (void *)serve_decode(call, &orderdb__v1__list_consumer_groups_request__descriptor);
    if (!m) return;
    (void)serve_page_size(f, m->page_size, GROUPS_PAGE_SIZE_MAX, GROUPS_PAGE_SIZE);
    if (m->page_token[0] && !page_token_decode_named(slice_str(m->page_token), PAGE_TOKEN_GROUPS, (struct hash128){0}, slice_of(node->identity.token_key, sizeof node->identity.token_key), after, &len))
        failure_violation(f, STATUS_PAGE_TOKEN_INVALID, "page_token", "is not one of this list's: begin again without one");
    if (f->status) {
        call_fail(call);
        return;
    }
    struct group_call *g = group_call_new(call, m);
    if (!g) return;
    g->name = arena_copy(call_arena(call), slice_of(after, len));
    ask_meta(call, g, on_list);
}

/* ---- lag */

static void lag_reply(struct call *call, const struct consumer_lag *lag) {
    enum { CAP = 9 * PB_INT_BYTES_MAX };
    uint8_t inner[2 * PB_INT_BYTES_MAX], *bytes = arena_alloc(call_arena(call), CAP);
    if (!bytes) {
        serve_fail_memory(call);
        return;
    }
    uint64_t now = (uint64_t)clock_wall_us(), age = lag->oldest_us && now > lag->oldest_us ? now - lag->oldest_us : 0;
    struct writer d = writer_of(inner, sizeof inner), w = writer_of(bytes, CAP);
    pb_int64(&d, 1, (int64_t)(age / US_PER_S));
    pb_int64(&d, 2, (int64_t)(age % US_PER_S * 1000));
    struct slice duration = writer_slice(&d);
    pb_message(&w, 1, &duration, 1);
    pb_int64(&w, 2, (int64_t)lag->events);
    pb_int64(&w, 3, (int64_t)lag->in_flight);
    pb_int64(&w, 4, (int64_t)lag->blocked_keys);
    pb_int64(&w, 5, (int64_t)lag->dead_letters);
    pb_int64(&w, 6, lag->members);
    pb_int64(&w, 7, (int64_t)lag->orders_left);
    pb_bool(&w, 8, lag->estimated);
    check(!w.full);
    serve_reply(call, writer_slice(&w));
}

static void lag_next(struct call *call, struct group_call *g);

static void on_lag(struct call *call, struct call_op *o) {
    struct group_call *g = container_of(o, struct group_call, op);
    struct consumer_lag *sum = g->own;
    const struct consumer_lag *one = &o->op.lag;
    if (failed(call, g)) return;
    if (one->oldest_us && (!sum->oldest_us || one->oldest_us < sum->oldest_us)) sum->oldest_us = one->oldest_us;
    sum->events += one->events;
    sum->estimated |= one->estimated;
    sum->orders_left += one->orders_left;
    sum->in_flight += one->in_flight;
    sum->blocked_keys += one->blocked_keys;
    sum->dead_letters += one->dead_letters;
    sum->members = MAX_OF(sum->members, one->members); /* each is attached everywhere */
    g->partition++;
    lag_next(call, g);
}

static void lag_next(struct call *call, struct group_call *g) {
    if (g->partition == call_core(call)->node->partition_count) {
        lag_reply(call, g->own);
        return;
    }
    serve_group_op(call, g, OP_GROUP_LAG)->lag.group_id = g->row.group_id;
    call_submit(call, &g->op, on_lag);
}

static void lag_found(struct call *call, struct group_call *g) {
    g->own = arena_new(call_arena(call), struct consumer_lag);
    if (g->own) lag_next(call, g);
    else serve_fail_memory(call);
}

void serve_get_group_lag(struct call *call) {
    Orderdb__V1__GetGroupLagRequest *m = (void *)serve_decode(call, &orderdb__v1__get_group_lag_request__descriptor);
    if (m) serve_group_find(call, m, m->group, lag_found);
}

/* Dead letters of a group: list, redrive, purge. Walks over the partitions in the order of their slots, a page of letters at a time. Redriven letters go out as the dispatchers give them,
 * in the order of their keys, max_per_second in all; the answer does not wait for that.
 *
 * With `blocked` the same walks over the events at which keys are blocked (on_exhausted BLOCK), and what would be a command is an OP_GROUP_UNBLOCK: they are the dispatchers' memory. */
#include "engine/filter.h"
#include "engine/page_token.h"
#include "orderdb/v1/stream.pb-c.h"
#include "proto/pbwire.h"
#include "proto/route.h"
#include "server/core.h"
#include "server/node.h"
#include "server/serve_group.h"

enum {
    LETTERS_PAGE_SIZE = 50,
    LETTERS_PAGE_BYTES = 1 << 20, /* a page ends when it is above it */
    PER_SECOND_MAX = 1000000,
};

struct letters {
    bool blocked;
    const struct filter *filter;
    struct slice filter_text;
    struct consumer_letter_ref after;
    /* list */
    unsigned page_size, count, answers_count;
    size_t bytes;
    struct slice *answers; /* [partitions] */
    /* redrive, purge */
    bool dry_run, purge;
    uint32_t per_second;
    int64_t done;
    struct arena *refs_arena; /* a command of them, while the op's arena is away */
};

static void letters_next(struct call *call, struct group_call *g);

static bool letters_failed(struct call *call, struct call_op *o) {
    if (!o->op.failure.status) return false;
    serve_fail_with(call, &o->op.failure);
    return true;
}

/* NULL: the call has failed. */
static struct letters *letters_new(struct call *call, const char *filter) {
    struct letters *l = arena_new(call_arena(call), struct letters);
    if (!l) {
        serve_fail_memory(call);
        return NULL;
    }
    l->filter_text = slice_str(filter);
    if (filter[0] && filter_parse(&l->filter, l->filter_text, &filter_events, "filter", call_arena(call), call_failure(call))) {
        call_fail(call);
        return NULL;
    }
    if (l->filter && filter_is_empty(l->filter)) l->filter = NULL;
    *call_state(call) = l;
    return l;
}

static void letters_found(struct call *call, struct group_call *g) {
    struct letters *l = g->own = *call_state(call);
    g->arena = call_arena_take(call);
    l->refs_arena = call_arena_take(call);
    g->partition = partition_of_slot(l->after.slot, call_core(call)->node->partition_count);
    if (g->arena && l->refs_arena) letters_next(call, g);
    else serve_fail_memory(call);
}

/* ---- list */

static struct hash128 list_fingerprint(const struct group_call *g, const struct letters *l) {
    uint8_t id[4];
    put_be32(id, g->row.group_id);
    const struct hash128 filter = hash128(l->filter_text), group = hash128(slice_of(id, sizeof id));
    return (struct hash128){.high = filter.high ^ group.high, .low = filter.low ^ group.low ^ l->blocked};
}

static void list_reply(struct call *call, struct group_call *g, bool more) {
    struct letters *l = g->own;
    const struct node *node = call_core(call)->node;
    if (more) {
        char text[PAGE_TOKEN_TEXT_BYTES];
        struct page_token t = {.kind = PAGE_TOKEN_LETTERS, .query = list_fingerprint(g, l), .position = {l->after.slot, l->after.seq}};
        size_t cap = PAGE_TOKEN_TEXT_BYTES + 16;
        uint8_t *bytes = arena_alloc(call_arena(call), cap);
        if (!bytes) {
            serve_fail_memory(call);
            return;
        }
        struct writer w = writer_of(bytes, cap);
        pb_bytes(&w, 2, page_token_encode(&t, slice_of(node->identity.token_key, sizeof node->identity.token_key), text));
        check(!w.full);
        l->answers[l->answers_count++] = writer_slice(&w);
    }
    call_reply(call, l->answers, l->answers_count);
}

static void on_listed(struct call *call, struct call_op *o) {
    struct group_call *g = container_of(o, struct group_call, op);
    struct letters *l = g->own;
    const struct consumer_letters *r = &o->op.letters;
    if (letters_failed(call, o)) return;
    l->after = r->after;
    l->count += r->count;
    l->bytes += o->op.answer.len;
    if (o->op.answer.len && !(l->answers[l->answers_count++] = arena_copy(l->refs_arena, o->op.answer)).data) {
        serve_fail_memory(call);
        return;
    }
    if (r->more && (l->count == l->page_size || l->bytes > LETTERS_PAGE_BYTES / 2 || r->count)) {
        list_reply(call, g, true);
        return;
    }
    if (!r->more) { /* the partition has no more of them */
        uint32_t next = ++g->partition, partitions = call_core(call)->node->partition_count;
        if (next < partitions) l->after = (struct consumer_letter_ref){partition_first_slot(next, partitions), 0};
    }
    bool all = g->partition == call_core(call)->node->partition_count;
    if (all || l->count == l->page_size || l->bytes > LETTERS_PAGE_BYTES / 2) list_reply(call, g, !all);
    else letters_next(call, g);
}

static bool read_page(struct call *call, struct group_call *g, struct letters *l, const Orderdb__V1__ListDeadLettersRequest *m) {
    const struct node *node = call_core(call)->node;
    struct page_token t = {.kind = PAGE_TOKEN_LETTERS, .query = list_fingerprint(g, l)};
    if (!m->page_token[0]) return true;
    if (!page_token_decode(slice_str(m->page_token), slice_of(node->identity.token_key, sizeof node->identity.token_key), &t)) {
        failure_violation(call_failure(call), STATUS_PAGE_TOKEN_INVALID, "page_token", "is not one of this list's (group, filter): begin again without one");
        call_fail(call);
        return false;
    }
    l->after = (struct consumer_letter_ref){(uint16_t)t.position[0], t.position[1]};
    return true;
}

static void list_found(struct call *call, struct group_call *g) {
    struct letters *l = *call_state(call);
    l->answers = arena_array(call_arena(call), struct slice, (size_t)call_core(call)->node->partition_count + 2);
    if (!l->answers) {
        serve_fail_memory(call);
        return;
    }
    if (!read_page(call, g, l, g->message)) return;
    letters_found(call, g);
}

void serve_list_dead_letters(struct call *call) {
    Orderdb__V1__ListDeadLettersRequest *m = (void *)serve_decode(call, &orderdb__v1__list_dead_letters_request__descriptor);
    if (!m) return;
    unsigned page_size = serve_page_size(call_failure(call), m->page_size, CONSUMER_LETTERS_PAGE_MAX, LETTERS_PAGE_SIZE);
    struct letters *l = letters_new(call, m->filter);
    if (!l) return;
    l->page_size = page_size;
    l->blocked = m->blocked;
    serve_group_find(call, m, m->group, list_found);
}

/* ---- redrive, purge */

static void change_reply(struct call *call, const struct letters *l) {
    uint8_t *bytes = arena_alloc(call_arena(call), PB_INT_BYTES_MAX);
    if (!bytes) {
        serve_fail_memory(call);
        return;
    }
    struct writer w = writer_of(bytes, PB_INT_BYTES_MAX);
    pb_int64(&w, 1, l->done);
    serve_reply(call, writer_slice(&w));
}

static void change_goes_on(struct call *call, struct group_call *g, bool more) {
    if (!more) g->partition++;
    if (g->partition == call_core(call)->node->partition_count) change_reply(call, g->own);
    else letters_next(call, g);
}

static void on_changed(struct call *call, struct call_op *o) {
    struct group_call *g = container_of(o, struct group_call, op);
    struct letters *l = g->own;
    if (letters_failed(call, o)) return;
    l->done += o->op.outcome.group.count;
    letters_next(call, g); /* the page after these; an empty one ends the partition */
}

static void on_unblocked(struct call *call, struct call_op *o) {
    struct group_call *g = container_of(o, struct group_call, op);
    struct letters *l = g->own;
    if (letters_failed(call, o)) return;
    l->done += o->op.letters.count;
    letters_next(call, g);
}

static void unblock(struct call *call, struct group_call *g, const struct consumer_letters *r) {
    struct letters *l = g->own;
    struct consumer_letter_ref *refs = arena_array(l->refs_arena, struct consumer_letter_ref, (size_t)r->count);
    if (!refs) {
        serve_fail_memory(call);
        return;
    }
    memcpy(refs, r->refs, r->count * sizeof *refs); /* those are in the op's arena */
    serve_group_op(call, g, OP_GROUP_UNBLOCK)->letters = (struct consumer_letters){.group_id = g->row.group_id, .refs = refs, .count = r->count, .skip = l->purge};
    call_submit(call, &g->op, on_unblocked);
}

/* In 1,000 s, of one of n partitions; never 0, which is "any". */
static uint32_t milli_of(uint32_t per_second, uint32_t n) { return per_second ? (uint32_t)MAX_OF((uint64_t)per_second * 1000 / n, (uint64_t)1) : 0; }

static void on_refs(struct call *call, struct call_op *o) {
    struct group_call *g = container_of(o, struct group_call, op);
    struct letters *l = g->own;
    const struct consumer_letters r = o->op.letters;
    if (letters_failed(call, o)) return;
    l->after = r.after;
    if (l->dry_run || r.count == 0) {
        l->done += r.count;
        change_goes_on(call, g, r.more);
        return;
    }
    struct command c = {.type = COMMAND_GROUP_REDRIVE, .redrive = {.group_id = g->row.group_id, .action = l->purge ? LETTERS_PURGE : LETTERS_REDRIVE,
                                                                  .milli = milli_of(l->per_second, call_core(call)->node->partition_count), .count = r.count}};
    arena_reset(l->refs_arena);
    if (l->blocked) {
        unblock(call, g, &r);
        return;
    }
    size_t cap = (size_t)r.count * 10;
    uint8_t *bytes = arena_alloc(l->refs_arena, cap);
    struct writer w = writer_of(bytes, bytes ? cap : 0);
    for (unsigned i = 0; bytes && i < r.count; i++) {
        write_be16(&w, r.refs[i].slot);
        write_be64(&w, (uint64_t)r.refs[i].seq);
    }
    c.redrive.packed = writer_slice(&w);
    struct slice command = bytes ? command_encode(&c, l->refs_arena) : (struct slice){0};
    if (!command.data) {
        serve_fail_memory(call);
        return;
    }
    serve_group_op(call, g, OP_WRITE)->command = command;
    call_submit(call, &g->op, on_changed);
}

static void letters_next(struct call *call, struct group_call *g) {
    struct letters *l = g->own;
    uint16_t first = partition_first_slot(g->partition, call_core(call)->node->partition_count);
    if (l->after.slot < first) l->after = (struct consumer_letter_ref){first, 0};
    serve_group_op(call, g, OP_GROUP_LETTERS)->letters = (struct consumer_letters){
        .group_id = g->row.group_id,
        .filter = l->filter,
        .filter_text = l->filter_text,
        .after = l->after,
        .count_max = l->page_size ? l->page_size - l->count : GROUP_REFS_MAX,
        .refs_only = !l->page_size,
        .dead_only = true,
        .blocked = l->blocked,
    };
    call_submit(call, &g->op, l->page_size ? on_listed : on_refs);
}

void serve_redrive_dead_letters(struct call *call) {
    Orderdb__V1__RedriveDeadLettersRequest *m = (void *)serve_decode(call, &orderdb__v1__redrive_dead_letters_request__descriptor);
    if (!m) return;
    if (m->max_per_second < 0 || m->max_per_second > PER_SECOND_MAX)
        failure_violation(call_failure(call), m->max_per_second < 0 ? STATUS_FIELD_INVALID : STATUS_LIMIT_EXCEEDED, "max_per_second", "%d; 1 to %d, or 0 for any number", (int)m->max_per_second, PER_SECOND_MAX);
    if (m->blocked && m->max_per_second) failure_violation(call_failure(call), STATUS_FIELD_INVALID, "max_per_second", "is for dead letters: each blocked key goes on with one event, at once");
    struct letters *l = letters_new(call, m->filter);
    if (!l) return;
    l->blocked = m->blocked;
    l->dry_run = m->dry_run;
    l->per_second = (uint32_t)m->max_per_second;
    serve_group_find(call, m, m->group, letters_found);
}

void serve_purge_dead_letters(struct call *call) {
    Orderdb__V1__PurgeDeadLettersRequest *m = (void *)serve_decode(call, &orderdb__v1__purge_dead_letters_request__descriptor);
    if (!m) return;
    struct letters *l = letters_new(call, m->filter);
    if (!l) return;
    l->blocked = m->blocked;
    l->dry_run = m->dry_run;
    l->purge = true;
    serve_group_find(call, m, m->group, letters_found);
}

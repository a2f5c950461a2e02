#include "engine/recover.h"

#include <stdio.h>

#include "engine/node_row.h"
#include "engine/partition.h"
#include "proto/base/log.h"

/* Votes first, for all partitions at once, then the records: entries of a term never reach the disk before the term does. The members' record is a partition's last, as it is what tells that
 * all is done. A crash leaves some partitions alone and others not; terms that were taken for nothing do no harm. */

static struct recover_replica look(const struct partition *p) {
    uint64_t voted_for = 0, self = p->engine->config.node_id;
    struct recover_replica r = {
        .partition = p->id,
        .applied_index = p->record.applied_index,
        .applied_term = p->record.applied_term,
        .last_index = group_last_index(p->group),
        .last_term = p->record.applied_term,
        .orders = p->record.order_count,
        .members = p->record.members,
        .holds = group_last_index(p->group) > GROUP_FIRST_INDEX,
        .forgot = p->returning != NULL || (p->away && group_last_index(p->group) > GROUP_FIRST_INDEX),
    };
    struct group_entry entry;
    for (uint64_t index = r.applied_index + 1; index <= r.last_index; index++) {
        check(group_entry(p->group, index, &entry));
        r.last_term = entry.term;
        if (entry.type == GROUP_CHANGE) check(group_members_decode(entry.data, &r.members));
    }
    (void)votes_get(p->engine->votes, p->group_id, &r.term, &voted_for);
    r.term = MAX_OF(r.term, r.last_term); /* the log may know a later one: they are synced apart */
    unsigned voters = 0;
    for (uint32_t i = 0; i < r.members.count; i++) {
        if (r.members.member[i].kind != GROUP_VOTER) continue;
        voters++;
        r.votes |= r.members.member[i].node_id == self;
    }
    r.alone = r.votes && voters == 1;
    return r;
}

uint32_t recover_look(const struct engine *e, struct recover_replica *out, uint32_t max) {
    uint32_t n = MIN_OF(e->held_count, max);
    for (uint32_t i = 0; i < n; i++) out[i] = look(&e->partitions[i]);
    return n;
}

/* ---- the records */

struct recovering {
    struct engine *e;
    void (*turn)(void *ctx);
    void *ctx;
    char *error;
};

static void on_votes(void *ctx) {}

/* The log has no room while its next segment is being made, or its batch is full. */
static enum status append(struct recovering *x, const struct partition *p, uint64_t index, uint64_t term, enum group_entry_type type, struct slice data) {
    struct wal *wal = x->e->wal;
    for (;;) {
        enum status st = wal_append(wal, p->group_id, index, term, (uint8_t)type, &data, 1);
        if (st != STATUS_OVERLOADED) return st ? snprintf(x->error, 256, "partition %s: its log takes no more: %s", p->name, status_name(st)), st : STATUS_OK;
        (void)wal_commit(wal);
        wal_tick(wal);
        x->turn(x->ctx);
    }
}

static enum status append_nodes(struct recovering *x, const struct partition *p, uint64_t index, uint64_t term) {
    struct engine *e = x->e;
    struct command alone = {.type = COMMAND_NODE, .node = {.action = NODE_ALONE, .node_id = e->config.node_id}};
    struct slice command = command_encode(&alone, &e->scratch);
    if (!command.data) return STATUS_MEMORY_LIMIT;
    uint8_t bytes[ENTRY_HEAD_BYTES_MAX + 10 + 128];
    struct writer w = writer_of(bytes, sizeof bytes);
    int64_t now_us = e->env->ops->wall_us(e->env);
    entry_head_encode(&w, MAX_OF(p->record.log_time_us, (uint64_t)MAX_OF(now_us, (int64_t)0)), 1); /* apply knows better, if the log behind the store is later still */
    write_counted(&w, command);
    check(!w.full);
    return append(x, p, index, term, GROUP_COMMAND, writer_slice(&w));
}

static enum status make_alone(struct recovering *x, const struct partition *p, const struct recover_replica *r, uint64_t term) {
    uint64_t self = x->e->config.node_id, index = r->last_index + 1;
    uint8_t bytes[2 + 8 + 9 * GROUP_MEMBERS_MAX];
    enum status st = STATUS_OK;
    if (p->id == PARTITION_META) st = append_nodes(x, p, index++, term);
    if (st) return st;
    struct group_members alone = {.member = {{.node_id = self, .kind = GROUP_VOTER}}, .count = 1, .index = index};
    size_t len = group_members_encode(&alone, bytes, sizeof bytes);
    check(len > 0);
    return append(x, p, index, term, GROUP_CHANGE, slice_of(bytes, len));
}

enum status recover_alone(struct engine *e, void (*turn)(void *ctx), void *ctx, char error[256]) {
    struct recovering x = {.e = e, .turn = turn, .ctx = ctx, .error = error};
    enum status st = STATUS_OK;
    error[0] = 0;
    for (uint32_t i = 0; i < e->held_count; i++) {
        struct recover_replica r = look(&e->partitions[i]);
        if (!r.alone) check(votes_set(e->votes, e->partitions[i].group_id, r.term + 1, e->config.node_id) == STATUS_OK);
    }
    if (votes_dirty(e->votes)) votes_commit(e->votes, on_votes, e);
    while (votes_busy(e->votes)) turn(ctx);
    for (uint32_t i = 0; !st && i < e->held_count; i++) {
        const struct partition *p = &e->partitions[i];
        struct recover_replica r = look(p);
        if (!r.alone) st = make_alone(&x, p, &r, r.term); /* the term that was just taken */
        arena_reset(&e->scratch);
    }
    (void)wal_commit(e->wal);
    while (wal_busy(e->wal)) turn(ctx);
    if (st && !error[0]) snprintf(error, 256, "the log of core %u: %s", e->config.core, status_name(st));
    return st;
}

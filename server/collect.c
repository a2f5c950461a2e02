#include "server/collect.h"

#include "proto/base/mem.h"
#include "server/node.h"

static void on_home(struct mail_task *t, struct core *on) {
    struct collect *c = container_of(t, struct collect_core, task)->collect;
    check(on == c->home);
    check(c->left > 0);
    if (--c->left == 0) c->done(c);
}

static void on_core(struct mail_task *t, struct core *on) {
    struct collect_core *cc = container_of(t, struct collect_core, task);
    if (on->engine) {
        engine_get_stats(on->engine, &cc->stats);
        if (cc->stats.wal) cc->wal = *cc->stats.wal;
        cc->partition_count = engine_partition_stats(on->engine, cc->partitions, cc->partition_cap);
    }
    cc->stats.wal = &cc->wal;
    t->run = on_home;
    mail_send_task(on, cc->collect->home->id, t);
}

struct collect *collect_start(struct core *home, void (*done)(struct collect *c), void *ctx) {
    const struct node *node = home->node;
    uint32_t n = node->core_count, a_core = node->partition_count / n + 1;
    struct collect *c = mem_zalloc(sizeof *c + n * sizeof c->cores[0] + (size_t)n * a_core * sizeof(struct partition_stats));
    if (!c) return NULL;
    struct partition_stats *room = (struct partition_stats *)(void *)&c->cores[n];
    c->home = home, c->done = done, c->ctx = ctx;
    c->left = c->core_count = n;
    for (uint32_t i = 0; i < n; i++) {
        struct collect_core *cc = &c->cores[i];
        cc->collect = c;
        cc->partitions = room + (size_t)i * a_core;
        cc->partition_cap = a_core;
        cc->task.run = on_core;
        mail_send_task(home, i, &cc->task);
    }
    return c;
}

void collect_free(struct collect *c) { mem_free(c); }

#include "server/mail.h"

#include "proto/base/mem.h"
#include "proto/route.h"
#include "server/core.h"
#include "server/node.h"
#include "server/readers.h"

/* What travels is one pointer; its low bits say to what. A chain's direction needs no bit: a hop that reaches its home core comes home, any other
 * brings work. */
enum mail_kind { MAIL_CHAIN, MAIL_TASK, MAIL_JOB, MAIL_KIND_MASK = 7 };

struct mail {
    struct core *core;
    uint32_t core_count;
    struct list outbound[]; /* by target core: hops, those that go out and those that go home */
};

static void on_message(void *ctx, void *pointer);

struct mail *mail_new(struct core *core) {
    uint32_t n = core->node->core_count;
    struct mail *m = mem_zalloc(sizeof *m + n * sizeof m->outbound[0]);
    if (!m) return NULL;
    m->core = core;
    m->core_count = n;
    for (uint32_t i = 0; i < n; i++) list_init(&m->outbound[i]);
    ring_on_message(core->ring, on_message, m);
    return m;
}

void mail_free(struct mail *m) {
    if (!m) return;
    for (uint32_t i = 0; i < m->core_count; i++) check(list_empty(&m->outbound[i]));
    mem_free(m);
}

static void *tagged(void *p, enum mail_kind kind) {
    check(((uintptr_t)p & MAIL_KIND_MASK) == 0);
    return (void *)((uintptr_t)p | kind);
}

/* ---- ops */

/* On the core that owns the partition. */
static void submit(struct core *here, struct op *op) {
    if (here->route) here->route->submit(here, op);
    else engine_submit(here->engine, op);
}

/* On the core that owns the partition, or on the home core when they are one. */
static void on_op_done(struct op *op) {
    struct mail_hop *hop = op->owner;
    struct core *here = core_self;
    check(hop->op == op);
    if (op->failure.status == STATUS_NOT_LEADER && here->route && here->route->again(here, op)) return;
    if (hop->home_core == here->id) hop->home(hop);
    else list_push_back(&here->mail->outbound[hop->home_core], &hop->link);
}

void mail_send_op(struct core *from, struct mail_hop *hop, struct op *op, void (*home)(struct mail_hop *hop)) {
    hop->op = op;
    hop->home_core = from->id;
    hop->home = home;
    op->owner = hop;
    op->done = on_op_done;
    uint32_t owner = node_core_of_slot(from->node, op->slot);
    if (owner == from->id) submit(from, op);
    else list_push_back(&from->mail->outbound[owner], &hop->link);
}

static void on_chain(struct mail *m, struct mail_hop *hop) {
    /* The ring of links became a line when it was sent; next is read before the hop is handed on, for it may be gone after. */
    while (hop) {
        struct mail_hop *next = hop->link.next ? list_entry(hop->link.next, struct mail_hop, link) : NULL;
        metric_add(&m->core->metrics, METRIC_MAIL_OPS, 1);
        list_init(&hop->link);
        if (hop->home_core == m->core->id) hop->home(hop);
        else submit(m->core, hop->op);
        hop = next;
    }
}

void mail_flush(struct core *core) {
    struct mail *m = core->mail;
    for (uint32_t to = 0; to < m->core_count; to++) {
        struct list *head = &m->outbound[to];
        if (list_empty(head)) continue;
        check(to != core->id);
        struct mail_hop *first = list_entry(head->next, struct mail_hop, link);
        head->prev->next = NULL;
        list_init(head);
        metric_add(&core->metrics, METRIC_MAIL_MESSAGES, 1);
        ring_message(core->ring, core->node->cores[to]->ring_fd, tagged(first, MAIL_CHAIN));
    }
}

/* ---- tasks and jobs */

void mail_send_task(struct core *from, uint32_t to_core, struct mail_task *task) {
    check(to_core < from->node->core_count);
    ring_message(from->ring, from->node->cores[to_core]->ring_fd, tagged(task, MAIL_TASK));
}

void mail_send_task_from(struct ring *own, struct core *to, struct mail_task *task) { ring_message_now(own, to->ring_fd, tagged(task, MAIL_TASK)); }
void mail_send_job_home(struct ring *own, struct core *to, struct env_job *job) { ring_message_now(own, to->ring_fd, tagged(job, MAIL_JOB)); }

static void on_message(void *ctx, void *pointer) {
    struct mail *m = ctx;
    void *p = (void *)((uintptr_t)pointer & ~(uintptr_t)MAIL_KIND_MASK);
    switch ((uintptr_t)pointer & MAIL_KIND_MASK) {
    case MAIL_CHAIN: on_chain(m, p); break;
    case MAIL_TASK: ((struct mail_task *)p)->run(p, m->core); break;
    case MAIL_JOB: readers_on_home(m->core, p); break;
    default: check(false);
    }
}

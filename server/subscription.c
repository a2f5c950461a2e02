#include "server/subscription.h"

#include <string.h>

#include "proto/base/mem.h"
#include "proto/route.h"
#include "server/clock.h"
#include "server/core.h"
#include "server/mail.h"
#include "server/node.h"

enum { DETACH_ARENA_BYTES = 16 << 10 };

struct detach {
    struct op op;
    struct mail_hop hop;
    struct subscription *subscription;
    struct arena arena; /* of words that nobody reads */
};
struct subscription {
    struct core *core;
    struct consumer_session session;
    uint8_t member_id[CONSUMER_MEMBER_ID_BYTES_MAX];
    uint32_t group_id, count, away;
    bool begun, put;
    void (*on_detached)(void *owner);
    void *owner;
    struct detach detaches[];
};

uint64_t subscription_session_id(void) {
    static uint64_t last_id;
    return __atomic_add_fetch(&last_id, 1, __ATOMIC_RELAXED);
}

struct subscription *subscription_new(struct core *core, uint32_t group_id, struct slice member_id) {
    uint32_t n = core->node->partition_count;
    struct subscription *s = mem_zalloc(sizeof *s + n * sizeof s->detaches[0]);
    if (!s) return NULL;
    check(member_id.len <= sizeof s->member_id);
    memcpy(s->member_id, member_id.data, member_id.len);
    s->core = core;
    s->group_id = group_id;
    s->count = n;
    s->session.id = subscription_session_id();
    s->session.opened_us = (uint64_t)clock_wall_us();
    s->session.member_id = slice_of(s->member_id, member_id.len);
    for (uint32_t i = 0; i < n; i++) {
        s->detaches[i].subscription = s;
        arena_init(&s->detaches[i].arena, DETACH_ARENA_BYTES);
    }
    return s;
}

struct consumer_session *subscription_session(struct subscription *s) { return &s->session; }

static void subscription_free(struct subscription *s) {
    for (uint32_t i = 0; i < s->count; i++) arena_fini(&s->detaches[i].arena);
    mem_free(s);
}

static void on_home(struct mail_hop *hop) {
    struct subscription *s = container_of(hop, struct detach, hop)->subscription;
    check(s->away > 0);
    if (--s->away) return;
    if (s->put) subscription_free(s);
    else if (s->on_detached) s->on_detached(s->owner);
}

void subscription_detach(struct subscription *s) {
    if (s->begun) return;
    s->begun = true;
    s->away = s->count;
    for (uint32_t i = 0; i < s->count; i++) {
        struct detach *d = &s->detaches[i];
        d->op = (struct op){.kind = OP_GROUP_DETACH, .slot = partition_first_slot(i, s->count), .arena = &d->arena};
        d->op.consumer.group_id = s->group_id;
        d->op.consumer.session = &s->session;
        failure_init(&d->op.failure, &d->arena);
        mail_send_op(s->core, &d->hop, &d->op, on_home);
    }
}

void subscription_on_detached(struct subscription *s, void (*on_detached)(void *owner), void *owner) {
    s->on_detached = on_detached;
    s->owner = owner;
}

void subscription_put(struct subscription *s) {
    s->put = true;
    subscription_detach(s);
    if (s->away == 0) subscription_free(s);
}

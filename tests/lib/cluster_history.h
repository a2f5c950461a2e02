/* What clients of sim_cluster.c saw of orders, and whether one order of things explains it.
 *
 * Versions are dense and each was made by one write, so the histories that all replicas end with already say in which order the writes of an order took place: nothing is searched for. A read of
 * version v stands behind the write of v and before the write of v + 1; reads of one version stand as they like. Such places are linearizable if and only if no operation ended before another
 * began that has a place before it. (Where "ended before it began" and "has a place before it" make a circle, a shortest one has two steps: of a ended before b began, and c before d, a ended before d
 * began or c before b; so a longer circle holds a shorter one.) A read that may be stale begins earlier by that much; one that asks for a token's commit alone, at the beginning of time. What a timer
 * wrote has a place and no interval. Orders are linearizable together if each is (Herlihy and Wing, 1990, 3.2). The same for a request_id is in attempt_ended: one answer, done afresh once at most. */
#ifndef TESTS_LIB_CLUSTER_HISTORY_H
#define TESTS_LIB_CLUSTER_HISTORY_H

#include "tests/lib/cluster_check.h"

static void history_add(struct sim *s, const struct request *order, int64_t place, uint64_t from_ns, uint64_t to_ns) {
    REQUIRE(s->seen_count < SEEN_MAX, "too many reads");
    s->seen[s->seen_count++] = (struct seen){order, place, from_ns, to_ns};
}

static int by_place(const void *a, const void *b) {
    const struct seen *x = a, *y = b;
    return x->order->number != y->order->number ? (x->order->number < y->order->number ? -1 : 1) : x->place < y->place ? -1 : x->place > y->place;
}

static void check_history(struct sim *s, const struct seen *seen, unsigned count) {
    uint64_t begun_ns = 0; /* the latest beginning of what has a place before */
    for (unsigned i = 0; i < count;) {
        unsigned k = i;
        uint64_t latest_ns = begun_ns;
        for (; k < count && seen[k].place == seen[i].place; k++) {
            REQUIRE(seen[k].to_ns >= begun_ns, "order %lld: its version %lld was %s by %.3f ms, and what is older was %s", (long long)seen[k].order->order_id, (long long)seen[k].place / 2,
                    seen[k].place % 2 ? "read" : "written", (double)seen[k].to_ns / 1e6, "begun and seen later");
            latest_ns = MAX_OF(latest_ns, seen[k].from_ns);
        }
        begun_ns = latest_ns, i = k;
    }
}

/* A list's total: the orders that were acknowledged when it began are counted, and none that was asked for when it had ended. */
static void check_lists(struct sim *s) {
    for (unsigned i = 0; i < s->listed_count; i++) {
        const struct listed *l = &s->listed[i];
        int64_t least = 0, most = 0;
        for (unsigned k = 0; k < s->request_count; k++) {
            const struct request *r = &s->requests[k];
            if (r->create || r->user != l->user) continue;
            least += r->acked && r->answered_ns < l->from_ns, most += r->asked_ns < l->to_ns;
        }
        REQUIRE(l->total >= least && l->total <= most, "user %u: a list at %.3f ms counts %lld orders, %lld were acknowledged and %lld asked for", l->user, (double)l->to_ns / 1e6, (long long)l->total, (long long)least,
                (long long)most);
    }
}

static void check_histories(struct sim *s) {
    for (unsigned i = 0; i < s->request_count; i++) {
        const struct request *r = &s->requests[i];
        if (r->acked) history_add(s, r->create ? r->create : r, 2 * r->own_version, r->asked_ns, r->answered_ns);
    }
    qsort(s->seen, s->seen_count, sizeof s->seen[0], by_place);
    for (unsigned i = 0, k = 0; i < s->seen_count; i = k) {
        while (k < s->seen_count && s->seen[k].order == s->seen[i].order) k++;
        check_history(s, &s->seen[i], k - i);
    }
    check_lists(s);
}

#endif

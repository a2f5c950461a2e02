/* A member of a consumer group: a handler for each event, one at a time for each user, several users at once; start the program more than once to share the work. Against
 * a server that runs and has the group:
 *
 *   cc $(pkg-config --cflags orderdb) consume_group.c $(pkg-config --libs orderdb) -o consume_group
 *   ./consume_group 127.0.0.1:7400 payments       # until Ctrl-C
 *   ./consume_group 127.0.0.1:7400 payments 100   # so many events, then it stops
 */
#include <orderdb.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static struct orderdb_consumer *consumer;
static atomic_long left;

static void stop_on_signal(int number) {
    (void)number;
    orderdb_consumer_stop(consumer);
}

/* On any of the consumer's threads. An event may come again, as after a lost connection: event_id, or slot and seq, tell. */
static enum orderdb_verdict handle(void *user, struct orderdb_delivery *d) {
    const Orderdb__V1__ChangeEvent *e = orderdb_delivery_event(d);
    (void)user;
    if (!e->after) {
        orderdb_delivery_note(d, 0, "an event without an order");
        return ORDERDB_DEAD;
    }
    if (strcmp(e->after->status, "PAID") == 0 && getenv("SHOP_CLOSED")) {
        orderdb_delivery_note(d, 60000, "the shop is closed"); /* this user's later events wait for a minute, others' do not */
        return ORDERDB_NACK;
    }
    printf("%s order %lld of %s: %s\n", e->event_id, (long long)e->order_id, e->user_id, e->after->status);
    if (atomic_fetch_sub(&left, 1) == 1) orderdb_consumer_stop(consumer);
    return ORDERDB_ACK;
}

int main(int argc, char **argv) {
    if (argc < 3) return fprintf(stderr, "usage: %s HOST:PORT GROUP [EVENTS]\n", argv[0]), 2;
    atomic_init(&left, argc > 3 ? atol(argv[3]) : 0);
    consumer = orderdb_consumer_open(argv[1], NULL, argv[2], NULL, handle, NULL);
    if (!consumer) return perror("orderdb_consumer_open"), 1;
    signal(SIGINT, stop_on_signal);
    signal(SIGTERM, stop_on_signal);

    int status = 0;
    if (orderdb_consumer_run(consumer, ORDERDB_FOREVER) == ORDERDB_CONSUMER_FAILED) {
        const struct orderdb_error *e = orderdb_consumer_error(consumer);
        fprintf(stderr, "consume: %s %s: %s\n", orderdb_error_code_name(e), orderdb_error_reason(e), orderdb_error_message(e));
        status = 1;
    }
    struct orderdb_consumer_stats s = orderdb_consumer_stats(consumer);
    fprintf(stderr, "%llu events, %llu acknowledged, %llu nacked, %llu dead\n", (unsigned long long)s.given, (unsigned long long)s.acked,
            (unsigned long long)s.nacked, (unsigned long long)s.dead);
    signal(SIGINT, SIG_DFL);
    signal(SIGTERM, SIG_DFL);
    orderdb_consumer_close(consumer);
    return status;
}

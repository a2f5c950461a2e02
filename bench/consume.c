/* consume: members of a consumer group that ack every event, as fast as they come, each on a connection of its own, all on one thread.
 *
 * As in bench/follow.c, messages are walked over their frames alone. A batch's events are acked in one message, which gives their credit back as well. The run ends
 * when as many events as told have come and been acked (with --live: after so many seconds), and the members have said good-bye: a server settles what a stream has acked
 * before it ends it. With --latency the time from commit to arrival is taken too. */
#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#include "bench/arrival.h"
#include "bench/number.h"
#include "client/channel.h"
#include "orderdb/v1/stream.pb-c.h"
#include "proto/base/buf.h"
#include "proto/base/mem.h"

enum {
    MEMBERS_MAX = 64, CREDIT_MAX = 1000000,
    FIELD_BATCH = 1, FIELD_STALE = 2, FIELD_EVENTS = 1, FIELD_EVENT_ID = 1, /* of SubscribeResponse, Batch and ChangeEvent */
    FIELD_CREDIT = 2, FIELD_ACK = 3, FIELD_CREDIT_EVENTS = 1, FIELD_ACK_IDS = 1, /* of SubscribeRequest, Credit and Ack */
};

static struct {
    const char *server, *group;
    uint64_t members, events, credit, seconds;
    bool live, latency;
} opt = {.server = "127.0.0.1:7400", .members = 1, .credit = 8192, .seconds = 60};

struct member {
    struct channel *channel;
    struct channel_call *call; /* NULL: it has ended */
    uint64_t events;
};
static struct {
    struct channel_loop *loop;
    struct member members[MEMBERS_MAX];
    struct buf ids, out;
    uint64_t started_ns, events, messages, bytes, stale, live;
    struct histogram latency;
    bool ending, failed;
} run;

static bool fail(const char *why) {
    fprintf(stderr, "consume: %s\n", why);
    run.failed = true;
    return false;
}

static bool send_field(struct member *m, uint32_t field, struct slice inner) {
    run.out.len = 0;
    if (!buf_reserve(&run.out, pb_bytes_max(inner))) return fail("no memory");
    struct writer w = writer_of(run.out.data, run.out.cap);
    pb_message(&w, field, &inner, 1);
    return channel_send(m->call, writer_slice(&w)) || fail("a message can't be sent");
}

static bool send_credit(struct member *m, uint64_t events) {
    uint8_t inner[PB_INT_BYTES_MAX];
    struct writer w = writer_of(inner, sizeof inner);
    pb_int64(&w, FIELD_CREDIT_EVENTS, (int64_t)events);
    return send_field(m, FIELD_CREDIT, writer_slice(&w));
}

/* Acks them all, and gives their credit back. */
static void take_batch(struct member *m, struct slice batch) {
    struct reader events = reader_of(batch);
    uint64_t count = 0, now_us = opt.latency ? wall_us() : 0;
    run.ids.len = 0;
    for (struct pb_field e; pb_next(&events, &e);) {
        if (e.number != FIELD_EVENTS) continue;
        struct reader r = reader_of(e.bytes);
        struct pb_field id;
        if (!pb_next(&r, &id) || id.number != FIELD_EVENT_ID) return (void)fail("an event that does not begin with its id");
        if (!buf_reserve(&run.ids, pb_bytes_max(id.bytes))) return (void)fail("no memory");
        struct writer w = writer_of(run.ids.data + run.ids.len, run.ids.cap - run.ids.len);
        pb_bytes(&w, FIELD_ACK_IDS, id.bytes);
        run.ids.len += writer_slice(&w).len;
        count++;
        if (opt.latency) arrival_note(&run.latency, e.bytes, now_us);
    }
    if (events.bad) return (void)fail("a malformed batch");
    m->events += count, run.events += count;
    if (send_field(m, FIELD_ACK, buf_slice(&run.ids))) (void)!send_credit(m, count);
}

static bool message_cb(void *user, struct slice message) {
    struct member *m = user;
    struct reader r = reader_of(message);
    run.messages++;
    run.bytes += message.len;
    for (struct pb_field f; pb_next(&r, &f) && !run.failed;) {
        if (f.number == FIELD_BATCH) take_batch(m, f.bytes);
        if (f.number == FIELD_STALE) run.stale++;
    }
    return true;
}

static void answer_cb(void *user, const struct channel_answer *a) {
    struct member *m = user;
    m->call = NULL;
    run.live--;
    if (a->code == GRPC_OK && run.ending) return;
    fprintf(stderr, "consume: status %d: %.*s\n", (int)a->code, (int)a->message.len, (const char *)a->message.data);
    run.failed = true;
}

static bool start(void) {
    run.started_ns = channel_now_ns();
    for (uint64_t i = 0; i < opt.members; i++) {
        struct member *m = &run.members[i];
        char id[32];
        snprintf(id, sizeof id, "bench-%llu", (unsigned long long)i);
        Orderdb__V1__SubscribeRequest__Open open = ORDERDB__V1__SUBSCRIBE_REQUEST__OPEN__INIT;
        Orderdb__V1__SubscribeRequest first = ORDERDB__V1__SUBSCRIBE_REQUEST__INIT;
        open.group = (char *)opt.group, open.member_id = id;
        first.msg_case = ORDERDB__V1__SUBSCRIBE_REQUEST__MSG_OPEN, first.open = &open;
        run.out.len = 0;
        if (!buf_reserve(&run.out, protobuf_c_message_get_packed_size(&first.base))) return false;
        run.out.len = protobuf_c_message_pack(&first.base, run.out.data);
        struct channel_request r = {.path = "/orderdb.v1.StreamService/Subscribe", .stream = true, .on_answer = answer_cb, .on_message = message_cb, .user = m};
        if (!(m->channel = channel_open(run.loop, opt.server)) || !(m->call = channel_start(m->channel, &r))) return false;
        run.live++;
        if (!channel_send(m->call, buf_slice(&run.out)) || !send_credit(m, opt.credit)) return false;
    }
    return true;
}

static void consume(void) {
    uint64_t until_ns = run.started_ns + opt.seconds * NS_PER_S;
    while (run.live && !run.failed) {
        channel_loop_turn(run.loop, 10 * NS_PER_MS);
        bool late = channel_now_ns() > until_ns;
        if ((opt.live ? late : run.events >= opt.events) && !run.ending) {
            run.ending = true;
            for (uint64_t i = 0; i < opt.members; i++)
                if (run.members[i].call) channel_send_end(run.members[i].call);
        }
        if (late && channel_now_ns() > until_ns + (opt.live ? 10 * NS_PER_S : 0)) (void)!fail("not done in time");
    }
}

static void report(void) {
    struct rusage u;
    check(getrusage(RUSAGE_SELF, &u) == 0);
    double s = (double)(channel_now_ns() - run.started_ns) / 1e9, cpu = (double)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) + (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec) / 1e6;
    printf("consume: members=%llu events=%llu messages=%llu stale=%llu rate=%.0f mb_s=%.1f cpu_s=%.3f", (unsigned long long)opt.members, (unsigned long long)run.events,
           (unsigned long long)run.messages, (unsigned long long)run.stale, (double)run.events / s, (double)run.bytes / s / 1e6, cpu);
    arrival_print(&run.latency);
    printf("\n");
}

static const char help[] =
    "consume: members of a consumer group of an OrderDB server that ack every event\n\n"
    "  --server HOST:PORT    default 127.0.0.1:7400\n"
    "  --group NAME          it must be there\n"
    "  --events N            how many to take and ack before the end\n"
    "  --members N           1 (default) to 64, a connection each\n"
    "  --credit N            events that a member may hold: 8192 (default), at most 1000000\n"
    "  --live                instead of --events: for --seconds\n"
    "  --latency             from commit to arrival, by the event's commit time and this machine's clock\n"
    "  --seconds S           fail when it takes longer (60)\n\n"
    "Exit code 0: done; 1: something failed; 2: usage.\n";

static bool flags_read(int argc, char **argv) {
    static const struct option options[] = {{"server", 1, 0, 's'}, {"group", 1, 0, 'g'}, {"events", 1, 0, 'e'}, {"members", 1, 0, 'n'}, {"credit", 1, 0, 'c'}, {"seconds", 1, 0, 't'}, {"live", 0, 0, 'l'}, {"latency", 0, 0, 'y'}, {"help", 0, 0, 'h'}, {0}};
    bool ok = true;
    for (int flag; ok && (flag = getopt_long(argc, argv, "h", options, NULL)) != -1;) {
        switch (flag) {
        case 's': opt.server = optarg; break;
        case 'g': opt.group = optarg; break;
        case 'e': ok = count_read(optarg, UINT64_MAX, &opt.events); break;
        case 'n': ok = count_read(optarg, MEMBERS_MAX, &opt.members); break;
        case 'c': ok = count_read(optarg, CREDIT_MAX, &opt.credit); break;
        case 't': ok = count_read(optarg, 86400, &opt.seconds); break;
        case 'l': opt.live = true; break;
        case 'y': opt.latency = true; break;
        case 'h': fputs(help, stdout); exit(0);
        default: ok = false;
        }
    }
    if (ok && optind == argc && opt.group && (opt.live || opt.events)) return true;
    return fprintf(stderr, "consume: a bad flag or value; see --help\n"), false;
}

int main(int argc, char **argv) {
    if (!flags_read(argc, argv)) return 2;
    if (!(run.loop = channel_loop_new()) || !start()) return fprintf(stderr, "consume: --server %s: %s\n", opt.server, strerror(errno)), 2;
    consume();
    report();
    for (uint64_t i = 0; i < opt.members; i++) channel_close(run.members[i].channel);
    channel_loop_free(run.loop);
    buf_fini(&run.ids);
    buf_fini(&run.out);
    return run.failed;
}

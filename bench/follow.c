/* follow: readers of the change stream, as many as told, each on a connection of its own, all on one thread, on the client's asynchronous channel.
 *
 * A message is walked over its frames alone (events are counted, not decoded), so that what is measured is the server and the wire. With --latency the commit
 * time of each event is looked at as well: the wall clock at the message's arrival less that, and server and reader must share a clock.
 * A --hang reader takes its first message and nothing ever after: what a consumer looks like that has stopped. */
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

enum { READERS_MAX = 64, FIELD_EVENTS = 1 };

static struct {
    const char *server;
    bool full, live, latency, hang;
    uint64_t readers, seconds;
} opt = {.server = "127.0.0.1:7400", .readers = 1, .seconds = 60};

struct follower {
    struct channel *channel;
    struct channel_call *call; /* NULL: it has ended */
    uint64_t events, messages, bytes, ended_ns;
};
static struct {
    struct channel_loop *loop;
    struct follower followers[READERS_MAX];
    uint64_t started_ns, live;
    struct histogram latency;
    bool failed;
} run;

/* ---- messages */

static bool message_cb(void *user, struct slice message) {
    struct follower *f = user;
    struct reader r = reader_of(message);
    uint64_t now_us = opt.latency ? wall_us() : 0;
    f->messages++;
    f->bytes += message.len;
    for (struct pb_field p; pb_next(&r, &p);) {
        if (p.number != FIELD_EVENTS) continue;
        f->events++;
        if (opt.latency) arrival_note(&run.latency, p.bytes, now_us);
    }
    if (r.bad) fprintf(stderr, "follow: a malformed message\n"), run.failed = true;
    return !opt.hang;
}

static void answer_cb(void *user, const struct channel_answer *a) {
    struct follower *f = user;
    f->call = NULL;
    f->ended_ns = channel_now_ns();
    run.live--;
    if (a->code == GRPC_OK || a->code == GRPC_CANCELLED) return;
    fprintf(stderr, "follow: status %d: %.*s\n", (int)a->code, (int)a->message.len, (const char *)a->message.data);
    run.failed = true;
}

/* ---- the run */

static bool start(void) {
    Orderdb__V1__ReadChangesRequest m = ORDERDB__V1__READ_CHANGES_REQUEST__INIT;
    Google__Protobuf__Timestamp now = GOOGLE__PROTOBUF__TIMESTAMP__INIT;
    struct buf packed = {0};
    uint64_t us = wall_us();
    now.seconds = (int64_t)(us / 1000000), now.nanos = (int32_t)(us % 1000000 * 1000);
    m.payload = opt.full ? ORDERDB__V1__ORDER_VIEW__ORDER_VIEW_FULL : ORDERDB__V1__ORDER_VIEW__ORDER_VIEW_SUMMARY;
    m.stop_at_end = !opt.live;
    if (opt.live && !opt.hang) m.from_time = &now;
    if (!buf_reserve(&packed, protobuf_c_message_get_packed_size(&m.base))) return false;
    packed.len = protobuf_c_message_pack(&m.base, packed.data);
    run.started_ns = channel_now_ns();
    for (uint64_t i = 0; i < opt.readers; i++) {
        struct follower *f = &run.followers[i];
        struct channel_request r = {.path = "/orderdb.v1.StreamService/ReadChanges", .message = buf_slice(&packed), .on_answer = answer_cb, .on_message = message_cb, .user = f};
        if (!(f->channel = channel_open(run.loop, opt.server)) || !(f->call = channel_start(f->channel, &r))) return false;
        run.live++;
    }
    buf_fini(&packed);
    return true;
}

static void follow(void) {
    uint64_t until_ns = run.started_ns + opt.seconds * NS_PER_S, now;
    bool stopped = false;
    while (run.live) {
        channel_loop_turn(run.loop, 10 * NS_PER_MS);
        if (stopped || (now = channel_now_ns()) < until_ns) continue;
        stopped = true;
        if (!opt.live) fprintf(stderr, "follow: not at the end in time\n"), run.failed = true;
        for (uint64_t i = 0; i < opt.readers; i++)
            if (run.followers[i].call) channel_cancel(run.followers[i].call);
    }
}

static void report(void) {
    struct rusage u;
    double rates = 0, bytes = 0;
    uint64_t events = 0, messages = 0;
    check(getrusage(RUSAGE_SELF, &u) == 0);
    for (uint64_t i = 0; i < opt.readers; i++) {
        const struct follower *f = &run.followers[i];
        double s = (double)(f->ended_ns - run.started_ns) / 1e9;
        events += f->events, messages += f->messages;
        rates += (double)f->events / s, bytes += (double)f->bytes / s;
    }
    double cpu = (double)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) + (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec) / 1e6;
    printf("follow: readers=%llu events=%llu messages=%llu rate_each=%.0f rate_all=%.0f mb_s_all=%.1f cpu_s=%.3f", (unsigned long long)opt.readers, (unsigned long long)events,
           (unsigned long long)messages, rates / (double)opt.readers, rates, bytes / 1e6, cpu);
    arrival_print(&run.latency);
    printf("\n");
}

/* ---- start */

static const char help[] =
    "follow: readers of an OrderDB server's change stream\n\n"
    "  --server HOST:PORT    default 127.0.0.1:7400\n"
    "  --full                whole orders; default: summaries\n"
    "  --readers N           1 (default) to 64, a connection each\n"
    "  --live                what is committed from now on, for --seconds; default: from the earliest event to the end\n"
    "  --seconds S           with --live: so long; without: fail when it takes longer (60)\n"
    "  --latency             from commit to arrival, by the event's commit time and this machine's clock\n"
    "  --hang                with --live: from the earliest event, but take one message and no more\n\n"
    "Exit code 0: done; 1: something failed; 2: usage.\n";

static bool flags_read(int argc, char **argv) {
    static const struct option options[] = {
        {"server", 1, 0, 's'}, {"full", 0, 0, 'f'}, {"readers", 1, 0, 'n'}, {"live", 0, 0, 'l'}, {"seconds", 1, 0, 't'}, {"latency", 0, 0, 'y'}, {"hang", 0, 0, 'H'}, {"help", 0, 0, 'h'}, {0},
    };
    bool ok = true;
    for (int flag; ok && (flag = getopt_long(argc, argv, "h", options, NULL)) != -1;) {
        switch (flag) {
        case 's': opt.server = optarg; break;
        case 'f': opt.full = true; break;
        case 'n': ok = count_read(optarg, READERS_MAX, &opt.readers); break;
        case 'l': opt.live = true; break;
        case 't': ok = count_read(optarg, 86400, &opt.seconds); break;
        case 'y': opt.latency = true; break;
        case 'H': opt.hang = true; break;
        case 'h': fputs(help, stdout); exit(0);
        default: ok = false;
        }
    }
    if (ok && optind == argc && (opt.live || !opt.hang)) return true;
    return fprintf(stderr, "follow: a bad flag or value; see --help\n"), false;
}

int main(int argc, char **argv) {
    if (!flags_read(argc, argv)) return 2;
    if (!(run.loop = channel_loop_new()) || !start()) return fprintf(stderr, "follow: --server %s: %s\n", opt.server, strerror(errno)), 2;
    follow();
    report();
    for (uint64_t i = 0; i < opt.readers; i++) channel_close(run.followers[i].channel);
    channel_loop_free(run.loop);
    return run.failed;
}

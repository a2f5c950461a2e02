/* peer: what other brokers' streams do with the same load, spoken to over their own text protocols on a bare socket, so that no client library's cost is counted as theirs.
 *
 *   peer redis load|read PORT EVENTS BYTES    XADD, pipelined; XREAD COUNT 500, each from the last id (a reader cannot know the next one before the answer)
 *   peer redis group PORT EVENTS BYTES        XREADGROUP COUNT 500 of a new group, from the start; XACK of all of a batch goes out with the next XREADGROUP
 *   peer nats load|read PORT EVENTS BYTES     publishes to a JetStream stream in a file, each acknowledged; a pull consumer without acks, batches of 500, two asked for at a time
 *
 * Replies are walked, not turned into objects: the same care as bench/follow.c takes for OrderDB. Redis: https://redis.io/docs/reference/protocol-spec/;
 * NATS: https://docs.nats.io/reference/reference-protocols/nats-protocol and .../nats_api_reference */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "proto/base/base.h"

enum { READ_BATCH = 500, LOAD_BATCH = 500, EVENT_BYTES_MAX = 4 << 10, FRAME_BYTES_MAX = EVENT_BYTES_MAX + 128, INPUT_BYTES = 4 << 20, TIMEOUT_S = 60 };

static struct {
    int fd;
    uint8_t in[INPUT_BYTES];
    size_t at, len;
    char payload[EVENT_BYTES_MAX];
    unsigned long events, bytes, got, got_bytes;
} run;

/* ---- the socket */

static void peer_connect(unsigned port) {
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    struct timeval patience = {.tv_sec = TIMEOUT_S};
    int one = 1;
    run.fd = socket(AF_INET, SOCK_STREAM, 0);
    if (run.fd < 0 || connect(run.fd, (struct sockaddr *)&to, sizeof to)) panic_now("peer: connect to port %u: %s", port, strerror(errno));
    setsockopt(run.fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    setsockopt(run.fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
}

static void put(const void *data, size_t n) {
    for (size_t at = 0; at < n;) {
        ssize_t done = send(run.fd, (const char *)data + at, n - at, 0);
        if (done <= 0) panic_now("peer: send: %s", strerror(errno));
        at += (size_t)done;
    }
}

static void more(void) {
    if (run.at && run.at == run.len) run.at = run.len = 0;
    if (run.len == INPUT_BYTES) {
        check(run.at); /* nothing that we wait for is as large as the buffer */
        memmove(run.in, run.in + run.at, run.len - run.at);
        run.len -= run.at;
        run.at = 0;
    }
    ssize_t n = recv(run.fd, run.in + run.len, INPUT_BYTES - run.len, 0);
    if (n <= 0) panic_now("peer: nothing comes: %s", n ? strerror(errno) : "closed");
    run.len += (size_t)n;
}

/* A line without its end, NUL at its end; valid until the next one. */
static char *line(void) {
    for (size_t seen = 0;;) {
        char *begin = (char *)run.in + run.at, *end = memchr(begin + seen, '\n', run.len - run.at - seen);
        if (end) {
            run.at += (size_t)(end - begin) + 1;
            *(end > begin && end[-1] == '\r' ? end - 1 : end) = 0;
            return begin;
        }
        seen = run.len - run.at;
        more();
    }
}

static char *bytes(size_t n) {
    while (run.len - run.at < n) more();
    run.at += n;
    return (char *)run.in + run.at - n;
}

static double now_s(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static void tell(const char *what, double began_s) {
    double s = now_s() - began_s;
    printf("%s: events=%lu rate=%.0f mb_s=%.1f\n", what, run.got, (double)run.got / s, (double)run.got_bytes / s / 1e6);
}

/* LOAD_BATCH times head, payload, end of line. */
static const char *batch_of(const char *head, size_t *frame_bytes) {
    static char out[LOAD_BATCH * FRAME_BYTES_MAX];
    size_t n = strlen(head);
    check(n + run.bytes + 2 <= FRAME_BYTES_MAX);
    for (char *at = out; at < out + LOAD_BATCH * (n + run.bytes + 2); at += n + run.bytes + 2) {
        memcpy(at, head, n);
        memcpy(at + n, run.payload, run.bytes);
        memcpy(at + n + run.bytes, "\r\n", 2);
    }
    *frame_bytes = n + run.bytes + 2;
    return out;
}

/* ---- Redis */

static void redis_load(void) {
    char head[128];
    size_t frame_bytes;
    snprintf(head, sizeof head, "*5\r\n$4\r\nXADD\r\n$1\r\ns\r\n$1\r\n*\r\n$1\r\nd\r\n$%lu\r\n", run.bytes);
    const char *out = batch_of(head, &frame_bytes);
    double began_s = now_s();
    while (run.got < run.events) {
        unsigned long batch = MIN_OF(run.events - run.got, (unsigned long)LOAD_BATCH);
        put(out, batch * frame_bytes);
        for (unsigned long i = 0; i < batch; i++) {
            char *reply = line();
            if (*reply != '$') panic_now("peer: XADD: %s", reply);
            bytes(strtoul(reply + 1, NULL, 10) + 2);
        }
        run.got += batch, run.got_bytes += batch * run.bytes;
    }
    tell("redis load", began_s);
}

/* The answer to one XREAD of one stream, whose only field is d: [[s, [[id, [d, value]]*]]]. false: the end. */
static bool redis_batch(char id[64], void (*each)(const char *id)) {
    unsigned long texts = 0;
    for (long left = 1; left; left--) {
        char *head = line();
        long n = strtol(head + 1, NULL, 10);
        if (*head == '*') {
            if (n < 0) return false;
            left += n;
            continue;
        }
        if (*head != '$' || n < 0) panic_now("peer: XREAD: %s", head);
        const char *text = bytes((size_t)n + 2);
        unsigned long place = texts++;
        if (place && place % 3 == 1) {
            snprintf(id, 64, "%.*s", (int)n, text);
            if (each) each(id);
        }
        if (place && place % 3 == 0) run.got++, run.got_bytes += (size_t)n;
    }
    return true;
}

static void redis_read(void) {
    char id[64] = "0-0", out[192];
    double began_s = now_s();
    do {
        int n = snprintf(out, sizeof out, "*6\r\n$5\r\nXREAD\r\n$5\r\nCOUNT\r\n$3\r\n%d\r\n$7\r\nSTREAMS\r\n$1\r\ns\r\n$%zu\r\n%s\r\n", READ_BATCH, strlen(id), id);
        put(out, (size_t)n);
    } while (redis_batch(id, NULL));
    tell("redis read", began_s);
}

static struct {
    char ids[READ_BATCH * 80];
    size_t len;
    unsigned count;
} acks;

static void redis_ack(const char *id) {
    acks.len += (size_t)snprintf(acks.ids + acks.len, sizeof acks.ids - acks.len, "$%zu\r\n%s\r\n", strlen(id), id);
    check(acks.len < sizeof acks.ids && ++acks.count <= READ_BATCH);
}

static void redis_group(void) {
    static const char create[] = "*5\r\n$6\r\nXGROUP\r\n$6\r\nCREATE\r\n$1\r\ns\r\n$1\r\ng\r\n$1\r\n0\r\n",
                      destroy[] = "*4\r\n$6\r\nXGROUP\r\n$7\r\nDESTROY\r\n$1\r\ns\r\n$1\r\ng\r\n";
    static char out[sizeof acks.ids + 256];
    char id[64];
    put(destroy, sizeof destroy - 1); /* of the turn before */
    (void)line();
    put(create, sizeof create - 1);
    if (strcmp(line(), "+OK") != 0) panic_now("peer: XGROUP CREATE");
    double began_s = now_s();
    for (bool more_to_come = true; more_to_come;) {
        int n = 0;
        unsigned long acked = acks.count;
        if (acked) n = snprintf(out, sizeof out, "*%lu\r\n$4\r\nXACK\r\n$1\r\ns\r\n$1\r\ng\r\n%s", acked + 3, acks.ids);
        n += snprintf(out + n, sizeof out - (size_t)n, "*9\r\n$10\r\nXREADGROUP\r\n$5\r\nGROUP\r\n$1\r\ng\r\n$1\r\nc\r\n$5\r\nCOUNT\r\n$3\r\n%d\r\n$7\r\nSTREAMS\r\n$1\r\ns\r\n$1\r\n>\r\n", READ_BATCH);
        check((size_t)n < sizeof out);
        put(out, (size_t)n);
        char *reply = acked ? line() : NULL;
        if (reply && strtoul(reply + 1, NULL, 10) != acked) panic_now("peer: XACK of %lu: %s", acked, reply);
        acks.len = acks.count = 0;
        more_to_come = redis_batch(id, redis_ack);
    }
    tell("redis group", began_s);
}

/* ---- NATS */

struct message {
    char subject[128];
    char *payload; /* until the next one */
    size_t bytes;
};

/* The next message, pings answered on the way; its status line, if any (no payload then), is told as bytes = 0. */
static void nats_next(struct message *m) {
    for (;;) {
        char *head = line(), *save;
        if (strcmp(head, "PING") == 0) put("PONG\r\n", 6);
        if (*head == '-') panic_now("peer: nats: %s", head);
        bool headers = strncmp(head, "HMSG ", 5) == 0;
        if (!headers && strncmp(head, "MSG ", 4) != 0) continue;
        char *last = strrchr(head, ' ');
        size_t total = strtoul(last + 1, NULL, 10), before = 0;
        *last = 0;
        if (headers) before = strtoul(strrchr(head, ' ') + 1, NULL, 10);
        (void)strtok_r(head, " ", &save);
        snprintf(m->subject, sizeof m->subject, "%s", strtok_r(NULL, " ", &save));
        m->payload = bytes(total + 2) + before;
        m->bytes = total - before;
        m->payload[m->bytes] = 0; /* over the end of line */
        return;
    }
}

static void nats_publish(const char *subject, const char *reply, const char *text) {
    char out[1024];
    int n = snprintf(out, sizeof out, "PUB %s %s %zu\r\n%s\r\n", subject, reply, strlen(text), text);
    check(n < (int)sizeof out);
    put(out, (size_t)n);
}

static void nats_ask(const char *subject, const char *text, struct message *answer) {
    nats_publish(subject, "in.api", text);
    nats_next(answer);
    if (strstr(answer->payload, "\"error\"")) panic_now("peer: nats %s: %s", subject, answer->payload);
}

static void nats_hello(void) {
    static const char hello[] = "CONNECT {\"verbose\":false,\"pedantic\":false,\"headers\":true,\"no_responders\":true}\r\nSUB in.> 1\r\n";
    (void)line();
    put(hello, sizeof hello - 1);
}

static void nats_load(void) {
    char head[64];
    size_t frame_bytes;
    struct message m;
    nats_hello();
    nats_ask("$JS.API.STREAM.CREATE.S", "{\"name\":\"S\",\"subjects\":[\"s\"],\"storage\":\"file\",\"retention\":\"limits\",\"num_replicas\":1}", &m);
    snprintf(head, sizeof head, "PUB s in.ack %lu\r\n", run.bytes);
    const char *out = batch_of(head, &frame_bytes);
    double began_s = now_s();
    while (run.got < run.events) {
        unsigned long batch = MIN_OF(run.events - run.got, (unsigned long)LOAD_BATCH);
        put(out, batch * frame_bytes);
        for (unsigned long i = 0; i < batch; i++) {
            nats_next(&m);
            if (!strstr(m.payload, "\"seq\"")) panic_now("peer: nats: %s", m.payload);
        }
        run.got += batch, run.got_bytes += batch * run.bytes;
    }
    tell("nats load", began_s);
}

static void nats_read(void) {
    struct message m;
    char name[64] = "", pull[128], batch[32];
    nats_hello();
    nats_ask("$JS.API.CONSUMER.CREATE.S",
             "{\"stream_name\":\"S\",\"config\":{\"deliver_policy\":\"all\",\"ack_policy\":\"none\",\"replay_policy\":\"instant\",\"inactive_threshold\":30000000000}}", &m);
    const char *found = strstr(m.payload, "\"name\":\"");
    if (!found || sscanf(found + 8, "%63[^\"]", name) != 1) panic_now("peer: nats: %s", m.payload);
    snprintf(pull, sizeof pull, "$JS.API.CONSUMER.MSG.NEXT.S.%s", name);
    snprintf(batch, sizeof batch, "{\"batch\":%d}", READ_BATCH);
    double began_s = now_s();
    nats_publish(pull, "in.m", batch);
    for (unsigned long asked = READ_BATCH; run.got < run.events;) {
        if (asked < run.events && asked < run.got + 2 * READ_BATCH) nats_publish(pull, "in.m", batch), asked += READ_BATCH;
        nats_next(&m);
        if (m.bytes != run.bytes) panic_now("peer: nats: a message of %zu bytes", m.bytes);
        run.got++, run.got_bytes += m.bytes;
    }
    tell("nats read", began_s);
}

int main(int argc, char **argv) {
    static const struct {
        const char *system, *what;
        void (*run)(void);
    } jobs[] = {{"redis", "load", redis_load}, {"redis", "read", redis_read}, {"redis", "group", redis_group}, {"nats", "load", nats_load}, {"nats", "read", nats_read}};
    unsigned port = argc == 6 ? (unsigned)strtoul(argv[3], NULL, 10) : 0;
    if (argc == 6) run.events = strtoul(argv[4], NULL, 10), run.bytes = strtoul(argv[5], NULL, 10);
    for (size_t i = 0; port && run.events && run.bytes && run.bytes <= EVENT_BYTES_MAX && i < ARRAY_LEN(jobs); i++) {
        if (strcmp(argv[1], jobs[i].system) != 0 || strcmp(argv[2], jobs[i].what) != 0) continue;
        for (unsigned long b = 0; b < run.bytes; b++) run.payload[b] = (char)('a' + b * 7919 % 26);
        peer_connect(port);
        jobs[i].run();
        close(run.fd);
        return run.got != run.events;
    }
    fputs("usage: peer redis|nats load|read, or redis group, PORT EVENTS BYTES\n", stderr);
    return 2;
}

/* The promises of server/ring.h, on sockets, files and threads of this process. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "proto/base/mem.h"
#include "server/clock.h"
#include "server/ring.h"

static struct ring *open_ring(uint32_t entries, uint32_t buffers, uint32_t bytes) {
    struct ring *r;
    char error[256] = "";
    struct ring_config config = {entries, buffers, bytes};
    if (ring_open(&r, &config, error)) fail_msg("%s", error);
    return r;
}

struct note {
    struct ring_op op;
    struct ring *ring;
    unsigned calls;
    int32_t result, last;
    bool more;
    uint8_t bytes[256 << 10];
    size_t len;
    bool keep; /* do not give buffers back */
    uint16_t kept[64];
    unsigned kept_count;
};
static void on_any(struct ring_op *op, int32_t result, bool more) {
    struct note *n = container_of(op, struct note, op);
    n->calls++;
    n->result = result;
    n->more = more;
}
static void on_receive(struct ring_op *op, int32_t result, bool more) {
    struct note *n = container_of(op, struct note, op);
    n->calls++;
    n->more = more;
    n->last = result;
    if (result <= 0) return;
    uint16_t id;
    struct slice s = ring_buffer(n->ring, op, result, &id);
    assert_true(n->len + s.len <= sizeof n->bytes);
    memcpy(n->bytes + n->len, s.data, s.len);
    n->len += s.len;
    if (n->keep) n->kept[n->kept_count++] = id;
    else ring_buffer_put(n->ring, id);
}
static struct note *note(struct ring *r, void (*done)(struct ring_op *, int32_t, bool)) {
    struct note *n = mem_new(struct note);
    n->op.done = done;
    n->ring = r;
    n->more = true;
    return n;
}
#define WAIT_FOR(r, condition)                                            \
    do {                                                                  \
        for (int turns_ = 0; !(condition) && turns_ < 2000; turns_++)     \
            ring_wait((r), clock_mono_ns() + 5 * NS_PER_MS);              \
        assert_true(condition);                                           \
    } while (0)

static void accepts_many_and_receives_all(void **state) {
    struct ring *r = open_ring(64, 8, 4096);
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof a;
    assert_int_equal(bind(listener, (struct sockaddr *)&a, sizeof a), 0);
    assert_int_equal(listen(listener, 8), 0);
    assert_int_equal(getsockname(listener, (struct sockaddr *)&a, &len), 0);
    struct note *acceptor = note(r, on_any);
    ring_accept(r, &acceptor->op, listener);
    int clients[3], fds[3];
    for (unsigned i = 0; i < 3; i++) {
        clients[i] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        assert_int_equal(connect(clients[i], (struct sockaddr *)&a, sizeof a), 0);
        WAIT_FOR(r, acceptor->calls == i + 1);
        assert_true(acceptor->more); /* one submission serves them all */
        fds[i] = acceptor->result;
        assert_true(fds[i] >= 0);
    }
    struct note *in = note(r, on_receive);
    ring_receive(r, &in->op, fds[1]);
    uint8_t sent[20000];
    for (size_t i = 0; i < sizeof sent; i++) sent[i] = (uint8_t)(i * 7);
    assert_int_equal(write(clients[1], sent, sizeof sent), sizeof sent);
    WAIT_FOR(r, in->len == sizeof sent);
    assert_memory_equal(in->bytes, sent, sizeof sent);
    assert_true(in->more);
    close(clients[1]);
    WAIT_FOR(r, !in->more);
    assert_int_equal(in->last, 0); /* the end */
    struct note *closer = note(r, on_any);
    ring_shutdown_close(r, &closer->op, fds[1]);
    WAIT_FOR(r, closer->calls == 1);
    assert_int_equal(closer->result, 0);
    assert_int_equal(fcntl(fds[1], F_GETFD), -1);
    ring_cancel(r, &acceptor->op);
    WAIT_FOR(r, !acceptor->more);
    assert_int_equal(acceptor->result, -ECANCELED);
    close(clients[0]), close(clients[2]), close(fds[0]), close(fds[2]), close(listener);
    mem_free(acceptor), mem_free(in), mem_free(closer);
    ring_close(r);
}

static void without_buffers_receive_ends_and_can_be_armed_again(void **state) {
    struct ring *r = open_ring(16, 2, 4096);
    int pair[2];
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
    struct note *in = note(r, on_receive);
    in->keep = true;
    ring_receive(r, &in->op, pair[0]);
    uint8_t sent[3 * 4096] = {1};
    assert_int_equal(write(pair[1], sent, sizeof sent), sizeof sent);
    WAIT_FOR(r, !in->more);
    assert_int_equal(in->last, -ENOBUFS);
    assert_int_equal(in->len, 2 * 4096);
    struct ring_stats stats;
    ring_get_stats(r, &stats);
    assert_int_equal(stats.no_buffers, 1);
    for (unsigned i = 0; i < in->kept_count; i++) ring_buffer_put(r, in->kept[i]);
    in->keep = false;
    ring_receive(r, &in->op, pair[0]);
    WAIT_FOR(r, in->len == sizeof sent);
    ring_cancel(r, &in->op);
    WAIT_FOR(r, !in->more);
    close(pair[0]), close(pair[1]);
    mem_free(in);
    ring_close(r);
}

static void short_sends_are_continued(void **state) {
    struct ring *r = open_ring(16, 8, 4096);
    int pair[2];
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
    ring_set_chunk(r, 1000);
    struct note *out = note(r, on_any), *in = note(r, on_receive);
    size_t len = 50001;
    uint8_t *data = mem_alloc(len);
    for (size_t i = 0; i < len; i++) data[i] = (uint8_t)(i * 13);
    ring_receive(r, &in->op, pair[0]);
    ring_send(r, &out->op, pair[1], data, len);
    WAIT_FOR(r, out->calls == 1 && in->len == len);
    assert_int_equal(out->result, len); /* one completion, all of it */
    assert_false(out->more);
    assert_memory_equal(in->bytes, data, len);
    close(pair[1]);
    WAIT_FOR(r, !in->more);
    ring_send(r, &out->op, pair[0], data, len); /* nobody there */
    WAIT_FOR(r, out->calls == 2);
    assert_int_equal(out->result, -EPIPE);
    close(pair[0]);
    mem_free(out), mem_free(in), mem_free(data);
    ring_close(r);
}

static void short_writes_are_continued_before_done(void **state) {
    struct ring *r = open_ring(16, 0, 0);
    char path[] = "/tmp/test_ring.XXXXXX";
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    unlink(path);
    ring_set_chunk(r, 512);
    struct note *n = note(r, on_any);
    uint8_t data[4096 + 17], back[sizeof data];
    for (size_t i = 0; i < sizeof data; i++) data[i] = (uint8_t)(i * 31);
    ring_write(r, &n->op, fd, data, sizeof data, 100);
    WAIT_FOR(r, n->calls == 1);
    assert_int_equal(n->result, sizeof data);
    assert_int_equal(pread(fd, back, sizeof back, 100), sizeof back);
    assert_memory_equal(back, data, sizeof data);
    ring_sync(r, &n->op, fd);
    WAIT_FOR(r, n->calls == 2);
    assert_int_equal(n->result, 0);
    close(fd);
    ring_write(r, &n->op, fd, data, sizeof data, 0);
    WAIT_FOR(r, n->calls == 3);
    assert_int_equal(n->result, -EBADF);
    mem_free(n);
    ring_close(r);
}

static void full_disk_is_an_error_not_a_loop(void **state) {
    struct ring *r = open_ring(16, 0, 0);
    int fd = open("/dev/full", O_WRONLY | O_CLOEXEC);
    assert_true(fd >= 0);
    struct note *n = note(r, on_any);
    ring_write(r, &n->op, fd, "x", 1, 0);
    WAIT_FOR(r, n->calls == 1);
    assert_int_equal(n->result, -ENOSPC);
    close(fd);
    mem_free(n);
    ring_close(r);
}

static void more_requests_than_the_queue_holds(void **state) {
    enum { N = 500 };
    struct ring *r = open_ring(8, 0, 0); /* completions: 64 */
    int fd = open("/dev/null", O_WRONLY | O_CLOEXEC);
    static struct note *n[N];
    unsigned done = 0;
    for (unsigned i = 0; i < N; i++) n[i] = note(r, on_any), ring_write(r, &n[i]->op, fd, "x", 1, 0);
    for (int turns = 0; done < N && turns < 1000; turns++) {
        ring_wait(r, clock_mono_ns() + NS_PER_MS);
        done = 0;
        for (unsigned i = 0; i < N; i++) done += n[i]->calls;
    }
    for (unsigned i = 0; i < N; i++) {
        assert_int_equal(n[i]->calls, 1);
        assert_int_equal(n[i]->result, 1);
        mem_free(n[i]);
    }
    close(fd);
    ring_close(r);
}

static void wait_ends_at_its_deadline(void **state) {
    struct ring *r = open_ring(8, 0, 0);
    uint64_t start = clock_mono_ns();
    assert_int_equal(ring_wait(r, start + 20 * NS_PER_MS), 0);
    assert_true(clock_mono_ns() - start >= 20 * NS_PER_MS);
    assert_int_equal(ring_wait(r, 0), 0); /* past: does not wait */
    ring_close(r);
}

/* ---- messages */

struct inbox {
    struct ring *ring;
    uint64_t sum;
    unsigned count;
};
static void on_message(void *ctx, void *pointer) {
    struct inbox *in = ctx;
    in->sum += *(uint64_t *)pointer;
    in->count++;
}
enum { MESSAGES = 2000 };
static uint64_t parcels[MESSAGES];
struct sender {
    int target;
    bool now;
};
static void *send_all(void *arg) {
    struct sender *s = arg;
    struct ring *r = open_ring(8, 0, 0);
    for (unsigned i = 0; i < MESSAGES; i++) {
        parcels[i] = i + 1; /* written here, read there: ring_message orders it */
        if (s->now) ring_message_now(r, s->target, &parcels[i]);
        else ring_message(r, s->target, &parcels[i]), i % 7 == 0 ? ring_wait(r, 0) : 0;
    }
    ring_wait(r, 0);
    ring_close(r);
    return NULL;
}
static void messages_arrive_all_and_whole(void **state) {
    for (int now = 0; now < 2; now++) {
        struct inbox in = {open_ring(8, 0, 0), 0, 0}; /* its completion queue overflows on the way: nothing may be lost */
        ring_on_message(in.ring, on_message, &in);
        struct sender s = {ring_fd(in.ring), now};
        pthread_t t;
        assert_int_equal(pthread_create(&t, NULL, send_all, &s), 0);
        WAIT_FOR(in.ring, in.count == MESSAGES);
        assert_int_equal(in.sum, (uint64_t)MESSAGES * (MESSAGES + 1) / 2);
        pthread_join(t, NULL);
        ring_close(in.ring);
    }
}
static void message_to_itself(void **state) {
    struct inbox in = {open_ring(8, 0, 0), 0, 0};
    ring_on_message(in.ring, on_message, &in);
    uint64_t seven = 7;
    ring_message(in.ring, ring_fd(in.ring), &seven);
    assert_int_equal(in.count, 0); /* from the loop, not from inside the call */
    WAIT_FOR(in.ring, in.count == 1);
    assert_int_equal(in.sum, 7);
    ring_close(in.ring);
}

static void no_memory_is_told(void **state) {
    struct ring_config config = {8, 8, 4096};
    char error[256];
    struct ring *r;
    for (unsigned n = 1; n <= 4; n++) {
        mem_fail_nth(n);
        assert_int_equal(ring_open(&r, &config, error), STATUS_MEMORY_LIMIT);
        assert_null(r);
        assert_non_null(strstr(error, "memory"));
    }
    mem_fail_nth(0);
}

/* Three that bring bytes wait, all but one a turn; one that is urgent does not. */
static void receives_are_run_last_and_in_slices(void **state) {
    struct ring *r = open_ring(16, 8, 4096);
    struct note *in[4];
    int pairs[4][2];
    for (unsigned i = 0; i < 4; i++) {
        assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pairs[i]), 0);
        in[i] = note(r, on_receive);
        in[i]->op.urgent = i == 3;
        ring_receive(r, &in[i]->op, pairs[i][0]);
    }
    ring_wait(r, clock_mono_ns() + NS_PER_MS);
    for (unsigned i = 0; i < 4; i++) assert_int_equal(write(pairs[i][1], "bytes", 5), 5);
    ring_limit_receives(r, &(struct ring_receives){.slice_ns = 1});
    WAIT_FOR(r, in[3]->len == 5);
    assert_int_equal(in[0]->len + in[1]->len + in[2]->len, 5);
    assert_int_equal(ring_wait(r, clock_mono_ns() + 3600 * NS_PER_S), 1); /* does not sleep on what it holds back */
    assert_int_equal(in[0]->len + in[1]->len + in[2]->len, 10);
    for (unsigned i = 0; i < 4; i++) close(pairs[i][1]);
    WAIT_FOR(r, !in[0]->more && !in[1]->more && !in[2]->more && !in[3]->more);
    for (unsigned i = 0; i < 4; i++) {
        assert_int_equal(in[i]->len, 5);
        mem_free(in[i]), close(pairs[i][0]);
    }
    struct ring_stats stats;
    ring_get_stats(r, &stats);
    assert_true(stats.receives_held >= 2);
    ring_close(r);
}

static void write_to(int fd, unsigned times) {
    for (unsigned i = 0; i < times; i++) assert_int_equal(write(fd, "bytes", 5), 5);
}

/* Four pieces of one peer and one of another: each has had one before the first has its second, however thin the slices are. */
static void who_has_much_waiting_takes_turns(void **state) {
    struct ring *r = open_ring(16, 8, 4096);
    struct note *in[2];
    int pairs[2][2];
    for (unsigned i = 0; i < 2; i++) {
        assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pairs[i]), 0);
        in[i] = note(r, on_receive);
        ring_receive(r, &in[i]->op, pairs[i][0]);
    }
    ring_wait(r, clock_mono_ns() + NS_PER_MS);
    write_to(pairs[0][1], 4), write_to(pairs[1][1], 1);
    ring_limit_receives(r, &(struct ring_receives){.slice_ns = 1});
    WAIT_FOR(r, in[0]->len + in[1]->len == 10);
    assert_int_equal(in[1]->len, 5);
    WAIT_FOR(r, in[0]->len == 20);
    for (unsigned i = 0; i < 2; i++) close(pairs[i][1]);
    WAIT_FOR(r, !in[0]->more && !in[1]->more);
    for (unsigned i = 0; i < 2; i++) mem_free(in[i]), close(pairs[i][0]);
    ring_close(r);
}

/* Behind the others, and not before its time; a wait does not spin on what may not run yet. */
static void low_ones_wait_for_the_others_and_for_their_time(void **state) {
    struct ring *r = open_ring(16, 8, 4096);
    struct note *in[2];
    int pairs[2][2];
    for (unsigned i = 0; i < 2; i++) {
        assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pairs[i]), 0);
        in[i] = note(r, on_receive);
        in[i]->op.low = i == 0;
        ring_receive(r, &in[i]->op, pairs[i][0]);
    }
    ring_wait(r, clock_mono_ns() + NS_PER_MS);
    uint64_t from_ns = clock_mono_ns() + 20 * NS_PER_MS;
    ring_limit_receives(r, &(struct ring_receives){.low_from_ns = from_ns});
    write_to(pairs[0][1], 1), write_to(pairs[1][1], 1);
    WAIT_FOR(r, in[1]->len == 5);
    unsigned turns = 0;
    while (in[0]->len == 0 && turns < 1000) ring_wait(r, clock_mono_ns() + 3600 * NS_PER_S), turns++;
    assert_int_equal(in[0]->len, 5);
    assert_true(clock_mono_ns() >= from_ns);
    assert_true(turns < 10);
    in[0]->op.low = false; /* it has done something useful: with the others from now on */
    ring_limit_receives(r, &(struct ring_receives){.low_from_ns = clock_mono_ns() + 3600 * NS_PER_S});
    write_to(pairs[0][1], 1);
    WAIT_FOR(r, in[0]->len == 10);
    for (unsigned i = 0; i < 2; i++) close(pairs[i][1]);
    WAIT_FOR(r, !in[0]->more && !in[1]->more);
    for (unsigned i = 0; i < 2; i++) mem_free(in[i]), close(pairs[i][0]);
    ring_close(r);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(accepts_many_and_receives_all), cmocka_unit_test(without_buffers_receive_ends_and_can_be_armed_again),
        cmocka_unit_test(short_sends_are_continued),     cmocka_unit_test(short_writes_are_continued_before_done),
        cmocka_unit_test(full_disk_is_an_error_not_a_loop), cmocka_unit_test(more_requests_than_the_queue_holds),
        cmocka_unit_test(wait_ends_at_its_deadline),     cmocka_unit_test(messages_arrive_all_and_whole),
        cmocka_unit_test(receives_are_run_last_and_in_slices), cmocka_unit_test(who_has_much_waiting_takes_turns),
        cmocka_unit_test(low_ones_wait_for_the_others_and_for_their_time),
        cmocka_unit_test(message_to_itself),             cmocka_unit_test(no_memory_is_told),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

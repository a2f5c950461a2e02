/* The promises of server/peers.h: one core of node 2, and a test that plays nodes 1 (which dials) and 3 (which is dialed), over real sockets. Time is a number of the test's. */
#include "tests/lib/test.h"

#include <errno.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "server/cluster.h"
#include "server/config.h"
#include "server/core.h"
#include "server/forward.h"
#include "server/node.h"
#include "server/peers.h"

enum { OWN = 2, LOWER = 1, HIGHER = 3, PARTITIONS = 3, REPLICAS = 3, QUEUE = 64 << 10, TURNS_MAX = 5000, IN_BYTES = 1 << 20 };

static struct {
    struct core core;
    struct node node;
    struct config config;
    struct cluster cluster;
    int listener; /* node 3's */
} w;

/* One end of a connection, as another node has it. */
struct end {
    int fd;
    uint8_t hello[LINK_HELLO_BYTES], welcome[LINK_HELLO_BYTES];
    struct link_hello said;
    uint8_t in[IN_BYTES];
    size_t len, taken;
    bool closed;
};
static struct end ends[2];

static uint64_t mono_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * NS_PER_S + (uint64_t)t.tv_nsec;
}
static uint64_t figure(enum metric id) { return metric_load(&w.core.metrics.values[id]); }

static void turn(void) {
    peers_flush(w.core.peers);
    ring_wait(w.core.ring, mono_ns() + NS_PER_MS);
    timers_run(&w.core.timers, w.core.now_ns);
    peers_flush(w.core.peers);
}
static void later(uint64_t ns) {
    w.core.now_ns += ns;
    turn();
}

static int setup(void **state) {
    char error[256];
    const struct ring_config ring = {.entries = 64, .buffer_count = 64, .buffer_bytes = 4096};
    memset(&w, 0, sizeof w);
    config_defaults(&w.config);
    strcpy(w.config.zone, "zone-b");
    w.config.peer_queue = QUEUE;
    w.cluster.replicas = REPLICAS;
    w.cluster.lead_zone = strcpy(w.config.lead_zone, "near");
    w.node.config = &w.config, w.node.core_count = 1, w.node.partition_count = PARTITIONS, w.node.cluster = &w.cluster, w.node.identity.node_id = w.cluster.identity.node_id = OWN;
    w.node.limits.requests_bytes_max = 1 << 20, w.node.limits.request_bytes_max = 1 << 20;
    strcpy(w.node.client_address, "10.0.0.2:7400");
    memset(w.node.identity.cluster_id, 7, sizeof w.node.identity.cluster_id), memset(w.cluster.link_key, 9, sizeof w.cluster.link_key);
    pthread_mutex_init(&w.cluster.lock, NULL);
    w.cluster.members.count = w.cluster.count = 3;
    for (uint32_t i = 0; i < 3; i++) w.cluster.members.member[i] = (struct group_member){i + 1, GROUP_VOTER}, w.cluster.peers[i].node_id = i + 1;
    struct sockaddr_in *at = (struct sockaddr_in *)&w.cluster.peers[HIGHER - 1].address.sa;
    socklen_t len = sizeof *at;
    *at = (struct sockaddr_in){.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    w.listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    assert_int_equal(bind(w.listener, (struct sockaddr *)at, len), 0);
    assert_int_equal(listen(w.listener, 8), 0);
    assert_int_equal(getsockname(w.listener, (struct sockaddr *)at, &len), 0);
    w.cluster.peers[HIGHER - 1].address.len = len;
    w.core.node = &w.node, w.core.now_ns = 1000 * NS_PER_S;
    if (ring_open(&w.core.ring, &ring, error)) return -1;
    w.core.forward = forward_new(&w.core);
    w.core.peers = peers_new(&w.core);
    return w.core.forward && w.core.peers ? 0 : -1;
}
static int teardown(void **state) {
    peers_stop(w.core.peers);
    forward_stop(w.core.forward);
    for (unsigned i = 0; i < TURNS_MAX && !peers_idle(w.core.peers); i++) turn();
    assert_true(peers_idle(w.core.peers));
    for (unsigned i = 0; i < ARRAY_LEN(ends); i++)
        if (ends[i].fd > 0) close(ends[i].fd), ends[i].fd = 0;
    close(w.listener);
    peers_free(w.core.peers);
    forward_free(w.core.forward);
    timers_fini(&w.core.timers);
    ring_close(w.core.ring);
    return 0;
}

/* ---- the other side */

static struct end *end_of(unsigned i, int fd) {
    struct end *e = &ends[i];
    if (e->fd > 0) close(e->fd);
    *e = (struct end){.fd = fd};
    return e;
}
static struct end *dials(unsigned i) {
    int fds[2];
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
    peers_accept(w.core.peers, fds[0]);
    return end_of(i, fds[1]);
}
static void say(struct end *e, enum link_kind kind, struct slice body) {
    struct buf out = {0};
    assert_true(link_write(&out, kind, body, false));
    assert_int_equal(send(e->fd, out.data, out.len, MSG_NOSIGNAL), out.len);
    buf_fini(&out);
    turn();
}

/* The next frame, within so many turns; false: none came, or it is closed. */
static bool hears_within(struct end *e, struct link_frame *f, unsigned turns) {
    for (unsigned i = 0; i <= turns; i++) {
        if (link_read(slice_of(e->in + e->taken, e->len - e->taken), f) == STATUS_OK) return e->taken += f->length, true;
        if (e->closed) return false;
        ssize_t n = recv(e->fd, e->in + e->len, sizeof e->in - e->len, MSG_DONTWAIT);
        if (n == 0 || (n < 0 && errno != EAGAIN)) e->closed = true;
        if (n > 0) e->len += (size_t)n;
        else turn();
    }
    return false;
}
static struct slice hears(struct end *e, enum link_kind kind) {
    struct link_frame f;
    assert_true(hears_within(e, &f, TURNS_MAX));
    assert_int_equal(f.kind, kind);
    return f.body;
}
static void is_closed(struct end *e) {
    struct link_frame f;
    while (hears_within(e, &f, TURNS_MAX)) assert_int_not_equal(f.kind, LINK_RAFT);
    assert_true(e->closed);
}
static void is_refused(struct end *e, enum link_refusal why) {
    struct slice body = hears(e, LINK_REFUSED);
    assert_int_equal(body.len, 1);
    assert_int_equal(body.data[0], why);
    is_closed(e);
    assert_int_equal(figure(METRIC_PEER_LINKS), 0);
}

static struct link_hello hello_from(uint64_t from) {
    struct link_hello h = {.cores = 1, .partitions = PARTITIONS, .from = from, .to = OWN, .zone = "zone-x", .address = "10.0.0.9:7400", .replicas = REPLICAS};
    memset(h.cluster_id, 7, sizeof h.cluster_id), memset(h.nonce, (int)from, sizeof h.nonce);
    return h;
}
static void greets(struct end *e, struct link_hello h) {
    link_hello_encode(&h, e->hello);
    say(e, LINK_HELLO, slice_of(e->hello, sizeof e->hello));
}
static void proof_of(uint8_t out[LINK_PROOF_BYTES], const struct end *e, enum link_kind kind) {
    link_proof(out, slice_of(w.cluster.link_key, sizeof w.cluster.link_key), kind, e->hello, e->welcome);
}
static void is_welcome(struct end *e) {
    uint8_t proof[LINK_PROOF_BYTES];
    struct slice body = hears(e, LINK_WELCOME);
    assert_int_equal(body.len, LINK_HELLO_BYTES + LINK_PROOF_BYTES);
    memcpy(e->welcome, body.data, LINK_HELLO_BYTES);
    proof_of(proof, e, LINK_WELCOME);
    assert_memory_equal(body.data + LINK_HELLO_BYTES, proof, sizeof proof);
    assert_int_equal(link_hello_decode(slice_of(e->welcome, sizeof e->welcome), &e->said), STATUS_OK);
}
static void proves(struct end *e) {
    uint8_t proof[LINK_PROOF_BYTES];
    proof_of(proof, e, LINK_PROOF);
    say(e, LINK_PROOF, slice_of(proof, sizeof proof));
}
/* What the other side runs is told first, then its --lead-zone. */
static void tells_of_itself(struct end *e) {
    assert_true(hears(e, LINK_PING).len > 0);
    assert_slice(hears(e, LINK_PING), "\x01near");
}
static struct end *comes_up(unsigned i) {
    struct end *e = dials(i);
    uint64_t lost = figure(METRIC_PEER_LINKS_LOST), were = figure(METRIC_PEER_LINKS);
    greets(e, hello_from(LOWER));
    is_welcome(e);
    proves(e);
    for (unsigned n = 0; n < TURNS_MAX && figure(METRIC_PEER_LINKS) + figure(METRIC_PEER_LINKS_LOST) == were + lost; n++) turn();
    assert_int_equal(figure(METRIC_PEER_LINKS), 1);
    tells_of_itself(e);
    return e;
}
static bool says(struct slice body) { return peers_say(w.core.peers, LOWER, LINK_RAFT, body); }
static struct slice text(const char *s) { return slice_of(s, strlen(s)); }

/* ---- the handshake */

static void who_has_the_key_is_taken_and_known(void **state) {
    struct end *e = comes_up(0);
    assert_string_equal(e->said.zone, "zone-b");
    assert_string_equal(e->said.address, "10.0.0.2:7400");
    assert_int_equal(e->said.from, OWN);
    assert_int_equal(e->said.to, LOWER);
    assert_int_equal(w.cluster.peers[0].links, 1);
    assert_string_equal(w.cluster.peers[0].zone, "zone-x");
    say(e, LINK_PING, SLICE_LIT("v-9"));
    assert_string_equal(w.cluster.peers[0].version, "v-9");
    say(e, LINK_PING, SLICE_LIT("\x01" "far"));
    assert_false(cluster_lead_zone_agreed(&w.cluster));
    say(e, LINK_PING, SLICE_LIT("\x01near"));
    assert_true(cluster_lead_zone_agreed(&w.cluster));
    say(e, LINK_PING, SLICE_LIT("not a version")); /* nor a reason to end */
    assert_string_equal(w.cluster.peers[0].version, "v-9");
    assert_string_equal(w.cluster.peers[0].client_address, "10.0.0.9:7400");
    assert_true(says(text("one")) && says(text("two")));
    assert_slice(hears(e, LINK_RAFT), "one");
    assert_slice(hears(e, LINK_RAFT), "two");
    close(e->fd), e->fd = 0;
    for (unsigned i = 0; i < TURNS_MAX && figure(METRIC_PEER_LINKS); i++) turn();
    assert_int_equal(figure(METRIC_PEER_LINKS), 0);
    assert_int_equal(figure(METRIC_PEER_LINKS_LOST), 1);
    assert_int_equal(w.cluster.peers[0].links, 0);
    assert_false(says(text("three")));
}

static void who_is_told_otherwise_is_refused_and_told_why(void **state) {
    struct link_hello h = hello_from(LOWER);
    struct end *e = dials(0);
    h.cluster_id[3]++;
    greets(e, h), is_refused(e, LINK_OTHER_CLUSTER);
    h = hello_from(LOWER), h.to = HIGHER;
    e = dials(0), greets(e, h), is_refused(e, LINK_OTHER_NODE);
    e = dials(0), greets(e, hello_from(17)), is_refused(e, LINK_OTHER_NODE);     /* no member */
    e = dials(0), greets(e, hello_from(HIGHER)), is_refused(e, LINK_OTHER_NODE); /* it is for us to dial */
    h = hello_from(LOWER), h.partitions++;
    e = dials(0), greets(e, h), is_refused(e, LINK_OTHER_SHAPE);
    h = hello_from(LOWER), h.cores++;
    e = dials(0), greets(e, h), is_refused(e, LINK_OTHER_SHAPE);
    h = hello_from(LOWER), h.replicas++;
    e = dials(0), greets(e, h), is_refused(e, LINK_OTHER_REPLICAS);
    h = hello_from(LOWER);
    e = dials(0), link_hello_encode(&h, e->hello), e->hello[8] = 99;
    say(e, LINK_HELLO, slice_of(e->hello, sizeof e->hello)), is_refused(e, LINK_OTHER_FORMAT);
    assert_int_equal(figure(METRIC_PEER_REFUSED), 8);
}

static void who_has_another_key_is_refused(void **state) {
    struct end *e = dials(0);
    uint8_t wrong[LINK_PROOF_BYTES] = {1};
    greets(e, hello_from(LOWER));
    is_welcome(e);
    say(e, LINK_PROOF, slice_of(wrong, sizeof wrong));
    is_refused(e, LINK_UNPROVEN);
    e = dials(0); /* a proof of another conversation */
    greets(e, hello_from(LOWER));
    is_welcome(e);
    e->welcome[60]++;
    proves(e);
    is_refused(e, LINK_UNPROVEN);
}

static void before_the_proof_nothing_else_is_heard(void **state) {
    uint8_t large[600] = {0};
    struct end *e = dials(0);
    say(e, LINK_RAFT, text("an entry")), is_closed(e);
    e = dials(0), say(e, LINK_PING, text("")), is_closed(e);
    e = dials(0), greets(e, hello_from(LOWER)), is_welcome(e), say(e, LINK_RAFT, text("an entry")), is_closed(e);
    e = dials(0), greets(e, hello_from(LOWER)), is_welcome(e), greets(e, hello_from(LOWER)), is_closed(e);
    e = dials(0), say(e, LINK_HELLO, slice_of(large, sizeof large)), is_closed(e); /* beyond 512 bytes */
    e = dials(0), assert_int_equal(send(e->fd, "GET / HTTP/1.1\r\n", 16, 0), 16), is_closed(e);
    assert_int_equal(figure(METRIC_PEER_LINKS), 0);
}

static void the_handshake_takes_two_seconds_at_most(void **state) {
    struct end *silent = dials(0), *half = dials(1);
    struct link_frame f;
    peers_begin(w.core.peers);
    greets(half, hello_from(LOWER)), is_welcome(half);
    later(1900 * NS_PER_MS);
    assert_false(hears_within(silent, &f, 5));
    assert_false(silent->closed);
    later(200 * NS_PER_MS);
    is_closed(silent), is_closed(half);
}

static void so_many_strangers_and_no_more(void **state) {
    enum { STRANGERS = 64 };
    int fds[STRANGERS + 1][2];
    char byte;
    for (unsigned i = 0; i <= STRANGERS; i++) {
        assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds[i]), 0);
        peers_accept(w.core.peers, fds[i][0]);
    }
    turn();
    assert_int_equal(recv(fds[STRANGERS][1], &byte, 1, 0), 0); /* closed at once */
    assert_int_equal(recv(fds[0][1], &byte, 1, MSG_DONTWAIT), -1);
    assert_int_equal(figure(METRIC_PEER_REFUSED), 1);
    for (unsigned i = 0; i <= STRANGERS; i++) close(fds[i][1]);
}

/* ---- what is up */

static void what_waits_is_bounded_and_what_was_taken_arrives_in_order(void **state) {
    static uint8_t body[1000];
    struct end *e = comes_up(0);
    unsigned taken = 0, heard = 0;
    while (put_le64(body, taken), says(slice_of(body, sizeof body))) taken++; /* no turn in between: all of it waits */
    assert_in_range(taken, QUEUE / 1100, QUEUE / 1000);
    assert_int_equal(figure(METRIC_PEER_DROPPED), 1);
    assert_false(says(slice_of(body, sizeof body)));
    assert_int_equal(figure(METRIC_PEER_DROPPED), 2);
    for (; heard < taken; heard++) assert_int_equal(get_le64(hears(e, LINK_RAFT).data), heard);
    assert_true(says(text("room again")));
    assert_slice(hears(e, LINK_RAFT), "room again");
}

static void large_bodies_are_packed(void **state) {
    static uint8_t zeros[40000], body[sizeof zeros];
    struct end *e = comes_up(0);
    struct link_frame f;
    assert_true(says(slice_of(zeros, sizeof zeros)));
    assert_true(hears_within(e, &f, TURNS_MAX));
    assert_true(f.packed && f.length < 1000 && f.unpacked == sizeof body);
    assert_int_equal(link_unpack(&f, body), STATUS_OK);
    assert_memory_equal(body, zeros, sizeof body);
}

static void who_says_nothing_is_asked_and_then_gone(void **state) {
    struct end *e = comes_up(0);
    peers_begin(w.core.peers);
    later(400 * NS_PER_MS);
    later(200 * NS_PER_MS);
    hears(e, LINK_PING);
    later(2 * NS_PER_S);
    say(e, LINK_PING, text("")); /* it is there */
    later(2 * NS_PER_S);
    assert_int_equal(figure(METRIC_PEER_LINKS), 1);
    later(1100 * NS_PER_MS);
    is_closed(e);
    assert_int_equal(figure(METRIC_PEER_LINKS), 0);
}

static void who_comes_anew_takes_the_place_of_its_old_connection(void **state) {
    struct end *old = comes_up(0), *new = comes_up(1);
    is_closed(old);
    assert_int_equal(w.cluster.peers[0].links, 1);
    assert_true(says(text("to the new one")));
    assert_slice(hears(new, LINK_RAFT), "to the new one");
}

static void a_damaged_frame_ends_the_connection(void **state) {
    struct end *e = comes_up(0);
    struct buf out = {0};
    assert_true(link_write(&out, LINK_RAFT, text("a message of a group"), false));
    out.data[out.len - 3] ^= 4;
    assert_int_equal(send(e->fd, out.data, out.len, 0), out.len);
    buf_fini(&out);
    is_closed(e);
    assert_int_equal(figure(METRIC_PEER_LINKS_LOST), 1);
}

static void an_op_that_can_not_be_run_is_answered(void **state) {
    struct end *e = comes_up(0);
    uint8_t ask[9] = {0};
    put_le64(ask, 77);
    ask[8] = 0xff;
    say(e, LINK_ASK, slice_of(ask, sizeof ask));
    struct slice answer = hears(e, LINK_ANSWER);
    assert_true(answer.len > 8);
    assert_int_equal(get_le64(answer.data), 77);
}

/* ---- who is dialed */

static struct end *is_dialed(unsigned i) {
    int fd = -1;
    for (unsigned n = 0; n < TURNS_MAX && fd < 0; n++) {
        fd = accept(w.listener, NULL, NULL);
        if (fd < 0) later(20 * NS_PER_MS);
    }
    assert_true(fd >= 0);
    struct end *e = end_of(i, fd);
    struct slice body = hears(e, LINK_HELLO);
    assert_int_equal(body.len, LINK_HELLO_BYTES);
    memcpy(e->hello, body.data, sizeof e->hello);
    assert_int_equal(link_hello_decode(body, &e->said), STATUS_OK);
    assert_int_equal(e->said.to, HIGHER);
    return e;
}
static void welcomes(struct end *e, struct link_hello h, uint8_t spoil) {
    uint8_t said[LINK_HELLO_BYTES + LINK_PROOF_BYTES];
    link_hello_encode(&h, e->welcome);
    memcpy(said, e->welcome, sizeof e->welcome);
    proof_of(said + LINK_HELLO_BYTES, e, LINK_WELCOME);
    said[LINK_HELLO_BYTES] ^= spoil;
    say(e, LINK_WELCOME, slice_of(said, sizeof said));
}

static void the_lower_id_dials_and_again_until_it_is_welcome(void **state) {
    uint8_t proof[LINK_PROOF_BYTES];
    struct link_hello h;
    peers_begin(w.core.peers);
    struct end *e = is_dialed(0);
    close(e->fd), e->fd = 0; /* gone before a word */
    e = is_dialed(0);
    welcomes(e, hello_from(HIGHER), 1); /* without the key */
    is_closed(e);
    e = is_dialed(0);
    h = hello_from(LOWER), welcomes(e, h, 0); /* another node than the one that was dialed */
    is_closed(e);
    assert_int_equal(figure(METRIC_PEER_LINKS), 0);
    e = is_dialed(0);
    h = hello_from(HIGHER), h.to = OWN, welcomes(e, h, 0);
    struct slice body = hears(e, LINK_PROOF);
    proof_of(proof, e, LINK_PROOF);
    assert_memory_equal(body.data, proof, sizeof proof);
    assert_int_equal(figure(METRIC_PEER_LINKS), 1);
    tells_of_itself(e);
    assert_true(peers_say(w.core.peers, HIGHER, LINK_RAFT, text("hello")));
    assert_slice(hears(e, LINK_RAFT), "hello");
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
int main(void) {
    const struct CMUnitTest tests[] = {
        TEST(who_has_the_key_is_taken_and_known),
        TEST(who_is_told_otherwise_is_refused_and_told_why),
        TEST(who_has_another_key_is_refused),
        TEST(before_the_proof_nothing_else_is_heard),
        TEST(the_handshake_takes_two_seconds_at_most),
        TEST(so_many_strangers_and_no_more),
        TEST(what_waits_is_bounded_and_what_was_taken_arrives_in_order),
        TEST(large_bodies_are_packed),
        TEST(who_says_nothing_is_asked_and_then_gone),
        TEST(who_comes_anew_takes_the_place_of_its_old_connection),
        TEST(a_damaged_frame_ends_the_connection),
        TEST(an_op_that_can_not_be_run_is_answered),
        TEST(the_lower_id_dials_and_again_until_it_is_welcome),
    };
    return cmocka_run_group_tests_name("peers", tests, NULL, NULL);
}

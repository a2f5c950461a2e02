/* Frames of strangers, into the decoder and on into a group of three. The first byte says what the group is (its low two bits: follower, candidate,
 * leader) and how much of a frame's head is set right before it goes in, because a checksum keeps chance out: bit 2 leaves all as it is, bit 3 makes
 * the term small. The rest is frames, one behind the other. Whatever they say, the group refuses or lives on, every frame that it sends decodes, and
 * nothing that it may apply changes. */
#include "engine/group.h"
#include "proto/base/hash.h"
#include "proto/base/log.h"
#include "proto/base/mem.h"
#include "proto/peer.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { RAW = 4, SMALL_TERM = 8, APPLIED_MAX = 256 };

struct world {
    struct group *group;
    uint64_t now, applied, terms[APPLIED_MAX]; /* of the entries that could be applied */
    struct group_snapshot fetching;
    bool fetch;
};

static void on_vote(void *ctx, uint64_t term, uint64_t voted_for) {}
static void on_append(void *ctx, const struct group_entry *e, size_t n) {
    const struct world *w = ctx;
    check(n > 0);
    check(e[0].index > w->applied);
}
static void on_send(void *ctx, uint64_t to, struct slice frame) {
    struct peer_entry entries[PEER_ENTRIES_MAX];
    struct peer_message m;
    enum status st = peer_decode(frame, &m, entries);
    if (st == STATUS_OK) check(m.to == to && m.from == 1);
    else check(group_term(((struct world *)ctx)->group) > PEER_NUMBER_MAX - 2); /* a term at the end of all terms: not sent on by anyone */
}
static void on_role(void *ctx, enum group_role role, uint64_t term, uint64_t leader) {}
static void on_fetch(void *ctx, uint64_t from, const struct group_snapshot *s) {
    struct world *w = ctx;
    w->fetching = *s, w->fetch = true;
}
static const struct group_ops ops = {on_vote, on_append, on_send, on_role, NULL, on_fetch};

static void settle(struct world *w) {
    group_appends_persisted(w->group, w->now, group_append_count(w->group));
    if (w->fetch) {
        w->fetch = false;
        group_installed(w->group, w->now, &w->fetching);
        w->applied = MAX_OF(w->applied, w->fetching.index);
    }
    while (w->applied < group_applicable(w->group)) {
        struct group_entry e;
        check(group_entry(w->group, ++w->applied, &e));
        if (e.index < APPLIED_MAX) w->terms[e.index] = e.term;
        if (e.type == GROUP_CHANGE) group_members_applied(w->group, w->now, e.index);
    }
    for (uint64_t i = 3; i <= w->applied && i < APPLIED_MAX; i++) {
        struct group_entry e;
        if (group_entry(w->group, i, &e) && w->terms[i]) check(e.term == w->terms[i]);
    }
}

static void send_frame(struct world *w, struct peer_message m, uint64_t from) {
    uint8_t frame[256];
    struct writer out = writer_of(frame, sizeof frame);
    m.group = 7, m.from = from, m.to = 1;
    check(peer_encode(&m, &out));
    check(group_receive(w->group, w->now, from, writer_slice(&out)) == STATUS_OK);
}

static void make_role(struct world *w, unsigned role) {
    group_tick(w->group, w->now);
    if (role == 0) return;
    w->now += 3000, group_tick(w->group, w->now); /* pre-candidate */
    if (role == 1) return;
    struct peer_message yes = {.kind = PEER_VOTE_RESULT, .term = group_term(w->group) + 1};
    yes.vote_result.pre_vote = yes.vote_result.granted = true;
    send_frame(w, yes, 2);
    yes.vote_result.pre_vote = false;
    send_frame(w, yes, 2);
    check(group_role(w->group) == GROUP_LEADER);
    settle(w);
}

/* The head of a frame set right; returns its length. */
static size_t mend(uint8_t *f, size_t len, uint8_t mode) {
    size_t n = get_le32(f + 8);
    if (n < PEER_HEAD_BYTES || n > len) n = len;
    memcpy(f, "ODPM\1", 5);
    put_le16(f + 6, 0), put_le32(f + 8, (uint32_t)n);
    put_le64(f + 16, 7), put_le64(f + 24, 2 + (f[24] & 1)), put_le64(f + 32, 1);
    if (mode & SMALL_TERM) put_le64(f + 40, 1 + f[40] % 8);
    put_le32(f + 12, crc32c(crc32c(0, f, 12), f + 16, n - 16));
    return n;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static uint8_t copy[1 << 16];
    struct peer_entry entries[PEER_ENTRIES_MAX];
    struct peer_message m;
    if (size < 1 || size > sizeof copy) return 0;
    log_set_level(LOG_OFF);
    uint8_t mode = data[0];
    memcpy(copy, data + 1, size - 1);
    (void)(peer_decode(slice_of(copy, size - 1), &m, entries) == STATUS_OK);

    struct world w = {.now = 1000, .applied = GROUP_FIRST_INDEX};
    struct group_config c = {.group_id = 7, .node_id = 1, .election_ms = 1000, .heartbeat_ms = 100, .inflight_max = 64, .uncommitted_max = 64, .seed = 1,
                             .ops = &ops, .ctx = &w};
    struct group_snapshot s = {.index = GROUP_FIRST_INDEX, .term = 1,
                               .members = {.member = {{1, GROUP_VOTER}, {2, GROUP_VOTER}, {3, GROUP_VOTER}}, .count = 3, .index = GROUP_FIRST_INDEX}};
    check(group_open(&w.group, &c, w.now, 1, 0, &s, NULL, 0) == STATUS_OK);
    make_role(&w, mode % 4 % 3);
    for (size_t at = 0; size - 1 - at >= PEER_HEAD_BYTES;) {
        uint8_t *f = copy + at;
        size_t n = size - 1 - at;
        if (!(mode & RAW)) n = mend(f, n, mode);
        (void)(group_receive(w.group, w.now, get_le64(f + 24), slice_of(f, n)) == STATUS_OK);
        if (!(f[16 + n % 8] & 1)) settle(&w); /* else: with writes under way */
        w.now += n % 7 == 0 ? 1500 : 10;
        if (w.now >= group_deadline_ms(w.group)) group_tick(w.group, w.now);
        at += n;
    }
    settle(&w);
    group_close(w.group);
    return 0;
}

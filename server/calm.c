#include "server/calm.h"

/* RFC 9113 section 6; here so that this file needs no library. */
enum { DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION };
enum { FLAG_ACK = 1, FLAG_END_STREAM = 1, FLAG_PADDED = 8 };
enum {
    STRIKES_MAX = 2,
    DATA_BYTES_MIN = 32, /* smaller frames are for the end of a message, and a request has few of them */
    WORK_TOKENS = 4,   /* a window update for the stream and the connection, a ping and a SETTINGS: what clients send with one DATA frame at most */
    UNREADABLE_BYTES = 16 << 10,
    UNREADABLE_BYTES_SMALL = 2 << 10, UNREADABLE_SMALL_MAX = 8,
    WORK_BURSTS = 4,   /* what work gives back is kept up to so many bursts: windows of 16 MiB are opened frame by frame, long after */
};
/* A call that is given up sooner was not waited for. 256 streams can be reset 10,000 times a second so: no more than calls that are answered. */
#define RAPID_NS (25 * NS_PER_MS)
#define WAIT_NS_MAX NS_PER_S /* a longer deadline costs no more: it is met less often */
enum { WAITS_BURST_MS = 4000 };

void calm_init(struct calm *c, const struct calm_limits *l, uint64_t now_ns) {
    *c = (struct calm){.resets = {l->reset_burst, now_ns}, .control = {l->control_burst, now_ns}, .waits = {(uint64_t)WAITS_BURST_MS * l->streams_max, now_ns}};
}

/* What costs more than a full bucket holds takes a full one: else it would never be let through; and never less, or each second's few tokens would pay for it. */
static bool take(struct calm_bucket *b, uint64_t n, uint32_t burst, uint32_t per_s, uint64_t now_ns) {
    uint64_t seconds = now_ns > b->filled_ns ? (now_ns - b->filled_ns) / NS_PER_S : 0;
    if (seconds) {
        uint64_t filled = b->tokens + MIN_OF(seconds, UINT32_MAX) * per_s;
        b->tokens = MAX_OF(b->tokens, MIN_OF(filled, (uint64_t)burst));
        b->filled_ns += seconds * NS_PER_S;
    }
    if (b->tokens < MIN_OF(n, (uint64_t)burst)) return false;
    b->tokens -= MIN_OF(n, b->tokens);
    return true;
}

static void worked(struct calm *c, const struct calm_limits *l, uint32_t tokens) {
    c->control.tokens = MAX_OF(c->control.tokens, MIN_OF(c->control.tokens + tokens, (uint64_t)WORK_BURSTS * l->control_burst));
}

static enum cut on_control(struct calm *c, const struct calm_limits *l, uint64_t now_ns) {
    return take(&c->control, 1, l->control_burst, l->control_per_s, now_ns) ? CUT_NONE : CUT_CONTROL_FRAMES;
}

static enum cut on_ping(struct calm *c, const struct calm_limits *l, uint64_t now_ns) {
    bool early = c->pinged_ns && now_ns - c->pinged_ns < l->ping_interval_ns;
    c->pinged_ns = now_ns;
    if (!early) return c->strikes = 0, on_control(c, l, now_ns);
    return ++c->strikes > STRIKES_MAX ? CUT_PINGS : on_control(c, l, now_ns);
}

enum cut calm_on_frame(struct calm *c, const struct calm_limits *l, uint64_t now_ns, uint8_t type, uint8_t flags, uint32_t length) {
    if (type != CONTINUATION) c->continuations = 0;
    switch (type) {
    case DATA:
        if (length == 0 && flags & FLAG_END_STREAM) return CUT_NONE;
        if (length < DATA_BYTES_MIN || flags & FLAG_PADDED) return on_control(c, l, now_ns);
        return worked(c, l, 1), CUT_NONE;
    case HEADERS: return worked(c, l, WORK_TOKENS), CUT_NONE; /* a request; what it costs is bounded where calls are */
    case PING:
        if (!(flags & FLAG_ACK)) return on_ping(c, l, now_ns);
        return on_control(c, l, now_ns); /* we ask once a minute at most */
    case CONTINUATION: return ++c->continuations > l->continuations_max ? CUT_CONTINUATIONS : CUT_NONE;
    default: return on_control(c, l, now_ns);
    }
}

enum cut calm_on_reset(struct calm *c, const struct calm_limits *l, uint64_t now_ns, uint64_t lived_ns, uint64_t timeout_ns) {
    if (lived_ns >= RAPID_NS) return CUT_NONE;
    uint64_t wait_ms = MIN_OF(MAX_OF(timeout_ns, RAPID_NS), WAIT_NS_MAX) / NS_PER_MS;
    if (timeout_ns && take(&c->waits, wait_ms, WAITS_BURST_MS * l->streams_max, 1000 * l->streams_max, now_ns)) return CUT_NONE;
    return calm_on_fault(c, l, now_ns);
}

enum cut calm_on_late_reset(struct calm *c, const struct calm_limits *l, uint64_t now_ns) { return on_control(c, l, now_ns); }

void calm_on_answer(struct calm *c, const struct calm_limits *l) {
    c->pinged_ns = 0;
    c->strikes = 0;
    worked(c, l, WORK_TOKENS);
}

enum cut calm_on_fault(struct calm *c, const struct calm_limits *l, uint64_t now_ns) {
    return take(&c->resets, 1, l->reset_burst, l->reset_per_s, now_ns) ? CUT_NONE : CUT_RESETS;
}

enum cut calm_on_unreadable(struct calm *c, const struct calm_limits *l, uint64_t now_ns, uint64_t bytes) {
    uint64_t cost = bytes ? MAX_OF(bytes / UNREADABLE_BYTES, MIN_OF(bytes / UNREADABLE_BYTES_SMALL, (uint64_t)UNREADABLE_SMALL_MAX)) : 1;
    return !cost || take(&c->resets, cost, l->reset_burst, l->reset_per_s, now_ns) ? CUT_NONE : CUT_UNREADABLE;
}

const char *calm_text(enum cut why) {
    switch (why) {
    case CUT_PINGS: return "too_many_pings";
    case CUT_RESETS: return "too many streams reset";
    case CUT_UNREADABLE: return "too many messages that can't be read";
    case CUT_CONTROL_FRAMES: return "too many frames that bring no work";
    case CUT_CONTINUATIONS: return "too many CONTINUATION frames";
    case CUT_HEADER_BYTES: return "a header list far beyond SETTINGS_MAX_HEADER_LIST_SIZE";
    default: return "";
    }
}

#include "server/metrics.h"

#include <stdarg.h>
#include <stdio.h>

static const struct {
    enum metric_kind kind;
    const char *name, *help;
} rows[] = {
#define METRIC(id, kind, name, help) {METRIC_##kind, name, help},
#include "server/metrics.tbl"
#undef METRIC
};
static_assert(ARRAY_LEN(rows) == METRIC_COUNT, "one row each");

static const char *const method_names[] = {
#define METHOD(service, method, kind, handler) #service "/" #method,
#define METHOD_IN(row, package, service, method, kind, handler) #package "." #service "/" #method,
#include "proto/methods.tbl"
#undef METHOD
#undef METHOD_IN
};
static const char *const code_names[GRPC_CODE_COUNT] = {
    "OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND", "ALREADY_EXISTS", "PERMISSION_DENIED", "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION", "ABORTED", "OUT_OF_RANGE", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS", "UNAUTHENTICATED",
};

/* ---- histograms: bucket 0 is <= 1 us; then two an octave, <= 1.5 x 2^k us and <= 2 x 2^k us */

uint64_t histogram_bound_ns(unsigned bucket) {
    check(bucket < HISTOGRAM_BUCKETS);
    if (bucket == HISTOGRAM_BUCKETS - 1) return UINT64_MAX;
    if (bucket == 0) return 1000;
    unsigned octave = (bucket - 1) / 2;
    return bucket % 2 ? 1500ull << octave : 2000ull << octave;
}

unsigned histogram_bucket(uint64_t ns) {
    if (ns <= 1000) return 0;
    unsigned octave = 63 - (unsigned)__builtin_clzll((ns - 1) / 1000); /* 1000 x 2^octave < ns <= 2000 x 2^octave */
    unsigned bucket = octave * 2 + (ns <= 1500ull << octave ? 1 : 2);
    return octave >= 32 || bucket >= HISTOGRAM_BUCKETS - 1 ? HISTOGRAM_BUCKETS - 1 : bucket;
}

void histogram_add(struct histogram *h, uint64_t ns) {
    metric_bump(&h->buckets[histogram_bucket(ns)], 1);
    metric_bump(&h->sum_ns, ns);
    metric_bump(&h->count, 1);
}

void metric_call(struct metrics *m, unsigned method_row, enum grpc_code code, uint64_t ns) {
    check(method_row < METHOD_COUNT);
    check((unsigned)code < GRPC_CODE_COUNT);
    metric_bump(&m->calls[method_row][code], 1);
    histogram_add(&m->call_ns[method_row], ns);
}

/* ---- text */

bool metrics_printf(struct buf *out, const char *format, ...) {
    va_list args;
    for (size_t room = 256;; room *= 2) {
        if (!buf_reserve(out, room)) return false;
        va_start(args, format);
        int n = vsnprintf((char *)out->data + out->len, room, format, args);
        va_end(args);
        check(n >= 0);
        if ((size_t)n >= room) continue;
        out->len += (size_t)n;
        return true;
    }
}

bool metrics_write_head(struct buf *out, const char *name, const char *kind, const char *help) {
    return metrics_printf(out, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, kind);
}

static void histogram_sum(struct histogram *to, const struct histogram *from) {
    for (unsigned b = 0; b < HISTOGRAM_BUCKETS; b++) to->buckets[b] += metric_load(&from->buckets[b]);
    to->sum_ns += metric_load(&from->sum_ns);
}

/* labels: "" or `method="..."`. The count is that of the buckets seen, so that the lines agree with one another. */
static bool histogram_write(struct buf *out, const char *name, const char *labels, const struct histogram *h) {
    uint64_t seen = 0;
    const char *comma = *labels ? "," : "";
    for (unsigned b = 0; b < HISTOGRAM_BUCKETS - 1; b++) {
        seen += h->buckets[b];
        if (!metrics_printf(out, "%s_bucket{%s%sle=\"%.7g\"} %lu\n", name, labels, comma, (double)histogram_bound_ns(b) / 1e9, seen)) return false;
    }
    seen += h->buckets[HISTOGRAM_BUCKETS - 1];
    if (!metrics_printf(out, "%s_bucket{%s%sle=\"+Inf\"} %lu\n", name, labels, comma, seen)) return false;
    const char *open = *labels ? "{" : "", *close = *labels ? "}" : "";
    return metrics_printf(out, "%s_sum%s%s%s %.9f\n%s_count%s%s%s %lu\n", name, open, labels, close, (double)h->sum_ns / 1e9, name, open, labels, close, seen);
}

static bool write_row(struct buf *out, enum metric id, struct metrics *const *cores, size_t core_count) {
    static const char *const kinds[] = {"counter", "gauge", "histogram"};
    if (!metrics_write_head(out, rows[id].name, kinds[rows[id].kind], rows[id].help)) return false;
    if (rows[id].kind == METRIC_SECONDS) {
        struct histogram sum = {0};
        for (size_t c = 0; c < core_count; c++) histogram_sum(&sum, &cores[c]->times[id]);
        return histogram_write(out, rows[id].name, "", &sum);
    }
    uint64_t sum = 0;
    for (size_t c = 0; c < core_count; c++) sum += metric_load(&cores[c]->values[id]);
    return metrics_printf(out, "%s %lu\n", rows[id].name, sum);
}

static bool write_cuts(struct buf *out, struct metrics *const *cores, size_t core_count) {
    static const struct {
        const char *action, *reason;
    } cuts[] = {
        {NULL, NULL},
#define CUT(id, action, reason, hostile, help) {action, reason},
#include "server/cuts.tbl"
#undef CUT
    };
    if (!metrics_write_head(out, "orderdb_peer_limits_total", "counter", "Connections refused, connections cut off and streams reset by a limit, by reason.")) return false;
    for (unsigned id = 1; id < CUT_COUNT; id++) {
        uint64_t sum = 0;
        for (size_t c = 0; c < core_count; c++) sum += metric_load(&cores[c]->cuts[id]);
        if (!metrics_printf(out, "orderdb_peer_limits_total{action=\"%s\",reason=\"%s\"} %lu\n", cuts[id].action, cuts[id].reason, sum)) return false;
    }
    return true;
}

static uint64_t calls_sum(struct metrics *const *cores, size_t core_count, unsigned row, unsigned code) {
    uint64_t sum = 0;
    for (size_t c = 0; c < core_count; c++) sum += metric_load(&cores[c]->calls[row][code]);
    return sum;
}

/* Methods that were never called are left out: 44 methods x 52 buckets say nothing. */
static bool write_calls(struct buf *out, struct metrics *const *cores, size_t core_count) {
    if (!metrics_write_head(out, "orderdb_calls_total", "counter", "Calls answered, by method and gRPC code.")) return false;
    for (unsigned row = 0; row < METHOD_COUNT; row++)
        for (unsigned code = 0; code < GRPC_CODE_COUNT; code++) {
            uint64_t sum = calls_sum(cores, core_count, row, code);
            if (sum && !metrics_printf(out, "orderdb_calls_total{method=\"%s\",code=\"%s\"} %lu\n", method_names[row], code_names[code], sum)) return false;
        }
    if (!metrics_write_head(out, "orderdb_call_seconds", "histogram", "Time of a call in the server, headers to trailers, by method.")) return false;
    for (unsigned row = 0; row < METHOD_COUNT; row++) {
        struct histogram sum = {0};
        char labels[96];
        snprintf(labels, sizeof labels, "method=\"%s\"", method_names[row]);
        for (size_t c = 0; c < core_count; c++) {
            histogram_sum(&sum, &cores[c]->call_ns[row]);
            sum.count += metric_load(&cores[c]->call_ns[row].count);
        }
        if (sum.count && !histogram_write(out, "orderdb_call_seconds", labels, &sum)) return false;
    }
    return true;
}

bool metrics_write(struct buf *out, struct metrics *const *cores, size_t core_count) {
    for (unsigned id = 0; id < METRIC_COUNT; id++)
        if (!write_row(out, (enum metric)id, cores, core_count)) return false;
    return write_cuts(out, cores, core_count) && write_calls(out, cores, core_count);
}

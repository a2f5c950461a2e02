/* The figures of one core. Each core writes its own words and nobody else's; any thread may read them (relaxed atomics: a figure may be a moment
 * old, never torn). One row each in metrics.tbl; by method and by outcome from proto/methods.tbl. */
#ifndef SERVER_METRICS_H
#define SERVER_METRICS_H

#include "proto/base/buf.h"
#include "proto/status.h"
#include "server/cuts.h"

enum metric_kind { METRIC_COUNTER, METRIC_GAUGE, METRIC_SECONDS };
enum metric {
#define METRIC(id, kind, name, help) METRIC_##id,
#include "server/metrics.tbl"
#undef METRIC
    METRIC_COUNT,
};
/* The row of a method in proto/methods.tbl. */
enum {
#define METHOD(service, method, kind, handler) METHOD_ROW_##service##_##method,
#define METHOD_IN(row, package, service, method, kind, handler) METHOD_ROW_##row,
#include "proto/methods.tbl"
#undef METHOD
#undef METHOD_IN
    METHOD_COUNT,
};
enum { GRPC_CODE_COUNT = 17 };

/* Log-scale: two buckets an octave from 1 us to about 34 s (bounds 1, 1.5, 2, 3, 4, 6 us ...), and one for what is beyond. */
enum { HISTOGRAM_BUCKETS = 52 };
struct histogram {
    uint64_t buckets[HISTOGRAM_BUCKETS], sum_ns, count;
};
/* Upper bound of a bucket, inclusive; the last one: UINT64_MAX. */
uint64_t histogram_bound_ns(unsigned bucket);
unsigned histogram_bucket(uint64_t ns);

struct metrics {
    uint64_t values[METRIC_COUNT];
    struct histogram times[METRIC_COUNT]; /* of the SECONDS rows */
    uint64_t cuts[CUT_COUNT]; /* what limits ended */
    uint64_t calls[METHOD_COUNT][GRPC_CODE_COUNT];
    struct histogram call_ns[METHOD_COUNT];
};

static inline void metric_bump(uint64_t *word, uint64_t n) {
    __atomic_store_n(word, __atomic_load_n(word, __ATOMIC_RELAXED) + n, __ATOMIC_RELAXED);
}
static inline uint64_t metric_load(const uint64_t *word) { return __atomic_load_n(word, __ATOMIC_RELAXED); }
static inline void metric_add(struct metrics *m, enum metric id, uint64_t n) { metric_bump(&m->values[id], n); }
static inline void metric_set(struct metrics *m, enum metric id, uint64_t v) { __atomic_store_n(&m->values[id], v, __ATOMIC_RELAXED); }
static inline void metric_cut(struct metrics *m, enum cut why) { metric_bump(&m->cuts[why], 1); }
void histogram_add(struct histogram *h, uint64_t ns);
static inline void metric_time(struct metrics *m, enum metric id, uint64_t ns) { histogram_add(&m->times[id], ns); }
/* A call is answered: its row in methods.tbl, its outcome, and how long it took. */
void metric_call(struct metrics *m, unsigned method_row, enum grpc_code code, uint64_t ns);

/* Prometheus text format 0.0.4 of all cores' figures added up. false: no memory. */
bool metrics_write(struct buf *out, struct metrics *const *cores, size_t core_count) MUST_USE;
/* For figures that are not counted here: "# HELP", "# TYPE", then samples. kind: "counter", "gauge". */
bool metrics_write_head(struct buf *out, const char *name, const char *kind, const char *help) MUST_USE;
bool metrics_printf(struct buf *out, const char *format, ...) MUST_USE PRINTF_LIKE(2, 3);

#endif

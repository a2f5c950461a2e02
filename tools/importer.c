#include "tools/importer.h"

#include <string.h>
#include <time.h>

#include "proto/base/arena.h"
#include "proto/base/buf.h"
#include "proto/base/mem.h"
#include "tools/pbjson.h"
#include "tools/refusal.h"

enum { BATCH_ORDERS_MAX = 100, BATCH_BYTES_MAX = 1 << 20, BATCHES_UNDER_WAY = 8, ATTEMPTS_MAX = 8, PAUSE_MS = 500 };

struct batch {
    struct importer_status *status;
    struct buf bytes;
    unsigned count;
    uint32_t ends[BATCH_ORDERS_MAX]; /* where each packed order ends in bytes */
    struct orderdb_import *stream;   /* under way */
};

struct importer {
    struct orderdb_client *db;
    FILE *rejects;
    struct importer_books books;
    struct batch *open[IMPORTER_STATUSES_MAX]; /* being filled, by status */
    struct batch *sent[BATCHES_UNDER_WAY];     /* a ring, oldest at sent[first] */
    unsigned first, sent_count;
};

struct importer *importer_new(struct orderdb_client *db, FILE *rejects) {
    struct importer *m = mem_new(struct importer);
    if (!m) return NULL;
    m->db = db, m->rejects = rejects;
    strcpy(m->books.total.name, "total");
    return m;
}

static void batch_free(struct batch *b) {
    if (!b) return;
    if (b->stream) orderdb_message_free(orderdb_import_finish(b->stream));
    buf_fini(&b->bytes);
    mem_free(b);
}

void importer_free(struct importer *m) {
    if (!m) return;
    for (size_t i = 0; i < IMPORTER_STATUSES_MAX; i++) batch_free(m->open[i]);
    for (unsigned i = 0; i < m->sent_count; i++) batch_free(m->sent[(m->first + i) % BATCHES_UNDER_WAY]);
    mem_free(m);
}

const struct importer_books *importer_books(const struct importer *m) { return &m->books; }
int64_t importer_done(const struct importer *m) { return m->books.total.imported + m->books.total.already_there + m->books.total.rejected; }

/* ---- books */

static struct importer_status *status_row(struct importer *m, const char *name) {
    struct importer_books *b = &m->books;
    for (size_t i = 0; i < b->status_count; i++) {
        if (strncmp(b->statuses[i].name, name, IMPORTER_NAME_BYTES - 1) == 0) return &b->statuses[i];
    }
    if (b->status_count == IMPORTER_STATUSES_MAX) return &b->statuses[IMPORTER_STATUSES_MAX - 1];
    struct importer_status *s = &b->statuses[b->status_count++];
    snprintf(s->name, sizeof(s->name), "%s", b->status_count == IMPORTER_STATUSES_MAX ? "(other)" : name);
    return s;
}

static void count_reason(struct importer *m, const char *text, const char *order_no, const char *message) {
    struct importer_books *b = &m->books;
    size_t i = 0;
    while (i < b->reason_count && strncmp(b->reasons[i].text, text, IMPORTER_NAME_BYTES - 1) != 0) i++;
    if (i == IMPORTER_REASONS_MAX) i--; /* the last row takes what is left */
    if (i == b->reason_count) {
        b->reason_count++;
        snprintf(b->reasons[i].text, IMPORTER_NAME_BYTES, "%s", i + 1 == IMPORTER_REASONS_MAX ? "(other)" : text);
        snprintf(b->reasons[i].first, IMPORTER_FIRST_BYTES, "%s%s%s", order_no, *message ? ": " : "", message);
    }
    b->reasons[i].count++;
}

static void rejects_write(struct importer *m, const char *order_no, const char *status, const char *reason, const char *message) {
    const char *const names[] = {"client_order_no", "status", "reason", "message"}, *const values[] = {order_no, status, reason, message};
    struct buf line = {0};
    bool ok = true;
    if (!m->rejects) return;
    for (size_t i = 0; ok && i < ARRAY_LEN(names); i++) {
        ok = buf_append(&line, slice_str(i ? "," : "{")) && pbjson_quote(&line, names[i]) && buf_append(&line, SLICE_LIT(":")) &&
             pbjson_quote(&line, values[i]);
    }
    if (ok) fprintf(m->rejects, "%.*s}\n", (int)line.len, (const char *)line.data);
    else fprintf(m->rejects, "{\"reason\":\"out of memory\"}\n");
    buf_fini(&line);
}

static void count_rejected(struct importer *m, struct importer_status *row, const char *order_no, const char *reason, const char *message) {
    row->rejected++;
    m->books.total.rejected++;
    count_reason(m, reason, order_no, message);
    rejects_write(m, order_no, row->name, reason, message);
}

void importer_reject(struct importer *m, const char *order_no, const char *status, const char *reason, const char *message) {
    count_rejected(m, status_row(m, *status ? status : "(unknown)"), order_no, reason, message);
}

/* ---- answers */

static void count_refused(struct importer *m, struct importer_status *row, const Orderdb__V1__ImportOrdersResponse__Rejected *r) {
    struct arena a;
    struct details d;
    struct buf text = {0};
    arena_init(&a, REFUSAL_ARENA_BYTES);
    m->books.refused++;
    bool ok = refusal_read(r->error, &a, &d, &text);
    count_rejected(m, row, r->client_order_no, *d.reason ? d.reason : "refused without a reason", ok ? (const char *)text.data : "");
    buf_fini(&text);
    arena_fini(&a);
}

static void answer_count(struct importer *m, struct importer_status *row, const Orderdb__V1__ImportOrdersResponse *a) {
    row->imported += a->imported, row->already_there += a->already_there;
    m->books.total.imported += a->imported, m->books.total.already_there += a->already_there;
    for (size_t i = 0; i < a->n_rejected; i++) count_refused(m, row, a->rejected[i]);
    for (int64_t i = (int64_t)a->n_rejected; i < a->rejected_count; i++) {
        m->books.refused++;
        count_rejected(m, row, "", "refused, not named by the server", "");
    }
}

/* ---- batches */

static bool batch_send(struct importer *m, struct batch *b) {
    b->stream = orderdb_import_begin(m->db, 0);
    if (!b->stream) return false;
    uint32_t at = 0;
    for (unsigned i = 0; i < b->count; at = b->ends[i++]) {
        if (!orderdb_import_send_bytes(b->stream, b->bytes.data + at, b->ends[i] - at)) break; /* batch_settle() learns why */
    }
    orderdb_import_end(b->stream);
    return true;
}

/* A failure that passes: the same batch may go again. Not when no server was there from the start: the caller should know at once. */
static bool failure_passes(const struct importer *m, const struct orderdb_error *e) {
    const char *name = orderdb_error_code_name(e);
    bool never_there = m->books.total.imported + m->books.total.already_there == 0 && !orderdb_error_outcome_unknown(e) && !*orderdb_error_reason(e);
    return !never_there && (strcmp(name, "UNAVAILABLE") == 0 || (strcmp(name, "RESOURCE_EXHAUSTED") == 0 && orderdb_error_retry_delay_ms(e) >= 0));
}

static void pause_ms(int64_t ms) {
    struct timespec t = {(time_t)(ms / 1000), (long)(ms % 1000 * 1000000)};
    nanosleep(&t, NULL);
}

/* Waits for the batch's answer, sends it again where that helps. Frees it. */
static bool batch_settle(struct importer *m, struct batch *b) {
    for (unsigned attempt = 1;; attempt++) {
        Orderdb__V1__ImportOrdersResponse *a = orderdb_import_finish(b->stream);
        b->stream = NULL;
        if (a) {
            answer_count(m, b->status, a);
            orderdb_message_free(a);
            batch_free(b);
            return true;
        }
        const struct orderdb_error *e = orderdb_error(m->db);
        if (attempt == ATTEMPTS_MAX || !failure_passes(m, e)) break;
        pause_ms(PAUSE_MS * (int64_t)attempt + MAX_OF(orderdb_error_retry_delay_ms(e), (int64_t)0));
        if (!batch_send(m, b)) break;
    }
    batch_free(b);
    return false;
}

static bool oldest_settle(struct importer *m) {
    struct batch *b = m->sent[m->first];
    m->first = (m->first + 1) % BATCHES_UNDER_WAY;
    m->sent_count--;
    return batch_settle(m, b);
}

static bool batch_flush(struct importer *m, struct batch **open) {
    struct batch *b = *open;
    *open = NULL;
    if (m->sent_count == BATCHES_UNDER_WAY && !oldest_settle(m)) return batch_free(b), false;
    if (!batch_send(m, b)) return batch_free(b), false;
    m->sent[(m->first + m->sent_count++) % BATCHES_UNDER_WAY] = b;
    return true;
}

bool importer_add(struct importer *m, const Orderdb__V1__ImportOrdersRequest *order) {
    const char *status = order->order && *order->order->status ? order->order->status : "(not said)";
    struct importer_status *row = status_row(m, status);
    struct batch **open = &m->open[row - m->books.statuses];
    size_t bytes = orderdb__v1__import_orders_request__get_packed_size(order);
    if (*open && ((*open)->count == BATCH_ORDERS_MAX || (*open)->bytes.len + bytes > BATCH_BYTES_MAX) && !batch_flush(m, open)) return false;
    if (!*open) *open = mem_new(struct batch);
    struct batch *b = *open;
    if (!b || bytes > UINT32_MAX / 2 || !buf_reserve(&b->bytes, bytes)) return false;
    b->status = row;
    b->bytes.len += orderdb__v1__import_orders_request__pack(order, b->bytes.data + b->bytes.len);
    b->ends[b->count++] = (uint32_t)b->bytes.len;
    return true;
}

bool importer_finish(struct importer *m) {
    for (size_t i = 0; i < m->books.status_count; i++) {
        if (m->open[i] && !batch_flush(m, &m->open[i])) return false;
    }
    while (m->sent_count) {
        if (!oldest_settle(m)) return false;
    }
    return true;
}

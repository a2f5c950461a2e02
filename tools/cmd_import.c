/* orderctl order import: NDJSON or the Olist data set, through tools/importer.h, with progress on a terminal and a report at the end. */
#include "tools/cmd_import.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "proto/base/arena.h"
#include "proto/base/buf.h"
#include "proto/base/mem.h"
#include "tools/importer.h"
#include "tools/olist.h"
#include "tools/pbjson.h"
#include "tools/table.h"

#define ORDER_ARENA_BYTES (64 * MIB)

static const char *format, *rejects_path;
static bool no_events;
const struct arg cmd_import_flags[] = {
    {"--format", NULL, ARG_TEXT, &format, "ndjson|olist", "default: ndjson for a file, olist for a directory"},
    {"--rejects", NULL, ARG_TEXT, &rejects_path, "FILE", "write each rejected order with its reason, one JSON object per line"},
    {"--no-events", NULL, ARG_SWITCH, &no_events, NULL, "the change stream is not told of these orders, only of what happens to them later"},
    {NULL},
};
const char cmd_import_text[] =
    "ndjson: one ImportOrdersRequest per line, {\"order\": {...}, \"history\": [...]}.\n"
    "olist: a directory with orders.csv, customers.csv, order_items.csv, order_payments.csv, products.csv, category_translation.csv\n"
    "(docs/OLIST.md).\n"
    "client_order_no makes an import repeatable: what is there already stays as it is.\n"
    "--no-events is for orders that consumers know, or need not hear of: groups that begin with a snapshot are told them all the same.\n"
    "Exit code 1 when the server refused an order or a line could not be read; 130 after Ctrl-C, which reports what is in (again: at once).\n\n"
    "Examples:\n"
    "  orderctl order import orders.ndjson --rejects rejected.ndjson\n"
    "  orderctl order import --format olist ../shared/data/olist\n"
    "  orderctl order import --no-events history.ndjson\n"
    "  zcat orders.ndjson.gz | orderctl order import -\n";

struct job {
    struct cli *cli;
    struct importer *importer;
    int64_t total; /* bytes or orders; 0: not known */
    int64_t unreadable;
    bool progress;
    struct timespec started, shown;
};

/* Ctrl-C: nothing more is read, what is under way is settled and reported. The second one ends the process. */
static volatile sig_atomic_t interrupted;
static void interrupt_on_signal(int number) { interrupted = number; }

/* ---- progress */

static double seconds_since(const struct timespec *t) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)(now.tv_sec - t->tv_sec) + (double)(now.tv_nsec - t->tv_nsec) / 1e9;
}

/* at: of total, whatever its unit. At most ten times a second. */
static void progress_show(struct job *j, int64_t at, bool last) {
    enum { WIDTH = 30 };
    char bar[WIDTH + 1];
    if (!j->progress || (!last && seconds_since(&j->shown) < 0.1)) return;
    clock_gettime(CLOCK_MONOTONIC, &j->shown);
    double share = j->total > 0 ? (double)at / (double)j->total : 0, elapsed = seconds_since(&j->started);
    long long done = (long long)importer_done(j->importer);
    for (int i = 0; i < WIDTH; i++) bar[i] = i < (int)(share * WIDTH + 0.5) ? '#' : '.';
    bar[WIDTH] = 0;
    if (j->total > 0) fprintf(stderr, "\r[%s] %3d %%  ", bar, (int)(share * 100));
    else fputc('\r', stderr);
    fprintf(stderr, "%lld orders, %.0f/s   %s", done, elapsed > 0 ? (double)done / elapsed : 0, last ? "\n" : "");
}

/* ---- sources. false: the import cannot go on */

static bool order_import(struct job *j, Orderdb__V1__ImportOrdersRequest *m) {
    m->no_event |= no_events;
    return importer_add(j->importer, m);
}

static bool line_import(struct job *j, struct slice line, unsigned number, struct arena *a) {
    char error[PBJSON_ERROR_BYTES], where[48];
    arena_reset(a);
    ProtobufCMessage *m = pbjson_parse(&orderdb__v1__import_orders_request__descriptor, line, a, error);
    if (m) return order_import(j, (Orderdb__V1__ImportOrdersRequest *)m);
    snprintf(where, sizeof(where), "line %u", number);
    j->unreadable++;
    /* The parser counts lines from our line on. */
    static const char parsers[] = "not JSON: line 1, ";
    size_t skip = strncmp(error, parsers, sizeof(parsers) - 1) == 0 ? sizeof(parsers) - 1 : 0;
    importer_reject(j->importer, where, "", "line cannot be read", error + skip);
    return true;
}

static bool is_blank(const char *line, size_t n) {
    while (n && strchr(" \t\r\n", line[n - 1])) n--;
    return n == 0;
}

static bool ndjson_lines(struct job *j, FILE *f) {
    struct arena a;
    char *line = NULL;
    size_t cap = 0;
    int64_t bytes = 0;
    bool ok = true;
    arena_init(&a, ORDER_ARENA_BYTES);
    ssize_t n;
    for (unsigned number = 1; ok && !interrupted && (n = getline(&line, &cap, f)) >= 0; number++) {
        bytes += n;
        if (interrupted) break; /* in the middle of a line, perhaps */
        if (is_blank(line, (size_t)n)) continue;
        ok = line_import(j, slice_of(line, (size_t)n), number, &a);
        progress_show(j, bytes, false);
    }
    free(line); /* getline's own */
    arena_fini(&a);
    if (ok && !interrupted && ferror(f)) fprintf(stderr, "orderctl: reading failed: %s\n", strerror(errno)), j->unreadable++;
    ok = ok && importer_finish(j->importer);
    progress_show(j, bytes, true);
    return ok;
}

static enum cli_exit ndjson_import(struct job *j, const char *path, bool *ok) {
    bool is_stdin = strcmp(path, "-") == 0;
    FILE *f = is_stdin ? stdin : fopen(path, "r");
    struct stat st;
    if (!f) {
        fputs("orderctl: cannot read ", stderr);
        text_print(stderr, path);
        fprintf(stderr, ": %s\n", strerror(errno));
        return CLI_USAGE;
    }
    if (fstat(fileno(f), &st) == 0 && S_ISREG(st.st_mode)) j->total = (int64_t)st.st_size;
    *ok = ndjson_lines(j, f);
    if (!is_stdin) fclose(f);
    return CLI_OK;
}

static struct olist *olist_load(struct job *j, const char *dir) {
    struct slice texts[OLIST_FILES] = {0};
    char path[4096], error[OLIST_ERROR_BYTES];
    struct olist *o = NULL;
    bool read = true;
    for (int i = 0; read && i < OLIST_FILES; i++) {
        snprintf(path, sizeof(path), "%s/%s", dir, olist_file_names[i]);
        texts[i].data = (uint8_t *)cli_read_file(path, &texts[i].len);
        read = texts[i].data != NULL;
    }
    if (read && !(o = olist_new(texts, error))) cli_usage(j->cli, "%s", error);
    for (int i = 0; i < OLIST_FILES; i++) mem_free((void *)(uintptr_t)texts[i].data);
    return o;
}

static bool olist_orders(struct job *j, const struct olist *o) {
    struct arena a;
    bool ok = true;
    arena_init(&a, ORDER_ARENA_BYTES);
    for (size_t i = 0; ok && !interrupted && i < olist_count(o); i++) {
        struct olist_order order;
        arena_reset(&a);
        enum olist_verdict v = olist_get(o, i, &a, &order);
        if (v == OLIST_TAKEN) ok = order_import(j, order.request);
        else importer_reject(j->importer, order.order_no, order.status, olist_verdict_text(v), "");
        progress_show(j, (int64_t)i, false);
    }
    arena_fini(&a);
    ok = ok && importer_finish(j->importer);
    progress_show(j, (int64_t)olist_count(o), true);
    return ok;
}

static enum cli_exit olist_import(struct job *j, const char *dir, bool *ok) {
    struct olist *o = olist_load(j, dir);
    if (!o) return CLI_USAGE;
    j->total = (int64_t)olist_count(o);
    *ok = olist_orders(j, o);
    olist_free(o);
    return CLI_OK;
}

/* ---- the report */

static void status_cells(struct table *t, const struct importer_status *s) {
    table_cell(t, "%s", s->name);
    table_cell(t, "%lld", (long long)s->imported);
    table_cell(t, "%lld", (long long)s->already_there);
    table_cell(t, "%lld", (long long)s->rejected);
}

static void report_table(const struct importer_books *b) {
    static const struct table_column columns[] = {
        {"STATUS", .shrinks_to = 20}, {"IMPORTED", .right = true}, {"ALREADY THERE", .right = true}, {"REJECTED", .right = true},
    };
    struct table t;
    table_init(&t, columns, ARRAY_LEN(columns));
    for (size_t i = 0; i < b->status_count; i++) status_cells(&t, &b->statuses[i]);
    status_cells(&t, &b->total);
    table_print(&t, stdout, TABLE_WIDTH);
    table_fini(&t);
    if (b->reason_count) printf("\nRejected:\n");
    for (size_t i = 0; i < b->reason_count; i++) {
        printf("  %lld  ", (long long)b->reasons[i].count);
        text_print(stdout, b->reasons[i].text);
        if (*b->reasons[i].first) printf("; the first: ");
        text_print(stdout, b->reasons[i].first);
        putchar('\n');
    }
}

static bool status_json(struct buf *out, const struct importer_status *s) {
    char numbers[128];
    snprintf(numbers, sizeof(numbers), ": {\"imported\": %lld, \"already_there\": %lld, \"rejected\": %lld}", (long long)s->imported,
             (long long)s->already_there, (long long)s->rejected);
    return pbjson_quote(out, s->name) && buf_append(out, slice_str(numbers));
}

static enum cli_exit report_json(const struct importer_books *b) {
    struct buf out = {0};
    char number[32];
    bool ok = buf_append(&out, SLICE_LIT("{\n  ")) && status_json(&out, &b->total) && buf_append(&out, SLICE_LIT(",\n  \"statuses\": {"));
    for (size_t i = 0; ok && i < b->status_count; i++) ok = buf_append(&out, slice_str(i ? ",\n    " : "\n    ")) && status_json(&out, &b->statuses[i]);
    ok = ok && buf_append(&out, slice_str(b->status_count ? "\n  },\n  \"reasons\": {" : "},\n  \"reasons\": {"));
    for (size_t i = 0; ok && i < b->reason_count; i++) {
        snprintf(number, sizeof(number), ": %lld", (long long)b->reasons[i].count);
        ok = buf_append(&out, slice_str(i ? ",\n    " : "\n    ")) && pbjson_quote(&out, b->reasons[i].text) &&
             buf_append(&out, slice_str(number));
    }
    ok = ok && buf_append(&out, slice_str(b->reason_count ? "\n  }\n}" : "}\n}")) && buf_append(&out, slice_of("", 1));
    enum cli_exit e = ok ? cli_print_text((const char *)out.data) : cli_no_memory();
    buf_fini(&out);
    return e;
}

/* ---- the command */

static enum cli_exit job_run(struct job *j, const char *path, bool olist) {
    bool ok = false;
    j->progress = isatty(STDERR_FILENO);
    clock_gettime(CLOCK_MONOTONIC, &j->started);
    enum cli_exit e = olist ? olist_import(j, path, &ok) : ndjson_import(j, path, &ok);
    if (e != CLI_OK) return e;
    const struct importer_books *b = importer_books(j->importer);
    if (!ok && b->total.imported + b->total.already_there == 0) return orderdb_error(j->cli->db) ? cli_error(j->cli) : cli_no_memory();
    if (j->cli->json) e = report_json(b);
    else report_table(b);
    if (!ok) {
        fprintf(stderr, "orderctl: the import stopped; run it again to go on, what is in stays as it is\n");
        return orderdb_error(j->cli->db) ? cli_error(j->cli) : cli_no_memory();
    }
    if (interrupted) {
        fprintf(stderr, "orderctl: interrupted; run it again to go on, what is in stays as it is\n");
        return CLI_INTERRUPTED;
    }
    if (b->total.rejected && !rejects_path) fprintf(stderr, "orderctl: --rejects FILE names every rejected order\n");
    return e == CLI_OK && (j->unreadable || b->refused) ? CLI_REFUSED : e;
}

enum cli_exit cmd_import_run(struct cli *cli, int argc, char **argv) {
    struct stat st;
    bool is_dir = stat(argv[0], &st) == 0 && S_ISDIR(st.st_mode), olist = format ? strcmp(format, "olist") == 0 : is_dir;
    if (format && !olist && strcmp(format, "ndjson") != 0) return cli_usage(cli, "--format is ndjson or olist, not %s", format);
    if (olist != is_dir) return cli_usage(cli, olist ? "%s is not a directory" : "%s is a directory", argv[0]);
    FILE *rejects = rejects_path ? fopen(rejects_path, "w") : NULL;
    if (rejects_path && !rejects) return cli_usage(cli, "cannot write %s: %s", rejects_path, strerror(errno));
    struct sigaction action = {.sa_handler = interrupt_on_signal, .sa_flags = (int)SA_RESETHAND}; /* without SA_RESTART: a read of a pipe ends */
    sigaction(SIGINT, &action, NULL);
    struct job j = {.cli = cli, .importer = importer_new(cli->db, rejects)};
    enum cli_exit e = j.importer ? job_run(&j, argv[0], olist) : cli_no_memory();
    importer_free(j.importer);
    if (rejects && (fflush(rejects) != 0 || ferror(rejects))) {
        fprintf(stderr, "orderctl: cannot write %s: %s\n", rejects_path, strerror(errno));
        if (e == CLI_OK) e = CLI_REFUSED;
    }
    if (rejects) fclose(rejects);
    return e;
}

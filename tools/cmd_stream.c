/* orderctl stream tail: the change stream on a terminal, or as lines of JSON. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "proto/base/arena.h"
#include "proto/base/mem.h"
#include "proto/grpc.h"
#include "proto/timetext.h"
#include "tools/cli.h"
#include "tools/pbjson.h"
#include "tools/table.h"

enum {
    WAIT_MS = 200, /* between two looks at Ctrl-C */
    PLACE_COLUMNS = 13, USER_COLUMNS = 11, CHANGE_COLUMNS = 21, CHANGE_COLUMNS_MIN = 8,
    CURSOR_BYTES_MAX = 1 << 20,
};
#define CURSOR_SAVE_NS NS_PER_S

static const char *filter, *user, *from, *cursor_path, *payload, *format;
static int64_t count;
static bool stop_at_end;
static volatile sig_atomic_t interrupted;
static void interrupt_on_signal(int number) { interrupted = number; }

struct tail {
    struct cli *cli;
    struct orderdb_changes *changes;
    int64_t shown;
    char last_time[TIME_TEXT_BYTES]; /* of the event shown last; "": none */
    char day[11];                    /* that the table stands at */
    bool away_told, unsaved;
    uint64_t saved_ns;
};

static uint64_t now_ns(void) {
    struct timespec t;
    check(clock_gettime(CLOCK_MONOTONIC, &t) == 0);
    return (uint64_t)t.tv_sec * NS_PER_S + (uint64_t)t.tv_nsec;
}

/* ---- where to begin */

/* false: it is no time. "earliest" leaves the request as it is. */
static bool from_parse(const char *text, Orderdb__V1__ReadChangesRequest *r, Google__Protobuf__Timestamp *time, struct arena *a) {
    if (strcmp(text, "earliest") == 0) return true;
    r->from_time = time;
    return cli_parse_time(text, time, a);
}

/* ---- the cursor's file: base64 in one line, replaced as a whole */

/* CLI_OK with a cursor, or with none where there is no file yet. */
static enum cli_exit cursor_load(struct cli *cli, ProtobufCBinaryData *cursor, struct arena *a) {
    size_t len;
    if (access(cursor_path, F_OK) != 0 && errno == ENOENT) return CLI_OK;
    char *text = cli_read_file(cursor_path, &len);
    if (!text) return CLI_USAGE;
    while (len && (text[len - 1] == '\n' || text[len - 1] == '\r')) len--;
    if (len > 0 && len <= CURSOR_BYTES_MAX) cursor->data = arena_alloc(a, len + 4);
    if (cursor->data) cursor->len = base64_decode(slice_of(text, len), cursor->data);
    mem_free(text);
    if (cursor->data && cursor->len != SIZE_MAX && cursor->len) return CLI_OK;
    return cli_usage(cli, "%s holds no cursor: remove it to begin anew (--from)", cursor_path);
}

static bool cursor_write(const char *path, const uint8_t *cursor, size_t bytes) {
    char *text = mem_alloc(BASE64_LEN(bytes) + 1);
    if (!text) return errno = ENOMEM, false;
    size_t len = base64_encode(slice_of(cursor, bytes), text);
    text[len++] = '\n';
    FILE *f = fopen(path, "w");
    bool ok = f && fwrite(text, 1, len, f) == len && fflush(f) == 0 && fsync(fileno(f)) == 0;
    if (f && fclose(f) != 0) ok = false;
    mem_free(text);
    return ok;
}

/* What was shown is out first, so that the file is never ahead of it. */
static bool cursor_save(struct tail *t) {
    if (!cursor_path || !t->unsaved) return true;
    size_t bytes;
    const uint8_t *cursor = orderdb_changes_cursor(t->changes, &bytes);
    char *temporary = mem_alloc(strlen(cursor_path) + 5);
    if (temporary) sprintf(temporary, "%s.new", cursor_path);
    bool ok = temporary && cursor_write(temporary, cursor, bytes) && rename(temporary, cursor_path) == 0;
    if (!ok) {
        fputs("orderctl: cannot write ", stderr);
        text_print(stderr, cursor_path);
        fprintf(stderr, ": %s\n", strerror(errno));
    }
    mem_free(temporary);
    t->unsaved = false;
    t->saved_ns = now_ns();
    return ok;
}

/* ---- events */

/* Padded or cut ('~') to so many columns. */
static void print_cell(const char *text, size_t columns, bool last) {
    struct buf b = {0};
    if (!text_harmless(&b, text)) return (void)printf("%-*s%s", (int)columns, "?", last ? "" : " ");
    size_t width = text_width((char *)b.data);
    bool cut = width > columns;
    while (width > columns - cut) {
        do b.len--;
        while (b.len && (b.data[b.len] & 0xc0) == 0x80); /* whole characters */
        b.data[b.len] = 0;
        width = text_width((char *)b.data);
    }
    fputs((char *)b.data, stdout);
    if (cut) putchar('~');
    if (!last) printf("%*s ", (int)(columns - width - cut), "");
    buf_fini(&b);
}

/* "created PENDING_PAYMENT", "pay PENDING_PAYMENT > PAID" without what everybody knows: the target is what counts. */
static void change_text(const Orderdb__V1__ChangeEvent *e, char *out, size_t cap) {
    const Orderdb__V1__HistoryEntry *h = e->entry;
    const char *to = h && *h->to_status ? h->to_status : e->after ? e->after->status : "";
    switch (e->type) {
    case ORDERDB__V1__CHANGE_EVENT__TYPE__CREATED: snprintf(out, cap, "+ %s", to); return;
    case ORDERDB__V1__CHANGE_EVENT__TYPE__TRANSITIONED: snprintf(out, cap, "%s > %s", h ? h->event : "", to); return;
    case ORDERDB__V1__CHANGE_EVENT__TYPE__TIMER_FIRED: snprintf(out, cap, "timer %s", h ? h->event : ""); return;
    case ORDERDB__V1__CHANGE_EVENT__TYPE__UPDATED:
        snprintf(out, cap, "~ %s%s", e->changed && e->changed->n_paths ? e->changed->paths[0] : "", e->changed && e->changed->n_paths > 1 ? ", ..." : "");
        return;
    default: break;
    }
    const ProtobufCEnumValue *v = protobuf_c_enum_descriptor_get_value(&orderdb__v1__change_event__type__descriptor, (int)e->type);
    snprintf(out, cap, "%s", v ? v->name : "?");
}

/* Columns: 12 + 13 + 19 + 11 + 21 and the spaces between them: 80. Numbers are never cut: a long one takes from the last column. */
static void print_row(struct tail *t, const Orderdb__V1__ChangeEvent *e) {
    char change[200], place[40];
    if (!t->shown) printf("%-12s %-*s %-19s %-*s %s\n", "TIME (UTC)", PLACE_COLUMNS, "SLOT:SEQ", "ORDER", USER_COLUMNS, "USER", "CHANGE");
    if (strncmp(t->last_time, t->day, 10) != 0) {
        snprintf(t->day, sizeof(t->day), "%.10s", t->last_time);
        printf("%s\n", t->day);
    }
    snprintf(place, sizeof(place), "%d:%lld", e->slot, (long long)e->seq);
    change_text(e, change, sizeof(change));
    /* "2026-11-28T01:02:03.123456Z": what is behind the day, to the millisecond. */
    char moment[16] = "-";
    if (strlen(t->last_time) >= 20) {
        const char *fraction = t->last_time[19] == '.' ? t->last_time + 20 : "";
        snprintf(moment, sizeof(moment), "%.8s.%.3s", t->last_time + 11, "000");
        for (int i = 0; i < 3 && fraction[i] >= '0' && fraction[i] <= '9'; i++) moment[9 + i] = fraction[i];
    }
    int used = printf("%-12s %-*s %-19lld ", moment, PLACE_COLUMNS, place, (long long)e->order_id) - (12 + 1 + PLACE_COLUMNS + 1 + 19 + 1);
    print_cell(e->user_id, USER_COLUMNS, false);
    print_cell(change, (size_t)MAX_OF(CHANGE_COLUMNS - used, CHANGE_COLUMNS_MIN), true);
    putchar('\n');
}

static bool show(struct tail *t, const Orderdb__V1__ReadChangesResponse *m) {
    for (size_t i = 0; i < m->n_events; i++) {
        const Orderdb__V1__ChangeEvent *e = m->events[i];
        if (count && t->shown >= count && !cursor_path) break; /* a cursor is one of whole messages */
        if (e->commit_time) time_format(e->commit_time->seconds, e->commit_time->nanos, t->last_time);
        if (t->cli->json) {
            char *text = pbjson_format(&e->base, 0);
            if (text && t->cli->yaml) puts("---");
            bool ok = text && cli_print_text(text) == CLI_OK;
            mem_free(text);
            if (!ok) return false;
        } else {
            print_row(t, e);
        }
        t->shown++;
    }
    return true;
}

/* ---- the loop */

/* Once when the server goes away, and once when it is back. */
static void tell_away(struct tail *t) {
    const struct orderdb_error *e = orderdb_changes_error(t->changes);
    if ((e != NULL) == t->away_told) return;
    t->away_told = e != NULL;
    if (!e) return (void)fprintf(stderr, "orderctl: the stream goes on\n");
    fprintf(stderr, "orderctl: the stream was interrupted (%s: ", orderdb_error_code_name(e));
    text_print(stderr, orderdb_error_message(e));
    fprintf(stderr, "); trying again\n");
}

static enum cli_exit tell_interrupted(const struct tail *t) {
    fprintf(stderr, "orderctl: stopped after %lld event%s.", (long long)t->shown, t->shown == 1 ? "" : "s");
    size_t cursor_bytes;
    (void)orderdb_changes_cursor(t->changes, &cursor_bytes);
    if (cursor_path && !cursor_bytes) {
        fputs(" The server had not told a place yet: no cursor was kept.\n", stderr);
    } else if (cursor_path) {
        fputs(" The same command goes on behind them, by ", stderr);
        text_print(stderr, cursor_path);
        fputs(".\n", stderr);
    } else if (*t->last_time) {
        fprintf(stderr, "\nThe last one: --from %s begins there (by time, so some\nmay come again; --cursor FILE would keep the exact place).\n", t->last_time);
    } else {
        fputc('\n', stderr);
    }
    return CLI_INTERRUPTED;
}

static enum cli_exit tail_loop(struct tail *t) {
    const Orderdb__V1__ReadChangesResponse *m;
    while (!interrupted && !(count && t->shown >= count)) {
        enum orderdb_changes_result r = orderdb_changes_next(t->changes, WAIT_MS, &m);
        if (r == ORDERDB_CHANGES_END) return CLI_OK;
        if (r == ORDERDB_CHANGES_FAILED) return cli_error_of(t->cli, orderdb_changes_error(t->changes));
        tell_away(t);
        if (r == ORDERDB_CHANGES_TIMEOUT && now_ns() - t->saved_ns > CURSOR_SAVE_NS && !cursor_save(t)) return CLI_USAGE;
        if (r != ORDERDB_CHANGES_EVENTS) continue;
        if (!show(t, m)) return cli_no_memory();
        if (fflush(stdout) != 0) return CLI_REFUSED; /* told at the end */
        t->unsaved = true;
        if (now_ns() - t->saved_ns > CURSOR_SAVE_NS && !cursor_save(t)) return CLI_USAGE;
    }
    return CLI_OK;
}

static enum cli_exit tail_run(struct cli *cli, struct arena *a) {
    Orderdb__V1__ReadChangesRequest r = ORDERDB__V1__READ_CHANGES_REQUEST__INIT;
    Google__Protobuf__Timestamp time = GOOGLE__PROTOBUF__TIMESTAMP__INIT;
    if (filter) r.filter = (char *)filter;
    if (user) r.user_id = (char *)user;
    r.stop_at_end = stop_at_end;
    bool full = payload ? strcmp(payload, "full") == 0 : false;
    if (payload && !full && strcmp(payload, "summary") != 0) return cli_usage(cli, "--payload is summary or full, not %s", payload);
    r.payload = full ? ORDERDB__V1__ORDER_VIEW__ORDER_VIEW_FULL : ORDERDB__V1__ORDER_VIEW__ORDER_VIEW_SUMMARY;
    if (user && !*user) return cli_usage(cli, "--user is empty: leave it out for everybody's events");
    if (count < 0) return cli_usage(cli, "--count is the number of events to show, at least 1");
    const char *begin = from ? from : stop_at_end ? "earliest" : "now";
    if (!from_parse(begin, &r, &time, a)) return cli_usage(cli, "--from is earliest, now, how long ago (30m, 2h, 7d) or a time (2026-11-28T08:00:00Z), not %s", begin);
    enum cli_exit e = cursor_path ? cursor_load(cli, &r.cursor, a) : CLI_OK;
    if (e) return e;
    if (r.cursor.len) r.from_time = NULL;
    struct tail t = {.cli = cli, .changes = orderdb_read_changes(cli->db, &r, NULL)};
    if (!t.changes) return cli_error(cli);
    struct sigaction action = {.sa_handler = interrupt_on_signal, .sa_flags = (int)SA_RESETHAND};
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
    e = tail_loop(&t);
    if (fflush(stdout) == 0 && !cursor_save(&t) && e == CLI_OK) e = CLI_USAGE;
    if (interrupted && e == CLI_OK) e = tell_interrupted(&t);
    orderdb_changes_close(t.changes);
    return e;
}

static enum cli_exit stream_tail_run(struct cli *cli, int argc, char **argv) {
    if (format && strcmp(format, "json") != 0 && strcmp(format, "yaml") != 0 && strcmp(format, "table") != 0) return cli_usage(cli, "--format is json, yaml or table, not %s", format);
    if (format) cli->yaml = strcmp(format, "yaml") == 0, cli->json = strcmp(format, "table") != 0;
    if (cli->yaml) cli_print_as_yaml();
    struct arena a;
    arena_init(&a, 16 * MIB);
    enum cli_exit e = tail_run(cli, &a);
    arena_fini(&a);
    return e;
}

static const struct arg tail_flags[] = {
    {"--filter", NULL, ARG_TEXT, &filter, "FILTER", "of events, evaluated by the server: 'type = \"TRANSITIONED\" AND entry.to_status = \"PAID\"'"},
    {"--user", NULL, ARG_TEXT, &user, "USER_ID", "this user's orders alone"},
    {"--from", NULL, ARG_TEXT, &from, "WHERE", "earliest, now, 30m (so long ago) or a time (default: now; earliest with --stop-at-end)"},
    {"--cursor", NULL, ARG_TEXT, &cursor_path, "FILE", "go on from this file where it exists (--from counts only until then), and keep it up to date"},
    {"--payload", NULL, ARG_TEXT, &payload, "summary|full", "the order after the event: without or with items, addresses, payments (default: summary)"},
    {"--count", NULL, ARG_NUMBER, &count, "N", "end after so many events; with --cursor: with the message that reaches them"},
    {"--stop-at-end", NULL, ARG_SWITCH, &stop_at_end, NULL, "end when all that is there is shown"},
    {"--format", NULL, ARG_TEXT, &format, "json|table|yaml", "the same as --output; json: one event a line; yaml: a document each"},
    {NULL},
};

const struct cli_command stream_commands[] = {
    {"stream", "tail", "", "changes of orders as they are committed",
     "Every commit is an event, slot:seq, dense and in order within a slot; events of different slots come as they come. In the table's last column: + created, event > status, ~ field updated.\n\n"
     "--from now and 30m are by the clock of this machine: there is no other way to say them. A server that goes away is waited for (a minute), then the stream goes on "
     "behind what was shown, without a gap or a repetition. The file of --cursor is written once a second and at the end: after a kill -9 of orderctl the events of that second come "
     "again. --timeout has no meaning here.\n\n"
     "Examples:\n  orderctl stream tail\n  orderctl stream tail --user ann --from 24h\n"
     "  orderctl stream tail --filter 'type = \"CREATED\"' --cursor created.cursor \\\n    --from earliest -o json | jq .order_id\n"
     "  orderctl stream tail --stop-at-end -o json >all.ndjson\n",
     tail_flags, 0, 0, stream_tail_run},
    {NULL},
};

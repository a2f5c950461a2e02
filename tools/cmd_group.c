/* orderctl group: consumer groups of the change stream. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "proto/base/mem.h"
#include "proto/grpc.h"
#include "proto/timetext.h"
#include "tools/cli.h"
#include "tools/pbjson.h"
#include "tools/table.h"

#define SERVICE "/orderdb.v1.StreamService/"
enum { PAGE_SIZE = 200, CURSOR_BYTES_MAX = 1 << 20, MASK_MAX = 8 };

typedef Orderdb__V1__ConsumerGroup Group;

static struct {
    const char *filter, *key, *start, *payload, *ack_timeout, *min_backoff, *max_backoff, *on_exhausted;
    int64_t max_attempts, key_window;
    bool paused;
} define;
static const char *to, *cursor_path, *undo_path;
static bool dry_run, yes;

static enum cli_exit with_arena(struct cli *cli, int argc, char **argv, enum cli_exit (*run)(struct cli *cli, int argc, char **argv, struct arena *a)) {
    struct arena a;
    arena_init(&a, 256 * MIB);
    enum cli_exit e = run(cli, argc, argv, &a);
    arena_fini(&a);
    return e;
}
#define RUN(name) static enum cli_exit name##_run(struct cli *cli, int argc, char **argv) { return with_arena(cli, argc, argv, name); }

/* ---- words and numbers of enums */

struct word {
    const char *text;
    int value;
};
static const struct word keys[] = {{"user", ORDERDB__V1__CONSUMER_GROUP__ORDERING_KEY__USER}, {"order", ORDERDB__V1__CONSUMER_GROUP__ORDERING_KEY__ORDER}, {"none", ORDERDB__V1__CONSUMER_GROUP__ORDERING_KEY__NONE}, {NULL}};
static const struct word payloads[] = {{"summary", ORDERDB__V1__ORDER_VIEW__ORDER_VIEW_SUMMARY}, {"full", ORDERDB__V1__ORDER_VIEW__ORDER_VIEW_FULL}, {NULL}};
static const struct word exhausted[] = {{"letter", ORDERDB__V1__RETRY_POLICY__ON_EXHAUSTED__DEAD_LETTER}, {"park", ORDERDB__V1__RETRY_POLICY__ON_EXHAUSTED__DEAD_LETTER_AND_PARK_KEY}, {"block", ORDERDB__V1__RETRY_POLICY__ON_EXHAUSTED__BLOCK}, {NULL}};
static const struct word starts[] = {{"earliest", ORDERDB__V1__CONSUMER_GROUP__START__EARLIEST}, {"latest", ORDERDB__V1__CONSUMER_GROUP__START__LATEST}, {"snapshot", ORDERDB__V1__CONSUMER_GROUP__START__SNAPSHOT_THEN_TAIL}, {NULL}};

static int value_of(const struct word *words, const char *text) {
    for (; words->text; words++)
        if (strcmp(words->text, text) == 0) return words->value;
    return 0;
}

static const char *word_of(const struct word *words, int value) {
    for (; words->text; words++)
        if (words->value == value) return words->text;
    return "?";
}

static void duration_text(const Google__Protobuf__Duration *d, char out[32]) {
    int64_t ms = d ? d->seconds * 1000 + d->nanos / 1000000 : 0;
    if (ms % 1000) snprintf(out, 32, "%gs", (double)ms / 1000);
    else if (ms && ms % 86400000 == 0) snprintf(out, 32, "%lldd", (long long)(ms / 86400000));
    else if (ms && ms % 3600000 == 0) snprintf(out, 32, "%lldh", (long long)(ms / 3600000));
    else if (ms && ms % 60000 == 0) snprintf(out, 32, "%lldm", (long long)(ms / 60000));
    else snprintf(out, 32, "%llds", (long long)(ms / 1000));
}

/* ---- create, update */

/* false: told. */
static bool read_word(struct cli *cli, const char *flag, const struct word *words, const char *text, int *out) {
    if (!text) return true;
    *out = value_of(words, text);
    if (*out) return true;
    char known[64] = "";
    for (const struct word *w = words; w->text; w++) strncat(strncat(known, w == words ? "" : w[1].text ? ", " : " or ", sizeof known - strlen(known) - 1), w->text, sizeof known - strlen(known) - 1);
    cli_usage(cli, "%s is %s, not %s", flag, known, text);
    return false;
}

static bool read_span(struct cli *cli, const char *flag, const char *text, Google__Protobuf__Duration **out, struct arena *a) {
    if (!text) return true;
    *out = cli_parse_duration(text, a);
    if (*out) return true;
    cli_usage(cli, "%s is a duration (0.5s, 30s, 5m), not %s", flag, text);
    return false;
}

static bool read_start(struct cli *cli, Group *g, struct arena *a) {
    int start = define.start ? value_of(starts, define.start) : 0;
    g->start = (Orderdb__V1__ConsumerGroup__Start)start;
    if (!define.start || start) return true;
    g->start = ORDERDB__V1__CONSUMER_GROUP__START__AT_TIME;
    g->start_time = arena_alloc(a, sizeof *g->start_time);
    if (!g->start_time) return false;
    google__protobuf__timestamp__init(g->start_time);
    if (cli_parse_time(define.start, g->start_time, a)) return true;
    cli_usage(cli, "--start is earliest, latest, snapshot, how long ago (30m, 7d) or a time (2026-11-28T08:00:00Z), not %s", define.start);
    return false;
}

/* false: told. What is in the flags; the rest as it is in *g. */
static bool read_definition(struct cli *cli, Group *g, struct arena *a) {
    int key = (int)g->ordering_key, payload = (int)g->payload, end = (int)g->retry->on_exhausted;
    if (define.filter) g->filter = (char *)(uintptr_t)define.filter;
    if (!read_word(cli, "--key", keys, define.key, &key) || !read_word(cli, "--payload", payloads, define.payload, &payload) || !read_word(cli, "--on-exhausted", exhausted, define.on_exhausted, &end)) return false;
    if (!read_span(cli, "--ack-timeout", define.ack_timeout, &g->ack_timeout, a) || !read_span(cli, "--min-backoff", define.min_backoff, &g->retry->min_backoff, a) ||
        !read_span(cli, "--max-backoff", define.max_backoff, &g->retry->max_backoff, a))
        return false;
    g->ordering_key = (Orderdb__V1__ConsumerGroup__OrderingKey)key;
    g->payload = (Orderdb__V1__OrderView)payload;
    g->retry->on_exhausted = (Orderdb__V1__RetryPolicy__OnExhausted)end;
    if (define.max_attempts) g->retry->max_attempts = (int32_t)define.max_attempts;
    if (define.key_window) g->key_window = (int32_t)define.key_window;
    if (define.max_attempts < 0 || define.key_window < 0) return cli_usage(cli, "%s is at least 1 (0: as it is without the flag)", define.max_attempts < 0 ? "--max-attempts" : "--key-window"), false;
    if (define.max_attempts != (int32_t)define.max_attempts || define.key_window != (int32_t)define.key_window) return cli_usage(cli, "such a number is beyond all limits"), false;
    return true;
}

static void print_group(const Group *g) {
    char text[32], other[32];
    printf("group         "), text_print(stdout, g->group);
    printf("\nfilter        "), text_print(stdout, *g->filter ? g->filter : "(all events)");
    printf("\nkey           %s, %d in flight at once\npayload       %s\nstart         ", word_of(keys, (int)g->ordering_key), g->key_window, word_of(payloads, (int)g->payload));
    if (g->start_time) {
        char time[TIME_TEXT_BYTES];
        time_format(g->start_time->seconds, g->start_time->nanos, time);
        puts(time);
    } else {
        puts(word_of(starts, (int)g->start));
    }
    duration_text(g->ack_timeout, text);
    printf("ack timeout   %s\n", text);
    if (g->retry) {
        duration_text(g->retry->min_backoff, text);
        duration_text(g->retry->max_backoff, other);
        printf("retry         %d attempts, %s to %s apart, then %s\n", g->retry->max_attempts, text, other, word_of(exhausted, (int)g->retry->on_exhausted));
    }
    printf("paused        %s\n", g->paused ? "yes" : "no");
    if (g->seeking_since) {
        char time[TIME_TEXT_BYTES];
        time_format(g->seeking_since->seconds, g->seeking_since->nanos, time);
        printf("seek          goes on since %s: some partitions have not taken it yet, and will\n", time);
    }
}

static enum cli_exit show(struct cli *cli, const Group *g) {
    if (cli->json) return cli_print_json(&g->base);
    print_group(g);
    return CLI_OK;
}

static Group *get(struct cli *cli, char *name, struct arena *a, enum cli_exit *e) {
    Orderdb__V1__GetConsumerGroupRequest r = ORDERDB__V1__GET_CONSUMER_GROUP_REQUEST__INIT;
    r.group = name;
    return cli_call(cli, SERVICE "GetConsumerGroup", &r.base, &orderdb__v1__consumer_group__descriptor, a, e);
}

static enum cli_exit group_create(struct cli *cli, int argc, char **argv, struct arena *a) {
    Orderdb__V1__CreateConsumerGroupRequest r = ORDERDB__V1__CREATE_CONSUMER_GROUP_REQUEST__INIT;
    Group g = ORDERDB__V1__CONSUMER_GROUP__INIT;
    Orderdb__V1__RetryPolicy retry = ORDERDB__V1__RETRY_POLICY__INIT;
    enum cli_exit e;
    g.group = argv[0], g.retry = &retry, g.paused = define.paused, r.group = &g;
    if (!read_definition(cli, &g, a) || !read_start(cli, &g, a)) return CLI_USAGE;
    const Group *made = cli_call(cli, SERVICE "CreateConsumerGroup", &r.base, &orderdb__v1__consumer_group__descriptor, a, &e);
    return made ? show(cli, made) : e;
}

static enum cli_exit update(struct cli *cli, Group *g, char **paths, size_t count, struct arena *a) {
    Orderdb__V1__UpdateConsumerGroupRequest r = ORDERDB__V1__UPDATE_CONSUMER_GROUP_REQUEST__INIT;
    Google__Protobuf__FieldMask mask = GOOGLE__PROTOBUF__FIELD_MASK__INIT;
    enum cli_exit e;
    mask.paths = paths, mask.n_paths = count;
    r.group = g, r.update_mask = &mask;
    const Group *now = cli_call(cli, SERVICE "UpdateConsumerGroup", &r.base, &orderdb__v1__consumer_group__descriptor, a, &e);
    return now ? show(cli, now) : e;
}

static enum cli_exit group_update(struct cli *cli, int argc, char **argv, struct arena *a) {
    char *paths[MASK_MAX];
    size_t n = 0;
    enum cli_exit e;
    const bool retry = define.max_attempts || define.min_backoff || define.max_backoff || define.on_exhausted;
    const struct {
        bool given;
        const char *path;
    } fields[] = {{define.filter, "filter"}, {define.key, "ordering_key"}, {retry, "retry"}, {define.payload, "payload"}, {define.ack_timeout, "ack_timeout"}, {define.key_window, "key_window"}};
    for (size_t i = 0; i < ARRAY_LEN(fields); i++)
        if (fields[i].given) paths[n++] = (char *)(uintptr_t)fields[i].path;
    if (!n) return cli_usage(cli, "name what is to change; pause and resume are commands of their own");
    Group *g = get(cli, argv[0], a, &e); /* retry goes as a whole: with what it is now */
    if (!g) return e;
    return read_definition(cli, g, a) ? update(cli, g, paths, n, a) : CLI_USAGE;
}

static enum cli_exit set_paused(struct cli *cli, char *name, bool paused, struct arena *a) {
    Group g = ORDERDB__V1__CONSUMER_GROUP__INIT;
    char path[] = "paused", *paths[] = {path};
    g.group = name, g.paused = paused;
    return update(cli, &g, paths, 1, a);
}

static enum cli_exit group_pause(struct cli *cli, int argc, char **argv, struct arena *a) { return set_paused(cli, argv[0], true, a); }
static enum cli_exit group_resume(struct cli *cli, int argc, char **argv, struct arena *a) { return set_paused(cli, argv[0], false, a); }

static enum cli_exit group_show(struct cli *cli, int argc, char **argv, struct arena *a) {
    enum cli_exit e;
    const Group *g = get(cli, argv[0], a, &e);
    return g ? show(cli, g) : e;
}

static enum cli_exit group_delete(struct cli *cli, int argc, char **argv, struct arena *a) {
    Orderdb__V1__DeleteConsumerGroupRequest r = ORDERDB__V1__DELETE_CONSUMER_GROUP_REQUEST__INIT;
    enum cli_exit e;
    r.group = argv[0];
    if (!yes) return cli_usage(cli, "its place in the stream and its dead letters go with it: say --yes");
    if (!cli_call(cli, SERVICE "DeleteConsumerGroup", &r.base, &orderdb__v1__delete_consumer_group_response__descriptor, a, &e)) return e;
    if (cli->json) return cli_print_text("{}");
    text_print(stdout, argv[0]), puts(" deleted");
    return CLI_OK;
}

/* ---- list, lag */

/* NULL: told. */
static Orderdb__V1__ListConsumerGroupsResponse *list_page(struct cli *cli, char *token, struct arena *a, enum cli_exit *e) {
    Orderdb__V1__ListConsumerGroupsRequest r = ORDERDB__V1__LIST_CONSUMER_GROUPS_REQUEST__INIT;
    r.page_size = PAGE_SIZE, r.page_token = token;
    return cli_call(cli, SERVICE "ListConsumerGroups", &r.base, &orderdb__v1__list_consumer_groups_response__descriptor, a, e);
}

static enum cli_exit group_list(struct cli *cli, int argc, char **argv, struct arena *a) {
    static const struct table_column columns[] = {{"GROUP", .shrinks_to = 16}, {"KEY"}, {"START", .shrinks_to = 10}, {"ACK"}, {"PAUSED"}, {"FILTER", .shrinks_to = 16}};
    struct table t;
    char token[1] = "", *next = token, ack[32];
    struct cli_array json = {0};
    enum cli_exit e = CLI_OK;
    table_init(&t, columns, ARRAY_LEN(columns));
    do {
        const Orderdb__V1__ListConsumerGroupsResponse *page = list_page(cli, next, a, &e);
        for (size_t i = 0; page && i < page->n_groups; i++) {
            const Group *g = page->groups[i];
            if (cli->json) {
                cli_array_add(&json, &g->base);
                continue;
            }
            duration_text(g->ack_timeout, ack);
            table_cell(&t, "%s", g->group);
            table_cell(&t, "%s", word_of(keys, (int)g->ordering_key));
            table_cell(&t, "%s", g->start_time ? "time" : word_of(starts, (int)g->start));
            table_cell(&t, "%s", ack);
            table_cell(&t, "%s", g->paused ? "paused" : "");
            table_cell(&t, "%s", g->filter);
        }
        next = page ? page->next_page_token : token;
    } while (*next);
    if (cli->json) e = cli_array_end(&json, e);
    else if (!e) table_print(&t, stdout, TABLE_WIDTH);
    table_fini(&t);
    return e;
}

struct lags {
    struct table table;
    struct cli_array json;
    unsigned shown;
};

static void age_text(const Google__Protobuf__Duration *d, char out[32]) {
    int64_t s = d ? d->seconds : 0;
    if (s < 120) snprintf(out, 32, "%.1fs", (double)s + (d ? d->nanos / 1e9 : 0));
    else if (s < 7200) snprintf(out, 32, "%lldm%02llds", (long long)(s / 60), (long long)(s % 60));
    else if (s < 172800) snprintf(out, 32, "%lldh%02lldm", (long long)(s / 3600), (long long)(s / 60 % 60));
    else snprintf(out, 32, "%lldd%02lldh", (long long)(s / 86400), (long long)(s / 3600 % 24));
}

static enum cli_exit lag_of(struct cli *cli, char *name, struct lags *l, struct arena *a) {
    Orderdb__V1__GetGroupLagRequest r = ORDERDB__V1__GET_GROUP_LAG_REQUEST__INIT;
    enum cli_exit e;
    char age[32];
    r.group = name;
    const Orderdb__V1__GroupLag *lag = cli_call(cli, SERVICE "GetGroupLag", &r.base, &orderdb__v1__group_lag__descriptor, a, &e);
    if (!lag) return e;
    if (cli->json) {
        char *text = pbjson_format(&lag->base, 0);
        struct buf named = {0};
        bool ok = text && buf_append(&named, SLICE_LIT("{\"group\":")) && pbjson_quote(&named, name) && buf_append(&named, slice_str(text[1] == '}' ? "" : ",")) &&
                  buf_append(&named, slice_of((const uint8_t *)text + 1, strlen(text))); /* with its NUL */
        cli_array_add_text(&l->json, ok ? (const char *)named.data : NULL);
        buf_fini(&named);
        mem_free(text);
        return CLI_OK;
    }
    table_cell(&l->table, "%s", name);
    age_text(lag->age, age);
    l->shown++;
    table_cell(&l->table, "%s", age);
    table_cell(&l->table, "%s%lld", lag->estimated ? "~" : "", (long long)lag->events);
    if (lag->snapshot_orders_left) table_cell(&l->table, "%lld left", (long long)lag->snapshot_orders_left);
    else table_cell(&l->table, "-");
    table_cell(&l->table, "%lld", (long long)lag->in_flight);
    table_cell(&l->table, "%lld", (long long)lag->blocked_keys);
    table_cell(&l->table, "%lld", (long long)lag->dead_letters);
    table_cell(&l->table, "%d", lag->members);
    return CLI_OK;
}

static enum cli_exit lag_of_all(struct cli *cli, struct lags *l, struct arena *a) {
    char token[1] = "", *next = token;
    enum cli_exit e = CLI_OK;
    do {
        const Orderdb__V1__ListConsumerGroupsResponse *page = list_page(cli, next, a, &e);
        for (size_t i = 0; page && i < page->n_groups && !e; i++) e = lag_of(cli, page->groups[i]->group, l, a);
        next = page ? page->next_page_token : token;
    } while (*next && !e);
    return e;
}

static enum cli_exit group_lag(struct cli *cli, int argc, char **argv, struct arena *a) {
    static const struct table_column columns[] = {{"GROUP", .shrinks_to = 16}, {"AGE", .right = true}, {"EVENTS", .right = true}, {"SNAPSHOT", .right = true}, {"IN FLIGHT", .right = true},
                                                  {"BLOCKED KEYS", .right = true}, {"DEAD", .right = true}, {"MEMBERS", .right = true}};
    struct lags l = {0};
    enum cli_exit e = CLI_OK;
    table_init(&l.table, columns, ARRAY_LEN(columns));
    if (argc == 0) e = lag_of_all(cli, &l, a);
    for (int i = 0; i < argc; i++) { /* one that is not there does not hide the others */
        enum cli_exit one = lag_of(cli, argv[i], &l, a);
        if (!e) e = one;
        if (one == CLI_UNAVAILABLE) break;
    }
    if (cli->json) e = cli_array_end(&l.json, e);
    else if (!e || l.shown) table_print(&l.table, stdout, TABLE_WIDTH);
    table_fini(&l.table);
    return e;
}

/* ---- seek */

static bool read_cursor(struct cli *cli, const char *path, ProtobufCBinaryData *cursor, struct arena *a) {
    size_t len;
    char *text = cli_read_file(path, &len);
    if (!text) return false;
    while (len && (text[len - 1] == '\n' || text[len - 1] == '\r')) len--;
    if (len > 0 && len <= CURSOR_BYTES_MAX) cursor->data = arena_alloc(a, len + 4);
    if (cursor->data) cursor->len = base64_decode(slice_of(text, len), cursor->data);
    mem_free(text);
    if (cursor->data && cursor->len != SIZE_MAX && cursor->len) return true;
    cli_usage(cli, "%s holds no cursor", path);
    return false;
}

/* Before anything moves: a place that can't be written is no way back. */
static bool write_cursor(FILE *f, const ProtobufCBinaryData *cursor) {
    if (ftruncate(fileno(f), 0)) return false;
    char *text = mem_alloc(BASE64_LEN(cursor->len) + 1);
    bool ok = text != NULL;
    if (ok) {
        size_t n = base64_encode(slice_of(cursor->data, cursor->len), text);
        text[n++] = '\n';
        ok = fwrite(text, 1, n, f) == n && fflush(f) == 0;
    }
    mem_free(text);
    return ok;
}

static const Orderdb__V1__SeekConsumerGroupResponse *call_seek(struct cli *cli, const Orderdb__V1__SeekConsumerGroupRequest *r, struct arena *a, enum cli_exit *e) {
    return cli_call(cli, SERVICE "SeekConsumerGroup", &r->base, &orderdb__v1__seek_consumer_group_response__descriptor, a, e);
}

/* A seek that fails half-way has moved some slots and says nothing of where they were: so that is asked first. */
static enum cli_exit write_undo(struct cli *cli, Orderdb__V1__SeekConsumerGroupRequest r, FILE *undo, struct arena *a) {
    enum cli_exit e;
    r.dry_run = true;
    const Orderdb__V1__SeekConsumerGroupResponse *m = call_seek(cli, &r, a, &e);
    if (!m) return e;
    if (write_cursor(undo, &m->previous_cursor)) return CLI_OK;
    fprintf(stderr, "orderctl: where the group is could not be written to %s; it has not been moved\n", undo_path);
    return CLI_REFUSED;
}

static enum cli_exit seek(struct cli *cli, Orderdb__V1__SeekConsumerGroupRequest *r, FILE *undo, struct arena *a) {
    enum cli_exit e = undo && !r->dry_run ? write_undo(cli, *r, undo, a) : CLI_OK;
    if (e) return e;
    const Orderdb__V1__SeekConsumerGroupResponse *m = call_seek(cli, r, a, &e);
    if (!m) return e;
    if (m->within_snapshot) fprintf(stderr, "orderctl: %s in the middle of a snapshot: to go back is to begin it anew\n", r->dry_run ? "the group is" : "the group was");
    if (undo && !write_cursor(undo, &m->previous_cursor)) {
        fprintf(stderr, "orderctl: the group has moved, but where it was could not be written to the file\n");
        e = CLI_REFUSED;
    }
    if (cli->json) return cli_print_json(&m->base);
    const char *about = "about ", *again = m->estimated && m->events_to_redeliver ? about : "", *skipped = m->estimated && m->events_skipped ? about : "";
    printf("%s: events that %s again: %s%lld, that %s: %s%lld\n", r->dry_run ? "dry run" : "done", r->dry_run ? "would come" : "come", again, (long long)m->events_to_redeliver,
           r->dry_run ? "would be skipped" : "are skipped", skipped, (long long)m->events_skipped);
    return e;
}

static enum cli_exit group_seek(struct cli *cli, int argc, char **argv, struct arena *a) {
    Orderdb__V1__SeekConsumerGroupRequest r = ORDERDB__V1__SEEK_CONSUMER_GROUP_REQUEST__INIT;
    Google__Protobuf__Timestamp time = GOOGLE__PROTOBUF__TIMESTAMP__INIT;
    r.group = argv[0], r.dry_run = dry_run;
    if (!to == !cursor_path) return cli_usage(cli, "say where: --to earliest, latest, snapshot, 2h (so long ago) or a time; or --cursor FILE");
    int start = to ? value_of(starts, to) : 0;
    if (cursor_path) {
        r.to_case = ORDERDB__V1__SEEK_CONSUMER_GROUP_REQUEST__TO_CURSOR;
        if (!read_cursor(cli, cursor_path, &r.cursor, a)) return CLI_USAGE;
    } else if (start) {
        r.to_case = ORDERDB__V1__SEEK_CONSUMER_GROUP_REQUEST__TO_START;
        r.start = (Orderdb__V1__ConsumerGroup__Start)start;
    } else {
        r.to_case = ORDERDB__V1__SEEK_CONSUMER_GROUP_REQUEST__TO_TIME;
        r.time = &time;
        if (!cli_parse_time(to, &time, a)) return cli_usage(cli, "--to is earliest, latest, snapshot, how long ago (30m, 7d) or a time (2026-11-28T08:00:00Z), not %s", to);
    }
    FILE *undo = undo_path ? fopen(undo_path, "a") : NULL; /* what it holds stays until there is something better */
    if (undo_path && !undo) return cli_usage(cli, "%s can't be written: %s", undo_path, strerror(errno));
    enum cli_exit e = seek(cli, &r, undo, a);
    if (undo) fclose(undo);
    return e;
}

RUN(group_create)
RUN(group_update)
RUN(group_list)
RUN(group_show)
RUN(group_lag)
RUN(group_seek)
RUN(group_pause)
RUN(group_resume)
RUN(group_delete)

/* ---- the commands */

#define DEFINE_FLAGS \
    {"--filter", NULL, ARG_TEXT, &define.filter, "FILTER", "of events: 'type = \"TRANSITIONED\" AND entry.to_status = \"PAID\"' (default: all)"}, \
    {"--key", NULL, ARG_TEXT, &define.key, "user|order|none", "what keeps its order (default: user)"}, \
    {"--payload", NULL, ARG_TEXT, &define.payload, "summary|full", "the order after the event: without or with items, addresses (default: summary)"}, \
    {"--ack-timeout", NULL, ARG_TEXT, &define.ack_timeout, "TIME", "what is not acked by then is given out again (default: 30s)"}, \
    {"--key-window", NULL, ARG_NUMBER, &define.key_window, "N", "events of one key in flight at once (default: 1)"}, \
    {"--max-attempts", NULL, ARG_NUMBER, &define.max_attempts, "N", "then it is a dead letter (default: 16)"}, \
    {"--min-backoff", NULL, ARG_TEXT, &define.min_backoff, "TIME", "before the second attempt; doubled each time (default: 0.1s)"}, \
    {"--max-backoff", NULL, ARG_TEXT, &define.max_backoff, "TIME", "but no longer than this (default: 60s)"}, \
    {"--on-exhausted", NULL, ARG_TEXT, &define.on_exhausted, "letter|park|block", "letter: dead letter, the key goes on; park: its later events wait for the redrive; block: all of the key waits (default: letter)"}

static const struct arg create_flags[] = {DEFINE_FLAGS,
    {"--start", NULL, ARG_TEXT, &define.start, "WHERE", "earliest, latest, 2h (so long ago), a time, or snapshot: every order there is, then its changes (default: earliest)"},
    {"--from", NULL, ARG_TEXT, &define.start, "WHERE", "the same as --start"},
    {"--paused", NULL, ARG_SWITCH, &define.paused, NULL, "gives nothing out until group resume"}, {NULL}};
static const struct arg update_flags[] = {DEFINE_FLAGS, {NULL}};
static const struct arg seek_flags[] = {
    {"--to", NULL, ARG_TEXT, &to, "WHERE", "earliest, latest, 2h (so long ago), a time, or snapshot: all orders again"},
    {"--cursor", NULL, ARG_TEXT, &cursor_path, "FILE", "behind this cursor: of stream tail, or of --undo"},
    {"--undo", NULL, ARG_TEXT, &undo_path, "FILE", "write where the group was, for a --cursor"},
    {"--dry-run", NULL, ARG_SWITCH, &dry_run, NULL, "count what would come of it, change nothing"}, {NULL}};
static const struct arg yes_flags[] = {{"--yes", NULL, ARG_SWITCH, &yes, NULL, "that is meant"}, {NULL}};

const struct cli_command group_commands[] = {
    {"group", "create", "NAME", "a consumer group of the change stream",
     "Examples:\n  orderctl group create stock --filter 'type = \"CREATED\"'\n  orderctl group create mail --start latest --key order \\\n    --max-attempts 5 --on-exhausted park\n", create_flags, 1, 1, group_create_run},
    {"group", "update", "NAME", "change what the flags name",
     "Another filter or key makes the group's members begin anew; what they held is given out again. Where a group began can't be changed: group seek moves it.\n\n"
     "Examples:\n  orderctl group update mail --ack-timeout 2m --max-attempts 8\n", update_flags, 1, 1, group_update_run},
    {"group", "list", "", "all consumer groups", "Examples:\n  orderctl group list\n  orderctl group list -o json | jq -r '.[].group'\n", NULL, 0, 0, group_list_run},
    {"group", "show", "NAME", "a group's definition", "Examples:\n  orderctl group show mail\n", NULL, 1, 1, group_show_run},
    {"group", "lag", "[NAME]...", "how far groups are behind",
     "AGE is that of the oldest event not settled that the group's filter wants, 0 when there is none. EVENTS with a ~ is an estimate: the filter was not asked about all of so many. "
     "What was acked in the last second may still be in it.\n\nExamples:\n  orderctl group lag\n  orderctl group lag mail stock -o json\n", NULL, 0, 100, group_lag_run},
    {"group", "seek", "NAME", "move a group to a place in the stream",
     "What members hold is taken back. Dead letters stay. A seek that fails half-way says which slots have moved: the same seek again moves all; --undo has where they were.\n\nExamples:\n  orderctl group seek mail --to 2h --dry-run\n  orderctl group seek mail --to 2h --undo mail.cursor\n  orderctl group seek mail --cursor mail.cursor\n", seek_flags, 1, 1, group_seek_run},
    {"group", "pause", "NAME", "give nothing more out", "What is in flight may still be acked.\n\nExamples:\n  orderctl group pause mail\n", NULL, 1, 1, group_pause_run},
    {"group", "resume", "NAME", "go on", "Examples:\n  orderctl group resume mail\n", NULL, 1, 1, group_resume_run},
    {"group", "delete", "NAME", "a group with its place and its dead letters", "Examples:\n  orderctl group delete mail --yes\n", yes_flags, 1, 1, group_delete_run},
    {NULL},
};

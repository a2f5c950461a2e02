/* orderctl dlq: dead letters of a consumer group. */
#include <stdio.h>
#include <string.h>

#include "proto/base/mem.h"
#include "proto/timetext.h"
#include "tools/cli.h"
#include "tools/pbjson.h"
#include "tools/table.h"

#define SERVICE "/orderdb.v1.StreamService/"
enum { PAGE_SIZE = 200, LIMIT_DEFAULT = 100 };

static const char *filter = "";
static int64_t limit, max_per_second;
static bool dry_run, yes, blocked;

struct listing {
    struct table table;
    struct cli_array json;
    int64_t shown;
};

static void list_letter(struct cli *cli, struct listing *l, const Orderdb__V1__DeadLetter *d) {
    char time[TIME_TEXT_BYTES] = "";
    l->shown++;
    if (cli->json) {
        cli_array_add(&l->json, &d->base);
        return;
    }
    if (d->dead_time) time_format(d->dead_time->seconds, 0, time);
    table_cell(&l->table, "%s", d->event ? d->event->event_id : "");
    table_cell(&l->table, "%lld", d->event ? (long long)d->event->order_id : 0);
    table_cell(&l->table, "%s", d->event ? d->event->user_id : "");
    table_cell(&l->table, "%d", d->attempts);
    table_cell(&l->table, "%s", time);
    table_cell(&l->table, "%s", d->blocked ? "blocked" : d->key_parked ? "parked" : "");
    table_cell(&l->table, "%s", d->error);
}

static enum cli_exit list_pages(struct cli *cli, char *group, struct listing *l, bool *more) {
    char *token = mem_strdup("");
    enum cli_exit e = CLI_OK;
    int64_t most = limit ? limit : LIMIT_DEFAULT;
    while (!e && l->shown < most) {
        Orderdb__V1__ListDeadLettersRequest r = ORDERDB__V1__LIST_DEAD_LETTERS_REQUEST__INIT;
        struct arena a; /* of a page */
        arena_init(&a, 256 * MIB);
        r.blocked = blocked;
        r.group = group, r.filter = (char *)(uintptr_t)filter, r.page_token = token, r.page_size = (int32_t)MIN_OF(most - l->shown, (int64_t)PAGE_SIZE);
        const Orderdb__V1__ListDeadLettersResponse *page = token ? cli_call(cli, SERVICE "ListDeadLetters", &r.base, &orderdb__v1__list_dead_letters_response__descriptor, &a, &e) : NULL;
        if (!token) e = cli_no_memory();
        for (size_t i = 0; page && i < page->n_letters; i++) list_letter(cli, l, page->letters[i]);
        mem_free(token);
        token = page ? mem_strdup(page->next_page_token) : NULL;
        arena_fini(&a);
        *more = token && *token;
        if (!*more) break;
    }
    mem_free(token);
    return e;
}

static enum cli_exit dlq_list_run(struct cli *cli, int argc, char **argv) {
    static const struct table_column columns[] = {{"EVENT"}, {"ORDER", .right = true}, {"USER", .shrinks_to = 8}, {"TRIES", .right = true}, {"DEAD SINCE"}, {"KEY"}, {"ERROR", .shrinks_to = 10}};
    struct listing l = {0};
    bool more = false;
    if (limit < 0) return cli_usage(cli, "--limit is how many to list, at least 1");
    table_init(&l.table, columns, ARRAY_LEN(columns));
    enum cli_exit e = list_pages(cli, argv[0], &l, &more);
    if (cli->json) e = cli_array_end(&l.json, e);
    else if (!e) table_print(&l.table, stdout, TABLE_WIDTH);
    if (!e && more) fprintf(stderr, "there are more: --limit N\n");
    table_fini(&l.table);
    return e;
}

static enum cli_exit dlq_redrive_run(struct cli *cli, int argc, char **argv) {
    Orderdb__V1__RedriveDeadLettersRequest r = ORDERDB__V1__REDRIVE_DEAD_LETTERS_REQUEST__INIT;
    struct arena a;
    enum cli_exit e;
    if (max_per_second != (int32_t)max_per_second) return cli_usage(cli, "--max-per-second is beyond all limits");
    arena_init(&a, 1 * MIB);
    r.group = argv[0], r.filter = (char *)(uintptr_t)filter, r.max_per_second = (int32_t)max_per_second, r.dry_run = dry_run, r.blocked = blocked;
    const Orderdb__V1__RedriveDeadLettersResponse *m = cli_call(cli, SERVICE "RedriveDeadLetters", &r.base, &orderdb__v1__redrive_dead_letters_response__descriptor, &a, &e);
    if (m && cli->json) e = cli_print_json(&m->base);
    else if (m && blocked) printf("%lld blocked key%s %s another try\n", (long long)m->redriven, m->redriven == 1 ? "" : "s", dry_run ? "would have" : m->redriven == 1 ? "has" : "have");
    else if (m) printf("%lld dead letter%s %s given out again\n", (long long)m->redriven, m->redriven == 1 ? "" : "s", dry_run ? "would be" : m->redriven == 1 ? "is" : "are");
    arena_fini(&a);
    return e;
}

static enum cli_exit dlq_purge_run(struct cli *cli, int argc, char **argv) {
    Orderdb__V1__PurgeDeadLettersRequest r = ORDERDB__V1__PURGE_DEAD_LETTERS_REQUEST__INIT;
    struct arena a;
    enum cli_exit e;
    if (!yes && !dry_run) return cli_usage(cli, "they are gone for good: say --yes, or --dry-run to count them");
    arena_init(&a, 1 * MIB);
    r.group = argv[0], r.filter = (char *)(uintptr_t)filter, r.dry_run = dry_run, r.blocked = blocked;
    const Orderdb__V1__PurgeDeadLettersResponse *m = cli_call(cli, SERVICE "PurgeDeadLetters", &r.base, &orderdb__v1__purge_dead_letters_response__descriptor, &a, &e);
    if (m && cli->json) e = cli_print_json(&m->base);
    else if (m && blocked) printf("%lld blocked key%s %s on without the event that %s %s\n", (long long)m->purged, m->purged == 1 ? "" : "s", dry_run ? "would go" : m->purged == 1 ? "goes" : "go",
                                  dry_run ? "blocks" : "blocked", m->purged == 1 ? "it" : "them");
    else if (m) printf("%lld dead letter%s %s\n", (long long)m->purged, m->purged == 1 ? "" : "s", dry_run ? "would be purged" : "purged");
    arena_fini(&a);
    return e;
}

#define FILTER_FLAG {"--filter", NULL, ARG_TEXT, &filter, "FILTER", "of their events: 'user_id = \"ann\"' (default: all)"}
#define BLOCKED_FLAG(what) {"--blocked", NULL, ARG_SWITCH, &blocked, NULL, what}
static const struct arg list_flags[] = {FILTER_FLAG, BLOCKED_FLAG("instead, the events at which keys are blocked (groups with --on-exhausted block)"), {"--limit", NULL, ARG_NUMBER, &limit, "N", "how many to list (default: 100)"}, {NULL}};
static const struct arg redrive_flags[] = {FILTER_FLAG, BLOCKED_FLAG("instead, give blocked keys another try"), {"--max-per-second", NULL, ARG_NUMBER, &max_per_second, "N", "how many go out in a second (default: any number)"},
                                           {"--dry-run", NULL, ARG_SWITCH, &dry_run, NULL, "count them, change nothing"}, {NULL}};
static const struct arg purge_flags[] = {FILTER_FLAG, BLOCKED_FLAG("instead, let blocked keys go on without the event"), {"--dry-run", NULL, ARG_SWITCH, &dry_run, NULL, "count them, change nothing"}, {"--yes", NULL, ARG_SWITCH, &yes, NULL, "that is meant"}, {NULL}};

const struct cli_command dlq_commands[] = {
    {"dlq", "list", "GROUP", "dead letters of a consumer group", "Examples:\n  orderctl dlq list mail\n  orderctl dlq list mail --filter 'user_id = \"ann\"' -o json\n  orderctl dlq list mail --blocked\n", list_flags, 1, 1, dlq_list_run},
    {"dlq", "redrive", "GROUP", "give dead letters out again, to this group alone",
     "They go out in the order of their keys, with their attempts at 1.\n\nExamples:\n  orderctl dlq redrive mail --dry-run\n  orderctl dlq redrive mail --max-per-second 50\n  orderctl dlq redrive mail --blocked --filter 'user_id = \"ann\"'\n", redrive_flags, 1, 1, dlq_redrive_run},
    {"dlq", "purge", "GROUP", "forget dead letters", "A key that was parked for them goes on. With --blocked: the event at which a key is blocked is settled, and the key goes on behind it.\n\nExamples:\n  orderctl dlq purge mail --filter 'user_id = \"ann\"' --yes\n", purge_flags, 1, 1, dlq_purge_run},
    {NULL},
};

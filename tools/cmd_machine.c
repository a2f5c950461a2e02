/* orderctl machine apply, check, list, show; orderctl resource apply, list, remove. Files are YAML or JSON; a machine's file is a StatusMachine, a resource's a
 * Resource ("limit: {name: ...}"). */
#include <stdio.h>
#include <stdlib.h>

#include "proto/base/mem.h"
#include "tools/cli.h"
#include "tools/pbjson.h"
#include "tools/table.h"
#include "tools/yaml.h"

#define ARENA_BYTES (64 * MIB)
enum { PAGE_SIZE = 200, TEXT_BYTES = 512 };

typedef Orderdb__V1__StatusMachine Machine;
typedef Orderdb__V1__Resource Resource;

static bool dry_run;

/* ---- files */

static void tell(const char *path, unsigned line, const char *what) {
    fputs("orderctl: ", stderr);
    text_print(stderr, path);
    fprintf(stderr, ":%u: ", line);
    text_print(stderr, what);
    fputc('\n', stderr);
}

/* "states[1].after: not a duration": the path is what stands before the colon. */
static void tell_field(const char *path, const struct yaml *y, const char *error) {
    char field[PBJSON_ERROR_BYTES];
    const char *colon = strstr(error, ": ");
    snprintf(field, sizeof field, "%.*s", colon ? (int)(colon - error) : 0, error);
    tell(path, yaml_line(y, field), error);
}

static const char machine_file_is[] = "The file is to be a status machine in YAML or JSON (name, version, states, edges), as `orderctl machine show NAME --output yaml` prints it, not its table.";
static const char resource_file_is[] = "The file is to be one resource in YAML or JSON, such as limit: {name: checkout, per_second: 5}; see `orderctl resource apply --help`.";

/* A message in the arena; NULL: told. */
static ProtobufCMessage *read_file(const char *path, const ProtobufCMessageDescriptor *type, const char *expected, struct arena *arena) {
    size_t len;
    char *text = cli_read_file(path, &len), error[PBJSON_ERROR_BYTES];
    struct yaml y;
    unsigned line;
    if (!text) return NULL;
    ProtobufCMessage *m = NULL;
    bool is_yaml = yaml_read(slice_of(text, len), &y, &line, error);
    if (!is_yaml) tell(path, line, error);
    else if (!(m = pbjson_parse(type, buf_slice(&y.json), arena, error))) tell_field(path, &y, error);
    if (!is_yaml || (!m && strcmp(error, "not an object") == 0)) text_fold(stderr, expected, 0, 0); /* another file altogether */
    yaml_fini(&y);
    mem_free(text);
    return m;
}

/* ---- apply */

static enum cli_exit apply(struct cli *cli, Resource *resource, bool remove, bool dry) {
    Orderdb__V1__ApplyResourceRequest r = ORDERDB__V1__APPLY_RESOURCE_REQUEST__INIT;
    r.resource = resource;
    r.remove = remove;
    r.dry_run = dry;
    Orderdb__V1__ApplyResourceResponse *answer = orderdb_apply_resource(cli->db, &r, NULL);
    if (!answer) return cli_error(cli);
    enum cli_exit e = CLI_OK;
    if (cli->json) e = cli_print_json(&answer->base);
    else
        for (size_t i = 0; i < answer->n_effects; i++) text_print(stdout, answer->effects[i]), putchar('\n');
    orderdb_message_free(answer);
    return e;
}

static enum cli_exit machine_file(struct cli *cli, const char *path, bool dry) {
    struct arena arena;
    arena_init(&arena, ARENA_BYTES);
    Resource resource = ORDERDB__V1__RESOURCE__INIT;
    resource.kind_case = ORDERDB__V1__RESOURCE__KIND_MACHINE;
    resource.machine = (Machine *)read_file(path, &orderdb__v1__status_machine__descriptor, machine_file_is, &arena);
    enum cli_exit e = resource.machine ? apply(cli, &resource, false, dry) : CLI_USAGE;
    arena_fini(&arena);
    return e;
}

static enum cli_exit machine_apply_run(struct cli *cli, int argc, char **argv) { return machine_file(cli, argv[0], dry_run); }
static enum cli_exit machine_check_run(struct cli *cli, int argc, char **argv) { return machine_file(cli, argv[0], true); }

static enum cli_exit resource_apply_run(struct cli *cli, int argc, char **argv) {
    struct arena arena;
    arena_init(&arena, ARENA_BYTES);
    Resource *resource = (Resource *)read_file(argv[0], &orderdb__v1__resource__descriptor, resource_file_is, &arena);
    enum cli_exit e = resource ? apply(cli, resource, false, dry_run) : CLI_USAGE;
    arena_fini(&arena);
    return e;
}

static enum cli_exit resource_remove_run(struct cli *cli, int argc, char **argv) {
    Resource resource = ORDERDB__V1__RESOURCE__INIT;
    Orderdb__V1__RateLimit limit = ORDERDB__V1__RATE_LIMIT__INIT;
    Machine machine = ORDERDB__V1__STATUS_MACHINE__INIT;
    if (strcmp(argv[0], "limit") == 0) resource.kind_case = ORDERDB__V1__RESOURCE__KIND_LIMIT, resource.limit = &limit, limit.name = argv[1];
    else if (strcmp(argv[0], "machine") == 0) resource.kind_case = ORDERDB__V1__RESOURCE__KIND_MACHINE, resource.machine = &machine, machine.name = argv[1];
    else return cli_usage(cli, "KIND is limit, not %s", argv[0]);
    return apply(cli, &resource, true, dry_run);
}

/* ---- lists */

/* Calls each(ctx, resource) for all of a kind ("": all kinds). */
static enum cli_exit each_resource(struct cli *cli, const char *kind, void (*each)(void *ctx, const Resource *r), void *ctx) {
    Orderdb__V1__ListResourcesRequest r = ORDERDB__V1__LIST_RESOURCES_REQUEST__INIT;
    char *token = mem_strdup("");
    enum cli_exit e = CLI_OK;
    do {
        r.kind = (char *)kind, r.page_size = PAGE_SIZE, r.page_token = token;
        Orderdb__V1__ListResourcesResponse *page = token ? orderdb_list_resources(cli->db, &r, NULL) : NULL;
        if (!page) {
            e = token ? cli_error(cli) : cli_no_memory();
            break;
        }
        for (size_t i = 0; i < page->n_resources; i++) each(ctx, page->resources[i]);
        mem_free(token);
        token = mem_strdup(page->next_page_token);
        orderdb_message_free(page);
    } while (!token || *token);
    mem_free(token);
    return e;
}

static void seconds_text(int64_t s, char *out, size_t cap) {
    static const struct { int64_t seconds; char unit; } units[] = {{86400, 'd'}, {3600, 'h'}, {60, 'm'}, {1, 's'}};
    for (size_t i = 0; i < ARRAY_LEN(units); i++) {
        if (s % units[i].seconds) continue;
        snprintf(out, cap, "%lld%c", (long long)(s / units[i].seconds), units[i].unit);
        return;
    }
}

static void duration_text(const Google__Protobuf__Duration *d, char *out, size_t cap) {
    if (!d) snprintf(out, cap, "-");
    else if (d->nanos) snprintf(out, cap, "%lld.%09ds", (long long)d->seconds, d->nanos);
    else seconds_text(d->seconds, out, cap);
}

static size_t timer_count(const Machine *m) {
    size_t n = 0;
    for (size_t i = 0; i < m->n_states; i++) n += m->states[i]->n_timers;
    return n;
}

struct listing {
    struct table table;
    bool json;
    struct cli_array array;
};

static void list_machine(void *ctx, const Resource *r) {
    struct listing *l = ctx;
    const Machine *m = r->machine;
    if (l->json) {
        cli_array_add(&l->array, &m->base);
        return;
    }
    const char *initial = "";
    for (size_t i = 0; i < m->n_states; i++)
        if (m->states[i]->initial) initial = m->states[i]->name;
    table_cell(&l->table, "%s@%d", m->name, m->version);
    table_cell(&l->table, "%zu", m->n_states);
    table_cell(&l->table, "%zu", m->n_edges);
    table_cell(&l->table, "%zu", timer_count(m));
    table_cell(&l->table, "%s", initial);
}

static void list_resource(void *ctx, const Resource *r) {
    struct listing *l = ctx;
    if (l->json) {
        cli_array_add(&l->array, &r->base);
        return;
    }
    if (r->kind_case == ORDERDB__V1__RESOURCE__KIND_MACHINE) {
        table_cell(&l->table, "machine");
        table_cell(&l->table, "%s@%d", r->machine->name, r->machine->version);
        table_cell(&l->table, "%zu states, %zu edges", r->machine->n_states, r->machine->n_edges);
    } else if (r->kind_case == ORDERDB__V1__RESOURCE__KIND_LIMIT) {
        const Orderdb__V1__RateLimit *limit = r->limit;
        table_cell(&l->table, "limit");
        table_cell(&l->table, "%s", limit->name);
        table_cell(&l->table, "%g/s, burst %lld, %s, %s", limit->per_second, (long long)limit->burst, limit->scope, *limit->method ? limit->method : "all methods");
    } else {
        table_cell(&l->table, "other"), table_cell(&l->table, "-"), table_cell(&l->table, "of a newer server");
    }
}

static enum cli_exit print_list(struct cli *cli, const char *kind, const struct table_column *columns, unsigned count, void (*each)(void *ctx, const Resource *r)) {
    struct listing l = {.json = cli->json};
    table_init(&l.table, columns, count);
    enum cli_exit e = each_resource(cli, kind, each, &l);
    if (cli->json) e = cli_array_end(&l.array, e);
    else if (e == CLI_OK) table_print(&l.table, stdout, TABLE_WIDTH);
    table_fini(&l.table);
    return e;
}

static enum cli_exit machine_list_run(struct cli *cli, int argc, char **argv) {
    static const struct table_column columns[] = {{"MACHINE", .shrinks_to = 20}, {"STATES", .right = true}, {"EDGES", .right = true}, {"TIMERS", .right = true}, {"INITIAL", .shrinks_to = 10}};
    return print_list(cli, "machine", columns, ARRAY_LEN(columns), list_machine);
}

static enum cli_exit resource_list_run(struct cli *cli, int argc, char **argv) {
    static const struct table_column columns[] = {{"KIND"}, {"NAME", .shrinks_to = 20}, {"WHAT", .shrinks_to = 20}};
    return print_list(cli, argc ? argv[0] : "", columns, ARRAY_LEN(columns), list_resource);
}

/* ---- show */

/* Joined with ", "; cut where it does not fit: the table cuts too. */
static void join(char *const *names, size_t n, char *out, size_t cap) {
    size_t len = 0;
    out[0] = 0;
    for (size_t i = 0; i < n && len < cap; i++) len += (size_t)snprintf(out + len, cap - len, "%s%s", i ? ", " : "", names[i]);
}

static void print_states(const Machine *m) {
    static const struct table_column columns[] = {{"STATE", .shrinks_to = 16}, {"KIND"}, {"TIMER", .shrinks_to = 10}, {"AFTER"}, {"EVENT", .shrinks_to = 10}};
    struct table t;
    table_init(&t, columns, ARRAY_LEN(columns));
    for (size_t i = 0; i < m->n_states; i++) {
        const Orderdb__V1__StatusMachine__State *s = m->states[i];
        for (size_t k = 0; k == 0 || k < s->n_timers; k++) {
            char after[64] = "";
            if (s->n_timers) duration_text(s->timers[k]->after, after, sizeof after);
            table_cell(&t, "%s", k ? "" : s->name);
            table_cell(&t, "%s", k ? "" : s->initial ? "initial" : s->terminal ? "terminal" : "");
            table_cell(&t, "%s", s->n_timers ? s->timers[k]->timer_id : "");
            table_cell(&t, "%s", after);
            table_cell(&t, "%s", !s->n_timers ? "" : *s->timers[k]->event ? s->timers[k]->event : "(only told)");
        }
    }
    table_print(&t, stdout, TABLE_WIDTH);
    table_fini(&t);
}

static void print_edges(const Machine *m) {
    static const struct table_column columns[] = {{"EVENT", .shrinks_to = 12}, {"FROM", .shrinks_to = 16}, {"TO", .shrinks_to = 12}, {"REQUIRES", .shrinks_to = 10}};
    struct table t;
    table_init(&t, columns, ARRAY_LEN(columns));
    for (size_t i = 0; i < m->n_edges; i++) {
        const Orderdb__V1__StatusMachine__Edge *e = m->edges[i];
        char required[TEXT_BYTES];
        join(e->required_fields, e->n_required_fields, required, sizeof required);
        for (size_t k = 0; k < e->n_from; k++) { /* a row for each, so that nothing is cut that matters */
            table_cell(&t, "%s", k ? "" : e->event);
            table_cell(&t, "%s", e->from[k]);
            table_cell(&t, "%s", e->to);
            table_cell(&t, "%s", k ? "" : required);
        }
    }
    table_print(&t, stdout, TABLE_WIDTH);
    table_fini(&t);
}

static void print_text(const char *s) {
    struct buf quoted = {0};
    if (yaml_is_plain(s)) fputs(s, stdout);
    else if (pbjson_quote(&quoted, s)) fwrite(quoted.data, 1, quoted.len, stdout);
    buf_fini(&quoted);
}

static void print_texts(const char *name, char *const *list, size_t n) {
    if (!n) return;
    printf("    %s: [", name);
    for (size_t i = 0; i < n; i++) fputs(i ? ", " : "", stdout), print_text(list[i]);
    printf("]\n");
}

/* The file that `machine apply` takes. */
static void print_yaml(const Machine *m) {
    printf("name: "), print_text(m->name);
    printf("\nversion: %d\nstates:\n", m->version);
    for (size_t i = 0; i < m->n_states; i++) {
        const Orderdb__V1__StatusMachine__State *s = m->states[i];
        printf("  - name: "), print_text(s->name);
        printf("\n%s%s", s->initial ? "    initial: true\n" : "", s->terminal ? "    terminal: true\n" : "");
        if (s->n_timers) printf("    timers:\n");
        for (size_t k = 0; k < s->n_timers; k++) {
            char after[64];
            duration_text(s->timers[k]->after, after, sizeof after);
            printf("      - timer_id: "), print_text(s->timers[k]->timer_id);
            printf("\n        after: %s\n", after);
            if (*s->timers[k]->event) printf("        event: "), print_text(s->timers[k]->event), putchar('\n');
        }
    }
    printf("edges:%s\n", m->n_edges ? "" : " []");
    for (size_t i = 0; i < m->n_edges; i++) {
        const Orderdb__V1__StatusMachine__Edge *e = m->edges[i];
        printf("  - event: "), print_text(e->event), putchar('\n');
        print_texts("from", e->from, e->n_from);
        printf("    to: "), print_text(e->to), putchar('\n');
        print_texts("required_fields", e->required_fields, e->n_required_fields);
        print_texts("roles", e->roles, e->n_roles);
    }
}

struct search {
    const char *name; /* "shop", "shop@2" */
    struct arena arena;
    Machine *found;   /* the newest that matches */
};

static void *copy_alloc(void *ctx, size_t n) { return arena_alloc(ctx, n); }
static void copy_free(void *ctx, void *p) { (void)ctx, (void)p; }

static void look_at(void *ctx, const Resource *r) {
    struct search *s = ctx;
    char reference[256];
    snprintf(reference, sizeof reference, "%s@%d", r->machine->name, r->machine->version);
    if (strcmp(s->name, r->machine->name) != 0 && strcmp(s->name, reference) != 0) return;
    arena_reset(&s->arena);
    ProtobufCAllocator allocator = {copy_alloc, copy_free, &s->arena};
    uint8_t *bytes = mem_alloc(orderdb__v1__status_machine__get_packed_size(r->machine) + 1);
    if (bytes) s->found = orderdb__v1__status_machine__unpack(&allocator, orderdb__v1__status_machine__pack(r->machine, bytes), bytes);
    mem_free(bytes);
}

static enum cli_exit machine_show_run(struct cli *cli, int argc, char **argv) {
    struct search s = {.name = argv[0]};
    arena_init(&s.arena, ARENA_BYTES);
    enum cli_exit e = each_resource(cli, "machine", look_at, &s);
    if (e == CLI_OK && !s.found) {
        fprintf(stderr, "error: there is no status machine ");
        text_print(stderr, argv[0]);
        fputs("; `orderctl machine list` tells which there are\n", stderr);
        e = CLI_REFUSED;
    } else if (e == CLI_OK && cli->yaml) {
        print_yaml(s.found);
    } else if (e == CLI_OK && cli->json) {
        e = cli_print_json(&s.found->base);
    } else if (e == CLI_OK) {
        printf("%s@%d\n\n", s.found->name, s.found->version);
        print_states(s.found);
        putchar('\n');
        print_edges(s.found);
    }
    arena_fini(&s.arena);
    return e;
}

/* ---- the commands */

static const struct arg dry_flags[] = {{"--dry-run", NULL, ARG_SWITCH, &dry_run, NULL, "say what would come of it, change nothing"}, {NULL}};

#define FILE_EXAMPLE \
    "A file, YAML or JSON:\n" \
    "  name: shop\n" \
    "  version: 2                 # or none: the next one\n" \
    "  states:\n" \
    "    - name: OPEN\n" \
    "      initial: true\n" \
    "      timers: [{timer_id: late, after: 30m, event: expire}]\n" \
    "    - {name: PAID, terminal: true}\n" \
    "    - {name: EXPIRED, terminal: true}\n" \
    "  edges:\n" \
    "    - {event: pay, from: [OPEN], to: PAID}\n" \
    "    - {event: expire, from: [OPEN], to: EXPIRED}\n\n"

const struct cli_command machine_commands[] = {
    {"machine", "apply", "FILE", "add a version of a status machine",
     FILE_EXAMPLE "Orders keep the version that they were created under; new ones take the newest. Applied again it changes nothing.\n\n"
     "Examples:\n  orderctl machine apply shop.yaml\n  orderctl machine apply shop.yaml --dry-run\n", dry_flags, 1, 1, machine_apply_run},
    {"machine", "check", "FILE", "what `apply` would do, and which orders it would leave behind",
     "Says whether the file is a valid next version, and counts live orders of older versions in statuses that it lacks or ends. They keep their\n"
     "version, so nothing breaks; it tells what is to be looked after. It looks at all orders where that can matter: give it time with --timeout.\n\n"
     "Examples:\n  orderctl machine check shop.yaml\n  orderctl machine check shop.yaml --timeout 600\n", NULL, 1, 1, machine_check_run},
    {"machine", "list", "", "status machines, all versions", "Examples:\n  orderctl machine list\n", NULL, 0, 0, machine_list_run},
    {"machine", "show", "NAME[@VERSION]", "states, timers and edges of a status machine",
     "With --output yaml or json: a file that `machine apply` takes.\n\n"
     "Examples:\n  orderctl machine show retail\n  orderctl machine show retail@1 --output yaml > retail.yaml\n", NULL, 1, 1, machine_show_run},
    {NULL},
};

const struct cli_command resource_commands[] = {
    {"resource", "apply", "FILE", "set a rate limit (or another resource)",
     "A file, YAML or JSON:\n  limit: {name: checkout, scope: user, method: OrderService/CreateOrder,\n          per_second: 5, burst: 10}\n\n"
     "scope: global, principal (a client certificate), user or merchant.\nmethod: left out, all of them that name such a one.\n\nExamples:\n  orderctl resource apply checkout.yaml\n  orderctl resource apply checkout.yaml --dry-run\n", dry_flags, 1, 1, resource_apply_run},
    {"resource", "list", "[KIND]", "resources that are set: machine, limit", "Examples:\n  orderctl resource list\n  orderctl resource list limit -o json\n", NULL, 0, 1, resource_list_run},
    {"resource", "remove", "KIND NAME", "remove a rate limit", "Examples:\n  orderctl resource remove limit checkout\n", dry_flags, 2, 2, resource_remove_run},
    {NULL},
};

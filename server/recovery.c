#include "server/recovery.h"

#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "engine/keys.h"
#include "engine/machine.h"
#include "engine/node_row.h"
#include "engine/recover.h"
#include "engine/store.h"
#include "proto/base/hash.h"
#include "proto/base/log.h"
#include "proto/base/mem.h"
#include "server/host.h"
#include "server/identity.h"
#include "server/survivors.h"

enum { EXIT_DONE, EXIT_REFUSED, EXIT_USAGE };
enum { BLOCK_CACHE_BYTES = 64 << 20, MEMTABLE_BYTES = 8 << 20, SEGMENT_BYTES = 16 << 20, LIVE_BYTES = 256 << 20, PATH_BYTES = 4096, COLUMNS = 80 };

struct survivor_core {
    int dir_fd; /* 0: not open */
    struct host *host;
    struct engine *engine;
    uint32_t *partitions, count;
};
struct recovery {
    const char *path, *begin_empty;
    bool is_unsafe, sure, inspects, compares;
    int dir_fd, lock_fd;
    struct identity id;
    struct store_shared *shared;
    struct machines *machines;
    struct survivor_core *cores;
    struct recover_replica *replicas; /* of all cores, by partition, the meta partition last */
    bool *named;                      /* by --begin-empty, by partition */
    char error[512];
};

static const char usage[] =
    "Usage: orderd recover --data-dir DIR\n"
    "       orderd recover --data-dir DIR --unsafe [--begin-empty PARTITIONS] [--yes]\n"
    "       orderd recover --data-dir DIR --inspect\n"
    "       orderd recover --compare FILE|DIR...\n\n"
    "Of a stopped node whose cluster has lost a majority for good. Tells what the\n"
    "directory holds and what may be lost; --unsafe makes the node go on alone.\n"
    "Partitions that it does not hold begin anew, empty; --begin-empty must name each\n"
    "of them (1,4-6). --inspect tells the same for --compare, which says who of\n"
    "several nodes that are left is furthest: of such files, or data directories.\n";

/* ---- the directory */

static enum status refuse(struct recovery *x, const char *format, ...) PRINTF_LIKE(2, 3);
static enum status refuse(struct recovery *x, const char *format, ...) {
    va_list args;
    va_start(args, format);
    vsnprintf(x->error, sizeof x->error, format, args);
    va_end(args);
    return STATUS_FIELD_INVALID;
}

static enum status open_dir(struct recovery *x) {
    struct stat dir;
    char node[PATH_BYTES];
    if (snprintf(node, sizeof node, "%s/NODE", x->path) >= (int)sizeof node) return refuse(x, "--data-dir is too long");
    if (stat(x->path, &dir) != 0) return refuse(x, "data directory %s: %s", x->path, strerror(errno));
    if (access(node, F_OK) != 0) return refuse(x, "%s: %s", node, strerror(errno));
    /* What is written here the server must be able to read. */
    if (dir.st_uid != geteuid()) return refuse(x, "%s belongs to user %u: run this as that user, not as %u", x->path, dir.st_uid, geteuid());
    enum status st = data_dir_open(x->path, &x->dir_fd, &x->lock_fd, x->error);
    if (st) return st;
    if (identity_peek(&x->id, x->dir_fd) != STATUS_OK) return refuse(x, "%s is damaged, or of another version", node);
    if (!x->id.clustered) return refuse(x, "%s was made by a single node: it has no majority to lose", x->path);
    return STATUS_OK;
}

/* ---- the engines, of which none is ever ticked */

static enum status open_store(void *ctx, uint32_t partition, uint64_t memtable_bytes, struct store **out, char error[256]) {
    struct recovery *x = ctx;
    char path[PATH_BYTES + 32];
    if (partition == PARTITION_META) snprintf(path, sizeof path, "%s/meta", x->path);
    else snprintf(path, sizeof path, "%s/part-%05u", x->path, partition);
    struct store_config sc = {.memtable_bytes = memtable_bytes, .block_cache_bytes = BLOCK_CACHE_BYTES, .shared = x->shared, ENGINE_STORE_KEYS};
    if (access(path, F_OK) != 0) return snprintf(error, 256, "%.200s: %s", path, strerror(errno)), STATUS_ABSENT;
    return store_open_rocks(out, path, &sc, error);
}

static enum status open_core(struct recovery *x, uint32_t number) {
    static const struct group_members none;
    struct survivor_core *c = &x->cores[number];
    char name[32], error[256] = "";
    snprintf(name, sizeof name, "core-%u", number);
    int fd = openat(x->dir_fd, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0) return refuse(x, "%s/%s: %s", x->path, name, strerror(errno));
    c->dir_fd = fd;
    c->host = host_new(NULL, fd);
    c->partitions = mem_zalloc(x->id.partitions * sizeof *c->partitions);
    if (!c->host || !c->partitions) return refuse(x, "out of memory");
    for (uint32_t p = number; p < x->id.partitions; p += x->id.cores) c->partitions[c->count++] = p; /* node_core_of_partition */
    struct engine_config config = {
        .core = number,
        .node_id = x->id.node_id,
        .members = &none,
        .partition_count = x->id.partitions,
        .partitions = c->partitions,
        .owned_count = c->count,
        .meta = number == 0,
        .machines = x->machines,
        .log_live_bytes_max = LIVE_BYTES,
        .log_segment_bytes = SEGMENT_BYTES,
        .memtable_bytes = (uint64_t)MEMTABLE_BYTES * c->count,
        .store_open = open_store,
        .store_ctx = x,
        .election_ms = 1000,
        .heartbeat_ms = 100,
    };
    memcpy(config.token_key, x->id.token_key, sizeof config.token_key);
    enum status st = engine_open(&c->engine, host_env(c->host), &config, error);
    return st ? refuse(x, "%s", error) : STATUS_OK;
}

static enum status open_all(struct recovery *x) {
    uint32_t n = x->id.partitions;
    x->cores = mem_zalloc(x->id.cores * sizeof *x->cores);
    x->replicas = mem_zalloc((n + 1) * sizeof *x->replicas);
    x->named = mem_zalloc(n * sizeof *x->named);
    x->machines = machines_new();
    x->shared = store_shared_new(BLOCK_CACHE_BYTES, 1);
    struct recover_replica *some = mem_alloc((n + 1) * sizeof *some);
    enum status st = x->cores && x->replicas && x->named && x->machines && x->shared && some ? STATUS_OK : refuse(x, "out of memory");
    for (uint32_t i = 0; !st && i < x->id.cores; i++) {
        if ((st = open_core(x, i))) break;
        uint32_t count = recover_look(x->cores[i].engine, some, n + 1);
        for (uint32_t k = 0; k < count; k++) x->replicas[MIN_OF(some[k].partition, n)] = some[k];
    }
    mem_free(some);
    return st;
}

static void turn(void *ctx) {
    struct survivor_core *c = ctx;
    check(host_turn(c->host)); /* all is done at once: what is waited for is on its way */
}

static void close_all(struct recovery *x) {
    for (uint32_t i = 0; x->cores && i < x->id.cores; i++) {
        struct survivor_core *c = &x->cores[i];
        while (c->host && host_turn(c->host)) {}
        engine_close(c->engine);
        while (c->host && host_turn(c->host)) {}
        host_free(c->host);
        mem_free(c->partitions);
        if (c->dir_fd) close(c->dir_fd);
    }
    if (x->shared) store_shared_free(x->shared);
    if (x->machines) machines_free(x->machines);
    mem_free(x->cores);
    mem_free(x->replicas);
    mem_free(x->named);
    if (x->dir_fd >= 0) close(x->dir_fd);
    if (x->lock_fd >= 0) close(x->lock_fd);
}

/* ---- partitions that are not here */

static unsigned voters_of(const struct recover_replica *r) {
    unsigned n = 0;
    for (uint32_t i = 0; i < r->members.count; i++) n += r->members.member[i].kind == GROUP_VOTER && r->members.member[i].node_id <= NODE_ID_MAX;
    return n;
}

static uint32_t count_lacking(const struct recovery *x) {
    uint32_t n = 0;
    for (uint32_t i = 0; i < x->id.partitions; i++) n += !x->replicas[i].holds;
    return n;
}

/* As --begin-empty takes them: "1,4-6". */
static void print_lacking(const struct recovery *x) {
    const char *comma = "";
    for (uint32_t i = 0, last; i < x->id.partitions; i++) {
        if (x->replicas[i].holds) continue;
        for (last = i; last + 1 < x->id.partitions && !x->replicas[last + 1].holds;) last++;
        printf(last > i ? "%s%u-%u" : "%s%u", comma, i, last);
        comma = ",";
        i = last;
    }
}

static enum status read_named(struct recovery *x) {
    const char *at = x->begin_empty;
    while (at && *at) {
        char *end;
        unsigned long first = strtoul(at, &end, 10), last = first;
        bool bad = *at < '0' || *at > '9';
        if (!bad && *end == '-') at = end + 1, bad = *at < '0' || *at > '9', last = strtoul(at, &end, 10);
        if (bad || last < first || last >= x->id.partitions || (*end && (*end != ',' || !end[1])))
            return refuse(x, "--begin-empty '%.200s': partitions as 1,4-6, of 0 to %u", x->begin_empty, x->id.partitions - 1);
        for (unsigned long i = first; i <= last; i++) x->named[i] = true;
        at = *end ? end + 1 : end;
    }
    return STATUS_OK;
}

/* Nothing begins empty that was not named, and nothing that is here is given up by a mistake in a number. What an earlier run has begun is alone, and may be named again. */
static enum status check_named(struct recovery *x) {
    for (uint32_t i = 0; i < x->id.partitions; i++) {
        const struct recover_replica *r = &x->replicas[i];
        if (x->named[i] && r->holds && !r->alone) return refuse(x, "nothing was changed: --begin-empty names partition %u, which is on this node, with %" PRId64 " orders", i, r->orders);
        if (!x->named[i] && !r->holds)
            return refuse(x, "nothing was changed: %u partitions are not on this node, partition %u among them, and would begin empty: say that you mean it by --begin-empty, as told above", count_lacking(x), i);
    }
    const struct recover_replica *meta = &x->replicas[x->id.partitions];
    if (!meta->holds && !voters_of(meta)) return refuse(x, "nothing was changed: the meta partition is not on this node, which joined the cluster and never was a member: it can't go on alone");
    return STATUS_OK;
}

/* ---- what is told */

/* Text in lines of 80 columns, all of them indented; a word is never cut. */
static void tell(int indent, const char *format, ...) PRINTF_LIKE(2, 3);
static void tell(int indent, const char *format, ...) {
    char text[PATH_BYTES + 512], *rest = text;
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    int width = 0;
    for (char *word; (word = strsep(&rest, " "));) {
        int n = (int)strlen(word);
        if (width && width + 1 + n > COLUMNS) putchar('\n'), width = 0;
        width += width ? printf(" %s", word) : printf("%*s%s", indent, "", word);
    }
    putchar('\n');
}

static void print_members(const struct recover_replica *r) {
    if (!voters_of(r)) printf(" none is known");
    for (uint32_t i = 0; i < r->members.count; i++) {
        const struct group_member *m = &r->members.member[i];
        if (m->node_id <= NODE_ID_MAX) printf(" %" PRIu64 "%s", m->node_id, m->kind == GROUP_VOTER ? "" : " (no vote)");
    }
    putchar('\n');
}

static const char *name_of(const struct recovery *x, uint32_t at, char name[16]) {
    if (at == x->id.partitions) return "meta";
    snprintf(name, 16, "%u", at);
    return name;
}

static void print_table(const struct recovery *x) {
    char name[16], end[48];
    tell(0, "node %" PRIu64 ", %s: %u core%s, %u partitions%s", x->id.node_id, x->path, x->id.cores, x->id.cores == 1 ? "" : "s", x->id.partitions, x->id.recovered ? "; it went on alone before" : "");
    printf("\nPARTITION  APPLIED TO  ORDERS SO  LOG ENDS AT  MEMBERS\n");
    for (uint32_t i = 0; i <= x->id.partitions; i++) {
        const struct recover_replica *r = &x->replicas[i];
        snprintf(end, sizeof end, "%" PRIu64 ":%" PRIu64, r->last_term, r->last_index);
        printf("%-9s  %10" PRIu64 "  %9" PRId64 "  %11s ", name_of(x, i, name), r->applied_index, r->orders, end);
        print_members(r);
    }
    printf("\nThe log's end is told as TERM:INDEX.\n\n");
}

static void print_lost(const struct recovery *x) {
    printf("\nNOT ON THIS NODE, AND LOST WITH --unsafe: partitions\n  ");
    print_lacking(x);
    putchar('\n');
    tell(0, "Replicas are on --replicas of the nodes, and of these partitions none is here. If a node that is left holds more, or what matters more, take that one. If several hold "
            "different ones, a copy of another's directory, recovered by itself, is a second cluster with what that node has: orders can be read there, and imported here. "
            "Partitions that are not here begin anew, empty, if you name them:");
    printf("  --unsafe --begin-empty ");
    print_lacking(x);
    printf("\n\n");
}

/* What stands in the log behind what is applied. */
static void print_open_ends(const struct recovery *x) {
    bool any = false;
    char name[16];
    for (uint32_t i = 0; i <= x->id.partitions; i++) {
        const struct recover_replica *r = &x->replicas[i];
        if (r->last_index <= r->applied_index) continue;
        if (!any) tell(0, "\nThese entries of the log may have been acknowledged or not; they are kept, and count from now on:"), any = true;
        printf("  partition %s: %" PRIu64 " to %" PRIu64 "\n", name_of(x, i, name), r->applied_index + 1, r->last_index);
    }
}

static void print_losses(const struct recovery *x) {
    char name[16];
    tell(0, "What may be lost: every write that was acknowledged and is not in this node's log. A write is acknowledged when a majority has it, of which this node need not have "
            "been; whether there are any, nobody can tell from here. Versions, tokens and events of lost writes will be those of others.");
    print_open_ends(x);
    for (uint32_t i = 0; i <= x->id.partitions; i++) {
        const struct recover_replica *r = &x->replicas[i];
        const char *p = name_of(x, i, name);
        if (!r->holds && i == x->id.partitions) tell(2, "partition meta: nothing of it is on this node: machines, limits, groups and nodes that it told of are lost");
        if (!r->holds) continue;
        if (r->forgot) tell(2, "partition %s: this node's disk had been lost before, or it had been emptied, and it was getting back what it had acknowledged: all that is behind is lost", p);
        else if (!r->votes) tell(2, "partition %s: this node had no vote, as far as it knows, and may be far behind those that had", p);
        if (r->alone) tell(2, "partition %s: this node is the only voter already; nothing is changed there", p);
    }
    if (count_lacking(x)) print_lost(x);
    else putchar('\n');
    tell(0, "Of several nodes that are left, take the one that is furthest: --inspect at each of them, and --compare of what they say.");
    putchar('\n');
}

static bool all_alone(const struct recovery *x) {
    for (uint32_t i = 0; i <= x->id.partitions; i++)
        if (!x->replicas[i].alone) return false;
    return true;
}

/* ---- the change */

static bool is_sure(const struct recovery *x) {
    char wanted[64], said[64] = "";
    if (x->sure) return true;
    snprintf(wanted, sizeof wanted, "node %" PRIu64 " alone", x->id.node_id);
    printf("Type \"%s\" to go on: ", wanted);
    fflush(stdout);
    if (!fgets(said, sizeof said, stdin)) return false;
    said[strcspn(said, "\n")] = 0;
    return strcmp(said, wanted) == 0;
}

static enum status change(struct recovery *x) {
    struct identity id = x->id;
    char error[256];
    if (!id.recovered) memcpy(id.founders_id, id.cluster_id, sizeof id.founders_id);
    id.recovered = true;
    random_bytes(id.cluster_id, sizeof id.cluster_id);
    int rc = identity_replace(&id, x->dir_fd);
    if (rc) return refuse(x, "%s/NODE cannot be written: %s", x->path, strerror(-rc));
    for (uint32_t i = 0; i < id.cores; i++)
        if (recover_alone(x->cores[i].engine, turn, &x->cores[i], error)) return refuse(x, "half done, run it again when this is mended: %s", error);
    return STATUS_OK;
}

/* ---- several nodes */

/* What x has found, as a survivor; the replicas are x's. */
static struct survivor survivor_of(const struct recovery *x) {
    struct survivor s = {.node_id = x->id.node_id, .cores = x->id.cores, .partitions = x->id.partitions, .replicas = x->replicas};
    memcpy(s.cluster_id, x->id.cluster_id, sizeof s.cluster_id);
    return s;
}

static enum status print_buf(struct recovery *x, struct buf *out, bool ok) {
    if (ok) fwrite(out->data, 1, out->len, stdout);
    buf_fini(out);
    return ok ? STATUS_OK : refuse(x, "out of memory");
}

static enum status read_file(struct recovery *x, const char *path, struct survivor *s) {
    enum { FILE_BYTES_MAX = SURVIVOR_LINE_BYTES * (SURVIVOR_PARTITIONS_MAX + 4) };
    char error[256];
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return refuse(x, "%s: %s", path, strerror(errno));
    uint8_t *bytes = mem_alloc(FILE_BYTES_MAX);
    size_t len = 0;
    ssize_t n = bytes ? 1 : 0;
    while (n > 0 && len < FILE_BYTES_MAX) len += (n = read(fd, bytes + len, FILE_BYTES_MAX - len)) > 0 ? (size_t)n : 0; /* it may be a pipe */
    enum status st = !bytes ? refuse(x, "out of memory") : n < 0 ? refuse(x, "%s: %s", path, strerror(errno)) : STATUS_OK;
    if (!st && survivor_parse(s, slice_of(bytes, len), error)) st = refuse(x, "%s: %s", path, error);
    mem_free(bytes);
    close(fd);
    return st;
}

/* A directory is opened and closed again, as for --inspect. */
static enum status read_dir(struct recovery *x, const char *path, struct survivor *s) {
    struct recovery one = {.path = path, .dir_fd = -1, .lock_fd = -1};
    enum status st = open_dir(&one);
    if (!st) st = open_all(&one);
    if (!st) *s = survivor_of(&one), one.replicas = NULL;
    close_all(&one);
    return st ? refuse(x, "%s", one.error) : STATUS_OK;
}

static enum status compare(struct recovery *x, char *const paths[], unsigned count) {
    struct survivor s[SURVIVORS_MAX] = {0};
    struct buf out = {0};
    struct stat info;
    char error[256];
    enum status st = STATUS_OK;
    for (unsigned i = 0; !st && i < count; i++) st = stat(paths[i], &info) == 0 && S_ISDIR(info.st_mode) ? read_dir(x, paths[i], &s[i]) : read_file(x, paths[i], &s[i]);
    if (!st && survivors_compare(s, count, &out, error)) st = refuse(x, "%s", error);
    for (unsigned i = 0; i < count; i++) survivor_fini(&s[i]);
    return st ? buf_fini(&out), st : print_buf(x, &out, true);
}

static enum status inspect(struct recovery *x) {
    struct survivor s = survivor_of(x);
    struct buf out = {0};
    bool ok = survivor_print(&s, &out);
    return print_buf(x, &out, ok);
}

static enum status run(struct recovery *x) {
    enum status st = open_dir(x);
    if (!st) st = open_all(x);
    if (!st) st = read_named(x);
    if (st || x->inspects) return st ? st : inspect(x);
    print_table(x);
    if (all_alone(x)) return printf("This node is already the only voter everywhere: nothing is to be done.\n"), STATUS_OK;
    print_losses(x);
    if (x->is_unsafe && (st = check_named(x))) return st;
    if (!x->is_unsafe) return printf("Nothing was changed. With --unsafe this node goes on alone.\n"), STATUS_OK;
    if (!is_sure(x)) return refuse(x, "nothing was changed");
    if ((st = change(x))) return st;
    tell(0, "Done: node %" PRIu64 " is the only voter of each of its partitions, and a cluster of its own. Start it with the flags that it had.", x->id.node_id);
    tell(0, "The other nodes of the old cluster are refused by it. Make sure that they stay away from clients too: remove their data directories, and let them join as new nodes, under "
            "other ids (orderd --join, orderctl cluster node add).");
    return STATUS_OK;
}

int recovery_main(int argc, char *argv[]) {
    static const struct option options[] = {{"data-dir", required_argument, NULL, 'd'}, {"unsafe", no_argument, NULL, 'u'}, {"yes", no_argument, NULL, 'y'}, {"begin-empty", required_argument, NULL, 'e'}, {"inspect", no_argument, NULL, 'i'}, {"compare", no_argument, NULL, 'c'}, {"help", no_argument, NULL, 'h'}, {NULL}};
    struct recovery x = {.dir_fd = -1, .lock_fd = -1};
    for (int c; (c = getopt_long(argc, argv, "h", options, NULL)) != -1;) {
        switch (c) {
        case 'd': x.path = optarg; break;
        case 'u': x.is_unsafe = true; break;
        case 'y': x.sure = true; break;
        case 'e': x.begin_empty = optarg; break;
        case 'i': x.inspects = true; break;
        case 'c': x.compares = true; break;
        case 'h': return fputs(usage, stdout), EXIT_DONE;
        default: return EXIT_USAGE; /* getopt has told */
        }
    }
    int files = argc - optind;
    bool fits = x.compares ? !x.path && !x.is_unsafe && !x.inspects && files >= 1 && files <= SURVIVORS_MAX : x.path && !files && !(x.inspects && x.is_unsafe);
    if (!fits || ((x.sure || x.begin_empty) && !x.is_unsafe)) return fputs(usage, stderr), EXIT_USAGE;
    umask(077);
    log_set_level(LOG_WARN);
    enum status st = x.compares ? compare(&x, argv + optind, (unsigned)files) : run(&x);
    close_all(&x);
    if (st) fprintf(stderr, "orderd: %s\n", x.error);
    return st ? EXIT_REFUSED : fflush(stdout) ? EXIT_REFUSED : EXIT_DONE;
}

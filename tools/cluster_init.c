#include "tools/cluster_init.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "proto/base/hash.h"
#include "tools/table.h"

/* The limits are orderd's: ids, bytes of a zone, an advertised address, --peers, cores and partitions (server/config.tbl, server/cluster.c). */
enum { ID_MAX = 1000000, ZONE_BYTES_MAX = 32, ADDRESS_BYTES_MAX = 63, PEERS_BYTES_MAX = 1023, REPLICAS_MAX = 7, CORES_MAX = 64, PARTITIONS_MAX = 1024 };
enum { PEER_PORT = 7401, PORTS_OF_NODE = 3, KEY_BYTES = 32, PATH_BYTES = 1024, SETTING_BYTES = PEERS_BYTES_MAX + 1, SETTINGS_MAX = 12, WARNINGS_MAX = 8 + CLUSTER_FOUNDERS_MAX };

static struct {
    const char *out, *key, *data_dir;
    int64_t replicas, cores, partitions;
    bool dry_run;
} init = {.replicas = 3};

const struct arg cluster_init_flags[] = {
    {"--out", NULL, ARG_TEXT, &init.out, "DIR", "write the key and node-N.conf for each node there (default: the key here, flags on stdout)"},
    {"--key", NULL, ARG_TEXT, &init.key, "FILE", "where the key is written (default: cluster.key, in DIR of --out)"},
    {"--data-dir", NULL, ARG_TEXT, &init.data_dir, "DIR", "of the nodes; -N is added where nodes share a host (default: ./data)"},
    {"--replicas", NULL, ARG_NUMBER, &init.replicas, "N", "nodes that hold each partition, 1 to 7 (default: 3)"},
    {"--cores", NULL, ARG_NUMBER, &init.cores, "N", "threads of each node, the same everywhere, 1 to 64 (default: this machine's CPUs)"},
    {"--partitions", NULL, ARG_NUMBER, &init.partitions, "N", "up to 1024, fixed for good (default: twice the cores, and a multiple of the nodes)"},
    {"--dry-run", NULL, ARG_SWITCH, &init.dry_run, NULL, "check and print, write nothing"},
    {NULL},
};
const char cluster_init_text[] =
    "Offline: prepares a new cluster. Each NODE is ID=HOST[:PORT][@ZONE], one to seven of them, with the address at which the other nodes reach it; PORT is that of nodes (7401), clients come to "
    "the one below it (7400), operations are on loopback at the one above (7402). A HOST that is a name: the node listens on all interfaces, and clients are told the name.\n\n"
    "It writes a new key, mode 0600, and never over a file that is there, and prints how each node is started. Copy the key to every node; then start all of them: the first start waits for all.\n\n"
    "Examples:\n"
    "  orderctl cluster init 1=10.0.0.1@a 2=10.0.0.2@b 3=10.0.0.3@c\n"
    "  orderctl cluster init 1=db1.example@a 2=db2.example@b 3=db3.example@c \\\n"
    "    --out shop --data-dir /var/lib/orderdb --cores 8\n"
    "  orderctl cluster init 1=127.0.0.1:7411@a 2=127.0.0.1:7421@b 3=127.0.0.1:7431@c\n";

struct founder {
    uint64_t id;
    char host[ADDRESS_BYTES_MAX + 1], zone[ZONE_BYTES_MAX + 1]; /* an IPv6 address with its brackets */
    unsigned port;
    bool is_name, shares_host;
};
struct setting {
    const char *name;
    char value[SETTING_BYTES];
};
struct plan {
    struct founder founders[CLUSTER_FOUNDERS_MAX];
    unsigned count;
    int64_t cores, partitions;
    char key[PATH_BYTES], confs[CLUSTER_FOUNDERS_MAX][PATH_BYTES], peers[PEERS_BYTES_MAX + 1];
    char warnings[WARNINGS_MAX][400];
    unsigned warning_count;
    struct cli *cli;
};

static void warn(struct plan *p, const char *format, ...) PRINTF_LIKE(2, 3);
static void warn(struct plan *p, const char *format, ...) {
    va_list args;
    check(p->warning_count < WARNINGS_MAX);
    va_start(args, format);
    vsnprintf(p->warnings[p->warning_count++], sizeof p->warnings[0], format, args);
    va_end(args);
}

/* ---- what is given */

static bool is_host_name(const char *s) {
    bool letter = false;
    for (const char *c = s; *c; c++) {
        bool alpha = (*c >= 'a' && *c <= 'z') || (*c >= 'A' && *c <= 'Z');
        if (!alpha && !(*c >= '0' && *c <= '9') && *c != '-' && *c != '.' && *c != '_') return false;
        letter |= alpha;
    }
    return letter && *s != '-' && *s != '.';
}

static bool is_ipv4(const char *s) {
    unsigned a, b, c, d;
    int end = 0;
    return sscanf(s, "%3u.%3u.%3u.%3u%n", &a, &b, &c, &d, &end) == 4 && !s[end] && strspn(s, "0123456789.") == strlen(s) && a < 256 && b < 256 && c < 256 && d < 256;
}

static bool is_ipv6(const char *s) {
    size_t n = strlen(s), inner = n > 2 ? strspn(s + 1, "0123456789abcdefABCDEF:.") : 0;
    return n > 3 && s[0] == '[' && s[n - 1] == ']' && inner == n - 2 && strchr(s, ':');
}

static bool is_everywhere(const char *host) { return strcmp(host, "0.0.0.0") == 0 || (host[0] == '[' && strspn(host + 1, "0:") == strlen(host) - 2); }
static bool is_loopback(const char *host) { return strncmp(host, "127.", 4) == 0 || strcmp(host, "[::1]") == 0 || strcmp(host, "localhost") == 0; }

/* ":7401" at the end of host, which is cut off there; brackets keep the colons of an IPv6 address. */
static bool take_port(char *host, unsigned *port) {
    char *colon = strrchr(host, ':'), *bracket = strrchr(host, ']'), *end;
    *port = PEER_PORT;
    if (!colon || (bracket && colon < bracket)) return true;
    unsigned long n = strtoul(colon + 1, &end, 10);
    *colon = 0;
    *port = (unsigned)n;
    return colon[1] >= '0' && colon[1] <= '9' && !*end && n >= 2 && n <= 65534;
}

static enum cli_exit read_founder(struct plan *p, const char *text) {
    struct founder *f = &p->founders[p->count++];
    char host[256], *end;
    errno = 0;
    f->id = strtoull(text, &end, 10);
    if (*text < '1' || *text > '9' || errno || *end != '=' || f->id > ID_MAX) return cli_usage(p->cli, "\"%.80s\" is not ID=HOST[:PORT][@ZONE], ID from 1 to %d", text, ID_MAX);
    const char *at = strchr(end + 1, '@'), *zone = at ? at + 1 : "";
    size_t n = at ? (size_t)(at - end - 1) : strlen(end + 1);
    if (n >= sizeof host) return cli_usage(p->cli, "node %llu: the host has %zu bytes", (unsigned long long)f->id, n);
    memcpy(host, end + 1, n);
    host[n] = 0;
    if (*host != '[' && strchr(host, ':') != strrchr(host, ':')) return cli_usage(p->cli, "node %llu: put an IPv6 address in brackets, [fd00::1]:%d, not \"%.80s\"", (unsigned long long)f->id, PEER_PORT, host);
    if (!take_port(host, &f->port)) return cli_usage(p->cli, "node %llu: PORT is 2 to 65534, since clients come to the one below it, and operations are at the one above", (unsigned long long)f->id);
    if (strlen(host) > ADDRESS_BYTES_MAX - sizeof ":65535" + 1) return cli_usage(p->cli, "node %llu: HOST has %zu bytes, at most %zu", (unsigned long long)f->id, strlen(host), ADDRESS_BYTES_MAX - sizeof ":65535" + 1);
    memcpy(f->host, host, strlen(host) + 1);
    bool name = is_host_name(host);
    f->is_name = name && strcmp(host, "localhost") != 0;
    if (!name && !is_ipv4(host) && !is_ipv6(host)) return cli_usage(p->cli, "node %llu: HOST is a name or an address, IPv6 in brackets, not \"%.80s\"", (unsigned long long)f->id, host);
    if (is_everywhere(host)) return cli_usage(p->cli, "node %llu: %s is where a node listens, not where others reach it", (unsigned long long)f->id, host);
    if (at && !*zone) return cli_usage(p->cli, "node %llu: no zone behind the @", (unsigned long long)f->id);
    if (strlen(zone) > ZONE_BYTES_MAX) return cli_usage(p->cli, "node %llu: the zone has %zu bytes, at most %d", (unsigned long long)f->id, strlen(zone), ZONE_BYTES_MAX);
    for (const char *z = zone; *z; z++)
        if (*z < 0x21 || *z > 0x7e || strchr("@'\"\\", *z)) return cli_usage(p->cli, "node %llu: a zone has letters, digits and signs but @ and quotes", (unsigned long long)f->id);
    memcpy(f->zone, zone, strlen(zone) + 1);
    return CLI_OK;
}

static enum cli_exit compare_founders(struct plan *p) {
    unsigned local = 0;
    for (unsigned i = 0; i < p->count; i++) {
        struct founder *f = &p->founders[i];
        local += is_loopback(f->host);
        for (unsigned k = 0; k < i; k++) {
            struct founder *g = &p->founders[k];
            if (g->id == f->id) return cli_usage(p->cli, "node %llu is there twice", (unsigned long long)f->id);
            if (strcmp(g->host, f->host) != 0) continue;
            f->shares_host = g->shares_host = true;
            if (f->port < g->port + PORTS_OF_NODE && g->port < f->port + PORTS_OF_NODE)
                return cli_usage(p->cli, "nodes %llu and %llu on %s: a node has three ports, %u to %u and %u to %u overlap", (unsigned long long)g->id, (unsigned long long)f->id, f->host, g->port - 1, g->port + 1, f->port - 1,
                                 f->port + 1);
        }
    }
    if (local && local < p->count) return cli_usage(p->cli, "some nodes are on loopback, where those elsewhere cannot reach them: give the addresses of their networks");
    return CLI_OK;
}

static enum cli_exit read_shape(struct plan *p) {
    long cpus = sysconf(_SC_NPROCESSORS_ONLN);
    if (init.replicas < 1 || init.replicas > REPLICAS_MAX) return cli_usage(p->cli, "--replicas is 1 to %d, not %lld", REPLICAS_MAX, (long long)init.replicas);
    if (init.cores < 0 || init.cores > CORES_MAX) return cli_usage(p->cli, "--cores is 1 to %d, not %lld", CORES_MAX, (long long)init.cores);
    p->cores = init.cores ? init.cores : MIN_OF(MAX_OF(cpus, 1), (long)CORES_MAX);
    if (init.partitions < 0 || init.partitions > PARTITIONS_MAX) return cli_usage(p->cli, "--partitions is 1 to %d, not %lld", PARTITIONS_MAX, (long long)init.partitions);
    /* Partition p should be led by the node at place p mod n: a multiple gives each as many. */
    p->partitions = init.partitions ? init.partitions : (2 * p->cores + p->count - 1) / p->count * p->count;
    if (p->partitions < p->cores) return cli_usage(p->cli, "--partitions %lld is less than --cores %lld: some would have nothing to do", (long long)p->partitions, (long long)p->cores);
    return CLI_OK;
}

/* ---- what is told of it */

static unsigned zones_of(const struct plan *p) {
    unsigned n = 0;
    for (unsigned i = 0, k; i < p->count; i++) {
        for (k = 0; k < i && strcmp(p->founders[k].zone, p->founders[i].zone) != 0; k++) {}
        n += k == i && *p->founders[i].zone;
    }
    return n;
}

/* The nodes of a zone, "1 and 3"; false: fewer than two, or told before. */
static bool zone_mates(const struct plan *p, unsigned at, char out[64]) {
    size_t n = 0;
    unsigned count = 0;
    for (unsigned i = 0; i < p->count; i++) {
        if (strcmp(p->founders[i].zone, p->founders[at].zone) != 0) continue;
        if (i < at) return false;
        n += (size_t)snprintf(out + n, 64 - n, "%s%llu", count++ ? " and " : "", (unsigned long long)p->founders[i].id);
    }
    return count > 1;
}

static void find_warnings(struct plan *p) {
    unsigned holders = MIN_OF(p->count, (unsigned)init.replicas), zones = zones_of(p), without = 0;
    char mates[64];
    for (unsigned i = 0; i < p->count; i++) {
        if (!*p->founders[i].zone) without++;
        else if (zone_mates(p, i, mates)) warn(p, "nodes %s share zone %s, and may be lost together", mates, p->founders[i].zone);
    }
    if (without && p->count > 1) warn(p, "%u of %u nodes have no @ZONE: replicas cannot be kept apart by it", without, p->count);
    if (p->count == 1) warn(p, "one node: no second copy of anything until others join");
    else if (holders == 2) warn(p, "two replicas need each other: with either down nothing is written; three go on without one");
    else if (holders % 2 == 0) warn(p, "%u replicas go on without %u, as %u would: an even number gains nothing", holders, (holders - 1) / 2, holders - 1);
    else if (holders == 1) warn(p, "--replicas 1: no second copy of any order");
    if (zones > 1 && zones < holders && holders > 2) warn(p, "%u zones for %u replicas: the loss of one zone may take a majority away", zones, holders);
    if (p->count > 2 && p->count % 2 == 0) warn(p, "the meta partition is on all %u nodes, and goes on without %u, as with one node less", p->count, (p->count - 1) / 2);
    if ((unsigned)init.replicas > p->count && p->count > 1) warn(p, "--replicas %lld and %u nodes: each partition is on all of them until more join", (long long)init.replicas, p->count);
    if (p->partitions % p->count) warn(p, "%lld partitions are no multiple of %u nodes: some lead more than others", (long long)p->partitions, p->count);
}

/* ---- what each node is started with */

static void add(struct setting *s, unsigned *n, const char *name, const char *format, ...) PRINTF_LIKE(4, 5);
static void add(struct setting *s, unsigned *n, const char *name, const char *format, ...) {
    va_list args;
    check(*n < SETTINGS_MAX);
    s[*n].name = name;
    va_start(args, format);
    vsnprintf(s[*n].value, SETTING_BYTES, format, args);
    va_end(args);
    ++*n;
}

static unsigned settings_of(const struct plan *p, const struct founder *f, struct setting s[SETTINGS_MAX]) {
    const char *data = init.data_dir ? init.data_dir : "./data", *host = f->is_name ? "" : f->host;
    unsigned n = 0;
    if (f->shares_host) add(s, &n, "data-dir", "%s-%llu", data, (unsigned long long)f->id);
    else add(s, &n, "data-dir", "%s", data);
    add(s, &n, "node-id", "%llu", (unsigned long long)f->id);
    if (*f->zone) add(s, &n, "zone", "%s", f->zone);
    add(s, &n, "peers", "%s", p->peers);
    add(s, &n, "cluster-key-file", "%s", p->key);
    add(s, &n, "listen", "%s:%u", host, f->port - 1);
    add(s, &n, "peer-listen", "%s:%u", host, f->port);
    add(s, &n, "http-listen", "127.0.0.1:%u", f->port + 1);
    if (f->is_name) add(s, &n, "advertise", "%s:%u", f->host, f->port - 1); /* bound by name it might be found on loopback */
    add(s, &n, "replicas", "%lld", (long long)init.replicas);
    add(s, &n, "cores", "%lld", (long long)p->cores);
    add(s, &n, "partitions", "%lld", (long long)p->partitions);
    return n;
}

/* As a word of a shell. */
static void print_word(const char *s) {
    if (*s && !s[strspn(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789./:,=_@%+-")]) return (void)fputs(s, stdout);
    putchar('\'');
    for (; *s; s++) *s == '\'' ? (void)fputs("'\\''", stdout) : (void)putchar(*s);
    putchar('\'');
}

static size_t word_width(const char *s) { return strlen(s) + 2; }

static void print_node(const struct plan *p, const struct founder *f) {
    struct setting s[SETTINGS_MAX];
    unsigned n = settings_of(p, f, s);
    size_t at = sizeof "  orderd" - 1;
    printf("\nnode %llu, on %s%s%s:\n  orderd", (unsigned long long)f->id, f->host, *f->zone ? ", zone " : "", f->zone);
    if (init.out) {
        fputs(" --config ", stdout);
        print_word(p->confs[f - p->founders]);
        putchar('\n');
        return;
    }
    for (unsigned i = 0; i < n; i++) {
        size_t width = sizeof " --" + strlen(s[i].name) + word_width(s[i].value);
        if (at + width > TABLE_WIDTH - 2) fputs(" \\\n   ", stdout), at = 3;
        printf(" --%s ", s[i].name);
        print_word(s[i].value);
        at += width;
    }
    putchar('\n');
}

/* ---- files */

static enum cli_exit fail(const struct plan *p, const char *path, const char *what, int err) {
    fprintf(stderr, "orderctl %s: %s%s%s%s\n", p->cli->command, path, what, err ? ": " : "", err ? strerror(err) : "");
    return CLI_REFUSED;
}

/* A new file alone, whole and on the disk, or none. */
static enum cli_exit write_new(const struct plan *p, const char *path, const char *text, size_t len) {
    int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (fd < 0 && errno == EEXIST) return fail(p, path, " is there already, and is not overwritten: nothing more was written", 0);
    if (fd < 0) return fail(p, path, " cannot be made", errno);
    ssize_t n = write(fd, text, len);
    int err = n < 0 ? errno : (size_t)n < len ? ENOSPC : fsync(fd) != 0 ? errno : 0;
    if (close(fd) != 0 && !err) err = errno;
    if (!err) return CLI_OK;
    unlink(path);
    return fail(p, path, " cannot be written", err);
}

static enum cli_exit write_key(const struct plan *p) {
    uint8_t secret[KEY_BYTES];
    char text[2 * KEY_BYTES + 2];
    random_bytes(secret, sizeof secret);
    for (unsigned i = 0; i < KEY_BYTES; i++) snprintf(text + (size_t)2 * i, 3, "%02x", secret[i]);
    memcpy(text + 2 * KEY_BYTES, "\n", 2);
    return write_new(p, p->key, text, sizeof text - 1);
}

static enum cli_exit write_conf(const struct plan *p, unsigned at) {
    const struct founder *f = &p->founders[at];
    struct setting s[SETTINGS_MAX];
    struct buf b = {0};
    char line[SETTING_BYTES + 64];
    unsigned n = settings_of(p, f, s);
    snprintf(line, sizeof line, "# orderd --config FILE: node %llu, made by orderctl cluster init\n", (unsigned long long)f->id);
    bool ok = buf_append(&b, slice_str(line));
    for (unsigned i = 0; i < n; i++) {
        snprintf(line, sizeof line, "%s = %s\n", s[i].name, s[i].value);
        ok = ok && buf_append(&b, slice_str(line));
    }
    enum cli_exit e = ok ? write_new(p, p->confs[at], (const char *)b.data, b.len) : cli_no_memory();
    buf_fini(&b);
    return e;
}

static enum cli_exit name_files(struct plan *p) {
    const char *key = init.key ? init.key : "cluster.key", *dir = init.out && !init.key ? init.out : "", *slash = *dir ? "/" : "";
    const char *texts[] = {init.out, init.key, init.data_dir};
    for (unsigned i = 0; i < ARRAY_LEN(texts); i++) {
        const char *t = texts[i];
        if (!t) continue;
        if (!*t || strlen(t) > PATH_BYTES - 64) return cli_usage(p->cli, "a path has 1 to %d bytes", PATH_BYTES - 64);
        if (strpbrk(t, "\r\n") || t[0] == ' ' || t[strlen(t) - 1] == ' ') return cli_usage(p->cli, "a path with line ends, or with blanks at its ends, cannot be in a file of settings");
    }
    snprintf(p->key, sizeof p->key, "%s%s%s", dir, slash, key);
    for (unsigned i = 0; init.out && i < p->count; i++) snprintf(p->confs[i], PATH_BYTES, "%s/node-%llu.conf", init.out, (unsigned long long)p->founders[i].id);
    size_t n = 0;
    for (unsigned i = 0; i < p->count; i++)
        n += (size_t)snprintf(p->peers + MIN_OF(n, sizeof p->peers), sizeof p->peers - MIN_OF(n, sizeof p->peers), "%s%llu=%s:%u", i ? "," : "", (unsigned long long)p->founders[i].id, p->founders[i].host, p->founders[i].port);
    return n > PEERS_BYTES_MAX ? cli_usage(p->cli, "--peers would have %zu bytes, at most %d", n, PEERS_BYTES_MAX) : CLI_OK;
}

static enum cli_exit write_all(const struct plan *p) {
    /* Looked at first, so that a second run with the same names changes nothing; O_EXCL has the last word. */
    if (access(p->key, F_OK) == 0) return fail(p, p->key, " is there already, and a key is never overwritten: --key for another file, --dry-run to write nothing", 0);
    for (unsigned i = 0; init.out && i < p->count; i++)
        if (access(p->confs[i], F_OK) == 0) return fail(p, p->confs[i], " is there already, and is not overwritten: --out for another directory", 0);
    if (init.out && mkdir(init.out, 0700) != 0 && errno != EEXIST) return fail(p, init.out, " cannot be made", errno);
    enum cli_exit e = write_key(p);
    for (unsigned i = 0; !e && init.out && i < p->count; i++) e = write_conf(p, i);
    return e;
}

static void print_all(const struct plan *p) {
    char line[PATH_BYTES + 200], servers[1024] = "";
    size_t n = 0;
    snprintf(line, sizeof line, "%s the key of the cluster: %s. Copy it to every node, as the user that runs orderd, and to nobody else.", init.dry_run ? "Would be" : "New:", p->key);
    text_fold(stdout, line, 0, 0);
    for (unsigned i = 0; i < p->count; i++) print_node(p, &p->founders[i]);
    putchar('\n');
    for (unsigned i = 0; i < p->warning_count; i++) {
        fputs("warning: ", stdout);
        text_fold(stdout, p->warnings[i], sizeof "warning: " - 1, 2);
    }
    if (p->warning_count) putchar('\n');
    text_fold(stdout, "--cores and --partitions are the same on all nodes, and fixed at their first start. Start all nodes, in any order: each says ready when all have come. Between them is cleartext unless they have --peer-tls-cert. Then:", 0, 0);
    for (unsigned i = 0; i < p->count; i++) n += (size_t)snprintf(servers + n, sizeof servers - n, "%s%s:%u", i ? "," : "", p->founders[i].host, p->founders[i].port - 1);
    printf("  orderctl cluster status --server %s\n", servers);
}

enum cli_exit cluster_init_run(struct cli *cli, int argc, char **argv) {
    static struct plan p; /* large */
    p.cli = cli;
    if (cli->json) return cli_usage(cli, "--output %s is not for init: --out DIR writes files that orderd reads", cli->output);
    for (int i = 0; i < argc; i++) {
        enum cli_exit e = read_founder(&p, argv[i]);
        if (e) return e;
    }
    enum cli_exit e = compare_founders(&p);
    if (!e) e = read_shape(&p);
    if (!e) e = name_files(&p);
    if (e) return e;
    find_warnings(&p);
    if (!init.dry_run && (e = write_all(&p))) return e;
    print_all(&p);
    return CLI_OK;
}

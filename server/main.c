/* orderd: reads its settings, starts the node, waits for signals, drains. */
#include <errno.h>
#include <protobuf-c/protobuf-c.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "proto/base/hash.h"
#include "server/conn.h"
#include "server/h2.h"
#include "server/node.h"
#include "server/recovery.h"

enum { EXIT_REFUSED = 1, EXIT_USAGE = 2 };

static void print_version(void) {
    struct utsname u;
    uname(&u);
    printf("orderd %s\nnghttp2 %s\nprotobuf-c %s\n%s\nkernel %s\n", ORDERDB_VERSION, h2_library_version() ? h2_library_version() : "older than 1.52.0", protobuf_c_version(), hash_library_version(), u.release);
}

static int refuse(int code, const char *text) {
    fprintf(stderr, "orderd: %s\n", text);
    return code;
}

/* Each connection and each RocksDB table is a descriptor; the soft limit of a login shell is 1024. */
static void raise_file_limit(const struct config *c) {
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) != 0) return;
    limit.rlim_cur = limit.rlim_max;
    (void)setrlimit(RLIMIT_NOFILE, &limit);
    if (limit.rlim_max < c->connections_max + 1024) log_warn("few file descriptors", "limit=%lu connections-max=%lu", (unsigned long)limit.rlim_max, c->connections_max);
}

/* All threads inherit the mask: only the main thread takes signals, by waiting for them. */
static void block_signals(sigset_t *set) {
    sigemptyset(set);
    sigaddset(set, SIGTERM);
    sigaddset(set, SIGINT);
    sigaddset(set, SIGHUP);
    sigaddset(set, NODE_SIGNAL);
    pthread_sigmask(SIG_BLOCK, set, NULL);
    signal(SIGPIPE, SIG_IGN);
}

static void say_ready(const struct node *node) {
    char text[512];
    node_describe(node, text);
    printf("ready %s\n", text);
    fflush(stdout);
    log_info("ready", "version=%s %s", ORDERDB_VERSION, text);
}

/* As the signal would have ended us had we not waited for it: who started us sees which. */
static void die_of(int sig) {
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, sig);
    signal(sig, SIG_DFL);
    pthread_sigmask(SIG_UNBLOCK, &set, NULL);
    raise(sig);
}

/* Until the node has ended; the exit code. */
static int run(struct node *node, const sigset_t *signals) {
    bool said = false, draining = false;
    for (;;) {
        int sig = 0;
        if (sigwait(signals, &sig) != 0) continue;
        enum node_now now = node_state_now(node);
        if (sig == SIGHUP && node_has_tls(node)) {
            if (now == NODE_SERVING) node_reload(node);
            continue;
        } /* without TLS there is nothing to read again: the terminal has gone */
        if (sig != NODE_SIGNAL) {
            log_info("signal", "number=%d", sig);
            if (draining) die_of(sig);          /* a second one: at once */
            if (now == NODE_STARTING) _exit(0); /* nothing was acknowledged; the next start replays the log as this one did */
            draining = true;
            if (now == NODE_SERVING) node_drain(node);
            continue;
        }
        if (now == NODE_FAILED) return fprintf(stderr, "orderd: %s\n", node_error(node)), fflush(NULL), _exit(EXIT_REFUSED), EXIT_REFUSED;
        if (now == NODE_SERVING && !said) say_ready(node), said = true;
        if (now == NODE_LEFT) log_info("stopped", "unfinished work was left, nothing acknowledged is lost"), _exit(0);
        if (now != NODE_STOPPED) continue;
        node_close(node);
        log_info("stopped", "drained");
        return 0;
    }
}

/* A full disk under stdout is no success. */
static int printed(void) {
    if (fflush(stdout) == 0 && !ferror(stdout)) return 0;
    fprintf(stderr, "orderd: cannot write the output: %s\n", strerror(errno));
    return EXIT_REFUSED;
}

int main(int argc, char *argv[]) {
    static struct config config;
    static struct node node;
    char error[512];
    sigset_t signals;
    if (argc > 1 && strcmp(argv[1], "recover") == 0) return recovery_main(argc - 1, argv + 1);
    switch (config_parse(&config, argc, argv, error)) {
    case CONFIG_HELP: return config_print_help(stdout), printed();
    case CONFIG_VERSION: return print_version(), printed();
    case CONFIG_REFUSED: return refuse(EXIT_USAGE, error);
    case CONFIG_RUN: break;
    }
    if (!h2_library_version()) return refuse(EXIT_REFUSED, "libnghttp2 is older than 1.52.0: it lacks fixes for attacks on HTTP/2");
    log_set_level(config.log_level);
    umask(077);
    block_signals(&signals);
    raise_file_limit(&config);
    /* Threads may run already: no exit handlers. */
    if (node_start(&node, &config, &conn_hooks, error)) refuse(EXIT_REFUSED, error), fflush(NULL), _exit(EXIT_REFUSED);
    return run(&node, &signals);
}

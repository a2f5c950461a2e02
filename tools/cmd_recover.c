/* orderctl recover: a node that has lost the majority of its cluster goes on alone. The work is in orderd, which has the code of logs and stores (server/recovery.h); it stands beside orderctl. */
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "tools/cli.h"

enum { SURVIVORS_MAX = 16 }; /* orderd's (server/survivors.h) */

static struct {
    const char *data_dir, *begin_empty, *orderd;
    bool is_unsafe, sure, dry_run, inspects, compares;
} recover;

static const struct arg recover_flags[] = {
    {"--data-dir", NULL, ARG_TEXT, &recover.data_dir, "DIR", "the node's; it must be stopped"},
    {"--dry-run", NULL, ARG_SWITCH, &recover.dry_run, NULL, "tell what there is and what may be lost (the default)"},
    {"--inspect", NULL, ARG_SWITCH, &recover.inspects, NULL, "tell what there is, for --compare on another machine"},
    {"--compare", NULL, ARG_SWITCH, &recover.compares, NULL, "of several nodes that are left: who is furthest, and what each lacks; of files that --inspect wrote, or data directories"},
    {"--unsafe", NULL, ARG_SWITCH, &recover.is_unsafe, NULL, "do it, when you have typed that you mean it"},
    {"--begin-empty", NULL, ARG_TEXT, &recover.begin_empty, "PARTITIONS", "with --unsafe: those that the node does not hold, each of them (1,4-6): their orders are lost, they begin anew"},
    {"--yes", NULL, ARG_SWITCH, &recover.sure, NULL, "without asking"},
    {"--orderd", NULL, ARG_TEXT, &recover.orderd, "FILE", "the server's program, of the version that ran (default: beside orderctl)"},
    {NULL},
};
static const char recover_text[] =
    "Offline, on the machine of a stopped node, as the user that owns its data directory: for a cluster that has lost the majority of its nodes for good. Without --unsafe it tells what the directory "
    "holds and what may be lost.\n\nWith it the node is made the only voter of all its partitions, in a cluster of its own: what it had is served again, what it did not have is gone, and the other "
    "nodes of the old cluster are refused. Partitions that were on other nodes alone are lost with them: they begin anew, empty, and --begin-empty must name each, which is told before. Bring nodes back instead, if a majority can be brought back. Killed half-way, it is run again.\n\n"
    "Of several nodes that are left one goes on: --inspect at each, and --compare of what they wrote says which, by partition, and what is lost with another.\n\n"
    "Examples:\n"
    "  orderctl recover --data-dir /var/lib/orderdb\n"
    "  orderctl recover --data-dir /var/lib/orderdb --inspect > node-2.survivor\n"
    "  orderctl recover --compare node-2.survivor node-3.survivor\n"
    "  orderctl recover --data-dir /var/lib/orderdb --unsafe\n"
    "  orderctl recover --data-dir /var/lib/orderdb --unsafe --begin-empty 1,4-6\n";

/* "/usr/bin/orderd" of "/usr/bin/orderctl"; false: it is not there. */
static bool beside(char path[PATH_MAX]) {
    ssize_t n = readlink("/proc/self/exe", path, PATH_MAX - 1);
    if (n <= 0) return false;
    path[n] = 0;
    char *name = strrchr(path, '/');
    if (!name || name - path + sizeof "/orderd" > PATH_MAX) return false;
    memcpy(name, "/orderd", sizeof "/orderd");
    return access(path, X_OK) == 0;
}

static enum cli_exit recover_run(struct cli *cli, int argc, char **argv) {
    char path[PATH_MAX];
    if (recover.compares && (recover.data_dir || recover.is_unsafe || recover.inspects)) return cli_usage(cli, "--compare FILE|DIR...: it goes with no other flag of recover");
    if (recover.compares ? argc < 1 : argc > 0) return cli_usage(cli, recover.compares ? "--compare needs what --inspect wrote, of each node that is left" : "what is \"%.80s\"? The directory is --data-dir", argv[0]);
    if (!recover.compares && !recover.data_dir) return cli_usage(cli, "--data-dir is missing: the node's data directory");
    if (recover.is_unsafe && recover.dry_run) return cli_usage(cli, "--dry-run and --unsafe: one of them");
    if (recover.is_unsafe && recover.inspects) return cli_usage(cli, "--inspect and --unsafe: one of them");
    if (recover.sure && !recover.is_unsafe) return cli_usage(cli, "--yes goes with --unsafe");
    if (recover.begin_empty && !recover.is_unsafe) return cli_usage(cli, "--begin-empty goes with --unsafe");
    if (cli->json) return cli_usage(cli, "--output %s is not for recover", cli->output);
    const char *program = recover.orderd ? recover.orderd : beside(path) ? path : "orderd";
    const char *words[10 + SURVIVORS_MAX] = {"orderd", "recover"};
    unsigned n = 2;
    if (recover.data_dir) words[n++] = "--data-dir", words[n++] = recover.data_dir;
    if (recover.inspects) words[n++] = "--inspect";
    if (recover.compares) words[n++] = "--compare", words[n++] = "--";
    for (int i = 0; i < argc; i++) words[n++] = argv[i];
    if (recover.is_unsafe) words[n++] = "--unsafe";
    if (recover.begin_empty) words[n++] = "--begin-empty", words[n++] = recover.begin_empty;
    if (recover.sure) words[n++] = "--yes";
    execvp(program, (char *const *)words);
    fprintf(stderr, "orderctl: %s cannot be run: %s (--orderd says where it is)\n", program, strerror(errno));
    return CLI_USAGE;
}

const struct cli_command recover_commands[] = {
    {"recover", "", "[FILE|DIR...]", "a stopped node goes on alone, when a majority is lost for good", recover_text, recover_flags, 0, SURVIVORS_MAX, recover_run},
    {NULL},
};

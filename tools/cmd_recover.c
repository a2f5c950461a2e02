/* orderctl recover: a node that has lost the majority of its cluster goes on alone. The work is in orderd, which has the code of logs and stores (server/recovery.h); it stands beside orderctl. */
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "tools/cli.h"

static struct {
    const char *data_dir, *begin_empty, *orderd;
    bool is_unsafe, sure, dry_run;
} recover;

static const struct arg recover_flags[] = {
    {"--data-dir", NULL, ARG_TEXT, &recover.data_dir, "DIR", "the node's; it must be stopped"},
    {"--dry-run", NULL, ARG_SWITCH, &recover.dry_run, NULL, "tell what there is and what may be lost (the default)"},
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
    "Examples:\n"
    "  orderctl recover --data-dir /var/lib/orderdb\n"
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
    if (!recover.data_dir) return cli_usage(cli, "--data-dir is missing: the node's data directory");
    if (recover.is_unsafe && recover.dry_run) return cli_usage(cli, "--dry-run and --unsafe: one of them");
    if (recover.sure && !recover.is_unsafe) return cli_usage(cli, "--yes goes with --unsafe");
    if (recover.begin_empty && !recover.is_unsafe) return cli_usage(cli, "--begin-empty goes with --unsafe");
    if (cli->json) return cli_usage(cli, "--output %s is not for recover", cli->output);
    const char *program = recover.orderd ? recover.orderd : beside(path) ? path : "orderd";
    const char *words[10] = {"orderd", "recover", "--data-dir", recover.data_dir};
    unsigned n = 4;
    if (recover.is_unsafe) words[n++] = "--unsafe";
    if (recover.begin_empty) words[n++] = "--begin-empty", words[n++] = recover.begin_empty;
    if (recover.sure) words[n++] = "--yes";
    execvp(program, (char *const *)words);
    fprintf(stderr, "orderctl: %s cannot be run: %s (--orderd says where it is)\n", program, strerror(errno));
    return CLI_USAGE;
}

const struct cli_command recover_commands[] = {
    {"recover", "", "", "a stopped node goes on alone, when a majority is lost for good", recover_text, recover_flags, 0, 0, recover_run},
    {NULL},
};

/* orderctl cluster init: what the founders of a new cluster are to be started with. Offline: it asks nobody, and writes a key and, if wanted, a file of settings for each node; none is ever
 * overwritten. What orderd would refuse later, on another machine, is refused here (server/cluster.c reads --peers). */
#ifndef TOOLS_CLUSTER_INIT_H
#define TOOLS_CLUSTER_INIT_H

#include "tools/cli.h"

extern const struct arg cluster_init_flags[];
extern const char cluster_init_text[];
enum { CLUSTER_FOUNDERS_MAX = 7 };
enum cli_exit cluster_init_run(struct cli *cli, int argc, char **argv);

#endif

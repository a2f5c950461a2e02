/* `orderctl order batch-create` and `batch-transition`: rows of the order family in a file of their own. */
#ifndef TOOLS_CMD_BATCH_H
#define TOOLS_CMD_BATCH_H

#include "tools/cli.h"

enum { CMD_BATCH_MAX = 1000 }; /* of one call; docs/API.md, "Batches" */
extern const struct arg cmd_batch_create_flags[], cmd_batch_transition_flags[];
extern const char cmd_batch_create_text[], cmd_batch_transition_text[];
enum cli_exit cmd_batch_create_run(struct cli *cli, int argc, char **argv);
enum cli_exit cmd_batch_transition_run(struct cli *cli, int argc, char **argv);

#endif

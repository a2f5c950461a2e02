/* `orderctl order import`: the row of the order family that fills a file of its own. */
#ifndef TOOLS_CMD_IMPORT_H
#define TOOLS_CMD_IMPORT_H

#include "tools/cli.h"

extern const struct arg cmd_import_flags[];
extern const char cmd_import_text[];
enum cli_exit cmd_import_run(struct cli *cli, int argc, char **argv);

#endif

/* `orderctl order verify`: the row of the order family that fills a file of its own. */
#ifndef TOOLS_CMD_VERIFY_H
#define TOOLS_CMD_VERIFY_H

#include "tools/cli.h"

enum { CMD_VERIFY_ORDERS_MAX = 100000 };
extern const struct arg cmd_verify_flags[];
extern const char cmd_verify_text[];
enum cli_exit cmd_verify_run(struct cli *cli, int argc, char **argv);

#endif

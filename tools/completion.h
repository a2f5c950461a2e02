/* Completion for shells, made from the tables that orderctl itself reads: a new command or flag is completed without a word here. */
#ifndef TOOLS_COMPLETION_H
#define TOOLS_COMPLETION_H

#include <stdio.h>

#include "tools/cli.h"

/* A bash script that defines and registers the completion of `orderctl`. families: count tables, each ending with family NULL. */
void completion_print_bash(FILE *out, const struct cli_command *const *families, size_t count, const struct arg *global_flags);

#endif

/* Command lines: flags from a table, what is left are operands. "--flag value" and "--flag=value"; "--" ends the flags; "-" is an operand. */
#ifndef TOOLS_ARGS_H
#define TOOLS_ARGS_H

#include "proto/base/base.h"

enum arg_kind { ARG_TEXT, ARG_NUMBER, ARG_SWITCH, ARG_MANY };
enum { ARGS_MANY_MAX = 512, ARGS_ERROR_BYTES = 200 };

struct args_many {
    size_t count;
    const char *values[ARGS_MANY_MAX];
};
struct arg {
    const char *name;  /* "--server"; a table ends with NULL */
    const char *short_name; /* "-o"; NULL: none */
    enum arg_kind kind;
    void *out;         /* const char *, int64_t, bool, struct args_many */
    const char *value; /* "HOST:PORT", for help */
    const char *help;
};

/* Takes flags of either table (the second one's win) out of argv[0..argc); operands are moved to its front. Stops at the first operand
 * where stop is set (the rest stays behind it). Returns how many are left, -1: error says why. */
int args_parse(const struct arg *const tables[2], int argc, char **argv, bool stop, char error[ARGS_ERROR_BYTES]);
void args_print_help(const struct arg *table);

#endif

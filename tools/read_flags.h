/* What a read may be satisfied with, from the command line, and the token of a write, which one of these flags takes. */
#ifndef TOOLS_READ_FLAGS_H
#define TOOLS_READ_FLAGS_H

#include "tools/cli.h"

struct read_flags {
    struct args_many at_least; /* more than one is refused, not forgotten */
    const char *max_staleness;
    bool summary, full;
};

/* Rows of a table of flags; r: of static life. */
#define READ_FRESH_FLAGS(r) \
    {"--at-least", NULL, ARG_MANY, &(r).at_least, "SLOT:SEQ", "see the write with this token, from whatever node answers"}, \
    {"--max-staleness", NULL, ARG_TEXT, &(r).max_staleness, "TIME", "any node may answer that is no older than this: 0.5s, 5s, 1m"}
#define READ_SUMMARY_FLAG(r) {"--summary", NULL, ARG_SWITCH, &(r).summary, NULL, "without items, address and extension"}

/* NULL in *out: nothing was asked for. false: told. */
bool read_options(const struct cli *cli, struct arena *a, const struct read_flags *r, Orderdb__V1__ReadOptions **out);
/* "SLOT:SEQ", as --at-least takes it. */
enum { READ_TOKEN_BYTES = 32 };
void read_token_text(const Orderdb__V1__CommitToken *token, char out[READ_TOKEN_BYTES]);

#endif

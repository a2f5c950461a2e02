#include "tools/read_flags.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

void read_token_text(const Orderdb__V1__CommitToken *token, char out[READ_TOKEN_BYTES]) { snprintf(out, READ_TOKEN_BYTES, "%d:%lld", token->slot, (long long)token->seq); }

/* A number at the text's begin, which ends with `end`. */
static bool number_read(const char **text, char end, int64_t max, int64_t *out) {
    char *behind;
    errno = 0;
    *out = strtoll(*text, &behind, 10);
    bool ok = **text >= '0' && **text <= '9' && *behind == end && !errno && *out <= max;
    *text = behind + 1;
    return ok;
}

static bool token_read(const char *text, Orderdb__V1__CommitToken *t) {
    int64_t slot, seq;
    if (!number_read(&text, ':', INT32_MAX, &slot) || !number_read(&text, 0, INT64_MAX, &seq)) return false;
    return t->slot = (int32_t)slot, t->seq = seq, true;
}

static bool at_least_read(const struct cli *cli, struct arena *a, const struct args_many *given, Orderdb__V1__ReadOptions *o) {
    if (!given->count) return true;
    if (given->count > 1) return cli_usage(cli, "--at-least: a read takes one token, that of its own slot"), false;
    o->at_least = arena_new(a, Orderdb__V1__CommitToken);
    if (!o->at_least) return cli_no_memory(), false;
    orderdb__v1__commit_token__init(o->at_least);
    return token_read(given->values[0], o->at_least) || (cli_usage(cli, "--at-least: \"%s\" is not SLOT:SEQ, the token that a write prints", given->values[0]), false);
}

static bool max_staleness_read(const struct cli *cli, struct arena *a, const char *text, Orderdb__V1__ReadOptions *o) {
    if (!text) return true;
    o->max_staleness = cli_parse_duration(text, a);
    if (o->max_staleness && o->max_staleness->seconds >= 0 && o->max_staleness->nanos >= 0) return true;
    return cli_usage(cli, "--max-staleness: \"%s\" is no length of time: write 0.5s, 5s or 1m", text), false;
}

bool read_options(const struct cli *cli, struct arena *a, const struct read_flags *r, Orderdb__V1__ReadOptions **out) {
    *out = NULL;
    if (r->summary && r->full) return cli_usage(cli, "--summary and --full exclude each other"), false;
    if (!r->at_least.count && !r->max_staleness && !r->summary && !r->full) return true;
    Orderdb__V1__ReadOptions *o = arena_new(a, Orderdb__V1__ReadOptions);
    if (!o) return cli_no_memory(), false;
    orderdb__v1__read_options__init(o);
    if (r->summary) o->view = ORDERDB__V1__ORDER_VIEW__ORDER_VIEW_SUMMARY;
    if (r->full) o->view = ORDERDB__V1__ORDER_VIEW__ORDER_VIEW_FULL;
    *out = o;
    return at_least_read(cli, a, &r->at_least, o) && max_staleness_read(cli, a, r->max_staleness, o);
}

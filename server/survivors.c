#include "server/survivors.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/node_row.h"
#include "proto/base/mem.h"

static const char first_line[] = "orderdb survivor 1";

/* false: no memory. */
static bool say(struct buf *out, const char *format, ...) PRINTF_LIKE(2, 3);
static bool say(struct buf *out, const char *format, ...) {
    char text[SURVIVOR_LINE_BYTES + 1];
    va_list args;
    va_start(args, format);
    int n = vsnprintf(text, sizeof text, format, args);
    va_end(args);
    check(n >= 0 && (size_t)n < sizeof text);
    return buf_append(out, slice_of(text, (size_t)n));
}

static const char *name_of(const struct survivor *s, uint32_t at, char name[16]) {
    if (at == s->partitions) return "meta";
    snprintf(name, 16, "%u", at);
    return name;
}

static bool is_voter(const struct group_member *m) { return m->kind == GROUP_VOTER && m->node_id <= NODE_ID_MAX; }

/* ---- as text */

static void voters_text(const struct recover_replica *r, char out[64]) {
    size_t n = 0;
    static_assert(GROUP_MEMBERS_MAX * (7 + 1) <= 64 && NODE_ID_MAX < 10000000, "a number of seven digits and a comma each");
    strcpy(out, "-");
    for (uint32_t i = 0; i < r->members.count; i++)
        if (is_voter(&r->members.member[i])) n += (size_t)snprintf(out + n, 64 - n, "%s%" PRIu64, n ? "," : "", r->members.member[i].node_id);
}

static void replica_line(const struct survivor *s, uint32_t at, char line[SURVIVOR_LINE_BYTES]) {
    const struct recover_replica *r = &s->replicas[at];
    char name[16], voters[64];
    voters_text(r, voters);
    int n = snprintf(line, SURVIVOR_LINE_BYTES, "partition %s holds %d votes %d forgot %d alone %d applied %" PRIu64 ":%" PRIu64 " log %" PRIu64 ":%" PRIu64 " term %" PRIu64 " orders %" PRId64 " voters %s", name_of(s, at, name), r->holds, r->votes, r->forgot, r->alone,
                     r->applied_term, r->applied_index, r->last_term, r->last_index, r->term, r->orders, voters);
    check(n > 0 && n < SURVIVOR_LINE_BYTES);
}

static void head_line(const struct survivor *s, char line[SURVIVOR_LINE_BYTES]) {
    char id[2 * CLUSTER_ID_BYTES + 1];
    for (unsigned i = 0; i < CLUSTER_ID_BYTES; i++) snprintf(id + (size_t)2 * i, 3, "%02x", s->cluster_id[i]);
    snprintf(line, SURVIVOR_LINE_BYTES, "node %" PRIu64 " cores %u partitions %u cluster %s", s->node_id, s->cores, s->partitions, id);
}

bool survivor_print(const struct survivor *s, struct buf *out) {
    char line[SURVIVOR_LINE_BYTES];
    head_line(s, line);
    bool ok = say(out, "%s\n", first_line) && say(out, "%s\n", line);
    for (uint32_t i = 0; ok && i <= s->partitions; i++) replica_line(s, i, line), ok = say(out, "%s\n", line);
    return ok && say(out, "end\n");
}

/* The next line, without its end, into line[]; false: there is none, or it is too long. */
static bool next_line(struct slice *text, char line[SURVIVOR_LINE_BYTES]) {
    const uint8_t *nl = text->len ? memchr(text->data, '\n', text->len) : NULL;
    size_t n = nl ? (size_t)(nl - text->data) : 0;
    if (!nl || n >= SURVIVOR_LINE_BYTES || memchr(text->data, 0, n)) return false;
    memcpy(line, text->data, n);
    line[n] = 0;
    if (n && line[n - 1] == '\r') line[n - 1] = 0; /* it may have gone by mail */
    text->data += n + 1, text->len -= n + 1;
    return true;
}

static bool read_voters(struct recover_replica *r, const char *text) {
    if (strcmp(text, "-") == 0) return true;
    for (;;) {
        char *end;
        uint64_t id = strtoull(text, &end, 10);
        if (*text < '1' || *text > '9' || id > NODE_ID_MAX || r->members.count == GROUP_MEMBERS_MAX) return false;
        r->members.member[r->members.count++] = (struct group_member){.node_id = id, .kind = GROUP_VOTER};
        if (!*end) return true;
        if (*end != ',') return false;
        text = end + 1;
    }
}

/* A line is what would be printed of what it says, to the letter: sscanf() takes more than that. */
static bool read_replica(const struct survivor *s, uint32_t at, const char *line) {
    struct recover_replica *r = &s->replicas[at];
    char again[SURVIVOR_LINE_BYTES], voters[64];
    unsigned holds, votes, forgot, alone;
    int n = sscanf(line, "partition %*15s holds %1u votes %1u forgot %1u alone %1u applied %20" SCNu64 ":%20" SCNu64 " log %20" SCNu64 ":%20" SCNu64 " term %20" SCNu64 " orders %20" SCNd64 " voters %63s", &holds, &votes, &forgot, &alone,
                   &r->applied_term, &r->applied_index, &r->last_term, &r->last_index, &r->term, &r->orders, voters);
    if (n != 11 || !read_voters(r, voters)) return false;
    r->partition = at == s->partitions ? PARTITION_META : at;
    r->holds = holds == 1, r->votes = votes == 1, r->forgot = forgot == 1, r->alone = alone == 1;
    replica_line(s, at, again);
    return strcmp(line, again) == 0;
}

static bool read_head(struct survivor *s, const char *line) {
    char again[SURVIVOR_LINE_BYTES], id[2 * CLUSTER_ID_BYTES + 1] = "";
    if (sscanf(line, "node %20" SCNu64 " cores %10u partitions %10u cluster %32[0-9a-f]", &s->node_id, &s->cores, &s->partitions, id) != 4) return false;
    for (unsigned i = 0; i < CLUSTER_ID_BYTES; i++) {
        const char byte[3] = {id[2 * i], id[2 * i + 1]};
        s->cluster_id[i] = (uint8_t)strtoul(byte, NULL, 16);
    }
    head_line(s, again);
    return strcmp(line, again) == 0 && s->node_id >= 1 && s->node_id <= NODE_ID_MAX && s->partitions >= 1 && s->partitions <= SURVIVOR_PARTITIONS_MAX;
}

enum status survivor_parse(struct survivor *s, struct slice text, char error[256]) {
    char line[SURVIVOR_LINE_BYTES];
    *s = (struct survivor){0};
    if (!next_line(&text, line) || strcmp(line, first_line) != 0) return snprintf(error, 256, "line 1 is not '%s': not what recover --inspect prints, or of another version", first_line), STATUS_FIELD_INVALID;
    if (!next_line(&text, line) || !read_head(s, line)) return snprintf(error, 256, "line 2 is not that of a node"), STATUS_FIELD_INVALID;
    s->replicas = mem_zalloc((s->partitions + 1) * sizeof *s->replicas);
    if (!s->replicas) return snprintf(error, 256, "out of memory"), STATUS_MEMORY_LIMIT;
    for (uint32_t i = 0; i <= s->partitions; i++)
        if (!next_line(&text, line) || !read_replica(s, i, line)) return snprintf(error, 256, "line %u is not that of its partition", i + 3), STATUS_FIELD_INVALID;
    if (!next_line(&text, line) || strcmp(line, "end") != 0 || text.len) return snprintf(error, 256, "line %u is not the last one, 'end'", s->partitions + 4), STATUS_FIELD_INVALID;
    return STATUS_OK;
}

void survivor_fini(struct survivor *s) { mem_free(s->replicas); }

/* ---- who is further */

static int order_of(uint64_t a, uint64_t b) { return (a > b) - (a < b); }

/* Above 0: a is further than b. */
static int further(const struct recover_replica *a, const struct recover_replica *b) {
    if (a->holds != b->holds) return a->holds ? 1 : -1;
    if (a->forgot != b->forgot) return a->forgot ? -1 : 1;
    int by = order_of(a->last_term, b->last_term);
    return by ? by : order_of(a->last_index, b->last_index);
}

static bool is_furthest(const struct survivor *s, unsigned count, unsigned who, uint32_t at) {
    for (unsigned i = 0; i < count; i++)
        if (further(&s[i].replicas[at], &s[who].replicas[at]) > 0) return false;
    return s[who].replicas[at].holds;
}

static uint32_t furthest_count(const struct survivor *s, unsigned count, unsigned who) {
    uint32_t n = 0;
    for (uint32_t at = 0; at <= s->partitions; at++) n += is_furthest(s, count, who, at);
    return n;
}

unsigned survivors_best(const struct survivor *s, unsigned count) {
    unsigned best = 0;
    for (unsigned i = 1; i < count; i++) {
        int by = order_of(furthest_count(s, count, i), furthest_count(s, count, best));
        if (!by) by = is_furthest(s, count, i, s->partitions) - is_furthest(s, count, best, s->partitions);
        if (by > 0) best = i;
    }
    return best;
}

int survivors_furthest(const struct survivor *s, unsigned count, unsigned best, uint32_t at) {
    if (is_furthest(s, count, best, at)) return (int)best;
    for (unsigned i = 0; i < count; i++)
        if (is_furthest(s, count, i, at)) return (int)i;
    return -1;
}

/* ---- what is told */

static enum status of_one_cluster(const struct survivor *s, unsigned count, char error[256]) {
    for (unsigned i = 1; i < count; i++) {
        unsigned long long one = s[0].node_id, other = s[i].node_id;
        if (s[i].partitions != s[0].partitions || memcmp(s[i].cluster_id, s[0].cluster_id, CLUSTER_ID_BYTES) != 0)
            return snprintf(error, 256, "nodes %llu and %llu are not of one cluster, or one of them went on alone", one, other), STATUS_FIELD_INVALID;
        for (unsigned k = 0; k < i; k++)
            if (s[k].node_id == s[i].node_id) return snprintf(error, 256, "node %llu is there twice", other), STATUS_FIELD_INVALID;
    }
    return STATUS_OK;
}

static int cell_text(const struct survivor *s, unsigned count, unsigned k, uint32_t at, char out[64]) {
    const struct recover_replica *r = &s[k].replicas[at];
    if (!r->holds) return snprintf(out, 64, "-");
    return snprintf(out, 64, "%s%s%" PRIu64 ":%" PRIu64, is_furthest(s, count, k, at) ? "*" : "", r->forgot ? "?" : "", r->last_term, r->last_index);
}

static bool say_table(const struct survivor *s, unsigned count, unsigned best, struct buf *out) {
    char cell[64], name[16];
    int width = 0;
    for (unsigned k = 0; k < count; k++) {
        width = MAX_OF(width, snprintf(cell, sizeof cell, "NODE %" PRIu64, s[k].node_id));
        for (uint32_t at = 0; at <= s->partitions; at++) width = MAX_OF(width, cell_text(s, count, k, at, cell));
    }
    bool ok = say(out, "PARTITION  FURTHEST");
    for (unsigned k = 0; ok && k < count; k++) {
        snprintf(cell, sizeof cell, "NODE %" PRIu64, s[k].node_id);
        ok = say(out, "  %*s", width, cell);
    }
    ok = ok && say(out, "\n");
    for (uint32_t at = 0; ok && at <= s->partitions; at++) {
        int first = survivors_furthest(s, count, best, at);
        snprintf(cell, sizeof cell, "none");
        if (first >= 0) snprintf(cell, sizeof cell, "%" PRIu64, s[first].node_id);
        ok = say(out, "%-9s  %8s", name_of(s, at, name), cell);
        for (unsigned k = 0; ok && k < count; k++) cell_text(s, count, k, at, cell), ok = say(out, "  %*s", width, cell);
        ok = ok && say(out, "\n");
    }
    return ok && say(out, "\nTERM:INDEX of each log's end; *: none of these is further; -: not on that node;\n?: it had lost its disk, or was emptied, and did not have everything again yet.\n");
}

/* What partition `at` of node k lacks, if another one is further. */
static bool say_lack(const struct survivor *s, unsigned count, unsigned best, unsigned k, uint32_t at, struct buf *out) {
    int first = survivors_furthest(s, count, best, at);
    if (first < 0 || is_furthest(s, count, k, at)) return true;
    const struct recover_replica *r = &s[k].replicas[at], *f = &s[first].replicas[at];
    unsigned long long node = s[first].node_id;
    char name[16];
    name_of(s, at, name);
    const char *p = at == s->partitions ? "meta" : name;
    if (!r->holds && at == s->partitions) return say(out, "  partition meta: all of it\n");
    if (!r->holds) return say(out, "  partition %s: all of it; node %llu has %" PRId64 " orders in its tables\n", p, node, f->orders);
    if (r->forgot && !f->forgot) return say(out, "  partition %s: it forgot what it had acknowledged; node %llu did not\n", p, node);
    if (r->last_term == f->last_term) return say(out, "  partition %s: the last %" PRIu64 " entries of node %llu\n", p, f->last_index - r->last_index, node);
    return say(out, "  partition %s: it ends in term %" PRIu64 ", node %llu in term %" PRIu64 ": entries after\n    %" PRIu64 " may be missing, and its own end may have been given up\n", p, r->last_term, node, f->last_term, r->applied_index);
}

static bool say_lacks(const struct survivor *s, unsigned count, unsigned best, struct buf *out) {
    uint32_t all = s->partitions + 1;
    bool ok = true;
    for (unsigned k = 0; ok && k < count; k++) {
        uint32_t n = furthest_count(s, count, k);
        ok = say(out, "\nnode %" PRIu64 ": furthest in %u of %u%s\n", s[k].node_id, n, all, n < all ? ", and it lacks" : ": it has what any of these has");
        for (uint32_t at = 0; ok && at < all; at++) ok = say_lack(s, count, best, k, at, out);
    }
    return ok;
}

/* Of the voters of partition `at`, as its furthest log names them, more than half are among these, and remember all that they acknowledged. */
static bool has_majority(const struct survivor *s, unsigned count, unsigned best, uint32_t at) {
    int first = survivors_furthest(s, count, best, at);
    unsigned voters = 0, here = 0;
    if (first < 0) return false;
    const struct group_members *m = &s[first].replicas[at].members;
    for (uint32_t i = 0; i < m->count; i++) {
        voters += is_voter(&m->member[i]);
        for (unsigned k = 0; k < count; k++) here += is_voter(&m->member[i]) && s[k].node_id == m->member[i].node_id && s[k].replicas[at].holds && !s[k].replicas[at].forgot;
    }
    return voters && 2 * here > voters;
}

static bool say_advice(const struct survivor *s, unsigned count, unsigned best, struct buf *out) {
    uint32_t all = s->partitions + 1, whole = 0, none = 0;
    for (uint32_t at = 0; at < all; at++) whole += has_majority(s, count, best, at), none += survivors_furthest(s, count, best, at) < 0;
    if (whole == all) return say(out, "\nA majority of every partition's voters is here: nothing is lost. Start these\nnodes, and recover none.\n");
    bool ok = say(out, "\nNode %" PRIu64 " is the one to go on alone: it is furthest in %u of %u partitions.\n", s[best].node_id, furthest_count(s, count, best), all);
    if (ok && whole)
        ok = say(out, "Of %u of %u partitions a majority of the voters is here: with these nodes together\nnothing of them is lost. If one goes on alone, what it lacks is.\n", whole, all);
    if (ok && none) ok = say(out, "%u of %u partitions are on none of these: they are lost, and begin empty.\n", none, all);
    return ok && say(out, "What was acknowledged by nodes that are not here, and is on none of these, is\nlost with any of them; whether there is such, nobody can tell.\n");
}

enum status survivors_compare(const struct survivor *s, unsigned count, struct buf *out, char error[256]) {
    check(count > 0);
    enum status st = of_one_cluster(s, count, error);
    if (st) return st;
    unsigned best = survivors_best(s, count);
    bool ok = say_table(s, count, best, out) && say_lacks(s, count, best, out) && say_advice(s, count, best, out);
    return ok ? STATUS_OK : (snprintf(error, 256, "out of memory"), STATUS_MEMORY_LIMIT);
}

/* The filter language: which change events a reader wants, which orders a search finds. A subset of AIP-160 (https://google.aip.dev/160), told to
 * users in docs/FILTER.md. A text is parsed once, against a message type, into memory of the caller's; a filter is then matched with messages in
 * their wire form, in one walk over the fields that it names, without unpacking and without allocation. Pure.
 *
 *   text --filter_parse--> tree of AND, OR, NOT over predicates (field, operator, values)
 *                          and the tree of the fields that the predicates look at, by number
 *   wire --filter_match--> each predicate's truth, noted as its field is walked over; then the tree of operators over these
 *
 * A filter is immutable: any number of threads may match with it. */
#ifndef ENGINE_FILTER_H
#define ENGINE_FILTER_H

#include <protobuf-c/protobuf-c.h>

#include "proto/status.h"

enum {
    FILTER_TEXT_BYTES_MAX = 4096,
    FILTER_DEPTH_MAX = 32,  /* of parentheses, and of the tree of operators */
    FILTER_NODES_MAX = 256, /* comparisons and operators */
    FILTER_LIST_MAX = 256,  /* values of one IN */
    FILTER_PATH_MAX = 8,    /* names of one path */
};

/* What a filter is about. prefixes: what may be left out before a field's name, tried in this order after the message itself; NULL ends them. */
struct filter_schema {
    const ProtobufCMessageDescriptor *type;
    const char *const *prefixes;
};
extern const struct filter_schema filter_events; /* orderdb.v1.ChangeEvent; a filter of orders means the same here, of `after` */
extern const struct filter_schema filter_orders; /* orderdb.v1.Order */

struct filter;
/* The filter lives in `arena`, and borrows nothing of `text`. field: where the text came from, "group.filter", for the refusal.
 * STATUS_FILTER_INVALID: the violation says at which byte (from 0) and column (characters, from 1) what was expected and what was found; so does the
 * metadata "position", "column", "expected", "found". STATUS_MEMORY_LIMIT: the arena is full. */
enum status filter_parse(const struct filter **out, struct slice text, const struct filter_schema *schema, const char *field, struct arena *arena,
                         struct failure *f) MUST_USE;
/* A blank text: everything matches, even what is malformed. */
bool filter_is_empty(const struct filter *f);
/* Does the outcome depend on this field of the message itself? A reader need not put together what nobody looks at. */
bool filter_reads(const struct filter *f, uint32_t number);
/* Malformed bytes where the filter looks: false. A singular message given twice (scan.h refuses those): one of both counts. */
bool filter_match(const struct filter *f, struct slice wire);
/* The canonical text: whole paths, one spelling of each operator and value, lists sorted and without repetition. What it says when parsed again is the
 * same filter, and prints the same (unless whole paths made it longer than a text may be). Empty data: the arena is full. */
struct slice filter_print(const struct filter *f, struct arena *arena) MUST_USE;

#endif

/* From text to filter: a recursive descent without tokens, for what a character means depends on where it stands (a dot in a path and in a number).
 *
 *   filter     = [ expression ]
 *   expression = factor { "AND" factor }
 *   factor     = term { "OR" term }                      OR binds tighter than AND: AIP-160
 *   term       = [ "NOT" | "-" ] simple
 *   simple     = "(" expression ")" | restriction
 *   restriction= path ( "=" | "!=" | "<" | "<=" | ">" | ">=" | ":" ) value | path "IN" "(" value { "," value } ")" | path ":" "*"
 *   path       = name { "." ( name | string ) }          string: a key of a map
 *   value      = string | word                           word: no blanks, quotes, operators; keywords are none
 *
 * Every function leaves the parser behind what it took, or has refused and yields NULL or false. The recursion is bounded by FILTER_DEPTH_MAX
 * parentheses; a tree is as deep as the parentheses that its canonical text needs, so what is printed is taken again. */
#include <stdio.h>
#include <stdlib.h>

#include "engine/filter_local.h"
#include "orderdb/v1/order.pb-c.h"
#include "orderdb/v1/stream.pb-c.h"
#include "proto/pbwire.h"
#include "proto/scan.h"

const struct filter_schema filter_events = {&orderdb__v1__change_event__descriptor, (const char *const[]){"after", "after.items", NULL}};
const struct filter_schema filter_orders = {&orderdb__v1__order__descriptor, (const char *const[]){"items", NULL}};

enum { SHOWN_BYTES_MAX = 40 };

struct parser {
    const uint8_t *start, *at, *end;
    const struct filter_schema *schema;
    const char *field;
    struct arena *arena;
    struct failure *f;
    enum status status; /* of this text; f may hold earlier violations */
    unsigned depth, nodes;
    struct filter *filter;
    struct filter_predicate *predicates, **predicates_end; /* by next_owned, until they have owners */
};

/* ---- refusals ---- */

static bool is_blank(uint8_t c) { return c == ' ' || c == '\t' || c == '\n' || c == '\r'; }
static bool in_name(uint8_t c) { return (c >= '0' && c <= '9') || ((c | 0x20) >= 'a' && (c | 0x20) <= 'z') || c == '_'; }
static bool in_word(uint8_t c) { return c > ' ' && c != 0x7f && !strchr("()\"'=<>!:,\\*", c); }

static struct slice word_at(const struct parser *p, const uint8_t *at) {
    size_t n = 0;
    while (at + n < p->end && in_word(at[n])) n++;
    return slice_of(at, n);
}

/* What stands there, for people: a word, a text with its quotes, or one character (which is ASCII: others are words). */
static const char *shown_at(const struct parser *p, const uint8_t *at) {
    if (at == p->end) return "the end";
    if (is_blank(*at)) return "a blank";
    struct slice s = word_at(p, at);
    if (!s.len && (*at == '"' || *at == '\'')) {
        const uint8_t *close = memchr(at + 1, *at, (size_t)(p->end - at) - 1);
        s = slice_of(at, close ? (size_t)(close - at) + 1 : (size_t)(p->end - at));
    }
    if (!s.len) s = slice_of(at, 1);
    struct slice cut = slice_cut_utf8(s, SHOWN_BYTES_MAX);
    const char *quote = *at == '"' || *at == '\'' ? "" : "\"", *more = cut.len < s.len ? "..." : "";
    const char *text = arena_printf(p->f->arena, "%s%.*s%s%s", quote, (int)cut.len, cut.data, more, quote);
    return text ? text : "?";
}

static unsigned column_of(const struct parser *p, const uint8_t *at) {
    unsigned column = 1;
    for (const uint8_t *c = p->start; c < at; c++) column += (*c & 0xc0) != 0x80;
    return column;
}

/* hint: one more half sentence, or NULL. Returns false, and NULL where a pointer is wanted. */
static bool refuse(struct parser *p, const uint8_t *at, const char *expected, const char *found, const char *hint) {
    if (p->status) return false; /* the first cause */
    p->status = STATUS_FILTER_INVALID;
    unsigned position = (unsigned)(at - p->start), column = column_of(p, at);
    failure_violation(p->f, STATUS_FILTER_INVALID, p->field, "at byte %u (column %u): expected %s, found %s%s%s", position, column, expected, found, hint ? "; " : "", hint ? hint : "");
    failure_meta(p->f, "position", "%u", position);
    failure_meta(p->f, "column", "%u", column);
    failure_meta(p->f, "expected", "%s", expected);
    failure_meta(p->f, "found", "%s", found);
    return false;
}
static bool refuse_here(struct parser *p, const char *expected, const char *hint) { return refuse(p, p->at, expected, shown_at(p, p->at), hint); }
static void *refuse_memory(struct parser *p) {
    if (!p->status) p->status = STATUS_MEMORY_LIMIT;
    failure_set(p->f, p->status, "%s: no memory left for the filter", p->field);
    return NULL;
}
static const char *format(struct parser *p, const char *text, ...) PRINTF_LIKE(2, 3);
static const char *format(struct parser *p, const char *text, ...) {
    va_list args;
    va_start(args, text);
    const char *s = arena_vprintf(p->f->arena, text, args);
    va_end(args);
    return s ? s : "?";
}
static const char *did_you_mean(struct parser *p, const char *name) { return name ? format(p, "did you mean \"%s\"?", name) : NULL; }

/* ---- characters ---- */

static void skip_blanks(struct parser *p) { while (p->at < p->end && is_blank(*p->at)) p->at++; }

static bool next_is(const struct parser *p, char c) { return p->at < p->end && *p->at == (uint8_t)c; }
static bool take(struct parser *p, char c) { return next_is(p, c) && (p->at++, true); }

static bool is_keyword(struct slice word) {
    return slice_equal(word, SLICE_LIT("AND")) || slice_equal(word, SLICE_LIT("OR")) || slice_equal(word, SLICE_LIT("NOT")) || slice_equal(word, SLICE_LIT("IN"));
}
static bool take_keyword(struct parser *p, const char *keyword) {
    struct slice word = word_at(p, p->at);
    if (!slice_equal(word, slice_str(keyword))) return false;
    p->at += word.len;
    return true;
}

/* Keywords are in capitals; who writes "and" is told so. */
static const char *hint_capitals(const struct parser *p) {
    static const char *const keywords[] = {"and", "or", "not", "in"};
    struct slice word = word_at(p, p->at);
    for (unsigned i = 0; i < ARRAY_LEN(keywords); i++) {
        size_t n = strlen(keywords[i]), k = 0;
        while (k < n && word.len == n && (word.data[k] | 0x20) == keywords[i][k]) k++;
        if (k == n && !is_keyword(word)) return "keywords are in capitals";
    }
    return NULL;
}

/* A text in quotes of either kind; escapes: backslash before a quote, a backslash, n, r, t. */
static bool take_string(struct parser *p, struct slice *out) {
    const uint8_t *open = p->at;
    uint8_t quote = *p->at++, *text = arena_alloc(p->arena, (size_t)(p->end - open));
    size_t n = 0;
    if (!text) return refuse_memory(p), false;
    while (p->at < p->end && *p->at != quote) {
        uint8_t c = *p->at++;
        if (c == '\\') {
            static const char escapes[] = "\"'\\nrt", meanings[] = "\"'\\\n\r\t";
            const char *e = p->at < p->end && *p->at ? strchr(escapes, *p->at) : NULL;
            if (!e) return refuse(p, p->at - 1, "an escape: \\\", \\', \\\\, \\n, \\r or \\t", "\"\\\"", "a backslash itself is written \\\\");
            c = (uint8_t)meanings[e - escapes];
            p->at++;
        }
        text[n++] = c;
    }
    if (p->at == p->end) return refuse_here(p, "the closing quote of a text", format(p, "it was opened at byte %u", (unsigned)(open - p->start)));
    p->at++;
    *out = slice_of(text, n);
    return true;
}

static bool literal_follows(const struct parser *p) {
    struct slice word = word_at(p, p->at);
    return next_is(p, '"') || next_is(p, '\'') || (word.len && !is_keyword(word));
}

static bool take_literal(struct parser *p, struct filter_literal *out) {
    if (next_is(p, '"') || next_is(p, '\'')) return out->quoted = true, take_string(p, &out->text);
    struct slice word = word_at(p, p->at);
    p->at += word.len;
    *out = (struct filter_literal){.text = arena_copy(p->arena, word)};
    return out->text.data || (refuse_memory(p), false);
}

/* ---- paths ---- */

struct segment {
    struct slice name;
    const uint8_t *at;
    bool quoted;
};

static bool take_segments(struct parser *p, struct segment s[FILTER_PATH_MAX], unsigned *count) {
    for (*count = 0;; ++*count) {
        static_assert(FILTER_PATH_MAX == 8, "as the sentence says");
        if (*count == FILTER_PATH_MAX) return refuse_here(p, "at most 8 names in a path", NULL);
        struct segment *now = &s[*count];
        *now = (struct segment){.at = p->at};
        if (*count && (next_is(p, '"') || next_is(p, '\''))) {
            now->quoted = true;
            if (!take_string(p, &now->name)) return false;
        } else {
            size_t n = 0;
            while (p->at + n < p->end && in_name(p->at[n])) n++;
            now->name = slice_of(p->at, n);
            if (!n) return refuse_here(p, "a field's name", *count ? NULL : hint_capitals(p));
            p->at += n;
        }
        if (!take(p, '.')) return ++*count, true;
    }
}

static const char *kind_name(enum filter_type type) {
    static const char *const names[] = {"a text", "a number", "a boolean", "an enum", "a time", "a duration", "bytes", "a map", "a message", "a list"};
    return names[type];
}

/* The fields that the segments name, from those already there (a prefix's). A map takes one more segment, its key. */
static bool walk_segments(struct parser *p, struct filter_predicate *d, const struct segment *s, unsigned count) {
    const ProtobufCMessageDescriptor *type = d->field_count ? d->fields[d->field_count - 1]->descriptor : p->schema->type;
    for (unsigned i = 0; i < count; i++) {
        const ProtobufCFieldDescriptor *last = d->field_count ? d->fields[d->field_count - 1] : NULL;
        if (d->has_key || (last && filter_type_of(last) != FILTER_MESSAGE && filter_type_of(last) != FILTER_MAP))
            return refuse(p, s[i].at - 1, "an operator", "\".\"", format(p, "%s is %s and has no fields", last->name, d->has_key ? "a map of texts" : kind_name(filter_type_of(last))));
        if (last && filter_type_of(last) == FILTER_MAP) {
            d->has_key = true;
            d->key = arena_copy(p->arena, s[i].name);
            if (!d->key.data) return refuse_memory(p), false;
            continue;
        }
        const ProtobufCFieldDescriptor *field = s[i].quoted ? NULL : filter_field_named(type, s[i].name);
        if (!field) return refuse(p, s[i].at, format(p, "a field of %s", type->short_name), shown_at(p, s[i].at), did_you_mean(p, filter_field_nearest(p->schema, type, s[i].name, p->f->arena)));
        if (d->field_count == FILTER_PATH_MAX) return refuse(p, s[i].at, "a shorter path", shown_at(p, s[i].at), NULL);
        d->fields[d->field_count++] = field;
        type = field->descriptor;
    }
    return true;
}

static bool take_path(struct parser *p, struct filter_predicate *d) {
    struct segment s[FILTER_PATH_MAX];
    unsigned count;
    if (is_keyword(word_at(p, p->at)) || next_is(p, '"') || next_is(p, '\'') || !take_segments(p, s, &count))
        return refuse_here(p, "a field's name", next_is(p, '"') || next_is(p, '\'') ? "a value alone is not looked for, name a field" : NULL);
    d->fields = arena_zalloc(p->arena, FILTER_PATH_MAX * sizeof *d->fields);
    if (!d->fields) return refuse_memory(p), false;
    for (const char *const *prefix = p->schema->prefixes; *prefix && !filter_field_named(p->schema->type, s[0].name); prefix++) {
        unsigned n = filter_prefix_fields(p->schema->type, *prefix, d->fields);
        if (!filter_field_named(d->fields[n - 1]->descriptor, s[0].name)) continue;
        d->field_count = n;
        break;
    }
    return walk_segments(p, d, s, count);
}

/* ---- restrictions ---- */

static bool take_op(struct parser *p, enum filter_op *op) {
    if (take(p, '=')) return *op = FILTER_EQ, true;
    if (take(p, ':')) return *op = FILTER_HAS, true;
    if (take(p, '<')) return *op = take(p, '=') ? FILTER_LE : FILTER_LT, true;
    if (take(p, '>')) return *op = take(p, '=') ? FILTER_GE : FILTER_GT, true;
    if (p->end - p->at >= 2 && p->at[0] == '!' && p->at[1] == '=') return p->at += 2, *op = FILTER_NE, true;
    if (take_keyword(p, "IN")) return *op = FILTER_IN, true;
    return refuse_here(p, "an operator: =, !=, <, <=, >, >=, : or IN", hint_capitals(p));
}

static const char *expected_of(struct parser *p, const struct filter_predicate *d) {
    if (d->type != FILTER_ENUM) return filter_value_expected(d->type);
    const ProtobufCEnumDescriptor *type = d->fields[d->field_count - 1]->descriptor;
    const char *names = "one of";
    for (unsigned i = 0; i < type->n_values; i++) names = format(p, "%s%s %s", names, i ? "," : "", type->values[i].name);
    return names;
}

static bool take_value(struct parser *p, struct filter_predicate *d, struct filter_value *out) {
    const ProtobufCFieldDescriptor *field = d->fields[d->field_count - 1];
    struct filter_literal l = {0};
    skip_blanks(p);
    const uint8_t *at = p->at;
    if (!literal_follows(p)) return refuse_here(p, expected_of(p, d), NULL);
    if (!take_literal(p, &l)) return false;
    if (!filter_value_read(d->type, field, &l, out)) {
        const char *hint = d->type == FILTER_ENUM ? did_you_mean(p, filter_enum_nearest(field->descriptor, l.text)) : NULL;
        return refuse(p, at, expected_of(p, d), shown_at(p, at), hint ? hint : format(p, "%s is %s", d->has_key ? "the value" : field->name, kind_name(d->type)));
    }
    if (d->op == FILTER_HAS && d->type == FILTER_TEXT && !l.text.len) return refuse(p, at, "a text that is not empty", "\"\"", NULL);
    return true;
}

static int compare_values_cb(const void *a, const void *b, void *type) { return filter_value_compare(*(const enum filter_type *)type, a, b); }

static bool take_list(struct parser *p, struct filter_predicate *d) {
    struct filter_value values[FILTER_LIST_MAX];
    size_t n = 0;
    skip_blanks(p);
    if (!take(p, '(')) return refuse_here(p, "\"(\"", NULL);
    do {
        skip_blanks(p);
        if (n == FILTER_LIST_MAX) return refuse_here(p, "at most 256 values in a list", NULL);
        static_assert(FILTER_LIST_MAX == 256, "as the sentence says");
        if (!take_value(p, d, &values[n++])) return false;
        skip_blanks(p);
    } while (take(p, ','));
    if (!take(p, ')')) return refuse_here(p, "\",\" or \")\"", NULL);
    qsort_r(values, n, sizeof values[0], compare_values_cb, &d->type);
    d->values = arena_array(p->arena, struct filter_value, n);
    if (!d->values) return refuse_memory(p), false;
    for (size_t i = 0; i < n; i++)
        if (i == 0 || filter_value_compare(d->type, &values[i], &values[i - 1])) d->values[d->value_count++] = values[i];
    return true;
}

/* ":" says presence, a key, an element, or words, by what stands before and behind it. */
static bool take_has(struct parser *p, struct filter_predicate *d) {
    skip_blanks(p);
    if (take(p, '*')) return d->op = FILTER_PRESENT, true;
    if (d->type == FILTER_MAP) {
        struct filter_literal l = {0};
        if (!literal_follows(p)) return refuse_here(p, "a key of the map, or *", NULL);
        if (!take_literal(p, &l)) return false;
        d->has_key = true, d->key = l.text, d->type = FILTER_TEXT, d->op = FILTER_PRESENT;
        return true;
    }
    bool words = d->type == FILTER_TEXT && (d->has_key || !filter_is_repeated(d->fields[d->field_count - 1]));
    if (!words && d->type < FILTER_BYTES) d->op = FILTER_EQ;
    return true;
}

/* Does the operator fit the type? at: where the operator stands. */
static bool check_op(struct parser *p, const struct filter_predicate *d, const uint8_t *at) {
    const char *name = d->fields[d->field_count - 1]->name;
    bool ordered = d->op == FILTER_LT || d->op == FILTER_LE || d->op == FILTER_GT || d->op == FILTER_GE;
    if (d->op == FILTER_PRESENT) return d->type != FILTER_OTHER || refuse(p, at, "another field", shown_at(p, at), format(p, "%s is not for filters", name));
    if (d->type == FILTER_MAP) return refuse(p, at, format(p, "a key, %s.KEY, or \":\"", name), shown_at(p, at), format(p, "%s is a map", name));
    if (d->type == FILTER_MESSAGE) return refuse(p, at, format(p, "\".\" and a field of %s, or :*", name), shown_at(p, at), format(p, "%s is a message", name));
    if (d->type == FILTER_BYTES) return refuse(p, at, ":*", shown_at(p, at), format(p, "%s is bytes: it is there, or not", name));
    if (d->type == FILTER_OTHER) return refuse(p, at, "another field", shown_at(p, at), format(p, "%s is not for filters", name));
    if (ordered && (d->type == FILTER_BOOL || d->type == FILTER_ENUM)) return refuse(p, at, "=, !=, : or IN", shown_at(p, at), format(p, "%s has no order", name));
    return true;
}

static bool take_restriction(struct parser *p, struct filter_predicate *d) {
    if (!take_path(p, d)) return false;
    skip_blanks(p);
    const uint8_t *at = p->at;
    if (!take_op(p, &d->op)) return false;
    const ProtobufCFieldDescriptor *last = d->fields[d->field_count - 1];
    d->type = d->has_key ? FILTER_TEXT : filter_type_of(last);
    bool presence = false;
    if (d->op == FILTER_HAS) {
        skip_blanks(p);
        presence = next_is(p, '*');
    }
    const ProtobufCFieldDescriptor *behind = presence || d->has_key ? NULL : filter_field_behind(last);
    if (behind) {
        if (d->field_count == FILTER_PATH_MAX) return refuse(p, at, "a shorter path", shown_at(p, at), NULL);
        d->fields[d->field_count++] = behind;
        d->type = filter_type_of(behind);
    }
    if (d->op == FILTER_HAS && !take_has(p, d)) return false;
    if (!check_op(p, d, at)) return false;
    if (d->op == FILTER_PRESENT) return true;
    if (d->op == FILTER_IN) return take_list(p, d);
    d->values = arena_new(p->arena, struct filter_value);
    if (!d->values) return refuse_memory(p), false;
    d->value_count = 1;
    return take_value(p, d, d->values);
}

/* ---- the tree of operators ---- */

static struct filter_node *node_new(struct parser *p, enum filter_node_kind kind, const uint8_t *at) {
    static_assert(FILTER_NODES_MAX == 256, "as the sentence says");
    if (++p->nodes > FILTER_NODES_MAX) return refuse(p, at, "at most 256 comparisons and operators", "one more", NULL), NULL;
    struct filter_node *n = arena_new(p->arena, struct filter_node);
    if (!n) return refuse_memory(p);
    n->kind = kind;
    return n;
}

static struct filter_node *take_expression(struct parser *p);

static struct filter_node *take_composite(struct parser *p) {
    const uint8_t *at = p->at++;
    static_assert(FILTER_DEPTH_MAX == 32, "as the sentence says");
    if (++p->depth > FILTER_DEPTH_MAX) return refuse(p, at, "at most 32 levels of nesting", "\"(\"", NULL), NULL;
    struct filter_node *n = take_expression(p);
    if (!n) return NULL;
    if (!take(p, ')')) return refuse_here(p, "AND, OR or \")\"", hint_capitals(p)), NULL;
    p->depth--;
    return n;
}

static struct filter_node *take_simple(struct parser *p) {
    skip_blanks(p);
    if (next_is(p, '(')) return take_composite(p);
    struct filter_node *n = node_new(p, FILTER_PREDICATE, p->at);
    if (!n) return NULL;
    n->predicate = arena_new(p->arena, struct filter_predicate);
    if (!n->predicate) return refuse_memory(p);
    if (!take_restriction(p, n->predicate)) return NULL;
    n->predicate->index = p->filter->predicate_count++;
    *p->predicates_end = n->predicate;
    p->predicates_end = &n->predicate->next_owned;
    return n;
}

static struct filter_node *take_term(struct parser *p) {
    skip_blanks(p);
    const uint8_t *at = p->at;
    if (!take(p, '-') && !take_keyword(p, "NOT")) return take_simple(p);
    struct filter_node *n = node_new(p, FILTER_NOT, at), *inner = n ? take_simple(p) : NULL;
    if (!inner) return NULL;
    if (inner->kind == FILTER_NOT) return inner->first;
    n->first = inner;
    n->depth = inner->depth + 1;
    if (n->depth > FILTER_DEPTH_MAX) return refuse(p, at, "at most 32 levels of nesting", "one more", NULL), NULL;
    return n;
}

/* Operands of AND or OR, as many as follow; one alone is itself, and those of the same kind become one. */
static struct filter_node *take_operands(struct parser *p, enum filter_node_kind kind, const char *keyword, struct filter_node *(*take_operand)(struct parser *)) {
    struct filter_node *n = NULL, *first = take_operand(p), *operand = first;
    struct filter_node **end = NULL;
    const uint8_t *at = p->at;
    while (operand) {
        if (n || (skip_blanks(p), slice_equal(word_at(p, p->at), slice_str(keyword)))) {
            if (!n) {
                at = p->at;
                n = node_new(p, kind, at);
                if (!n) return NULL;
                end = &n->first;
            }
            bool same = operand->kind == kind;
            *end = same ? operand->first : operand;
            unsigned depth = same ? operand->depth : operand->depth + 1;
            n->depth = MAX_OF(n->depth, depth);
            if (n->depth > FILTER_DEPTH_MAX) return refuse(p, at, "at most 32 levels of nesting", "one more", NULL), NULL;
            while (*end) end = &(*end)->next;
        }
        skip_blanks(p);
        if (!take_keyword(p, keyword)) return n ? n : first;
        operand = take_operand(p);
    }
    return NULL;
}

static struct filter_node *take_factor(struct parser *p) { return take_operands(p, FILTER_OR, "OR", take_term); }
static struct filter_node *take_expression(struct parser *p) { return take_operands(p, FILTER_AND, "AND", take_factor); }

/* ---- the tree of fields ---- */

static struct filter_step *step_of(struct parser *p, struct filter_step *parent, const struct filter_step *wanted) {
    struct filter_step **at = &parent->children;
    for (; *at; at = &(*at)->next)
        if ((*at)->number == wanted->number && slice_equal((*at)->key, wanted->key)) return *at;
    *at = arena_new(p->arena, struct filter_step);
    if (!*at) return refuse_memory(p);
    **at = *wanted;
    parent->wanted |= pb_number_bit(wanted->number);
    return *at;
}

static enum filter_step_kind step_kind(const ProtobufCFieldDescriptor *field) {
    enum filter_type type = filter_type_of(field);
    if (type == FILTER_MAP) return STEP_MAP;
    if (type == FILTER_MESSAGE) return filter_is_repeated(field) ? STEP_ELEMENTS : STEP_MESSAGE;
    return filter_is_repeated(field) ? STEP_VALUES : STEP_VALUE;
}

static bool plan_predicate(struct parser *p, struct filter_predicate *d) {
    struct filter_step *step = &p->filter->fields, *owner = step;
    for (unsigned i = 0; i < d->field_count; i++) {
        const ProtobufCFieldDescriptor *field = d->fields[i];
        if (step->kind == STEP_ELEMENTS) owner = step;
        step = step_of(p, step, &(struct filter_step){.kind = step_kind(field), .number = field->id, .type = filter_type_of(field), .narrow = field->type != PROTOBUF_C_TYPE_INT64});
        if (!step) return false;
    }
    if (d->has_key) step = step_of(p, step, &(struct filter_step){.kind = STEP_KEY, .type = FILTER_TEXT, .key = d->key});
    if (!step) return false;
    d->by_occurrence = step->kind != STEP_VALUE || step->type == FILTER_TIME || step->type == FILTER_DURATION;
    d->on_default = !d->by_occurrence && filter_predicate_holds(d, &(struct filter_value){0});
    d->next_of_step = step->predicates, step->predicates = d;
    d->next_owned = owner->owned, owner->owned = d;
    return true;
}

static bool plan(struct parser *p) {
    p->filter->fields.kind = STEP_ELEMENTS; /* the message is the one element */
    for (struct filter_predicate *d = p->predicates, *next; d; d = next) {
        next = d->next_owned;
        if (!plan_predicate(p, d)) return false;
    }
    return true;
}

/* ---- all of it ---- */

static bool check_text(struct parser *p) {
    size_t len = (size_t)(p->end - p->start);
    static_assert(FILTER_TEXT_BYTES_MAX == 4096, "as the sentence says");
    const uint8_t *nul = len ? memchr(p->start, 0, len) : NULL;
    if (nul) return refuse(p, nul, "a text without NUL", "NUL", NULL);
    if (!utf8_valid(slice_of(p->start, len))) return refuse(p, p->start, "valid UTF-8", "other bytes", NULL);
    return len <= FILTER_TEXT_BYTES_MAX || refuse(p, p->start + FILTER_TEXT_BYTES_MAX, "at most 4096 bytes", format(p, "%zu", len), NULL);
}

enum status filter_parse(const struct filter **out, struct slice text, const struct filter_schema *schema, const char *field, struct arena *arena, struct failure *f) {
    struct parser p = {.start = text.data, .at = text.data, .end = text.data + text.len, .schema = schema, .field = field, .arena = arena, .f = f};
    p.predicates_end = &p.predicates;
    p.filter = arena_new(arena, struct filter);
    if (!p.filter) return refuse_memory(&p), p.status;
    if (!check_text(&p)) return p.status;
    skip_blanks(&p);
    if (p.at < p.end) {
        p.filter->root = take_expression(&p);
        if (p.filter->root && p.at < p.end) refuse_here(&p, "AND, OR or the end", hint_capitals(&p));
        if (p.status || !plan(&p)) return p.status;
    }
    *out = p.filter;
    return STATUS_OK;
}

bool filter_is_empty(const struct filter *f) { return f->root == NULL; }

bool filter_reads(const struct filter *f, uint32_t number) {
    for (const struct filter_step *s = f->fields.children; s; s = s->next)
        if (s->number == number) return true;
    return false;
}

/* One walk over the message, stopping at the fields that the filter names; then the tree of operators.
 *
 * The truth of a predicate is two bits. NOW: in the innermost repeated message that is being walked over (for most: in the message itself). EVER: in
 * some element. A value of a singular field says what NOW is, a value of a list or map may only add to it. When a message begins, its singular fields are
 * at their defaults; when it is not there, nothing is said of them, and NOW stays off. At the end of an element, NOW adds to EVER, and NOW is off again.
 *
 *   { items { sku "a" } items { sku "b" } }      sku = "b":   NOW 0 1, EVER 0 -> 0 -> 1 */
#include "engine/filter_local.h"
#include "proto/pbwire.h"

enum { NOW = 1, EVER = 2 };

static bool is_one_of(const struct filter_predicate *p, const struct filter_value *v) {
    unsigned low = 0, high = p->value_count;
    while (low < high) {
        unsigned middle = (low + high) / 2;
        int c = filter_value_compare(p->type, &p->values[middle], v);
        if (c == 0) return true;
        if (c < 0) low = middle + 1; else high = middle;
    }
    return false;
}

static bool value_equal(const struct filter_predicate *p, const struct filter_value *v) {
    if (p->type == FILTER_TEXT) return slice_equal(p->values->text, v->text);
    return p->values->number == v->number && p->values->nanos == v->nanos;
}

bool filter_predicate_holds(const struct filter_predicate *p, const struct filter_value *v) {
    switch (p->op) {
    case FILTER_EQ: return value_equal(p, v);
    case FILTER_NE: return !value_equal(p, v);
    case FILTER_LT: return filter_value_compare(p->type, v, p->values) < 0;
    case FILTER_LE: return filter_value_compare(p->type, v, p->values) <= 0;
    case FILTER_GT: return filter_value_compare(p->type, v, p->values) > 0;
    case FILTER_GE: return filter_value_compare(p->type, v, p->values) >= 0;
    case FILTER_IN: return is_one_of(p, v);
    case FILTER_HAS: return filter_text_has(v->text, p->values->text);
    case FILTER_PRESENT: return p->by_occurrence || v->number || v->text.len;
    }
    return false;
}

/* ---- values ---- */

/* Timestamp and Duration: seconds = 1, nanos = 2. */
static bool read_time(struct slice wire, struct filter_value *v) {
    struct reader r = reader_of(wire);
    for (struct pb_field field; pb_next(&r, &field);) {
        if (field.number != 1 && field.number != 2) continue;
        if (field.wire_type != PB_VARINT) return false;
        if (field.number == 1) v->number = (int64_t)field.value;
        else v->nanos = (int32_t)field.value;
    }
    return !r.bad;
}

static bool read_value(const struct filter_step *step, const struct pb_field *field, struct filter_value *v) {
    bool counted = step->type == FILTER_TEXT || step->type == FILTER_BYTES || step->type == FILTER_TIME || step->type == FILTER_DURATION;
    *v = (struct filter_value){0};
    if (field->wire_type != (counted ? PB_LEN : PB_VARINT)) return false;
    if (step->type == FILTER_TIME || step->type == FILTER_DURATION) return read_time(field->bytes, v);
    if (counted) v->text = field->bytes;
    else v->number = step->type == FILTER_BOOL ? field->value != 0 : step->narrow ? (int32_t)field->value : (int64_t)field->value;
    return true;
}

/* ---- the walk ---- */

static void say(const struct filter_step *step, const struct filter_value *v, uint8_t *truth, bool adds) {
    for (const struct filter_predicate *p = step->predicates; p; p = p->next_of_step) {
        bool holds = filter_predicate_holds(p, v);
        truth[p->index] = (uint8_t)((truth[p->index] & (adds ? NOW | EVER : EVER)) | (holds ? NOW : 0));
    }
}

static bool walk_entry(const struct filter_step *map, struct slice wire, uint8_t *truth) {
    struct filter_value key = {0}, value = {0};
    struct reader r = reader_of(wire);
    for (struct pb_field field; pb_next(&r, &field);) {
        if (field.number != 1 && field.number != 2) continue;
        if (field.wire_type != PB_LEN) return false;
        if (field.number == 1) key.text = field.bytes;
        else value.text = field.bytes;
    }
    if (r.bad) return false;
    say(map, &value, truth, true);
    for (const struct filter_step *k = map->children; k; k = k->next)
        if (slice_equal(k->key, key.text)) say(k, &value, truth, true);
    return true;
}

static bool walk_message(const struct filter_step *step, struct slice wire, uint8_t *truth);

static bool walk_field(const struct filter_step *step, const struct pb_field *field, uint8_t *truth) {
    struct filter_value v;
    if (step->kind == STEP_VALUE || step->kind == STEP_VALUES) {
        if (!read_value(step, field, &v)) return false;
        say(step, &v, truth, step->kind == STEP_VALUES);
        return true;
    }
    if (field->wire_type != PB_LEN) return false;
    if (step->kind == STEP_MAP) return walk_entry(step, field->bytes, truth);
    say(step, &(struct filter_value){0}, truth, true);
    if (step->children && !walk_message(step, field->bytes, truth)) return false;
    if (step->kind == STEP_ELEMENTS)
        for (const struct filter_predicate *p = step->owned; p; p = p->next_owned)
            truth[p->index] = truth[p->index] ? EVER : 0;
    return true;
}

static bool walk_message(const struct filter_step *step, struct slice wire, uint8_t *truth) {
    for (const struct filter_step *c = step->children; c; c = c->next)
        if (c->kind == STEP_VALUE)
            for (const struct filter_predicate *p = c->predicates; p; p = p->next_of_step) truth[p->index] = (uint8_t)((truth[p->index] & EVER) | (p->on_default ? NOW : 0));
    struct reader r = reader_of(wire);
    for (struct pb_field field; pb_next_of(&r, step->wanted, &field);) {
        const struct filter_step *c = step->children;
        while (c && c->number != field.number) c = c->next;
        if (c && !walk_field(c, &field, truth)) return false;
    }
    return !r.bad;
}

/* ---- the operators ---- */

static bool node_holds(const struct filter_node *n, const uint8_t *truth) {
    switch (n->kind) {
    case FILTER_PREDICATE: return truth[n->predicate->index] != 0;
    case FILTER_NOT: return !node_holds(n->first, truth);
    default: break;
    }
    for (const struct filter_node *c = n->first; c; c = c->next)
        if (node_holds(c, truth) == (n->kind == FILTER_OR)) return n->kind == FILTER_OR;
    return n->kind == FILTER_AND;
}

bool filter_match(const struct filter *f, struct slice wire) {
    uint8_t truth[FILTER_NODES_MAX];
    if (!f->root) return true;
    memset(truth, 0, f->predicate_count);
    return walk_message(&f->fields, wire, truth) && node_holds(f->root, truth);
}

#include "tools/yaml.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <strings.h>
#include <yaml.h>

#include "proto/base/mem.h"
#include "tools/pbjson.h"

struct reading {
    yaml_parser_t parser;
    struct yaml *out;
    char path[256];
    size_t path_len;
    unsigned depth, *line;
    char *error;
};

static bool fail(struct reading *r, size_t line, const char *what) {
    if (r->error[0]) return false; /* the first one stays */
    *r->line = (unsigned)line + 1;
    snprintf(r->error, YAML_ERROR_BYTES, "%.90s%s%.100s", r->path, r->path_len ? ": " : "", what);
    return false;
}

static bool put(struct reading *r, const char *text) { return buf_append(&r->out->json, slice_str(text)) || fail(r, 0, "out of memory"); }

/* ---- scalars */

/* [-+]?[0-9]+ */
static bool is_whole(const char *s) {
    s += *s == '-' || *s == '+';
    size_t n = strspn(s, "0123456789");
    return n > 0 && !s[n];
}

/* [-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)? */
static bool is_number(const char *s) {
    s += *s == '-' || *s == '+';
    size_t whole = strspn(s, "0123456789"), part = 0;
    s += whole;
    if (*s == '.') part = strspn(++s, "0123456789"), s += part;
    if (!whole && !part) return false;
    if (*s != 'e' && *s != 'E') return !*s;
    s++;
    s += *s == '-' || *s == '+';
    size_t n = strspn(s, "0123456789");
    return n > 0 && !s[n];
}

static bool is_one_of(const char *s, const char *const *words) {
    for (; *words; words++)
        if (strcmp(s, *words) == 0) return true;
    return false;
}
static const char *const nulls[] = {"", "~", "null", "Null", "NULL", NULL};
static const char *const trues[] = {"true", "True", "TRUE", NULL}, *const falses[] = {"false", "False", "FALSE", NULL};

/* "30m", "1800s" */
static bool is_duration(const char *s) {
    s += strspn(s, "0123456789");
    return strchr("smhd", *s) && *s && !s[1];
}

bool yaml_is_plain(const char *s) {
    static const char *const taken[] = {"null", "true", "false", "y", "n", "yes", "no", "on", "off", NULL};
    /* Names, and no more than that: everything else is quoted. */
    bool safe = *s && !strchr("-.0123456789", *s) && strspn(s, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-.") == strlen(s);
    for (const char *const *w = taken; safe && *w; w++) safe = strcasecmp(s, *w) != 0;
    return safe || (*s >= '0' && *s <= '9' && is_duration(s));
}

static bool read_scalar(struct reading *r, const yaml_event_t *e) {
    const char *s = (const char *)e->data.scalar.value;
    size_t line = e->start_mark.line;
    if (strlen(s) != e->data.scalar.length) return fail(r, line, "a NUL in a text");
    if (e->data.scalar.tag || e->data.scalar.anchor) return fail(r, line, "tags and anchors are not taken");
    if (e->data.scalar.style == YAML_PLAIN_SCALAR_STYLE) {
        if (is_one_of(s, nulls)) return put(r, "null");
        if (is_one_of(s, trues)) return put(r, "true");
        if (is_one_of(s, falses)) return put(r, "false");
        if (is_number(s) && !(is_whole(s) && strlen(s) > 18) && isfinite(strtod(s, NULL))) { /* larger ones as text: pbjson reads both */
            char text[40];
            if (is_whole(s)) snprintf(text, sizeof text, "%lld", strtoll(s, NULL, 10));
            else snprintf(text, sizeof text, "%.17g", strtod(s, NULL));
            return put(r, text);
        }
    }
    return pbjson_quote(&r->out->json, s) || fail(r, line, "out of memory");
}

/* ---- structure */

static bool next(struct reading *r, yaml_event_t *e) {
    if (yaml_parser_parse(&r->parser, e)) return true;
    const yaml_parser_t *p = &r->parser;
    r->path_len = r->path[0] = 0;
    return fail(r, p->error == YAML_READER_ERROR ? 0 : p->problem_mark.line, p->problem ? p->problem : "cannot be read");
}

static bool note(struct reading *r, size_t line) {
    struct yaml *y = r->out;
    if (y->place_count == YAML_NODES_MAX) return fail(r, line, "too many fields");
    if (y->place_count == y->place_cap) {
        size_t cap = y->place_cap ? y->place_cap * 2 : 64;
        struct yaml_place *grown = mem_realloc(y->places, cap * sizeof *grown);
        if (!grown) return fail(r, line, "out of memory");
        y->places = grown, y->place_cap = cap;
    }
    char *path = mem_strdup(r->path);
    if (!path) return fail(r, line, "out of memory");
    y->places[y->place_count++] = (struct yaml_place){path, (unsigned)line + 1};
    return true;
}

static bool path_add(struct reading *r, size_t line, const char *before, const char *name, const char *after) {
    int n = snprintf(r->path + r->path_len, sizeof r->path - r->path_len, "%s%s%s", before, name, after);
    if ((size_t)n >= sizeof r->path - r->path_len) return r->path[r->path_len] = 0, fail(r, line, "a name is too long");
    r->path_len += (size_t)n;
    return true;
}
static void path_cut(struct reading *r, size_t len) { r->path[r->path_len = len] = 0; }

static bool read_node(struct reading *r, const yaml_event_t *e);

static bool read_list(struct reading *r) {
    size_t was = r->path_len;
    char text[24];
    bool ok = put(r, "[");
    for (size_t i = 0; ok; i++) {
        yaml_event_t e;
        if (!next(r, &e)) return false;
        bool end = e.type == YAML_SEQUENCE_END_EVENT;
        snprintf(text, sizeof text, "%zu", i);
        if (!end) ok = (i == 0 || put(r, ",")) && path_add(r, e.start_mark.line, "[", text, "]") && read_node(r, &e);
        yaml_event_delete(&e);
        path_cut(r, was);
        if (end) break;
    }
    return ok && put(r, "]");
}

/* One key and its value. */
static bool read_field(struct reading *r, const yaml_event_t *key, size_t first_place) {
    size_t line = key->start_mark.line;
    if (key->type != YAML_SCALAR_EVENT) return fail(r, line, "a key must be a name");
    const char *name = (const char *)key->data.scalar.value;
    if (strlen(name) != key->data.scalar.length || !path_add(r, line, r->path_len ? "." : "", name, "")) return fail(r, line, "a name is too long");
    for (size_t i = first_place; i < r->out->place_count; i++)
        if (strcmp(r->out->places[i].path, r->path) == 0) return fail(r, line, "is given twice");
    if (!pbjson_quote(&r->out->json, name) || !put(r, ":")) return fail(r, line, "out of memory");
    yaml_event_t value;
    if (!next(r, &value)) return false;
    bool ok = read_node(r, &value);
    yaml_event_delete(&value);
    return ok;
}

static bool read_map(struct reading *r) {
    size_t was = r->path_len, first_place = r->out->place_count;
    bool ok = put(r, "{");
    for (size_t i = 0; ok; i++) {
        yaml_event_t key;
        if (!next(r, &key)) return false;
        bool end = key.type == YAML_MAPPING_END_EVENT;
        if (!end) ok = (i == 0 || put(r, ",")) && read_field(r, &key, first_place);
        yaml_event_delete(&key);
        path_cut(r, was);
        if (end) break;
    }
    return ok && put(r, "}");
}

static bool read_node(struct reading *r, const yaml_event_t *e) {
    size_t line = e->start_mark.line;
    if (!note(r, line)) return false;
    if (++r->depth > YAML_DEPTH_MAX) return fail(r, line, "nested too deeply");
    bool ok;
    switch (e->type) {
    case YAML_SCALAR_EVENT: ok = read_scalar(r, e); break;
    case YAML_SEQUENCE_START_EVENT: ok = e->data.sequence_start.anchor || e->data.sequence_start.tag ? fail(r, line, "tags and anchors are not taken") : read_list(r); break;
    case YAML_MAPPING_START_EVENT: ok = e->data.mapping_start.anchor || e->data.mapping_start.tag ? fail(r, line, "tags and anchors are not taken") : read_map(r); break;
    case YAML_ALIAS_EVENT: ok = fail(r, line, "tags and anchors are not taken"); break;
    default: ok = fail(r, line, "nothing is there"); break;
    }
    r->depth--;
    return ok;
}

/* Stream start, document start, the node, document end, stream end. */
static bool read_document(struct reading *r) {
    yaml_event_t e;
    bool ok = true;
    for (bool node = false; ok;) {
        if (!next(r, &e)) return false;
        yaml_event_type_t type = e.type;
        if (type == YAML_STREAM_END_EVENT && !node) ok = fail(r, e.start_mark.line, "the file is empty");
        else if (type == YAML_DOCUMENT_START_EVENT && node) ok = fail(r, e.start_mark.line, "one document a file");
        else if (type != YAML_STREAM_START_EVENT && type != YAML_STREAM_END_EVENT && type != YAML_DOCUMENT_START_EVENT && type != YAML_DOCUMENT_END_EVENT) ok = node = read_node(r, &e);
        yaml_event_delete(&e);
        if (type == YAML_STREAM_END_EVENT) break;
    }
    return ok;
}

bool yaml_read(struct slice text, struct yaml *out, unsigned *line, char error[YAML_ERROR_BYTES]) {
    struct reading r = {.out = out, .error = error, .line = line};
    *out = (struct yaml){0};
    *line = 0;
    error[0] = 0;
    if (text.len > YAML_BYTES_MAX) return fail(&r, 0, "larger than 1 MiB");
    if (!yaml_parser_initialize(&r.parser)) return fail(&r, 0, "out of memory");
    yaml_parser_set_input_string(&r.parser, text.data, text.len);
    bool ok = read_document(&r);
    yaml_parser_delete(&r.parser);
    return ok;
}

void yaml_fini(struct yaml *y) {
    for (size_t i = 0; i < y->place_count; i++) mem_free(y->places[i].path);
    mem_free(y->places);
    buf_fini(&y->json);
    *y = (struct yaml){0};
}

unsigned yaml_line(const struct yaml *y, const char *path) {
    unsigned line = 1;
    size_t best = 0;
    for (size_t i = 0; i < y->place_count; i++) {
        size_t n = strlen(y->places[i].path);
        bool holds = strncmp(path, y->places[i].path, n) == 0 && (!path[n] || path[n] == '.' || path[n] == '[' || n == 0);
        if (holds && n >= best) best = n, line = y->places[i].line;
    }
    return line;
}

/* ---- writing: what the parser finds in the JSON text goes to the emitter, with another style */

static int written_cb(void *ctx, unsigned char *bytes, size_t n) { return buf_append(ctx, slice_of(bytes, n)); }

static void restyle(yaml_event_t *e) {
    switch (e->type) {
    case YAML_DOCUMENT_START_EVENT: e->data.document_start.implicit = 1; break;
    case YAML_DOCUMENT_END_EVENT: e->data.document_end.implicit = 1; break;
    case YAML_SEQUENCE_START_EVENT: e->data.sequence_start.style = YAML_BLOCK_SEQUENCE_STYLE; break;
    case YAML_MAPPING_START_EVENT: e->data.mapping_start.style = YAML_BLOCK_MAPPING_STYLE; break;
    case YAML_SCALAR_EVENT:
        if (e->data.scalar.style == YAML_PLAIN_SCALAR_STYLE || !yaml_is_plain((const char *)e->data.scalar.value)) break;
        e->data.scalar.style = YAML_PLAIN_SCALAR_STYLE;
        e->data.scalar.plain_implicit = 1;
        break;
    default: break;
    }
}

bool yaml_write(struct slice json, struct buf *out) {
    yaml_parser_t parser;
    yaml_emitter_t emitter;
    if (!yaml_parser_initialize(&parser)) return false;
    bool ok = yaml_emitter_initialize(&emitter), end = false;
    if (ok) {
        yaml_parser_set_input_string(&parser, json.data, json.len);
        yaml_emitter_set_output(&emitter, written_cb, out);
        yaml_emitter_set_unicode(&emitter, 1);
        yaml_emitter_set_width(&emitter, -1); /* a text is one line: it can be searched for */
    }
    while (ok && !end) {
        yaml_event_t e;
        if (!(ok = yaml_parser_parse(&parser, &e))) break;
        end = e.type == YAML_STREAM_END_EVENT;
        restyle(&e);
        ok = yaml_emitter_emit(&emitter, &e); /* takes it over */
    }
    yaml_emitter_delete(&emitter);
    yaml_parser_delete(&parser);
    return ok;
}

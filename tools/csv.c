#include "tools/csv.h"

#include "proto/base/mem.h"

void csv_init(struct csv *c, struct slice text) {
    *c = (struct csv){.at = text.data, .end = text.data + text.len, .next_line = 1};
    if (slice_starts_with(text, SLICE_LIT("\xef\xbb\xbf"))) c->at += 3;
}

void csv_fini(struct csv *c) {
    mem_free(c->fields);
    buf_fini(&c->text);
    *c = (struct csv){0};
}

static enum csv_result csv_bad(struct csv *c, const char *error) {
    c->error = error;
    c->at = c->end;
    return CSV_BAD;
}

static bool csv_put(struct csv *c, uint8_t byte) { return buf_append(&c->text, slice_of(&byte, 1)); }

/* The field's start as an offset; pointers are made when the row is whole and the text no longer moves. */
static bool csv_field_begin(struct csv *c) {
    if (c->count == c->cap) {
        size_t cap = MAX_OF(c->cap * 2, (size_t)16);
        struct slice *grown = mem_realloc(c->fields, cap * sizeof(*grown));
        if (!grown) return false;
        c->fields = grown, c->cap = cap;
    }
    c->fields[c->count++].len = c->text.len;
    return true;
}

static bool csv_line_end(struct csv *c) {
    size_t n = c->at < c->end && *c->at == '\n' ? 1 : c->end - c->at >= 2 && c->at[0] == '\r' && c->at[1] == '\n' ? 2 : 0;
    c->at += n;
    c->next_line += n > 0;
    return n > 0;
}

static const char *csv_quoted(struct csv *c) {
    for (c->at++;; c->at++) {
        if (c->at == c->end) return "a quote is not closed";
        if (*c->at == '"' && (c->at + 1 == c->end || c->at[1] != '"')) break;
        if (*c->at == '"') c->at++;
        c->next_line += *c->at == '\n';
        if (!csv_put(c, *c->at)) return "no memory";
    }
    c->at++;
    return NULL;
}

static const char *csv_plain(struct csv *c) {
    for (; c->at < c->end && *c->at != ',' && *c->at != '\n' && !(*c->at == '\r' && c->at + 1 < c->end && c->at[1] == '\n'); c->at++) {
        if (*c->at == '"') return "a quote inside a field that is not quoted";
        if (!csv_put(c, *c->at)) return "no memory";
    }
    return NULL;
}

enum csv_result csv_next(struct csv *c) {
    if (c->error) return CSV_BAD;
    c->count = 0;
    c->text.len = 0;
    while (csv_line_end(c)) {}
    if (c->at == c->end) return CSV_END;
    c->line = c->next_line;
    for (;;) {
        if (!csv_field_begin(c)) return csv_bad(c, "no memory");
        const char *error = c->at < c->end && *c->at == '"' ? csv_quoted(c) : csv_plain(c);
        if (error || !csv_put(c, 0)) return csv_bad(c, error ? error : "no memory");
        if (c->at == c->end || csv_line_end(c)) break;
        if (*c->at != ',') return csv_bad(c, "text behind a closing quote");
        c->at++;
    }
    for (size_t i = 0; i < c->count; i++) {
        size_t start = c->fields[i].len, next = i + 1 < c->count ? c->fields[i + 1].len : c->text.len;
        c->fields[i] = slice_of(c->text.data + start, next - start - 1);
    }
    return CSV_ROW;
}

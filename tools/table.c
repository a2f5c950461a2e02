#include "tools/table.h"

#include <locale.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <wchar.h>

#include "proto/base/mem.h"

/* The next character; its length in bytes, 0: not UTF-8 (RFC 3629). */
static size_t utf8_next(const char *text, uint32_t *out) {
    const uint8_t *s = (const uint8_t *)text;
    static const uint32_t least[] = {0, 0, 0x80, 0x800, 0x10000};
    size_t n = s[0] < 0x80 ? 1 : (s[0] & 0xe0) == 0xc0 ? 2 : (s[0] & 0xf0) == 0xe0 ? 3 : (s[0] & 0xf8) == 0xf0 ? 4 : 0;
    if (n == 0) return 0;
    uint32_t c = n == 1 ? s[0] : s[0] & (0xffu >> (n + 1));
    for (size_t i = 1; i < n; i++) {
        if ((s[i] & 0xc0) != 0x80) return 0; /* also the final NUL */
        c = c << 6 | (s[i] & 0x3f);
    }
    if (c < least[n] || c > 0x10ffff || (c >= 0xd800 && c < 0xe000)) return 0;
    return *out = c, n;
}

/* What moves the cursor, changes colours or turns the direction of what follows. */
static bool is_control(uint32_t c) {
    return c < 0x20 || (c >= 0x7f && c < 0xa0) || c == 0x61c || (c >= 0x200b && c <= 0x200f) || (c >= 0x2028 && c <= 0x202e) || (c >= 0x2060 && c <= 0x206f) ||
           c == 0xfeff || (c >= 0xfff9 && c <= 0xfffb) || (c >= 0xe0000 && c <= 0xe007f);
}

/* The locale says what a character is, not how numbers are written. C.UTF-8 is there without any being installed. */
void text_begin(void) { setlocale(LC_CTYPE, "C.UTF-8"); }

/* What the C library does not know may be wide: rather a column too many than a table too wide. */
static unsigned char_width(uint32_t c) {
    int width = wcwidth((wchar_t)c);
    return width >= 0 ? (unsigned)width : c < 0x80 ? 1 : 2;
}

bool text_harmless(struct buf *out, const char *text) {
    while (*text) {
        uint32_t c;
        char shown[16];
        size_t n = utf8_next(text, &c);
        if (n && !is_control(c)) {
            if (!buf_append(out, slice_of(text, n))) return false;
            text += n;
            continue;
        }
        if (n == 0) snprintf(shown, sizeof(shown), "\\x%02x", (unsigned char)*text);
        else if (c == '\n' || c == '\t' || c == '\r') snprintf(shown, sizeof(shown), "\\%c", c == '\n' ? 'n' : c == '\t' ? 't' : 'r');
        else snprintf(shown, sizeof(shown), c < 0x80 ? "\\x%02x" : "\\u{%x}", c);
        if (!buf_append(out, slice_str(shown))) return false;
        text += n ? n : 1;
    }
    if (!buf_reserve(out, 1)) return false;
    out->data[out->len] = 0;
    return true;
}

void text_print(FILE *out, const char *text) {
    struct buf b = {0};
    fputs(text_harmless(&b, text) ? (const char *)b.data : "(no memory)", out);
    buf_fini(&b);
}

size_t text_width(const char *text) {
    size_t width = 0;
    uint32_t c;
    for (size_t n; *text; text += n ? n : 1) {
        n = utf8_next(text, &c);
        width += n ? char_width(c) : 1;
    }
    return width;
}

static size_t word_len(const char *text) { return strcspn(text, " "); }

static size_t word_width(const char *text, size_t len) {
    size_t width = 0;
    uint32_t c;
    for (size_t n, i = 0; i < len; i += n) {
        n = utf8_next(text + i, &c);
        width += n ? char_width(c) : 1;
        n = n ? n : 1;
    }
    return width;
}

void text_fold(FILE *out, const char *text, size_t at, size_t indent) {
    bool first = true;
    for (size_t n; *text; text += n) {
        text += strspn(text, " ");
        n = word_len(text);
        size_t width = word_width(text, n);
        if (!first && at + 1 + width > TABLE_WIDTH) {
            fprintf(out, "\n%*s", (int)indent, "");
            at = indent;
        } else if (!first) {
            fputc(' ', out);
            at++;
        }
        fwrite(text, 1, n, out);
        at += width;
        first = false;
    }
    fputc('\n', out);
}

bool text_is_colored(FILE *out) {
    const char *no = getenv("NO_COLOR"), *term = getenv("TERM");
    return isatty(fileno(out)) && !(no && *no) && !(term && strcmp(term, "dumb") == 0);
}

void table_init(struct table *t, const struct table_column *columns, unsigned count) {
    check(count > 0);
    check(count <= TABLE_COLUMNS_MAX);
    *t = (struct table){.columns = columns, .column_count = count};
}

void table_fini(struct table *t) {
    for (size_t i = 0; i < t->cell_count; i++) mem_free(t->cells[i]);
    mem_free(t->cells);
    *t = (struct table){0};
}

static char *cell_text(const char *format, va_list args) {
    struct buf clean = {0};
    char *raw = NULL;
    va_list again;
    va_copy(again, args);
    int n = vsnprintf(NULL, 0, format, args);
    if (n >= 0) raw = mem_alloc((size_t)n + 1);
    if (raw) vsnprintf(raw, (size_t)n + 1, format, again);
    va_end(again);
    if (!raw || !text_harmless(&clean, raw)) buf_fini(&clean);
    mem_free(raw);
    return (char *)buf_take(&clean);
}

void table_cell(struct table *t, const char *format, ...) {
    if (t->failed) return;
    if (t->cell_count == t->cell_cap) {
        size_t cap = MAX_OF(t->cell_cap * 2, (size_t)64);
        char **grown = mem_realloc(t->cells, cap * sizeof(*grown));
        if (!grown) {
            t->failed = true;
            return;
        }
        t->cells = grown, t->cell_cap = cap;
    }
    va_list args;
    va_start(args, format);
    char *text = cell_text(format, args);
    va_end(args);
    if (text) t->cells[t->cell_count++] = text;
    else t->failed = true;
}

/* Padded or cut to width; a cut shows as "~". */
static void cell_print(FILE *out, const char *text, size_t width, bool right, bool last) {
    size_t has = text_width(text);
    if (has > width) {
        size_t used = 0;
        uint32_t c;
        for (size_t n; *text && (n = utf8_next(text, &c)) && used + char_width(c) < width; text += n) {
            used += char_width(c);
            fwrite(text, 1, n, out);
        }
        fputc('~', out);
        has = used + 1;
        text = "";
    }
    if (right) fprintf(out, "%*s%s", (int)(width - has), "", text);
    else fprintf(out, "%s%*s", text, last ? 0 : (int)(width - has), "");
    fputs(last ? "\n" : "  ", out);
}

void table_print(const struct table *t, FILE *out, unsigned width) {
    size_t widths[TABLE_COLUMNS_MAX], sum = 2 * (t->column_count - 1);
    if (t->failed) {
        fprintf(out, "(no memory for the table)\n");
        return;
    }
    check(t->cell_count % t->column_count == 0);
    for (unsigned c = 0; c < t->column_count; c++) {
        widths[c] = text_width(t->columns[c].title);
        for (size_t i = c; i < t->cell_count; i += t->column_count) widths[c] = MAX_OF(widths[c], text_width(t->cells[i]));
        sum += widths[c];
    }
    for (unsigned i = 2 * t->column_count; i-- > 0 && sum > width;) { /* the last ones give first, then all of them once more */
        unsigned c = i % t->column_count, least = t->columns[c].shrinks_to;
        if (least && i < t->column_count) least = MIN_OF(least, (unsigned)TABLE_COLUMN_LEAST);
        if (!least || widths[c] <= least) continue;
        size_t give = MIN_OF(widths[c] - least, sum - width);
        widths[c] -= give;
        sum -= give;
    }
    bool colored = text_is_colored(out);
    if (colored) fputs(TEXT_BOLD, out);
    for (unsigned c = 0; c < t->column_count; c++) cell_print(out, t->columns[c].title, widths[c], t->columns[c].right, c + 1 == t->column_count);
    if (colored) fputs(TEXT_PLAIN, out);
    for (size_t row = 0; row < t->cell_count; row += t->column_count) {
        unsigned count = t->column_count;
        while (count > 1 && !*t->cells[row + count - 1]) count--; /* no blanks at a line's end */
        for (unsigned c = 0; c < count; c++) cell_print(out, t->cells[row + c], widths[c], t->columns[c].right, c + 1 == count);
    }
}

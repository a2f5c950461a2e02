/* Text for terminals: tables that fit a width, folded prose, and data made harmless (control characters, direction marks and broken UTF-8 are
 * shown, not sent). Widths are the C library's wcwidth() in a UTF-8 locale, so text_begin() comes first. */
#ifndef TOOLS_TABLE_H
#define TOOLS_TABLE_H

#include <stdio.h>

#include "proto/base/buf.h"

enum { TABLE_COLUMNS_MAX = 12, TABLE_COLUMN_LEAST = 4, TABLE_WIDTH = 80 };

struct table_column {
    const char *title;
    bool right;          /* numbers */
    unsigned shrinks_to; /* when the table is too wide; 0: never; to TABLE_COLUMN_LEAST when that does not do */
};
struct table {
    const struct table_column *columns;
    unsigned column_count;
    /* private */
    char **cells;
    size_t cell_count, cell_cap;
    bool failed; /* no memory: the table says so when printed */
};

void text_begin(void); /* once, before anything is measured */

void table_init(struct table *t, const struct table_column *columns, unsigned count); /* columns stay the caller's, and stay */
void table_cell(struct table *t, const char *format, ...) PRINTF_LIKE(2, 3);           /* left to right, row after row */
void table_print(const struct table *t, FILE *out, unsigned width);
void table_fini(struct table *t);

/* text made harmless, appended with a NUL behind it that is not counted. */
bool text_harmless(struct buf *out, const char *text) MUST_USE;
/* Printed so; "(no memory)" without memory. */
void text_print(FILE *out, const char *text);
/* Columns that harmless UTF-8 takes on a terminal: wide East Asian characters two, combining ones none. */
size_t text_width(const char *text);
/* Words of one paragraph, from column `at` on, folded before TABLE_WIDTH; further lines begin at column `indent`. Ends the line. */
void text_fold(FILE *out, const char *text, size_t at, size_t indent);
/* Escape sequences are for terminals alone, and for none where NO_COLOR is set or TERM is dumb. */
bool text_is_colored(FILE *out);
#define TEXT_BOLD "\033[1m"
#define TEXT_RED "\033[1;31m"
#define TEXT_PLAIN "\033[0m"

#endif

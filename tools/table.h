/* Text for terminals: tables that fit a width, and data made harmless (control characters, direction marks and broken UTF-8 are shown, not sent). */
#ifndef TOOLS_TABLE_H
#define TOOLS_TABLE_H

#include <stdio.h>

#include "proto/base/buf.h"

enum { TABLE_COLUMNS_MAX = 12, TABLE_WIDTH = 80 };

struct table_column {
    const char *title;
    bool right;          /* numbers */
    unsigned shrinks_to; /* when the table is too wide; 0: never */
};
struct table {
    const struct table_column *columns;
    unsigned column_count;
    /* private */
    char **cells;
    size_t cell_count, cell_cap;
    bool failed; /* no memory: the table says so when printed */
};

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

#endif

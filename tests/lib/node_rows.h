/* Rows of nodes as the list that the meta partition gives (engine/node_row.h). */
#ifndef TESTS_LIB_NODE_ROWS_H
#define TESTS_LIB_NODE_ROWS_H

#include "engine/node_row.h"

static inline struct slice node_rows_list(uint8_t *bytes, size_t cap, const struct node_row *rows, unsigned n) {
    struct writer w = writer_of(bytes, cap);
    for (unsigned i = 0; i < n; i++) {
        uint8_t row[NODE_ROW_BYTES_MAX];
        struct writer r = writer_of(row, sizeof row);
        node_row_encode(&rows[i], &r);
        write_be64(&w, rows[i].node_id), write_counted(&w, writer_slice(&r));
    }
    check(!w.full);
    return writer_slice(&w);
}

#endif

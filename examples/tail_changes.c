/* Follow the change stream and remember the place: stop it, or kill the server, and it goes on where it was. Against a server that runs:
 *
 *   cc $(pkg-config --cflags orderdb) tail_changes.c $(pkg-config --libs orderdb) -o tail_changes
 *   ./tail_changes 127.0.0.1:7400 my.cursor        # from the earliest event that is kept, then for ever
 *   ./tail_changes 127.0.0.1:7400 my.cursor once   # to the end of what is there
 */
#include <orderdb.h>
#include <stdio.h>
#include <string.h>

enum { CURSOR_BYTES_MAX = 1 << 18 };

static size_t cursor_load(const char *path, uint8_t *cursor) {
    FILE *f = fopen(path, "rb");
    size_t n = f ? fread(cursor, 1, CURSOR_BYTES_MAX, f) : 0;
    if (f) fclose(f);
    return n;
}

/* Beside the old one, then in its place: whatever happens, one of the two is whole. */
static int cursor_save(const char *path, const uint8_t *cursor, size_t n) {
    char beside[1024];
    snprintf(beside, sizeof(beside), "%s.new", path);
    FILE *f = fopen(beside, "wb");
    if (!f) return perror(beside), -1;
    int written = fwrite(cursor, 1, n, f) == n;
    if (fclose(f) != 0 || !written || rename(beside, path) != 0) return perror(path), -1;
    return 0;
}

static void show(const Orderdb__V1__ChangeEvent *e) {
    printf("%s order %lld of %s: %s\n", e->event_id, (long long)e->order_id, e->user_id, e->after ? e->after->status : "?");
}

int main(int argc, char **argv) {
    static uint8_t begin[CURSOR_BYTES_MAX];
    if (argc < 3) return fprintf(stderr, "usage: %s HOST:PORT CURSOR_FILE [once]\n", argv[0]), 2;
    struct orderdb_client *db = orderdb_open(argv[1], NULL);
    if (!db) return perror("orderdb_open"), 1;

    Orderdb__V1__ReadChangesRequest request = ORDERDB__V1__READ_CHANGES_REQUEST__INIT;
    request.cursor.data = begin, request.cursor.len = cursor_load(argv[2], begin);
    request.stop_at_end = argc > 3 && strcmp(argv[3], "once") == 0;
    struct orderdb_changes *changes = orderdb_read_changes(db, &request, NULL);
    enum orderdb_changes_result r = changes ? ORDERDB_CHANGES_TIMEOUT : ORDERDB_CHANGES_FAILED;
    int status = 0;
    while (status == 0 && r != ORDERDB_CHANGES_END && r != ORDERDB_CHANGES_FAILED) {
        const Orderdb__V1__ReadChangesResponse *m;
        r = orderdb_changes_next(changes, 1000, &m); /* lost connections are its business */
        if (r != ORDERDB_CHANGES_EVENTS) continue;
        for (size_t i = 0; i < m->n_events; i++) show(m->events[i]);
        /* First what was made of the events, then the cursor. In one transaction of yours there is no repetition at all. */
        size_t n;
        const uint8_t *cursor = orderdb_changes_cursor(changes, &n);
        if (fflush(stdout) != 0 || cursor_save(argv[2], cursor, n) != 0) status = 1;
    }
    if (r == ORDERDB_CHANGES_FAILED) {
        const struct orderdb_error *e = changes ? orderdb_changes_error(changes) : orderdb_error(db);
        fprintf(stderr, "changes: %s %s: %s\n", orderdb_error_code_name(e), orderdb_error_reason(e), orderdb_error_message(e));
        status = 1;
    }
    orderdb_changes_close(changes);
    orderdb_close(db);
    return status;
}

#include "tests/lib/store_world.h"

#include <dirent.h>

enum status world_try_open(struct world *w, char error[256]) {
    struct store_config config = {.memtable_bytes = w->memtable_bytes, .shared = w->shared, .deferred = w->deferred, .growing = w->growing, .grouped_kind = w->grouped_kind, .grouped_tail = w->grouped_tail};
    enum status st = w->rocks ? store_open_rocks(&w->store, w->path, &config, error) : store_open_mem(&w->store, w->disk);
    return st || !w->cache_bytes ? st : store_cache_rows(w->store, w->cache_bytes, 240, (struct slice){0});
}

void world_open(struct world *w) {
    char error[256] = "";
    enum status st = world_try_open(w, error);
    if (st) print_error("%s\n", error);
    assert_int_equal(st, STATUS_OK);
}

void world_close(struct world *w) {
    struct store_stats stats;
    store_get_stats(w->store, &stats);
    assert_int_equal(stats.snapshots, 0);
    assert_int_equal(stats.iterators, 0);
    store_close(w->store);
    w->store = NULL;
}

void world_reopen(struct world *w) {
    world_close(w);
    world_open(w);
}

void remove_tree(const char *path) {
    DIR *dir = opendir(path);
    if (dir) {
        for (const struct dirent *d; (d = readdir(dir));) {
            char name[512];
            if (d->d_name[0] == '.') continue;
            snprintf(name, sizeof name, "%s/%s", path, d->d_name);
            remove_tree(name);
        }
        closedir(dir);
    }
    remove(path);
}

struct world *world_new(bool rocks) {
    struct world *w = mem_new(struct world);
    w->rocks = rocks;
    w->memtable_bytes = 4 * MIB;
    arena_init(&w->arena, 64 * MIB);
    if (rocks) {
        strcpy(w->dir, "/tmp/test_store.XXXXXX");
        assert_non_null(mkdtemp(w->dir));
        snprintf(w->path, sizeof w->path, "%s/part", w->dir);
        w->shared = store_shared_new(16 * MIB, 1);
    } else {
        w->disk = store_mem_disk_new();
    }
    return w;
}

void world_free(struct world *w) {
    if (w->store) world_close(w);
    store_mem_disk_free(w->disk);
    store_shared_free(w->shared);
    if (w->rocks) remove_tree(w->dir);
    arena_fini(&w->arena);
    mem_free(w);
}

int world_setup_mem(void **state) {
    world_open(*state = world_new(false));
    return 0;
}

int world_setup_mem_cached(void **state) {
    struct world *w = world_new(false);
    w->cache_bytes = WORLD_CACHE_BYTES;
    world_open(*state = w);
    return 0;
}

static int setup_rocks(void **state, uint64_t cache_bytes) {
    struct world *w = world_new(true);
    const struct slice *deferred = *state;
    if (deferred) w->deferred = *deferred;
    w->cache_bytes = cache_bytes;
    world_open(*state = w);
    return 0;
}

int world_setup_rocks(void **state) { return setup_rocks(state, 0); }
int world_setup_rocks_cached(void **state) { return setup_rocks(state, WORLD_CACHE_BYTES); }

int world_teardown(void **state) {
    world_free(*state);
    return 0;
}

void rows_put(struct store_batch *b, const char *key, const char *value) { store_batch_put(b, slice_str(key), slice_str(value)); }
void rows_delete(struct store_batch *b, const char *key) { store_batch_delete(b, slice_str(key)); }
void rows_write(struct world *w, const char *rows) {
    struct store_batch *b = store_batch_new(w->store);
    char text[512];
    snprintf(text, sizeof text, "%s", rows);
    for (char *save, *t = strtok_r(text, " ", &save); t; t = strtok_r(NULL, " ", &save)) {
        char *eq = strchr(t, '=');
        if (t[0] == '-') rows_delete(b, t + 1);
        else *eq = 0, rows_put(b, t, eq + 1);
    }
    assert_int_equal(store_apply(w->store, b), STATUS_OK);
    store_batch_free(b);
}

const char *rows_get(struct world *w, const struct store_view *view, const char *key) {
    struct slice v;
    enum status st = store_get(view, slice_str(key), &w->arena, &v);
    if (st) return status_name(st);
    return arena_printf(&w->arena, "%.*s", (int)v.len, (const char *)v.data);
}

const char *rows_scan(struct world *w, const struct store_view *view, const char *lower, const char *upper, bool back) {
    char text[4096] = "";
    size_t len = 0;
    struct store_iter *it = store_iter_open(view, slice_str(lower), slice_str(upper));
    assert_non_null(it);
    for (back ? store_iter_last(it) : store_iter_first(it); store_iter_valid(it); back ? store_iter_prev(it) : store_iter_next(it)) {
        struct slice k = store_iter_key(it), v = store_iter_value(it);
        len += (size_t)snprintf(text + len, sizeof text - len, "%s%.*s=%.*s", len ? " " : "", (int)k.len, (const char *)k.data, (int)v.len, (const char *)v.data);
    }
    if (store_iter_status(it)) snprintf(text + len, sizeof text - len, "!%s", status_name(store_iter_status(it)));
    store_iter_close(it);
    return arena_printf(&w->arena, "%s", text);
}

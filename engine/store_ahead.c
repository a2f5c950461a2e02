/* Rows read ahead: a table of fixed size over copies of them, of one stamp of the files. */
#include "engine/store_ops.h"
#include "proto/base/hash.h"
#include "proto/base/mem.h"

enum { AHEAD_MAGIC = 0x41484541, AHEAD_HEADS = 2048 };

struct ahead_row {
    struct ahead_row *next;
    uint64_t hash;
    struct slice key, value;
};
struct store_ahead {
    uint32_t magic;
    struct store *store;
    uint64_t stamp, count;
    struct arena memory;
    struct ahead_row *heads[AHEAD_HEADS];
};

static void ahead_check(const struct store_ahead *a) {
    check(a != NULL);
    check(a->magic == AHEAD_MAGIC);
}

struct store_ahead *store_ahead_new(struct store *s, size_t bytes_max) {
    struct store_ahead *a = mem_new(struct store_ahead);
    if (!a) return NULL;
    a->magic = AHEAD_MAGIC;
    a->store = s;
    arena_init(&a->memory, bytes_max);
    store_ahead_begin(a);
    return a;
}

void store_ahead_free(struct store_ahead *a) {
    if (!a) return;
    ahead_check(a);
    a->magic = 0;
    arena_fini(&a->memory);
    mem_free(a);
}

void store_ahead_begin(struct store_ahead *a) {
    ahead_check(a);
    memset(a->heads, 0, sizeof a->heads);
    a->count = 0;
    arena_reset(&a->memory);
    a->stamp = a->store->ops->ahead_stamp(a->store); /* before anything is read: what becomes a file meanwhile makes all of it void */
}

/* false: no room. */
static bool ahead_keep(struct store_ahead *a, struct slice key, struct slice value) {
    struct ahead_row *r = arena_new(&a->memory, struct ahead_row);
    if (!r) return false;
    r->hash = hash64(key);
    r->key = arena_copy(&a->memory, key), r->value = value;
    if (!r->key.data) return false;
    struct ahead_row **head = &a->heads[r->hash % AHEAD_HEADS];
    r->next = *head;
    *head = r;
    a->count++;
    return true;
}

void store_ahead_read(struct store_ahead *a, const struct slice *keys, unsigned count, struct slice *rows) {
    ahead_check(a);
    check(count <= STORE_AHEAD_KEYS_MAX);
    memset(rows, 0, count * sizeof *rows);
    a->store->ops->ahead_get(a->store, keys, count, &a->memory, rows);
    for (unsigned i = 0; i < count; i++)
        if (rows[i].data && !ahead_keep(a, keys[i], rows[i])) rows[i] = (struct slice){0};
}

bool store_ahead_find(const struct store_view *view, struct slice key, struct slice *row) {
    const struct store_ahead *a = view->ahead;
    if (!a || !a->count || a->stamp != view->store->ops->ahead_stamp(view->store)) return false;
    uint64_t hash = hash64(key);
    for (const struct ahead_row *r = a->heads[hash % AHEAD_HEADS]; r; r = r->next)
        if (r->hash == hash && slice_equal(r->key, key)) return *row = r->value, true;
    return false;
}

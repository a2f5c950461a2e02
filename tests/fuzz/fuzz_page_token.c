/* Page tokens of strangers. A token is taken only if it is, byte for byte, one that this key has signed for this very query; the query that takes
 * it answers. First byte of the input: list or history. */
#include "engine/page_token.h"
#include "engine/query.h"
#include "proto/grpc.h"
#include "tests/lib/order_rows.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct store *store;
static struct machines *machines;
static int64_t order_id;
static const uint8_t key_bytes[32] = {1, 2, 3};
static const struct slice user = {(const uint8_t *)"alice", 5};

static void world_make(void) {
    static struct store_mem_disk *disk; /* kept: lives as long as the process */
    disk = store_mem_disk_new();
    check(disk);
    check(store_open_mem(&store, disk) == STATUS_OK);
    machines = machines_new();
    check(machines);
    struct store_batch *batch = store_batch_new(store);
    check(batch);
    for (int i = 0; i < 5; i++) {
        order_id = order_id_make(1750000000000 + i, slot_of_user(user), 0);
        order_rows_put(batch, store, machines, &(struct order_rows){.user_id = user, .order_id = order_id, .create_us = 1750000000000000 + i * 1000,
                                                                     .machine = machine_id(machines_find(machines, SLICE_LIT("retail"))),
                                                                     .status = machines_status_id(machines, SLICE_LIT("PAID")), .version = 5});
    }
    check(store_apply(store, batch) == STATUS_OK);
    store_batch_free(batch);
}

/* Signed by the one key that there is: everything before the mac decides it. */
static bool genuine(struct slice text) {
    uint8_t bytes[QUERY_TOKEN_BYTES_MAX * 4], mac[SHA256_BYTES];
    if (text.len > QUERY_TOKEN_BYTES_MAX || base64_decode(text, bytes) != PAGE_TOKEN_BYTES) return false;
    struct slice said = slice_of(bytes, PAGE_TOKEN_BYTES - 16);
    uint8_t derived[SHA256_BYTES];
    hmac_sha256(derived, slice_of(key_bytes, 32), SLICE_LIT("orderdb page token"));
    if (bytes[0] == 1) hmac_sha256(mac, slice_of(key_bytes, 32), said);
    else siphash(mac, derived, said);
    return memcmp(mac, bytes + PAGE_TOKEN_BYTES - 16, 16) == 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (!store) world_make();
    if (!size) return 0;
    struct slice token = slice_of(data + 1, size - 1), out;
    struct arena arena;
    struct failure failure;
    arena_init(&arena, 4 * MIB);
    failure_init(&failure, &arena);
    struct query q = {.view = {.store = store}, .machines = machines, .token_key = slice_of(key_bytes, 32), .arena = &arena, .failure = &failure};
    enum status st = data[0] & 1 ? query_history(&q, &(struct history_request){.order_id = order_id, .page_token = token}, &out)
                                 : query_list(&q, &(struct list_request){.user_id = user, .page_token = token, .page_size = 2}, &out);
    check(failure.status == st);
    check(st == STATUS_OK || st == STATUS_PAGE_TOKEN_INVALID);
    if (st == STATUS_OK && token.len) check(genuine(token));
    arena_fini(&arena);
    return 0;
}

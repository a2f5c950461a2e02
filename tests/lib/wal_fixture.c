#include "tests/lib/wal_fixture.h"

#include "proto/base/hash.h"
#include "tests/lib/test.h"

static void on_synced(void *ctx, uint64_t batch) {
    struct fixture *f = ctx;
    f->synced_count++;
    f->synced_last = batch;
}

static enum status on_record(void *ctx, const struct wal_record *r) {
    struct fixture *f = ctx;
    check(f->replayed_count < FIXTURE_REPLAYED_MAX);
    f->replayed[f->replayed_count++] = (struct fixture_record){
        .group = r->group, .index = r->index, .term = r->term, .type = r->type, .bytes = r->data.len, .crc = crc32c(0, r->data.data, r->data.len)};
    return f->replay_refuses;
}

static enum status on_read(void *ctx, const struct wal_record *r) {
    struct fixture *f = ctx;
    return f->read_refuses ? f->read_refuses : on_record(ctx, r);
}

int fixture_setup(void **state) {
    struct fixture *f = calloc(1, sizeof *f);
    check(f);
    f->world = sim_world_new(1);
    f->disk = sim_disk_new(f->world);
    f->config = (struct wal_config){
        .dir = "log", .segment_bytes = 64 << 10, .batch_bytes_max = 40 << 10, .live_bytes_max = 256 << 10, .ctx = f, .synced = on_synced};
    return *state = f, 0;
}

int fixture_teardown(void **state) {
    struct fixture *f = *state;
    if (f->wal) fixture_close(f);
    sim_disk_free(f->disk);
    sim_world_free(f->world);
    free(f);
    return 0;
}

enum status fixture_try_open(struct fixture *f) {
    check(!f->env);
    f->env = sim_env_open(f->world, f->disk);
    f->replayed_count = 0;
    enum status st = wal_open(&f->wal, f->env, &f->config, on_record, f->error);
    if (st) sim_env_close(f->env), f->env = NULL;
    return st;
}

void fixture_open(struct fixture *f) {
    enum status st = fixture_try_open(f);
    if (st) fail_msg("open: %s: %s", status_name(st), f->error);
}

void fixture_close(struct fixture *f) {
    wal_close(f->wal);
    f->wal = NULL;
    sim_env_close(f->env);
    f->env = NULL;
}

void fixture_crash(struct fixture *f) {
    sim_disk_crash(f->disk);
    fixture_close(f);
}

void fixture_reopen(struct fixture *f) {
    fixture_close(f);
    fixture_open(f);
}

void fixture_append(struct fixture *f, uint64_t group, uint64_t index, const char *text) {
    struct slice s = slice_str(text);
    assert_int_equal(wal_append(f->wal, group, index, 1, 1, &s, 1), STATUS_OK);
}

void fixture_drain(struct fixture *f) {
    while (wal_busy(f->wal)) assert_true(sim_world_step(f->world));
}

void fixture_sync(struct fixture *f) {
    assert_true(wal_commit(f->wal) > 0);
    fixture_drain(f);
}

enum status fixture_read(struct fixture *f, uint64_t group, uint64_t first, uint64_t last) {
    f->replayed_count = 0;
    return wal_read(f->wal, group, first, last, on_read, f);
}

void assert_replayed(const struct fixture *f, unsigned at, uint64_t group, uint64_t index, const char *text) {
    assert_true(at < f->replayed_count);
    const struct fixture_record *r = &f->replayed[at];
    assert_int_equal(r->group, group);
    assert_int_equal(r->index, index);
    assert_int_equal(r->bytes, strlen(text));
    assert_int_equal(r->crc, crc32c(0, text, strlen(text)));
}

/* The promises of server/identity.h. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "server/identity.h"
#include "tests/lib/test.h"

static char dir[64], error[512];
static const struct identity_wish nothing_asked = {.cores_by_default = 2};

static void says(const char *part) {
    if (!strstr(error, part)) fail_msg("expected '%s' in: %s", part, error);
}
static int make_dir(void **state) {
    strcpy(dir, "/tmp/test_identity.XXXXXX");
    return mkdtemp(dir) ? 0 : -1;
}
static int remove_dir(void **state) {
    char command[96];
    snprintf(command, sizeof command, "rm -rf %s", dir);
    return system(command);
}
static int open_dir(void) {
    int d, lock;
    assert_int_equal(data_dir_open(dir, &d, &lock, error), STATUS_OK);
    close(lock);
    return d;
}
static void file_put(const char *name, const void *p, size_t n) {
    char path[96];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    assert_int_equal(write(fd, p, n), n);
    close(fd);
}

static const struct identity example = {
    .node_id = 1,
    .cluster_id = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15},
    .cores = 2,
    .partitions = 4,
    .token_key = {0xff, 0xfe, 0xfd},
};

static const struct identity went_on_alone = {
    .node_id = 3,
    .clustered = true,
    .recovered = true,
    .cluster_id = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15},
    .founders_id = {0xf0, 0xf1, 0xf2},
    .cores = 2,
    .partitions = 4,
    .token_key = {0xff, 0xfe, 0xfd},
};

static void is_golden(const char *name, const struct identity *id, size_t len) {
    uint8_t bytes[IDENTITY_BYTES_MAX];
    assert_int_equal(identity_encode(id, bytes), len);
    assert_golden(name, slice_of(bytes, len));
    struct identity back;
    assert_int_equal(identity_decode(&back, slice_of(bytes, len)), STATUS_OK);
    assert_memory_equal(&back, id, sizeof back);
}

static void golden_bytes(void **state) {
    is_golden("identity", &example, IDENTITY_BYTES);
    is_golden("identity_recovered", &went_on_alone, IDENTITY_BYTES_MAX);
}

static void damage_of(const struct identity *whole) {
    uint8_t bytes[IDENTITY_BYTES_MAX + 1] = {0};
    struct identity id;
    size_t len = identity_encode(whole, bytes);
    for (size_t bit = 0; bit < len * 8; bit++) {
        bytes[bit / 8] ^= (uint8_t)(1 << bit % 8);
        uint32_t format = get_le32(bytes + 8);
        enum status st = identity_decode(&id, slice_of(bytes, len));
        assert_int_equal(st, format < 1 || format > IDENTITY_FORMAT ? STATUS_FORMAT_UNKNOWN : STATUS_CHECKSUM_MISMATCH);
        bytes[bit / 8] ^= (uint8_t)(1 << bit % 8);
    }
    for (size_t n = 0; n < len; n++) assert_int_equal(identity_decode(&id, slice_of(bytes, n)), STATUS_CHECKSUM_MISMATCH);
    assert_int_equal(identity_decode(&id, slice_of(bytes, len + 1)), STATUS_CHECKSUM_MISMATCH);
}

static void damage_is_found(void **state) {
    uint8_t bytes[IDENTITY_BYTES_MAX];
    struct identity id;
    damage_of(&example);
    damage_of(&went_on_alone);
    struct identity odd = example;
    odd.partitions = 1; /* fewer than cores */
    identity_encode(&odd, bytes);
    assert_int_equal(identity_decode(&id, slice_of(bytes, IDENTITY_BYTES)), STATUS_CHECKSUM_MISMATCH);
}

static void made_once_then_kept(void **state) {
    struct identity a, b;
    struct stat st;
    int d = open_dir();
    assert_int_equal(identity_open(&a, d, dir, &nothing_asked, error), STATUS_OK);
    assert_int_equal(a.cores, 2);
    assert_int_equal(a.partitions, 4); /* twice the cores */
    assert_int_equal(fstatat(d, "NODE", &st, 0), 0);
    assert_int_equal(st.st_mode & 0777, 0600);
    assert_int_equal(fstatat(d, "NODE.tmp", &st, 0), -1);
    const struct identity_wish other_machine = {.cores_by_default = 64};
    assert_int_equal(identity_open(&b, d, dir, &other_machine, error), STATUS_OK);
    assert_memory_equal(&a, &b, sizeof a);
    close(d);
}

static void other_numbers_are_refused(void **state) {
    struct identity id;
    int d = open_dir();
    assert_int_equal(identity_open(&id, d, dir, &(struct identity_wish){.cores = 2, .partitions = 6}, error), STATUS_OK);
    assert_int_equal(identity_open(&id, d, dir, &(struct identity_wish){.cores = 2, .partitions = 6}, error), STATUS_OK);
    assert_int_equal(identity_open(&id, d, dir, &(struct identity_wish){.cores = 3}, error), STATUS_FIELD_INVALID);
    says("--cores 2");
    says("--cores 3");
    assert_int_equal(identity_open(&id, d, dir, &(struct identity_wish){.partitions = 8}, error), STATUS_FIELD_INVALID);
    says("--partitions 6");
    says("--partitions 8");
    close(d);
}

static void one_of_several_stays_who_it_is(void **state) {
    struct identity made, id;
    struct cluster_identity who = {.node_id = 3, .cluster_id = {7, 7, 7}, .token_key = {9}};
    struct identity_wish wish = {.cores_by_default = 2, .cluster = &who};
    uint8_t bytes[IDENTITY_BYTES_MAX];
    int d = open_dir();
    assert_int_equal(identity_open(&made, d, dir, &wish, error), STATUS_OK);
    assert_true(made.clustered);
    assert_int_equal(made.node_id, 3);
    assert_memory_equal(made.cluster_id, who.cluster_id, sizeof who.cluster_id);
    assert_memory_equal(made.token_key, who.token_key, sizeof who.token_key);
    identity_encode(&made, bytes);
    assert_int_equal(get_le32(bytes + 8), 2); /* an orderd that knows no others refuses it */
    assert_int_equal(identity_open(&id, d, dir, &wish, error), STATUS_OK);
    assert_memory_equal(&id, &made, sizeof id);
    assert_int_equal(identity_open(&id, d, dir, &nothing_asked, error), STATUS_FIELD_INVALID);
    says("is node 3 of a cluster");
    who.node_id = 2;
    assert_int_equal(identity_open(&id, d, dir, &wish, error), STATUS_FIELD_INVALID);
    says("is node 3's, not that of --node-id 2");
    who.node_id = 3, who.cluster_id[0] = 8;
    assert_int_equal(identity_open(&id, d, dir, &wish, error), STATUS_FIELD_INVALID);
    says("belongs to another cluster");
    wish.told = true;
    assert_int_equal(identity_open(&id, d, dir, &wish, error), STATUS_FIELD_INVALID);
    says("is not of the cluster of the nodes of --join");
    wish.told = false;
    assert_int_equal(unlinkat(d, "NODE", 0), 0);
    assert_int_equal(identity_open(&id, d, dir, &nothing_asked, error), STATUS_OK);
    assert_false(id.clustered);
    assert_int_equal(identity_open(&id, d, dir, &wish, error), STATUS_FIELD_INVALID);
    says("was made by a single node");
    close(d);
}

/* Its flags say what they said before; a node that tells it the cluster's id has to say the new one. */
static void who_went_on_alone_is_who_it_was_and_of_another_cluster(void **state) {
    struct identity id;
    struct cluster_identity who = {.node_id = 3, .cluster_id = {0xf0, 0xf1, 0xf2}, .token_key = {9}};
    struct identity_wish flags = {.cluster = &who}, told = {.cluster = &who, .told = true};
    int d = open_dir();
    assert_int_equal(identity_replace(&went_on_alone, d), 0);
    assert_int_equal(identity_open(&id, d, dir, &flags, error), STATUS_OK);
    assert_memory_equal(id.cluster_id, went_on_alone.cluster_id, CLUSTER_ID_BYTES);
    assert_int_equal(identity_open(&id, d, dir, &told, error), STATUS_FIELD_INVALID);
    says("went on alone");
    memcpy(who.cluster_id, went_on_alone.cluster_id, CLUSTER_ID_BYTES);
    assert_int_equal(identity_open(&id, d, dir, &told, error), STATUS_OK);
    assert_int_equal(identity_open(&id, d, dir, &flags, error), STATUS_FIELD_INVALID);
    says("belongs to another cluster");
    close(d);
}

static void fewer_partitions_than_cores(void **state) {
    struct identity id;
    int d = open_dir();
    assert_int_equal(identity_open(&id, d, dir, &(struct identity_wish){.cores = 4, .partitions = 2}, error), STATUS_FIELD_INVALID);
    says("--partitions 2 is less than --cores 4");
    /* Only partitions asked: the machine's number of cores gives way. */
    assert_int_equal(identity_open(&id, d, dir, &(struct identity_wish){.partitions = 1, .cores_by_default = 8}, error), STATUS_OK);
    assert_int_equal(id.cores, 1);
    close(d);
}

static void bad_files_are_named(void **state) {
    struct identity id;
    uint8_t bytes[IDENTITY_BYTES_MAX];
    int d = open_dir();
    identity_encode(&example, bytes);
    bytes[40] ^= 1;
    file_put("NODE", bytes, IDENTITY_BYTES);
    assert_int_equal(identity_open(&id, d, dir, &nothing_asked, error), STATUS_CHECKSUM_MISMATCH);
    says(dir);
    says("/NODE is damaged");
    bytes[40] ^= 1;
    bytes[8] = 9;
    file_put("NODE", bytes, IDENTITY_BYTES);
    assert_int_equal(identity_open(&id, d, dir, &nothing_asked, error), STATUS_FORMAT_UNKNOWN);
    says("format 9");
    file_put("NODE", bytes, 0);
    assert_int_equal(identity_open(&id, d, dir, &nothing_asked, error), STATUS_CHECKSUM_MISMATCH);
    assert_int_equal(unlinkat(d, "NODE", 0), 0);
    assert_int_equal(mkdirat(d, "core-0", 0700), 0);
    assert_int_equal(identity_open(&id, d, dir, &nothing_asked, error), STATUS_CHECKSUM_MISMATCH);
    says("holds logs but no NODE file");
    assert_int_equal(mkdirat(d, "NODE", 0700), 0);
    assert_int_equal(identity_open(&id, d, dir, &nothing_asked, error), STATUS_IO_FAILED);
    close(d);
}

static void one_server_a_directory(void **state) {
    int d, lock, d2, lock2;
    assert_int_equal(data_dir_open(dir, &d, &lock, error), STATUS_OK);
    assert_int_equal(data_dir_open(dir, &d2, &lock2, error), STATUS_IO_FAILED);
    says("in use by another orderd");
    says(dir);
    assert_int_equal(d2, -1);
    close(lock);
    assert_int_equal(data_dir_open(dir, &d2, &lock2, error), STATUS_OK);
    close(d), close(d2), close(lock2);
}

static void directory_is_made_and_refusals_name_it(void **state) {
    int d, lock;
    struct stat st;
    char path[96];
    snprintf(path, sizeof path, "%s/new", dir);
    assert_int_equal(data_dir_open(path, &d, &lock, error), STATUS_OK);
    assert_int_equal(fstat(d, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0700);
    close(d), close(lock);
    snprintf(path, sizeof path, "%s/a/b", dir);
    assert_int_equal(data_dir_open(path, &d, &lock, error), STATUS_IO_FAILED);
    says("/a/b cannot be made: No such file");
    file_put("file", "x", 1);
    snprintf(path, sizeof path, "%s/file", dir);
    assert_int_equal(data_dir_open(path, &d, &lock, error), STATUS_IO_FAILED);
    says("Not a directory");
    snprintf(path, sizeof path, "%s/shut", dir);
    assert_int_equal(mkdir(path, 0500), 0);
    if (geteuid() == 0) return; /* root writes everywhere */
    assert_int_equal(data_dir_open(path, &d, &lock, error), STATUS_IO_FAILED);
    says("is not writable: Permission denied");
}

#define WITH_DIR(f) cmocka_unit_test_setup_teardown(f, make_dir, remove_dir)
int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(golden_bytes),
        cmocka_unit_test(damage_is_found),
        WITH_DIR(made_once_then_kept),
        WITH_DIR(other_numbers_are_refused),
        WITH_DIR(one_of_several_stays_who_it_is),
        WITH_DIR(who_went_on_alone_is_who_it_was_and_of_another_cluster),
        WITH_DIR(fewer_partitions_than_cores),
        WITH_DIR(bad_files_are_named),
        WITH_DIR(one_server_a_directory),
        WITH_DIR(directory_is_made_and_refusals_name_it),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* The promises of server/cluster.h: what flags say of a cluster, and what is derived from it. */
#include "tests/lib/test.h"

#include <fcntl.h>
#include <netinet/in.h>
#include <unistd.h>

#include "server/cluster.h"
#include "tests/lib/node_rows.h"

static char path[64], error[512];
static struct config config;

static void says(const char *part) {
    if (!strstr(error, part)) fail_msg("expected '%s' in: %s", part, error);
}
static void key_is(size_t len, uint8_t with) {
    uint8_t bytes[CLUSTER_KEY_BYTES_MAX + 1];
    memset(bytes, with, sizeof bytes);
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    assert_int_equal(write(fd, bytes, len), len);
    close(fd);
}
static int begin(void **state) {
    strcpy(path, "/tmp/test_cluster.XXXXXX");
    int fd = mkstemp(path);
    if (fd < 0) return -1;
    close(fd);
    key_is(CLUSTER_KEY_BYTES_MIN, 1);
    config_defaults(&config);
    strcpy(config.cluster_key_file, path);
    return 0;
}
static int end(void **state) { return unlink(path); }

static enum status read_with(struct cluster *c, uint64_t node_id, const char *peers) {
    bool used;
    config.node_id = node_id;
    strcpy(config.peers, peers);
    enum status st = cluster_read(c, &used, &config, error);
    assert_int_equal(used, *peers != 0);
    return st;
}
static void refused(uint64_t node_id, const char *peers, const char *why) {
    struct cluster c;
    assert_int_not_equal(read_with(&c, node_id, peers), STATUS_OK);
    says(why);
}

static void peers_are_sorted_and_parsed(void **state) {
    struct cluster c;
    assert_int_equal(read_with(&c, 20, "300=127.0.0.1:3,4=[::1]:4,20=127.0.0.1:2"), STATUS_OK);
    assert_int_equal(c.members.count, 3);
    assert_int_equal(c.members.index, GROUP_FIRST_INDEX);
    assert_int_equal(c.identity.node_id, 20);
    static const uint64_t ids[] = {4, 20, 300};
    for (unsigned i = 0; i < 3; i++) {
        assert_int_equal(c.members.member[i].node_id, ids[i]);
        assert_int_equal(c.members.member[i].kind, GROUP_VOTER);
        assert_int_equal(c.peers[i].node_id, ids[i]);
    }
    assert_int_equal(c.peers[0].address.sa.ss_family, AF_INET6);
    assert_int_equal(ntohs(((struct sockaddr_in *)&c.peers[2].address.sa)->sin_port), 3);
}

static void all_nodes_derive_the_same_and_other_clusters_do_not(void **state) {
    struct cluster a, b, c;
    assert_int_equal(read_with(&a, 1, "1=127.0.0.1:1,2=127.0.0.1:2,3=127.0.0.1:3"), STATUS_OK);
    assert_int_equal(read_with(&b, 3, "3=127.0.0.1:33,2=127.0.0.1:22,1=127.0.0.1:11"), STATUS_OK); /* other addresses, another order */
    assert_memory_equal(a.identity.cluster_id, b.identity.cluster_id, CLUSTER_ID_BYTES);
    assert_memory_equal(a.identity.token_key, b.identity.token_key, TOKEN_KEY_BYTES);
    assert_memory_equal(a.link_key, b.link_key, sizeof a.link_key);
    assert_memory_not_equal(a.identity.token_key, a.link_key, sizeof a.link_key);
    assert_int_equal(read_with(&c, 3, "1=127.0.0.1:1,2=127.0.0.1:2,3=127.0.0.1:3,4=127.0.0.1:4"), STATUS_OK); /* founded by one node more, it is another cluster */
    assert_memory_not_equal(a.identity.cluster_id, c.identity.cluster_id, CLUSTER_ID_BYTES);
    key_is(CLUSTER_KEY_BYTES_MIN, 2);
    assert_int_equal(read_with(&c, 1, "1=127.0.0.1:1,2=127.0.0.1:2,3=127.0.0.1:3"), STATUS_OK);
    assert_memory_not_equal(a.identity.cluster_id, c.identity.cluster_id, CLUSTER_ID_BYTES);
    assert_memory_not_equal(a.identity.token_key, c.identity.token_key, TOKEN_KEY_BYTES);
}

static void what_nodes_say_is_kept(void **state) {
    struct cluster c;
    struct link_hello said = {.zone = "z", .address = "10.0.0.3:7400"};
    assert_int_equal(read_with(&c, 1, "1=127.0.0.1:1,3=127.0.0.1:3"), STATUS_OK);
    assert_int_equal(cluster_see(&c, 1).links, 0);
    cluster_tell(&c, 3, &said);
    cluster_tell(&c, 3, &said); /* of two cores */
    cluster_tell(&c, 3, NULL);
    struct cluster_peer p = cluster_see(&c, 1);
    assert_int_equal(p.links, 1);
    assert_string_equal(p.zone, "z");
    assert_string_equal(p.client_address, "10.0.0.3:7400");
    cluster_tell(&c, 3, NULL);
    assert_int_equal(cluster_see(&c, 1).links, 0);
    assert_string_equal(cluster_see(&c, 1).zone, "z"); /* down, and not forgotten */
    cluster_fini(&c);
}

static void leads_go_by_turns(void **state) {
    struct cluster c;
    struct link_hello near = {.zone = "near"}, far = {.zone = "far"};
    assert_int_equal(read_with(&c, 4, "2=127.0.0.1:1,4=127.0.0.1:3,9=127.0.0.1:4"), STATUS_OK);
    static const uint64_t turns[] = {2, 4, 9, 2};
    for (unsigned p = 0; p < 4; p++) assert_int_equal(cluster_leader_wanted(&c, "near", "", p), turns[p]);
    for (unsigned p = 0; p < 4; p++) assert_int_equal(cluster_leader_wanted(&c, "near", "nowhere", p), turns[p]);
    assert_int_equal(cluster_leader_wanted(&c, "near", "near", 0), 4); /* the others' zones are not known yet */
    cluster_tell(&c, 9, &near);
    cluster_tell(&c, 2, &far);
    static const uint64_t zoned[] = {4, 9, 4, 9};
    for (unsigned p = 0; p < 4; p++) assert_int_equal(cluster_leader_wanted(&c, "near", "near", p), zoned[p]);
    cluster_tell(&c, 9, NULL), cluster_tell(&c, 2, NULL);
    assert_int_equal(cluster_leader_wanted(&c, "near", "near", 1), 9); /* down: it is waited for */
    cluster_fini(&c);
    assert_int_equal(read_with(&c, 1, "1=127.0.0.1:1"), STATUS_OK);
    assert_int_equal(cluster_leader_wanted(&c, "", "", 0), 0);
    cluster_fini(&c);
}

static void leads_rest_while_nodes_differ_about_their_zone(void **state) {
    struct cluster c;
    struct link_hello said = {.zone = "z"};
    strcpy(config.lead_zone, "near");
    assert_int_equal(read_with(&c, 1, "1=127.0.0.1:1,3=127.0.0.1:3"), STATUS_OK);
    assert_true(cluster_lead_zone_agreed(&c));
    cluster_tell(&c, 3, &said);
    assert_true(cluster_lead_zone_agreed(&c)); /* it has told nothing: it may be of a version that does not */
    assert_true(cluster_tell_lead_zone(&c, 3, "near"));
    assert_true(cluster_lead_zone_agreed(&c));
    assert_false(cluster_tell_lead_zone(&c, 3, ""));
    assert_false(cluster_lead_zone_agreed(&c));
    cluster_tell(&c, 3, NULL);
    assert_true(cluster_lead_zone_agreed(&c)); /* who is gone is not waited for */
    cluster_tell(&c, 3, &said);
    assert_true(cluster_lead_zone_agreed(&c)); /* it came back, perhaps with another */
    cluster_fini(&c);
    strcpy(config.lead_zone, "a b");
    refused(1, "1=127.0.0.1:1", "--lead-zone 'a b'");
    *config.lead_zone = 0;
}

static void what_the_meta_partition_has_is_learnt(void **state) {
    struct cluster c;
    struct cluster_peer p;
    uint8_t bytes[1024];
    assert_int_equal(read_with(&c, 1, "1=127.0.0.1:1,2=127.0.0.1:2"), STATUS_OK);
    struct node_row rows[] = {{1, NODE_STATE_UP, 1, SLICE_LIT("a"), SLICE_LIT("10.0.0.1:1")}, {2, NODE_STATE_DRAINING, 2, SLICE_LIT("b"), SLICE_LIT("10.0.0.2:1")}, {5, NODE_STATE_JOINED, 1, SLICE_LIT("c"), SLICE_LIT("10.0.0.5:1")}};
    assert_true(cluster_map(&c, 4));
    assert_int_equal(cluster_wanted(&c, 0).count, 0);
    assert_true(cluster_learn(&c, node_rows_list(bytes, sizeof bytes, rows, 3)));
    assert_false(cluster_learn(&c, node_rows_list(bytes, sizeof bytes, rows, 3))); /* nothing new */
    assert_int_equal(cluster_epoch(&c), 4);
    assert_int_equal(cluster_count(&c), 3);
    for (uint32_t n = 0; n < 5; n++) assert_int_equal(cluster_wanted(&c, n).count, 2);
    struct engine_wanted w = cluster_wanted(&c, 4);
    assert_true(w.node_id[0] == 1 && w.node_id[1] == 2); /* who drains is a member; who has only joined is not */
    assert_true(cluster_find(&c, 5, &p));
    assert_int_equal(p.state, NODE_STATE_JOINED);
    assert_int_equal(ntohs(((struct sockaddr_in *)&p.address.sa)->sin_port), 1);
    assert_string_equal(p.zone, "c");
    assert_true(cluster_find(&c, 2, &p));
    assert_int_equal(ntohs(((struct sockaddr_in *)&p.address.sa)->sin_port), 2); /* as --peers says */
    for (unsigned i = 0; i < 4; i++) assert_int_equal(cluster_leader_wanted(&c, "a", "", i), 1); /* the others may not lead */
    assert_false(cluster_find(&c, 9, &p));
    cluster_fini(&c);
}

static void who_joins_knows_nobody_and_is_no_member(void **state) {
    struct cluster c;
    bool used;
    strcpy(config.join, "127.0.0.1:1");
    config.node_id = 4, *config.peers = 0;
    assert_int_equal(cluster_read(&c, &used, &config, error), STATUS_OK);
    assert_true(used && c.joins);
    assert_int_equal(c.members.count, 1);
    assert_int_equal(c.members.member[0].node_id, NODE_ID_MAX + 1); /* a vote that nobody has */
    assert_int_equal(cluster_count(&c), 1);
    cluster_fini(&c);
    config.node_id = 0;
    assert_int_equal(cluster_read(&c, &used, &config, error), STATUS_FIELD_INVALID);
    says("--join needs a --node-id");
    config.node_id = 4;
    strcpy(config.peers, "4=127.0.0.1:1");
    assert_int_equal(cluster_read(&c, &used, &config, error), STATUS_FIELD_INVALID);
    says("one of them");
    *config.join = 0;
}

static void what_makes_no_sense_is_refused(void **state) {
    refused(1, "2=127.0.0.1:2,3=127.0.0.1:3", "--node-id 1 is not among --peers");
    refused(1, "1=127.0.0.1:1,1=127.0.0.1:2", "node 1 is there twice");
    refused(1, "1=127.0.0.1", "node 1: address '127.0.0.1' is not HOST:PORT");
    refused(1, "1=127.0.0.1:1,", "'' is not ID=HOST:PORT");
    refused(1, "0=127.0.0.1:1", "ID from 1 to 1000000");
    refused(1, "1000001=127.0.0.1:1", "ID from 1 to 1000000");
    refused(1, "a=127.0.0.1:1", "is not ID=HOST:PORT");
    refused(1, "1=[::1]:1,2=[::1]:1,3=[::1]:1,4=[::1]:1,5=[::1]:1,6=[::1]:1,7=[::1]:1,8=[::1]:1", "more than 7 nodes");
    refused(1, "", "go with --peers");
    key_is(CLUSTER_KEY_BYTES_MIN - 1, 1);
    refused(1, "1=127.0.0.1:1", "has 31 bytes");
    key_is(CLUSTER_KEY_BYTES_MAX + 1, 1);
    refused(1, "1=127.0.0.1:1", "expected 32 to 4096");
    strcpy(config.cluster_key_file, "/nowhere/at/all");
    refused(1, "1=127.0.0.1:1", "No such file");
    *config.cluster_key_file = 0;
    refused(1, "1=127.0.0.1:1", "needs --cluster-key-file");
    struct cluster c;
    assert_int_equal(read_with(&c, 0, ""), STATUS_OK); /* a single node */
    strcpy(config.zone, "a zone");
    assert_int_equal(read_with(&c, 0, ""), STATUS_FIELD_INVALID);
    says("--zone");
}

int main(void) {
#define T(f) cmocka_unit_test_setup_teardown(f, begin, end)
    const struct CMUnitTest tests[] = {T(peers_are_sorted_and_parsed), T(all_nodes_derive_the_same_and_other_clusters_do_not), T(what_nodes_say_is_kept), T(leads_go_by_turns), T(leads_rest_while_nodes_differ_about_their_zone), T(what_the_meta_partition_has_is_learnt), T(who_joins_knows_nobody_and_is_no_member), T(what_makes_no_sense_is_refused)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}

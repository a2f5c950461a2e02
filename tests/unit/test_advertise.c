/* The promises of server/advertise.h: what clients and other nodes are told, and what is refused since nobody could reach it. */
#include "tests/lib/test.h"

#include "server/advertise.h"
#include "server/cluster.h"
#include "server/node.h"

static struct config config;
static struct node node;
static struct cluster cluster;
static char error[512];

/* As node_start does: then bound to `bound` and :7401, which the kernel might have chosen. */
static enum status told(const char *listen, const char *peer_listen, struct cluster *c) {
    struct address a, b;
    char why[256];
    assert_int_equal(address_parse(&a, listen, why), STATUS_OK);
    assert_int_equal(address_parse(&b, peer_listen, why), STATUS_OK);
    snprintf(config.listen, sizeof config.listen, "%s", listen);
    node = (struct node){.config = &config, .cluster = c};
    *error = 0;
    enum status st = advertise_read(&node, &a, &b, error);
    if (st == STATUS_OK) advertise_bound(&node, &a, &b);
    return st;
}
static void refused(const char *listen, const char *peer_listen, struct cluster *c, const char *part) {
    assert_int_not_equal(told(listen, peer_listen, c), STATUS_OK);
    if (!strstr(error, part)) fail_msg("expected '%s' in: %s", part, error);
}
static void is_told(const char *client, const char *peer) {
    assert_string_equal(node.client_address, client);
    assert_string_equal(node.peer_address, peer);
}
static int begin(void **state) {
    char why[256];
    config_defaults(&config);
    config.node_id = 4;
    cluster = (struct cluster){.joins = true, .count = 1, .peers = {{.node_id = 4}}};
    pthread_mutex_init(&cluster.lock, NULL);
    return address_parse(&cluster.peers[0].address, "10.0.0.4:9", why) != STATUS_OK;
}

static void without_flags_it_is_what_is_bound(void **state) {
    assert_int_equal(told("127.0.0.1:7400", "127.0.0.1:7401", NULL), STATUS_OK);
    is_told("127.0.0.1:7400", "127.0.0.1:7401");
    assert_int_equal(told("[::1]:7400", "127.0.0.1:7401", &cluster), STATUS_OK);
    is_told("[::1]:7400", "127.0.0.1:7401");
    assert_int_equal(told("0.0.0.0:7400", "127.0.0.1:7401", NULL), STATUS_OK); /* a single node has nobody to tell of */
}

static void behind_all_interfaces_a_cluster_must_be_told(void **state) {
    refused("0.0.0.0:7400", "127.0.0.1:7401", &cluster, "--advertise HOST:PORT");
    refused(":7400", "127.0.0.1:7401", &cluster, "--listen :7400");
    refused("[::]:7400", "127.0.0.1:7401", &cluster, "--advertise HOST:PORT");
    strcpy(config.advertise, "db4.nowhere.example:443");
    assert_int_equal(told("0.0.0.0:7400", "127.0.0.1:7401", &cluster), STATUS_OK);
    is_told("db4.nowhere.example:443", "127.0.0.1:7401"); /* not looked up */
    assert_int_equal(told("127.0.0.1:7400", "127.0.0.1:7401", NULL), STATUS_OK);
    assert_string_equal(node.client_address, "db4.nowhere.example:443");
}

static void what_is_no_address_is_refused(void **state) {
    static const char *const bad[] = {"db4", ":7400", "0.0.0.0:7400", "[::]:7400", "db4:0", "db4:65536", "db4:74x", "db4:", "fd00::1:7400", "a b:1", "a,b:1", "http://a:1"};
    for (unsigned i = 0; i < ARRAY_LEN(bad); i++) {
        strcpy(config.advertise, bad[i]);
        refused("127.0.0.1:7400", "127.0.0.1:7401", &cluster, "is not HOST:PORT");
    }
    strcpy(config.advertise, "[fd00::1]:7400");
    assert_int_equal(told("127.0.0.1:7400", "127.0.0.1:7401", &cluster), STATUS_OK);
}

static void who_joins_tells_the_others_where_it_is(void **state) {
    refused("127.0.0.1:7400", "0.0.0.0:7401", &cluster, "can reach, not 0.0.0.0:7401");
    refused("127.0.0.1:7400", "127.0.0.1:0", &cluster, "can reach");
    strcpy(config.peer_advertise, "10.0.0.7:7401");
    assert_int_equal(told("127.0.0.1:7400", "0.0.0.0:0", &cluster), STATUS_OK);
    is_told("127.0.0.1:7400", "10.0.0.7:7401");
    strcpy(config.peer_advertise, "0.0.0.0:7401");
    refused("127.0.0.1:7400", "127.0.0.1:7401", &cluster, "--peer-advertise 0.0.0.0:7401 is no address");
    strcpy(config.peer_advertise, "10.0.0.7");
    refused("127.0.0.1:7400", "127.0.0.1:7401", &cluster, "--peer-advertise: ");
}

static void founders_are_where_peers_says(void **state) {
    cluster.joins = false;
    assert_int_equal(told("127.0.0.1:7400", "0.0.0.0:7401", &cluster), STATUS_OK);
    is_told("127.0.0.1:7400", "10.0.0.4:9");
    strcpy(config.peer_advertise, "10.0.0.7:7401");
    refused("127.0.0.1:7400", "127.0.0.1:7401", &cluster, "goes with --join");
    refused("127.0.0.1:7400", "127.0.0.1:7401", NULL, "goes with --join");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(without_flags_it_is_what_is_bound, begin), cmocka_unit_test_setup(behind_all_interfaces_a_cluster_must_be_told, begin),
        cmocka_unit_test_setup(what_is_no_address_is_refused, begin),     cmocka_unit_test_setup(who_joins_tells_the_others_where_it_is, begin),
        cmocka_unit_test_setup(founders_are_where_peers_says, begin),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

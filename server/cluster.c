#include "server/cluster.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "proto/base/hash.h"
#include "proto/base/mem.h"
#include "proto/tls.h"

static_assert((int)CLUSTER_ID_BYTES == (int)LINK_CLUSTER_ID_BYTES, "one id");
static_assert((int)TOKEN_KEY_BYTES == (int)SHA256_BYTES, "derived");
static_assert((int)LINK_PROOF_BYTES == (int)SHA256_BYTES, "derived");

static enum status read_key(uint8_t key[CLUSTER_KEY_BYTES_MAX + 1], size_t *len, const char *path, char error[512]) {
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return snprintf(error, 512, "--cluster-key-file %.300s: %s", path, strerror(errno)), STATUS_IO_FAILED;
    ssize_t n = read(fd, key, CLUSTER_KEY_BYTES_MAX + 1);
    int err = errno;
    close(fd);
    if (n < 0) return snprintf(error, 512, "--cluster-key-file %.300s: %s", path, strerror(err)), STATUS_IO_FAILED;
    if (n < CLUSTER_KEY_BYTES_MIN || n > CLUSTER_KEY_BYTES_MAX)
        return snprintf(error, 512, "--cluster-key-file %.300s has %zd bytes or more, expected %d to %d", path, n, CLUSTER_KEY_BYTES_MIN, CLUSTER_KEY_BYTES_MAX), STATUS_FIELD_INVALID;
    *len = (size_t)n;
    return STATUS_OK;
}

/* "ID=HOST:PORT" */
static enum status read_peer(struct cluster *c, const char *text, char error[512]) {
    char *end, why[256];
    errno = 0;
    uint64_t id = strtoull(text, &end, 10);
    if (*text < '1' || *text > '9' || errno || *end != '=' || id > 1000000) return snprintf(error, 512, "--peers: '%.100s' is not ID=HOST:PORT, ID from 1 to 1000000", text), STATUS_FIELD_INVALID;
    if (c->members.count == GROUP_MEMBERS_MAX) return snprintf(error, 512, "--peers: more than %d nodes", GROUP_MEMBERS_MAX), STATUS_LIMIT_EXCEEDED;
    uint32_t at = c->members.count;
    for (; at > 0 && c->peers[at - 1].node_id >= id; at--) {
        if (c->peers[at - 1].node_id == id) return snprintf(error, 512, "--peers: node %llu is there twice", (unsigned long long)id), STATUS_FIELD_INVALID;
        c->peers[at] = c->peers[at - 1];
    }
    c->peers[at] = (struct cluster_peer){.node_id = id, .told = true};
    c->members.count++, c->count++;
    enum status st = address_parse(&c->peers[at].address, end + 1, why);
    return st ? snprintf(error, 512, "--peers: node %llu: %s", (unsigned long long)id, why), st : STATUS_OK;
}

static enum status read_peers(struct cluster *c, const struct config *config, char error[512]) {
    char list[sizeof config->peers], *rest = list;
    memcpy(list, config->peers, sizeof list);
    bool own = false;
    for (char *one; (one = strsep(&rest, ","));) {
        enum status st = read_peer(c, one, error);
        if (st) return st;
    }
    for (uint32_t i = 0; i < c->members.count; i++) {
        c->members.member[i] = (struct group_member){.node_id = c->peers[i].node_id, .kind = GROUP_VOTER};
        own |= c->peers[i].node_id == config->node_id;
    }
    c->members.index = GROUP_FIRST_INDEX;
    return own ? STATUS_OK : (snprintf(error, 512, "--node-id %llu is not among --peers", (unsigned long long)config->node_id), STATUS_FIELD_INVALID);
}

static void derive_id(struct cluster *c, struct slice key) {
    uint8_t said[32 + 8 * GROUP_MEMBERS_MAX], id[SHA256_BYTES];
    struct writer w = writer_of(said, sizeof said);
    write_slice(&w, SLICE_LIT("orderdb cluster id"));
    for (uint32_t i = 0; i < c->members.count; i++) write_le64(&w, c->members.member[i].node_id);
    check(!w.full);
    hmac_sha256(id, key, writer_slice(&w));
    memcpy(c->identity.cluster_id, id, CLUSTER_ID_BYTES);
}

static void derive_keys(struct cluster *c, struct slice key) {
    hmac_sha256(c->identity.token_key, key, SLICE_LIT("orderdb token key"));
    hmac_sha256(c->link_key, key, SLICE_LIT("orderdb link key"));
}

enum status cluster_read(struct cluster *c, bool *used, const struct config *config, char error[512]) {
    uint8_t key[CLUSTER_KEY_BYTES_MAX + 1];
    size_t len;
    *c = (struct cluster){.identity.node_id = config->node_id, .replicas = (uint32_t)config->replicas, .lead_zone = config->lead_zone};
    pthread_mutex_init(&c->lock, NULL);
    *used = *config->peers || *config->join;
    for (const char *z = config->zone; *z; z++)
        if (*z < 0x21 || *z > 0x7e) return snprintf(error, 512, "--zone '%s': letters, digits and signs alone", config->zone), STATUS_FIELD_INVALID;
    for (const char *z = config->lead_zone; *z; z++)
        if (*z < 0x21 || *z > 0x7e) return snprintf(error, 512, "--lead-zone '%s': letters, digits and signs alone", config->lead_zone), STATUS_FIELD_INVALID;
    if (!*used) {
        if (config->node_id || *config->cluster_key_file) return snprintf(error, 512, "--node-id and --cluster-key-file go with --peers or --join"), STATUS_FIELD_INVALID;
        return STATUS_OK;
    }
    c->joins = *config->join;
    if (*config->peers && c->joins) return snprintf(error, 512, "--peers names all founders of a cluster, --join nodes of one that there is: one of them"), STATUS_FIELD_INVALID;
    if (c->joins && !config->node_id) return snprintf(error, 512, "--join needs a --node-id that no node of the cluster has or had"), STATUS_FIELD_INVALID;
    if (!*config->cluster_key_file)
        return snprintf(error, 512, "%s needs --cluster-key-file: a file with a secret that all nodes share", c->joins ? "--join" : "--peers"), STATUS_FIELD_INVALID;
    enum status st = c->joins ? STATUS_OK : read_peers(c, config, error);
    if (st == STATUS_OK) st = read_key(key, &len, config->cluster_key_file, error);
    if (st) return st;
    derive_keys(c, slice_of(key, len));
    if (!c->joins) return derive_id(c, slice_of(key, len)), STATUS_OK;
    /* A vote that nobody has: what is made new here waits for the members that a leader of them tells. */
    c->members = (struct group_members){.member = {{.node_id = NODE_ID_MAX + 1, .kind = GROUP_VOTER}}, .count = 1, .index = GROUP_FIRST_INDEX};
    cluster_learn_node(c, config->node_id, NODE_STATE_JOINED, (struct slice){0}, (struct slice){0});
    return STATUS_OK;
}

void cluster_fini(struct cluster *c) {
    tls_source_free(c->tls);
    mem_free(c->map);
    pthread_mutex_destroy(&c->lock);
}

bool cluster_map(struct cluster *c, uint32_t partition_count) {
    check(!c->map);
    c->map = mem_zalloc((partition_count + 1) * sizeof *c->map);
    c->partition_count = partition_count;
    return c->map != NULL;
}

/* ---- what is known of nodes */

uint32_t cluster_count(const struct cluster *c) { return __atomic_load_n(&c->count, __ATOMIC_ACQUIRE); }

static struct cluster_peer *peer_at(struct cluster *c, uint64_t node_id) {
    for (uint32_t i = 0; i < c->count; i++)
        if (c->peers[i].node_id == node_id) return &c->peers[i];
    return NULL;
}

static void text_of(struct slice s, char *out, size_t cap) {
    size_t n = MIN_OF(s.len, cap - 1);
    if (n) memcpy(out, s.data, n);
    out[n] = 0;
}

static void changed_now(struct cluster *c) { __atomic_fetch_add(&c->changes, 1, __ATOMIC_RELEASE); }

uint64_t cluster_changes(const struct cluster *c) { return __atomic_load_n(&c->changes, __ATOMIC_ACQUIRE); }

/* Under the lock. */
static void learn(struct cluster *c, uint64_t node_id, enum node_row_state state, struct slice zone, struct slice address) {
    struct cluster_peer *p = peer_at(c, node_id);
    char text[NODE_ADDRESS_BYTES_MAX + 1], why[256];
    if (!p && c->count == NODE_ROWS_MAX) return;
    if (!p) {
        p = &c->peers[c->count];
        *p = (struct cluster_peer){.node_id = node_id};
        __atomic_store_n(&c->count, c->count + 1, __ATOMIC_RELEASE);
    }
    p->state = state;
    text_of(address, text, sizeof text);
    struct address a;
    if (!p->told && address.len && address_parse(&a, text, why) == STATUS_OK) p->address = a; /* numbers: nothing is looked up */
    if (!*p->zone) text_of(zone, p->zone, sizeof p->zone); /* what it says itself is newer */
    changed_now(c);
}

void cluster_learn_node(struct cluster *c, uint64_t node_id, enum node_row_state state, struct slice zone, struct slice address) {
    pthread_mutex_lock(&c->lock);
    learn(c, node_id, state, zone, address);
    pthread_mutex_unlock(&c->lock);
}

bool cluster_learn(struct cluster *c, struct slice list) {
    struct reader r = reader_of(list);
    uint64_t epoch = node_list_epoch(list);
    pthread_mutex_lock(&c->lock);
    bool changed = epoch > c->epoch;
    if (changed) {
        c->epoch = epoch;
        for (struct node_row row; node_list_next(&r, &row);) learn(c, row.node_id, row.state, row.zone, row.address);
        if (c->map) placement_make(list, c->replicas, slice_str(c->lead_zone), c->partition_count, c->map);
    }
    pthread_mutex_unlock(&c->lock);
    return changed;
}

struct engine_wanted cluster_wanted(struct cluster *c, uint32_t number) {
    check(c->map && number <= c->partition_count);
    pthread_mutex_lock(&c->lock);
    struct engine_wanted w = c->map[number].members;
    pthread_mutex_unlock(&c->lock);
    return w;
}

bool cluster_holds(struct cluster *c, uint32_t number) {
    struct engine_wanted w = cluster_wanted(c, number);
    for (uint32_t i = 0; i < w.count; i++)
        if (w.node_id[i] == c->identity.node_id) return true;
    return w.count == 0;
}

uint64_t cluster_epoch(struct cluster *c) {
    pthread_mutex_lock(&c->lock);
    uint64_t epoch = c->epoch;
    pthread_mutex_unlock(&c->lock);
    return epoch;
}

void cluster_tell(struct cluster *c, uint64_t node_id, const struct link_hello *said) {
    pthread_mutex_lock(&c->lock);
    struct cluster_peer *p = peer_at(c, node_id);
    check(p);
    check(said || p->links > 0);
    if (!said) p->links--;
    else if (p->links++ == 0) p->version[0] = 0, p->leads_elsewhere = false; /* it may come back as another */
    if (said) {
        memcpy(p->zone, said->zone, sizeof p->zone);
        memcpy(p->client_address, said->address, sizeof p->client_address);
    }
    changed_now(c);
    pthread_mutex_unlock(&c->lock);
}

void cluster_tell_version(struct cluster *c, uint64_t node_id, const char version[LINK_VERSION_BYTES_MAX + 1]) {
    pthread_mutex_lock(&c->lock);
    struct cluster_peer *p = peer_at(c, node_id);
    check(p);
    memcpy(p->version, version, sizeof p->version);
    changed_now(c);
    pthread_mutex_unlock(&c->lock);
}

bool cluster_tell_lead_zone(struct cluster *c, uint64_t node_id, const char *zone) {
    bool same = strcmp(zone, c->lead_zone) == 0;
    pthread_mutex_lock(&c->lock);
    struct cluster_peer *p = peer_at(c, node_id);
    check(p);
    p->leads_elsewhere = !same;
    pthread_mutex_unlock(&c->lock);
    return same;
}

bool cluster_lead_zone_agreed(struct cluster *c) {
    bool agreed = true;
    pthread_mutex_lock(&c->lock);
    for (uint32_t i = 0; i < c->count; i++) agreed &= !c->peers[i].links || !c->peers[i].leads_elsewhere;
    pthread_mutex_unlock(&c->lock);
    return agreed;
}

struct cluster_peer cluster_see(struct cluster *c, uint32_t at) {
    check(at < cluster_count(c));
    pthread_mutex_lock(&c->lock);
    struct cluster_peer p = c->peers[at];
    pthread_mutex_unlock(&c->lock);
    return p;
}

bool cluster_find(struct cluster *c, uint64_t node_id, struct cluster_peer *out) {
    pthread_mutex_lock(&c->lock);
    const struct cluster_peer *p = peer_at(c, node_id);
    if (p) *out = *p;
    pthread_mutex_unlock(&c->lock);
    return p != NULL;
}

/* A node that the meta partition does not have yet is a founder. */
static bool may_lead(const struct cluster_peer *p) { return !p->state || p->state == NODE_STATE_UP; }

uint64_t cluster_leader_wanted(struct cluster *c, const char *own_zone, const char *zone, uint32_t number) {
    uint64_t all[NODE_ROWS_MAX], near[NODE_ROWS_MAX], low = 0;
    uint32_t n = 0, k = 0;
    pthread_mutex_lock(&c->lock);
    if (c->map && c->epoch) {
        uint64_t leader = c->map[number].leader;
        pthread_mutex_unlock(&c->lock);
        return leader;
    }
    for (;;) { /* by ascending id: the same on all nodes, whenever they came */
        const struct cluster_peer *next = NULL;
        for (uint32_t i = 0; i < c->count; i++)
            if (c->peers[i].node_id > low && (!next || c->peers[i].node_id < next->node_id)) next = &c->peers[i];
        if (!next) break;
        low = next->node_id;
        if (!may_lead(next)) continue;
        const char *its = next->node_id == c->identity.node_id ? own_zone : next->zone;
        all[n++] = next->node_id;
        if (*zone && strcmp(its, zone) == 0) near[k++] = next->node_id;
    }
    pthread_mutex_unlock(&c->lock);
    return n == 0 || (n < 2 && c->count < 2) ? 0 : k ? near[number % k] : all[number % n];
}

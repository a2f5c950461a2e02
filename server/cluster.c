#include "server/cluster.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "proto/base/hash.h"
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
    c->peers[at] = (struct cluster_peer){.node_id = id};
    c->members.count++;
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

static void derive(struct cluster *c, struct slice key) {
    uint8_t said[32 + 8 * GROUP_MEMBERS_MAX], id[SHA256_BYTES];
    struct writer w = writer_of(said, sizeof said);
    write_slice(&w, SLICE_LIT("orderdb cluster id"));
    for (uint32_t i = 0; i < c->members.count; i++) write_le64(&w, c->members.member[i].node_id);
    check(!w.full);
    hmac_sha256(id, key, writer_slice(&w));
    memcpy(c->identity.cluster_id, id, CLUSTER_ID_BYTES);
    hmac_sha256(c->identity.token_key, key, SLICE_LIT("orderdb token key"));
    hmac_sha256(c->link_key, key, SLICE_LIT("orderdb link key"));
}

enum status cluster_read(struct cluster *c, bool *used, const struct config *config, char error[512]) {
    uint8_t key[CLUSTER_KEY_BYTES_MAX + 1];
    size_t len;
    *c = (struct cluster){.identity.node_id = config->node_id};
    pthread_mutex_init(&c->lock, NULL);
    *used = *config->peers;
    for (const char *z = config->zone; *z; z++)
        if (*z < 0x21 || *z > 0x7e) return snprintf(error, 512, "--zone '%s': letters, digits and signs alone", config->zone), STATUS_FIELD_INVALID;
    if (!*used) {
        if (config->node_id || *config->cluster_key_file) return snprintf(error, 512, "--node-id and --cluster-key-file go with --peers"), STATUS_FIELD_INVALID;
        return STATUS_OK;
    }
    if (!*config->cluster_key_file) return snprintf(error, 512, "--peers needs --cluster-key-file: a file with a secret that all nodes share"), STATUS_FIELD_INVALID;
    enum status st = read_peers(c, config, error);
    if (st == STATUS_OK) st = read_key(key, &len, config->cluster_key_file, error);
    if (st == STATUS_OK) derive(c, slice_of(key, len));
    return st;
}

void cluster_fini(struct cluster *c) {
    tls_source_free(c->tls);
    pthread_mutex_destroy(&c->lock);
}

void cluster_tell(struct cluster *c, uint64_t node_id, const struct link_hello *said) {
    pthread_mutex_lock(&c->lock);
    for (uint32_t i = 0; i < c->members.count; i++) {
        struct cluster_peer *p = &c->peers[i];
        if (p->node_id != node_id) continue;
        check(said || p->links > 0);
        if (!said) p->links--;
        else if (p->links++ == 0) p->version[0] = 0; /* it may come back as another */
        if (!said) continue;
        memcpy(p->zone, said->zone, sizeof p->zone);
        memcpy(p->client_address, said->address, sizeof p->client_address);
    }
    pthread_mutex_unlock(&c->lock);
}

void cluster_tell_version(struct cluster *c, uint64_t node_id, const char version[LINK_VERSION_BYTES_MAX + 1]) {
    pthread_mutex_lock(&c->lock);
    for (uint32_t i = 0; i < c->members.count; i++)
        if (c->peers[i].node_id == node_id) memcpy(c->peers[i].version, version, sizeof c->peers[i].version);
    pthread_mutex_unlock(&c->lock);
}

struct cluster_peer cluster_see(struct cluster *c, uint32_t at) {
    check(at < c->members.count);
    pthread_mutex_lock(&c->lock);
    struct cluster_peer p = c->peers[at];
    pthread_mutex_unlock(&c->lock);
    return p;
}

uint64_t cluster_leader_wanted(struct cluster *c, const char *own_zone, const char *zone, uint32_t number) {
    uint64_t all[GROUP_MEMBERS_MAX], near[GROUP_MEMBERS_MAX];
    uint32_t n = 0, k = 0;
    pthread_mutex_lock(&c->lock);
    for (uint32_t i = 0; i < c->members.count; i++) {
        const struct cluster_peer *p = &c->peers[i];
        const char *its = p->node_id == c->identity.node_id ? own_zone : p->zone;
        all[n++] = p->node_id;
        if (*zone && strcmp(its, zone) == 0) near[k++] = p->node_id;
    }
    pthread_mutex_unlock(&c->lock);
    return n < 2 ? 0 : k ? near[number % k] : all[number % n];
}

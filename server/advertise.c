#include "server/advertise.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "server/cluster.h"
#include "server/node.h"

static_assert(sizeof((struct node *)0)->client_address >= ADDRESS_TEXT_BYTES, "any address fits");
static_assert(sizeof((struct node *)0)->peer_address >= ADDRESS_TEXT_BYTES, "any address fits");
static_assert(sizeof((struct node *)0)->client_address >= sizeof((struct config *)0)->advertise, "what is advertised fits");
static_assert((int)LINK_ADDRESS_BYTES + 1 >= (int)sizeof((struct config *)0)->advertise, "and into a HELLO");

/* A name need not mean anything here, where clients are it has to: it is not looked up. */
static bool is_host_port(const char *text) {
    static const char *const nowhere[] = {"0.0.0.0:", "[::]:", ":"}; /* client/routes.c takes these for no address */
    const char *colon = strrchr(text, ':');
    if (!colon || colon == text) return false;
    for (unsigned i = 0; i < ARRAY_LEN(nowhere); i++)
        if (strncmp(text, nowhere[i], strlen(nowhere[i])) == 0) return false;
    for (const char *c = text; *c; c++)
        if (*c < 0x21 || *c > 0x7e || strchr(",@/\"'\\", *c)) return false;
    if (memchr(text, ':', (size_t)(colon - text)) && (text[0] != '[' || colon[-1] != ']')) return false;
    char *end;
    unsigned long port = strtoul(colon + 1, &end, 10);
    return colon[1] >= '0' && colon[1] <= '9' && !*end && port >= 1 && port <= 65535;
}

static enum status read_client(struct node *node, const struct address *listen, char error[512]) {
    const struct config *c = node->config;
    if (*c->advertise && !is_host_port(c->advertise))
        return snprintf(error, 512, "--advertise '%.100s' is not HOST:PORT where clients reach this node, IPv6 in brackets, port 1 to 65535", c->advertise), STATUS_FIELD_INVALID;
    memcpy(node->client_address, c->advertise, strlen(c->advertise) + 1);
    if (*c->advertise || !node->cluster || !address_is_everywhere(listen)) return STATUS_OK;
    return snprintf(error, 512, "--listen %.100s is no address that clients of a cluster can be told: say by --advertise HOST:PORT where they reach this node", c->listen), STATUS_FIELD_INVALID;
}

static enum status read_peer(struct node *node, const struct address *peer_listen, char error[512]) {
    const struct config *c = node->config;
    struct address told = *peer_listen;
    struct cluster_peer own;
    char why[256];
    if (*c->peer_advertise && (!node->cluster || !node->cluster->joins)) return snprintf(error, 512, "--peer-advertise goes with --join: founders' addresses are in --peers"), STATUS_FIELD_INVALID;
    if (!node->cluster) return STATUS_OK;
    if (!node->cluster->joins && cluster_find(node->cluster, c->node_id, &own)) told = own.address;
    enum status st = *c->peer_advertise ? address_parse(&told, c->peer_advertise, why) : STATUS_OK;
    if (st) return snprintf(error, 512, "--peer-advertise: %s", why), st;
    address_format(&told.sa, node->peer_address); /* numbers: other nodes look nothing up that a row says (cluster.c) */
    if (!node->cluster->joins || address_is_definite(&told)) return STATUS_OK;
    if (*c->peer_advertise) return snprintf(error, 512, "--peer-advertise %.100s is no address and port that the other nodes can reach", c->peer_advertise), STATUS_FIELD_INVALID;
    return snprintf(error, 512, "--join needs a --peer-listen with an address and a port that the other nodes can reach, not %s, or --peer-advertise HOST:PORT", node->peer_address), STATUS_FIELD_INVALID;
}

enum status advertise_read(struct node *node, const struct address *listen, const struct address *peer_listen, char error[512]) {
    enum status st = read_client(node, listen, error);
    return st ? st : read_peer(node, peer_listen, error);
}

void advertise_bound(struct node *node, const struct address *listen, const struct address *peer_listen) {
    if (!*node->client_address) address_format(&listen->sa, node->client_address);
    if (!*node->peer_address) address_format(&peer_listen->sa, node->peer_address);
}

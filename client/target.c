#include "client/target.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "proto/base/mem.h"

static bool is_port(const char *s) {
    unsigned n = 0;
    size_t len = strlen(s);
    if (len == 0 || len > 9) return false;
    for (; *s >= '0' && *s <= '9'; s++) n = n * 10 + (unsigned)(*s - '0');
    return !*s && n > 0 && n <= 65535;
}

/* Splits in place; *port is NULL when there is none. false: none of the three forms. */
static bool split(char *text, char **host, char **port) {
    char *colon = strrchr(text, ':'), *bracket = strchr(text, ']');
    *host = text, *port = NULL;
    if (text[0] == '[') {
        if (!bracket || (bracket[1] && bracket[1] != ':')) return false;
        *host = text + 1;
        *bracket = 0;
        if (bracket[1]) *port = bracket + 2;
    } else if (colon && strchr(text, ':') == colon) {
        *colon = 0;
        *port = colon + 1;
    } /* more than one colon and no brackets: an IPv6 address without a port */
    return **host && (!*port || is_port(*port));
}

int target_parse(struct target *t, const char *text, const char *port_default) {
    char *copy = mem_strdup(text), *host, *port;
    *t = (struct target){0};
    if (!copy) return ENOMEM;
    if (!split(copy, &host, &port)) return mem_free(copy), EINVAL;
    if (!port) port = (char *)(uintptr_t)port_default;
    size_t room = strlen(host) + strlen(port) + sizeof("[]:");
    t->host = mem_strdup(host);
    t->port = mem_strdup(port);
    t->authority = mem_alloc(room);
    if (t->authority) snprintf(t->authority, room, strchr(host, ':') ? "[%s]:%s" : "%s:%s", host, port);
    mem_free(copy);
    if (t->host && t->port && t->authority) return 0;
    target_fini(t);
    return ENOMEM;
}

void target_fini(struct target *t) {
    mem_free(t->host), mem_free(t->port), mem_free(t->authority);
    *t = (struct target){0};
}

/* The bytes below a client's HTTP/2 session: TCP to the first address of a target that answers, TLS over it where told (proto/tls.h).
 * Nothing here blocks but the look-up of the name; whoever owns it polls `fd`. What is to be sent is pulled from the session, what came is fed to it. */
#ifndef CLIENT_WIRE_H
#define CLIENT_WIRE_H

#include <sys/types.h>

#include "client/target.h"
#include "proto/base/buf.h"

struct addrinfo;
struct tls;
struct tls_source;

/* Of whoever is above. pull: bytes that stay valid until the next pull; 0: none now; negative: no memory. feed: false: it cannot take them, and has put why in the note. */
struct wire_above {
    ssize_t (*pull)(void *user, const uint8_t **data);
    bool (*feed)(void *user, struct slice plain);
    void *user;
};

struct wire {
    int fd; /* -1: none */
    bool connected, want_write; /* want_write: the socket is full */
    bool heard; /* the far side has said something; with TLS: behind its handshake */
    uint64_t heard_ns, connect_deadline_ns;
    char note[160]; /* why it is lost */
    /* private */
    struct wire_above above;
    const struct target *target;
    struct addrinfo *addresses, *address; /* address: the one in use */
    struct tls *tls; /* NULL: cleartext */
    struct buf plain, out; /* plain: with TLS, on its way to be encrypted */
    size_t out_at;
    bool broken; /* above could not take what came */
};

/* The target is borrowed. source NULL: cleartext. false: no memory; wire_fini() in any case. */
bool wire_init(struct wire *w, const struct wire_above *above, const struct target *target, struct tls_source *source, const char *server_name) MUST_USE;
void wire_fini(struct wire *w); /* closes */
void wire_note(struct wire *w, const char *what, const char *why);
/* All below: false: lost, and the note says why. */
bool wire_start(struct wire *w) MUST_USE; /* looks the name up and begins to connect */
bool wire_connect_next(struct wire *w, int error) MUST_USE; /* this address did not work, for `error`: another one */
bool wire_connected(struct wire *w) MUST_USE; /* the socket told something while it connected: finds out what */
/* Into a buffer of the caller's, up to `reads` times; each piece is fed. */
bool wire_read(struct wire *w, uint8_t *into, size_t cap, unsigned reads) MUST_USE;
bool wire_write(struct wire *w) MUST_USE; /* pulls, and hands it to the kernel, until either has enough */
bool wire_is_flushed(const struct wire *w); /* nothing waits for the kernel */
const char *wire_tls_error(const struct wire *w); /* NULL: none, or no TLS */
void wire_say_farewell(struct wire *w); /* what there is and TLS's good-bye, as far as the socket takes them */

#endif

/* Bytes of a stranger to TLS (proto/tls.h): instead of a handshake, as what a client says behind its own hello, and on a connection that is established. Never more than an
 * error, and bounded memory. */
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "proto/tls.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct tls_source *server_source, *client_source;

static bool on_plain(void *owner, struct slice plain) {
    *(size_t *)owner += plain.len;
    return true;
}

/* Certificates of this run alone; the files go at once. */
static void make_sources(void) {
    char dir[] = "/tmp/orderdb-fuzz-tls-XXXXXX", command[300], cert[64], key[64], ca[64], error[256];
    check(mkdtemp(dir));
    snprintf(command, sizeof command, "tests/lib/certs.sh %s", dir);
    check(system(command) == 0);
    snprintf(cert, sizeof cert, "%s/server.pem", dir), snprintf(key, sizeof key, "%s/server.key", dir), snprintf(ca, sizeof ca, "%s/ca.pem", dir);
    check(server_source = tls_source_new_server(&(struct tls_files){.cert = cert, .key = key}, error));
    check(client_source = tls_source_new_client(&(struct tls_files){.ca = ca}, error));
    snprintf(command, sizeof command, "rm -rf %s", dir);
    check(system(command) == 0);
}

static bool pass(struct tls *from, struct tls *to, size_t *plain) {
    uint8_t wire[8192];
    bool alive = true;
    while (alive && tls_wants_output(from)) {
        struct writer w = writer_of(wire, sizeof wire);
        tls_output(from, &w);
        alive = tls_feed(to, writer_slice(&w), on_plain, plain);
    }
    return alive;
}

/* How far the handshake is when the stranger's bytes come: 0 not begun, 1 the server has answered, 2 established. */
static void run(struct slice bytes, unsigned phase, size_t step) {
    struct tls *server = tls_new(server_source, NULL), *client = tls_new(client_source, "localhost");
    size_t plain = 0;
    check(server);
    check(client);
    check(tls_feed(client, (struct slice){0}, on_plain, &plain));
    if (phase > 0) check(pass(client, server, &plain));
    if (phase > 1) check(pass(server, client, &plain)), check(pass(client, server, &plain)), check(tls_established(server));
    bool alive = true;
    for (size_t at = 0, n; alive && at < bytes.len; at += n) {
        n = MIN_OF(step, bytes.len - at);
        alive = tls_feed(server, slice_of(bytes.data + at, n), on_plain, &plain);
    }
    check(plain == 0); /* nobody but the client has the keys */
    check(alive || !tls_feed(server, bytes, on_plain, &plain));
    check(tls_memory_bytes(server) < 256 * KIB);
    tls_close(server);
    tls_free(server), tls_free(client);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (!server_source) make_sources();
    struct slice bytes = slice_of(data, MIN_OF(size, (size_t)40000));
    unsigned draw = size ? data[size - 1] : 0;
    run(bytes, 0, draw & 1 ? 7 : SIZE_MAX);
    run(bytes, 1 + (draw >> 1 & 1), SIZE_MAX);
    return 0;
}

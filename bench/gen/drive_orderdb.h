/* The generator's driver for OrderDB: the C client's asynchronous channels, one a connection. */
#ifndef BENCH_GEN_DRIVE_ORDERDB_H
#define BENCH_GEN_DRIVE_ORDERDB_H

#include "bench/gen/drive.h"

struct tls_source;
/* Until closed; one at a time. tls NULL: cleartext. false: error[] says why. */
bool orderdb_driver_open(struct driver *out, const struct drive_options *o, const char *server, struct tls_source *tls, const char *tls_server_name, char error[256]) MUST_USE;
void orderdb_driver_close(void);

#endif

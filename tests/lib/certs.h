/* Certificates of one test program (certs.sh says which), in a directory of its own: set-up and tear-down of its group. */
#ifndef TESTS_LIB_CERTS_H
#define TESTS_LIB_CERTS_H

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static char dir[] = "/tmp/orderdb-certs-XXXXXX";

static int make_certs(void **state) {
    char command[256];
    if (!mkdtemp(dir)) return -1;
    snprintf(command, sizeof command, "tests/lib/certs.sh %s", dir);
    return system(command);
}
static int remove_certs(void **state) {
    char command[256];
    snprintf(command, sizeof command, "rm -rf %s", dir);
    return system(command);
}

#endif

/* Status machines for tests. */
#ifndef TESTS_LIB_DEFINITION_H
#define TESTS_LIB_DEFINITION_H

#include "orderdb/v1/admin.pb-c.h"
#include "proto/base/bytes.h"

/* A definition from a line of text: "shop@1 A! B C. go:A,B>C B~late~30~go": name@version, states (! initial, . terminal), edges, timers. */
struct definition {
    char text[2048];
    uint8_t wire[4096];
    Orderdb__V1__StatusMachine m;
    Orderdb__V1__StatusMachine__State states[80], *state_list[80];
    Orderdb__V1__StatusMachine__StateTimer timers[80], *timer_list[80][4];
    Google__Protobuf__Duration after[80];
    Orderdb__V1__StatusMachine__Edge edges[300], *edge_list[300];
    char *froms[300][8];
};
/* Wire bytes of StatusMachine, in d. */
struct slice define(struct definition *d, const char *text);

#endif

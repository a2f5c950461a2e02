/* A unit test that tests/run.sh ends, since it is not done, says where it was. */
#include <signal.h>

#include "proto/base/base.h"

void stuck_watch(void); /* its name makes the linker take this file into every unit test */

static void on_term(int sig) { panic_now("ended from outside (signal %d), here:", sig); }

__attribute__((constructor)) void stuck_watch(void) { signal(SIGTERM, on_term); }

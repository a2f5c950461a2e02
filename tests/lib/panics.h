/* For promises like "a failed sync stops the process": runs in a forked child, which must abort having said `text` on stderr. */
#ifndef TESTS_LIB_PANICS_H
#define TESTS_LIB_PANICS_H

void assert_panics(void (*run)(void *ctx), void *ctx, const char *text);

#endif

/* What every file may use: checks, sizes, containers. The one common header. */
#ifndef PROTO_BASE_BASE_H
#define PROTO_BASE_BASE_H

#include <assert.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define KIB 1024ull
#define MIB (1024ull * KIB)
#define GIB (1024ull * MIB)
#define NS_PER_US 1000ull
#define NS_PER_MS 1000000ull
#define NS_PER_S 1000000000ull
#define US_PER_MS 1000ll
#define US_PER_S 1000000ll

#define ARRAY_LEN(a) (sizeof(a) / sizeof((a)[0]))
#define MIN_OF(a, b) ((a) < (b) ? (a) : (b))
#define MAX_OF(a, b) ((a) > (b) ? (a) : (b))
#define container_of(ptr, type, member) ((type *)(void *)((char *)(ptr) - offsetof(type, member)))
#define MUST_USE __attribute__((warn_unused_result))
#define PRINTF_LIKE(f, a) __attribute__((format(printf, f, a)))

/* A check states what cannot be false. It is compiled in always; when it fails the process tells where and aborts:
 * going on with broken state could acknowledge what is not there. */
#define check(x) (__builtin_expect(!!(x), 1) ? (void)0 : panic(__FILE__, __LINE__, #x))

/* Prints place and text with a backtrace to stderr, then abort()s. */
_Noreturn void panic(const char *file, int line, const char *text);
/* The same with words of the caller's, for faults of the world that must stop the process (a failed log sync). */
_Noreturn void panic_now(const char *format, ...) PRINTF_LIKE(1, 2);

#endif

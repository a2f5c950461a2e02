/* Preloaded into a server: the wall clock is off by the nanoseconds (int64, the machine's order) in the file that WALLCLOCK names, from the instant that they are written there. The monotonic clock, by
 * which deadlines and elections go, is as it was: a step of NTP's or of an operator's is of the wall clock alone. */
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static const volatile int64_t *offset_ns;

__attribute__((constructor)) static void begin(void) {
    const char *path = getenv("WALLCLOCK");
    int fd = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    void *at = fd >= 0 ? mmap(NULL, sizeof *offset_ns, PROT_READ, MAP_SHARED, fd, 0) : MAP_FAILED;
    if (at != MAP_FAILED) offset_ns = at;
    if (fd >= 0) close(fd);
}

int clock_gettime(clockid_t id, struct timespec *t) {
    enum { S = 1000000000 };
    int e = (int)syscall(SYS_clock_gettime, id, t);
    if (e || id != CLOCK_REALTIME || !offset_ns) return e;
    int64_t ns = t->tv_sec * (int64_t)S + t->tv_nsec + *offset_ns;
    t->tv_sec = ns / S, t->tv_nsec = ns % S;
    return 0;
}

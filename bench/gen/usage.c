#include "bench/gen/usage.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

enum { PROCESSES_MAX = 8192 };

struct process {
    int64_t pid, parent;
    double ticks;
    bool ours;
};

/* "pid (name) state ppid ... utime stime cutime cstime": fields 14 to 17; the name may hold anything, so it is passed by its last bracket. */
static bool process_read(int64_t pid, struct process *p) {
    char path[64], text[1024];
    unsigned long long user, system;
    long long child_user, child_system;
    snprintf(path, sizeof path, "/proc/%lld/stat", (long long)pid);
    FILE *f = fopen(path, "r");
    if (!f) return false;
    size_t n = fread(text, 1, sizeof text - 1, f);
    fclose(f);
    text[n] = 0;
    const char *rest = strrchr(text, ')');
    long long parent;
    if (!rest || sscanf(rest + 1, " %*c %lld %*d %*d %*d %*d %*u %*u %*u %*u %*u %llu %llu %lld %lld", &parent, &user, &system, &child_user, &child_system) != 5) return false;
    *p = (struct process){.pid = pid, .parent = parent, .ticks = (double)user + (double)system + (double)child_user + (double)child_system};
    return true;
}

static double tree_ticks(int64_t root) {
    static struct process all[PROCESSES_MAX];
    size_t n = 0;
    double sum = 0;
    DIR *d = opendir("/proc");
    if (!d) return 0;
    for (struct dirent *e; n < PROCESSES_MAX && (e = readdir(d));) {
        if (e->d_name[0] >= '1' && e->d_name[0] <= '9' && process_read(strtoll(e->d_name, NULL, 10), &all[n])) n++;
    }
    closedir(d);
    for (bool more = true; more;) {
        more = false;
        for (size_t i = 0; i < n; i++) {
            bool takes = all[i].pid == root;
            for (size_t k = 0; !takes && !all[i].ours && k < n; k++) takes = all[k].ours && all[k].pid == all[i].parent;
            if (!takes || all[i].ours) continue;
            all[i].ours = more = true;
            sum += all[i].ticks;
        }
    }
    return sum;
}

static double machine_ticks(void) {
    unsigned long long user = 0, nice = 0, system = 0, irq = 0, soft = 0;
    FILE *f = fopen("/proc/stat", "r");
    if (!f) return 0;
    int n = fscanf(f, "cpu %llu %llu %llu %*u %*u %llu %llu", &user, &nice, &system, &irq, &soft);
    fclose(f);
    return n == 5 ? (double)user + (double)nice + (double)system + (double)irq + (double)soft : 0;
}

void usage_take(struct usage *u, int64_t server) {
    struct rusage own;
    double per_s = (double)sysconf(_SC_CLK_TCK);
    check(getrusage(RUSAGE_SELF, &own) == 0);
    u->own_s = (double)(own.ru_utime.tv_sec + own.ru_stime.tv_sec) + (double)(own.ru_utime.tv_usec + own.ru_stime.tv_usec) / 1e6;
    u->server_s = server > 0 ? tree_ticks(server) / per_s : 0;
    u->machine_s = machine_ticks() / per_s;
}

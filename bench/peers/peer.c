/* peer WORK --socket PATH ...: what `orderctl bench` is for OrderDB; prints the same JSON. */
#include "bench/peers/peer.h"

#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void peer_panic(const char *what, const char *why) {
    fprintf(stderr, "%s: %s: %s\n", peer.driver.name, what, why);
    exit(1);
}

const char *peer_rows_check(const struct operation *op, uint64_t rows) {
    if (op->work == WORK_GET) return rows >= 5 ? NULL : "an order without items or history";
    if (op->work == WORK_LIST) return rows == PEER_ORDERS_LISTED ? NULL : "a list without its orders";
    return rows == 1 ? NULL : "no answer to a write";
}

void peer_key(char out[40], const struct drive_options *o, const struct operation *op) {
    snprintf(out, 40, "B%016llx%016llx", (unsigned long long)o->seed, (unsigned long long)op->key);
}

static void stop_cb(int number) { drive_stop(); }

int main(int argc, char **argv) {
    static const struct option flags[] = {
        {"socket", 1, 0, 's'}, {"connections", 1, 0, 'c'}, {"inflight", 1, 0, 'i'}, {"rate", 1, 0, 'r'}, {"seconds", 1, 0, 't'}, {"warm-up", 1, 0, 'w'}, {"population", 1, 0, 'p'},
        {"users", 1, 0, 'u'}, {"zipf", 1, 0, 'z'}, {"seed", 1, 0, 'e'}, {"server-pid", 1, 0, 'P'}, {"fill", 0, 0, 'f'}, {0},
    };
    static struct drive_report report;
    struct drive_options o = {.connections = 16, .inflight = 1, .seconds = 10, .warm_seconds = 1, .population = 20000, .users = 1000000, .timeout_ms = 30000};
    const char *socket = NULL, *wrong;
    for (int flag; (flag = getopt_long(argc, argv, "", flags, NULL)) != -1;) {
        uint64_t number = optarg ? strtoull(optarg, NULL, 10) : 0;
        switch (flag) {
        case 's': socket = optarg; break;
        case 'c': o.connections = number; break;
        case 'i': o.inflight = number; break;
        case 'r': o.rate = strtod(optarg, NULL); break;
        case 't': o.seconds = strtod(optarg, NULL); break;
        case 'w': o.warm_seconds = strtod(optarg, NULL); break;
        case 'p': o.population = number; break;
        case 'u': o.users = number; break;
        case 'z': o.zipf = strtod(optarg, NULL); break;
        case 'e': o.seed = number; break;
        case 'P': o.server_pid = (int64_t)number; break;
        case 'f': o.fill = true; break;
        default: return 2;
        }
    }
    if (optind + 1 != argc || !socket || !o.seed || !mix_read(argv[optind], o.mix)) return fprintf(stderr, "usage: peer WORK --socket PATH --seed N ...\n"), 2;
    if (*(wrong = drive_check(&o))) return fprintf(stderr, "%s: %s\n", peer.driver.name, wrong), 2;
    if (o.inflight > peer.inflight_max) return fprintf(stderr, "%s: %llu calls in flight on a connection\n", peer.driver.name, (unsigned long long)peer.inflight_max), 2;
    struct sigaction stop = {.sa_handler = stop_cb};
    sigaction(SIGINT, &stop, NULL), sigaction(SIGTERM, &stop, NULL);
    if (!peer.open(&o, socket) || !drive_run(&peer.driver, &o, &report)) return 1;
    report_json(stdout, &report, &o, argv[optind]);
    peer.close();
    return report.failed || !report.done;
}

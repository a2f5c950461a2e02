/* A run's report, for people and for scripts. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bench/gen/drive.h"

/* What else ran on the machine meanwhile, in cores: a figure taken beside much of it says little. Below zero is rounding. */
static double others_cores(const struct drive_report *r, const struct drive_options *o) {
    double others = r->seconds > 0 && o->server_pid ? (r->used.machine_s - r->used.own_s - r->used.server_s) / r->seconds : 0;
    return MAX_OF(others, 0.0);
}
static double us_each(double seconds, const struct drive_report *r) { return r->done ? seconds * 1e6 / (double)r->done : 0; }

static void latency_text(const char *name, const struct histogram *h) {
    if (!h->count) return;
    printf("  %-10s %10llu  p50 %.3f ms  p90 %.3f  p99 %.3f  p99.9 %.3f  max %.3f\n", name, (unsigned long long)h->count, histogram_ms(h, 0.5), histogram_ms(h, 0.9), histogram_ms(h, 0.99),
           histogram_ms(h, 0.999), (double)h->max / 1e6);
}

void report_text(const struct drive_report *r, const struct drive_options *o, const char *name) {
    unsigned kinds = 0;
    printf("%s: %llu in %.2f s, %.0f/s, %llu connections x %llu in flight", name, (unsigned long long)r->done, r->seconds, r->rate, (unsigned long long)o->connections,
           (unsigned long long)o->inflight);
    if (o->rate > 0) printf(", of %.0f/s due, %llu never sent", o->rate, (unsigned long long)r->unsent);
    printf("; %llu failed\n", (unsigned long long)r->failed);
    for (unsigned i = 0; i < WORK_COUNT; i++) kinds += r->latency_by[i].count > 0;
    for (unsigned i = 0; i < WORK_COUNT; i++) latency_text(work_names[i], &r->latency_by[i]);
    if (kinds > 1 || r->unsent) latency_text("all", &r->latency);
    if (!o->fill) printf("  CPU an operation: generator %.1f us", us_each(r->used.own_s, r));
    if (!o->fill && o->server_pid) printf(", server %.1f us; other work on the machine %.2f cores", us_each(r->used.server_s, r), others_cores(r, o));
    if (!o->fill) printf("\n");
    if (r->used_up) printf("  ended early: no order was left that a transition could be made of (--population, --fresh)\n");
    for (unsigned i = 0; i < r->reason_count; i++) printf("  failed: %s: %llu\n", r->reasons[i].text, (unsigned long long)r->reasons[i].count);
}

static void json_text(FILE *out, const char *s) {
    fputc('"', out);
    for (; *s; s++) fprintf(out, *s == '"' || *s == '\\' ? "\\%c" : (unsigned char)*s < 32 ? "?" : "%c", *s);
    fputc('"', out);
}

static void latency_json(FILE *out, const char *name, const struct histogram *h) {
    static const struct { const char *name; double share; } points[] = {{"p50", 0.5}, {"p90", 0.9}, {"p99", 0.99}, {"p999", 0.999}};
    fprintf(out, "\"%s\":{\"count\":%llu", name, (unsigned long long)h->count);
    for (size_t i = 0; i < ARRAY_LEN(points); i++) fprintf(out, ",\"%s_ms\":%.4f", points[i].name, h->count ? histogram_ms(h, points[i].share) : 0);
    fprintf(out, ",\"max_ms\":%.4f}", (double)h->max / 1e6);
}

void report_json(FILE *out, const struct drive_report *r, const struct drive_options *o, const char *name) {
    fprintf(out, "{\"name\":");
    json_text(out, name);
    fprintf(out, ",\"connections\":%llu,\"inflight\":%llu,\"due_per_s\":%.1f,\"seconds\":%.3f,\"done\":%llu,\"per_s\":%.1f,\"unsent\":%llu,\"failed\":%llu,\"prepared\":%llu,\"used_up\":%s,\"interrupted\":%s",
           (unsigned long long)o->connections, (unsigned long long)o->inflight, o->rate, r->seconds, (unsigned long long)r->done, r->rate, (unsigned long long)r->unsent,
           (unsigned long long)r->failed, (unsigned long long)r->prepared, r->used_up ? "true" : "false", r->interrupted ? "true" : "false");
    fprintf(out, ",\"generator_us\":%.3f,\"server_us\":%.3f,\"generator_cores\":%.3f,\"server_cores\":%.3f,\"others_cores\":%.3f", us_each(r->used.own_s, r), us_each(r->used.server_s, r),
           r->seconds > 0 ? r->used.own_s / r->seconds : 0, r->seconds > 0 ? r->used.server_s / r->seconds : 0, others_cores(r, o));
    fprintf(out, ",\"latency\":{");
    latency_json(out, "all", &r->latency);
    for (unsigned i = 0; i < WORK_COUNT; i++) fputc(',', out), latency_json(out, work_names[i], &r->latency_by[i]);
    fprintf(out, "},\"reasons\":{");
    for (unsigned i = 0; i < r->reason_count; i++) fprintf(out, i ? "," : ""), json_text(out, r->reasons[i].text), fprintf(out, ":%llu", (unsigned long long)r->reasons[i].count);
    fprintf(out, "}}\n");
}

bool mix_read(const char *text, unsigned mix[WORK_COUNT]) {
    unsigned sum = 0;
    memset(mix, 0, WORK_COUNT * sizeof *mix);
    if (strcmp(text, "mixed") == 0) return mix[WORK_CREATE] = 20, mix[WORK_TRANSITION] = 30, mix[WORK_GET] = 40, mix[WORK_LIST] = 10, true;
    for (unsigned i = 0; i < WORK_COUNT; i++)
        if (strcmp(text, work_names[i]) == 0) return mix[i] = 100, true;
    while (*text) {
        unsigned i = 0;
        size_t n = strcspn(text, "=");
        while (i < WORK_COUNT && (strlen(work_names[i]) != n || memcmp(work_names[i], text, n) != 0)) i++;
        if (i == WORK_COUNT || text[n] != '=' || mix[i]) return false;
        char *end;
        unsigned long v = strtoul(text + n + 1, &end, 10);
        if (end == text + n + 1 || v > 100 || (*end && *end != ',')) return false;
        mix[i] = (unsigned)v, sum += mix[i];
        text = *end ? end + 1 : end;
    }
    return sum == 100;
}

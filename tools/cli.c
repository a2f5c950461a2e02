#include "tools/cli.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "proto/base/buf.h"
#include "proto/base/mem.h"
#include "proto/scan.h"
#include "proto/status.h"
#include "proto/timetext.h"
#include "tools/pbjson.h"
#include "tools/table.h"
#include "tools/yaml.h"

#define FILE_BYTES_MAX (1 * GIB)

enum cli_exit cli_usage(const struct cli *cli, const char *format, ...) {
    va_list args;
    char text[512];
    va_start(args, format);
    vsnprintf(text, sizeof(text), format, args);
    va_end(args);
    fputs("orderctl: ", stderr);
    text_print(stderr, text);
    fprintf(stderr, "\nTry: orderctl %s%s--help\n", cli->command, *cli->command ? " " : "");
    return CLI_USAGE;
}

enum cli_exit cli_no_memory(void) {
    fprintf(stderr, "orderctl: out of memory\n");
    return CLI_UNAVAILABLE;
}

static void print_pair(const char *key, const char *value) {
    fputs("  ", stderr);
    text_print(stderr, key);
    fputs(": ", stderr);
    text_print(stderr, value);
    fputc('\n', stderr);
}

/* The text says just "key: value". */
static bool is_pair(const char *text, const char *key, const char *value) {
    size_t n = strlen(key);
    return strncmp(text, key, n) == 0 && strncmp(text + n, ": ", 2) == 0 && strcmp(text + n + 2, value) == 0;
}

enum cli_exit cli_error(const struct cli *cli) { return cli_error_of(cli, orderdb_error(cli->db)); }

enum cli_exit cli_error_of(const struct cli *cli, const struct orderdb_error *e) {
    check(e);
    const char *reason = orderdb_error_reason(e), *key, *value;
    bool colored = text_is_colored(stderr);
    fprintf(stderr, "%serror:%s %s%s", colored ? TEXT_RED : "", colored ? TEXT_PLAIN : "", orderdb_error_code_name(e), *reason ? " " : "");
    text_print(stderr, reason);
    fputs(": ", stderr);
    text_print(stderr, orderdb_error_message(e));
    fputc('\n', stderr);
    size_t violations = orderdb_error_violation_count(e);
    for (size_t i = 0; i < violations; i++) {
        orderdb_error_violation_at(e, i, &key, &value);
        if (violations > 1 || !is_pair(orderdb_error_message(e), key, value)) print_pair(key, value);
    }
    for (size_t i = 0; i < orderdb_error_meta_count(e); i++) {
        orderdb_error_meta_at(e, i, &key, &value);
        print_pair(key, value);
    }
    if (orderdb_error_retry_delay_ms(e) > 0) fprintf(stderr, "  try again in %.1f s\n", (double)orderdb_error_retry_delay_ms(e) / 1000);
    if (orderdb_error_outcome_unknown(e) && *orderdb_error_request_id(e)) {
        fprintf(stderr, "  It may have taken effect. The same command with --request-id ");
        text_print(stderr, orderdb_error_request_id(e));
        fprintf(stderr, " is safe and tells.\n");
    }
    int code = orderdb_error_code(e);
    if (code != GRPC_UNAVAILABLE && code != GRPC_DEADLINE_EXCEEDED) return CLI_REFUSED;
    if (code == GRPC_UNAVAILABLE && !*reason) {
        fprintf(stderr, "  Does a server take clients at %s, with TLS if you ask for it and only\n  then? `make run` starts one on port 7400; --server or ORDERDB_SERVER name another.\n",
                cli->server);
    }
    return CLI_UNAVAILABLE;
}

static bool as_yaml;
void cli_print_as_yaml(void) { as_yaml = true; }

/* before and behind: of a list's element. */
static bool print_yaml(const char *before, const char *json, const char *behind) {
    struct buf text = {0}, out = {0};
    bool ok = buf_append(&text, slice_str(before)) && buf_append(&text, slice_str(json)) && buf_append(&text, slice_str(behind)) && yaml_write(buf_slice(&text), &out);
    if (ok) fwrite(out.data, 1, out.len, stdout);
    buf_fini(&text);
    buf_fini(&out);
    return ok;
}

enum cli_exit cli_print_text(const char *json) {
    if (as_yaml) return print_yaml("", json, "") ? CLI_OK : cli_no_memory();
    puts(json);
    return CLI_OK;
}

enum cli_exit cli_print_json(const ProtobufCMessage *m) {
    char *text = pbjson_format(m, 2);
    enum cli_exit e = text ? cli_print_text(text) : cli_no_memory();
    mem_free(text);
    return e;
}

void cli_array_add_text(struct cli_array *a, const char *json) {
    bool ok = json != NULL;
    if (ok && as_yaml) ok = print_yaml("[", json, "]");
    else if (ok) printf("%s%s", a->begun ? ",\n" : "[", json);
    if (ok) a->begun = true;
    else a->failed = true;
}

void cli_array_add(struct cli_array *a, const ProtobufCMessage *m) {
    char *text = pbjson_format(m, 0);
    cli_array_add_text(a, text);
    mem_free(text);
}

enum cli_exit cli_array_end(const struct cli_array *a, enum cli_exit e) {
    if (!a->begun && !e) puts("[]");
    else if (a->begun && !as_yaml) puts("]");
    return e || !a->failed ? e : cli_no_memory();
}

char *cli_read_file(const char *path, size_t *len) {
    bool is_stdin = strcmp(path, "-") == 0;
    FILE *f = is_stdin ? stdin : fopen(path, "rb");
    struct buf b = {0};
    const char *why = NULL;
    if (!f) why = strerror(errno);
    while (!why && !feof(f)) {
        if (b.len > FILE_BYTES_MAX) why = "larger than 1 GiB";
        else if (!buf_reserve(&b, 1 << 16)) why = "out of memory";
        else b.len += fread(b.data + b.len, 1, b.cap - b.len - 1, f);
        if (!why && ferror(f)) why = strerror(errno);
    }
    if (f && !is_stdin) fclose(f);
    if (why) {
        fputs("orderctl: cannot read ", stderr);
        text_print(stderr, path);
        fprintf(stderr, ": %s\n", why);
        buf_fini(&b);
        return NULL;
    }
    b.data[b.len] = 0;
    *len = b.len;
    return (char *)buf_take(&b);
}

bool cli_parse_id(const char *text, int64_t *id) {
    char *end;
    errno = 0;
    *id = strtoll(text, &end, 10);
    return *text >= '0' && *text <= '9' && !*end && !errno && *id > 0;
}

/* Read as JSON has durations: as a field of a message that has one. */
Google__Protobuf__Duration *cli_parse_duration(const char *text, struct arena *a) {
    struct buf json = {0};
    char error[PBJSON_ERROR_BYTES];
    bool ok = buf_append(&json, SLICE_LIT("{\"ack_timeout\":")) && pbjson_quote(&json, text) && buf_append(&json, SLICE_LIT("}"));
    Orderdb__V1__ConsumerGroup *m = ok ? (void *)pbjson_parse(&orderdb__v1__consumer_group__descriptor, buf_slice(&json), a, error) : NULL;
    buf_fini(&json);
    return m ? m->ack_timeout : NULL;
}

static void time_ago(Google__Protobuf__Timestamp *t, const Google__Protobuf__Duration *ago) {
    struct timespec now;
    check(clock_gettime(CLOCK_REALTIME, &now) == 0);
    t->seconds = now.tv_sec - (ago ? ago->seconds : 0);
    t->nanos = (int32_t)now.tv_nsec - (ago ? ago->nanos : 0);
    if (t->nanos < 0) t->seconds--, t->nanos += 1000000000;
}

bool cli_parse_time(const char *text, Google__Protobuf__Timestamp *time, struct arena *a) {
    if (strcmp(text, "now") == 0) return time_ago(time, NULL), true;
    const Google__Protobuf__Duration *ago = cli_parse_duration(text, a);
    if (ago) return time_ago(time, ago), ago->seconds >= 0 && ago->nanos >= 0;
    return time_parse(slice_str(text), &time->seconds, &time->nanos);
}

void *cli_call(struct cli *cli, const char *path, const ProtobufCMessage *request, const ProtobufCMessageDescriptor *answer, struct arena *a, enum cli_exit *e) {
    size_t n = protobuf_c_message_get_packed_size(request), answer_bytes;
    uint8_t *bytes = arena_alloc(a, n + 1);
    const uint8_t *wire;
    struct failure f;
    failure_init(&f, a);
    *e = CLI_OK;
    if (!bytes) return *e = cli_no_memory(), NULL;
    protobuf_c_message_pack(request, bytes);
    if (!orderdb_call(cli->db, path, bytes, n, NULL, &wire, &answer_bytes)) return *e = cli_error(cli), NULL;
    static const struct scan_limits limits = {.depth_max = 32, .elements_max = 1 << 20, .unknown_bytes_max = 1 << 20, .unpacked_bytes_max = 256 << 20};
    void *m = scan_unpack(answer, slice_of(wire, answer_bytes), &limits, &f);
    if (!m) fprintf(stderr, "orderctl: the answer can't be read: %s\n", f.message ? f.message : status_name(f.status)), *e = CLI_UNAVAILABLE;
    return m;
}

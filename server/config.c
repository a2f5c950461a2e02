#include "server/config.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "proto/base/mem.h"
#include "proto/scan.h"
#include "server/conn.h"

enum setting_type { TYPE_TEXT, TYPE_COUNT, TYPE_SIZE, TYPE_TIME, TYPE_CHOICE, TYPE_LEVEL };
struct setting {
    const char *name; /* with underscores */
    enum setting_type type;
    const char *fallback;
    uint64_t low, high;
    const char *unit, *help;
    size_t offset;
};
static const struct setting settings[] = {
#define SETTING(name, type, fallback, low, high, unit, help) {#name, TYPE_##type, fallback, low, high, unit, help, offsetof(struct config, name)},
#include "server/config.tbl"
#undef SETTING
};
enum { SETTING_COUNT = ARRAY_LEN(settings), CONFIG_FILE_BYTES_MAX = 64 << 10, NAME_BYTES_MAX = 64 };

/* Which settings were given, by source: twice in one source is refused, the command line outranks the file. */
struct given {
    bool set[SETTING_COUNT];
};

/* "data-dir" for data_dir, for people */
static void dashed(const char *name, char out[NAME_BYTES_MAX]) {
    size_t i = 0;
    for (; name[i] && i < NAME_BYTES_MAX - 1; i++) out[i] = name[i] == '_' ? '-' : name[i];
    out[i] = 0;
}

static const struct setting *setting_find(struct slice key) {
    for (size_t i = 0; i < SETTING_COUNT; i++) {
        char name[NAME_BYTES_MAX];
        dashed(settings[i].name, name);
        if (slice_equal(key, slice_str(name))) return &settings[i];
    }
    return NULL;
}

/* ---- values */

struct suffix {
    const char *text;
    uint64_t factor;
};
static const struct suffix count_suffixes[] = {{"", 1}};
static const struct suffix size_suffixes[] = {{"", 1}, {"B", 1}, {"K", KIB}, {"KiB", KIB}, {"M", MIB}, {"MiB", MIB}, {"G", GIB}, {"GiB", GIB}, {"T", 1024 * GIB}, {"TiB", 1024 * GIB}};
static const struct suffix time_suffixes[] = {{"ms", 1}, {"s", 1000}, {"m", 60000}, {"h", 3600000}, {"d", 86400000}};

static bool parse_number(const char *text, const struct suffix *suffixes, size_t n, uint64_t *out) {
    if (!isdigit((unsigned char)*text)) return false;
    char *end;
    errno = 0;
    uint64_t v = strtoull(text, &end, 10);
    if (errno) return false;
    while (*end == ' ') end++;
    for (size_t i = 0; i < n; i++)
        if (strcmp(end, suffixes[i].text) == 0) return !__builtin_mul_overflow(v, suffixes[i].factor, out);
    return false;
}

static void format_amount(enum setting_type type, uint64_t v, char out[32]) {
    if (type == TYPE_SIZE && v >= GIB && v % GIB == 0) snprintf(out, 32, "%lluGiB", v / GIB);
    else if (type == TYPE_SIZE && v >= MIB && v % MIB == 0) snprintf(out, 32, "%lluMiB", v / MIB);
    else if (type == TYPE_SIZE && v >= KIB && v % KIB == 0) snprintf(out, 32, "%lluKiB", v / KIB);
    else if (type == TYPE_TIME && v >= 1000 && v % 1000 == 0) snprintf(out, 32, "%lus", v / 1000);
    else snprintf(out, 32, "%lu%s", v, type == TYPE_TIME ? "ms" : "");
}

static bool parse_amount(const struct setting *s, const char *text, uint64_t *v) {
    switch (s->type) {
    case TYPE_SIZE: return parse_number(text, size_suffixes, ARRAY_LEN(size_suffixes), v);
    case TYPE_TIME: return parse_number(text, time_suffixes, ARRAY_LEN(time_suffixes), v);
    default: return parse_number(text, count_suffixes, ARRAY_LEN(count_suffixes), v);
    }
}

static const char *expected(const struct setting *s) {
    switch (s->type) {
    case TYPE_SIZE: return "a size such as 512MiB";
    case TYPE_TIME: return "a time such as 500ms, 10s, 5m, 7d";
    case TYPE_COUNT: return "a whole number";
    case TYPE_CHOICE: return "yes or no";
    case TYPE_LEVEL: return "debug, info, warn, error or off";
    case TYPE_TEXT: return "a text";
    }
    return "";
}

static enum status bad_value(const struct setting *s, const char *where, const char *text, char error[512]) {
    char name[NAME_BYTES_MAX], low[32], high[32];
    dashed(s->name, name);
    format_amount(s->type, s->low, low);
    format_amount(s->type, s->high, high);
    if (s->type == TYPE_CHOICE || s->type == TYPE_LEVEL) snprintf(error, 512, "%s: %s is '%.100s', expected %s", where, name, text, expected(s));
    else if (s->type == TYPE_TEXT) snprintf(error, 512, "%s: %s has %zu bytes, expected %s to %s", where, name, strlen(text), low, high);
    else snprintf(error, 512, "%s: %s is '%.100s', expected %s, %s to %s", where, name, text, expected(s), low, high);
    return STATUS_FIELD_INVALID;
}

static enum status set_value(struct config *c, const struct setting *s, const char *where, const char *text, char error[512]) {
    void *field = (uint8_t *)c + s->offset;
    uint64_t v = 0;
    switch (s->type) {
    case TYPE_TEXT:
        if (strlen(text) < s->low || strlen(text) > s->high) return bad_value(s, where, text, error);
        memcpy(field, text, strlen(text) + 1);
        return STATUS_OK;
    case TYPE_CHOICE:
        if (strcmp(text, "yes") != 0 && strcmp(text, "no") != 0) return bad_value(s, where, text, error);
        *(bool *)field = text[0] == 'y';
        return STATUS_OK;
    case TYPE_LEVEL: return log_level_parse(text, field) ? STATUS_OK : bad_value(s, where, text, error);
    default:
        if (!parse_amount(s, text, &v) || v < s->low || v > s->high) return bad_value(s, where, text, error);
        *(uint64_t *)field = v;
        return STATUS_OK;
    }
}

static enum status set_once(struct config *c, struct given *given, const struct setting *s, const char *where, const char *text, char error[512]) {
    size_t i = (size_t)(s - settings);
    if (given->set[i]) {
        char name[NAME_BYTES_MAX];
        dashed(s->name, name);
        return snprintf(error, 512, "%s: %s is given twice", where, name), STATUS_FIELD_INVALID;
    }
    given->set[i] = true;
    return set_value(c, s, where, text, error);
}

/* ---- the file */

static struct slice trim(struct slice s) {
    while (s.len && isspace(s.data[0])) s.data++, s.len--;
    while (s.len && isspace(s.data[s.len - 1])) s.len--;
    return s;
}

static enum status parse_line(struct config *c, struct given *given, const char *where, struct slice line, char error[512]) {
    line = trim(line);
    if (line.len == 0 || line.data[0] == '#') return STATUS_OK;
    const uint8_t *eq = memchr(line.data, '=', line.len);
    if (!eq) return snprintf(error, 512, "%s: expected `key = value`", where), STATUS_FIELD_INVALID;
    struct slice key = trim(slice_of(line.data, (size_t)(eq - line.data)));
    struct slice value = trim(slice_of(eq + 1, line.len - (size_t)(eq + 1 - line.data)));
    if (memchr(line.data, 0, line.len)) return snprintf(error, 512, "%s: a NUL byte", where), STATUS_FIELD_INVALID;
    const struct setting *s = setting_find(key);
    if (!s) return snprintf(error, 512, "%s: unknown setting '%.*s' (orderd --help lists them)", where, (int)MIN_OF(key.len, 100), (const char *)key.data), STATUS_FIELD_INVALID;
    char text[2048];
    if (value.len >= sizeof text) return snprintf(error, 512, "%s: the value has %zu bytes", where, value.len), STATUS_FIELD_INVALID;
    memcpy(text, value.data, value.len);
    text[value.len] = 0;
    return set_once(c, given, s, where, text, error);
}

enum status config_parse_text(struct config *c, const char *name, struct slice text, char error[512]) {
    struct given given = {0};
    for (unsigned line = 1; text.len; line++) {
        const uint8_t *nl = memchr(text.data, '\n', text.len);
        size_t n = nl ? (size_t)(nl - text.data) : text.len;
        char where[300];
        snprintf(where, sizeof where, "%.250s:%u", name, line);
        enum status st = parse_line(c, &given, where, slice_of(text.data, n), error);
        if (st) return st;
        n += nl != NULL;
        text.data += n, text.len -= n;
    }
    return STATUS_OK;
}

static enum status parse_file(struct config *c, const char *path, char error[512]) {
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return snprintf(error, 512, "--config %.300s: %s", path, strerror(errno)), STATUS_IO_FAILED;
    uint8_t *bytes = mem_alloc(CONFIG_FILE_BYTES_MAX + 1);
    enum status st = STATUS_MEMORY_LIMIT;
    ssize_t n = -1;
    if (!bytes) snprintf(error, 512, "out of memory");
    else n = read(fd, bytes, CONFIG_FILE_BYTES_MAX + 1);
    if (bytes && n < 0) snprintf(error, 512, "--config %.300s: %s", path, strerror(errno)), st = STATUS_IO_FAILED;
    else if (n > CONFIG_FILE_BYTES_MAX) snprintf(error, 512, "--config %.300s: larger than %d bytes", path, CONFIG_FILE_BYTES_MAX), st = STATUS_LIMIT_EXCEEDED;
    else if (n >= 0) st = config_parse_text(c, path, slice_of(bytes, (size_t)n), error);
    mem_free(bytes);
    close(fd);
    return st;
}

/* ---- the command line */

struct flag {
    struct slice name;
    const char *value; /* NULL: none was given */
};

/* argv[*i], and argv[*i + 1] when the value is not behind an '='. --help and --version take none. */
static bool next_flag(int argc, char *const argv[], int *i, struct flag *f) {
    const char *arg = argv[*i], *eq = strchr(arg, '=');
    if (strncmp(arg, "--", 2) != 0 || !arg[2]) return false;
    f->name = eq ? slice_of(arg + 2, (size_t)(eq - arg - 2)) : slice_str(arg + 2);
    f->value = eq ? eq + 1 : NULL;
    bool alone = slice_equal(f->name, SLICE_LIT("help")) || slice_equal(f->name, SLICE_LIT("version"));
    if (!eq && !alone && *i + 1 < argc) f->value = argv[++*i];
    return true;
}

static enum config_wish scan(int argc, char *const argv[], const char **file, char error[512]) {
    *file = NULL;
    for (int i = 1; i < argc; i++) {
        struct flag f;
        int at = i;
        if (!next_flag(argc, argv, &i, &f)) return snprintf(error, 512, "'%.100s' is no flag (orderd --help lists them)", argv[at]), CONFIG_REFUSED;
        if (slice_equal(f.name, SLICE_LIT("help"))) return CONFIG_HELP;
        if (slice_equal(f.name, SLICE_LIT("version"))) return CONFIG_VERSION;
        bool config = slice_equal(f.name, SLICE_LIT("config"));
        if (!config && !setting_find(f.name)) return snprintf(error, 512, "unknown flag '%.100s' (orderd --help lists them)", argv[at]), CONFIG_REFUSED;
        if (!f.value) return snprintf(error, 512, "%.100s needs a value", argv[at]), CONFIG_REFUSED;
        if (config && *file) return snprintf(error, 512, "--config is given twice"), CONFIG_REFUSED;
        if (config) *file = f.value;
    }
    return CONFIG_RUN;
}

void config_defaults(struct config *c) {
    memset(c, 0, sizeof *c);
    char error[512];
    for (size_t i = 0; i < SETTING_COUNT; i++) check(set_value(c, &settings[i], "default", settings[i].fallback, error) == STATUS_OK);
}

enum config_wish config_parse(struct config *c, int argc, char *const argv[], char error[512]) {
    const char *file;
    config_defaults(c);
    enum config_wish wish = scan(argc, argv, &file, error);
    if (wish != CONFIG_RUN) return wish;
    if (file && parse_file(c, file, error)) return CONFIG_REFUSED;
    struct given given = {0};
    for (int i = 1; i < argc; i++) {
        struct flag f;
        check(next_flag(argc, argv, &i, &f));
        const struct setting *s = setting_find(f.name);
        if (s && set_once(c, &given, s, "command line", f.value, error)) return CONFIG_REFUSED;
    }
    if (c->log_segment_size % 4096) return snprintf(error, 512, "log-segment-size %lu is not a multiple of 4096", c->log_segment_size), CONFIG_REFUSED;
    if (c->cores && c->partitions && c->partitions < c->cores)
        return snprintf(error, 512, "partitions %lu is less than cores %lu: a core without a partition has nothing to do", c->partitions, c->cores), CONFIG_REFUSED;
    return CONFIG_RUN;
}

enum { HELP_INDENT = 33, HELP_WIDTH = 80 };

/* Words, folded; the line is at HELP_INDENT. */
static void print_folded(FILE *out, const char *text) {
    for (size_t at = HELP_INDENT; *text;) {
        size_t n = strcspn(text, " ");
        if (at > HELP_INDENT && at + 1 + n > HELP_WIDTH) fprintf(out, "\n%*s", HELP_INDENT, ""), at = HELP_INDENT;
        at += (size_t)fprintf(out, "%s%.*s", at > HELP_INDENT ? " " : "", (int)n, text);
        text += n + strspn(text + n, " ");
    }
    fputc('\n', out);
}

static void print_flag(FILE *out, const char *head, const char *text) {
    if (fprintf(out, "  %-30s ", head) > HELP_INDENT) fprintf(out, "\n%*s", HELP_INDENT, "");
    print_folded(out, text);
}

void config_print_help(FILE *out) {
    fprintf(out, "orderd: the OrderDB server\n\nusage: orderd [--FLAG VALUE]...\n\n");
    for (size_t i = 0; i < SETTING_COUNT; i++) {
        char name[NAME_BYTES_MAX], head[96], text[512];
        dashed(settings[i].name, name);
        snprintf(head, sizeof head, "--%s %s", name, settings[i].unit);
        snprintf(text, sizeof text, "%s (default %s)", settings[i].help, settings[i].fallback[0] ? settings[i].fallback : "none");
        print_flag(out, head, text);
    }
    print_flag(out, "--config FILE", "settings as `key = value` lines, keys as the flags above without --; a flag outranks it");
    print_flag(out, "--version", "what runs: version of orderd and of its libraries");
    print_flag(out, "--help", "this text");
    const struct call_limits *fixed = &conn_limits_default.call;
    fprintf(out, "\nFixed: a request's message of %u MiB and headers of %u KiB, %u levels and %u\nparts of a message; what each field may be is in docs/API.md.\n", fixed->message_bytes_max >> 20,
            fixed->header_bytes_max >> 10, scan_limits_default.depth_max, scan_limits_default.elements_max);
    fprintf(out, "\nSizes: 512MiB, 4GiB. Times: 500ms, 10s, 5m, 1h. SIGTERM or SIGINT drains and\nexits 0; a second one exits at once.\n");
}

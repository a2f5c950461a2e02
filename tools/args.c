#include "tools/args.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tools/suggest.h"
#include "tools/table.h"

enum { HELP_COLUMN = 31 };

static bool name_is(const char *name, const char *text, size_t len) { return name && strlen(name) == len && memcmp(name, text, len) == 0; }

static const struct arg *arg_find(const struct arg *const tables[2], const char *text, size_t len) {
    for (int t = 1; t >= 0; t--) { /* the second one first: a command may have a --version of its own */
        for (const struct arg *a = tables[t]; a && a->name; a++) {
            if (name_is(a->name, text, len) || name_is(a->short_name, text, len)) return a;
        }
    }
    return NULL;
}

static void flag_unknown(const struct arg *const tables[2], const char *text, char error[ARGS_ERROR_BYTES]) {
    struct suggest s;
    suggest_begin(&s, slice_of(text, strcspn(text, "=")));
    for (int t = 0; t < 2; t++) {
        for (const struct arg *a = tables[t]; a && a->name; a++) suggest_offer(&s, a->name);
    }
    snprintf(error, ARGS_ERROR_BYTES, "unknown flag %.60s%s%s%s", text, s.best ? "; did you mean " : "", s.best ? s.best : "", s.best ? "?" : "");
}

static bool arg_set(const struct arg *a, const char *value, char error[ARGS_ERROR_BYTES]) {
    char *end;
    struct args_many *many = a->out;
    switch (a->kind) {
    case ARG_SWITCH: *(bool *)a->out = true; return true;
    case ARG_TEXT: *(const char **)a->out = value; return true;
    case ARG_NUMBER:
        errno = 0;
        *(int64_t *)a->out = strtoll(value, &end, 10);
        if (*value && !*end && !errno) return true;
        snprintf(error, ARGS_ERROR_BYTES, "%s: \"%.60s\" is not a whole number", a->name, value);
        return false;
    case ARG_MANY:
        if (many->count == ARGS_MANY_MAX) {
            snprintf(error, ARGS_ERROR_BYTES, "%s: more than %d times", a->name, ARGS_MANY_MAX);
            return false;
        }
        many->values[many->count++] = value;
        return true;
    }
    return false;
}

int args_parse(const struct arg *const tables[2], int argc, char **argv, bool stop, char error[ARGS_ERROR_BYTES]) {
    int kept = 0;
    for (int i = 0; i < argc; i++) {
        char *text = argv[i];
        if (strcmp(text, "--") == 0) {
            while (++i < argc) argv[kept++] = argv[i];
            return kept;
        }
        if (text[0] != '-' || text[1] == 0) {
            argv[kept++] = text;
            if (!stop) continue;
            while (++i < argc) argv[kept++] = argv[i];
            return kept;
        }
        char *equals = text[1] == '-' ? strchr(text, '=') : NULL;
        const struct arg *a = arg_find(tables, text, equals ? (size_t)(equals - text) : strlen(text));
        if (!a) {
            flag_unknown(tables, text, error);
            return -1;
        }
        const char *value = equals ? equals + 1 : NULL;
        if (a->kind == ARG_SWITCH && value) {
            snprintf(error, ARGS_ERROR_BYTES, "%s takes no value", a->name);
            return -1;
        }
        if (a->kind != ARG_SWITCH && !value) {
            if (i + 1 == argc) {
                snprintf(error, ARGS_ERROR_BYTES, "%s needs a value: %s", a->name, a->value);
                return -1;
            }
            value = argv[++i];
        }
        if (!arg_set(a, value, error)) return -1;
    }
    return kept;
}

void args_print_help(const struct arg *table) {
    for (const struct arg *a = table; a && a->name; a++) {
        char left[64];
        snprintf(left, sizeof(left), "%s%s%s%s%s", a->short_name ? a->short_name : "", a->short_name ? ", " : "", a->name, a->value ? " " : "",
                 a->value ? a->value : "");
        if (strlen(left) > HELP_COLUMN - 3) printf("  %s\n%*s", left, HELP_COLUMN, "");
        else printf("  %-*s ", HELP_COLUMN - 3, left);
        text_fold(stdout, a->help, HELP_COLUMN, HELP_COLUMN);
    }
}

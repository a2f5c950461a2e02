#include "proto/base/log.h"

#include <execinfo.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum log_level log_level_now = LOG_INFO;
static const char *const level_names[] = {"debug", "info", "warn", "error", "off"};

void log_set_level(enum log_level level) { log_level_now = level; }

bool log_level_parse(const char *text, enum log_level *out) {
    for (size_t i = 0; i < ARRAY_LEN(level_names); i++)
        if (strcmp(text, level_names[i]) == 0) return *out = (enum log_level)i, true;
    return false;
}

void log_write(enum log_level level, const char *event, const char *format, ...) {
    char text[1024], line[2560];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    struct timespec now;
    struct tm tm;
    clock_gettime(CLOCK_REALTIME, &now);
    gmtime_r(&now.tv_sec, &tm);
    size_t n = strftime(line, sizeof line, "%Y-%m-%dT%H:%M:%S", &tm);
    n += (size_t)snprintf(line + n, sizeof line - n, ".%06ldZ %s \"%.80s\" ", now.tv_nsec / 1000, level_names[level], event);
    for (const char *p = text; *p && n < sizeof line - 6; p++) {
        unsigned char c = (unsigned char)*p;
        if (c < 0x20 || c == 0x7f) n += (size_t)snprintf(line + n, sizeof line - n, "\\x%02x", c);
        else line[n++] = *p;
    }
    line[n++] = '\n';
    if (write(STDERR_FILENO, line, n) < 0) return; /* nowhere left to say it */
}

static _Noreturn void die(const char *text) {
    fprintf(stderr, "PANIC %s\n", text);
    void *frames[48];
    backtrace_symbols_fd(frames, backtrace(frames, ARRAY_LEN(frames)), STDERR_FILENO);
    abort();
}

void panic(const char *file, int line, const char *text) {
    char message[512];
    snprintf(message, sizeof message, "%s:%d: check failed: %s", file, line, text);
    die(message);
}

void panic_now(const char *format, ...) {
    char message[512];
    va_list args;
    va_start(args, format);
    vsnprintf(message, sizeof message, format, args);
    va_end(args);
    die(message);
}

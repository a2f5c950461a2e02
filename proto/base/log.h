/* The process's own log: one line per event on stderr, `time level event key=value ...`, one write(2) each, any thread.
 * Control characters and quotes in values are escaped, so nothing that a client sends can forge a line. */
#ifndef PROTO_BASE_LOG_H
#define PROTO_BASE_LOG_H

#include "proto/base/base.h"

enum log_level { LOG_DEBUG, LOG_INFO, LOG_WARN, LOG_ERROR, LOG_OFF };

void log_set_level(enum log_level level);
/* "debug", "info", "warn", "error", "off"; false: none of them. */
bool log_level_parse(const char *text, enum log_level *out);
void log_write(enum log_level level, const char *event, const char *format, ...) PRINTF_LIKE(3, 4);
extern enum log_level log_level_now; /* read it through the macros */

#define log_debug(...) (log_level_now <= LOG_DEBUG ? log_write(LOG_DEBUG, __VA_ARGS__) : (void)0)
#define log_info(...) (log_level_now <= LOG_INFO ? log_write(LOG_INFO, __VA_ARGS__) : (void)0)
#define log_warn(...) (log_level_now <= LOG_WARN ? log_write(LOG_WARN, __VA_ARGS__) : (void)0)
#define log_error(...) (log_level_now <= LOG_ERROR ? log_write(LOG_ERROR, __VA_ARGS__) : (void)0)

#endif

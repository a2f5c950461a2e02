/* The settings of a server: from flags and from --config FILE (`key = value` lines, # comments); a flag outranks the file. One row each in
 * config.tbl. What is unknown, out of range or given twice is refused, naming flag or file and line. */
#ifndef SERVER_CONFIG_H
#define SERVER_CONFIG_H

#include <stdio.h>

#include "proto/base/log.h"
#include "proto/status.h"

#define CONFIG_FIELD_TEXT(name, high) char name[(high) + 1];
#define CONFIG_FIELD_COUNT(name, high) uint64_t name;
#define CONFIG_FIELD_SIZE(name, high) uint64_t name;
#define CONFIG_FIELD_TIME(name, high) uint64_t name; /* milliseconds */
#define CONFIG_FIELD_CHOICE(name, high) bool name;
#define CONFIG_FIELD_LEVEL(name, high) enum log_level name;

struct config {
#define SETTING(name, type, fallback, low, high, unit, help) CONFIG_FIELD_##type(name, high)
#include "server/config.tbl"
#undef SETTING
};

enum config_wish { CONFIG_RUN, CONFIG_HELP, CONFIG_VERSION, CONFIG_REFUSED };
/* Fills c from defaults, then the file that --config names, then the flags. REFUSED: error[] says what and where. */
enum config_wish config_parse(struct config *c, int argc, char *const argv[], char error[512]) MUST_USE;
void config_defaults(struct config *c);
/* One line, "key = value"; where: "orderd.conf:3", for the error. Blank and comment lines are fine. For the file reader and tests. */
enum status config_parse_text(struct config *c, const char *name, struct slice text, char error[512]) MUST_USE;
void config_print_help(FILE *out);

#endif

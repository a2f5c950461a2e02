/* What every command of orderctl shares: the server, the output, how errors are told and what the process answers. */
#ifndef TOOLS_CLI_H
#define TOOLS_CLI_H

#include <protobuf-c/protobuf-c.h>

#include "client/orderdb.h"
#include "proto/base/arena.h"
#include "tools/args.h"

enum cli_exit { CLI_OK = 0, CLI_REFUSED = 1, CLI_USAGE = 2, CLI_UNAVAILABLE = 3, CLI_INTERRUPTED = 130 };

struct cli {
    const char *server, *output;
    const char *tls_ca, *tls_cert, *tls_key, *tls_server_name; /* while a command runs: the environment's too */
    bool tls;
    int64_t timeout_s;
    bool help, version;
    bool json, yaml;     /* json: what is printed is for programs, as JSON or (yaml too) as YAML */
    const char *command; /* "order get", for messages */
    struct orderdb_client *db;
};
struct cli_command {
    const char *family, *name; /* "order", "get"; name "": the family is the command */
    const char *operands;      /* "ORDER_ID" */
    const char *summary;       /* one line */
    const char *text;          /* more words and the examples, for --help */
    const struct arg *flags;
    int operands_min, operands_max;
    enum cli_exit (*run)(struct cli *cli, int argc, char **argv);
};
extern const struct cli_command order_commands[], machine_commands[], resource_commands[], stream_commands[], group_commands[], dlq_commands[], cluster_commands[], recover_commands[], index_commands[], status_commands[], bench_commands[]; /* each ends with family NULL */

/* Prints the words and where to find help; CLI_USAGE. */
enum cli_exit cli_usage(const struct cli *cli, const char *format, ...) PRINTF_LIKE(2, 3);
/* Prints the handle's last error with all its details; CLI_REFUSED or CLI_UNAVAILABLE. */
enum cli_exit cli_error(const struct cli *cli);
enum cli_exit cli_error_of(const struct cli *cli, const struct orderdb_error *e); /* another error, in the same way */
enum cli_exit cli_no_memory(void);
/* From now on what these print is YAML. */
void cli_print_as_yaml(void);
/* A whole message on stdout, or JSON text without its line's end; CLI_OK. */
enum cli_exit cli_print_json(const ProtobufCMessage *m);
enum cli_exit cli_print_text(const char *json);
/* An array of messages on stdout, in JSON one a line, as they come. */
struct cli_array {
    bool begun, failed;
};
void cli_array_add(struct cli_array *a, const ProtobufCMessage *m);
void cli_array_add_text(struct cli_array *a, const char *json); /* the same, as text already; NULL: there was no memory for it */
/* e: how the rest went. A refusal before anything came leaves stdout empty. Answers how the process ends. */
enum cli_exit cli_array_end(const struct cli_array *a, enum cli_exit e);
/* The whole of a file, or of stdin for "-"; mem_free() it. NULL: told on stderr. */
char *cli_read_file(const char *path, size_t *len);
bool cli_parse_id(const char *text, int64_t *id); /* a positive order id */
/* "1.5s", "30m", "1d12h". In the arena; NULL: it is none, or no memory. */
Google__Protobuf__Duration *cli_parse_duration(const char *text, struct arena *a);
/* "now", how long ago ("30m"), or RFC 3339. */
bool cli_parse_time(const char *text, Google__Protobuf__Timestamp *time, struct arena *a);
/* A unary method for which the client library has no function; its answer in the arena. NULL: told, and *e says how the process ends. */
void *cli_call(struct cli *cli, const char *path, const ProtobufCMessage *request, const ProtobufCMessageDescriptor *answer, struct arena *a, enum cli_exit *e);

#endif

/* orderctl: OrderDB by hand. Finds the command, its flags and the server, and runs it. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tools/cli.h"
#include "tools/completion.h"
#include "tools/suggest.h"
#include "tools/table.h"

#define SERVER_DEFAULT "127.0.0.1:7400"
enum { TIMEOUT_S_DEFAULT = 10, TIMEOUT_S_MAX = 86400, COMMANDS_COLUMN = 37 };

static const struct cli_command completion_commands[];
static const struct cli_command *const families[] = {order_commands, machine_commands, resource_commands, stream_commands, group_commands, dlq_commands, status_commands, cluster_commands, recover_commands, index_commands, bench_commands, completion_commands};

static struct cli cli = {.timeout_s = TIMEOUT_S_DEFAULT};
static const struct arg global_flags[] = {
    {"--server", NULL, ARG_TEXT, &cli.server, "HOST:PORT", "the server, or several nodes of a cluster with commas (default: $ORDERDB_SERVER, else " SERVER_DEFAULT ")"},
    {"--tls", NULL, ARG_SWITCH, &cli.tls, NULL, "TLS, with the system's CAs; files below mean it too"},
    {"--tls-ca", NULL, ARG_TEXT, &cli.tls_ca, "FILE", "who signs the server's certificate (or $ORDERDB_TLS_CA)"},
    {"--tls-cert", NULL, ARG_TEXT, &cli.tls_cert, "FILE", "your certificate (or $ORDERDB_TLS_CERT)"},
    {"--tls-key", NULL, ARG_TEXT, &cli.tls_key, "FILE", "its key (or $ORDERDB_TLS_KEY)"},
    {"--tls-server-name", NULL, ARG_TEXT, &cli.tls_server_name, "NAME", "who the server must be (or $ORDERDB_TLS_SERVER_NAME)"},
    {"--output", "-o", ARG_TEXT, &cli.output, "json|table|yaml", "how answers are printed (default: table)"},
    {"--timeout", NULL, ARG_NUMBER, &cli.timeout_s, "SECONDS", "of a call, retries included (default: 10)"},
    {"--help", "-h", ARG_SWITCH, &cli.help, NULL, "what a command does, with examples"},
    {"--version", NULL, ARG_SWITCH, &cli.version, NULL, "print the version"},
    {NULL},
};

static enum cli_exit completion_run(struct cli *c, int argc, char **argv) {
    completion_print_bash(stdout, families, ARRAY_LEN(families), global_flags);
    return CLI_OK;
}

static const struct cli_command completion_commands[] = {
    {"completion", "bash", "", "print a completion script for bash",
     "Examples:\n  source <(orderctl completion bash)\n  orderctl completion bash > ~/.local/share/bash-completion/completions/orderctl\n", NULL, 0, 0, completion_run},
    {NULL},
};

static void print_commands(const char *family) {
    for (size_t i = 0; i < ARRAY_LEN(families); i++) {
        for (const struct cli_command *c = families[i]; c->family; c++) {
            char left[80];
            if (family && strcmp(family, c->family) != 0) continue;
            snprintf(left, sizeof(left), "%s%s%s %s", c->family, *c->name ? " " : "", c->name, c->operands);
            if (strlen(left) > COMMANDS_COLUMN - 3) printf("  %s\n%*s", left, COMMANDS_COLUMN, "");
            else printf("  %-*s ", COMMANDS_COLUMN - 3, left);
            text_fold(stdout, c->summary, COMMANDS_COLUMN, COMMANDS_COLUMN);
        }
    }
}

static void help_all(void) {
    printf("orderctl: orders of an OrderDB server\n\nUsage: orderctl [FLAGS] COMMAND [OPERANDS] [FLAGS]\n\nCommands:\n");
    print_commands(NULL);
    printf("\nFlags of every command:\n");
    args_print_help(global_flags);
    printf("\nExamples:\n"
           "  orderctl status\n"
           "  orderctl order create --user ann --currency CNY \\\n"
           "    --item sku=u1,title=Umbrella,qty=2,price=19.99\n"
           "  orderctl order list ann\n"
           "  orderctl order transition 1234567890 pay\n"
           "  orderctl order create --help\n"
           "\nExit codes: 0 done, 1 refused by the server, 2 wrong usage, 3 server not reached\n"
           "or no answer in time, 130 interrupted.\nColours are for terminals alone; NO_COLOR=1 switches them off.\n");
}

static void help_family(const char *family) {
    printf("Usage: orderctl %s COMMAND [OPERANDS] [FLAGS]\n\nCommands:\n", family);
    print_commands(family);
    for (size_t i = 0; i < ARRAY_LEN(families); i++) {
        if (strcmp(families[i]->family, family) == 0) printf("\nExamples:\n  orderctl %s %s --help\n", family, families[i]->name);
    }
}

/* Prose is folded, examples (lines that begin with a space) are as they are. */
static void print_text(const char *text) {
    char line[512];
    for (size_t n; *text; text += n + (text[n] == '\n')) {
        n = strcspn(text, "\n");
        snprintf(line, sizeof(line), "%.*s", (int)n, text);
        if (*line == ' ') puts(line);
        else text_fold(stdout, line, 0, 0);
    }
}

static void help_command(const struct cli_command *c) {
    char name[64];
    snprintf(name, sizeof(name), "%s%s%s", c->family, *c->name ? " " : "", c->name);
    printf("orderctl %s: ", name);
    text_fold(stdout, c->summary, sizeof("orderctl : ") - 1 + strlen(name), 2);
    printf("\nUsage: orderctl %s %s%s[FLAGS]\n", name, c->operands, *c->operands ? " " : "");
    if (c->flags && c->flags->name) {
        printf("\nFlags:\n");
        args_print_help(c->flags);
    }
    printf("\nFlags of every command:\n");
    args_print_help(global_flags);
    putchar('\n');
    print_text(c->text);
}

static const struct cli_command *command_find(const char *family, const char *name, bool *family_known) {
    *family_known = false;
    for (size_t i = 0; i < ARRAY_LEN(families); i++) {
        for (const struct cli_command *c = families[i]; c->family; c++) {
            if (strcmp(c->family, family) != 0) continue;
            *family_known = true;
            if (!*c->name || (name && strcmp(c->name, name) == 0)) return c;
        }
    }
    return NULL;
}

/* The flag, else the environment; NULL: neither. */
static const char *setting(const char *flag, const char *variable) {
    if (!flag) flag = getenv(variable);
    return flag && *flag ? flag : NULL;
}

/* "order crate" is near "order create"; so are "create" and "crate". Into out: false: nothing is near. */
static bool command_nearest(const char *family, const char *name, char *out, size_t cap) {
    struct suggest s;
    char word[SUGGEST_WORD_MAX + 2], both[64];
    snprintf(word, sizeof(word), "%s%s%s", family, name ? " " : "", name ? name : "");
    suggest_begin(&s, slice_str(word));
    for (size_t i = 0; i < ARRAY_LEN(families); i++) {
        for (const struct cli_command *c = families[i]; c->family; c++) {
            snprintf(both, sizeof(both), "%s%s%s", c->family, *c->name ? " " : "", c->name);
            bool near = suggest_offer(&s, both);
            if (*c->name) near |= suggest_offer(&s, c->name);
            if (near) snprintf(out, cap, "%s", both);
        }
    }
    return s.best;
}

/* cli.command is the family where that is known. The second word of "stauts 7" is none of the command. */
static enum cli_exit command_unknown(const char *family, const char *name) {
    char told[80], near[64];
    snprintf(told, sizeof(told), *cli.command ? "%.40s %.30s" : "%.40s", family, name);
    bool found = (name && command_nearest(family, name, near, sizeof(near))) || (!*cli.command && command_nearest(family, NULL, near, sizeof(near)));
    return found ? cli_usage(&cli, "no command \"%s\"; did you mean \"%s\"?", told, near) : cli_usage(&cli, "no command \"%s\"", told);
}

static enum cli_exit command_run(const struct cli_command *c, int argc, char **argv) {
    cli.yaml = cli.output && strcmp(cli.output, "yaml") == 0;
    cli.json = cli.yaml || (cli.output && strcmp(cli.output, "json") == 0);
    if (cli.yaml) cli_print_as_yaml();
    if (cli.output && !cli.json && strcmp(cli.output, "table") != 0) return cli_usage(&cli, "--output is json, yaml or table, not %s", cli.output);
    if (cli.timeout_s < 1 || cli.timeout_s > TIMEOUT_S_MAX) return cli_usage(&cli, "--timeout is 1 to %d seconds", TIMEOUT_S_MAX);
    if (argc < c->operands_min || argc > c->operands_max) return cli_usage(&cli, "expected: orderctl %s%s%s", cli.command, *c->operands ? " " : "", c->operands);
    cli.server = setting(cli.server, "ORDERDB_SERVER");
    if (!cli.server) cli.server = SERVER_DEFAULT;
    char tls_error[256];
    cli.tls_ca = setting(cli.tls_ca, "ORDERDB_TLS_CA"), cli.tls_cert = setting(cli.tls_cert, "ORDERDB_TLS_CERT"), cli.tls_key = setting(cli.tls_key, "ORDERDB_TLS_KEY");
    cli.tls_server_name = setting(cli.tls_server_name, "ORDERDB_TLS_SERVER_NAME");
    struct orderdb_options options = {
        .timeout_ms = (uint32_t)cli.timeout_s * 1000, .tls = cli.tls, .tls_error = tls_error,
        .tls_ca = cli.tls_ca, .tls_cert = cli.tls_cert, .tls_key = cli.tls_key, .tls_server_name = cli.tls_server_name,
    };
    cli.db = orderdb_open(cli.server, &options);
    if (!cli.db && errno == EKEYREJECTED) return cli_usage(&cli, "%s", tls_error);
    if (!cli.db) return errno == EINVAL ? cli_usage(&cli, "--server is HOST:PORT, not %s", cli.server) : cli_no_memory();
    enum cli_exit e = c->run(&cli, argc, argv);
    orderdb_close(cli.db);
    return e;
}

/* A full disk or a closed pipe under stdout must not look like success, be it help that nobody reads. */
static enum cli_exit output_end(enum cli_exit e) {
    errno = 0;
    bool flushed = fflush(stdout) == 0;
    if (flushed && !ferror(stdout)) return e;
    fprintf(stderr, "orderctl: cannot write the output%s%s\n", errno ? ": " : "", errno ? strerror(errno) : "");
    return e == CLI_OK ? CLI_REFUSED : e;
}

static enum cli_exit run(int argc, char **argv) {
    char error[ARGS_ERROR_BYTES], name[64];
    const struct arg *tables[2] = {global_flags, NULL};
    cli.command = "";
    text_begin();
    int n = args_parse(tables, argc - 1, argv + 1, true, error);
    char **words = argv + 1;
    if (n < 0) return cli_usage(&cli, "%s", error);
    if (cli.version) return printf("orderctl %s\n", ORDERDB_VERSION), CLI_OK;
    if (n == 0) return help_all(), cli.help ? CLI_OK : CLI_USAGE;
    bool family_known;
    const struct cli_command *c = command_find(words[0], n > 1 ? words[1] : NULL, &family_known);
    if (!c && family_known) {
        bool asks = cli.help || (n > 1 && (strcmp(words[1], "--help") == 0 || strcmp(words[1], "-h") == 0));
        if (asks) return help_family(words[0]), CLI_OK;
        cli.command = words[0];
        return n > 1 ? command_unknown(words[0], words[1]) : cli_usage(&cli, "%s needs a command", words[0]);
    }
    if (!c) return strcmp(words[0], "help") == 0 ? (help_all(), CLI_OK) : command_unknown(words[0], n > 1 ? words[1] : NULL);
    snprintf(name, sizeof(name), "%s%s%s", c->family, *c->name ? " " : "", c->name);
    cli.command = name;
    int skip = *c->name ? 2 : 1;
    tables[1] = c->flags;
    n = args_parse(tables, n - skip, words + skip, false, error);
    if (n < 0) return cli_usage(&cli, "%s", error);
    if (cli.help) return help_command(c), CLI_OK;
    return command_run(c, n, words + skip);
}

/* Where a stream was closed, its place is taken by one that can't be used: else a connection would be stdout, and the server get what is printed. */
static void streams_begin(void) {
    for (int fd = STDIN_FILENO; fd <= STDERR_FILENO; fd++) {
        if (fcntl(fd, F_GETFD) < 0 && open("/dev/null", fd == STDIN_FILENO ? O_WRONLY : O_RDONLY) < 0) return;
    }
}

int main(int argc, char **argv) {
    streams_begin();
    return output_end(run(argc, argv));
}

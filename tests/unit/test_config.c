/* The promises of server/config.h and server/budget.h. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <ctype.h>
#include <stdlib.h>
#include <unistd.h>

#include "proto/base/mem.h"
#include "server/budget.h"
#include "server/config.h"

static struct config c;
static char error[512];
#define PARSE(...)                                                           \
    ({                                                                       \
        const char *argv_[] = {"orderd", ##__VA_ARGS__, NULL};               \
        error[0] = 0;                                                        \
        config_parse(&c, (int)ARRAY_LEN(argv_) - 1, (char *const *)(uintptr_t)argv_, error); \
    })
static void says(const char *part) {
    if (!strstr(error, part)) fail_msg("expected '%s' in: %s", part, error);
}

static void defaults(void **state) {
    assert_int_equal(PARSE(), CONFIG_RUN);
    assert_string_equal(c.listen, "127.0.0.1:7400");
    assert_string_equal(c.peer_listen, "127.0.0.1:7401");
    assert_string_equal(c.http_listen, "127.0.0.1:7402");
    assert_int_equal(c.cores, 0);
    assert_int_equal(c.memory_budget, 0);
    assert_int_equal(c.log_level, LOG_INFO);
    assert_int_equal(c.drain_timeout, 10000);
    assert_int_equal(c.log_live_size, 256 * MIB);
}

static void flags(void **state) {
    assert_int_equal(PARSE("--data-dir", "/x", "--cores=2", "--partitions", "8", "--memory-budget", "1500MiB", "--pin-cores=no", "--log-level", "debug", "--drain-timeout=1500ms"), CONFIG_RUN);
    assert_string_equal(c.data_dir, "/x");
    assert_int_equal(c.cores, 2);
    assert_int_equal(c.partitions, 8);
    assert_int_equal(c.memory_budget, 1500 * MIB);
    assert_false(c.pin_cores);
    assert_int_equal(c.log_level, LOG_DEBUG);
    assert_int_equal(c.drain_timeout, 1500);
    assert_int_equal(PARSE("--help"), CONFIG_HELP);
    assert_int_equal(PARSE("--cores", "2", "--version"), CONFIG_VERSION);
}

static void flags_refused(void **state) {
    assert_int_equal(PARSE("--kores", "2"), CONFIG_REFUSED);
    says("unknown flag '--kores'");
    assert_int_equal(PARSE("cores"), CONFIG_REFUSED);
    says("'cores' is no flag");
    assert_int_equal(PARSE("--cores"), CONFIG_REFUSED);
    says("--cores needs a value");
    assert_int_equal(PARSE("--cores", "65"), CONFIG_REFUSED);
    says("cores is '65', expected a whole number, 0 to 64");
    assert_int_equal(PARSE("--cores", "2x"), CONFIG_REFUSED);
    assert_int_equal(PARSE("--cores", "-1"), CONFIG_REFUSED);
    assert_int_equal(PARSE("--cores", ""), CONFIG_REFUSED);
    assert_int_equal(PARSE("--cores", "99999999999999999999"), CONFIG_REFUSED);
    assert_int_equal(PARSE("--cores", "1", "--cores", "1"), CONFIG_REFUSED);
    says("cores is given twice");
    assert_int_equal(PARSE("--memory-budget", "1XiB"), CONFIG_REFUSED);
    says("a size such as 512MiB");
    assert_int_equal(PARSE("--memory-budget", "99999999999999999T"), CONFIG_REFUSED);
    assert_int_equal(PARSE("--drain-timeout", "10"), CONFIG_REFUSED);
    says("a time such as");
    assert_int_equal(PARSE("--pin-cores", "true"), CONFIG_REFUSED);
    says("yes or no");
    assert_int_equal(PARSE("--log-level", "loud"), CONFIG_REFUSED);
    says("debug, info, warn");
    assert_int_equal(PARSE("--listen", ""), CONFIG_REFUSED);
    assert_int_equal(PARSE("--log-segment-size", "100001"), CONFIG_REFUSED);
    says("multiple of 4096");
    assert_int_equal(PARSE("--cores", "4", "--partitions", "2"), CONFIG_REFUSED);
    says("partitions 2 is less than cores 4");
}

static void text_lines(void **state) {
    config_defaults(&c);
    assert_int_equal(config_parse_text(&c, "f", SLICE_LIT("# all\n\n  cores = 3\r\nlisten=[::1]:1 \n\tmemory-budget =2GiB"), error), STATUS_OK);
    assert_int_equal(c.cores, 3);
    assert_string_equal(c.listen, "[::1]:1");
    assert_int_equal(c.memory_budget, 2 * GIB);
    static const struct {
        const char *text, *says;
    } bad[] = {
        {"cores = 1\nkores = 1\n", "f:2: unknown setting 'kores'"}, {"\n\ncores\n", "f:3: expected `key = value`"}, {"cores = many", "f:1: cores is 'many'"},
        {"cores = 1\ncores = 1", "f:2: cores is given twice"},       {"data_dir = x", "f:1: unknown setting 'data_dir'"}, {"= 5", "f:1: unknown setting ''"},
    };
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        config_defaults(&c);
        assert_int_not_equal(config_parse_text(&c, "f", slice_str(bad[i].text), error), STATUS_OK);
        says(bad[i].says);
    }
    assert_int_not_equal(config_parse_text(&c, "f", SLICE_LIT("listen = a\0b"), error), STATUS_OK);
}

static void file_below_flags(void **state) {
    char path[] = "/tmp/test_config.XXXXXX";
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, "cores = 3\npartitions = 9\n", 25), 25);
    assert_int_equal(PARSE("--cores", "2", "--config", path), CONFIG_RUN);
    assert_int_equal(c.cores, 2);
    assert_int_equal(c.partitions, 9);
    assert_int_equal(PARSE("--config", path, "--config", path), CONFIG_REFUSED);
    says("--config is given twice");
    mem_fail_nth(1);
    assert_int_equal(PARSE("--config", path), CONFIG_REFUSED);
    says("memory");
    assert_int_equal(write(fd, "what = ever\n", 12), 12);
    assert_int_equal(PARSE("--config", path), CONFIG_REFUSED);
    says(path);
    says(":3: unknown setting 'what'");
    char big[1024] = {'#'};
    for (unsigned i = 0; i < 65; i++) assert_int_equal(write(fd, big, sizeof big), sizeof big);
    assert_int_equal(PARSE("--config", path), CONFIG_REFUSED);
    says("larger than");
    close(fd);
    unlink(path);
    assert_int_equal(PARSE("--config", path), CONFIG_REFUSED);
    says("No such file");
    assert_int_equal(PARSE("--config", "/tmp"), CONFIG_REFUSED);
    says("directory");
}

static void help_names_every_setting_on_80_columns(void **state) {
    char *text = NULL, *to;
    size_t n = 0;
    FILE *f = open_memstream(&text, &n);
    config_print_help(f);
    fclose(f);
    for (const char *line = text; *line; line += strcspn(line, "\n") + 1) assert_true(strcspn(line, "\n") <= 80);
    to = text; /* unfolded */
    for (const char *from = text; *from; from++)
        if (to == text || !isspace((unsigned char)*from) || to[-1] != ' ') *to++ = isspace((unsigned char)*from) ? ' ' : *from;
    *to = 0;
#define SETTING(name, type, fallback, low, high, unit, help_) \
    assert_non_null(strstr(text, help_));                     \
    assert_non_null(strstr(text, *fallback ? "(default " fallback ")" : "(default none)"));
#include "server/config.tbl"
#undef SETTING
    assert_non_null(strstr(text, "--memory-budget SIZE"));
    assert_non_null(strstr(text, "message of 4 MiB and headers of 16 KiB, 16 levels and 65536 parts"));
    free(text);
}

/* ---- budget */

static uint64_t sum_of(const struct budget *b, uint64_t cores) {
    return b->process_bytes + b->log_gather_bytes + b->memtables_bytes + b->stream_bytes + b->lists_bytes + b->rows_bytes + b->filter_bytes + b->requests_bytes + b->connections_bytes + b->block_cache_bytes +
           cores * b->receive_buffer_count * b->receive_buffer_bytes;
}

static void budget_adds_up(void **state) {
    struct budget b;
    for (uint32_t cores = 1; cores <= 64; cores *= 2)
        for (uint32_t partitions = cores; partitions <= 256; partitions *= 2) {
            uint64_t least = budget_minimum_bytes(cores, partitions);
            for (uint64_t total = least; total < 64 * GIB; total += total / 3) {
                assert_int_equal(budget_derive(&b, total, cores, partitions, error), STATUS_OK);
                assert_int_equal(sum_of(&b, cores), total);
                assert_true(b.receive_buffer_count >= 64);
                assert_int_equal(b.receive_buffer_count & (b.receive_buffer_count - 1), 0);
            }
            assert_int_equal(budget_derive(&b, least - 1, cores, partitions, error), STATUS_MEMORY_LIMIT);
        }
    assert_int_equal(budget_derive(&b, 100 * MIB, 2, 4, error), STATUS_MEMORY_LIMIT);
    char least[64];
    snprintf(least, sizeof least, "at least %llu MiB", (budget_minimum_bytes(2, 4) + MIB - 1) / MIB);
    says(least);
    assert_true(budget_default_bytes() >= 512 * MIB);
    assert_true(budget_default_bytes() <= 16 * GIB);
    assert_true(budget_minimum_bytes(2, 4) <= 512 * MIB); /* the default works on a small machine */
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(defaults),         cmocka_unit_test(flags),                    cmocka_unit_test(flags_refused), cmocka_unit_test(text_lines),
        cmocka_unit_test(file_below_flags), cmocka_unit_test(help_names_every_setting_on_80_columns), cmocka_unit_test(budget_adds_up),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* The reader of --config FILE: whatever comes, settings stay in their ranges and a refusal says where. */
#include "server/config.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static struct config c;
    char error[512] = "";
    config_defaults(&c);
    enum status st = config_parse_text(&c, "file", slice_of(data, size), error);
    check(st == STATUS_OK || strncmp(error, "file:", 5) == 0);
    check(c.cores <= 64);
    check(c.partitions <= 1024);
    check(c.calls_max >= 1);
    check(memchr(c.data_dir, 0, sizeof c.data_dir) != NULL);
    check(c.data_dir[0] != 0);
    return 0;
}

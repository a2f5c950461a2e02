/* orderctl order timers, timer-set, timer-cancel. */
#ifndef TOOLS_CMD_TIMER_H
#define TOOLS_CMD_TIMER_H

#include "tools/cli.h"

extern const struct arg cmd_timer_set_flags[], cmd_timer_cancel_flags[];
extern const char cmd_timers_text[], cmd_timer_set_text[], cmd_timer_cancel_text[];
enum cli_exit cmd_timers_run(struct cli *cli, int argc, char **argv);
enum cli_exit cmd_timer_set_run(struct cli *cli, int argc, char **argv);
enum cli_exit cmd_timer_cancel_run(struct cli *cli, int argc, char **argv);

#endif

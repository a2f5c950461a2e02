#include "tests/lib/panics.h"

#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/lib/test.h"

static _Noreturn void child(void (*run)(void *ctx), void *ctx, int err) {
    signal(SIGABRT, SIG_DFL); /* cmocka's handler would take it for a failed test */
    setrlimit(RLIMIT_CORE, &(struct rlimit){0});
    dup2(err, STDERR_FILENO);
    run(ctx);
    _exit(0);
}

void assert_panics(void (*run)(void *ctx), void *ctx, const char *text) {
    int fd[2];
    assert_int_equal(pipe(fd), 0);
    fflush(NULL);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) child(run, ctx, fd[1]);
    close(fd[1]);
    char said[8192];
    size_t len = 0;
    for (ssize_t n; len < sizeof said - 1 && (n = read(fd[0], said + len, sizeof said - 1 - len)) > 0;) len += (size_t)n;
    said[len] = 0;
    close(fd[0]);
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    if (!WIFSIGNALED(status) || WTERMSIG(status) != SIGABRT) fail_msg("did not panic: status %d, said: %s", status, said);
    if (!strstr(said, text)) fail_msg("panicked with other words than \"%s\": %s", text, said);
}

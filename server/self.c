/* Which core this thread runs; apart from core.c, so that mail, host and tests need not pull in the whole server. */
#include "server/core.h"

_Thread_local struct core *core_self;

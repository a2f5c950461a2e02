/* Why a limit ended something of a peer's: the rows of cuts.tbl. */
#ifndef SERVER_CUTS_H
#define SERVER_CUTS_H

#include "proto/base/base.h"

enum cut {
    CUT_NONE,
#define CUT(id, action, reason, hostile, help) CUT_##id,
#include "server/cuts.tbl"
#undef CUT
    CUT_COUNT,
};

#endif

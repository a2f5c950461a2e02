/* The RPCs that are answered, looked up by path. Rows come from proto/methods.tbl. */
#ifndef SERVER_METHODS_H
#define SERVER_METHODS_H

#include <protobuf-c/protobuf-c.h>

#include "server/call.h"

enum method_kind { METHOD_UNARY, METHOD_CLIENT_STREAM, METHOD_SERVER_STREAM, METHOD_BIDI };

struct method {
    struct slice path;  /* "/orderdb.v1.OrderService/CreateOrder" */
    const char *name;   /* "OrderService/CreateOrder"; with the package where it is not ours */
    enum method_kind kind;
    call_handler handler;
    unsigned row;       /* in methods.tbl: metrics count by it */
    const ProtobufCMessageDescriptor *input; /* NULL: the service is not ours */
};

const struct method *method_find(struct slice path); /* NULL: no such method */

#endif

#!/usr/bin/python3
"""What strangers ask of a gRPC server, with stock grpcio: health, server reflection, errors with details. TLS: test_tls.py."""
import threading

import orderdb_test as t
from orderdb_test import equal, true
import grpc
from google.protobuf import descriptor_pb2, descriptor_pool
from grpc_services import NOT_SERVING, SERVICE_UNKNOWN, SERVICES, SERVING, check, failure_of, reflect, reflection_v1, reflection_v1alpha, watch


# ---- health
@t.test("health: Check of each service, and of one that is not here")
def _(server):
    for service in ("", "orderdb.v1.OrderService", "orderdb.v1.StreamService", "orderdb.v1.AdminService"):
        equal(check(server.client, service), SERVING)
    f = failure_of(lambda: check(server.client, "orderdb.v1.Nothing"))
    equal((f.code_name, f.reason), ("NOT_FOUND", "SERVICE_UNKNOWN"))


@t.test("health: Watch says what is, and goes on; SERVICE_UNKNOWN is an answer")
def _(server):
    known, unknown = watch(server.client, "orderdb.v1.OrderService"), watch(server.client, "nothing")
    equal(next(known).status, SERVING)
    equal(next(unknown).status, SERVICE_UNKNOWN)
    known.cancel(), unknown.cancel()
    f = failure_of(lambda: list(watch(server.client, "", timeout=0.5)))
    equal(f.code_name, "DEADLINE_EXCEEDED")
    t.until(lambda: server.metrics().get("orderdb_calls_in_flight") == 0, what="no call in flight")


# ---- reflection
@t.test("reflection: v1 and v1alpha list the services")
def _(server):
    for pb, version in ((reflection_v1, "v1"), (reflection_v1alpha, "v1alpha")):
        request = pb.ServerReflectionRequest(host="h", list_services="*")
        answer, = reflect(server.client, [request], pb, version)
        equal(sorted(s.name for s in answer.list_services_response.service), SERVICES)
        equal((answer.valid_host, answer.original_request), ("h", request))


@t.test("reflection: a client without .proto files calls a method by what it is told")
def _(server):
    pool = descriptor_pool.DescriptorPool()
    answer, = reflect(server.client, [reflection_v1.ServerReflectionRequest(file_containing_symbol="orderdb.v1.OrderService")])
    files = [descriptor_pb2.FileDescriptorProto.FromString(b) for b in answer.file_descriptor_response.file_descriptor_proto]
    equal(files[0].name, "orderdb/v1/order.proto")
    names = {f.name for f in files}
    true(all(d in names for f in files for d in f.dependency), "all imports are there: %s" % names)
    for f in reversed(files):
        _add(pool, f, files)
    from google.protobuf import message_factory
    method = pool.FindServiceByName("orderdb.v1.OrderService").methods_by_name["ListOrders"]
    make = getattr(message_factory, "GetMessageClass", None) or message_factory.MessageFactory(pool).GetPrototype
    request, response = make(method.input_type), make(method.output_type)
    stub = server.client.channel.unary_unary("/orderdb.v1.OrderService/ListOrders", request_serializer=request.SerializeToString, response_deserializer=response.FromString)
    equal(stub(request(user_id="nobody"), timeout=10).total_size, 0)


def _add(pool, file, files):
    """Imports first."""
    try:
        pool.FindFileByName(file.name)
        return
    except KeyError:
        pass
    for d in file.dependency:
        _add(pool, next(f for f in files if f.name == d), files)
    pool.Add(file)


@t.test("reflection: many questions on one stream, each answered in turn")
def _(server):
    r = reflection_v1.ServerReflectionRequest
    requests = [r(file_containing_symbol="orderdb.v1.Order"), r(file_by_filename="nothing.proto"), r(file_by_filename="orderdb/v1/admin.proto"),
                r(file_containing_extension=reflection_v1.ExtensionRequest(containing_type="orderdb.v1.Order", extension_number=7)),
                r(all_extension_numbers_of_type="orderdb.v1.Order"), r(all_extension_numbers_of_type="orderdb.v1.Nothing"), r()] * 30
    answers = reflect(server.client, requests)
    equal([a.original_request for a in answers], requests)
    kinds = [a.WhichOneof("message_response") for a in answers[:7]]
    equal(kinds, ["file_descriptor_response", "error_response", "file_descriptor_response", "error_response", "all_extension_numbers_response", "error_response", "error_response"])
    equal([a.error_response.error_code for a in answers[:7]], [0, 5, 0, 5, 0, 5, 3])


@t.test("reflection: no answer is larger than a few tables, and a stream may be silent")
def _(server):
    gate = threading.Event()

    def slowly():
        yield reflection_v1.ServerReflectionRequest(list_services="")
        gate.wait(3)
        yield reflection_v1.ServerReflectionRequest(list_services="")
    threading.Timer(1, gate.set).start()
    equal(len(reflect(server.client, slowly())), 2)


@t.test("reflection: switched off by a setting")
def _():
    with t.Server(reflection="no") as server:
        f = failure_of(lambda: reflect(server.client, [reflection_v1.ServerReflectionRequest(list_services="")]))
        equal((f.code_name, f.reason), ("UNIMPLEMENTED", "METHOD_UNKNOWN"))
        equal(check(server.client, ""), SERVING)


# ---- errors: every refusal carries google.rpc.Status
def raw_call(client, path="/orderdb.v1.OrderService/GetOrder", body=b"", **more):
    stub = client.channel.unary_unary(path, request_serializer=bytes, response_deserializer=bytes)
    return failure_of(lambda: stub(body, timeout=10, **more))


@t.test("errors: each refusal of the transport has grpc-status-details-bin")
def _(server):
    rows = [
        (raw_call(server.client, "/orderdb.v1.OrderService/Nothing"), "UNIMPLEMENTED", "METHOD_UNKNOWN"),
        (raw_call(server.client, "/nothing"), "UNIMPLEMENTED", "METHOD_UNKNOWN"),
        (raw_call(server.client, body=b"\xff\xff\xff"), "INVALID_ARGUMENT", "FIELD_INVALID"),
        (raw_call(server.client, body=b"\x08\x80"), "INVALID_ARGUMENT", "FIELD_INVALID"),
        (raw_call(server.client, body=b"\0" * (5 << 20)), "RESOURCE_EXHAUSTED", "LIMIT_EXCEEDED"),
        (raw_call(server.client, metadata=[("x-large", "v" * 9000), ("y-large", "v" * 9000)]), "RESOURCE_EXHAUSTED", "LIMIT_EXCEEDED"),
        (failure_of(lambda: check(server.client, "?")), "NOT_FOUND", "SERVICE_UNKNOWN"),
    ]
    for f, code, reason in rows:
        true(f.status is not None, "no details: %s" % f)
        equal((f.code_name, f.reason, f.domain, f.status.code), (code, reason, "orderdb", f.code.value[0]))
        equal(f.status.message, f.message)
        equal(f.trailers.get("grpc-retry-pushback-ms"), "-1" if code == "RESOURCE_EXHAUSTED" else None)  # a retry is of no use


@t.test("errors: who may try again is told when, in RetryInfo and grpc-retry-pushback-ms")
def _():
    with t.Server(disk_reserve="16TiB") as server:
        f = failure_of(lambda: server.client.call("CreateOrder", t.create_request(user_id="retry")))
        equal((f.code_name, f.reason), ("RESOURCE_EXHAUSTED", "DISK_FULL"))
        true(f.retry_delay_s, "no RetryInfo: %s" % f)
        equal(int(f.trailers["grpc-retry-pushback-ms"]), round(f.retry_delay_s * 1000))


# ---- drain: last, it stops a server
@t.test("drain: Watch hears NOT_SERVING before the connection goes, then UNAVAILABLE; the drain does not wait for watchers")
def _():
    with t.Server(cores=2, drain_timeout="5m") as server:
        clients = [server.new_client() for _ in range(6)]
        watches = [watch(c, s) for c, s in zip(clients, ["", "orderdb.v1.OrderService", "orderdb.v1.AdminService"] * 2)]
        for w in watches:
            equal(next(w).status, SERVING)
        codes = []
        stopper = threading.Thread(target=lambda: codes.append(server.stop()))
        stopper.start()
        for w in watches:
            equal(next(w).status, NOT_SERVING)
            f = failure_of(lambda: next(w))
            equal((f.code_name, f.reason), ("UNAVAILABLE", "DRAINING"))
            true(f.retry_delay_s, "RetryInfo")
        stopper.join()
        equal(codes, [0])  # else it would have been killed: None


if __name__ == "__main__":
    t.run(cores=2, partitions=4)

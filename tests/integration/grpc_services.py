"""Health and reflection with stock grpcio, for whoever tests them: message classes made by protoc, the calls, and what a failed one says."""
import os
import subprocess

import orderdb_test as t
import grpc

HEALTH, REFLECTION = "grpc/health/v1/health.proto", "grpc/reflection/%s/reflection.proto"


def _generate():
    out = os.path.join(t.TEMP, "pb2-grpc")
    os.makedirs(out)
    files = [HEALTH, REFLECTION % "v1", REFLECTION % "v1alpha"]
    subprocess.run(["protoc", "-I" + os.path.join(t.ROOT, "proto"), "--python_out=" + out, *files], check=True)
    grpc.__path__ = list(grpc.__path__) + [os.path.join(out, "grpc")]


_generate()
from grpc.health.v1 import health_pb2 as health  # noqa: E402
from grpc.reflection.v1 import reflection_pb2 as reflection_v1  # noqa: E402
from grpc.reflection.v1alpha import reflection_pb2 as reflection_v1alpha  # noqa: E402

SERVING, NOT_SERVING, SERVICE_UNKNOWN = 1, 2, 3


def check(client, service, timeout=10):
    stub = client.channel.unary_unary("/grpc.health.v1.Health/Check", request_serializer=health.HealthCheckRequest.SerializeToString,
                                      response_deserializer=health.HealthCheckResponse.FromString)
    try:
        return stub(health.HealthCheckRequest(service=service), timeout=timeout * t.SLOW).status
    except grpc.RpcError as e:
        raise t.Failure(e) from None


def watch(client, service, timeout=None):
    stub = client.channel.unary_stream("/grpc.health.v1.Health/Watch", request_serializer=health.HealthCheckRequest.SerializeToString,
                                       response_deserializer=health.HealthCheckResponse.FromString)
    return stub(health.HealthCheckRequest(service=service), timeout=timeout)


def failure_of(call):
    try:
        call()
    except t.Failure as f:
        return f
    except grpc.RpcError as e:
        return t.Failure(e)
    raise AssertionError("it was not refused")


def reflect(client, requests, pb=reflection_v1, version="v1"):
    stub = client.channel.stream_stream("/grpc.reflection.%s.ServerReflection/ServerReflectionInfo" % version,
                                        request_serializer=pb.ServerReflectionRequest.SerializeToString, response_deserializer=pb.ServerReflectionResponse.FromString)
    return list(stub(iter(requests), timeout=20 * t.SLOW))


SERVICES = ["grpc.health.v1.Health", "grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection",
            "orderdb.v1.AdminService", "orderdb.v1.OrderService", "orderdb.v1.StreamService"]

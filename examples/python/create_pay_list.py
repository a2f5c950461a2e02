"""Create an order, pay it, list what the user has, with grpcio. Stubs into a directory of their own (pip install grpcio-tools, or Debian's python3-grpc-tools):

    python3 -m grpc_tools.protoc -I proto --python_out=stubs --grpc_python_out=stubs $(cd proto && find orderdb google -name '*.proto')
    PYTHONPATH=stubs python3 create_pay_list.py localhost:7400 ann ann-cart-000000042 [CA.pem]

The third argument is the request_id, chosen before the first attempt and kept with the cart: whoever runs this again, after whatever
crash, makes no second order and pays no second time.
"""
import os
import sys

import grpc
from google.rpc import error_details_pb2, status_pb2
from orderdb.v1 import order_pb2 as pb, order_pb2_grpc

CONFIG = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "service_config.json")


def connect(target, ca=None):
    with open(CONFIG) as f:
        options = [("grpc.service_config", f.read())]
    if not ca:
        return grpc.insecure_channel(target, options=options)
    with open(ca, "rb") as f:
        return grpc.secure_channel(target, grpc.ssl_channel_credentials(f.read()), options=options)


def reason(error):
    """ErrorInfo of a refusal: (reason, metadata); ("", {}) when no server answered."""
    raw = dict(error.trailing_metadata() or ()).get("grpc-status-details-bin")
    for detail in status_pb2.Status.FromString(raw).details if raw else ():
        info = error_details_pb2.ErrorInfo()
        if detail.Unpack(info):
            return info.reason, dict(info.metadata)
    return "", {}


def main(target, user, request_id, ca=None):
    with connect(target, ca) as channel:
        orders = order_pb2_grpc.OrderServiceStub(channel)
        price, total = (pb.Money(currency_code="CNY", minor_units=n) for n in (1999, 2 * 1999))
        order = pb.Order(user_id=user, items=[pb.OrderItem(sku_id="u1", title="Umbrella", quantity=2, unit_price=price)], items_total=total, payable=total)
        created = orders.CreateOrder(pb.CreateOrderRequest(order=order, options=pb.WriteOptions(request_id=request_id)), timeout=10)
        pay = pb.TransitionOrderRequest(order_id=created.order.order_id, event="pay", options=pb.WriteOptions(request_id=request_id + "-pay"))
        try:
            orders.TransitionOrder(pay, timeout=10)
        except grpc.RpcError as e:
            why, about = reason(e)
            if why != "STATUS_MISMATCH":
                raise
            print("it is %s already" % about["status"], file=sys.stderr)
        page = orders.ListOrders(pb.ListOrdersRequest(user_id=user, page_size=5), timeout=10)
        for o in page.orders:
            print(o.order_id, o.status, o.payable.minor_units, o.payable.currency_code)
        print(page.total_size, "orders")


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except grpc.RpcError as e:
        sys.exit("%s %s: %s" % (e.code().name, reason(e)[0], e.details()))

/* Create an order, pay it, list what the user has, with grpc-java. Stubs by protoc and its plugin protoc-gen-grpc-java (Debian: grpc_java_plugin), then
 *
 *   java -cp ... CreatePayList localhost:7400 ann ann-cart-000000042 [CA.pem]
 *
 * The third argument is the request_id, chosen before the first attempt and kept with the cart: whoever runs this again, after whatever crash,
 * makes no second order and pays no second time. */
import com.google.gson.Gson;
import com.google.protobuf.Any;
import com.google.protobuf.InvalidProtocolBufferException;
import com.google.rpc.ErrorInfo;
import com.google.rpc.Status;
import io.grpc.ChannelCredentials;
import io.grpc.Grpc;
import io.grpc.InsecureChannelCredentials;
import io.grpc.ManagedChannel;
import io.grpc.StatusRuntimeException;
import io.grpc.TlsChannelCredentials;
import io.grpc.protobuf.StatusProto;
import io.orderdb.v1.CreateOrderRequest;
import io.orderdb.v1.ListOrdersRequest;
import io.orderdb.v1.ListOrdersResponse;
import io.orderdb.v1.Money;
import io.orderdb.v1.Order;
import io.orderdb.v1.OrderItem;
import io.orderdb.v1.OrderServiceGrpc;
import io.orderdb.v1.TransitionOrderRequest;
import io.orderdb.v1.WriteOptions;
import java.io.File;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Map;
import java.util.concurrent.TimeUnit;

public final class CreatePayList {
    @SuppressWarnings("unchecked") static ManagedChannel connect(String target, String ca) throws IOException {
        ChannelCredentials credentials = ca == null ? InsecureChannelCredentials.create() : TlsChannelCredentials.newBuilder().trustManager(new File(ca)).build();
        String config = Files.readString(Path.of(System.getProperty("service.config", "examples/service_config.json")));
        return Grpc.newChannelBuilder(target, credentials).defaultServiceConfig(new Gson().fromJson(config, Map.class)).enableRetry().build();
    }

    /* ErrorInfo of a refusal; empty when no server answered. */
    static ErrorInfo errorInfo(StatusRuntimeException e) throws InvalidProtocolBufferException {
        Status status = StatusProto.fromThrowable(e);
        if (status != null)
            for (Any detail : status.getDetailsList())
                if (detail.is(ErrorInfo.class)) return detail.unpack(ErrorInfo.class);
        return ErrorInfo.getDefaultInstance();
    }

    static OrderServiceGrpc.OrderServiceBlockingStub orders(ManagedChannel channel) {
        return OrderServiceGrpc.newBlockingStub(channel).withDeadlineAfter(10, TimeUnit.SECONDS);
    }

    static WriteOptions once(String requestId) { return WriteOptions.newBuilder().setRequestId(requestId).build(); }

    static Money money(long minorUnits) { return Money.newBuilder().setCurrencyCode("CNY").setMinorUnits(minorUnits).build(); }

    static void run(ManagedChannel channel, String user, String requestId) throws InvalidProtocolBufferException {
        OrderItem umbrella = OrderItem.newBuilder().setSkuId("u1").setTitle("Umbrella").setQuantity(2).setUnitPrice(money(1999)).build();
        Order order = Order.newBuilder().setUserId(user).addItems(umbrella).setItemsTotal(money(3998)).setPayable(money(3998)).build();
        long id = orders(channel).createOrder(CreateOrderRequest.newBuilder().setOrder(order).setOptions(once(requestId)).build()).getOrder().getOrderId();
        try {
            orders(channel).transitionOrder(TransitionOrderRequest.newBuilder().setOrderId(id).setEvent("pay").setOptions(once(requestId + "-pay")).build());
        } catch (StatusRuntimeException e) {
            ErrorInfo info = errorInfo(e);
            if (!info.getReason().equals("STATUS_MISMATCH")) throw e;
            System.err.println("it is " + info.getMetadataOrDefault("status", "?") + " already");
        }
        ListOrdersResponse page = orders(channel).listOrders(ListOrdersRequest.newBuilder().setUserId(user).setPageSize(5).build());
        for (Order o : page.getOrdersList()) System.out.println(o.getOrderId() + " " + o.getStatus() + " " + o.getPayable().getMinorUnits() + " " + o.getPayable().getCurrencyCode());
        System.out.println(page.getTotalSize() + " orders");
    }

    public static void main(String[] a) throws Exception {
        ManagedChannel channel = connect(a[0], a.length > 3 ? a[3] : null);
        try {
            run(channel, a[1], a[2]);
        } catch (StatusRuntimeException e) {
            System.err.println(e.getStatus().getCode() + " " + errorInfo(e).getReason() + ": " + e.getStatus().getDescription());
            System.exit(1);
        } finally {
            channel.shutdownNow().awaitTermination(5, TimeUnit.SECONDS);
        }
    }
}

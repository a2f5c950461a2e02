/* Java with Debian's libgrpc-java over netty does what SCENARIO.md says: Scenario BUILD_DIR MODE=HOST:PORT..., certificates in $CERTS. */
import com.google.gson.Gson;
import com.google.protobuf.Any;
import com.google.protobuf.ByteString;
import com.google.protobuf.DescriptorProtos.FileDescriptorProto;
import com.google.protobuf.FieldMask;
import com.google.protobuf.Timestamp;
import com.google.rpc.BadRequest;
import com.google.rpc.ErrorInfo;
import grpc.health.v1.HealthGrpc;
import grpc.health.v1.HealthOuterClass.HealthCheckRequest;
import grpc.health.v1.HealthOuterClass.HealthCheckResponse;
import grpc.health.v1.HealthOuterClass.HealthCheckResponse.ServingStatus;
import io.grpc.CallOptions;
import io.grpc.ChannelCredentials;
import io.grpc.Context;
import io.grpc.Deadline;
import io.grpc.Grpc;
import io.grpc.InsecureChannelCredentials;
import io.grpc.ManagedChannel;
import io.grpc.Metadata;
import io.grpc.MethodDescriptor;
import io.grpc.StatusRuntimeException;
import io.grpc.TlsChannelCredentials;
import io.grpc.protobuf.ProtoUtils;
import io.grpc.protobuf.StatusProto;
import io.grpc.stub.ClientCalls;
import io.grpc.stub.MetadataUtils;
import io.grpc.stub.StreamObserver;
import io.orderdb.v1.*;
import java.io.File;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collections;
import java.util.HashSet;
import java.util.Iterator;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Objects;
import java.util.Random;
import java.util.Set;
import java.util.TreeSet;
import java.util.UUID;
import java.util.concurrent.BlockingQueue;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.LinkedBlockingQueue;
import java.util.concurrent.TimeUnit;
import com.google.common.util.concurrent.ListenableFuture;

public final class Scenario {
    static final String TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    static final List<String> SERVICES = List.of("", "orderdb.v1.OrderService", "orderdb.v1.StreamService", "orderdb.v1.AdminService");
    static final Set<String> ALL_SERVICES = new TreeSet<>(List.of("grpc.health.v1.Health", "grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection",
        "orderdb.v1.AdminService", "orderdb.v1.OrderService", "orderdb.v1.StreamService"));
    static int slow;
    static Map<String, ?> config;

    interface Step { void run() throws Exception; }
    interface Call { Object run() throws Exception; }

    /* ---- what is expected */
    static void equal(Object got, Object expected) {
        if (!Objects.equals(got, expected)) throw new AssertionError(got + ", expected " + expected);
    }

    static void yes(boolean condition, String what) {
        if (!condition) throw new AssertionError(what);
    }

    /* What grpc-status-details-bin, or a Status inside an answer, says. */
    static final class Details {
        String code, reason = "";
        Map<String, String> metadata = Map.of();
        final List<String> fields = new ArrayList<>();

        static Details of(com.google.rpc.Status status) throws Exception {
            Details d = new Details();
            d.code = io.grpc.Status.fromCodeValue(status.getCode()).getCode().name();
            for (Any any : status.getDetailsList()) {
                if (any.is(ErrorInfo.class)) {
                    ErrorInfo info = any.unpack(ErrorInfo.class);
                    equal(info.getDomain(), "orderdb");
                    d.reason = info.getReason();
                    d.metadata = info.getMetadataMap();
                } else if (any.is(BadRequest.class)) {
                    for (BadRequest.FieldViolation v : any.unpack(BadRequest.class).getFieldViolationsList()) d.fields.add(v.getField());
                }
            }
            return d;
        }
    }

    static Details refused(Throwable e, String code, String reason) throws Exception {
        if (e instanceof ExecutionException) e = e.getCause();
        if (!(e instanceof StatusRuntimeException)) throw new AssertionError(e);
        io.grpc.Status status = ((StatusRuntimeException) e).getStatus();
        com.google.rpc.Status proto = StatusProto.fromThrowable(e);
        Details d = proto == null ? new Details() : Details.of(proto);
        equal(status.getCode() + " " + d.reason, code + " " + (reason == null ? d.reason : reason));
        return d;
    }

    static Details refused(Call call, String code, String reason) throws Exception {
        Object answer;
        try {
            answer = call.run();
        } catch (StatusRuntimeException | ExecutionException e) {
            return refused(e, code, reason);
        }
        throw new AssertionError("answered, expected " + code + ": " + answer);
    }

    interface Condition { boolean holds() throws Exception; }

    static void until(Condition condition, String what) throws Exception {
        for (long end = System.nanoTime() + 20_000_000_000L * slow; !condition.holds(); Thread.sleep(20))
            if (System.nanoTime() > end) throw new AssertionError("not within 20 s: " + what);
    }

    /* ---- a server stream, or the end of a client stream: messages, then null or the error that ended it */
    static final class Observed<T> implements StreamObserver<T> {
        static final Object END = new Object();
        final BlockingQueue<Object> seen = new LinkedBlockingQueue<>();

        @Override public void onNext(T message) { seen.add(message); }
        @Override public void onError(Throwable e) { seen.add(e); }
        @Override public void onCompleted() { seen.add(END); }

        @SuppressWarnings("unchecked") T next() throws Exception {
            Object o = take();
            if (o instanceof StatusRuntimeException) throw (StatusRuntimeException) o;
            yes(o != END, "the stream has ended");
            return (T) o;
        }

        Object take() throws Exception {
            Object o = seen.poll(60L * slow, TimeUnit.SECONDS);
            yes(o != null, "nothing came for a minute");
            return o;
        }
    }

    /* ---- requests */
    static String requestId() { return "java-" + UUID.randomUUID(); }

    static Money money(long minorUnits) { return Money.newBuilder().setCurrencyCode("CNY").setMinorUnits(minorUnits).build(); }

    static Order.Builder order(String user, int items) {
        Order.Builder o = Order.newBuilder().setUserId(user).setMerchantId("m-1");
        for (int i = 0; i < items; i++) o.addItems(OrderItem.newBuilder().setSkuId("sku-" + i).setTitle("雨伞 " + i).setQuantity(2).setUnitPrice(money(1999)));
        long total = items * 2L * 1999;
        return o.setItemsTotal(money(total)).setFreight(money(500)).setPayable(money(total + 500));
    }

    static CreateOrderRequest createRequest(Order.Builder order, String id) {
        return CreateOrderRequest.newBuilder().setOrder(order).setOptions(WriteOptions.newBuilder().setRequestId(id)).build();
    }

    static CreateOrderRequest createRequest(Order.Builder order) { return createRequest(order, requestId()); }

    static TransitionOrderRequest transition(long id, String event) {
        return TransitionOrderRequest.newBuilder().setOrderId(id).setEvent(event).setOptions(WriteOptions.newBuilder().setRequestId(requestId())).build();
    }

    static HistoryEntry.Builder entry(String event, String status, int n) {
        return HistoryEntry.newBuilder().setEvent(event).setToStatus(status).setTime(Timestamp.newBuilder().setSeconds(1700000000L + 60 * n));
    }

    /* An order with its past: "pay>PAID". */
    static ImportOrdersRequest retail(String user, int number, List<String> events) {
        ImportOrdersRequest.Builder r = ImportOrdersRequest.newBuilder().setOrder(order(user, 1).setClientOrderNo("old-" + number)).addHistory(entry("create", "PENDING_PAYMENT", 0));
        for (int i = 0; i < events.size(); i++) r.addHistory(entry(events.get(i).split(">")[0], events.get(i).split(">")[1], i + 1));
        return r.build();
    }

    static GetOrderRequest get(long id) { return GetOrderRequest.newBuilder().setOrderId(id).build(); }

    static ListOrdersRequest.Builder list(String user) { return ListOrdersRequest.newBuilder().setUserId(user); }

    static List<Long> ids(List<Order> orders) {
        List<Long> out = new ArrayList<>();
        for (Order o : orders) out.add(o.getOrderId());
        return out;
    }

    /* ---- one server: the client and its steps, in the order of SCENARIO.md */
    final String mode, address, run = UUID.randomUUID().toString().substring(0, 8);
    final ManagedChannel channel;
    final Map<String, Step> steps = new LinkedHashMap<>();

    Scenario(String mode, String address) throws Exception {
        this.mode = mode;
        this.address = address;
        channel = connect("ca.pem", true);
    }

    ManagedChannel connect(String ca, boolean certificate) throws Exception {
        ChannelCredentials credentials = InsecureChannelCredentials.create();
        if (!mode.equals("cleartext")) {
            String certs = System.getenv("CERTS");
            TlsChannelCredentials.Builder tls = TlsChannelCredentials.newBuilder().trustManager(new File(certs, ca));
            if (mode.equals("mtls") && certificate) tls.keyManager(new File(certs, "client.pem"), new File(certs, "client.key"));
            credentials = tls.build();
        }
        return Grpc.newChannelBuilder(address, credentials).defaultServiceConfig(config).enableRetry().build();
    }

    static boolean closed(ManagedChannel channel) throws Exception { return channel.shutdownNow().awaitTermination(10L * slow, TimeUnit.SECONDS); }

    OrderServiceGrpc.OrderServiceBlockingStub orders() { return OrderServiceGrpc.newBlockingStub(channel).withDeadlineAfter(20L * slow, TimeUnit.SECONDS); }

    OrderServiceGrpc.OrderServiceFutureStub later() { return OrderServiceGrpc.newFutureStub(channel).withDeadlineAfter(60L * slow, TimeUnit.SECONDS); }

    StreamObserver<ImportOrdersRequest> imports(Observed<ImportOrdersResponse> answer) {
        return OrderServiceGrpc.newStub(channel).withDeadlineAfter(60L * slow, TimeUnit.SECONDS).importOrders(answer);
    }

    /* A watch, and how to cancel it. */
    Context.CancellableContext watch(String service, Deadline deadline, Observed<HealthCheckResponse> seen) {
        Context.CancellableContext context = Context.current().withCancellation();
        context.run(() -> (deadline == null ? HealthGrpc.newStub(channel) : HealthGrpc.newStub(channel).withDeadline(deadline)).watch(HealthCheckRequest.newBuilder().setService(service).build(), seen));
        return context;
    }

    String user(String name) { return "java-" + mode + "-" + run + "-" + name; }

    Order create(String name) { return orders().createOrder(createRequest(order(user(name), 1))).getOrder(); }

    long size(String name) { return orders().listOrders(list(user(name)).build()).getTotalSize(); }

    void plan() {
        steps.put("health check", this::healthCheck);
        steps.put("health watch", this::healthWatch);
        steps.put("reflection v1", this::reflectionV1);
        steps.put("reflection v1alpha", this::reflectionV1alpha);
        steps.put("create and get", this::createAndGet);
        steps.put("replay", this::replay);
        steps.put("reused id", this::reusedId);
        steps.put("violations", this::violations);
        steps.put("transition", this::transitions);
        steps.put("second caller", this::secondCaller);
        steps.put("history", this::history);
        steps.put("update", this::update);
        steps.put("pages", this::pages);
        steps.put("batches", this::batches);
        steps.put("dry run", this::dryRun);
        steps.put("outcome", this::outcome);
        steps.put("import", this::importOrders);
        steps.put("unknown method", this::unknownMethod);
        steps.put("deadline", this::deadline);
        steps.put("cancel", this::cancel);
        steps.put("large", this::large);
        steps.put("too large", this::tooLarge);
        steps.put("many at once", this::manyAtOnce);
        if (!mode.equals("cleartext")) steps.put("wrong CA", () -> getsNowhere(connect("other-ca.pem", true)));
        if (mode.equals("mtls")) steps.put("no certificate", () -> getsNowhere(connect("ca.pem", false)));
        steps.put("drain and restart", this::drainAndRestart);
    }

    void healthCheck() throws Exception {
        HealthGrpc.HealthBlockingStub health = HealthGrpc.newBlockingStub(channel);
        for (String service : SERVICES) equal(health.check(HealthCheckRequest.newBuilder().setService(service).build()).getStatus(), ServingStatus.SERVING);
        refused(() -> health.check(HealthCheckRequest.newBuilder().setService("orderdb.v1.Nothing").build()), "NOT_FOUND", "SERVICE_UNKNOWN");
    }

    void healthWatch() throws Exception {
        Observed<HealthCheckResponse> known = new Observed<>(), unknown = new Observed<>();
        Context.CancellableContext a = watch("orderdb.v1.OrderService", null, known), b = watch("nothing", null, unknown);
        equal(known.next().getStatus(), ServingStatus.SERVING);
        equal(unknown.next().getStatus(), ServingStatus.SERVICE_UNKNOWN);
        a.cancel(null);
        b.cancel(null);
        refused(known::next, "CANCELLED", "");
    }

    static void checkReflection(Set<String> services, List<ByteString> files, int error) throws Exception {
        equal(services, ALL_SERVICES);
        Set<String> names = new HashSet<>();
        for (ByteString f : files) names.add(FileDescriptorProto.parseFrom(f).getName());
        equal(FileDescriptorProto.parseFrom(files.get(0)).getName(), "orderdb/v1/order.proto");
        for (ByteString f : files) yes(names.containsAll(FileDescriptorProto.parseFrom(f).getDependencyList()), "all imports are there: " + names);
        equal(error, 5);
    }

    void reflectionV1() throws Exception {
        Observed<grpc.reflection.v1.Reflection.ServerReflectionResponse> seen = new Observed<>();
        StreamObserver<grpc.reflection.v1.Reflection.ServerReflectionRequest> ask = grpc.reflection.v1.ServerReflectionGrpc.newStub(channel).serverReflectionInfo(seen);
        ask.onNext(grpc.reflection.v1.Reflection.ServerReflectionRequest.newBuilder().setListServices("*").build());
        ask.onNext(grpc.reflection.v1.Reflection.ServerReflectionRequest.newBuilder().setFileContainingSymbol("orderdb.v1.OrderService").build());
        ask.onNext(grpc.reflection.v1.Reflection.ServerReflectionRequest.newBuilder().setFileContainingSymbol("orderdb.v1.Nothing").build());
        ask.onCompleted();
        Set<String> services = new TreeSet<>();
        seen.next().getListServicesResponse().getServiceList().forEach(s -> services.add(s.getName()));
        checkReflection(services, seen.next().getFileDescriptorResponse().getFileDescriptorProtoList(), seen.next().getErrorResponse().getErrorCode());
        yes(seen.take() == Observed.END, "the end");
    }

    void reflectionV1alpha() throws Exception {
        Observed<grpc.reflection.v1alpha.Reflection.ServerReflectionResponse> seen = new Observed<>();
        StreamObserver<grpc.reflection.v1alpha.Reflection.ServerReflectionRequest> ask = grpc.reflection.v1alpha.ServerReflectionGrpc.newStub(channel).serverReflectionInfo(seen);
        ask.onNext(grpc.reflection.v1alpha.Reflection.ServerReflectionRequest.newBuilder().setListServices("*").build());
        ask.onNext(grpc.reflection.v1alpha.Reflection.ServerReflectionRequest.newBuilder().setFileContainingSymbol("orderdb.v1.OrderService").build());
        ask.onNext(grpc.reflection.v1alpha.Reflection.ServerReflectionRequest.newBuilder().setFileContainingSymbol("orderdb.v1.Nothing").build());
        ask.onCompleted();
        Set<String> services = new TreeSet<>();
        seen.next().getListServicesResponse().getServiceList().forEach(s -> services.add(s.getName()));
        checkReflection(services, seen.next().getFileDescriptorResponse().getFileDescriptorProtoList(), seen.next().getErrorResponse().getErrorCode());
        yes(seen.take() == Observed.END, "the end");
    }

    void createAndGet() {
        CreateOrderRequest request = createRequest(order(user("get"), 3).putAttributes("城市", "北京").putAttributes("channel", "app").setAddress(Address.newBuilder().setRecipient("张三").setLine("x")));
        Order o = orders().createOrder(request).getOrder(), got = orders().getOrder(get(o.getOrderId()));
        yes(o.getOrderId() > 1L << 53, "an id that a double cannot hold");
        equal(got, o);
        equal(got.getItemsList(), request.getOrder().getItemsList());
        equal(got.getAddress(), request.getOrder().getAddress());
        equal(got.getAttributesMap(), request.getOrder().getAttributesMap());
        equal(got.getPayable(), money(3 * 2 * 1999 + 500));
        yes(got.getCreateTime().getSeconds() > 1_700_000_000L, "create_time");
    }

    void replay() {
        CreateOrderRequest request = createRequest(order(user("replay"), 1));
        CreateOrderResponse first = orders().createOrder(request), second = orders().createOrder(request);
        equal(first.getReplayed(), false);
        equal(second, first.toBuilder().setReplayed(true).build());
        equal(size("replay"), 1L);
    }

    void reusedId() throws Exception {
        String id = requestId();
        Order first = orders().createOrder(createRequest(order(user("reused"), 1), id)).getOrder();
        Details d = refused(() -> orders().createOrder(createRequest(order(user("reused"), 2), id)), "FAILED_PRECONDITION", "IDEMPOTENCY_KEY_REUSED");
        equal(d.metadata.get("order_id"), String.valueOf(first.getOrderId()));
    }

    void violations() throws Exception {
        Order.Builder o = order("", 2);
        o.getItemsBuilder(1).setQuantity(0);
        Details d = refused(() -> orders().createOrder(createRequest(o)), "INVALID_ARGUMENT", null);
        yes(d.fields.containsAll(List.of("order.user_id", "order.items[1].quantity")), d.fields.toString());
    }

    void transitions() {
        long id = create("transition").getOrderId(), version = 2;
        for (String[] row : new String[][] {{"pay", "PENDING_PAYMENT", "PAID"}, {"ship", "PAID", "SHIPPED"}}) {
            TransitionOrderResponse a = orders().transitionOrder(transition(id, row[0]));
            equal(Arrays.asList(a.getEntry().getEvent(), a.getEntry().getFromStatus(), a.getOrder().getStatus()), Arrays.asList(row));
            equal(a.getOrder().getVersion(), version++);
        }
    }

    void secondCaller() throws Exception {
        long id = create("second").getOrderId();
        TransitionOrderRequest pay = transition(id, "pay");
        orders().transitionOrder(pay);
        Details d = refused(() -> orders().transitionOrder(transition(id, "pay")), "FAILED_PRECONDITION", "STATUS_MISMATCH");
        equal(d.metadata.get("status") + " " + d.metadata.get("version") + " " + d.metadata.get("winner_request_id"), "PAID 2 " + pay.getOptions().getRequestId());
    }

    void history() {
        long id = create("history").getOrderId();
        Metadata headers = new Metadata();
        headers.put(Metadata.Key.of("traceparent", Metadata.ASCII_STRING_MARSHALLER), TRACE);
        for (String event : List.of("pay", "ship", "deliver")) {
            TransitionOrderRequest.Builder r = transition(id, event).toBuilder();
            r.getOptionsBuilder().setOperator("op-1").setReason("因为");
            orders().withInterceptors(MetadataUtils.newAttachHeadersInterceptor(headers)).transitionOrder(r.build());
        }
        List<String> seen = new ArrayList<>();
        List<HistoryEntry> entries = orders().listOrderHistory(ListOrderHistoryRequest.newBuilder().setOrderId(id).build()).getEntriesList();
        for (HistoryEntry e : entries) seen.add(e.getVersion() + " " + e.getEvent() + " " + e.getChainHash().size());
        equal(seen, List.of("1 create 32", "2 pay 32", "3 ship 32", "4 deliver 32"));
        equal(entries.get(1).getOperator() + entries.get(1).getReason() + entries.get(1).getTraceparent(), "op-1因为" + TRACE);
    }

    Order updated(long id, String... paths) {
        return orders().updateOrder(UpdateOrderRequest.newBuilder().setOrder(Order.newBuilder().setOrderId(id).setAddress(Address.newBuilder().setRecipient("李四")))
            .setUpdateMask(FieldMask.newBuilder().addAllPaths(List.of(paths))).setOptions(WriteOptions.newBuilder().setRequestId(requestId())).build()).getOrder();
    }

    void update() throws Exception {
        long id = create("update").getOrderId();
        equal(updated(id, "address").getAddress().getRecipient(), "李四");
        equal(orders().getOrder(get(id)).getVersion(), 2L);
        equal(refused(() -> updated(id, "address", "payable"), "INVALID_ARGUMENT", "FIELD_INVALID").fields, List.of("update_mask.paths[1]"));
    }

    void pages() throws Exception {
        List<Long> made = new ArrayList<>(), walked = new ArrayList<>();
        for (int i = 0; i < 25; i++) made.add(create("pages").getOrderId());
        orders().transitionOrder(transition(made.get(0), "pay"));
        made.sort(Collections.reverseOrder());
        String token = "";
        int pages = 0;
        do {
            ListOrdersResponse page = orders().listOrders(list(user("pages")).setPageSize(10).setPageToken(token).build());
            equal(page.getTotalSize(), 25L);
            equal(page.getStatusCountsMap(), Map.of("PENDING_PAYMENT", 24L, "PAID", 1L));
            walked.addAll(ids(page.getOrdersList()));
            token = page.getNextPageToken();
            pages++;
        } while (!token.isEmpty());
        equal(pages, 3);
        equal(walked, made);
        equal(ids(orders().listOrders(list(user("pages")).setPageSize(10).setPageNumber(3).build()).getOrdersList()), walked.subList(20, 25));
        refused(() -> orders().listOrders(list(user("pages")).setPageToken("forged").build()), "INVALID_ARGUMENT", "PAGE_TOKEN_INVALID");
    }

    void batches() throws Exception {
        BatchCreateOrdersRequest.Builder creates = BatchCreateOrdersRequest.newBuilder();
        for (int i = 0; i < 30; i++) creates.addRequests(createRequest(order(user("batch-" + i % 3), 1)));
        creates.getRequestsBuilder(7).getOrderBuilder().getItemsBuilder(0).setQuantity(0);
        List<Long> made = new ArrayList<>();
        int at = 0;
        for (BatchCreateOrdersResponse.Result r : orders().batchCreateOrders(creates.build()).getResultsList()) {
            equal(r.hasOk(), at++ != 7);
            if (r.hasOk()) made.add(r.getOk().getOrder().getOrderId());
            else {
                Details d = Details.of(r.getError());
                equal(d.code + " " + d.reason + " " + d.fields, "INVALID_ARGUMENT LIMIT_EXCEEDED [order.items[0].quantity]");
            }
        }
        BatchTransitionOrdersRequest.Builder moves = BatchTransitionOrdersRequest.newBuilder();
        for (long id : made.subList(0, 5)) moves.addRequests(transition(id, "pay")).addRequests(transition(id, "pay"));
        List<BatchTransitionOrdersResponse.Result> moved = orders().batchTransitionOrders(moves.build()).getResultsList();
        equal(moved.size(), 10);
        for (int i = 0; i < 10; i++) equal(moved.get(i).hasOk(), i % 2 == 0);
        Details d = Details.of(moved.get(1).getError());
        equal(d.code + " " + d.reason, "FAILED_PRECONDITION STATUS_MISMATCH");
        BatchGetOrdersResponse got = orders().batchGetOrders(BatchGetOrdersRequest.newBuilder().addAllOrderIds(made).addOrderIds(5).build());
        equal(ids(got.getOrdersList()), made);
        equal(got.getMissingIdsList(), List.of(5L));
        for (int i = 0; i < 6; i++) equal(got.getOrders(i).getStatus(), i < 5 ? "PAID" : "PENDING_PAYMENT");
    }

    void dryRun() {
        CreateOrderRequest.Builder r = createRequest(order(user("dry"), 1)).toBuilder();
        r.getOptionsBuilder().setValidateOnly(true);
        CreateOrderResponse a = orders().createOrder(r.build());
        equal(a.getOrder().getOrderId() + " " + a.getOrder().getStatus() + " " + a.hasToken(), "0 PENDING_PAYMENT false");
        equal(size("dry"), 0L);
    }

    void outcome() throws Exception {
        String known = requestId(), late = requestId();
        Order o = orders().createOrder(createRequest(order(user("outcome"), 1), known)).getOrder();
        GetRequestOutcomeRequest.Builder ask = GetRequestOutcomeRequest.newBuilder().setUserId(user("outcome"));
        equal(orders().getRequestOutcome(ask.setRequestId(known).build()), RequestOutcome.newBuilder().setState(RequestOutcome.State.APPLIED).setOrderId(o.getOrderId()).setVersion(1).build());
        equal(orders().getRequestOutcome(ask.setRequestId(late).build()).getState(), RequestOutcome.State.NOT_APPLIED);
        refused(() -> orders().createOrder(createRequest(order(user("outcome"), 1), late)), "FAILED_PRECONDITION", "REQUEST_FENCED");
    }

    void importOrders() throws Exception {
        List<String> events = List.of("pay>PAID", "ship>SHIPPED");
        for (long imported : new long[] {39, 0}) {
            Observed<ImportOrdersResponse> answer = new Observed<>();
            StreamObserver<ImportOrdersRequest> stream = imports(answer);
            for (int i = 0; i < 40; i++) stream.onNext(retail(user("import"), i, i == 11 ? List.of("deliver>DELIVERED") : events.subList(0, i % 3)));
            stream.onCompleted();
            ImportOrdersResponse a = answer.next(); /* protoc numbers the two: getRejectedCount() would be the size of rejected */
            equal(a.getImported() + " " + a.getAlreadyThere() + " " + a.getRejectedCount4() + " " + a.getRejected3(0).getClientOrderNo(), imported + " " + (39 - imported) + " 1 old-11");
        }
        equal(orders().listOrders(list(user("import")).build()).getStatusCountsMap(), Map.of("PENDING_PAYMENT", 14L, "PAID", 13L, "SHIPPED", 12L));
    }

    void unknownMethod() throws Exception {
        MethodDescriptor<GetOrderRequest, Order> nothing = OrderServiceGrpc.getGetOrderMethod().toBuilder().setFullMethodName("orderdb.v1.OrderService/Nothing").build();
        refused(() -> ClientCalls.blockingUnaryCall(channel, nothing, CallOptions.DEFAULT, get(1)), "UNIMPLEMENTED", "METHOD_UNKNOWN");
    }

    void deadline() throws Exception {
        Observed<HealthCheckResponse> seen = new Observed<>();
        watch("", Deadline.after(300, TimeUnit.MILLISECONDS), seen);
        equal(seen.next().getStatus(), ServingStatus.SERVING);
        refused(seen::next, "DEADLINE_EXCEEDED", null);
        for (int i = 0; i < 10; i++) {
            try {
                OrderServiceGrpc.newBlockingStub(channel).withDeadlineAfter(1, TimeUnit.MILLISECONDS).getOrder(get(1L << 60));
                throw new AssertionError("answered");
            } catch (StatusRuntimeException e) {
                yes(List.of("DEADLINE_EXCEEDED", "NOT_FOUND").contains(e.getStatus().getCode().name()), e.toString());
            }
        }
        equal(size("deadline"), 0L);
    }

    void cancel() throws Exception {
        List<ListenableFuture<ListOrdersResponse>> calls = new ArrayList<>();
        for (int i = 0; i < 50; i++) calls.add(later().listOrders(list(user("pages")).build()));
        for (int i = 0; i < 50; i += 2) calls.get(i).cancel(true);
        for (int i = 1; i < 50; i += 2) equal(calls.get(i).get().getTotalSize(), 25L);
        Observed<ImportOrdersResponse> answer = new Observed<>();
        Context.CancellableContext context = Context.current().withCancellation();
        StreamObserver<ImportOrdersRequest> stream = context.call(() -> imports(answer));
        stream.onNext(retail(user("cancel"), 1, List.of()));
        until(() -> size("cancel") == 1, "the first of the stream");
        context.cancel(null);
        refused(answer::next, "CANCELLED", "");
        equal(size("cancel"), 1L);
    }

    void large() {
        byte[] extension = new byte[600_000];
        new Random(1).nextBytes(extension);
        Order.Builder o = order(user("large"), 500).setExtension(ByteString.copyFrom(extension));
        for (int i = 0; i < 500; i++) o.getItemsBuilder(i).setTitle("t".repeat(512));
        for (int i = 0; i < 3; i++) equal(orders().createOrder(createRequest(o)).getOrder().getItemsList(), o.getItemsList());
        List<Order> page = orders().listOrders(list(user("large")).setRead(ReadOptions.newBuilder().setView(OrderView.ORDER_VIEW_FULL)).build()).getOrdersList();
        equal(page.size(), 3);
        for (Order got : page) {
            equal(got.getItemsList(), o.getItemsList());
            equal(got.getExtension(), o.getExtension());
        }
    }

    void tooLarge() throws Exception {
        refused(() -> orders().createOrder(createRequest(order(user("too-large"), 1).setExtension(ByteString.copyFrom(new byte[4 << 20])))), "RESOURCE_EXHAUSTED", "LIMIT_EXCEEDED");
        create("too-large");
    }

    void manyAtOnce() throws Exception {
        List<ListenableFuture<CreateOrderResponse>> calls = new ArrayList<>();
        for (int i = 0; i < 200; i++) calls.add(later().createOrder(createRequest(order(user("many-" + i % 7), 1))));
        Set<Long> made = new HashSet<>();
        for (ListenableFuture<CreateOrderResponse> call : calls) made.add(call.get().getOrder().getOrderId());
        equal(made.size(), 200);
    }

    static void getsNowhere(ManagedChannel stranger) throws Exception {
        refused(() -> AdminServiceGrpc.newBlockingStub(stranger).withDeadlineAfter(10L * slow, TimeUnit.SECONDS).getTopology(GetTopologyRequest.getDefaultInstance()), "UNAVAILABLE", "");
        yes(closed(stranger), "closed");
    }

    void drainAndRestart() throws Exception {
        Order before = create("drain");
        Observed<HealthCheckResponse> seen = new Observed<>();
        watch("orderdb.v1.OrderService", null, seen);
        equal(seen.next().getStatus(), ServingStatus.SERVING);
        Observed<ImportOrdersResponse> answer = new Observed<>();
        StreamObserver<ImportOrdersRequest> stream = imports(answer);
        for (int i = 0; i < 5; i++) stream.onNext(retail(user("drain-import"), i, List.of()));
        until(() -> size("drain-import") == 5, "half of the stream");
        System.out.println("want restart " + mode);
        equal(seen.next().getStatus(), ServingStatus.NOT_SERVING);
        refused(seen::next, "UNAVAILABLE", "DRAINING");
        CreateOrderRequest request = createRequest(order(user("drain"), 1));
        ListenableFuture<CreateOrderResponse> waiting = later().createOrder(request);
        for (int i = 5; i < 10; i++) stream.onNext(retail(user("drain-import"), i, List.of()));
        stream.onCompleted();
        equal(answer.next().getImported(), 10L);
        CreateOrderResponse first = waiting.get(), again = later().createOrder(request).get();
        equal(again.getOrder(), first.getOrder());
        equal(again.getReplayed(), true);
        equal(ids(orders().listOrders(list(user("drain")).build()).getOrdersList()), List.of(first.getOrder().getOrderId(), before.getOrderId()));
        equal(size("drain-import"), 10L);
    }

    @SuppressWarnings("unchecked") public static void main(String[] arguments) throws Exception {
        slow = arguments[0].matches(".*-(asan|tsan)") ? 4 : 1;
        config = new Gson().fromJson(Files.readString(Path.of(System.getProperty("service.config"))), Map.class);
        boolean bad = false;
        for (String argument : Arrays.asList(arguments).subList(1, arguments.length)) {
            Scenario s = new Scenario(argument.split("=")[0], argument.split("=")[1]);
            s.plan();
            for (Map.Entry<String, Step> step : s.steps.entrySet()) {
                try {
                    step.getValue().run();
                    System.out.println("ok " + s.mode + ": " + step.getKey());
                } catch (Throwable e) {
                    bad = true;
                    System.out.println("not ok " + s.mode + ": " + step.getKey() + "\n#   " + e);
                    for (StackTraceElement at : e.getStackTrace()) if (at.getClassName().startsWith("Scenario")) System.out.println("#     " + at);
                }
            }
            yes(closed(s.channel), "the channel ends");
        }
        System.exit(bad ? 1 : 0);
    }
}

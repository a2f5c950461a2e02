/* Node with @grpc/grpc-js and @grpc/proto-loader does what SCENARIO.md says: node scenario.js BUILD_DIR MODE=HOST:PORT..., certificates in $CERTS. */
'use strict';
const assert = require('assert');
const crypto = require('crypto');
const fs = require('fs');
const path = require('path');
const grpc = require('@grpc/grpc-js');
const loader = require('@grpc/proto-loader');
const protobuf = require('protobufjs');

const ROOT = path.resolve(__dirname, '..', '..', '..');
const PROTO = path.join(ROOT, 'proto');
const FILES = ['orderdb/v1/order.proto', 'orderdb/v1/stream.proto', 'orderdb/v1/admin.proto', 'google/rpc/status.proto', 'google/rpc/error_details.proto',
  'grpc/health/v1/health.proto', 'grpc/reflection/v1/reflection.proto', 'grpc/reflection/v1alpha/reflection.proto'];
/* int64 as text: a double rounds an order_id. */
const api = grpc.loadPackageDefinition(loader.loadSync(FILES, {includeDirs: [PROTO], keepCase: true, longs: String, enums: String, defaults: true, oneofs: true}));
const types = new protobuf.Root();
types.resolvePath = (origin, target) => target.startsWith('google/protobuf/') ? null : path.isAbsolute(target) ? target : path.join(PROTO, target);
types.loadSync(['google/rpc/status.proto', 'google/rpc/error_details.proto'], {keepCase: true});
require('protobufjs/ext/descriptor');

const CONFIG = fs.readFileSync(path.join(ROOT, 'examples', 'service_config.json'), 'utf8');
const SERVICES = ['', 'orderdb.v1.OrderService', 'orderdb.v1.StreamService', 'orderdb.v1.AdminService'];
const ALL_SERVICES = ['grpc.health.v1.Health', 'grpc.reflection.v1.ServerReflection', 'grpc.reflection.v1alpha.ServerReflection',
  'orderdb.v1.AdminService', 'orderdb.v1.OrderService', 'orderdb.v1.StreamService'];
const TRACE = '00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01';
const SLOW = /-(asan|tsan)$/.test(process.argv[2]) ? 4 : 1;
const equal = assert.deepStrictEqual;

const range = (n) => [...Array(n).keys()];
const deadline = (seconds) => ({deadline: Date.now() + seconds * 1000});
/* grpc-js does not read waitForReady of the service config: it goes with each call. */
const patient = () => new grpc.Metadata({waitForReady: true});
const requestId = () => 'node-' + crypto.randomUUID();
const newestFirst = (ids) => [...ids].sort((a, b) => (BigInt(a) < BigInt(b) ? 1 : -1));

async function until(condition, what) {
  for (const end = Date.now() + 20000 * SLOW; !(await condition()); await new Promise((r) => setTimeout(r, 20)))
    if (Date.now() > end) throw new Error('not within 20 s: ' + what);
}

/* ---- the client */
function credentials(mode, ca, certificate) {
  if (mode === 'cleartext') return grpc.credentials.createInsecure();
  const file = (name) => fs.readFileSync(path.join(process.env.CERTS, name));
  return mode === 'mtls' && certificate ? grpc.credentials.createSsl(file(ca), file('client.key'), file('client.pem')) : grpc.credentials.createSsl(file(ca));
}

class Client {
  constructor(mode, address, ca = 'ca.pem', certificate = true) {
    const options = {'grpc.service_config': CONFIG, 'grpc.use_local_subchannel_pool': 1};
    this.channel = new grpc.Channel(address, credentials(mode, ca, certificate), options);
    const on = (service) => new service(address, null, {...options, channelOverride: this.channel});
    this.orders = on(api.orderdb.v1.OrderService);
    this.admin = on(api.orderdb.v1.AdminService);
    this.health = on(api.grpc.health.v1.Health);
    this.reflection = {v1: on(api.grpc.reflection.v1.ServerReflection), v1alpha: on(api.grpc.reflection.v1alpha.ServerReflection)};
  }

  /* A unary call as a promise; .cancel() on it. */
  call(method, request, options = deadline(20 * SLOW), metadata = patient(), stub = this.orders) {
    let call;
    const promise = new Promise((resolve, reject) => { call = stub[method](request, metadata, options, (e, answer) => (e ? reject(e) : resolve(answer))); });
    promise.cancel = () => call.cancel();
    return promise;
  }

  /* ImportOrders; the stream is .stream */
  import(requests, seconds = 60 * SLOW) {
    let stream;
    const promise = new Promise((resolve, reject) => { stream = this.orders.ImportOrders(new grpc.Metadata(), deadline(seconds), (e, a) => (e ? reject(e) : resolve(a))); });
    for (const r of requests) stream.write(r);
    promise.stream = stream;
    return promise;
  }

  close() { this.channel.close(); }
}

/* A server stream, message by message: next() is a message, or the error that ended it. */
function watch(client, service, options = {}) {
  const stream = client.health.Watch({service}, new grpc.Metadata(), options), seen = [], waiting = [];
  const put = (x) => (waiting.length ? waiting.shift()(x) : seen.push(x));
  stream.on('data', put).on('error', put);
  return {next: () => new Promise((r) => (seen.length ? r(seen.shift()) : waiting.push(r))), cancel: () => stream.cancel()};
}

/* What grpc-status-details-bin says. */
function details(status) {
  const out = {reason: '', metadata: {}, fields: []};
  for (const any of status.details) {
    const name = any.type_url.split('/').pop(), m = types.lookupType(name).decode(any.value);
    if (name === 'google.rpc.ErrorInfo') equal(m.domain, 'orderdb'), out.reason = m.reason, out.metadata = m.metadata;
    if (name === 'google.rpc.BadRequest') out.fields = m.field_violations.map((v) => v.field);
  }
  return out;
}

async function refused(promise, code, reason) {
  let answer;
  try {
    answer = await promise;
  } catch (e) {
    if (!(e.code in grpc.status)) throw e;
    const raw = e.metadata.get('grpc-status-details-bin')[0];
    const d = raw ? details(types.lookupType('google.rpc.Status').decode(raw)) : {reason: ''};
    equal([grpc.status[e.code], d.reason], [code, reason === undefined ? d.reason : reason], e.message);
    return d;
  }
  throw new Error('answered: ' + JSON.stringify(answer).slice(0, 200));
}

/* ---- requests */
const money = (minor_units, currency_code = 'CNY') => ({currency_code, minor_units: String(minor_units)});
const DEFAULTS = {sku_id: '', title: '', quantity: 2, unit_price: money(1999), discount: null, merchant_id: '', attributes: {}};

function order(user_id, more = {}, items = 1) {
  const total = items * 2 * 1999;
  return {user_id, merchant_id: 'm-1', items: range(items).map((i) => ({...DEFAULTS, sku_id: 'sku-' + i, title: '雨伞 ' + i})), items_total: money(total), freight: money(500),
    payable: money(total + 500), ...more};
}

const createRequest = (order_, request_id = requestId()) => ({order: order_, options: {request_id}});
const transition = (order_id, event, more = {}) => ({order_id, event, options: {request_id: requestId(), ...more}});

/* An order with its past. */
function retail(user, number, statuses) {
  const at = (i) => ({seconds: String(1700000000 + 60 * i), nanos: 0});
  const history = [{event: 'create', to_status: 'PENDING_PAYMENT', time: at(0)}, ...statuses.map(([event, to_status], i) => ({event, to_status, time: at(i + 1)}))];
  return {order: order(user, {client_order_no: 'old-' + number}), history};
}

/* ---- the steps, in the order of SCENARIO.md */
const steps = [];
const step = (name, run, modes = ['cleartext', 'tls', 'mtls']) => steps.push({name, run, modes});

step('health check', async (w) => {
  const check = (service) => w.call('Check', {service}, undefined, undefined, w.client.health);
  for (const service of SERVICES) equal((await check(service)).status, 'SERVING');
  await refused(check('orderdb.v1.Nothing'), 'NOT_FOUND', 'SERVICE_UNKNOWN');
});

step('health watch', async (w) => {
  const known = watch(w.client, 'orderdb.v1.OrderService'), unknown = watch(w.client, 'nothing');
  equal([(await known.next()).status, (await unknown.next()).status], ['SERVING', 'SERVICE_UNKNOWN']);
  known.cancel(), unknown.cancel();
  equal(grpc.status[(await known.next()).code], 'CANCELLED');
});

function reflection(version) {
  return async (w) => {
    const stream = w.client.reflection[version].ServerReflectionInfo(new grpc.Metadata(), deadline(20 * SLOW)), answers = [];
    const end = new Promise((resolve, reject) => stream.on('data', (a) => answers.push(a)).on('end', resolve).on('error', reject));
    stream.write({list_services: '*'}), stream.write({file_containing_symbol: 'orderdb.v1.OrderService'}), stream.write({file_containing_symbol: 'orderdb.v1.Nothing'}), stream.end();
    await end;
    equal(answers.length, 3);
    equal(answers[0].list_services_response.service.map((s) => s.name).sort(), ALL_SERVICES);
    const files = answers[1].file_descriptor_response.file_descriptor_proto.map((b) => protobuf.descriptor.FileDescriptorProto.decode(b));
    equal(files[0].name, 'orderdb/v1/order.proto');
    const names = files.map((f) => f.name);
    assert(files.every((f) => f.dependency.every((d) => names.includes(d))), 'all imports are there: ' + names);
    equal(answers[2].error_response.error_code, 5);
  };
}
step('reflection v1', reflection('v1'));
step('reflection v1alpha', reflection('v1alpha'));

step('create and get', async (w) => {
  const request = createRequest(order(w.user('get'), {attributes: {'城市': '北京', channel: 'app'}, address: {recipient: '张三', phone: '', region_code: '', line: 'x'}}, 3));
  const {order: o} = await w.call('CreateOrder', request);
  assert(BigInt(o.order_id) > 2n ** 53n, 'an id that a double cannot hold');
  const got = await w.call('GetOrder', {order_id: o.order_id});
  equal(got, o);
  equal([got.items, got.address, got.attributes, got.payable], [request.order.items, request.order.address, request.order.attributes, money(3 * 2 * 1999 + 500)]);
  assert(Number(got.create_time.seconds) > 1.7e9);
});

step('replay', async (w) => {
  const request = createRequest(order(w.user('replay')));
  const first = await w.call('CreateOrder', request), second = await w.call('CreateOrder', request);
  equal([first.replayed, second], [false, {...first, replayed: true}]);
  equal((await w.call('ListOrders', {user_id: w.user('replay')})).total_size, '1');
});

step('reused id', async (w) => {
  const id = requestId(), first = (await w.call('CreateOrder', createRequest(order(w.user('reused')), id))).order;
  const d = await refused(w.call('CreateOrder', createRequest(order(w.user('reused'), {merchant_id: 'm-2'}), id)), 'FAILED_PRECONDITION', 'IDEMPOTENCY_KEY_REUSED');
  equal(d.metadata.order_id, first.order_id);
});

step('violations', async (w) => {
  const o = order('', {}, 2);
  o.items[1].quantity = 0;
  const d = await refused(w.call('CreateOrder', createRequest(o)), 'INVALID_ARGUMENT');
  for (const field of ['order.user_id', 'order.items[1].quantity']) assert(d.fields.includes(field), d.fields.join());
});

step('transition', async (w) => {
  const {order_id} = await w.create('transition');
  for (const [event, from, to, version] of [['pay', 'PENDING_PAYMENT', 'PAID', '2'], ['ship', 'PAID', 'SHIPPED', '3']]) {
    const a = await w.call('TransitionOrder', transition(order_id, event));
    equal([a.order.status, a.order.version, a.entry.from_status, a.entry.event], [to, version, from, event]);
  }
});

step('second caller', async (w) => {
  const {order_id} = await w.create('second'), pay = transition(order_id, 'pay');
  await w.call('TransitionOrder', pay);
  const d = await refused(w.call('TransitionOrder', transition(order_id, 'pay')), 'FAILED_PRECONDITION', 'STATUS_MISMATCH');
  equal([d.metadata.status, d.metadata.version, d.metadata.winner_request_id], ['PAID', '2', pay.options.request_id]);
});

step('history', async (w) => {
  const {order_id} = await w.create('history'), metadata = patient();
  metadata.set('traceparent', TRACE);
  for (const event of ['pay', 'ship', 'deliver']) await w.call('TransitionOrder', transition(order_id, event, {operator: 'op-1', reason: '因为'}), undefined, metadata);
  const {entries} = await w.call('ListOrderHistory', {order_id});
  equal(entries.map((e) => [e.version, e.event, e.chain_hash.length]), [['1', 'create', 32], ['2', 'pay', 32], ['3', 'ship', 32], ['4', 'deliver', 32]]);
  equal([entries[1].operator, entries[1].reason, entries[1].traceparent], ['op-1', '因为', TRACE]);
});

step('update', async (w) => {
  const {order_id} = await w.create('update');
  const update = (...paths) => w.call('UpdateOrder', {order: {order_id, address: {recipient: '李四'}}, update_mask: {paths}, options: {request_id: requestId()}});
  equal((await update('address')).order.address.recipient, '李四');
  equal((await w.call('GetOrder', {order_id})).version, '2');
  equal((await refused(update('address', 'payable'), 'INVALID_ARGUMENT', 'FIELD_INVALID')).fields, ['update_mask.paths[1]']);
});

step('pages', async (w) => {
  const user_id = w.user('pages'), ids = [], walked = [];
  for (const _ of range(25)) ids.push((await w.create('pages')).order_id);
  await w.call('TransitionOrder', transition(ids[0], 'pay'));
  let page_token = '', pages = 0;
  do {
    const page = await w.call('ListOrders', {user_id, page_size: 10, page_token});
    equal([page.total_size, page.status_counts], ['25', {PENDING_PAYMENT: '24', PAID: '1'}]);
    walked.push(...page.orders.map((o) => o.order_id)), page_token = page.next_page_token, pages++;
  } while (page_token);
  equal([pages, walked], [3, newestFirst(ids)]);
  equal((await w.call('ListOrders', {user_id, page_size: 10, page_number: 3})).orders.map((o) => o.order_id), walked.slice(20));
  await refused(w.call('ListOrders', {user_id, page_token: 'forged'}), 'INVALID_ARGUMENT', 'PAGE_TOKEN_INVALID');
});

step('batches', async (w) => {
  const requests = range(30).map((i) => createRequest(order(w.user('batch-' + (i % 3)))));
  requests[7].order.items[0].quantity = 0;
  const {results} = await w.call('BatchCreateOrders', {requests});
  equal(results.map((r) => r.result), range(30).map((i) => (i === 7 ? 'error' : 'ok')));
  const d = details(results[7].error);
  equal([results[7].error.code, d.reason, d.fields], [3, 'LIMIT_EXCEEDED', ['order.items[0].quantity']]);
  const ids = results.filter((r) => r.ok).map((r) => r.ok.order.order_id);
  const moved = (await w.call('BatchTransitionOrders', {requests: ids.slice(0, 5).flatMap((id) => [transition(id, 'pay'), transition(id, 'pay')])})).results;
  equal(moved.map((r) => r.result), range(10).map((i) => (i % 2 ? 'error' : 'ok')));
  equal([moved[1].error.code, details(moved[1].error).reason], [9, 'STATUS_MISMATCH']);
  const got = await w.call('BatchGetOrders', {order_ids: [...ids, '5']});
  equal([got.orders.map((o) => o.order_id), got.missing_ids], [ids, ['5']]);
  equal(got.orders.slice(0, 6).map((o) => o.status), [...Array(5).fill('PAID'), 'PENDING_PAYMENT']);
});

step('dry run', async (w) => {
  const request = createRequest(order(w.user('dry')));
  request.options.validate_only = true;
  const a = await w.call('CreateOrder', request);
  equal([a.order.order_id, a.order.status, a.token], ['0', 'PENDING_PAYMENT', null]);
  equal((await w.call('ListOrders', {user_id: w.user('dry')})).total_size, '0');
});

step('outcome', async (w) => {
  const user_id = w.user('outcome'), known = requestId(), late = requestId();
  const o = (await w.call('CreateOrder', createRequest(order(user_id), known))).order;
  equal(await w.call('GetRequestOutcome', {user_id, request_id: known}), {state: 'APPLIED', order_id: o.order_id, version: '1'});
  equal((await w.call('GetRequestOutcome', {user_id, request_id: late})).state, 'NOT_APPLIED');
  await refused(w.call('CreateOrder', createRequest(order(user_id), late)), 'FAILED_PRECONDITION', 'REQUEST_FENCED');
});

step('import', async (w) => {
  const user = w.user('import'), events = [['pay', 'PAID'], ['ship', 'SHIPPED']];
  const requests = range(40).map((i) => retail(user, i, i === 11 ? [['deliver', 'DELIVERED']] : events.slice(0, i % 3)));
  for (const expected of [['39', '0'], ['0', '39']]) {
    const call = w.client.import(requests);
    call.stream.end();
    const a = await call;
    equal([a.imported, a.already_there, a.rejected_count, a.rejected[0].client_order_no], [...expected, '1', 'old-11']);
  }
  equal((await w.call('ListOrders', {user_id: user})).status_counts, {PENDING_PAYMENT: '14', PAID: '13', SHIPPED: '12'});
});

step('unknown method', async (w) => {
  const same = (x) => x;
  await refused(new Promise((resolve, reject) => w.client.orders.makeUnaryRequest('/orderdb.v1.OrderService/Nothing', same, same, Buffer.alloc(0), deadline(10 * SLOW),
    (e, a) => (e ? reject(e) : resolve(a)))), 'UNIMPLEMENTED', 'METHOD_UNKNOWN');
});

step('deadline', async (w) => {
  const stream = watch(w.client, '', deadline(0.3));
  equal((await stream.next()).status, 'SERVING');
  equal(grpc.status[(await stream.next()).code], 'DEADLINE_EXCEEDED');
  for (const _ of range(10)) {
    const e = await w.call('GetOrder', {order_id: String(1n << 60n)}, deadline(0.001)).then(() => null, (e_) => e_);
    assert(e && ['DEADLINE_EXCEEDED', 'NOT_FOUND'].includes(grpc.status[e.code]), String(e));
  }
  equal((await w.call('ListOrders', {user_id: w.user('deadline')})).total_size, '0');
});

step('cancel', async (w) => {
  const calls = range(50).map(() => w.call('ListOrders', {user_id: w.user('pages')}));
  for (const i of range(25)) calls[2 * i].cancel();
  const ends = await Promise.allSettled(calls);
  equal(ends.map((e, i) => (i % 2 ? e.value.total_size : grpc.status[e.reason.code])), range(50).map((i) => (i % 2 ? '25' : 'CANCELLED')));
  const half = w.client.import([retail(w.user('cancel'), 1, [])]);
  const size = async () => (await w.call('ListOrders', {user_id: w.user('cancel')})).total_size;
  await until(async () => (await size()) === '1', 'the first of the stream');
  half.stream.cancel();
  await refused(half, 'CANCELLED', '');
  equal(await size(), '1');
});

step('large', async (w) => {
  const o = order(w.user('large'), {extension: crypto.randomBytes(600000)}, 500);
  for (const item of o.items) item.title = 't'.repeat(512);
  for (const _ of range(3)) equal((await w.call('CreateOrder', createRequest(o))).order.extension, o.extension);
  const page = await w.call('ListOrders', {user_id: w.user('large'), read: {view: 'ORDER_VIEW_FULL'}});
  equal(page.orders.length, 3);
  for (const got of page.orders) equal([got.items, got.extension], [o.items, o.extension]);
});

step('too large', async (w) => {
  await refused(w.call('CreateOrder', createRequest(order(w.user('too-large'), {extension: Buffer.alloc(4 << 20, 'x')}))), 'RESOURCE_EXHAUSTED', 'LIMIT_EXCEEDED');
  await w.create('too-large');
});

step('many at once', async (w) => {
  const answers = await Promise.all(range(200).map((i) => w.call('CreateOrder', createRequest(order(w.user('many-' + (i % 7)))), deadline(30 * SLOW))));
  equal(new Set(answers.map((a) => a.order.order_id)).size, 200);
});

async function getsNowhere(client) {
  await refused(client.call('GetTopology', {}, deadline(10 * SLOW), new grpc.Metadata(), client.admin), 'UNAVAILABLE', '');
  client.close();
}
step('wrong CA', (w) => getsNowhere(new Client(w.mode, w.address, 'other-ca.pem')), ['tls', 'mtls']);
step('no certificate', (w) => getsNowhere(new Client(w.mode, w.address, 'ca.pem', false)), ['mtls']);

step('drain and restart', async (w) => {
  const before = await w.create('drain'), user_id = w.user('drain-import'), size = async () => (await w.call('ListOrders', {user_id})).total_size;
  const stream = watch(w.client, 'orderdb.v1.OrderService');
  equal((await stream.next()).status, 'SERVING');
  const half = w.client.import(range(5).map((i) => retail(user_id, i, [])));
  await until(async () => (await size()) === '5', 'half of the stream');
  console.log('want restart ' + w.mode);
  equal((await stream.next()).status, 'NOT_SERVING');
  const end = await stream.next();
  await refused(Promise.reject(end), 'UNAVAILABLE', 'DRAINING');
  const request = createRequest(order(w.user('drain'))), waiting = w.call('CreateOrder', request, deadline(60 * SLOW));
  for (const i of range(5)) half.stream.write(retail(user_id, 5 + i, []));
  half.stream.end();
  equal((await half).imported, '10');
  const {order: o} = await waiting, again = await w.call('CreateOrder', request, deadline(60 * SLOW));
  equal([again.replayed, again.order], [true, o]);
  equal((await w.call('ListOrders', {user_id: w.user('drain')})).orders.map((x) => x.order_id), [o.order_id, before.order_id]);
  equal(await size(), '10');
});

async function main() {
  let bad = 0;
  for (const argument of process.argv.slice(3)) {
    const [mode, address] = argument.split('='), client = new Client(mode, address), run = crypto.randomUUID().slice(0, 8);
    const w = {mode, address, client, call: client.call.bind(client), user: (name) => `node-${mode}-${run}-${name}`};
    w.create = async (name) => (await w.call('CreateOrder', createRequest(order(w.user(name))))).order;
    for (const s of steps.filter((x) => x.modes.includes(mode))) {
      try {
        await s.run(w);
        console.log(`ok ${mode}: ${s.name}`);
      } catch (e) {
        bad++;
        console.log(`not ok ${mode}: ${s.name}\n#   ${String(e.stack).replace(/\n/g, '\n#   ')}`);
      }
    }
    client.close();
  }
  process.exitCode = bad ? 1 : 0;
}

main();

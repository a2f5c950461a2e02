/* Create an order, pay it, list what the user has, with @grpc/grpc-js and @grpc/proto-loader (npm install them, and protobufjs for the errors' details):
 *
 *   node create_pay_list.js localhost:7400 ann ann-cart-000000042 [CA.pem]
 *
 * The third argument is the request_id, chosen before the first attempt and kept with the cart: whoever runs this again, after whatever crash,
 * makes no second order and pays no second time. */
'use strict';
const fs = require('fs');
const path = require('path');
const grpc = require('@grpc/grpc-js');
const loader = require('@grpc/proto-loader');
const protobuf = require('protobufjs');

const PROTO = path.join(__dirname, '..', '..', 'proto');
/* longs as text: a double would round an order_id. */
const {orderdb} = grpc.loadPackageDefinition(loader.loadSync('orderdb/v1/order.proto', {includeDirs: [PROTO], keepCase: true, longs: String, enums: String, defaults: true, oneofs: true}));
const details = protobuf.loadSync(['status', 'error_details'].map((f) => path.join(PROTO, 'google', 'rpc', f + '.proto')));

/* ErrorInfo of a refusal: {reason, metadata}; empty when no server answered. */
function errorInfo(e) {
  const [raw] = e.metadata ? e.metadata.get('grpc-status-details-bin') : [];
  const any = raw && details.lookupType('google.rpc.Status').decode(raw).details.find((d) => d.type_url.endsWith('/google.rpc.ErrorInfo'));
  return any ? details.lookupType('google.rpc.ErrorInfo').decode(any.value) : {reason: '', metadata: {}};
}

function connect(target, ca) {
  const credentials = ca ? grpc.credentials.createSsl(fs.readFileSync(ca)) : grpc.credentials.createInsecure();
  const config = fs.readFileSync(path.join(__dirname, '..', 'service_config.json'), 'utf8');
  const client = new orderdb.v1.OrderService(target, credentials, {'grpc.service_config': config});
  /* grpc-js does not read waitForReady of the service config: it goes with each call. */
  client.ask = (method, request) => new Promise((resolve, reject) =>
    client[method](request, new grpc.Metadata({waitForReady: true}), {deadline: Date.now() + 10000}, (e, answer) => (e ? reject(e) : resolve(answer))));
  return client;
}

async function main(target, user_id, request_id, ca) {
  const client = connect(target, ca);
  const money = (minor_units) => ({currency_code: 'CNY', minor_units});
  const order = {user_id, items: [{sku_id: 'u1', title: 'Umbrella', quantity: 2, unit_price: money(1999)}], items_total: money(3998), payable: money(3998)};
  const created = await client.ask('CreateOrder', {order, options: {request_id}});
  try {
    await client.ask('TransitionOrder', {order_id: created.order.order_id, event: 'pay', options: {request_id: request_id + '-pay'}});
  } catch (e) {
    const info = errorInfo(e);
    if (info.reason !== 'STATUS_MISMATCH') throw e;
    console.error(`it is ${info.metadata.status} already`);
  }
  const page = await client.ask('ListOrders', {user_id, page_size: 5});
  for (const o of page.orders) console.log(o.order_id, o.status, o.payable.minor_units, o.payable.currency_code);
  console.log(page.total_size, 'orders');
  client.close();
}

main(...process.argv.slice(2)).catch((e) => {
  console.error(`${grpc.status[e.code] || ''} ${errorInfo(e).reason}: ${e.details || e.stack}`);
  process.exit(1);
});

-- CREATE, atomic as scripts are. ARGV: index (1: all indexes, 0: the user's alone), key, user, merchant, freight, payable, recipient, then sku, quantity, price, title three times.
local a, key = ARGV, 'idem:' .. ARGV[2]
local before = redis.call('GET', key)
if before then return before end
local time = redis.call('TIME')
local now = time[1] .. string.format('%06d', time[2])
local id = redis.call('INCR', 'order_ids')
local order = 'order:' .. id
redis.call('SET', key, id)
redis.call('HSET', order, 'order_id', id, 'user_id', a[3], 'merchant_id', a[4], 'status', '0', 'version', '1', 'created_us', now, 'updated_us', now,
  'items_total', a[6] - a[5], 'freight', a[5], 'payable', a[6], 'recipient', a[7])
redis.call('RPUSH', 'items:' .. id, a[8] .. '|' .. a[9] .. '|' .. a[10] .. '|' .. a[11], a[12] .. '|' .. a[13] .. '|' .. a[14] .. '|' .. a[15],
  a[16] .. '|' .. a[17] .. '|' .. a[18] .. '|' .. a[19])
redis.call('RPUSH', 'history:' .. id, '1||0|' .. now .. '|create')
redis.call('XADD', 'events', '*', 'e', '{"type":"ORDER_CREATED","order_id":' .. id .. ',"user_id":' .. a[3] .. ',"merchant_id":' .. a[4] .. ',"status":0,"version":1,"time_us":' .. now ..
  ',"payable":{"currency":"CNY","minor_units":' .. a[6] .. '},"source":"orders","schema":"orders.v1.OrderChanged","trace":"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"}')
redis.call('ZADD', 'user:' .. a[3], now, id)
if a[1] == '1' then
  redis.call('ZADD', 'status:0', now, id)
  redis.call('ZADD', 'sku:' .. a[8], now, id)
  redis.call('ZADD', 'sku:' .. a[12], now, id)
  redis.call('ZADD', 'sku:' .. a[16], now, id)
end
return id

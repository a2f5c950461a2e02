-- TRANSITION: the next status of five, and from the last to the first again. ARGV: index, order_id.
local id, order = ARGV[2], 'order:' .. ARGV[2]
local o = redis.call('HMGET', order, 'status', 'version', 'user_id', 'merchant_id', 'payable', 'created_us')
if not o[1] then return 0 end
local time = redis.call('TIME')
local now = time[1] .. string.format('%06d', time[2])
local s, v = (o[1] + 1) % 5, o[2] + 1
redis.call('HSET', order, 'status', s, 'version', v, 'updated_us', now)
redis.call('RPUSH', 'history:' .. id, v .. '|' .. o[1] .. '|' .. s .. '|' .. now .. '|step')
redis.call('XADD', 'events', '*', 'e', '{"type":"ORDER_STATUS_CHANGED","order_id":' .. id .. ',"user_id":' .. o[3] .. ',"merchant_id":' .. o[4] .. ',"status":' .. s .. ',"version":' .. v ..
  ',"time_us":' .. now .. ',"payable":{"currency":"CNY","minor_units":' .. o[5] .. '},"source":"orders","schema":"orders.v1.OrderChanged","trace":"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"}')
if ARGV[1] == '1' then
  redis.call('ZREM', 'status:' .. o[1], id)
  redis.call('ZADD', 'status:' .. s, o[6], id)
end
return v

-- LIST: the newest 20 orders of a user, all fields. ARGV: user.
local out = {}
for i, id in ipairs(redis.call('ZREVRANGE', 'user:' .. ARGV[1], 0, 19)) do out[i] = redis.call('HGETALL', 'order:' .. id) end
return out

-- Renews the leases of executions that are still registered.
--
-- ARGV  worker, now_iso, now_s, lease_s, then queue, job_id, execution_id for each
-- Gives a list of 1 (renewed) and 0 (lost), in order.
local worker, now_iso, now_s, lease_s = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4])
local renewed = {}
-- First, as it takes no memory: see common.lua.
redis.call('EXPIRE', 'rq:worker:' .. worker .. ':executions', lease_s + 60)
for i = 5, #ARGV, 3 do
  local queue, job_id, execution_id = ARGV[i], ARGV[i + 1], ARGV[i + 2]
  local composite = job_id .. ':' .. execution_id
  local wip = 'rq:wip:' .. queue
  if redis.call('ZSCORE', wip, composite) then
    local expires_s = server_now_s() + lease_s
    redis.call('ZADD', wip, 'XX', staggered(expires_s, i), composite)
    redis.call('HSET', 'rq:execution:' .. composite, 'last_heartbeat', now_s)
    redis.call('EXPIRE', 'rq:execution:' .. composite, lease_s + 60)
    redis.call('ZADD', 'rq:executions:' .. job_id, 'XX', seconds(expires_s + 60), execution_id)
    redis.call('EXPIRE', 'rq:executions:' .. job_id, lease_s + 60)
    redis.call('HSET', 'rq:job:' .. job_id, 'last_heartbeat', now_iso)
    renewed[#renewed + 1] = 1
  else
    renewed[#renewed + 1] = 0
  end
end
return renewed

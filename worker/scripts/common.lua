-- Put in front of every other script of this folder. Key names are RQ 3.0's (rq:…) and ours (sortline:…).
-- Leases are timed by the server's clock alone, so that workers with wrong clocks can't rob each other.

local function server_now_s()
  local t = redis.call('TIME')
  return tonumber(t[1]) + tonumber(t[2]) / 1000000
end

-- A Lua number with six decimals: tostring() would round an epoch to 14 digits.
local function seconds(value)
  return string.format('%.6f', value)
end

-- Writes what RQ's Execution.create and Job.prepare_for_execution write, with a lease of `lease_s`.
local function start_execution(queue, job_id, execution_id, worker, now_iso, now_s, lease_s)
  local composite = job_id .. ':' .. execution_id
  local execution_key = 'rq:execution:' .. composite
  local executions_key = 'rq:executions:' .. job_id
  local expires_s = server_now_s() + lease_s
  -- The keys outlive the lease: at its end they are still needed to give the job back.
  redis.call('HSET', execution_key, 'id', execution_id, 'job_id', job_id, 'created_at', now_s,
    'last_heartbeat', now_s, 'worker_name', worker)
  redis.call('EXPIRE', execution_key, lease_s + 60)
  redis.call('ZADD', executions_key, seconds(expires_s + 60), execution_id)
  redis.call('EXPIRE', executions_key, lease_s + 60)
  redis.call('ZADD', 'rq:wip:' .. queue, seconds(expires_s), composite)
  redis.call('SADD', 'rq:worker:' .. worker .. ':executions', composite)
  redis.call('HSET', 'rq:job:' .. job_id, 'status', 'started', 'worker_name', worker,
    'started_at', now_iso, 'last_heartbeat', now_iso)
  redis.call('PERSIST', 'rq:job:' .. job_id)
end

-- Ends an execution. False when it isn't registered any more: the lease was lost, the job is another's.
local function end_execution(queue, job_id, execution_id, worker)
  local composite = job_id .. ':' .. execution_id
  if redis.call('ZREM', 'rq:wip:' .. queue, composite) == 0 then
    return false
  end
  redis.call('DEL', 'rq:execution:' .. composite)
  redis.call('ZREM', 'rq:executions:' .. job_id, execution_id)
  redis.call('SREM', 'rq:worker:' .. worker .. ':executions', composite)
  return true
end

-- Wakes one idle worker. At most 64 tokens wait: more workers than that never wake for one push.
local function ring(queue)
  local bell = 'sortline:bell:' .. queue
  redis.call('LPUSH', bell, '1')
  redis.call('LTRIM', bell, 0, 63)
end

-- Puts a job back, at the front: it has waited longest.
local function requeue(queue, job_id, now_iso)
  redis.call('HSET', 'rq:job:' .. job_id, 'status', 'queued', 'enqueued_at', now_iso)
  redis.call('LPUSH', 'rq:queue:' .. queue, job_id)
  ring(queue)
end

-- What a worker must know of a claimed job, in the order of worker/claim.py.
local function describe(queue, job_id, execution_id)
  local fields = redis.call('HMGET', 'rq:job:' .. job_id, 'data', 'enqueued_at', 'retries_left',
    'result_ttl', 'failure_ttl')
  local odd = redis.call('HMGET', 'rq:job:' .. job_id, 'success_callback_name', 'failure_callback_name',
    'stopped_callback_name', 'dependency_ids', 'repeats_left', 'webhooks', 'rate_limit_key')
  local extras = ''
  for i = 1, #odd do
    if odd[i] and odd[i] ~= '' then extras = extras .. odd[i] .. ' ' end
  end
  local image = redis.call('GET', 'sortline:image:' .. job_id)
  return { queue, job_id, execution_id, fields[1], image, fields[2], fields[3], fields[4], fields[5], extras }
end

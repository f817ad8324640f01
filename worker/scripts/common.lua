-- Put in front of every other script of this folder. Key names are RQ 3.0's (rq:…) and ours (sortline:…).
-- Leases are timed by the server's clock alone, so that workers with wrong clocks can't rob each other.
-- Commands that take many members are called once per batch: a call costs more than what it does.
-- Each script's first write takes no memory (LPOP, ZREM, EXPIRE), so that a full server (noeviction) lets it run to its
-- end: finishing is what frees memory there.

local function server_now_s()
  local t = redis.call('TIME')
  return tonumber(t[1]) + tonumber(t[2]) / 1000000
end

-- A Lua number with six decimals: tostring() would round an epoch to 14 digits.
local function seconds(value)
  return string.format('%.6f', value)
end

-- What RQ's Execution.create and Job.prepare_for_execution write under the job's own keys.
-- The keys outlive the lease: at its end they are still needed to give the job back.
local function open_execution(job_id, execution_id, worker, now_iso, now_s, lease_s, expires_s)
  local execution_key = 'rq:execution:' .. job_id .. ':' .. execution_id
  local executions_key = 'rq:executions:' .. job_id
  redis.call('HSET', execution_key, 'id', execution_id, 'job_id', job_id, 'created_at', now_s,
    'last_heartbeat', now_s, 'worker_name', worker)
  redis.call('EXPIRE', execution_key, lease_s + 60)
  redis.call('ZADD', executions_key, seconds(expires_s + 60), execution_id)
  redis.call('EXPIRE', executions_key, lease_s + 60)
  redis.call('HSET', 'rq:job:' .. job_id, 'status', 'started', 'worker_name', worker,
    'started_at', now_iso, 'last_heartbeat', now_iso)
  redis.call('PERSIST', 'rq:job:' .. job_id)
end

-- The clock stands still while a script runs. Leases that it starts or renews end a microsecond after each
-- other, so that they keep the jobs' order, in which they go back should this worker die.
local function staggered(expires_s, place)
  return seconds(expires_s + place / 1000000)
end

-- What Execution.create writes under shared keys: the leases, and the worker's own list.
local function register(queue, composites, worker, lease_s, expires_s)
  if #composites == 0 then return end
  local leases = {}
  for i = 1, #composites do
    leases[2 * i - 1] = staggered(expires_s, i)
    leases[2 * i] = composites[i]
  end
  redis.call('ZADD', 'rq:wip:' .. queue, unpack(leases))
  redis.call('SADD', 'rq:worker:' .. worker .. ':executions', unpack(composites))
  redis.call('EXPIRE', 'rq:worker:' .. worker .. ':executions', lease_s + 60)
end

-- Ends executions of one queue and worker; `executions` is a list of { job_id, execution_id }.
-- Gives a list of booleans: false where the execution isn't registered any more, which means that the
-- lease was lost and the job is another's.
local function end_executions(queue, executions, worker)
  local composites = {}
  for i, execution in ipairs(executions) do
    composites[i] = execution[1] .. ':' .. execution[2]
  end
  local scores = redis.call('ZMSCORE', 'rq:wip:' .. queue, unpack(composites))
  local held, ended, execution_keys = {}, {}, {}
  for i, execution in ipairs(executions) do
    held[i] = scores[i] ~= false
    if held[i] then
      ended[#ended + 1] = composites[i]
      execution_keys[#execution_keys + 1] = 'rq:execution:' .. composites[i]
      redis.call('ZREM', 'rq:executions:' .. execution[1], execution[2])
    end
  end
  if #ended > 0 then
    redis.call('ZREM', 'rq:wip:' .. queue, unpack(ended))
    redis.call('SREM', 'rq:worker:' .. worker .. ':executions', unpack(ended))
    redis.call('DEL', unpack(execution_keys))
  end
  return held
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

-- What a worker must know of a job, in the order of worker/claim.py, then its status; nil for a job that was deleted.
-- Not the image itself: bytes that go through Lua are copied three times more, while the server does nothing else.
local function describe(queue, job_id, execution_id)
  local f = redis.call('HMGET', 'rq:job:' .. job_id, 'data', 'enqueued_at', 'retries_left', 'result_ttl',
    'failure_ttl', 'success_callback_name', 'failure_callback_name', 'stopped_callback_name',
    'dependency_ids', 'repeats_left', 'webhooks', 'rate_limit_key', 'created_at', 'status')
  if not f[13] then return nil end
  local extras = ''
  for i = 6, 12 do
    if f[i] and f[i] ~= '' then extras = extras .. f[i] .. ' ' end
  end
  return { queue, job_id, execution_id, f[1], f[2], f[3], f[4], f[5], extras }, f[14]
end

-- Put in front of every other script of this folder. Key names are RQ 3.0's (rq:…) and ours (sortline:…).
-- Leases are timed by the server's clock alone, so that workers with wrong clocks can't rob each other.
-- Commands that take many members are called once per batch: a call costs more than what it does.
--
-- A script that raises is not rolled back: what it wrote stays, what it had still to write is missing. So each script
-- reads first and writes then, and a key that does not hold what it should is dealt with by the functions below.

-- Looked up once, as they are called many times for each job.
local redis_call, redis_pcall = redis.call, redis.pcall

-- Every script's first command is this write, of a key that never exists. It changes nothing, but a replica answers it
-- with READONLY, a server that can't save with MISCONF and one that lacks replicas with NOREPLICAS, before anything was
-- done or answered from old data. And as it takes no memory, a full server (noeviction) runs it, and from a script's
-- first write on refuses none for lack of memory: finishing jobs is what frees memory there.
redis_call('DEL', 'sortline:never-written')

local BROKEN_KEPT_S = 86400
local MAX_RETRIES = 99 -- MAX_ATTEMPTS of shared/jobs.py, less the first attempt

-- What each script reports of keys that don't hold what they should: { action, key, its type, the error }.
-- worker/rq/broken_keys.py explains the actions.
local problems = {}

local function report(action, key, message)
  problems[#problems + 1] = { action, key, redis_call('TYPE', key).ok, message }
end

-- Whether a command failed because of what its key holds: another type, or a stream that has used up its ids.
-- Any other error is not the key's (no permission, say): it ends the script.
local function is_broken(answer)
  if type(answer) ~= 'table' or not answer.err then return false end
  if string.find(answer.err, '^WRONGTYPE') or string.find(answer.err, 'exhausted the last possible ID', 1, true) then
    return true
  end
  error(answer)
end

local function text_of(message)
  return type(message) == 'table' and message.err or tostring(message)
end

-- Whether a permission is missing, which is neither a key's fault nor a job's.
local function is_forbidden(message)
  return string.find(text_of(message), 'ACL failure', 1, true) or string.find(text_of(message), '^NOPERM')
end

-- What to do about a broken key, given the answer that a command had from it. Each gives true where the key was broken,
-- and the command must be given again or is of no use. (Not functions that run the command themselves: handing its
-- arguments on would take as long as some commands do.)

-- The key belongs to one job or one worker, or is a bell. Broken it is useless, so it is deleted.
local function replace_broken(key, answer)
  if not is_broken(answer) then return false end
  report('replaced', key, answer.err)
  redis_call('DEL', key)
  return true
end

-- Many use the key: it is moved aside, so that a person can look at it.
local function move_broken(key, answer)
  if not is_broken(answer) then return false end
  report('moved', key, answer.err)
  redis_call('RENAME', key, 'sortline:broken:' .. key)
  redis_call('EXPIRE', 'sortline:broken:' .. key, BROKEN_KEPT_S)
  return true
end

-- The key should be a job's hash. It holds something else, which is left alone: it is not ours.
local function refuse_broken(key, answer)
  if not is_broken(answer) then return false end
  report('refused', key, answer.err)
  return true
end

local function has_type(key, wanted)
  local found = redis_call('TYPE', key).ok
  if found == wanted or found == 'none' then return true end
  report('left', key, 'it must be a ' .. wanted)
  return false
end

-- Whether jobs can be taken from a queue and put back. Where RQ's list or registry of leases is broken the queue is left
-- alone until somebody has removed that key: a job must neither be taken without a lease nor lose its place.
local queue_is_usable = {}
local function is_usable(queue)
  if queue_is_usable[queue] == nil then
    queue_is_usable[queue] = has_type('rq:queue:' .. queue, 'list') and has_type('rq:wip:' .. queue, 'zset')
  end
  return queue_is_usable[queue]
end

local function server_now_s()
  local t = redis_call('TIME')
  return tonumber(t[1]) + tonumber(t[2]) / 1000000
end

-- A Lua number with six decimals: tostring() would round an epoch to 14 digits. Remembers the last one, as the jobs of a
-- batch mostly expire together, and writing it takes as long as a command.
local last_value, last_text
local function seconds(value)
  if value ~= last_value then
    last_value, last_text = value, string.format('%.6f', value)
  end
  return last_text
end

-- How often a job may still be tried, from its hash's `retries_left`; 0 for anything but a whole number.
-- Bounded: a job that takes down every worker must not be tried again as often as a forged number says.
local function retries_in(field)
  if not field or #field > 10 or not string.find(field, '^%d+$') then return 0 end
  return math.min(tonumber(field), MAX_RETRIES)
end

-- What RQ's Execution.create writes under the job's own keys.
-- The keys outlive the lease: at its end they are still needed to give the job back.
local function write_execution(job_id, execution_id, worker, now_s, lease_s, expires_s)
  local execution_key = 'rq:execution:' .. job_id .. ':' .. execution_id
  local executions_key = 'rq:executions:' .. job_id
  local hash = redis_pcall('HSET', execution_key, 'id', execution_id, 'job_id', job_id, 'created_at', now_s,
    'last_heartbeat', now_s, 'worker_name', worker)
  redis_call('EXPIRE', execution_key, lease_s + 60)
  local list = redis_pcall('ZADD', executions_key, seconds(expires_s + 60), execution_id)
  redis_call('EXPIRE', executions_key, lease_s + 60)
  if replace_broken(execution_key, hash) or replace_broken(executions_key, list) then
    write_execution(job_id, execution_id, worker, now_s, lease_s, expires_s)
  end
end

-- And what Job.prepare_for_execution writes.
local function open_execution(job_id, execution_id, worker, now_iso, now_s, lease_s, expires_s)
  write_execution(job_id, execution_id, worker, now_s, lease_s, expires_s)
  redis_call('HSET', 'rq:job:' .. job_id, 'status', 'started', 'worker_name', worker,
    'started_at', now_iso, 'last_heartbeat', now_iso)
  redis_call('PERSIST', 'rq:job:' .. job_id)
end

-- The clock stands still while a script runs. Leases that it starts or renews end a microsecond after each
-- other, so that they keep the jobs' order, in which they go back should this worker die.
local function staggered(expires_s, place)
  return string.format('%.6f', expires_s + place / 1000000)
end

-- What Execution.create writes under shared keys: the leases, and the worker's own list. The queue is usable.
local function register(queue, composites, worker, lease_s, expires_s)
  if #composites == 0 then return end
  local leases = {}
  for i = 1, #composites do
    leases[2 * i - 1] = staggered(expires_s, i)
    leases[2 * i] = composites[i]
  end
  local key = 'rq:worker:' .. worker .. ':executions'
  if replace_broken(key, redis_pcall('SADD', key, unpack(composites))) then
    redis_call('SADD', key, unpack(composites))
  end
  redis_call('EXPIRE', key, lease_s + 60)
  -- The leases last: one that is not in the worker's list would not be found when the call is made again.
  redis_call('ZADD', 'rq:wip:' .. queue, unpack(leases))
end

local function composites_of(executions)
  local composites = {}
  for i, execution in ipairs(executions) do
    composites[i] = execution[1] .. ':' .. execution[2]
  end
  return composites
end

-- Which executions of one queue are still held; `executions` is a list of { job_id, execution_id }. False where the lease
-- was lost: the job is another's. Where the registry of leases is broken, nobody can take one over: then
-- the job's own list of executions decides.
local function held_executions(queue, executions)
  local composites, held = composites_of(executions), {}
  local scores = redis_pcall('ZMSCORE', 'rq:wip:' .. queue, unpack(composites))
  local is_registry_broken = is_broken(scores)
  if is_registry_broken then is_usable(queue) end -- which reports it
  for i, execution in ipairs(executions) do
    if is_registry_broken then
      local score = redis_pcall('ZSCORE', 'rq:executions:' .. execution[1], execution[2])
      held[i] = score and not is_broken(score)
    else
      held[i] = scores[i] ~= false
    end
  end
  return held
end

-- Ends executions of one queue and worker, which are held.
local function close_executions(queue, executions, worker)
  if #executions == 0 then return end
  local composites, execution_keys = composites_of(executions), {}
  for i, execution in ipairs(executions) do
    execution_keys[i] = 'rq:execution:' .. composites[i]
    local key = 'rq:executions:' .. execution[1]
    replace_broken(key, redis_pcall('ZREM', key, execution[2]))
  end
  is_broken(redis_pcall('ZREM', 'rq:wip:' .. queue, unpack(composites))) -- then it holds no lease of theirs
  local key = 'rq:worker:' .. worker .. ':executions'
  replace_broken(key, redis_pcall('SREM', key, unpack(composites)))
  redis_call('DEL', unpack(execution_keys))
end

-- Ends those executions of one queue and worker that are still held; which ones were, as held_executions() has it.
local function end_executions(queue, executions, worker)
  local held, ended = held_executions(queue, executions), {}
  for i, execution in ipairs(executions) do
    if held[i] then ended[#ended + 1] = execution end
  end
  close_executions(queue, ended, worker)
  return held
end

-- Wakes one idle worker. At most 64 tokens wait: more workers than that never wake for one push.
local function ring(queue)
  local bell = 'sortline:bell:' .. queue
  if replace_broken(bell, redis_pcall('LPUSH', bell, '1')) then redis_call('LPUSH', bell, '1') end
  redis_call('LTRIM', bell, 0, 63)
end

-- Puts a job back, at the front: it has waited longest. False where its key is no job's; the queue is usable.
local function requeue(queue, job_id, now_iso)
  local job_key = 'rq:job:' .. job_id
  if refuse_broken(job_key, redis_pcall('HSET', job_key, 'status', 'queued', 'enqueued_at', now_iso)) then
    return false
  end
  redis_call('LPUSH', 'rq:queue:' .. queue, job_id)
  ring(queue)
  return true
end

-- As in worker/steps/admit.py. Longer data is no job of ours, and is not handed on: it could fill the worker's memory.
local MAX_DATA_BYTES = 100000
-- Nor is more than this of the other fields, all of which are shorter.
local MAX_FIELD_BYTES = 1000

-- What a worker must know of a job, in the order of worker/steps/claim.py, then its status; nil for a job that was deleted, and
-- for a key that is no job's, which is reported.
-- Not the image itself: bytes that go through Lua are copied three times more, while the server does nothing else.
local function describe(queue, job_id, execution_id)
  local key = 'rq:job:' .. job_id
  local f = redis_pcall('HMGET', key, 'data', 'enqueued_at', 'retries_left', 'result_ttl',
    'failure_ttl', 'success_callback_name', 'failure_callback_name', 'stopped_callback_name',
    'dependency_ids', 'repeats_left', 'webhooks', 'rate_limit_key', 'created_at', 'status', 'sortline_max_attempts')
  if refuse_broken(key, f) or not f[13] then return nil end
  if f[1] and #f[1] > MAX_DATA_BYTES then f[1] = false end
  local extras = ''
  for i = 2, 15 do
    local field = f[i]
    if field and field ~= '' then
      if #field > MAX_FIELD_BYTES then f[i] = string.sub(field, 1, MAX_FIELD_BYTES) end
      if i >= 6 and i <= 12 then extras = extras .. f[i] .. ' ' end
    end
  end
  return { queue, job_id, execution_id, f[1], f[2], f[3], f[4], f[5], extras, f[15] }, f[14]
end

-- `<job>:<execution>` taken apart; nil for anything else. A job's id may hold colons itself.
local function split_composite(composite)
  return string.match(composite, '^(.*):([^:]*)$')
end

-- The jobs that an earlier run of this call started, when its answer was lost: their executions' ids begin with the
-- call's. Their leases begin anew. In the order of their start.
local function started_by(call_id, worker, queues, lease_s)
  local key, found = 'rq:worker:' .. worker .. ':executions', {}
  local composites = redis_pcall('SMEMBERS', key)
  if is_broken(composites) then return found end -- then their leases run out
  table.sort(composites, function(a, b) return string.sub(a, -8) < string.sub(b, -8) end)
  for _, queue in ipairs(queues) do
    local renewed = {}
    for _, composite in ipairs(is_usable(queue) and composites or {}) do
      local job_id, execution_id = split_composite(composite)
      local is_calls = job_id and string.sub(execution_id, 1, #call_id) == call_id
      if is_calls and redis_call('ZSCORE', 'rq:wip:' .. queue, composite) then
        found[#found + 1] = describe(queue, job_id, execution_id)
        renewed[#renewed + 1] = composite
      end
    end
    register(queue, renewed, worker, lease_s, server_now_s() + lease_s)
  end
  return found
end

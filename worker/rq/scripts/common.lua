-- Put in front of every other script of this folder. Key names are RQ 3.0's (rq:…) and ours (sortline:…).
-- Leases are timed only by the server's clock, so that workers with wrong clocks can't take each other's jobs.
-- Commands that take many members are called once per batch: the call costs more than its work.
--
-- A script that raises is not rolled back: what it has written stays, and the rest is missing. So each script reads
-- before it writes, and the functions below deal with keys that don't hold what they should.

-- Looked up only once, as both are called many times for each job.
local redis_call, redis_pcall = redis.call, redis.pcall

-- The first command of every script is this write to a key that never exists. It changes nothing. But a replica refuses
-- it with READONLY, a server that can't save with MISCONF, and one that lacks replicas with NOREPLICAS, before the
-- script has done anything or answered from old data. As DEL takes no memory, a full server (noeviction) runs it; and
-- after a script's first write the server refuses none of its writes for lack of memory. So jobs can be finished on a
-- full server, which frees memory.
redis_call('DEL', 'sortline:never-written')

local BROKEN_KEPT_S = 86400
local MAX_RETRIES = 99 -- MAX_ATTEMPTS of shared/jobs.py, less the first attempt
-- RQ's own ids have 36 bytes, ours at most 64. As in shared/jobs.py.
local MAX_ID_BYTES = 200
-- A job's hash takes 2 KB to 110 KB. Above the first bound each field's length is asked for before it is read. A hash
-- above the second bound is no job.
local PLAIN_HASH_BYTES = 150000
local MAX_HASH_BYTES = 4000000

-- Each script reports keys that don't hold what they should: { action, key, its type, the error }.
-- worker/rq/broken_keys.py explains the actions.
local problems = {}

local function report(action, key, message)
  problems[#problems + 1] = { action, key, redis_call('TYPE', key).ok, message }
end

-- Whether a command failed because of what its key holds: another type, or a stream that has used up its ids.
-- Any other error, e.g. a missing permission, is not caused by the key: it ends the script.
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

-- Whether the error is a missing permission: no key and no job has caused it.
local function is_forbidden(message)
  return string.find(text_of(message), 'ACL failure', 1, true) or string.find(text_of(message), '^NOPERM')
end

-- The next three functions deal with a broken key, given a command's answer. Each returns true if the key was broken:
-- then the caller must repeat the command, or do without it. (They don't run the command themselves, as passing its
-- arguments on would take as long as some commands do.)

-- The key belongs to one job or one worker, or is a wakeup list. A broken one is useless, so it is deleted.
local function replace_broken(key, answer)
  if not is_broken(answer) then return false end
  report('replaced', key, answer.err)
  redis_call('DEL', key)
  return true
end

-- Many use the key: it is moved aside, so that a person can inspect it.
local function move_broken(key, answer)
  if not is_broken(answer) then return false end
  report('moved', key, answer.err)
  redis_call('RENAME', key, 'sortline:broken:' .. key)
  redis_call('EXPIRE', 'sortline:broken:' .. key, BROKEN_KEPT_S)
  return true
end

-- The key should be a job's hash but holds something else. It is not ours, so it is left alone.
local function refuse_broken(key, answer)
  if not is_broken(answer) then return false end
  report('refused', key, answer.err)
  return true
end

-- Anybody with a producer's password can enqueue ids and write fields of up to 512 MB. A script that reads one copies
-- it, and so does each command that is given it, while the server does nothing else. The next functions deal with them.

-- A waiting job whose id is too long. The only command that is given the id is the one that deletes its hash.
local has_met_long_id = false
local function refuse_long_id(job_id)
  has_met_long_id = true
  problems[#problems + 1] = { 'removed', 'rq:job:' .. string.sub(job_id, 1, MAX_ID_BYTES), 'none',
    'its id has ' .. #job_id .. ' bytes, and may have ' .. MAX_ID_BYTES }
  redis_call('UNLINK', 'rq:job:' .. job_id)
end

-- Lua would keep the memory of long ids until it happens to collect its garbage.
local function forget_long_ids()
  if has_met_long_id and collectgarbage then collectgarbage() end
end

-- How many bytes a key takes, 0 if it is absent; nil if the server doesn't say. This is one short command, while the
-- length of each field would be one command each. 2,000 samples: a hash with more fields is large for that alone.
local function memory_of(key, samples)
  local used = redis_pcall('MEMORY', 'USAGE', key, 'SAMPLES', samples or 2000)
  if not used then return 0 end
  return type(used) == 'number' and used or nil
end

-- As in worker/steps/admit.py. Longer data is no job of ours and is not passed on: it could fill the worker's memory.
local MAX_DATA_BYTES = 100000
-- The other fields are cut to this length. They are all shorter.
local MAX_FIELD_BYTES = 1000

-- As HMGET, which is not asked for long fields. Instead of one it has words for its length; false for long data.
local function read_short_fields(key, names)
  local fields = {}
  for i, name in ipairs(names) do
    local size = redis_pcall('HSTRLEN', key, name)
    if type(size) == 'table' then return size end
    if size <= (name == 'data' and MAX_DATA_BYTES or MAX_FIELD_BYTES) then
      fields[i] = redis_call('HGET', key, name)
    else
      fields[i] = name ~= 'data' and '(' .. size .. ' bytes)'
    end
  end
  return fields
end

-- The answer of HMGET for a job's hash, but without long fields if the hash is large; and whether it is too large for
-- a job.
local function read_fields(key, names)
  local used = memory_of(key)
  if used and used <= PLAIN_HASH_BYTES then return redis_pcall('HMGET', key, unpack(names)), false end
  return read_short_fields(key, names), used ~= nil and used > MAX_HASH_BYTES
end

local function has_type(key, wanted)
  local found = redis_call('TYPE', key).ok
  if found == wanted or found == 'none' then return true end
  report('left', key, 'it must be a ' .. wanted)
  return false
end

-- Whether jobs can be taken from a queue and put back. If RQ's list or registry of leases is broken, the queue is left
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

-- A number as text with six decimals: tostring() would round an epoch to 14 digits. It caches the last text, as the
-- jobs of a batch mostly expire together, and formatting takes as long as a command.
local last_value, last_text
local function seconds(value)
  if value ~= last_value then
    last_value, last_text = value, string.format('%.6f', value)
  end
  return last_text
end

-- A whole number in a field of a job's hash, at most `most`, as anybody may have written it; 0 for anything else.
local function whole_number(field, most)
  if not field or #field > 10 or not string.find(field, '^%d+$') then return 0 end
  return math.min(tonumber(field), most)
end

-- Writes what RQ's Execution.create writes under the job's own keys.
-- The keys outlive the lease: after its end they are still needed to give the job back.
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

-- Writes an execution's own keys, and what RQ's Job.prepare_for_execution writes.
local function open_execution(job_id, execution_id, worker, now_iso, now_s, lease_s, expires_s)
  write_execution(job_id, execution_id, worker, now_s, lease_s, expires_s)
  redis_call('HSET', 'rq:job:' .. job_id, 'status', 'started', 'worker_name', worker,
    'started_at', now_iso, 'last_heartbeat', now_iso)
  redis_call('PERSIST', 'rq:job:' .. job_id)
end

-- The clock stands still while a script runs. The leases that it starts or renews are set to end a microsecond apart:
-- they keep the order of the jobs, and the jobs go back in that order if the worker dies.
local function staggered(expires_s, position)
  return string.format('%.6f', expires_s + position / 1000000)
end

-- Writes what Execution.create writes under shared keys: the leases, and the worker's own list. The queue is usable.
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
  -- The leases come last: a lease that is not in the worker's list would not be found when the call is repeated.
  redis_call('ZADD', 'rq:wip:' .. queue, unpack(leases))
end

local function composites_of(executions)
  local composites = {}
  for i, execution in ipairs(executions) do
    composites[i] = execution[1] .. ':' .. execution[2]
  end
  return composites
end

-- Which executions of one queue are still held; `executions` is a list of { job_id, execution_id }. False if the lease
-- was lost: then the job is another worker's. If the registry of leases is broken, nobody can take a lease over: then
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

-- Ends executions of one queue and worker that are held.
local function close_executions(queue, executions, worker)
  if #executions == 0 then return end
  local composites, execution_keys = composites_of(executions), {}
  for i, execution in ipairs(executions) do
    execution_keys[i] = 'rq:execution:' .. composites[i]
    local key = 'rq:executions:' .. execution[1]
    replace_broken(key, redis_pcall('ZREM', key, execution[2]))
  end
  is_broken(redis_pcall('ZREM', 'rq:wip:' .. queue, unpack(composites))) -- a broken registry holds no lease of theirs
  local key = 'rq:worker:' .. worker .. ':executions'
  replace_broken(key, redis_pcall('SREM', key, unpack(composites)))
  redis_call('DEL', unpack(execution_keys))
end

-- Ends those executions of one queue and worker that are still held; which ones were, as held_executions() returns it.
local function end_executions(queue, executions, worker)
  local held, ended = held_executions(queue, executions), {}
  for i, execution in ipairs(executions) do
    if held[i] then ended[#ended + 1] = execution end
  end
  close_executions(queue, ended, worker)
  return held
end

-- Wakes one idle worker. At most 64 tokens are kept, so at most 64 workers wake for tokens that nobody has taken.
local function wake(queue)
  local wakeup = 'sortline:bell:' .. queue
  if replace_broken(wakeup, redis_pcall('LPUSH', wakeup, '1')) then redis_call('LPUSH', wakeup, '1') end
  redis_call('LTRIM', wakeup, 0, 63)
end

-- Puts a job's id where workers find it: at the front of RQ's list, as the job has waited longest. A suspect goes to
-- the back of the suspects, so that those which have not been tried alone yet go first. The queue is usable.
local function enlist(queue, job_id, is_suspect)
  if is_suspect then
    local suspects = 'sortline:suspects:' .. queue
    if move_broken(suspects, redis_pcall('RPUSH', suspects, job_id)) then redis_call('RPUSH', suspects, job_id) end
  else
    redis_call('LPUSH', 'rq:queue:' .. queue, job_id)
  end
  wake(queue)
end

-- Puts a job back, a suspect to the suspects. False if its key holds no job. The queue is usable.
local function requeue(queue, job_id, now_iso)
  local job_key = 'rq:job:' .. job_id
  if refuse_broken(job_key, redis_pcall('HSET', job_key, 'status', 'queued', 'enqueued_at', now_iso)) then
    return false
  end
  enlist(queue, job_id, redis_call('HEXISTS', job_key, 'sortline_suspect') == 1)
  return true
end

local DESCRIBED = { 'data', 'enqueued_at', 'retries_left', 'result_ttl', 'failure_ttl', 'success_callback_name',
  'failure_callback_name', 'stopped_callback_name', 'dependency_ids', 'repeats_left', 'webhooks', 'rate_limit_key',
  'created_at', 'status', 'sortline_max_attempts', 'sortline_crashes', 'sortline_losses', 'sortline_suspect',
  'sortline_clock_offset', 'sortline_line', 'sortline_bytes', 'sortline_deadline', 'sortline_set_apart' }

-- What a worker must know of a job, in the order of worker/rq/job_fields.py; its status; its deadline by the server's
-- clock, as its producer wrote it, if it has one; and which claim has set it apart, if one has. Nil for a job that was
-- deleted, and for a key that holds no job, which is reported, or too much, which is deleted and reported.
-- The image is left out: bytes that go through Lua are copied three more times, while the server does nothing else.
local function describe(queue, job_id, execution_id)
  local key = 'rq:job:' .. job_id
  local f, is_too_large = read_fields(key, DESCRIBED)
  if refuse_broken(key, f) then return nil end
  if is_too_large then
    report('removed', key, 'it takes more than ' .. MAX_HASH_BYTES .. ' bytes')
    redis_call('UNLINK', key, 'sortline:image:' .. job_id)
    return nil
  end
  if not f[13] then return nil end
  if f[1] and #f[1] > MAX_DATA_BYTES then f[1] = false end
  local extras = ''
  for i = 2, 23 do
    local field = f[i]
    if field and field ~= '' then
      if #field > MAX_FIELD_BYTES then f[i] = string.sub(field, 1, MAX_FIELD_BYTES) end
      if i >= 6 and i <= 12 then extras = extras .. f[i] .. ' ' end
    end
  end
  return { queue, job_id, execution_id, f[1], f[2], f[3], f[4], f[5], extras, f[15], f[16], f[17], f[18], f[19], f[20],
    f[21] }, f[14], f[22], f[23]
end

-- Splits `<job>:<execution>`; nil for anything else. A job's id may contain colons itself.
local function split_composite(composite)
  return string.match(composite, '^(.*):([^:]*)$')
end

-- Whether a job is held by a worker that has set it apart, under another lease than that of this execution: such a job
-- has no list of executions. `set_apart` is the field of its hash.
local function is_set_apart(job_id, set_apart, but_execution_id)
  local queue, execution_id = split_composite(set_apart or '')
  if not queue or execution_id == but_execution_id then return false end
  local expires_s = redis_pcall('ZSCORE', 'rq:wip:' .. queue, job_id .. ':' .. execution_id)
  return expires_s and not is_broken(expires_s)
end

-- The jobs that an earlier run of this call has started, in the order of their start, in case its answer was lost; and
-- those that it has set apart. The ids of their executions begin with the call's id. Their leases are renewed.
local function started_by(call_id, worker, queues, lease_s)
  local key, found, apart = 'rq:worker:' .. worker .. ':executions', {}, {}
  local composites = redis_pcall('SMEMBERS', key)
  if is_broken(composites) then return found, apart end -- their leases will expire
  table.sort(composites, function(a, b) return string.sub(a, -8) < string.sub(b, -8) end)
  for _, queue in ipairs(queues) do
    local renewed = {}
    for _, composite in ipairs(is_usable(queue) and composites or {}) do
      local job_id, execution_id = split_composite(composite)
      local is_calls = job_id and string.sub(execution_id, 1, #call_id) == call_id
      if is_calls and redis_call('ZSCORE', 'rq:wip:' .. queue, composite) then
        local job, _, _, set_apart = describe(queue, job_id, execution_id)
        local list = set_apart == queue .. ':' .. execution_id and apart or found
        list[#list + 1] = job
        renewed[#renewed + 1] = composite
      end
    end
    register(queue, renewed, worker, lease_s, server_now_s() + lease_s)
  end
  return found, apart
end

-- Finishes a batch: per job RQ's status, Result and registries, our stream and the image, in one step,
-- and only where the lease is still held. A job whose lease ran out belongs to another worker now;
-- stock RQ would leave it in both `failed` and `finished`.
--
-- ARGV  worker, now_iso, now_s, stream_maxlen, default_result_ttl_s, then 11 for each job:
--       kind (success, failure, retry), queue, job_id, execution_id, started_s, result_ttl_s, failure_ttl_s,
--       line ('' for a job that isn't ours), sort_result (JSON), rq_payload (base64, as RQ stores it), meta (JSON)
-- Gives a list of 1 (finished) and 0 (lease lost), in order.
local worker, now_iso, now_s = ARGV[1], ARGV[2], ARGV[3]
local stream_maxlen, default_result_ttl_s = ARGV[4], tonumber(ARGV[5])
local DEFAULT_FAILURE_TTL_S = 31536000 -- RQ's own default: a year
local STREAM_TTL_S = 604800 -- as in shared/keys.py
local HEADER, FIELDS = 5, 11
local worker_key = 'rq:worker:' .. worker
local server_s = server_now_s()

local registries, lines, images = {}, {}, {} -- what is written once, after the jobs
local succeeded, failed, working_s = 0, 0, 0

-- As RQ's Job.cleanup and Result.save: below zero is forever.
local function expire(key, ttl_s)
  if ttl_s < 0 then redis.call('PERSIST', key) else redis.call('EXPIRE', key, ttl_s) end
end

-- `forever` is the score of a job without expiry: RQ's two registries differ in it.
local function add_to_registry(key, job_id, ttl_s, forever)
  local members = registries[key] or {}
  members[#members + 1] = ttl_s < 0 and forever or seconds(server_s + ttl_s)
  members[#members + 1] = job_id
  registries[key] = members
end

local function publish(line, sort_result)
  if line == '' then return end
  redis.call('XADD', 'sortline:results:' .. line, 'MAXLEN', '~', stream_maxlen, '*', 'result', sort_result)
  lines[line] = true
end

local function record_result(results_key, type, payload_name, payload, execution_id, started_s)
  redis.call('XADD', results_key, 'MAXLEN', '~', 10, '*', 'type', type, 'worker_name', worker,
    payload_name, payload, 'execution_id', execution_id, 'execution_started_at', started_s,
    'execution_ended_at', now_s)
end

local function succeed(queue, job_id, execution_id, started_s, result_ttl_s, payload)
  local job_key, results_key = 'rq:job:' .. job_id, 'rq:results:' .. job_id
  if result_ttl_s == 0 then
    redis.call('DEL', job_key, results_key)
    return
  end
  redis.call('HSET', job_key, 'status', 'finished', 'ended_at', now_iso, 'last_heartbeat', now_iso)
  record_result(results_key, 1, 'return_value', payload, execution_id, started_s)
  expire(results_key, result_ttl_s)
  expire(job_key, result_ttl_s)
  add_to_registry('rq:finished:' .. queue, job_id, result_ttl_s, '+inf')
end

local function fail(queue, job_id, execution_id, started_s, failure_ttl, payload, meta)
  local job_key, results_key = 'rq:job:' .. job_id, 'rq:results:' .. job_id
  local ttl_s = tonumber(failure_ttl) or DEFAULT_FAILURE_TTL_S
  redis.call('HSET', job_key, 'status', 'failed', 'ended_at', now_iso, 'last_heartbeat', now_iso)
  if meta ~= '' then redis.call('HSET', job_key, 'meta', meta) end
  record_result(results_key, 2, 'exc_string', payload, execution_id, started_s)
  if failure_ttl ~= '' then expire(results_key, ttl_s) end
  expire(job_key, ttl_s)
  add_to_registry('rq:failed:' .. queue, job_id, ttl_s, ttl_s)
end

local function retry(queue, job_id)
  redis.call('HINCRBY', 'rq:job:' .. job_id, 'retries_left', -1)
  redis.call('HSET', 'rq:job:' .. job_id, 'ended_at', now_iso, 'last_heartbeat', now_iso)
  requeue(queue, job_id, now_iso)
end

local function finish(i)
  local kind, queue, job_id, execution_id, started_s = ARGV[i], ARGV[i + 1], ARGV[i + 2], ARGV[i + 3], ARGV[i + 4]
  local result_ttl_s, failure_ttl = tonumber(ARGV[i + 5]) or default_result_ttl_s, ARGV[i + 6]
  local line, sort_result, payload, meta = ARGV[i + 7], ARGV[i + 8], ARGV[i + 9], ARGV[i + 10]
  working_s = working_s + tonumber(now_s) - tonumber(started_s)
  if kind == 'success' then
    succeed(queue, job_id, execution_id, started_s, result_ttl_s, payload)
    publish(line, sort_result)
    images[#images + 1] = 'sortline:image:' .. job_id
    succeeded = succeeded + 1
    return
  end
  failed = failed + 1 -- RQ counts a retried execution as failed
  if kind == 'retry' then
    retry(queue, job_id)
  else
    -- The image stays until it expires, so that `rq requeue` has something to sort.
    fail(queue, job_id, execution_id, started_s, failure_ttl, payload, meta)
    publish(line, sort_result)
  end
end

-- Which leases are still held, per queue.
local by_queue, places = {}, {}
for i = HEADER + 1, #ARGV, FIELDS do
  local queue = ARGV[i + 1]
  by_queue[queue] = by_queue[queue] or {}
  places[queue] = places[queue] or {}
  table.insert(by_queue[queue], { ARGV[i + 2], ARGV[i + 3] })
  table.insert(places[queue], i)
end
local held_at = {}
for queue, executions in pairs(by_queue) do
  for n, held in ipairs(end_executions(queue, executions, worker)) do
    held_at[places[queue][n]] = held
  end
end

local finished = {}
for i = HEADER + 1, #ARGV, FIELDS do
  if held_at[i] then finish(i) end
  finished[#finished + 1] = held_at[i] and 1 or 0
end

for key, members in pairs(registries) do
  redis.call('ZADD', key, unpack(members))
end
for line in pairs(lines) do
  redis.call('SADD', 'sortline:lines', line)
  redis.call('EXPIRE', 'sortline:results:' .. line, STREAM_TTL_S)
end
-- One line a batch is looked at, so that a name goes some time after its stream has expired.
local any_line = next(lines) and redis.call('SRANDMEMBER', 'sortline:lines')
if any_line then
  local ttl_s = redis.call('TTL', 'sortline:results:' .. any_line)
  if ttl_s == -2 then redis.call('SREM', 'sortline:lines', any_line) end
  -- Without expiry: written by a version that set none.
  if ttl_s == -1 then redis.call('EXPIRE', 'sortline:results:' .. any_line, STREAM_TTL_S) end
end
if #images > 0 then redis.call('UNLINK', unpack(images)) end
if succeeded > 0 then redis.call('HINCRBY', worker_key, 'successful_job_count', succeeded) end
if failed > 0 then redis.call('HINCRBY', worker_key, 'failed_job_count', failed) end
if succeeded + failed > 0 then
  redis.call('HINCRBYFLOAT', worker_key, 'total_working_time', seconds(working_s))
end
return finished

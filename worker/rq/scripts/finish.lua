-- Finishes a batch in one step: for each job RQ's status, Result and registries, our stream and the image, but only if
-- the lease is still held. A job whose lease has expired belongs to another worker now; RQ itself would leave it in
-- both `failed` and `finished`.
--
-- ARGV  call_id, is_repeat, worker, now_iso, now_s, stream_maxlen, then 14 for each job:
--       disposition (success, failure, retry), queue, job_id, execution_id, started_s, result_ttl_s, failure_ttl_s,
--       line ('' for a job that isn't Sortline's), sort_result (JSON), rq_payload (base64, as RQ has it), meta (JSON),
--       keeps_image ('', or 1: a job that succeeds leaves its image on the server, for its worker to read),
--       counted_line, counted_bytes (how the job counts in the load of its queue; '' if it was not counted)
--       is_repeat (0, 1): this call may have run before, and its answer was lost
-- Returns { answers, problems }. One character for each job, in order: 1 finished, 0 lease lost, 2 could not be
-- written: then its lease will expire.
local call_id, is_repeat, worker, now_iso, now_s = ARGV[1], ARGV[2] == '1', ARGV[3], ARGV[4], ARGV[5]
local stream_maxlen = ARGV[6]
local STREAM_TTL_S = 604800 -- as in shared/keys.py
local KEPT_IMAGE_S = 300 -- as in shared/keys.py
local HEADER, FIELDS = 6, 14
local FINISHED, LOST, UNWRITTEN = '1', '0', '2'
local worker_key = 'rq:worker:' .. worker
local server_s = server_now_s()

-- The worker's hash keeps the answer of its last call, in case the answer doesn't arrive. The leases don't show what
-- happened: they are gone both after a finish and after a loss.
if is_repeat then
  local last = redis_pcall('HGET', worker_key, 'sortline_last_finish')
  local head = call_id .. ':'
  if type(last) == 'string' and string.sub(last, 1, #head) == head
    and #last - #head == (#ARGV - HEADER) / FIELDS then
    return { string.sub(last, #head + 1), problems }
  end
end

local registries, lines, images, kept_images = {}, {}, {}, {} -- these are written once, after the jobs
local succeeded, failed, working_s = 0, 0, 0

local function add_to_registry(key, job_id, ttl_s)
  local members = registries[key] or {}
  members[#members + 1] = seconds(server_s + ttl_s)
  members[#members + 1] = job_id
  registries[key] = members
end

local function publish(line, sort_result)
  if line == '' then return end
  local key = 'sortline:results:' .. line
  if move_broken(key, redis_pcall('XADD', key, 'MAXLEN', '~', stream_maxlen, '*', 'result', sort_result)) then
    return publish(line, sort_result)
  end
  lines[line] = true
end

local function record_result(results_key, type, payload_name, payload, execution_id, started_s)
  local added = redis_pcall('XADD', results_key, 'MAXLEN', '~', 10, '*', 'type', type, 'worker_name', worker,
    payload_name, payload, 'execution_id', execution_id, 'execution_started_at', started_s,
    'execution_ended_at', now_s)
  if replace_broken(results_key, added) then
    record_result(results_key, type, payload_name, payload, execution_id, started_s)
  end
end

-- False if the job's key is no hash (any more): the key is left alone, and the SortResult is published nevertheless.
local function end_job(job_key, status)
  local set = redis_pcall('HSET', job_key, 'status', status, 'ended_at', now_iso, 'last_heartbeat', now_iso)
  return not refuse_broken(job_key, set)
end

local function succeed(queue, job_id, execution_id, started_s, result_ttl_s, payload)
  local job_key, results_key = 'rq:job:' .. job_id, 'rq:results:' .. job_id
  if not end_job(job_key, 'finished') then return end
  if result_ttl_s == 0 then
    redis_call('DEL', job_key, results_key)
    return
  end
  record_result(results_key, 1, 'return_value', payload, execution_id, started_s)
  redis_call('EXPIRE', results_key, result_ttl_s)
  redis_call('EXPIRE', job_key, result_ttl_s)
  add_to_registry('rq:finished:' .. queue, job_id, result_ttl_s)
end

local function fail(queue, job_id, execution_id, started_s, failure_ttl_s, payload, meta)
  local job_key, results_key = 'rq:job:' .. job_id, 'rq:results:' .. job_id
  if not end_job(job_key, 'failed') then return end
  if meta ~= '' then redis_call('HSET', job_key, 'meta', meta) end
  -- The result says what is known of the deaths of this job's workers. After `rq requeue` it starts as a new job.
  -- Nor is it counted any more in the load of its queue.
  redis_call('HDEL', job_key, 'sortline_crashes', 'sortline_losses', 'sortline_suspect', 'sortline_bytes')
  record_result(results_key, 2, 'exc_string', payload, execution_id, started_s)
  redis_call('EXPIRE', results_key, failure_ttl_s)
  redis_call('EXPIRE', job_key, failure_ttl_s)
  add_to_registry('rq:failed:' .. queue, job_id, failure_ttl_s)
end

local function retry(queue, job_id)
  local job_key = 'rq:job:' .. job_id
  local fields = read_fields(job_key, { 'retries_left' })
  if refuse_broken(job_key, fields) then return end
  redis_call('HSET', job_key, 'retries_left', math.max(0, whole_number(fields[1], MAX_RETRIES) - 1),
    'ended_at', now_iso, 'last_heartbeat', now_iso)
  requeue(queue, job_id, now_iso)
end

-- What the ended jobs have counted in the loads of their queues: by key and field (see shared/server/functions/admission.lua).
local loads = {}
local function count_ended(queue, line, size)
  local bytes = tonumber(size)
  if not bytes then return end
  local key = 'sortline:load:' .. queue
  local load = loads[key] or {}
  for field, amount in pairs({ items = 1, bytes = bytes, ['items:' .. line] = 1, ['bytes:' .. line] = bytes }) do
    load[field] = (load[field] or 0) + amount
  end
  loads[key] = load
end

-- The shared keys come last, so that a failure before them leaves traces only in the job's own keys.
local function finish(i)
  local disposition, queue, job_id, execution_id = ARGV[i], ARGV[i + 1], ARGV[i + 2], ARGV[i + 3]
  local started_s = ARGV[i + 4]
  local result_ttl_s, failure_ttl_s = tonumber(ARGV[i + 5]), tonumber(ARGV[i + 6])
  local line, sort_result, payload, meta = ARGV[i + 7], ARGV[i + 8], ARGV[i + 9], ARGV[i + 10]
  local keeps_image = ARGV[i + 11] == '1'
  if disposition == 'success' then
    succeed(queue, job_id, execution_id, started_s, result_ttl_s, payload)
    publish(line, sort_result)
    local image = 'sortline:image:' .. job_id
    if keeps_image then
      kept_images[image] = 'sortline:kept-image:' .. job_id .. ':' .. execution_id
    else
      images[#images + 1] = image
    end
    succeeded = succeeded + 1
  else
    if disposition == 'retry' then
      retry(queue, job_id)
    else
      -- The image stays until it expires, so that `rq requeue` has an image to sort.
      fail(queue, job_id, execution_id, started_s, failure_ttl_s, payload, meta)
      publish(line, sort_result)
    end
    failed = failed + 1 -- RQ counts a retried execution as failed
  end
  working_s = working_s + tonumber(now_s) - tonumber(started_s)
  if disposition ~= 'retry' then count_ended(queue, ARGV[i + 12], ARGV[i + 13]) end
end

-- A job that can't be put back, or that can't be written for an unforeseen reason, keeps its lease until the lease
-- expires. Then it goes back to its queue. If a permission is missing and no job is finished yet, the script raises,
-- and the worker tries again. Once a job is finished it must not raise: the worker would publish that job twice.
local is_any_finished = false
local function finish_alone(i)
  if ARGV[i] == 'retry' and not is_usable(ARGV[i + 1]) then return UNWRITTEN end
  local went_well, message = pcall(finish, i)
  if went_well then
    is_any_finished = true
    return FINISHED
  end
  if is_forbidden(message) and not is_any_finished then error(message, 0) end
  report('unwritten', 'rq:job:' .. ARGV[i + 2], text_of(message))
  return UNWRITTEN
end

-- Which leases are still held, per queue.
local by_queue, positions = {}, {}
for i = HEADER + 1, #ARGV, FIELDS do
  local queue = ARGV[i + 1]
  by_queue[queue] = by_queue[queue] or {}
  positions[queue] = positions[queue] or {}
  table.insert(by_queue[queue], { ARGV[i + 2], ARGV[i + 3] })
  table.insert(positions[queue], i)
end
local held_at = {} -- by position: the execution, if it is held
for queue, executions in pairs(by_queue) do
  for n, held in ipairs(held_executions(queue, executions)) do
    held_at[positions[queue][n]] = held and executions[n]
  end
end

local answers, finished = {}, {}
for i = HEADER + 1, #ARGV, FIELDS do
  local queue, answer = ARGV[i + 1], held_at[i] and finish_alone(i) or LOST
  answers[#answers + 1] = answer
  if answer == FINISHED then
    finished[queue] = finished[queue] or {}
    table.insert(finished[queue], held_at[i])
  end
end

-- Runs a function that writes to `key`. If it fails, that is reported, and the script goes on.
local function attempt(key, run, ...)
  local went_well, message = pcall(run, ...)
  if not went_well then report('unwritten', key, text_of(message)) end
end

-- The results are published. From here on nothing may keep the answer from the worker, or the worker would write them
-- again. A lease that can't be ended expires, and is then removed as the lease of a job that has ended.
for queue, executions in pairs(finished) do
  attempt('rq:wip:' .. queue, close_executions, queue, executions, worker)
end
local function add_to_shared(command, key, members)
  if move_broken(key, redis_pcall(command, key, unpack(members))) then redis_call(command, key, unpack(members)) end
end
for key, members in pairs(registries) do
  attempt(key, add_to_shared, 'ZADD', key, members)
end
for line in pairs(lines) do
  attempt('sortline:lines', add_to_shared, 'SADD', 'sortline:lines', { line })
  attempt('sortline:results:' .. line, redis_call, 'EXPIRE', 'sortline:results:' .. line, STREAM_TTL_S)
end
-- Each batch checks one line, so that a line's name is removed some time after its stream has expired.
local function tidy_lines()
  local line = redis_call('SRANDMEMBER', 'sortline:lines')
  local ttl_s = line and redis_call('TTL', 'sortline:results:' .. line)
  if ttl_s == -2 then redis_call('SREM', 'sortline:lines', line) end
  -- An older release has written it, which set no expiry.
  if ttl_s == -1 then redis_call('EXPIRE', 'sortline:results:' .. line, STREAM_TTL_S) end
end
if next(lines) then attempt('sortline:lines', tidy_lines) end
if #images > 0 then attempt(images[1], redis_call, 'UNLINK', unpack(images)) end
local function keep(image, kept_image)
  if redis_call('EXISTS', image) == 0 then return end
  local answer = redis_pcall('RENAME', image, kept_image)
  if answer.err then
    redis_call('UNLINK', image)
    error(answer)
  end
  redis_call('EXPIRE', kept_image, KEPT_IMAGE_S)
end
for image, kept_image in pairs(kept_images) do attempt(image, keep, image, kept_image) end

-- Counts that can't be right are deleted: then counting starts again.
local function subtract(key, load)
  for field, amount in pairs(load) do
    local left = redis_pcall('HINCRBY', key, field, string.format('%.0f', -amount))
    if type(left) == 'table' or (field == 'items' and left <= 0) then
      redis_call('UNLINK', key)
      return
    end
    if left <= 0 then redis_call('HDEL', key, field) end
  end
end
for key, load in pairs(loads) do attempt(key, subtract, key, load) end

local function count_in_worker()
  local last = call_id .. ':' .. table.concat(answers)
  if replace_broken(worker_key, redis_pcall('HSET', worker_key, 'sortline_last_finish', last)) then
    redis_call('HSET', worker_key, 'sortline_last_finish', last)
  end
  if succeeded > 0 then redis_call('HINCRBY', worker_key, 'successful_job_count', succeeded) end
  if failed > 0 then redis_call('HINCRBY', worker_key, 'failed_job_count', failed) end
  redis_call('HINCRBYFLOAT', worker_key, 'total_working_time', seconds(working_s))
  -- A hash that nobody has registered, or that a dead worker's last call has created again, must not stay forever.
  if redis_call('TTL', worker_key) == -1 then redis_call('EXPIRE', worker_key, 120) end
end
if succeeded + failed > 0 then attempt(worker_key, count_in_worker) end
return { table.concat(answers), problems }

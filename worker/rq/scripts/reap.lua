-- Takes back the jobs of dead workers: of executions whose leases have expired, and of workers that the caller knows to
-- be gone. A death uses up no attempt: the job goes to the front of its queue. It goes to the suspects instead, which
-- workers claim alone, if its worker was seen to crash, or if it was lost with several workers for unknown reasons.
--
-- A job that has crashed its worker MAX_CRASHES times while nothing else was in hand, or was lost max_losses times, is
-- claimed by the caller, who must answer it as failed. So is a job that RQ's own clean-up has failed meanwhile: that
-- clean-up, which even `rq info` runs, writes no SortResult.
--
-- ARGV  call_id, is_repeat, worker, now_iso, now_s, lease_s, limit, max_losses, scope, process, gone_count,
--       forgotten_count, then for each gone worker its name and how it crashed, forgotten worker…, queue…
--       call_id: 24 hex digits, the beginning of the executions' ids; is_repeat (0, 1): this call may have run before
--       scope, process: of worker/rq/processes.py; both '' if the caller can't check processes
--       how it crashed: a few words, or '' if nobody saw it crash
-- Returns { requeued, { job to be answered as failed… }, problems, { gone worker, jobs taken back… },
--       { worker, process… }, refusal }. A job has the fields of describe() in common.lua. The processes are those of
--       the scope that serve one of the queues; refusal is '', or says why they could not be asked for.
local call_id, is_repeat, worker, now_iso, now_s = ARGV[1], ARGV[2] == '1', ARGV[3], ARGV[4], ARGV[5]
local lease_s, limit, max_losses, scope, process =
  tonumber(ARGV[6]), tonumber(ARGV[7]), tonumber(ARGV[8]), ARGV[9], ARGV[10]
local FIRST_GONE = 13
local FIRST_FORGOTTEN = FIRST_GONE + 2 * tonumber(ARGV[11])
local FIRST_QUEUE = FIRST_FORGOTTEN + tonumber(ARGV[12])
local MAX_CRASHES = 3 -- as in shared/jobs.py
local SUSPECT_FROM_LOSS = 3
local MAX_COUNT = 1000 -- MAX_LOSSES of shared/jobs.py
-- A host has fewer worker processes than this.
local MAX_PROCESSES = 1000
-- No worker writes a longer entry. Others are deleted: a thousand of them could fill the memory of every worker.
local MAX_PROCESS_BYTES = 1000
local PROCESSES_KEPT_S = 86400
-- The most leases that are searched for jobs of workers that are gone: this takes up to 30 ms. Jobs under other leases
-- are taken back when these expire.
local MAX_LEASES = 10000
local requeued, given_up = 0, {}

-- Tells the other workers on this host which process this one is, and reads which ones they are.
local processes = {}
local function exchange_processes(queue)
  local key = 'sortline:processes:' .. scope .. ':' .. queue
  local own = redis_pcall('HGET', key, worker)
  if replace_broken(key, own) or own ~= process then redis_call('HSET', key, worker, process) end
  for f = FIRST_FORGOTTEN, FIRST_QUEUE - 1 do redis_call('HDEL', key, ARGV[f]) end
  if redis_call('HLEN', key) > MAX_PROCESSES then
    report('replaced', key, 'it has more than ' .. MAX_PROCESSES .. ' fields')
    redis_call('UNLINK', key) -- the next steps of the workers that live write it again
    return
  end
  if redis_call('TTL', key) < PROCESSES_KEPT_S / 2 then redis_call('EXPIRE', key, PROCESSES_KEPT_S) end
  local entries = redis_call('HGETALL', key)
  for e = 1, #entries, 2 do
    if #entries[e] + #entries[e + 1] > MAX_PROCESS_BYTES then
      redis_call('HDEL', key, entries[e])
    else
      processes[#processes + 1] = entries[e]
      processes[#processes + 1] = entries[e + 1]
    end
  end
end

-- If this fails, dead workers are still noticed by their expired leases.
local function exchange_all_processes()
  if scope == '' then return '' end
  for q = FIRST_QUEUE, #ARGV do
    local went_well, message = pcall(exchange_processes, ARGV[q])
    if not went_well then return text_of(message) end
  end
  return ''
end
local refusal = exchange_all_processes()

if is_repeat then
  local jobs = started_by(call_id, worker, { unpack(ARGV, FIRST_QUEUE) }, lease_s)
  if #jobs > 0 then return { 0, jobs, problems, {}, processes, refusal } end
end

-- Claims a job that is not tried again. Its key is a hash.
local function take(queue, job_id)
  local execution_id = call_id .. string.format('%08x', #given_up)
  local expires_s = server_now_s() + lease_s
  open_execution(job_id, execution_id, worker, now_iso, now_s, lease_s, expires_s)
  register(queue, { job_id .. ':' .. execution_id }, worker, lease_s, expires_s)
  given_up[#given_up + 1] = { queue, job_id, execution_id }
end

-- The answer of a read, or nil if the key doesn't hold what it should.
local function read(...)
  local answer = redis_pcall(...)
  if not is_broken(answer) then return answer end
end

-- For each worker that is gone: how it crashed ('' if nobody saw it crash), how many jobs it held when this step began,
-- and how many of them were taken back.
local crash_of, held_by, taken = {}, {}, {}
for g = FIRST_GONE, FIRST_FORGOTTEN - 1, 2 do
  crash_of[ARGV[g]], held_by[ARGV[g]], taken[ARGV[g]] = ARGV[g + 1], 0, 0
end

-- A job's crashes, losses and suspicion after one more death of its worker, `owner`. The death counts as a crash only
-- if the worker was seen to crash and held no other job.
local function after_death(crashes, losses, suspect, owner)
  local crash = crash_of[owner] or ''
  if crash ~= '' and held_by[owner] == 1 then crashes = crashes + 1 else losses = losses + 1 end
  if crash ~= '' then
    suspect = crash
  elseif not suspect and losses >= SUSPECT_FROM_LOSS then
    suspect = 'lost'
  end
  return crashes, losses, suspect
end

-- Whether a worker holds the job under another lease, in any queue. Workers never start a job twice. But anybody can
-- write a lease that has expired, and a job that is given away while it is held would get two results.
local function is_held(job_id, lost_execution_id)
  local now = server_now_s()
  for _, execution_id in ipairs(read('ZRANGE', 'rq:executions:' .. job_id, 0, -1) or {}) do
    for q = FIRST_QUEUE, #ARGV do
      local expires_s = read('ZSCORE', 'rq:wip:' .. ARGV[q], job_id .. ':' .. execution_id)
      if execution_id ~= lost_execution_id and expires_s and tonumber(expires_s) > now then return true end
    end
  end
  return false
end

-- Puts a job where it goes next, then ends its old lease, and then writes its new state. If this fails halfway, e.g.
-- for lack of a permission, the job still has a lease or is in a list. Claims skip a listed job that is still started.
local function move_on(queue, job_id, execution_id, owner, fields)
  local job_key = 'rq:job:' .. job_id
  local crashes, losses, suspect = after_death(
    whole_number(fields[1], MAX_COUNT), whole_number(fields[2], MAX_COUNT), fields[3], owner)
  -- `lost` is the execution id under which sweep.lua registers a job that is not to be tried again.
  local is_given_up = crashes >= MAX_CRASHES or losses >= max_losses or execution_id == 'lost'
  if suspect then redis_call('HSET', job_key, 'sortline_suspect', suspect) end
  if is_given_up then take(queue, job_id) else enlist(queue, job_id, suspect) end
  close_executions(queue, { { job_id, execution_id } }, owner)
  redis_call('HSET', job_key, 'sortline_crashes', crashes, 'sortline_losses', losses)
  if is_given_up then return end
  redis_call('HSET', job_key, 'status', 'queued', 'enqueued_at', now_iso)
  -- A worker of the previous release does not look for a job among the suspects. If one waits there for long, that
  -- worker takes it for lost and puts it into RQ's list. Without this HDEL it would fail the job the next time.
  if suspect then redis_call('HDEL', job_key, 'sortline_recovered') end
  requeued = requeued + 1
end

-- Takes one job back. Its old lease is removed whatever becomes of the job: otherwise each run would find it again,
-- forever. Returns true if the job is tried again or must be answered.
local function take_back(queue, composite)
  local job_id, execution_id = split_composite(composite)
  if not job_id then -- RQ before 2.0 registered jobs without an execution
    redis_call('ZREM', 'rq:wip:' .. queue, composite)
    return false
  end
  local job_key = 'rq:job:' .. job_id
  local job = read_fields(job_key, { 'status', 'worker_name', 'sortline_crashes', 'sortline_losses',
    'sortline_suspect', 'sortline_set_apart' })
  local is_job = not refuse_broken(job_key, job)
  local owner = read('HGET', 'rq:execution:' .. composite, 'worker_name') or job[2] or ''
  -- With any other status than `started` the lease is a leftover of a job that has ended otherwise.
  if not is_job or job[1] ~= 'started' or is_held(job_id, execution_id)
    or is_set_apart(job_id, job[6], execution_id) then
    close_executions(queue, { { job_id, execution_id } }, owner)
    return false
  end
  move_on(queue, job_id, execution_id, owner, { job[3], job[4], job[5] })
  return true
end

-- The jobs of workers that are gone, by queue. They are found by the jobs under a lease and the workers that these jobs
-- name. A worker's own list of executions may be missing: RQ deletes it when it unregisters the worker.
local held_in = {}
local function find_held_by_the_gone(queue)
  held_in[queue] = {}
  if not next(taken) then return end
  for _, composite in ipairs(redis_call('ZRANGE', 'rq:wip:' .. queue, 0, MAX_LEASES - 1)) do
    local job_id = split_composite(composite)
    local fields = job_id and read_fields('rq:job:' .. job_id, { 'worker_name' }) or {}
    local owner = not is_broken(fields) and fields[1]
    if taken[owner] then
      held_by[owner] = held_by[owner] + 1
      table.insert(held_in[queue], { composite, owner })
    end
  end
end

-- All jobs of a worker that crashed go back in one step, whatever the limit: otherwise a later step might find a single
-- job left and take it for the cause.
local function take_back_from_the_gone(queue)
  local found, unexplained = {}, 0
  for _, held in ipairs(held_in[queue]) do
    local is_explained = crash_of[held[2]] ~= ''
    if is_explained or unexplained < limit then found[#found + 1] = held end
    if not is_explained then unexplained = unexplained + 1 end
  end
  for i = #found, 1, -1 do
    local composite, owner = unpack(found[i])
    if take_back(queue, composite) then taken[owner] = taken[owner] + 1 end
  end
end

-- Whether RQ's clean-up has failed the job. Any worker writes its name into a failure, and ours also leaves a
-- SortResult in `meta`. RQ's clean-up does neither.
local function failed_by_clean_up(job_id)
  local fields = read_fields('rq:job:' .. job_id, { 'created_at', 'meta' })
  if is_broken(fields) or not fields[1] or fields[2] then return false end
  local last = (read('XREVRANGE', 'rq:results:' .. job_id, '+', '-', 'COUNT', 1) or {})[1]
  if not last then return false end
  for i = 1, #last[2], 2 do
    if last[2][i] == 'worker_name' then return last[2][i + 1] == '' end
  end
  return false
end

for q = FIRST_QUEUE, #ARGV do
  if is_usable(ARGV[q]) then find_held_by_the_gone(ARGV[q]) end
end
for q = FIRST_QUEUE, #ARGV do
  local queue = ARGV[q]
  if is_usable(queue) then
    take_back_from_the_gone(queue)
    local now = seconds(server_now_s())
    local expired = redis_call('ZRANGEBYSCORE', 'rq:wip:' .. queue, '-inf', now, 'LIMIT', 0, limit)
    for i = #expired, 1, -1 do
      take_back(queue, expired[i])
    end
    -- The latest failures have the highest scores. The next failure moves a broken registry aside.
    for _, job_id in ipairs(read('ZREVRANGE', 'rq:failed:' .. queue, 0, limit - 1) or {}) do
      if failed_by_clean_up(job_id) then
        redis_call('ZREM', 'rq:failed:' .. queue, job_id)
        take(queue, job_id)
      end
    end
  end
end

local jobs = {}
for _, each in ipairs(given_up) do
  jobs[#jobs + 1] = describe(unpack(each))
end
local taken_from = {}
for gone, count in pairs(taken) do
  taken_from[#taken_from + 1] = gone
  taken_from[#taken_from + 1] = count
end
return { requeued, jobs, problems, taken_from, processes, refusal }

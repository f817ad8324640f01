-- Takes back what dead workers held: executions whose lease ran out. A job with attempts left goes to the
-- front of its queue; one without is claimed by the caller, who must answer it as failed. So is one that RQ's own
-- clean-up has failed meanwhile: that knows no SortResult, and even `rq info` runs it.
--
-- ARGV  call_id, is_repeat, worker, now_iso, now_s, lease_s, limit, queue…
--       call_id: 24 hex digits, the beginning of the executions' ids; is_repeat (0, 1): this call may have run before
-- Gives { requeued, { exhausted job… }, problems }, a job as describe() in common.lua has it.
local call_id, is_repeat, worker, now_iso, now_s = ARGV[1], ARGV[2] == '1', ARGV[3], ARGV[4], ARGV[5]
local lease_s, limit = tonumber(ARGV[6]), tonumber(ARGV[7])
local FIRST_QUEUE = 8
local requeued, exhausted = 0, {}

if is_repeat then
  local jobs = started_by(call_id, worker, { unpack(ARGV, FIRST_QUEUE) }, lease_s)
  if #jobs > 0 then return { 0, jobs, problems } end
end

-- The job's key is a hash.
local function take(queue, job_id)
  local execution_id = call_id .. string.format('%08x', #exhausted)
  local expires_s = server_now_s() + lease_s
  open_execution(job_id, execution_id, worker, now_iso, now_s, lease_s, expires_s)
  register(queue, { job_id .. ':' .. execution_id }, worker, lease_s, expires_s)
  exhausted[#exhausted + 1] = describe(queue, job_id, execution_id)
end

-- The answer of a read, or nil where the key doesn't hold what it should.
local function read(...)
  local answer = redis_pcall(...)
  if not is_broken(answer) then return answer end
end

local function give_again(queue, job_id, retries_left)
  if retries_left == 0 then
    take(queue, job_id)
    return
  end
  redis_call('HSET', 'rq:job:' .. job_id, 'retries_left', retries_left - 1)
  requeue(queue, job_id, now_iso)
  requeued = requeued + 1
end

-- Whether somebody works on the job under another lease, in whatever queue. Workers start a job once. But anybody can
-- write a lease that has run out, and a job that is given away while it is held would have two results.
local function is_held(job_id)
  local now = server_now_s()
  for _, execution_id in ipairs(read('ZRANGE', 'rq:executions:' .. job_id, 0, -1) or {}) do
    for q = FIRST_QUEUE, #ARGV do
      local expires_s = read('ZSCORE', 'rq:wip:' .. ARGV[q], job_id .. ':' .. execution_id)
      if expires_s and tonumber(expires_s) > now then return true end
    end
  end
  return false
end

-- Whatever becomes of the job, its old lease goes: otherwise each run would find it again, for ever.
local function take_back(queue, composite)
  local job_id, execution_id = split_composite(composite)
  if not job_id then -- RQ before 2.0 registered jobs without an execution
    redis_call('ZREM', 'rq:wip:' .. queue, composite)
    return
  end
  local job_key = 'rq:job:' .. job_id
  local job = redis_pcall('HMGET', job_key, 'status', 'retries_left', 'worker_name')
  local is_job = not refuse_broken(job_key, job)
  local owner = read('HGET', 'rq:execution:' .. composite, 'worker_name') or job[3] or ''
  close_executions(queue, { { job_id, execution_id } }, owner)
  -- Any status but `started` is a leftover of a job that ended otherwise.
  if is_job and job[1] == 'started' and not is_held(job_id) then give_again(queue, job_id, retries_in(job[2])) end
end

-- Whoever works on a job signs the failure with its name, and we leave a SortResult in `meta`; RQ's clean-up
-- does neither.
local function failed_by_clean_up(job_id)
  local created_at, meta = unpack(read('HMGET', 'rq:job:' .. job_id, 'created_at', 'meta') or { false, false })
  if not created_at or meta then return false end
  local last = (read('XREVRANGE', 'rq:results:' .. job_id, '+', '-', 'COUNT', 1) or {})[1]
  if not last then return false end
  for i = 1, #last[2], 2 do
    if last[2][i] == 'worker_name' then return last[2][i + 1] == '' end
  end
  return false
end

for q = FIRST_QUEUE, #ARGV do
  local queue = ARGV[q]
  if is_usable(queue) then
    local now = seconds(server_now_s())
    local expired = redis_call('ZRANGEBYSCORE', 'rq:wip:' .. queue, '-inf', now, 'LIMIT', 0, limit)
    for i = #expired, 1, -1 do
      take_back(queue, expired[i])
    end
    -- The latest failures have the highest scores. A registry that is broken is moved aside by the next failure.
    for _, job_id in ipairs(read('ZREVRANGE', 'rq:failed:' .. queue, 0, limit - 1) or {}) do
      if failed_by_clean_up(job_id) then
        redis_call('ZREM', 'rq:failed:' .. queue, job_id)
        take(queue, job_id)
      end
    end
  end
end
return { requeued, exhausted, problems }

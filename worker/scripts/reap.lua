-- Takes back what dead workers held: executions whose lease ran out. A job with attempts left goes to the
-- front of its queue; one without is claimed by the caller, who must answer it as failed. So is one that RQ's own
-- clean-up has failed meanwhile: that knows no SortResult, and even `rq info` runs it.
--
-- ARGV  worker, now_iso, now_s, lease_s, execution_base, limit, queue…
-- Gives { requeued, { exhausted job… } }, a job as describe() in common.lua has it.
local worker, now_iso, now_s, lease_s = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4])
local base, limit = ARGV[5], tonumber(ARGV[6])
local requeued, exhausted = 0, {}

local function take(queue, job_id)
  local execution_id = base .. string.format('%08x', #exhausted)
  local expires_s = server_now_s() + lease_s
  open_execution(job_id, execution_id, worker, now_iso, now_s, lease_s, expires_s)
  register(queue, { job_id .. ':' .. execution_id }, worker, lease_s, expires_s)
  exhausted[#exhausted + 1] = describe(queue, job_id, execution_id)
end

-- Whoever works on a job signs the failure with its name, and we leave a SortResult in `meta`; RQ's clean-up
-- does neither.
local function failed_by_clean_up(job_id)
  if redis.call('HEXISTS', 'rq:job:' .. job_id, 'meta') == 1 then return false end
  local last = redis.call('XREVRANGE', 'rq:results:' .. job_id, '+', '-', 'COUNT', 1)[1]
  if not last then return false end
  for i = 1, #last[2], 2 do
    if last[2][i] == 'worker_name' then return last[2][i + 1] == '' end
  end
  return false
end

for q = 7, #ARGV do
  local queue = ARGV[q]
  local expired = redis.call('ZRANGEBYSCORE', 'rq:wip:' .. queue, '-inf', seconds(server_now_s()), 'LIMIT', 0, limit)
  for i = #expired, 1, -1 do
    local job_id, execution_id = string.match(expired[i], '^(.*):([^:]*)$')
    if job_id then
      local owner = redis.call('HGET', 'rq:execution:' .. expired[i], 'worker_name') or ''
      end_executions(queue, { { job_id, execution_id } }, owner)
    else -- RQ before 2.0 registered jobs without an execution
      redis.call('ZREM', 'rq:wip:' .. queue, expired[i])
    end
    -- Any status but `started` is a leftover of a job that ended otherwise.
    if job_id and redis.call('HGET', 'rq:job:' .. job_id, 'status') == 'started' then
      local retries_left = tonumber(redis.call('HGET', 'rq:job:' .. job_id, 'retries_left') or '0') or 0
      if retries_left > 0 then
        redis.call('HSET', 'rq:job:' .. job_id, 'retries_left', retries_left - 1)
        requeue(queue, job_id, now_iso)
        requeued = requeued + 1
      else
        take(queue, job_id)
      end
    end
  end
  -- The latest failures have the highest scores.
  for _, job_id in ipairs(redis.call('ZREVRANGE', 'rq:failed:' .. queue, 0, limit - 1)) do
    if failed_by_clean_up(job_id) and redis.call('EXISTS', 'rq:job:' .. job_id) == 1 then
      redis.call('ZREM', 'rq:failed:' .. queue, job_id)
      take(queue, job_id)
    end
  end
end
return { requeued, exhausted }

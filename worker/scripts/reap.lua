-- Takes back what dead workers held: executions whose lease ran out. A job with attempts left goes to the
-- front of its queue; one without is claimed by the caller, who must answer it as failed. (RQ's own clean-up
-- would fail it without a SortResult, ten minutes later.)
--
-- ARGV  worker, now_iso, now_s, lease_s, execution_base, limit, queue…
-- Gives { requeued, { exhausted job… } }, a job as describe() in common.lua has it.
local worker, now_iso, now_s, lease_s = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4])
local base, limit = ARGV[5], tonumber(ARGV[6])
local requeued, exhausted = 0, {}
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
        local new_id = base .. string.format('%08x', #exhausted)
        local expires_s = server_now_s() + lease_s
        open_execution(job_id, new_id, worker, now_iso, now_s, lease_s, expires_s)
        register(queue, { job_id .. ':' .. new_id }, worker, lease_s, expires_s)
        exhausted[#exhausted + 1] = describe(queue, job_id, new_id)
      end
    end
  end
end
return { requeued, exhausted }

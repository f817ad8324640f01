-- Takes up to max_jobs jobs off the queues, most urgent queue first, and starts an execution for each,
-- in one step: a worker that dies right after it leaves leases behind, never a job that is nowhere.
-- (RQ pops first and registers later, which loses the job of a worker killed in between: rq#1716.)
--
-- ARGV  max_jobs, max_bytes, worker, now_iso, now_s, lease_s, execution_base, queue…
-- Gives { suspended, { job… } }, a job as describe() in common.lua has it.
local max_jobs, max_bytes = tonumber(ARGV[1]), tonumber(ARGV[2])
local worker, now_iso, now_s, lease_s, base = ARGV[3], ARGV[4], ARGV[5], tonumber(ARGV[6]), ARGV[7]

if redis.call('EXISTS', 'rq:suspended') == 1 then
  return { 1, {} }
end

local jobs, bytes = {}, 0
for q = 8, #ARGV do
  local queue = ARGV[q]
  local list = 'rq:queue:' .. queue
  -- One by one: the bound on bytes is known only after each image.
  while #jobs < max_jobs and bytes < max_bytes do
    local job_id = redis.call('LPOP', list)
    if not job_id then break end
    -- A job deleted while it was queued leaves its id in the list; RQ skips these as well.
    if redis.call('EXISTS', 'rq:job:' .. job_id) == 1 then
      local execution_id = base .. string.format('%08x', #jobs)
      start_execution(queue, job_id, execution_id, worker, now_iso, now_s, lease_s)
      local job = describe(queue, job_id, execution_id)
      jobs[#jobs + 1] = job
      bytes = bytes + (job[5] and #job[5] or 0)
    end
  end
  -- The bell says "there may be work": silent when there is none, one token while there is.
  local bell = 'sortline:bell:' .. queue
  if redis.call('LLEN', list) == 0 then
    redis.call('DEL', bell)
  elseif redis.call('LLEN', bell) == 0 then
    redis.call('LPUSH', bell, '1')
  end
end
if #jobs > 0 then
  redis.call('EXPIRE', 'rq:worker:' .. worker .. ':executions', lease_s + 60)
end
return { 0, jobs }

-- Takes up to max_jobs jobs off the queues, most urgent queue first, and starts an execution for each,
-- in one step: a worker that dies right after it leaves leases behind, never a job that is nowhere.
-- (RQ pops first and registers later, which loses the job of a worker killed in between: rq#1716.)
-- The images are the worker's to fetch, with one MGET: max_bytes bounds what that will bring, and the length of each,
-- which a job here has at its end, tells the worker what not to fetch.
--
-- ARGV  max_jobs, max_bytes, worker, now_iso, now_s, lease_s, execution_base, queue…
-- Gives { suspended, { job… } }, a job as describe() in common.lua has it, and the length of its image.
local max_jobs, max_bytes = tonumber(ARGV[1]), tonumber(ARGV[2])
local worker, now_iso, now_s, lease_s, base = ARGV[3], ARGV[4], ARGV[5], tonumber(ARGV[6]), ARGV[7]

if redis.call('EXISTS', 'rq:suspended') == 1 then
  return { 1, {} }
end

local jobs, bytes = {}, 0
local expires_s = server_now_s() + lease_s

-- False for the second entry of a job that is in the list twice: RQ's clean-up and ours may both have put an
-- abandoned job back. To run it again would give it a second result.
local function waits(job_id, status)
  if status == 'started' then return redis.call('EXISTS', 'rq:executions:' .. job_id) == 0 end
  return status ~= 'finished' and status ~= 'failed'
end

-- 0 for an image that is gone, or a key that is none: the worker will find neither.
local function image_bytes(job_id)
  local size = redis.pcall('STRLEN', 'sortline:image:' .. job_id)
  return tonumber(size) or 0
end

local function start(queue, job_ids)
  local composites = {}
  for i, job_id in ipairs(job_ids) do
    -- What is over the bound goes back, in order.
    if bytes >= max_bytes then
      for back = #job_ids, i, -1 do
        redis.call('LPUSH', 'rq:queue:' .. queue, job_ids[back])
      end
      break
    end
    local execution_id = base .. string.format('%08x', #jobs)
    local job, status = describe(queue, job_id, execution_id)
    -- A job deleted while it was queued leaves its id in the list; RQ skips these as well.
    if job and waits(job_id, status) then
      open_execution(job_id, execution_id, worker, now_iso, now_s, lease_s, expires_s)
      composites[#composites + 1] = job_id .. ':' .. execution_id
      local size = image_bytes(job_id)
      job[#job + 1] = size
      jobs[#jobs + 1] = job
      bytes = bytes + size
    end
  end
  register(queue, composites, worker, lease_s, expires_s)
end

-- The bell says "there may be work": silent when there is none, one token while there is.
local function tune_bell(queue)
  local bell = 'sortline:bell:' .. queue
  if redis.call('LLEN', 'rq:queue:' .. queue) == 0 then
    redis.call('DEL', bell)
  elseif redis.call('LLEN', bell) == 0 then
    redis.call('LPUSH', bell, '1')
  end
end

for q = 8, #ARGV do
  while #jobs < max_jobs and bytes < max_bytes do
    local job_ids = redis.call('LPOP', 'rq:queue:' .. ARGV[q], max_jobs - #jobs)
    if not job_ids then break end
    start(ARGV[q], job_ids)
  end
  tune_bell(ARGV[q])
end
return { 0, jobs }

-- Takes up to max_jobs jobs off the queues, the most urgent queue first, and starts an execution for each, in one step.
-- The first queue is the urgent one. The others get at most max_others jobs, of which others_first are taken before the
-- urgent queue's, so that they keep moving even if the urgent queue never runs empty.
-- Because it is one step, a worker that dies right after it leaves leases behind, and no job is lost.
-- (RQ pops first and registers later, which loses the job of a worker that is killed in between: rq#1716.)
-- The worker fetches the images afterwards with one MGET; max_bytes bounds their size. The last field of a job is the
-- length of its image, so that the worker knows which images are too large to fetch.
--
-- Jobs that can't be answered by their deadlines any more are set apart. They are leased too, so that none is lost. But
-- they don't count against max_jobs and max_bytes, and their executions' own keys are not written, only a field of the
-- job: the worker answers them at once, without their images.
--
-- ARGV  call_id, is_repeat, max_jobs, max_others, others_first, max_bytes, worker, now_iso, now_s, lease_s,
--       of_suspects, needs_s, queue…
--       call_id: 24 hex digits, the beginning of the executions' ids; is_repeat (0, 1): this call may have run before
--       of_suspects (0, 1): 1 takes suspects, 0 takes jobs off RQ's lists
--       needs_s: seconds from now until a job could be answered
-- Returns { suspended, { job… }, problems, cut short, { expired job… } }. A job has the fields of describe() in
-- common.lua and the length of its image, which is 0 for an expired one. cut short is 1 if MAX_IDS or MAX_EXPIRED ended
-- the call, so that jobs may still wait.
local call_id, is_repeat = ARGV[1], ARGV[2] == '1'
local max_jobs, max_others, others_first = tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
local max_bytes, worker, now_iso, now_s, lease_s = tonumber(ARGV[6]), ARGV[7], ARGV[8], ARGV[9], tonumber(ARGV[10])
local of_suspects = ARGV[11] == '1'
local needs_s = tonumber(ARGV[12])
local FIRST_QUEUE = 13
-- The most ids of deleted jobs that one call skips: jobs that are deleted while they wait leave their ids in the list.
-- This takes 50 ms, during which the server does nothing else.
local MAX_IDS = 20000
-- The most jobs that one call sets apart: it takes about a millisecond.
local MAX_EXPIRED = 128

-- 0 if the image is gone or its key has another type: the worker will find no image either way.
local function image_bytes(job_id)
  local size = redis_pcall('STRLEN', 'sortline:image:' .. job_id)
  return tonumber(size) or 0
end

if is_repeat then
  local jobs, apart = started_by(call_id, worker, { unpack(ARGV, FIRST_QUEUE) }, lease_s)
  for _, job in ipairs(jobs) do job[#job + 1] = image_bytes(job[2]) end
  for _, job in ipairs(apart) do job[#job + 1] = 0 end
  if #jobs + #apart > 0 then return { 0, jobs, problems, 0, apart } end
end

if redis_call('EXISTS', 'rq:suspended') == 1 then
  return { 1, {}, problems, 0, {} }
end

local jobs, expired, bytes, seen, ids_left = {}, {}, 0, {}, MAX_IDS
local now_server_s = server_now_s()
local expires_s = now_server_s + lease_s

local function list_of(queue)
  if of_suspects then return 'sortline:suspects:' .. queue end
  return 'rq:queue:' .. queue
end

-- Whether the ids at the head of a list may be long: then they are read one by one. The server samples the list's first
-- blocks, and a long id has a block of its own.
local function has_long_ids(list)
  local used, length = memory_of(list, 100), redis_pcall('LLEN', list)
  return used and type(length) == 'number' and used > 10000 + length * MAX_ID_BYTES
end

-- The first ids of a queue.
local function first_ids(queue, count)
  local list = list_of(queue)
  if has_long_ids(list) then count = 1 end
  local job_ids = redis_pcall('LRANGE', list, 0, count - 1)
  return move_broken(list, job_ids) and {} or job_ids -- RQ's own list is usable
end

-- Whether the job of an entry still waits. It doesn't if this is the second entry of a job that is listed twice: RQ's
-- clean-up and ours may both have put an abandoned job back, and if it ran again it would get a second result. Nor does
-- a suspect that RQ has canceled: its id stays in the list.
local function waits(job_id, status, set_apart)
  if status == 'started' then
    if is_set_apart(job_id, set_apart) then return false end
    local executions = redis_pcall('ZCARD', 'rq:executions:' .. job_id)
    return is_broken(executions) or executions == 0
  end
  if of_suspects then return status == 'queued' end
  return status ~= 'finished' and status ~= 'failed'
end

-- Takes the jobs among the first ids of a queue, at most until there are `most`; returns their composites, and how many
-- ids were read. The image that crosses max_bytes is the last.
-- A job that is deleted while it is queued leaves its id in the list. RQ skips these as well.
local function choose(queue, job_ids, most)
  local composites, ids_read = {}, 0
  for _, job_id in ipairs(job_ids) do
    if bytes >= max_bytes or #jobs >= most or #expired >= MAX_EXPIRED or ids_left <= 0 then break end
    ids_read = ids_read + 1
    local is_long = #job_id > MAX_ID_BYTES
    if is_long then
      refuse_long_id(job_id)
      ids_left = ids_left - #job_id -- so that one call reads few of them
    end
    local execution_id = call_id .. string.format('%08x', #jobs + #expired)
    local job, status, deadline, set_apart
    if not is_long then job, status, deadline, set_apart = describe(queue, job_id, execution_id) end
    if job and not seen[job_id] and waits(job_id, status, set_apart) then
      seen[job_id] = true
      composites[#composites + 1] = job_id .. ':' .. execution_id
      deadline = not of_suspects and tonumber(deadline)
      if deadline and now_server_s + needs_s > deadline then
        job[#job + 1] = 0
        expired[#expired + 1] = job
      else
        local size = image_bytes(job_id)
        job[#job + 1] = size
        jobs[#jobs + 1] = job
        bytes = bytes + size
      end
    end
  end
  return composites, ids_read
end

-- The leases are written first, and the list is cut right after that. Whatever fails later, e.g. for lack of a
-- permission, each job is then either leased or listed. With neither it would be lost; with both, another claim would
-- give it to a second worker.
local function start(queue, job_ids, most)
  local list = list_of(queue)
  local jobs_before, expired_before = #jobs, #expired
  local composites, ids_read = choose(queue, job_ids, most)
  redis_call('LTRIM', list, 0, -1) -- changes nothing, but raises if the cut would
  register(queue, composites, worker, lease_s, expires_s)
  redis_call('LTRIM', list, ids_read, -1)
  ids_left = ids_left - ids_read
  for i = jobs_before + 1, #jobs do
    open_execution(jobs[i][2], jobs[i][3], worker, now_iso, now_s, lease_s, expires_s)
  end
  for i = expired_before + 1, #expired do
    redis_call('HSET', 'rq:job:' .. expired[i][2], 'status', 'started', 'worker_name', worker, 'started_at', now_iso,
      'sortline_set_apart', queue .. ':' .. expired[i][3])
  end
end

-- A token in the wakeup list means that there may be work: the list has none while the queue is empty, and at least one
-- otherwise.
local function update_wakeup(queue)
  local wakeup = 'sortline:bell:' .. queue
  if redis_call('LLEN', 'rq:queue:' .. queue) == 0 then
    redis_call('DEL', wakeup)
    return
  end
  local tokens = redis_pcall('LLEN', wakeup)
  if replace_broken(wakeup, tokens) or tokens == 0 then redis_call('LPUSH', wakeup, '1') end
end

local usable = {}
for q = FIRST_QUEUE, #ARGV do usable[q] = is_usable(ARGV[q]) end

-- Takes jobs from the queues first..last, at most `most`.
local function take(first, last, most)
  most = math.min(max_jobs, #jobs + most)
  for q = first, last do
    while usable[q] and #jobs < most and bytes < max_bytes and ids_left > 0 and #expired < MAX_EXPIRED do
      -- If the first jobs have expired, the next ones are likely to have expired too.
      local job_ids = first_ids(ARGV[q], math.max(most - #jobs, math.min(#expired, 64)))
      if #job_ids == 0 then break end
      start(ARGV[q], job_ids, most)
    end
  end
end

take(FIRST_QUEUE + 1, #ARGV, math.min(others_first, max_others))
local others = #jobs
take(FIRST_QUEUE, FIRST_QUEUE, max_jobs)
take(FIRST_QUEUE + 1, #ARGV, max_others - others)
for q = FIRST_QUEUE, #ARGV do
  if usable[q] and not of_suspects then update_wakeup(ARGV[q]) end
end
forget_long_ids()
return { 0, jobs, problems, (ids_left <= 0 or #expired >= MAX_EXPIRED) and 1 or 0, expired }

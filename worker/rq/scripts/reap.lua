-- Takes back what dead workers held: executions whose leases have expired, and those of workers that the caller knows
-- to be gone, as it runs on the same host. A job with attempts left goes to the front of its queue. A job without is
-- claimed by the caller, who must answer it as failed. So is a job that RQ's own clean-up has failed meanwhile, as that
-- writes no SortResult, and even `rq info` runs it.
--
-- ARGV  call_id, is_repeat, worker, now_iso, now_s, lease_s, limit, scope, process, gone_count, forgotten_count,
--       gone worker…, forgotten worker…, queue…
--       call_id: 24 hex digits, the beginning of the executions' ids; is_repeat (0, 1): this call may have run before
--       scope, process: of worker/rq/processes.py; both '' where processes can't be told apart
-- Returns { requeued, { exhausted job… }, problems, { gone worker, jobs taken back… }, { worker, process… }, refusal }.
--       A job has the fields of describe() in common.lua. The processes are those of the scope that serve one of the
--       queues; refusal is '', or says why they could not be asked for.
local call_id, is_repeat, worker, now_iso, now_s = ARGV[1], ARGV[2] == '1', ARGV[3], ARGV[4], ARGV[5]
local lease_s, limit, scope, process = tonumber(ARGV[6]), tonumber(ARGV[7]), ARGV[8], ARGV[9]
local FIRST_GONE = 12
local FIRST_FORGOTTEN = FIRST_GONE + tonumber(ARGV[10])
local FIRST_QUEUE = FIRST_FORGOTTEN + tonumber(ARGV[11])
-- A host has fewer worker processes than this.
local MOST_PROCESSES = 1000
local PROCESSES_KEPT_S = 86400
-- The most leases that are searched for jobs of workers that are gone: it takes up to 10 ms. The rest may expire.
local MOST_LEASES = 10000
local requeued, exhausted = 0, {}

-- Tells the other workers on this host which process this one is, and reads which ones they are.
local processes = {}
local function exchange_processes(queue)
  local key = 'sortline:processes:' .. scope .. ':' .. queue
  local own = redis_pcall('HGET', key, worker)
  if replace_broken(key, own) or own ~= process then redis_call('HSET', key, worker, process) end
  for f = FIRST_FORGOTTEN, FIRST_QUEUE - 1 do redis_call('HDEL', key, ARGV[f]) end
  if redis_call('HLEN', key) > MOST_PROCESSES then
    report('replaced', key, 'it has more than ' .. MOST_PROCESSES .. ' fields')
    redis_call('UNLINK', key) -- the next steps of the workers that live write it anew
    return
  end
  if redis_call('TTL', key) < PROCESSES_KEPT_S / 2 then redis_call('EXPIRE', key, PROCESSES_KEPT_S) end
  for _, text in ipairs(redis_call('HGETALL', key)) do processes[#processes + 1] = text end
end

-- If this fails, leases still tell which workers are dead.
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

-- The job's key is a hash.
local function take(queue, job_id)
  local execution_id = call_id .. string.format('%08x', #exhausted)
  local expires_s = server_now_s() + lease_s
  open_execution(job_id, execution_id, worker, now_iso, now_s, lease_s, expires_s)
  register(queue, { job_id .. ':' .. execution_id }, worker, lease_s, expires_s)
  exhausted[#exhausted + 1] = describe(queue, job_id, execution_id)
end

-- The answer of a read, or nil if the key doesn't hold what it should.
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

-- Whether a worker has the job under another lease, in any queue. Workers start a job only once. But anybody can write
-- a lease that has expired, and a job that is given away while it is held would get two results.
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

-- Whatever becomes of the job, its old lease goes: otherwise each run would find it again, for ever. True if the job is
-- tried again or must be answered.
local function take_back(queue, composite)
  local job_id, execution_id = split_composite(composite)
  if not job_id then -- RQ before 2.0 registered jobs without an execution
    redis_call('ZREM', 'rq:wip:' .. queue, composite)
    return false
  end
  local job_key = 'rq:job:' .. job_id
  local job = redis_pcall('HMGET', job_key, 'status', 'retries_left', 'worker_name')
  local is_job = not refuse_broken(job_key, job)
  local owner = read('HGET', 'rq:execution:' .. composite, 'worker_name') or job[3] or ''
  close_executions(queue, { { job_id, execution_id } }, owner)
  -- With any other status than `started` the lease is a leftover of a job that has ended otherwise.
  if not is_job or job[1] ~= 'started' or is_held(job_id) then return false end
  give_again(queue, job_id, retries_in(job[2]))
  return true
end

local taken = {} -- the number of jobs taken from each worker that is gone
for g = FIRST_GONE, FIRST_FORGOTTEN - 1 do taken[ARGV[g]] = 0 end

-- Goes by the jobs under a lease and the workers that they name. A worker's own list of executions may be missing: RQ
-- deletes it when it unregisters the worker.
local function take_back_from_the_gone(queue)
  if not next(taken) then return end
  local found = {}
  for _, composite in ipairs(redis_call('ZRANGE', 'rq:wip:' .. queue, 0, MOST_LEASES - 1)) do
    local job_id = split_composite(composite)
    local owner = job_id and read('HGET', 'rq:job:' .. job_id, 'worker_name')
    if taken[owner] then found[#found + 1] = { composite, owner } end
    if #found == limit then break end
  end
  for i = #found, 1, -1 do
    local composite, owner = unpack(found[i])
    if take_back(queue, composite) then taken[owner] = taken[owner] + 1 end
  end
end

-- A worker signs a failure with its name, and ours leaves a SortResult in `meta`. RQ's clean-up does neither.
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
    take_back_from_the_gone(queue)
    -- The latest failures have the highest scores. The next failure moves a broken registry aside.
    for _, job_id in ipairs(read('ZREVRANGE', 'rq:failed:' .. queue, 0, limit - 1) or {}) do
      if failed_by_clean_up(job_id) then
        redis_call('ZREM', 'rq:failed:' .. queue, job_id)
        take(queue, job_id)
      end
    end
  end
end

local taken_from = {}
for gone, count in pairs(taken) do
  taken_from[#taken_from + 1] = gone
  taken_from[#taken_from + 1] = count
end
return { requeued, exhausted, problems, taken_from, processes, refusal }

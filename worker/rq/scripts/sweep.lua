-- Finds lost jobs: queued or started, but in no list and no registry, so that no worker will ever find them. One step
-- checks a bounded number of keys. The cursor is kept on the server, and all workers of the same queues share it.
--
-- A job that looks lost may be on its way: a plain `rq worker` pops first and registers later. So at first it only
-- counts as missing. It is lost if it is still missing, and unchanged, after grace_s by the server's clock. A lost job
-- goes back to its queue once. If it is lost again, it is registered under an expired lease with the execution id
-- `lost`: then reap.lua has it answered as failed.
--
-- It scans the images at the same time: one that its producer has written without an expiry is given one. And it
-- deletes what is too large for a job, which others would read again and again: keys with very long names, job hashes
-- of these queues, and long ids at the heads of these queues, where no worker removes them while all are suspended.
--
-- ARGV  cursor_key, missing_key, now_iso, interval_s, grace_s, keys_per_step, queue…
-- Returns { requeued, failed, removed }; zeros also if another worker's step was less than interval_s ago.
local cursor_key, missing_key, now_iso = ARGV[1], ARGV[2], ARGV[3]
local interval_s, grace_s, keys_per_step = tonumber(ARGV[4]), tonumber(ARGV[5]), ARGV[6]
local KEPT_S = 86400
local IMAGE_KEPT_S = 86400
-- Keys with longer names are deleted; those of jobs with ids above MAX_ID_BYTES are skipped, as they may be another
-- program's.
local MAX_KEY_BYTES = 10000
local MAX_HEAD_BYTES = 20000 -- how many bytes of long ids a step takes off, if there is more than one
local MAX_STATE_BYTES = 40 -- of each field
local MAX_MISSING, MISSING_PER_STEP = 1000, 50
-- MAX_ENTRIES: after this many entries a step searches no further list, as each takes 0.2 microseconds. MAX_LEASES:
-- the longest `rq:wip` that it reads.
local MAX_ENTRIES, MAX_LEASES = 20000, 10000
local REGISTRIES = { 'finished', 'failed', 'deferred', 'scheduled', 'canceled' }

redis_call('EXPIRE', cursor_key, KEPT_S) -- a write before any read: see common.lua
local now_s = server_now_s()
local ours = {}
for q = 7, #ARGV do ours[ARGV[q]] = true end

-- A key of the wrong type makes a call raise. Here it answers like a key that doesn't exist.
local function ask(...)
  local answer = redis_pcall(...)
  if type(answer) ~= 'table' or not answer.err then return answer end
  if string.find(answer.err, 'WRONGTYPE', 1, true) then return nil end
  return redis_call(...) -- this raises: going on without an answer could duplicate a job
end

local function is_due()
  local kept = ask('HMGET', cursor_key, 'next_s', 'cursor')
  if not kept then
    redis_call('UNLINK', cursor_key)
    kept = {}
  end
  local wait_s = (tonumber(kept[1] or '') or 0) - now_s
  if wait_s > 0 and wait_s <= interval_s then return nil end -- more than interval_s means that the clock was set back
  return kept[2] or '0'
end

local removed = 0
local function remove(key)
  redis_call('UNLINK', key)
  removed = removed + 1
end

local head_bytes_left = MAX_HEAD_BYTES
local function drop_long_heads(queue)
  local list = 'rq:queue:' .. queue
  while head_bytes_left > 0 do
    local head = ask('LINDEX', list, 0)
    if not head or #head <= MAX_ID_BYTES then return end
    redis_call('LTRIM', list, 1, -1)
    refuse_long_id(head)
    head_bytes_left = head_bytes_left - #head
    removed = removed + 1
  end
end

-- As ask('HMGET', …), of a job's hash. A job of these queues that is too large for one is deleted.
local STATE_FIELDS = { 'origin', 'status', 'enqueued_at', 'started_at', 'last_heartbeat', 'created_at' }
local function state_fields(key)
  local f, is_too_large = read_fields(key, STATE_FIELDS)
  if f.err then return ask('HMGET', key, unpack(STATE_FIELDS)) end -- which answers as for other keys
  if not is_too_large or not ours[f[1]] then return f end
  remove(key)
  redis_call('UNLINK', 'sortline:image:' .. string.sub(key, #'rq:job:' + 1))
end

local function text_in(field)
  return string.sub(field or '', 1, MAX_STATE_BYTES)
end

-- Queue and state of a job that could be lost; nil for any other. The state changes when anybody works on the job.
local function inspect(job_id)
  local f = state_fields('rq:job:' .. job_id)
  if not f or not f[1] or not ours[f[1]] or not f[6] then return nil end
  if f[2] ~= 'queued' and f[2] ~= 'started' then return nil end
  local state = {}
  for i = 2, 5 do state[#state + 1] = string.gsub(text_in(f[i]), '%s', '_') end
  return f[1], table.concat(state, '/'), text_in(f[3])
end

local function is_registered(queue, job_id)
  if (ask('ZCOUNT', 'rq:executions:' .. job_id, now_s, '+inf') or 0) > 0 then return true end
  for _, registry in ipairs(REGISTRIES) do
    if ask('ZSCORE', 'rq:' .. registry .. ':' .. queue, job_id) then return true end
  end
  return false
end

-- Jobs with a lease, by queue, read at most once a step. Nil if there are too many, or the key is no sorted set.
local leased = {}
local function jobs_with_lease(queue)
  if leased[queue] == nil then
    local wip = 'rq:wip:' .. queue
    local count = ask('ZCARD', wip)
    leased[queue] = count ~= nil and count <= MAX_LEASES and {}
    for _, member in ipairs(leased[queue] and ask('ZRANGE', wip, 0, -1) or {}) do
      leased[queue][string.match(member, '^(.*):[^:]*$') or member] = true
    end
  end
  return leased[queue] or nil
end

-- When the job at the head of each queue was enqueued; '' if nothing waits. Read once a step.
local heads = {}
local function head_enqueued_at(queue)
  if not heads[queue] then
    local head = ask('LINDEX', 'rq:queue:' .. queue, 0)
    local is_job = head and #head <= MAX_ID_BYTES
    local f = is_job and read_fields('rq:job:' .. head, { 'enqueued_at' }) or {}
    heads[queue] = text_in(f[1])
  end
  return heads[queue]
end

-- Whether the job is in a list of its queue, or this step can't tell.
local entries_left = MAX_ENTRIES
local function may_be_listed(queue, job_id)
  local list = 'rq:queue:' .. queue
  -- RQ itself recovers the jobs in `:intermediate`.
  for _, key in ipairs({ list, list .. ':intermediate', 'sortline:suspects:' .. queue }) do
    local entries = ask('LLEN', key)
    if not entries or entries_left <= 0 then return true end
    local position = ask('LPOS', key, job_id)
    entries_left = entries_left - (position or entries)
    if position then return true end
  end
  return false
end

-- A list is in the order of enqueueing. A job that is not older than the head probably waits in the list, and is not
-- searched for. So a backlog costs only one HMGET for each job.
local function is_lost(queue, job_id, enqueued_at)
  local head_at = head_enqueued_at(queue)
  if head_at ~= '' and enqueued_at >= head_at then return false end
  if is_registered(queue, job_id) then return false end
  local with_lease = jobs_with_lease(queue)
  if not with_lease or with_lease[job_id] then return false end
  return not may_be_listed(queue, job_id)
end

local requeued, failed = 0, 0

local function recover(queue, job_id)
  local job_key = 'rq:job:' .. job_id
  if redis_call('HSETNX', job_key, 'sortline_recovered', '1') == 1 then
    requeue(queue, job_id, now_iso)
    requeued = requeued + 1
  else
    redis_call('HSET', job_key, 'status', 'started', 'retries_left', '0') -- so that the previous release gives it up
    redis_call('ZADD', 'rq:wip:' .. queue, seconds(now_s), job_id .. ':lost')
    failed = failed + 1
  end
end

-- Checks the missing jobs again, the oldest first. Each is `<state> <job id>`, scored with the time when it was found
-- missing.
local function check_missing()
  local due = ask('ZRANGEBYSCORE', missing_key, '-inf', seconds(now_s - grace_s), 'LIMIT', 0, MISSING_PER_STEP)
  if not due then redis_call('UNLINK', missing_key) end
  for _, missing in ipairs(due or {}) do
    redis_call('ZREM', missing_key, missing)
    local state_before, job_id = string.match(missing, '^(%S*) (.*)$')
    local is_ours = job_id and #job_id <= MAX_ID_BYTES
    local queue, state, enqueued_at
    if is_ours then queue, state, enqueued_at = inspect(job_id) end
    if queue and state == state_before and is_lost(queue, job_id, enqueued_at) then recover(queue, job_id) end
  end
end

-- With an invalid cursor it starts again from 0: otherwise each step would raise on it, forever.
-- Keys with very long names are deleted, and not returned.
local function scan(cursor, pattern)
  local found = redis_pcall('SCAN', cursor, 'MATCH', pattern, 'COUNT', keys_per_step)
  if found.err and string.find(found.err, 'invalid cursor', 1, true) then return scan('0', pattern) end
  if found.err then error(found) end
  local names = {}
  for _, key in ipairs(found[2]) do
    if #key > MAX_KEY_BYTES then
      has_met_long_id = true
      remove(key)
    else
      names[#names + 1] = key
    end
  end
  return found[1], names
end

local function expire_images(names)
  for _, key in ipairs(names) do
    if redis_call('TTL', key) == -1 then redis_call('EXPIRE', key, IMAGE_KEPT_S) end
  end
end

local function find_missing(cursor)
  local next_cursor, names = scan(cursor, 'rq:job:*')
  local _, images = scan(cursor, 'sortline:image:*') -- the same part of the keys
  expire_images(images)
  local capacity = MAX_MISSING - redis_call('ZCARD', missing_key)
  for _, key in ipairs(names) do
    local job_id = string.sub(key, #'rq:job:' + 1)
    local queue, state, enqueued_at
    if #job_id <= MAX_ID_BYTES then queue, state, enqueued_at = inspect(job_id) end
    if capacity > 0 and queue and is_lost(queue, job_id, enqueued_at) then
      capacity = capacity - redis_call('ZADD', missing_key, 'NX', seconds(now_s), state .. ' ' .. job_id)
    end
  end
  redis_call('HSET', cursor_key, 'cursor', next_cursor, 'next_s', seconds(now_s + interval_s))
end

local cursor = is_due()
if not cursor then return { 0, 0, 0 } end
for queue in pairs(ours) do drop_long_heads(queue) end
if redis_call('EXISTS', 'rq:suspended') == 1 then
  forget_long_ids()
  return { 0, 0, removed }
end
check_missing()
find_missing(cursor)
redis_call('EXPIRE', cursor_key, KEPT_S)
redis_call('EXPIRE', missing_key, KEPT_S)
forget_long_ids()
return { requeued, failed, removed }

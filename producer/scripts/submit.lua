-- Enqueues the jobs of one call (all or none, or as many as fit) and wakes idle workers.
--
-- Writes what RQ 3.0 writes for Queue.enqueue (queue set, job hash, queue list). The images were written just before, in
-- the same transaction. They get their expiry first, whatever happens after; those of refused jobs are deleted.
--
-- A script that raises undoes nothing, so keys of a wrong type are found before the first write of a job. The queue and
-- the set of queues belong to others too: the call is refused. A job's own hash is replaced: its id is new, so what is
-- there belongs to nobody. So is the wakeup list.
--
-- KEYS  1  set of queues          2  list of the queue     3  wakeup list of the queue
--       4  list of the queue's suspects, which wait too
--       then for each job: its hash, its image
-- ARGV  1  most jobs that may wait in the queue
--       2  places the caller needs in all, in this call and those that follow it at once
--       3  1 (partial): without room for all, take the first that fit; 0: then take none
--       4  seconds that an image is kept
--       5  most tokens in the wakeup list
--       6  number n of arguments that follow as fields and values common to all jobs' hashes
--       7 .. 6+n  those fields and values
--       then for each job: id, data, description
--
-- Returns {depth after, then the index, from 0, of each job that was refused}; nothing is left of those. An error names
-- the key that has a wrong type; nothing is left of any new job then.

local QUEUES, QUEUE, WAKEUP, SUSPECTS = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local bound, wanted, partial = tonumber(ARGV[1]), tonumber(ARGV[2]), ARGV[3] == '1'
local image_ttl_s, wakeup_tokens, common_count = ARGV[4], tonumber(ARGV[5]), tonumber(ARGV[6])
local FIRST_KEY, FIRST_ARGUMENT = 5, 7 + common_count

local function image_key(index)
  return KEYS[FIRST_KEY + 2 * index + 1]
end

-- The answer of a command; nil where the key has a wrong type. Raises all else, as for a right that is missing.
local function try(...)
  local answer = redis.pcall(...)
  if type(answer) ~= 'table' or not answer.err then return answer end
  if string.find(answer.err, 'WRONGTYPE', 1, true) then return nil end
  return redis.call(...)
end

local total, new = (#KEYS - FIRST_KEY + 1) / 2, {}
for index = 0, total - 1 do
  redis.call('EXPIRE', image_key(index), image_ttl_s)
end

-- A client that lost the answer sends the call again: jobs that are already there are left alone,
-- so that a frame is enqueued once however often it is sent.
for index = 0, total - 1 do
  local job_key = KEYS[FIRST_KEY + 2 * index]
  local status = try('HGET', job_key, 'status')
  if status == nil then redis.call('UNLINK', job_key) end
  if not status then
    new[#new + 1] = index
  elseif status == 'finished' then
    redis.call('UNLINK', image_key(index))
  end
end

-- Takes the new jobs back, from this place in `new`.
local function drop(first)
  for position = first, #new do
    redis.call('UNLINK', image_key(new[position]))
  end
end

local function refuse(key, kind)
  drop(1)
  return redis.error_reply('WRONGTYPE ' .. key .. ' is not a ' .. kind .. ', as RQ keeps it: nothing was enqueued. '
    .. 'Rename or delete the key.')
end

local depth = try('LLEN', QUEUE)
if not depth then return refuse(QUEUE, 'list') end
depth = depth + (try('LLEN', SUSPECTS) or 0)
local taken = #new
if taken > 0 and depth + wanted - (total - taken) > bound then
  taken = partial and math.max(0, math.min(taken, bound - depth)) or 0
end
local answer = { depth + taken }
drop(taken + 1)
for position = taken + 1, #new do
  answer[#answer + 1] = new[position]
end
if taken == 0 then
  return answer
end

if not try('SADD', QUEUES, QUEUE) then return refuse(QUEUES, 'set') end
-- The list before the hashes: should the login lack a right, an id without a job is passed over by every worker, but a
-- job outside of the list would be taken for one that is already there when it is sent again.
local job_ids = { 'RPUSH', QUEUE }
for position = 1, taken do
  job_ids[#job_ids + 1] = ARGV[FIRST_ARGUMENT + 3 * new[position]]
end
redis.call(unpack(job_ids))

local hset = { 'HSET', '', 'data', '', 'description', '' }
for index = 1, common_count do
  hset[#hset + 1] = ARGV[6 + index]
end
for position = 1, taken do
  local index = new[position]
  local argument = FIRST_ARGUMENT + 3 * index
  hset[2], hset[4], hset[6] = KEYS[FIRST_KEY + 2 * index], ARGV[argument + 1], ARGV[argument + 2]
  redis.call(unpack(hset))
end

-- One token wakes one worker; many jobs are work for several. Few tokens are kept that nobody waits for, as each costs
-- a worker one claim on an empty queue.
local tokens = { 'LPUSH', WAKEUP }
for _ = 1, math.min(taken, wakeup_tokens) do
  tokens[#tokens + 1] = '1'
end
if not try(unpack(tokens)) then
  redis.call('UNLINK', WAKEUP)
  redis.call(unpack(tokens))
end
redis.call('LTRIM', WAKEUP, 0, wakeup_tokens - 1)
return answer

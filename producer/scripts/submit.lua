-- Enqueues the jobs of one call (all or none, or as many as fit) and wakes idle workers.
--
-- Writes what RQ 3.0 writes for Queue.enqueue (queue set, job hash, queue list). The images were written just before,
-- in the same transaction. The script sets their expiry first, so that they expire whatever happens later. It deletes
-- the images of refused jobs.
--
-- When a script raises, its writes are not undone, so keys of a wrong type are found before the first job is written.
-- If the queue or the set of queues has a wrong type, the call is refused, because others use these keys too. If a
-- job's hash has a wrong type, it is replaced: a job's id is random, or a hash, so the key belongs to nobody else. A wakeup list of a
-- wrong type is replaced too.
--
-- KEYS  1  set of queues          2  list of the queue     3  wakeup list of the queue
--       4  list of the queue's suspects, which count as waiting jobs too
--       then for each job: its hash, its image
-- ARGV  1  maximum number of jobs that may wait in the queue
--       2  number of places that the caller needs in total, in this call and in the calls that follow it at once
--       3  1 (partial): if there is no room for all, enqueue the first that fit; 0: enqueue none
--       4  seconds that an image is kept
--       5  maximum number of tokens in the wakeup list
--       6  number n of the arguments that follow: fields and values that all jobs' hashes have in common
--       7 .. 6+n  those fields and values
--       then for each job: id, data, description
--
-- Returns {depth of the queue afterwards, then the index, from 0, of each job that was refused}. Nothing is left of a
-- refused job. If a key has a wrong type, returns an error that names it, and nothing is left of any new job.

local QUEUES, QUEUE, WAKEUP, SUSPECTS = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local bound, wanted, partial = tonumber(ARGV[1]), tonumber(ARGV[2]), ARGV[3] == '1'
local image_ttl_s, wakeup_tokens, common_count = ARGV[4], tonumber(ARGV[5]), tonumber(ARGV[6])
local FIRST_KEY, FIRST_ARGUMENT = 5, 7 + common_count

local function image_key(index)
  return KEYS[FIRST_KEY + 2 * index + 1]
end

-- Runs a command; returns its answer, or nil if the key has the wrong type. Raises any other error, e.g. a missing permission.
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

-- A client that lost the answer makes the call again. Jobs that were already enqueued are left alone, so that a frame
-- is enqueued once, however often it is sent.
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

-- Deletes the images of the new jobs from this position in `new` on.
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
-- The list is written before the hashes, because the script stops in between if the login lacks a right. Every worker
-- skips an id that has no hash. But if a hash were written without its id in the list, the job would be taken for one
-- that is already enqueued when it is sent again.
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

-- One token wakes one worker, and many jobs are work for several workers. Only a limited number of unused tokens is
-- kept, because each costs a worker one claim on an empty queue.
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

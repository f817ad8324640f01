-- Enqueues the jobs of one line (all or none, or those that fit) and wakes idle workers.
--
-- Writes what RQ 3.0 writes for Queue.enqueue (queue set, job hash, queue list). The images were written just before,
-- with their expiry, in the same transaction. Those of refused jobs are deleted.
--
-- When a function raises, its writes are not undone, so keys of a wrong type are found before the first job is written.
-- If the queue or the set of queues has a wrong type, the call is refused, because others use these keys too. If a
-- job's hash has a wrong type, it is replaced: a job's id is random, or a hash, so the key belongs to nobody else. A
-- wakeup list of a wrong type is replaced too.
--
-- KEYS  1 .. 7 as in admission.lua, then for each job: its hash, its image
-- ARGV  1 .. 10 as in admission.lua
--       11  maximum number of tokens in the wakeup list
--       12  number n of the arguments that follow: fields and values that all jobs' hashes have in common
--       13 .. 12+n  those fields and values
--       then for each job: id, data, description, length of the image, deadline ('' if there is none; server's time)
--
-- Returns the answer of admission.lua. Nothing is left of a refused job. If a key has a wrong type, returns an error
-- that names it, and nothing is left of any new job.

local wakeup_tokens, common_count = tonumber(ARGV[LAST_COMMON_ARGUMENT + 1]), tonumber(ARGV[LAST_COMMON_ARGUMENT + 2])
if not common_count or common_count > #ARGV then
  return redis.error_reply('ERR argument 12 must be the number of the arguments that follow')
end
local FIRST_COMMON_FIELD = LAST_COMMON_ARGUMENT + 3
local FIRST_ARGUMENT, ARGUMENTS = FIRST_COMMON_FIELD + common_count, 5
local total = (#KEYS - FIRST_KEY + 1) / 2

local function job_key(index)
  return KEYS[FIRST_KEY + 2 * index]
end

local function image_key(index)
  return KEYS[FIRST_KEY + 2 * index + 1]
end

local function argument(index, offset)
  return ARGV[FIRST_ARGUMENT + ARGUMENTS * index + offset]
end

-- A client that lost the answer makes the call again. Jobs that were already enqueued are left alone, so that a frame
-- is enqueued once, however often it is sent.
local new, duplicates = {}, { items = 0, bytes = 0 }
for index = 0, total - 1 do
  local size = tonumber(argument(index, 3))
  local status, is_broken = status_of(job_key(index))
  if is_broken then redis.call('UNLINK', job_key(index)) end
  if not status then
    new[#new + 1] = { index, size, tonumber(argument(index, 4)) }
  else
    duplicates.items, duplicates.bytes = duplicates.items + 1, duplicates.bytes + size
    if status == 'finished' then redis.call('UNLINK', image_key(index)) end
  end
end

local function drop_images_of_new()
  for _, job in ipairs(new) do redis.call('UNLINK', image_key(job[1])) end
end

local function refuse(key, kind)
  drop_images_of_new()
  return redis.error_reply('WRONGTYPE ' .. key .. ' is not a ' .. kind .. ', as RQ keeps it: nothing was enqueued. '
    .. 'Rename or delete the key.')
end

local taken, answer = admit(new, duplicates)
if not taken then return refuse(QUEUE, 'list') end
for i = FIRST_REFUSED, #answer, 2 do
  redis.call('UNLINK', image_key(answer[i]))
end
if #taken == 0 then
  return answer
end

if not try('SADD', QUEUES, QUEUE) then return refuse(QUEUES, 'set') end
-- The list is written before the hashes, because the function stops in between if the login lacks a right. Every worker
-- skips an id that has no hash. But if a hash were written without its id in the list, the job would be taken for one
-- that is already enqueued when it is sent again.
local job_ids, bytes = { 'RPUSH', QUEUE }, 0
for _, index in ipairs(taken) do
  job_ids[#job_ids + 1] = argument(index, 0)
  bytes = bytes + tonumber(argument(index, 3))
end
count_taken(#taken, bytes)
redis.call(unpack(job_ids))

local hset = { 'HSET', '', 'data', '', 'description', '', 'sortline_bytes', '' }
for index = 0, common_count - 1 do
  hset[#hset + 1] = ARGV[FIRST_COMMON_FIELD + index]
end
local AFTER_COMMON = #hset
for _, index in ipairs(taken) do
  hset[2], hset[4], hset[6], hset[8] = job_key(index), argument(index, 1), argument(index, 2), argument(index, 3)
  local deadline = argument(index, 4)
  hset[AFTER_COMMON + 1] = deadline ~= '' and 'sortline_deadline' or nil
  hset[AFTER_COMMON + 2] = deadline ~= '' and deadline or nil
  redis.call(unpack(hset))
end

-- One token wakes one worker, and many jobs are work for several workers. Only a limited number of unused tokens is
-- kept, because each costs a worker one claim on an empty queue.
local tokens = { 'LPUSH', WAKEUP }
for _ = 1, math.min(#taken, wakeup_tokens) do
  tokens[#tokens + 1] = '1'
end
if not try(unpack(tokens)) then
  redis.call('UNLINK', WAKEUP)
  redis.call(unpack(tokens))
end
redis.call('LTRIM', WAKEUP, 0, wakeup_tokens - 1)
return answer

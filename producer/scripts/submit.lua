-- Enqueues the jobs of one call, all or none, and wakes idle workers.
--
-- Writes what RQ 3.0 writes for Queue.enqueue (queue set, job hash, queue list) and beside it the
-- images, which RQ's own save() would otherwise send again and again.
--
-- KEYS  1  set of queues          2  list of the queue     3  bell of the queue
--       then for each job: its hash, its image
-- ARGV  1  most jobs that may wait in the queue
--       2  places the caller needs in all, in this call and those that follow it at once
--       3  seconds that an image is kept
--       4  most tokens on the bell
--       5  number n of arguments that follow as fields and values common to all jobs' hashes
--       6 .. 5+n  those fields and values
--       then for each job: id, data, description, image
--
-- Returns {1, depth after} when the jobs are in the queue, {0, depth} when there was no room and
-- nothing was written.

local QUEUES, QUEUE, BELL = KEYS[1], KEYS[2], KEYS[3]
local bound, wanted = tonumber(ARGV[1]), tonumber(ARGV[2])
local image_ttl_s, bell_tokens, common_count = ARGV[3], tonumber(ARGV[4]), tonumber(ARGV[5])
local FIRST_KEY, FIRST_ARGUMENT = 4, 6 + common_count

-- A client that lost the answer sends the call again: jobs that are already there are left alone,
-- so that a frame is enqueued once however often it is sent.
local total, new = (#KEYS - FIRST_KEY + 1) / 2, {}
for index = 0, total - 1 do
  if redis.call('EXISTS', KEYS[FIRST_KEY + 2 * index]) == 0 then
    new[#new + 1] = index
  end
end
local depth = redis.call('LLEN', QUEUE)
if #new == 0 then
  return { 1, depth }
end
if depth + wanted - (total - #new) > bound then
  return { 0, depth }
end

redis.call('SADD', QUEUES, QUEUE)
local hset = { 'HSET', '', 'data', '', 'description', '' }
for index = 1, common_count do
  hset[#hset + 1] = ARGV[5 + index]
end
for _, index in ipairs(new) do
  local job_key, image_key = KEYS[FIRST_KEY + 2 * index], KEYS[FIRST_KEY + 2 * index + 1]
  local argument = FIRST_ARGUMENT + 4 * index
  hset[2], hset[4], hset[6] = job_key, ARGV[argument + 1], ARGV[argument + 2]
  redis.call(unpack(hset))
  redis.call('SET', image_key, ARGV[argument + 3], 'EX', image_ttl_s)
  depth = redis.call('RPUSH', QUEUE, ARGV[argument])
end

-- One token wakes one worker; many jobs are work for several. Tokens that nobody waits for are kept
-- few, as each costs a worker one look at an empty queue.
for _ = 1, math.min(#new, bell_tokens) do
  redis.call('LPUSH', BELL, '1')
end
redis.call('LTRIM', BELL, 0, bell_tokens - 1)
return { 1, depth }

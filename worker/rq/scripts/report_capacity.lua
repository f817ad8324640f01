-- Notes what one worker can do for each of its queues, and from that what all workers together can do for it.
-- The entries of workers that have not reported for FRESH_S are removed. While no worker reports, nobody updates a
-- queue's sum: whoever reads it must take one whose capacity_at is older than FRESH_S for "no workers".
--
-- ARGV  worker, needs_s, is_leaving, then queue, images_per_s for each
--       needs_s: seconds from the claim of an image to its result on a busy worker
--       is_leaving (0, 1): 1 removes the worker's entries
--       Numbers have decimals and no exponent.
-- Returns { waiting, problems, flows, now }: of each queue, in order, how many jobs wait, and the fields capacity,
-- capacity_at, arrived, arrived_for and arrived_at of its hash; the server's time.
local worker, needs_s, is_leaving = ARGV[1], ARGV[2], ARGV[3] == '1'
-- shared/keys.py describes both hashes.
local FRESH_S = 10 -- as in worker/observe/queue_forecast.py
local CAPACITIES_KEPT_S, FLOW_KEPT_S = 60, 3600
local MAX_ENTRIES = 10000 -- workers don't write a longer hash
local now_s = server_now_s()
local waiting, flows = {}, {}

-- The rate and needs_s of an entry; nil if it is not fresh, as after a step of the clock, or was not written by a
-- worker: then it may hold anything, also a number that is infinite.
local function parse(entry)
  local rate, needs, at = string.match(entry, '^(%d+%.%d+) (%d+%.%d+) (%d+%.%d+)$')
  if not rate or #entry > 100 then return nil end
  if math.abs(now_s - tonumber(at)) > FRESH_S then return nil end
  return tonumber(rate), tonumber(needs)
end

local function note(key, rate)
  local entries = redis_pcall('HLEN', key)
  if not replace_broken(key, entries) and entries > MAX_ENTRIES then redis_call('DEL', key) end
  if is_leaving then
    redis_call('HDEL', key, worker)
  else
    redis_call('HSET', key, worker, rate .. ' ' .. needs_s .. ' ' .. seconds(now_s))
  end
  redis_call('EXPIRE', key, CAPACITIES_KEPT_S)
end

-- What all workers together can do, nil if there are none; and the needs_s of the fastest. A worker that is suspended
-- answers nothing, and one that has measured nothing yet reports 0: neither counts for needs_s. It is 0 if none counts.
local function add_up(key)
  local sum, least
  local entries = redis_call('HGETALL', key)
  for i = 1, #entries, 2 do
    local rate, needs = parse(entries[i + 1])
    if rate then
      sum = (sum or 0) + rate
      if rate > 0 and needs > 0 then least = math.min(least or needs, needs) end
    else
      redis_call('HDEL', key, entries[i])
    end
  end
  return sum, least or 0
end

local function write_flow(key, sum, least)
  local answer
  if sum then
    answer = redis_pcall('HSET', key, 'capacity', seconds(sum), 'needs_s', seconds(least),
      'capacity_at', seconds(now_s))
  else
    answer = redis_pcall('HDEL', key, 'capacity', 'needs_s', 'capacity_at')
  end
  if replace_broken(key, answer) then
    write_flow(key, sum, least)
  else
    redis_call('EXPIRE', key, FLOW_KEPT_S)
  end
end

-- Producers may write these two hashes. A large one would hold up each of their calls, and each report.
local function drop_if_large(key)
  local used = memory_of(key)
  if not used or used <= MAX_HASH_BYTES then return end
  report('replaced', key, 'it takes ' .. used .. ' bytes')
  redis_call('UNLINK', key)
end

for i = 4, #ARGV, 2 do
  local queue, rate = ARGV[i], ARGV[i + 1]
  local capacities = 'sortline:capacities:' .. queue
  local flow = 'sortline:flow:' .. queue
  drop_if_large(flow)
  drop_if_large('sortline:load:' .. queue)
  note(capacities, rate)
  write_flow(flow, add_up(capacities))
  local length = redis_pcall('LLEN', 'rq:queue:' .. queue)
  waiting[#waiting + 1] = is_broken(length) and 0 or length
  flows[#flows + 1] = redis_call('HMGET', flow, 'capacity', 'capacity_at', 'arrived', 'arrived_for', 'arrived_at')
end
return { waiting, problems, flows, seconds(now_s) }

-- Put in front of the other scripts of this folder: whether a queue takes the jobs of one line, and what is counted.
--
-- A queue has bounds in items, bytes and expected wait, and a line may use only a part of each. An image with a deadline
-- is refused if the jobs before it take so long that its deadline can't be met. An image whose deadline has passed
-- already is not: that is not the queue's doing, and a worker answers it as `expired`.
--
-- What a queue holds is counted in the hash `sortline:load:<queue>`: these scripts add, and finish.lua subtracts when a
-- job has ended. RQ's own tools count nothing. If they have deleted or finished jobs, `items` differs from the number of
-- jobs that wait or have a lease, and the other counts are scaled by the ratio of the two. When the queue is empty,
-- counting starts again from 0.
--
-- KEYS  1  set of queues                  2  list of the queue               3  wakeup list of the queue
--       4  list of the queue's suspects   5  registry of the queue's leases  6  hash of what the queue holds
--       7  hash of the queue's rates
-- ARGV  1 .. 4  maximum number of jobs that wait; of bytes; of seconds to wait; the part of each that one line may use
--       5  line
--       6, 7  number of places and of bytes that the caller needs in total, in this call and in those that follow at once
--       8  1 (partial): if there is no room for all, take the jobs that fit; 0: take all or none
--       9  how many of the jobs arrive for the first time; the others were refused before
--
-- Answers of the scripts: { jobs that wait, bytes of the queue, jobs of the line, bytes of the line, expected wait in ms,
-- ms after which to try again, whether the queue is congested (0, 1), then for each refused job its index, from 0, and
-- the bound that it hits }.

local QUEUES, QUEUE, WAKEUP, SUSPECTS, LEASES, LOAD, FLOW = unpack(KEYS, 1, 7)
local FIRST_KEY = 8
local max_items, max_bytes, max_wait_s, line_share = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local line, wanted_items, wanted_bytes = ARGV[5], tonumber(ARGV[6]), tonumber(ARGV[7])
local is_partial, arriving = ARGV[8] == '1', tonumber(ARGV[9])
local LAST_COMMON_ARGUMENT, FIRST_REFUSED = 9, 8
local LINE_ITEMS, LINE_BYTES = 'items:' .. line, 'bytes:' .. line
-- A rate that was written longer ago says nothing: no worker is left that would write it.
local RATE_KEPT_S = 10
-- As in shared/arrivals.py.
local DECAY_S = 15
local FLOW_TTL_S = 3600
-- The producer asks before it sends bytes while a bound is used up to this part.
local CONGESTED = 0.5
local DEFAULT_RETRY_S, MIN_RETRY_S, MAX_RETRY_S = 1, 0.05, 60

-- Runs a command; returns its answer, or nil if the key has the wrong type. Raises any other error, e.g. a missing permission.
local function try(...)
  local answer = redis.pcall(...)
  if type(answer) ~= 'table' or not answer.err then return answer end
  if string.find(answer.err, 'WRONGTYPE', 1, true) then return nil end
  return redis.call(...)
end

-- The server's time; 0 if the login may not read it. Then nothing that depends on it is checked or counted.
local clock = redis.pcall('TIME')
local now = clock.err and 0 or tonumber(clock[1]) + tonumber(clock[2]) / 1000000

-- The numbers in these fields of a hash of ours; 0 for what is absent. A key of a wrong type is useless: it is deleted.
local function numbers(key, ...)
  local values = try('HMGET', key, ...)
  if not values then redis.call('UNLINK', key) end
  local found = {}
  for i = 1, select('#', ...) do
    found[i] = math.max(0, tonumber(values and values[i] or 0) or 0)
  end
  return unpack(found)
end

-- What the queue and the line hold now; nil if RQ's list has the wrong type.
local function read_load()
  local waiting = try('LLEN', QUEUE)
  if not waiting then return nil end
  waiting = waiting + (try('LLEN', SUSPECTS) or 0)
  local held = waiting + (try('ZCARD', LEASES) or 0)
  local counted, bytes, line_items, line_bytes = numbers(LOAD, 'items', 'bytes', LINE_ITEMS, LINE_BYTES)
  if held == 0 and counted > 0 then redis.call('UNLINK', LOAD) end
  local scale = counted > 0 and held / counted or 0
  return { waiting = waiting, held = held, bytes = bytes * scale, line_items = line_items * scale,
    line_bytes = line_bytes * scale }
end

-- How fast the workers sort, in images/s, and how many seconds a busy worker needs from the claim to the result. 0 if no
-- worker has reported it lately.
local function read_rate()
  local capacity, needs_s, capacity_at = numbers(FLOW, 'capacity', 'needs_s', 'capacity_at')
  if now == 0 or now - capacity_at > RATE_KEPT_S then return 0, 0 end
  return capacity, needs_s
end

-- Seconds until the workers have sorted so much; nil if that is not known.
local function time_for(amount, unit_s)
  return unit_s and amount * unit_s
end

-- Which bound a job would hit, and for how many seconds the workers must work until it would not, if that is known. Nil
-- if the job is taken. `load` includes the jobs before it. A job that is alone is never refused because of its size.
local function bound_of(load, rate, needs_s, size, deadline)
  local per_job_s = rate > 0 and 1 / rate or nil
  local per_byte_s = rate > 0 and load.bytes > 0 and load.held / load.bytes / rate or nil
  local wait_s = per_job_s and load.waiting * per_job_s or 0
  local over_items, over_bytes = load.waiting + 1 - max_items, load.bytes + size - max_bytes
  if over_items > 0 then return 'items', time_for(over_items, per_job_s) end
  if load.held > 0 and over_bytes > 0 then return 'bytes', time_for(over_bytes, per_byte_s) end
  if wait_s > max_wait_s then return 'wait', wait_s - max_wait_s end
  if load.line_items > 0 then
    over_items, over_bytes = load.line_items + 1 - line_share * max_items, load.line_bytes + size - line_share * max_bytes
    if over_items > 0 then return 'line', time_for(over_items, per_job_s) end
    if over_bytes > 0 then return 'line', time_for(over_bytes, per_byte_s) end
    local over_s = (per_job_s and load.line_items * per_job_s or 0) - line_share * max_wait_s
    if over_s > 0 then return 'line', over_s end
  end
  if wait_s == 0 or not deadline or deadline <= now then return nil end
  local late_s = now + wait_s + needs_s - deadline
  if late_s > 0 then return 'deadline', late_s end
  -- Of the jobs that can be answered until this deadline, a line gets no more than its part either.
  local over_places = load.line_items - line_share * (deadline - now) * rate
  if load.line_items > 1 and over_places > 0 then return 'line', time_for(over_places, per_job_s) end
end

-- How much of its bounds the queue uses, from 0 to 1 and more: of the bound that is used up most.
local function fill_of(load, rate, needs_s, deadline)
  local wait_s = rate > 0 and load.waiting / rate or 0
  local fill = math.max(load.waiting / max_items, load.bytes / max_bytes, load.line_items / max_items / line_share,
    load.line_bytes / max_bytes / line_share, wait_s / max_wait_s)
  if wait_s == 0 or not deadline or deadline <= now then return fill end
  local left_s = deadline - now - needs_s
  return left_s > 0 and math.max(fill, wait_s / left_s) or 1
end

local function bounded_ms(seconds)
  return math.ceil(1000 * math.max(MIN_RETRY_S, math.min(MAX_RETRY_S, seconds or DEFAULT_RETRY_S)))
end

local function count_arrivals()
  if arriving <= 0 or now == 0 then return end
  local arrived, arrived_for, arrived_at = numbers(FLOW, 'arrived', 'arrived_for', 'arrived_at')
  local decay = math.exp(-math.max(0, now - (arrived_at > 0 and arrived_at or now)) / DECAY_S)
  redis.call('HSET', FLOW, 'arrived', string.format('%.6f', arrived * decay + arriving),
    'arrived_for', string.format('%.6f', arrived_for * decay + DECAY_S * (1 - decay)),
    'arrived_at', string.format('%.6f', now))
  redis.call('EXPIRE', FLOW, FLOW_TTL_S)
end

-- Which bound the whole call would hit, with the calls that follow it at once. Nil if there is room for all their jobs.
local function bound_of_call(load, duplicates)
  local items, bytes = wanted_items - duplicates.items, wanted_bytes - duplicates.bytes
  if load.waiting + items > max_items then return 'items' end
  if (load.held > 0 or items > 1) and load.bytes + bytes > max_bytes then return 'bytes' end
  if (load.line_items > 0 or items > 1) and (load.line_items + items > line_share * max_items
    or load.line_bytes + bytes > line_share * max_bytes) then return 'line' end
end

-- Counts what is about to be enqueued. If the counts can't be used, counting starts again.
local function count_taken(items, bytes)
  for field, amount in pairs({ items = items, bytes = bytes, [LINE_ITEMS] = items, [LINE_BYTES] = bytes }) do
    local answer = redis.pcall('HINCRBY', LOAD, field, amount)
    if type(answer) == 'table' and answer.err then redis.call('UNLINK', LOAD) end
  end
end

-- The status of a job; false if it is new: then it was not enqueued yet. If its key has a wrong type, the job is new, and
-- is_broken is true.
local function status_of(job_key)
  local status = try('HGET', job_key, 'status')
  return status or false, status == nil
end

-- Decides about the jobs, each { index, size in bytes, deadline or nil }. `duplicates`: the number and the bytes of the
-- call's other jobs, which were enqueued before. Returns the indexes of those that are taken, and
-- the script's answer. Nil if RQ's list has the wrong type.
local function admit(jobs, duplicates)
  local load = read_load()
  if not load then return nil end
  count_arrivals()
  local rate, needs_s = read_rate()
  local before = { waiting = load.waiting, held = load.held, bytes = load.bytes, line_items = load.line_items,
    line_bytes = load.line_bytes }
  local taken, refused, retry_s, fill = {}, {}, nil, 0
  local function refuse(job, bound, excess_s)
    refused[#refused + 1] = job[1]
    refused[#refused + 1] = bound
    if #refused == 2 then retry_s = excess_s end
  end
  for _, job in ipairs(jobs) do
    local bound, excess_s = bound_of(load, rate, needs_s, job[2], job[3])
    fill = math.max(fill, bound and 1 or fill_of(before, rate, needs_s, job[3]))
    if bound then
      refuse(job, bound, excess_s)
    else
      taken[#taken + 1] = job[1]
      load.waiting, load.held, load.bytes = load.waiting + 1, load.held + 1, load.bytes + job[2]
      load.line_items, load.line_bytes = load.line_items + 1, load.line_bytes + job[2]
    end
  end
  local bound_of_all = not is_partial and #jobs > 0 and (refused[2] or bound_of_call(before, duplicates)) or nil
  if bound_of_all then
    load, taken, refused = before, {}, {}
    for _, job in ipairs(jobs) do refuse(job, bound_of_all, retry_s) end
    fill = 1
  end
  local wait_s = rate > 0 and load.waiting / rate or 0
  return taken, { load.waiting, math.floor(load.bytes), math.floor(load.line_items + 0.5), math.floor(load.line_bytes),
    math.ceil(1000 * wait_s), bounded_ms(retry_s), fill >= CONGESTED and 1 or 0, unpack(refused) }
end

-- Put in front of the other files of this folder: whether a queue takes the jobs of one line, and what is counted.
--
-- A queue has bounds in items, bytes and expected wait, and a line may use only a part of each. An image with a
-- deadline is refused if the jobs before it take so long that its deadline can't be met. An image whose deadline has
-- passed already is not: that is not the queue's doing, and a worker answers it as `expired`. Waits are checked only
-- while jobs wait: an image that would not have to wait is taken, however wrong the workers' figures are.
--
-- What a queue holds is counted in the hash `sortline:load:<queue>`: these functions add, and finish.lua subtracts when a
-- job has ended. RQ's own tools count nothing. If they have deleted or finished jobs, `items` differs from the number
-- of jobs that wait or have a lease, and the other counts are scaled by the ratio of the two. If most of what was
-- counted is gone, nobody knows whose the rest is: the lines' counts start again from 0. When the queue is empty, all
-- counts do.
--
-- KEYS  1  set of queues                  2  list of the queue               3  wakeup list of the queue
--       4  list of the queue's suspects   5  registry of the queue's leases  6  hash of what the queue holds
--       7  hash of the queue's rates
-- ARGV  1 .. 4  maximum number of jobs that wait; of bytes; of seconds to wait; the part of each that a line may use
--       5  line
--       6 .. 8  what the caller needs in all, in this call and in those that follow at once: places, bytes, and the
--               earliest deadline ('' if there is none)
--       9  1 (partial): if there is no room for all, take the jobs that fit; 0: take all or none
--       10  how many jobs arrive for the first time; the others were refused before
--
-- Answers of the functions: { jobs that wait, bytes of the queue, jobs of the line, bytes of the line, expected wait in
-- ms, ms that a worker then needs, places before the shortest deadline (0: they are not shared out), ms after which to
-- try again, whether the queue is congested for the line (0, 1; -1: no job was new), then for each refused job its
-- index, from 0, and the bound that it hits }.

-- A call for very many jobs would hold up the server. Producers send at most 64 (CHUNK_JOBS). A job has two keys in
-- `submit`, one in `ask`.
local MAX_KEYS, MAX_ARGUMENTS = 7 + 2 * 256, 2000
if #KEYS > MAX_KEYS or #ARGV > MAX_ARGUMENTS then
  return redis.error_reply('ERR ' .. #KEYS .. ' keys and ' .. #ARGV .. ' arguments: a call may have ' .. MAX_KEYS
    .. ' keys (256 jobs) and ' .. MAX_ARGUMENTS .. ' arguments. Make several calls.')
end

local QUEUES, QUEUE, WAKEUP, SUSPECTS, LEASES, LOAD, FLOW = unpack(KEYS, 1, 7)
local FIRST_KEY = 8
local max_items, max_bytes = tonumber(ARGV[1]), tonumber(ARGV[2])
local max_wait_s, line_share = tonumber(ARGV[3]), tonumber(ARGV[4])
local line, wanted_items, wanted_bytes = ARGV[5], tonumber(ARGV[6]), tonumber(ARGV[7])
local wanted_deadline, is_partial, arriving = tonumber(ARGV[8]), ARGV[9] == '1', tonumber(ARGV[10])
local LAST_COMMON_ARGUMENT, FIRST_REFUSED = 10, 10
local LINE_ITEMS, LINE_BYTES = 'items:' .. line, 'bytes:' .. line
-- What was written longer ago says nothing: no worker is left that would write its rate, and lines come and go.
local RECENT_S = 10
-- Lines share the places before a deadline while jobs of several lines come within this time.
local MIXED_S = 2
-- As in shared/arrivals.py.
local DECAY_S = 15
local FLOW_TTL_S = 3600
-- The producer asks before it sends bytes while a bound is used up to this part.
local CONGESTED = 0.5
local DEFAULT_RETRY_S, MIN_RETRY_S, MAX_RETRY_S = 1, 0.05, 60
-- No count or time in our hashes is larger. Anybody may have written them.
local MOST = 1e15
-- When the counts of the lines start again. A few jobs may be counted before they are listed, and the other way round.
local MANY_GONE, MOST_GONE = 64, 0.5

-- The first command is a write to a key that never exists: a replica, and a server that can't save, refuses it, before
-- the function has answered from old data.
redis.call('UNLINK', 'sortline:never-written')

-- Runs a command; returns its answer, or nil if the key has the wrong type. Raises any other error, e.g. a missing
-- permission.
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
    local value = tonumber(values and values[i] or 0) or 0
    found[i] = value >= 0 and value <= MOST and value or 0 -- not a number is neither
  end
  return unpack(found)
end

-- What the queue and the line hold now; nil if RQ's list has the wrong type. Jobs that were not counted are the
-- queue's, but not the line's.
local function read_load()
  local waiting = try('LLEN', QUEUE)
  if not waiting then return nil end
  waiting = waiting + (try('LLEN', SUSPECTS) or 0)
  local leased = try('ZCARD', LEASES) or 0
  local held = waiting + leased
  local counted, bytes, line_items, line_bytes = numbers(LOAD, 'items', 'bytes', LINE_ITEMS, LINE_BYTES)
  local scale = counted > 0 and held / counted or 0
  if counted - held > MANY_GONE and scale < MOST_GONE then
    redis.call('UNLINK', LOAD)
    if held > 0 then redis.call('HSET', LOAD, 'items', held, 'bytes', string.format('%.0f', bytes * scale)) end
    line_items, line_bytes = 0, 0
  elseif held == 0 and counted > 0 then
    redis.call('UNLINK', LOAD)
  end
  local line_scale = math.min(1, scale)
  return { waiting = waiting, leased = leased, held = held, bytes = bytes * scale,
    line_items = line_items * line_scale, line_bytes = line_bytes * line_scale }
end

local function is_recent(at, within_s)
  return now > 0 and math.abs(now - at) <= (within_s or RECENT_S)
end

-- How fast the workers sort, in images/s, and how many seconds a busy worker needs from the claim to the result. 0 if
-- no worker has reported it lately. And `places`: how many jobs can be answered before the shortest deadline of the
-- last seconds, if jobs of several lines come; nil if only one line came, or if nobody has a deadline.
local function read_flow()
  local capacity, needs_s, capacity_at, slack_s, slack_at, mixed_at =
    numbers(FLOW, 'capacity', 'needs_s', 'capacity_at', 'slack_s', 'slack_at', 'mixed_at')
  if not is_recent(capacity_at) then return { rate = 0, needs_s = 0 } end
  local has_places = capacity > 0 and slack_s > 0 and is_recent(slack_at) and is_recent(mixed_at, MIXED_S)
  return { rate = capacity, needs_s = needs_s, places = has_places and slack_s * capacity or nil }
end

-- Seconds until the workers have sorted so much; nil if that is not known.
local function time_for(amount, unit_s)
  return unit_s and amount * unit_s
end

-- Seconds that a job waits behind so many; 0 if the rate is not known.
local function wait_behind(count, flow)
  return flow.rate > 0 and math.min(MOST, count / flow.rate) or 0
end

-- Which of the bounds that depend on time a job would hit if so many jobs wait before it, and so many of its line are
-- held; and for how many seconds the workers must work until it would not. Nil if none.
local function time_bound(waiting, line_items, leased, flow, deadline)
  -- Under overload few jobs wait, as most of them are in a worker or were refused: a line's part is of both.
  local over_places = flow.places and line_items > 1 and line_items - line_share * flow.places or 0
  if over_places > 0 then return 'line', wait_behind(over_places, flow) end
  if waiting == 0 or flow.rate == 0 then return nil end
  local wait_s = wait_behind(waiting, flow)
  if wait_s > max_wait_s then return 'wait', wait_s - max_wait_s end
  local line_wait_s = wait_behind(line_items, flow)
  if line_wait_s > line_share * max_wait_s then return 'line', line_wait_s - line_share * max_wait_s end
  if deadline and deadline > now then
    -- An idle worker needs less than a busy one, but nobody has measured how much less.
    local late_s = now + wait_s + (leased > 0 and flow.needs_s or 0) - deadline
    if late_s > 0 then return 'deadline', late_s end
  end
end

-- Which bound a job would hit, and for how many seconds the workers must work until it would not, if that is known.
-- Nil if the job is taken. `load` includes the jobs before it. A job that is alone is never refused because of its
-- size.
local function bound_of(load, flow, size, deadline)
  local per_job_s = flow.rate > 0 and 1 / flow.rate or nil
  local per_byte_s = flow.rate > 0 and load.bytes > 0 and load.held / load.bytes / flow.rate or nil
  local over_items, over_bytes = load.waiting + 1 - max_items, load.bytes + size - max_bytes
  if over_items > 0 then return 'items', time_for(over_items, per_job_s) end
  if load.held > 0 and over_bytes > 0 then return 'bytes', time_for(over_bytes, per_byte_s) end
  if load.line_items > 0 then
    over_items = load.line_items + 1 - line_share * max_items
    over_bytes = load.line_bytes + size - line_share * max_bytes
    if over_items > 0 then return 'line', time_for(over_items, per_job_s) end
    if over_bytes > 0 then return 'line', time_for(over_bytes, per_byte_s) end
  end
  return time_bound(load.waiting, load.line_items, load.leased, flow, deadline)
end

-- Which bound the jobs of the whole call would hit, and of the calls that follow it at once. Nil if there is room for
-- all. They count as if all had the earliest deadline.
local function bound_of_call(load, flow, duplicates)
  local items, bytes = wanted_items - duplicates.items, wanted_bytes - duplicates.bytes
  if items <= 1 then return nil end -- it is the only one, and has been checked
  if load.waiting + items > max_items then return 'items' end
  if load.bytes + bytes > max_bytes then return 'bytes' end
  if load.line_items + items > line_share * max_items or load.line_bytes + bytes > line_share * max_bytes then
    return 'line'
  end
  return (time_bound(load.waiting + items - 1, load.line_items + items - 1, load.leased, flow, wanted_deadline))
end

-- How much of its bounds the queue uses, from 0 to 1 and more: of the bound that is used up most.
local function fill_of(load, flow, deadline)
  local wait_s = wait_behind(load.waiting, flow)
  local fill = math.max(load.waiting / max_items, load.bytes / max_bytes, load.line_items / max_items / line_share,
    load.line_bytes / max_bytes / line_share, wait_s / max_wait_s)
  if flow.places then fill = math.max(fill, load.line_items / flow.places / line_share) end
  if wait_s == 0 then return fill end
  if not deadline or deadline <= now then return fill end
  local left_s = deadline - now - flow.needs_s
  return left_s > 0 and math.max(fill, wait_s / left_s) or 1
end

local function bounded_ms(seconds)
  return math.ceil(1000 * math.max(MIN_RETRY_S, math.min(MAX_RETRY_S, seconds or DEFAULT_RETRY_S)))
end

-- The shortest time from now to a deadline of these jobs; nil if none has a deadline that has not passed.
local function shortest_slack(jobs)
  local shortest_s
  for _, job in ipairs(jobs) do
    local left_s = job[3] and job[3] - now or 0
    if left_s > 0 then shortest_s = math.min(shortest_s or left_s, left_s) end
  end
  return shortest_s
end

-- Counts what arrives, and notes the shortest time to a deadline, and whether jobs of several lines come.
local function note_arrivals(jobs, duplicates)
  if now == 0 or #jobs == 0 then return end
  local arrived, arrived_for, arrived_at, slack_s, slack_at =
    numbers(FLOW, 'arrived', 'arrived_for', 'arrived_at', 'slack_s', 'slack_at')
  local count = math.max(0, arriving - duplicates.items)
  local decay = math.exp(-math.max(0, now - (arrived_at > 0 and arrived_at or now)) / DECAY_S)
  local fields = { 'HSET', FLOW, 'arrived_at', string.format('%.6f', now) }
  local function set(field, value)
    fields[#fields + 1], fields[#fields + 2] = field, value
  end
  set('arrived', string.format('%.6f', arrived * decay + count))
  set('arrived_for', string.format('%.6f', arrived_for * decay + DECAY_S * (1 - decay)))
  local shortest_s = shortest_slack(jobs)
  if shortest_s and (shortest_s <= slack_s or not is_recent(slack_at)) then
    set('slack_s', string.format('%.6f', shortest_s))
    set('slack_at', string.format('%.6f', now))
  end
  local last_line = try('HGET', FLOW, 'line')
  if last_line ~= line then
    if last_line then set('mixed_at', string.format('%.6f', now)) end
    set('line', line)
  end
  redis.call(unpack(fields))
  redis.call('EXPIRE', FLOW, FLOW_TTL_S)
end

-- Counts what is about to be enqueued. If the counts can't be used, counting starts again.
local function count_taken(items, bytes)
  for field, amount in pairs({ items = items, bytes = bytes, [LINE_ITEMS] = items, [LINE_BYTES] = bytes }) do
    local answer = redis.pcall('HINCRBY', LOAD, field, amount)
    if type(answer) == 'table' and answer.err then redis.call('UNLINK', LOAD) end
  end
end

-- The status of a job; false if it is new: then it was not enqueued yet. If its key has a wrong type, the job is new,
-- and the second value is true.
local function status_of(job_key)
  local status = try('HGET', job_key, 'status')
  return status or false, status == nil
end

-- Decides about the jobs, each { index, size in bytes, deadline or nil }. `duplicates`: the number and the bytes of the
-- call's other jobs, which were enqueued before. Returns the indexes of the jobs that are taken, and the function's
-- answer. Nil if RQ's list has the wrong type.
local function admit(jobs, duplicates)
  local load = read_load()
  if not load then return nil end
  note_arrivals(jobs, duplicates)
  local flow = read_flow()
  local before = { waiting = load.waiting, leased = load.leased, held = load.held, bytes = load.bytes,
    line_items = load.line_items, line_bytes = load.line_bytes }
  local taken, refused, retry_s, fill = {}, {}, nil, #jobs > 0 and 0 or nil
  local function refuse(job, bound, excess_s)
    refused[#refused + 1] = job[1]
    refused[#refused + 1] = bound
    if #refused == 2 then retry_s = excess_s end
  end
  for _, job in ipairs(jobs) do
    local bound, excess_s = bound_of(load, flow, job[2], job[3])
    fill = math.max(fill, bound and 1 or fill_of(before, flow, job[3]))
    if bound then
      refuse(job, bound, excess_s)
    else
      taken[#taken + 1] = job[1]
      load.waiting, load.held, load.bytes = load.waiting + 1, load.held + 1, load.bytes + job[2]
      load.line_items, load.line_bytes = load.line_items + 1, load.line_bytes + job[2]
    end
  end
  local bound_of_all = not is_partial and #jobs > 0 and (refused[2] or bound_of_call(before, flow, duplicates)) or nil
  if bound_of_all then
    load, taken, refused = before, {}, {}
    for _, job in ipairs(jobs) do refuse(job, bound_of_all, retry_s) end
    fill = 1
  end
  local is_congested = fill and (fill >= CONGESTED and 1 or 0) or -1
  local wait_ms = math.ceil(1000 * math.min(1e9, wait_behind(load.waiting, flow)))
  local needs_ms = math.ceil(1000 * math.min(1e9, load.leased > 0 and flow.needs_s or 0))
  return taken, { load.waiting, math.floor(load.bytes), math.floor(load.line_items + 0.5), math.floor(load.line_bytes),
    wait_ms, needs_ms, math.floor(flow.places or 0), bounded_ms(retry_s), is_congested, unpack(refused) }
end

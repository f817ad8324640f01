-- Asks whether the queue would take jobs of one line, before their bytes are sent. It counts their arrival, but no job
-- is enqueued: one that would be taken must still be submitted. A job that was enqueued before is not refused.
--
-- KEYS  1 .. 7 as in admission.lua, then for each job: its hash
-- ARGV  1 .. 10 as in admission.lua, then for each job: length of the image, deadline ('' if there is none; server's
--       time)
--
-- Returns the answer of admission.lua, or an error if the queue's key has a wrong type.

local new, duplicates = {}, { items = 0, bytes = 0 }
for index = 0, #KEYS - FIRST_KEY do
  local argument = LAST_COMMON_ARGUMENT + 1 + 2 * index
  local size = tonumber(ARGV[argument])
  if status_of(KEYS[FIRST_KEY + index]) then
    duplicates.items, duplicates.bytes = duplicates.items + 1, duplicates.bytes + size
  else
    new[#new + 1] = { index, size, tonumber(ARGV[argument + 1]) }
  end
end
local _, answer = admit(new, duplicates)
return answer or redis.error_reply('WRONGTYPE ' .. QUEUE .. ' is not a list, as RQ keeps it: nothing can be enqueued. '
  .. 'Rename or delete the key.')

-- Gives unfinished jobs back to the front of their queues: a shutdown that can't wait. No attempt is used up.
--
-- ARGV  worker, now_iso, then queue, job_id, execution_id for each
-- Gives how many were given back (the others were lost before).
local worker, now_iso = ARGV[1], ARGV[2]
local released = 0
-- Backwards: each goes to the front, so the first is first again.
for i = #ARGV - 2, 3, -3 do
  local queue, job_id, execution_id = ARGV[i], ARGV[i + 1], ARGV[i + 2]
  if end_executions(queue, { { job_id, execution_id } }, worker)[1] then
    requeue(queue, job_id, now_iso)
    released = released + 1
  end
end
return released

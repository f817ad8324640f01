-- Gives unfinished jobs back to the front of their queues, for a shutdown that can't wait. It uses up no attempt.
--
-- ARGV  worker, now_iso, then queue, job_id, execution_id for each
-- Returns { how many were given back, problems }. The other leases were already lost, or their queue can't be used:
-- then they expire.
local worker, now_iso = ARGV[1], ARGV[2]
local released = 0
-- Backwards, as each job goes to the front: so the first job ends up first again.
for i = #ARGV - 2, 3, -3 do
  local queue, execution = ARGV[i], { ARGV[i + 1], ARGV[i + 2] }
  if is_usable(queue) and end_executions(queue, { execution }, worker)[1] and requeue(queue, execution[1], now_iso) then
    released = released + 1
  end
end
return { released, problems }

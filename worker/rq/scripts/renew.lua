-- Renews the leases of executions that are still registered.
--
-- ARGV  worker, now_iso, now_s, lease_s, then queue, job_id, execution_id for each
-- Returns { answers, problems }. One character for each execution, in order: 1 renewed, 0 lost.
local worker, now_iso, now_s, lease_s = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4])
local worker_executions = 'rq:worker:' .. worker .. ':executions'
local answers = {}

local function renew(position, queue, job_id, execution_id)
  local composite, expires_s = job_id .. ':' .. execution_id, server_now_s() + lease_s
  local executions = redis_pcall('ZADD', 'rq:executions:' .. job_id, 'XX', seconds(expires_s + 60), execution_id)
  local execution = redis_pcall('HSET', 'rq:execution:' .. composite, 'last_heartbeat', now_s)
  -- A new field means that the claim did not write the execution's own keys (claim.lua, for jobs it sets apart).
  if is_broken(executions) or is_broken(execution) or execution == 1 then
    write_execution(job_id, execution_id, worker, now_s, lease_s, expires_s)
  end
  redis_call('EXPIRE', 'rq:execution:' .. composite, lease_s + 60)
  redis_call('EXPIRE', 'rq:executions:' .. job_id, lease_s + 60)
  is_broken(redis_pcall('HSET', 'rq:job:' .. job_id, 'last_heartbeat', now_iso)) -- the finish will report it
  -- If the registry is broken, nobody can take the lease over.
  is_broken(redis_pcall('ZADD', 'rq:wip:' .. queue, 'XX', staggered(expires_s, position), composite))
end

redis_call('EXPIRE', worker_executions, lease_s + 60)
for i = 5, #ARGV, 3 do
  local queue, job_id, execution_id = ARGV[i], ARGV[i + 1], ARGV[i + 2]
  local is_held = held_executions(queue, { { job_id, execution_id } })[1]
  if is_held then renew(i, queue, job_id, execution_id) end
  answers[#answers + 1] = is_held and '1' or '0'
end
return { table.concat(answers), problems }

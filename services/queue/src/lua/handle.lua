-- Handles the events of schedules, reservations, payments and accounts. Each of them may come
-- twice, late, or before the event that it follows from.

-- More numbers than can have been drawn without an event in the stream.
local LOST_TICKETS = 1000000

-- An event that changes no place; only the inbox records it.
function writes.nothing() end

function writes.open(schedule, opens_at, starts_at, per_second, active_max, pass_secs, total)
  local room = key('room:', schedule)
  if redis.call('HSETNX', room, 'total', total) == 0 then
    return
  end
  redis.call('HSET', room, 'opens_at', opens_at, 'starts_at', starts_at,
    'per_second', per_second, 'active_max', active_max, 'pass_secs', pass_secs)
  redis.call('SADD', key('rooms'), schedule)
end

-- A cancellation that comes before the opening stands: a cancelled show does not open.
function writes.cancel(schedule)
  redis.call('HSET', key('room:', schedule), 'cancelled', '1')
  redis.call('SADD', key('rooms'), schedule)
end

-- A hold that is known already has its expiry.
local function end_hold(holds, reservation)
  if redis.call('HSET', holds, reservation, 0) == 1 then
    redis.call('EXPIRE', holds, HOLD_SECS)
  end
end

-- After the end of a hold, paid or not: the place completes, or its lease becomes what is left.
local function settle(schedule, fan, holds)
  if conclude(schedule, fan, holds) then
    return
  end
  local place = place_of(schedule, fan)
  if place and place.state == 'A' then
    lease(schedule, fan, place, holds)
  end
end

-- A fan who holds seats keeps the place until the hard cap of the hold. An end that comes first
-- leaves a zero, so the hold does not come back to life.
function writes.hold(schedule, fan, reservation, hard_cap)
  local holds = holds_of(schedule, fan)
  if redis.call('HSETNX', holds, reservation, hard_cap) == 0 then
    return
  end
  redis.call('EXPIRE', holds, HOLD_SECS)
  local place = place_of(schedule, fan)
  if place and place.state == 'A' then
    lease(schedule, fan, place, holds)
  end
end

function writes.release(schedule, fan, reservation)
  local holds = holds_of(schedule, fan)
  end_hold(holds, reservation)
  settle(schedule, fan, holds)
end

-- A paid reservation was cancelled, so its seats are on sale again.
function writes.unsell(schedule, fan, reservation)
  local sold = key('sold:', schedule)
  local seats = tonumber(redis.call('HGET', sold, reservation) or 0)
  redis.call('HSET', sold, reservation, 0)
  if seats > 0 then
    redis.call('HINCRBY', key('room:', schedule), 'sold', -seats)
  end
  writes.release(schedule, fan, reservation)
end

-- Counts the seats of a paid reservation.
function writes.sold(schedule, reservation, seats)
  if redis.call('HSETNX', key('sold:', schedule), reservation, seats) == 1 then
    redis.call('HINCRBY', key('room:', schedule), 'sold', seats)
  end
end

-- The fan has paid. Seats count as sold once for each reservation, and not at all when its
-- cancellation came first; while a room is rebuilt, the reservation service states the sold
-- seats. Ids of payments grow with time: the latest one is kept.
function writes.complete(schedule, fan, reservation, payment, requested_at, seats)
  if not ctx.is_restoring then
    writes.sold(schedule, reservation, seats)
  end
  local holds = holds_of(schedule, fan)
  -- All are read at once: `settle` needs them.
  redis.call('HVALS', holds)
  local known = string.match(redis.call('HGET', holds, 'paid') or '', '^%S+') or ''
  if payment > known then
    redis.call('HSET', holds, 'paid', payment .. ' ' .. requested_at)
  end
  end_hold(holds, reservation)
  settle(schedule, fan, holds)
end

-- The hold ended before the money came, so the fan returns to the front; it was not their fault.
-- This also holds when the place has expired meanwhile, or the fan has entered again at the end.
-- A fan who was admitted again since, left, or bought stays unchanged; the place of a fan who
-- bought with another hold and has no more holds completes. An event that comes again after it,
-- or a later one, has moved the place is late and changes nothing.
function writes.bring_back(schedule, fan, reservation, payment, requested_at)
  local holds = holds_of(schedule, fan)
  end_hold(holds, reservation)
  settle(schedule, fan, holds)
  local room, place = room_of(schedule), place_of(schedule, fan)
  if not room or not place or is_over(room) or payment <= place.payment then
    return
  end
  local score = redis.call('ZSCORE', key('waiting:', schedule), fan)
  local is_behind = place.state == 'W' and tonumber(score or 0) >= 0
  local has_lost = (place.state == 'A' and tonumber(requested_at) >= place.entered)
    or (place.state == 'E' and place.reason == 'timeout')
  if is_behind or has_lost then
    place.payment = payment
    bring_back(room, fan, place)
  end
end

function writes.withdraw(fan)
  redis.call('SET', key('gone:', fan), 1, 'EX', GONE_SECS)
  for _, schedule in ipairs(redis.call('SMEMBERS', key('rooms'))) do
    local place = place_of(schedule, fan)
    if place and not has_ended(place) then
      expire(schedule, fan, place, 'withdrawn')
    end
  end
end

-- A rebuild begins: what other services know better is forgotten, places are kept.
function writes.forget()
  for _, schedule in ipairs(redis.call('SMEMBERS', key('rooms'))) do
    redis.call('HDEL', key('room:', schedule), 'total', 'sold', 'cancelled')
    local sold = redis.call('HGETALL', key('sold:', schedule))
    for at = 1, #sold, 2 do
      redis.call('HDEL', key('sold:', schedule), sold[at])
    end
  end
end

-- A rebuild ends. Numbers that were drawn but whose events were lost stay below those that are
-- drawn from now on, so a fan who proves one keeps their position. A lost place had a version,
-- and the reservation service treats passes up to that version as void. So a fan who enters again
-- gets a version above the clock in milliseconds, which no place has ever counted up to.
function writes.rebuilt()
  for _, schedule in ipairs(redis.call('SMEMBERS', key('rooms'))) do
    local room = key('room:', schedule)
    redis.call('HINCRBY', room, 'tickets', LOST_TICKETS)
    redis.call('HSET', room, 'version_floor', whole(ctx.now))
  end
end

-- Rebuild: applies an event that this room emitted and has lost. The highest version wins, in
-- whatever order the events come; nothing is emitted again. The latest time of entering and the
-- latest payment win, whichever event has them.
function writes.adopt(schedule, fan, state, version, ticket, entered, reserve_until, reason, payment)
  local place = place_of(schedule, fan)
  version, ticket, entered = tonumber(version), tonumber(ticket), tonumber(entered)
  local room = key('room:', schedule)
  if ticket > tonumber(redis.call('HGET', room, 'tickets') or 0) then
    redis.call('HSET', room, 'tickets', whole(ticket))
  end
  local known = place and place.version or 0
  place = place or { ticket = 0, entered = 0, reserve_until = 0, saga = ctx.saga_id, payment = '-' }
  if payment > place.payment then
    place.payment = payment
  end
  if entered > place.entered or (entered == place.entered and ticket > place.ticket) then
    -- A later event may have come first, and only this one has the number.
    place.entered, place.ticket = entered, ticket
  end
  if known >= version then
    keep(schedule, fan, place)
    return
  end
  place.version, place.reason = version, reason
  place.state = state == 'R' and 'W' or state
  redis.call('ZREM', key('waiting:', schedule), fan)
  redis.call('ZREM', key('active:', schedule), fan)
  if state == 'W' then
    redis.call('ZADD', key('waiting:', schedule), whole(ticket), fan)
  elseif state == 'R' then
    local returned = redis.call('HINCRBY', room, 'returned', 1)
    redis.call('ZADD', key('waiting:', schedule), whole(FRONT + returned), fan)
  elseif state == 'A' then
    place.reserve_until = tonumber(reserve_until)
    lease(schedule, fan, place)
  end
  keep(schedule, fan, place)
  redis.call('SADD', key('rooms'), schedule)
end

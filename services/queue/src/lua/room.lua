-- A room and its places, as Valkey keeps them:
--
--   rooms                     set   schedules whose room may still have work to do
--   room:<schedule>           hash  opening times, pace, seats, counters
--   places:<schedule>         hash  fan -> place, one line of text (see `place_of`)
--   waiting:<schedule>        zset  fan by number; a returned fan has a negative one
--   active:<schedule>         zset  fan by the end of the lease
--   sold:<schedule>           hash  reservation -> paid seats; 0 once cancelled
--   holds:<schedule>:<fan>    hash  reservation -> its hard cap; 0 once it has ended or is paid
--                                   `paid` -> the latest completed payment, and when it was
--                                   requested
--   gone:<fan>                text  the account was closed a short while ago

-- Returned fans are ahead of every number ever drawn, in the order of their return.
local FRONT = -1000000000000
-- Holds are kept this long for events that come late.
local HOLD_SECS = 86400
-- A closed account cannot enter again with an access token that is still valid.
local GONE_SECS = 86400
-- A room that is over is forgotten after a month.
local OVER_SECS = 30 * 86400
-- The part of the pace that is carried into the next second.
local PACE_KEEPS = 0.7

local FIELDS = { 'opens_at', 'starts_at', 'per_second', 'active_max', 'pass_secs', 'total',
  'sold', 'tickets', 'returned', 'second', 'admitted', 'pace', 'since', 'version_floor' }

-- The room, or nil when its schedule is unknown.
local function room_of(schedule)
  local values = redis.call('HMGET', key('room:', schedule), 'cancelled', unpack(FIELDS))
  local room = { schedule = schedule, is_cancelled = values[1] == '1' }
  for at, field in ipairs(FIELDS) do
    room[field] = tonumber(values[at + 1])
  end
  return room.total and room or nil
end

local function set(room, field, value)
  room[field] = value
  redis.call('HSET', key('room:', room.schedule), field, value)
end

local function is_sold_out(room)
  return (room.sold or 0) >= room.total
end

-- Sales end with the start of the show, to the millisecond.
local function has_begun(room)
  return ctx.now >= room.starts_at
end

-- The show is cancelled or has begun: no fan will ever be admitted again.
local function is_over(room)
  return room.is_cancelled or has_begun(room)
end

-- `<state> <version> <number> <entered at> <reserve until> <saga> <payment> <reason>`;
-- state is W, A, C or E. The payment is the latest one that ever moved the place.
local function place_of(schedule, fan)
  local line = redis.call('HGET', key('places:', schedule), fan)
  if not line then
    return nil
  end
  local state, version, ticket, entered, reserve_until, saga, payment, reason =
    string.match(line, '^(%S+) (%S+) (%S+) (%S+) (%S+) (%S+) (%S+) (%S+)$')
  return {
    state = state,
    version = tonumber(version),
    ticket = tonumber(ticket),
    entered = tonumber(entered),
    reserve_until = tonumber(reserve_until),
    saga = saga,
    payment = payment,
    reason = reason,
  }
end

local function keep(schedule, fan, place)
  local line = string.format('%s %.0f %.0f %.0f %.0f %s %s %s', place.state, place.version,
    place.ticket, place.entered, place.reserve_until, place.saga, place.payment, place.reason)
  redis.call('HSET', key('places:', schedule), fan, line)
end

local function has_ended(place)
  return place.state == 'C' or place.state == 'E'
end

-- The key of a fan's holds. Callers pass it on: making it is expensive.
local function holds_of(schedule, fan)
  return key('holds:' .. schedule .. ':' .. fan)
end

-- The hard cap of the fan's longest known hold.
local function longest_hold(holds)
  local longest = 0
  for _, value in ipairs(redis.call('HVALS', holds)) do
    longest = math.max(longest, tonumber(value) or 0)
  end
  return longest
end

-- Whether a hold of the fan lives; no hold lives past its hard cap.
local function holds_seats(holds)
  return longest_hold(holds) > ctx.now
end

-- The payment that completes the place, or nil. A payment that was requested before the fan
-- entered belongs to an earlier place, and so does one that has ended a place before.
local function payment_of(holds, place)
  local paid = redis.call('HGET', holds, 'paid')
  if not paid then
    return nil
  end
  local payment, requested_at = string.match(paid, '^(%S+) (%S+)$')
  local is_of_this = payment ~= place.payment and tonumber(requested_at) >= place.entered
  return is_of_this and payment or nil
end

-- The data of an event about a place.
local function event_data(schedule, fan, place, more)
  more.schedule_id, more.user_id, more.place_version = schedule, fan, place.version
  return more
end

-- Sets the lease: it ends with the pass, or with the longest hold that was made under it.
local function lease(schedule, fan, place, holds)
  local ends = math.max(place.reserve_until, longest_hold(holds or holds_of(schedule, fan)))
  redis.call('ZADD', key('active:', schedule), whole(ends), fan)
end

local function second_of(room)
  return math.floor((ctx.now - room.opens_at) / 1000)
end

-- Fans admitted a second, lately: the seconds that have passed since the last admission count as
-- zero. -1 while no admission was measured.
local function pace_at(room, second)
  if not room.second or room.second < (room.since or room.second) then
    return -1
  end
  local passed = second - room.second
  if passed <= 0 then
    return room.pace or -1
  end
  local before = room.pace or room.admitted
  local pace = before * PACE_KEEPS + room.admitted * (1 - PACE_KEEPS)
  return pace * PACE_KEEPS ^ (passed - 1)
end

-- Called before a fan joins: an empty queue has no pace, and the pace of an earlier crowd does
-- not count.
local function forget_pace(room)
  if redis.call('ZCARD', key('waiting:', room.schedule)) == 0 then
    redis.call('HDEL', key('room:', room.schedule), 'pace')
    room.pace = nil
    set(room, 'since', second_of(room))
  end
end

local function activate(room, fan, place)
  place.state = 'A'
  place.version = place.version + 1
  place.reserve_until = math.min(ctx.now + room.pass_secs * 1000, room.starts_at)
  keep(room.schedule, fan, place)
  lease(room.schedule, fan, place)
  emit('queue.activated', room.schedule, fan,
    event_data(room.schedule, fan, place, { reserve_until = rfc3339(place.reserve_until) }),
    place.saga)
end

local function close(schedule, fan, place, state, reason)
  redis.call('ZREM', key(place.state == 'W' and 'waiting:' or 'active:', schedule), fan)
  place.state = state
  place.version = place.version + 1
  place.reason = reason
  keep(schedule, fan, place)
end

-- Ends a place. An end that a message causes belongs to the message's saga, one that a tick causes
-- to the place's.
local function expire(schedule, fan, place, reason, saga)
  close(schedule, fan, place, 'E', reason)
  emit('queue.expired', schedule, fan, event_data(schedule, fan, place, { reason = reason }), saga)
end

-- Completes a place that is paid, once no hold of its fan lives. Returns whether it did. While a
-- room is rebuilt not every event has been applied again, so nothing follows from one.
local function conclude(schedule, fan, holds, saga)
  local place = place_of(schedule, fan)
  if ctx.is_restoring or not place or has_ended(place) or holds_seats(holds) then
    return false
  end
  local payment = payment_of(holds, place)
  if not payment then
    return false
  end
  place.payment = payment > place.payment and payment or place.payment
  close(schedule, fan, place, 'C', '-')
  emit('queue.completed', schedule, fan,
    event_data(schedule, fan, place, { payment_id = payment }), saga)
  return true
end

-- Returns a fan to the front of the queue.
local function bring_back(room, fan, place)
  redis.call('ZREM', key('active:', room.schedule), fan)
  forget_pace(room)
  local returned = redis.call('HINCRBY', key('room:', room.schedule), 'returned', 1)
  redis.call('ZADD', key('waiting:', room.schedule), whole(FRONT + returned), fan)
  redis.call('SADD', key('rooms'), room.schedule)
  place.state = 'W'
  place.version = place.version + 1
  place.reason = '-'
  keep(room.schedule, fan, place)
  emit('queue.returned', room.schedule, fan, event_data(room.schedule, fan, place, {}))
end

-- The values from which Rust builds the answer.
local function seen(room, fan, place)
  local ahead = redis.call('ZRANK', key('waiting:', room.schedule), fan)
  return { place.state, whole(place.version), whole(place.ticket), whole(place.reserve_until),
    place.reason, whole(ahead or 0), whole(room.opens_at), tostring(pace_at(room, second_of(room))),
    whole(room.per_second), whole(room.active_max), whole(room.pass_secs) }
end

-- The queue: entering, looking, leaving, and what ticks do to it.

-- A tick comes this often; a second's worth of admissions is spread over its ticks.
local TICK_MILLIS = 100
-- The event of a hold made in the pass's last moment may still be on its way here.
local GRACE_MILLIS = 1000

-- One place a fan: a fan who has one gets it as the answer, however often they enter.
function writes.enter(schedule, fan, ticket)
  if redis.call('EXISTS', key('gone:', fan)) == 1 then
    return no('account_closing', 'The account is closed.')
  end
  local room = room_of(schedule)
  if not room then
    return not_yet('not_found', 'There is no such schedule.')
  end
  local place = place_of(schedule, fan)
  if place and not has_ended(place) then
    return seen(room, fan, place)
  end
  if room.is_cancelled then
    return no('schedule_cancelled', 'The show was cancelled.')
  end
  if has_begun(room) then
    return no('schedule_closed', 'The show has begun.')
  end
  if is_sold_out(room) then
    return no('sold_out', 'Every seat is sold.')
  end
  forget_pace(room)
  local number = tonumber(ticket)
  if not number or place then
    number = (room.tickets or 0) + 1
  end
  -- Otherwise the room has lost the place, and the fan's ticket proves its number.
  set(room, 'tickets', math.max(number, room.tickets or 0))
  place = {
    state = 'W',
    version = (place and place.version or room.version_floor or 0) + 1,
    ticket = number,
    entered = ctx.now,
    reserve_until = 0,
    saga = ctx.saga_id,
    payment = place and place.payment or '-',
    reason = '-',
  }
  redis.call('ZADD', key('waiting:', schedule), whole(number), fan)
  redis.call('SADD', key('rooms'), schedule)
  keep(schedule, fan, place)
  emit('queue.waiting', schedule, fan, event_data(schedule, fan, place,
    { ticket = number, entered_at = rfc3339(place.entered) }))
  return seen(room, fan, place)
end

-- A fan who holds seats must first give them back or pay for them.
function writes.leave(schedule, fan)
  local room, place = room_of(schedule), place_of(schedule, fan)
  if not room or not place then
    return no('not_found', 'You have no place in this room.')
  end
  if not has_ended(place) then
    if holds_seats(holds_of(schedule, fan)) then
      return no('holding_seats', 'Give your seats back, or pay for them, before you leave.')
    end
    expire(schedule, fan, place, 'left')
  end
  return seen(room, fan, place)
end

function reads.look(schedule, fan)
  local room, place = room_of(schedule), place_of(schedule, fan)
  if not room or not place then
    return no('not_found', 'You have no place in this room.')
  end
  return seen(room, fan, place)
end

-- How many fans the room may admit now: at most `per_second` in each second since it opened,
-- spread over that second, and never more than `active_max` at a time.
local function allowance(room)
  if ctx.now < room.opens_at then
    return 0
  end
  local second = second_of(room)
  local admitted = room.second == second and room.admitted or 0
  local into = ctx.now - room.opens_at - second * 1000
  local ticks = math.floor(into / TICK_MILLIS) + 1
  local due = math.ceil(room.per_second * ticks * TICK_MILLIS / 1000)
  local vacant = room.active_max - redis.call('ZCARD', key('active:', room.schedule))
  return math.min(due - admitted, vacant)
end

-- Whether a tick has anything to do. A room that is over and empty is put away.
local function is_due(room)
  local first = redis.call('ZRANGE', key('active:', room.schedule), 0, 0, 'WITHSCORES')
  if first[1] and (room.is_cancelled or tonumber(first[2]) + GRACE_MILLIS <= ctx.now) then
    return true
  end
  if is_over(room) and not first[1] then
    return true
  end
  if redis.call('ZCARD', key('waiting:', room.schedule)) == 0 then
    return false
  end
  return is_over(room) or is_sold_out(room) or allowance(room) > 0
end

function reads.due()
  local due = {}
  for _, schedule in ipairs(redis.call('SMEMBERS', key('rooms'))) do
    local room = room_of(schedule)
    if room and is_due(room) then
      due[#due + 1] = schedule
    end
  end
  return due
end

-- The rooms that may still have work to do, the longest queue first, at most `most` of them: for
-- each one the schedule, who waits, who is admitted, and what the expected wait depends on.
function reads.rooms(most)
  local rooms = {}
  for _, schedule in ipairs(redis.call('SMEMBERS', key('rooms'))) do
    local waiting = redis.call('ZCARD', key('waiting:', schedule))
    rooms[#rooms + 1] = { schedule = schedule, waiting = waiting }
  end
  table.sort(rooms, function(one, other)
    if one.waiting ~= other.waiting then
      return one.waiting > other.waiting
    end
    return one.schedule < other.schedule
  end)
  local seen = {}
  for at = 1, math.min(#rooms, tonumber(most)) do
    local room = room_of(rooms[at].schedule)
    if room then
      local pace = tostring(pace_at(room, second_of(room)))
      for _, value in ipairs({ room.schedule, whole(rooms[at].waiting),
        whole(redis.call('ZCARD', key('active:', room.schedule))), whole(room.opens_at), pace,
        whole(room.per_second), whole(room.active_max), whole(room.pass_secs) }) do
        seen[#seen + 1] = value
      end
    end
  end
  return seen
end

-- Why a place ends now. An admitted fan has until the pass runs out, at the latest until the show
-- begins.
local function end_of(room, place)
  if room.is_cancelled then
    return 'cancelled'
  end
  if place.state == 'W' then
    return has_begun(room) and 'closed' or 'sold_out'
  end
  return place.reserve_until >= room.starts_at and 'closed' or 'timeout'
end

-- The place of a fan who has paid does not expire but completes: another hold kept it, and the
-- event of that hold's end has not come.
local function expire_all(room, fans)
  for _, fan in ipairs(fans) do
    local place = place_of(room.schedule, fan)
    local may_be_paid = place.state == 'A' and not room.is_cancelled
    local holds = may_be_paid and holds_of(room.schedule, fan)
    if not holds or not conclude(room.schedule, fan, holds, place.saga) then
      expire(room.schedule, fan, place, end_of(room, place), place.saga)
    end
  end
  return #fans
end

local function admit(room, most)
  local allowed = math.min(allowance(room), most)
  if allowed <= 0 then
    return
  end
  local popped = redis.call('ZPOPMIN', key('waiting:', room.schedule), allowed)
  for at = 1, #popped, 2 do
    activate(room, popped[at], place_of(room.schedule, popped[at]))
  end
  local second, count = second_of(room), #popped / 2
  if count == 0 then
    return
  end
  if room.second ~= second then
    local pace = pace_at(room, second)
    if pace >= 0 then
      set(room, 'pace', tostring(pace))
    end
    set(room, 'second', second)
    set(room, 'admitted', 0)
  end
  set(room, 'admitted', room.admitted + count)
end

local function put_away(schedule)
  redis.call('SREM', key('rooms'), schedule)
  for _, name in ipairs({ 'room:', 'places:', 'sold:' }) do
    redis.call('EXPIRE', key(name, schedule), OVER_SECS)
  end
end

-- Expires places, ends those of a room that is over, and admits the next fans: at most `most`
-- places at a time.
function writes.tick(schedule, most)
  local room = room_of(schedule)
  if not room then
    return
  end
  local left = tonumber(most)
  local active, waiting = key('active:', schedule), key('waiting:', schedule)
  local upto = room.is_cancelled and '+inf' or whole(ctx.now - GRACE_MILLIS)
  local ended = redis.call('ZRANGEBYSCORE', active, '-inf', upto, 'LIMIT', 0, left)
  left = left - expire_all(room, ended)
  if left > 0 and (is_over(room) or is_sold_out(room)) then
    expire_all(room, redis.call('ZRANGE', waiting, 0, left - 1))
  else
    admit(room, left)
  end
  if is_over(room) and redis.call('EXISTS', active, waiting) == 0 then
    put_away(schedule)
  end
end

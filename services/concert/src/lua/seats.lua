-- The seat map of each schedule, as Valkey keeps it:
--
--   seats:<schedule>   hash  seat -> its latest update: `<hold version> <stage>`
--   taken:<schedule>   hash  `<section> held`, `<section> sold` -> how many seats
--   count:<schedule>   text  the sequence: the number of changes of the map
--   log:<schedule>     list  those changes as JSON, newest last, without a gap
--   off:<schedule>     text  set when the show is cancelled
--   schedules          set   all schedules that have a map
--
-- A freed seat keeps its update: the version in it is the fence against late messages of a
-- former owner.

-- How far one owner of a seat has come: the order of the stages.
local STAGES = { held = 1, sold = 2, freed = 3 }
-- Changes that are kept for watchers that were away for a while. A watcher that missed more,
-- or that comes back when the log has had no change for a day, reads the map.
local LOG_CHANGES = 10000
local LOG_SECS = 86400
-- Seats of one change at most.
local CHANGE_SEATS = 50
-- Changes returned by one read.
local READ_CHANGES = 200

-- The epoch of the map: the name of its generation.
local function epoch()
  return string.sub(ctx.at, #own('g') + 1)
end

-- What the map shows of a seat whose latest update has this stage.
local function state_of(stage)
  return stage == 'freed' and 'free' or stage
end

-- What the map shows of a seat now.
local function state_now(map, seat)
  local update = redis.call('HGET', map, seat)
  return update and state_of(string.match(update, ' (%a+)$')) or 'free'
end

local function section_of(seat)
  return string.match(seat, '^([^-]*)')
end

-- The later of two updates of one seat is that of the later owner, or of the later stage of
-- the same owner. The same update wins in any order of arrival and with any repeats.
local function is_later(version, stage, last)
  if not last then
    return true, 'free'
  end
  local last_version, last_stage = string.match(last, '^(%d+) (%a+)')
  last_version = tonumber(last_version)
  local later = version > last_version
    or (version == last_version and STAGES[stage] > STAGES[last_stage])
  return later, state_of(last_stage)
end

-- Moves seats of a section from one state to another.
local function count(schedule, section, state, by)
  if state ~= 'free' then
    redis.call('HINCRBY', key('taken:', schedule), section .. ' ' .. state, by)
  end
end

-- The current counts of these sections, as the change carries them.
local function taken_of(schedule, sections)
  local taken = {}
  for at, section in ipairs(sections) do
    local counts = redis.call('HMGET', key('taken:', schedule), section .. ' held',
      section .. ' sold')
    taken[at] = {
      section = section,
      held = tonumber(counts[1] or 0),
      sold = tonumber(counts[2] or 0),
    }
  end
  return taken
end

-- Adds one change to the map: announces it to watchers, and logs it for those that were away.
local function changes(schedule, what)
  redis.call('SADD', key('schedules'), schedule)
  local sequence = redis.call('INCR', key('count:', schedule))
  local change = string.format('{"sequence":%.0f,%s}', sequence, what)
  local log = key('log:', schedule)
  redis.call('RPUSH', log, change)
  redis.call('LTRIM', log, -LOG_CHANGES, -1)
  redis.call('EXPIRE', log, LOG_SECS)
  announce('concert.seats', schedule,
    string.format('{"epoch":"%s","delta":%s}', epoch(), change))
end

local function is_off(schedule)
  return redis.call('EXISTS', key('off:', schedule)) == 1
end

-- What this call has touched of a map: the states of seats before the call, and the seats in the
-- order in which they were touched.
local function touched(schedule)
  local map = key('seats:', schedule)
  local maps = ctx.touched or {}
  ctx.touched = maps
  if not maps[map] then
    maps[map] = { schedule = schedule, map = map, before = {}, seats = {}, at = ctx.at,
      keys = ctx.keys, is_silent = ctx.is_silent }
    maps[#maps + 1] = maps[map]
  end
  return maps[map]
end

-- Updates some seats. The event of a new owner that comes before the old one's end changes only
-- the fence.
function writes.mark(schedule, version, stage, ...)
  local seats, its_touched = { ... }, touched(schedule)
  if #seats == 0 then
    return
  end
  local map, before = its_touched.map, its_touched.before
  local updates = redis.call('HMGET', map, ...)
  local state = state_of(stage)
  for at, seat in ipairs(seats) do
    local later, last_state = is_later(tonumber(version), stage, updates[at])
    if later then
      redis.call('HSET', map, seat, version .. ' ' .. stage)
      if last_state ~= state then
        local section = section_of(seat)
        count(schedule, section, last_state, -1)
        count(schedule, section, state, 1)
        if not before[seat] then
          before[seat] = last_state
          its_touched.seats[#its_touched.seats + 1] = seat
        end
      end
    end
  end
end

-- Cancels the show; the seats are freed by events of their own.
function writes.off(schedule)
  if not is_off(schedule) then
    redis.call('SET', key('off:', schedule), 1)
    touched(schedule).is_off = true
  end
end

-- Adds these seats to the map's changes, with the counts of their sections.
local function change_seats(schedule, seats)
  local sections, has = {}, {}
  for _, changed in ipairs(seats) do
    local section = section_of(changed.seat)
    if not has[section] then
      has[section] = true
      sections[#sections + 1] = section
    end
  end
  changes(schedule, string.format('"sections":%s,"seats":%s',
    cjson.encode(taken_of(schedule, sections)), cjson.encode(seats)))
end

-- All that a call has changed of a map is one change, or as many as its seats need: a rush costs
-- watchers a change a call, and not one a ticket. A function that failed was rolled back on the
-- stage only, so what it touched is compared with what the map shows in the end. The cancellation
-- of a show is a change by itself.
function finish()
  for _, it in ipairs(ctx.touched or {}) do
    ctx.at, ctx.keys, ctx.is_silent = it.at, it.keys, it.is_silent
    local changed = {}
    for _, seat in ipairs(it.seats) do
      local state = state_now(it.map, seat)
      if state ~= it.before[seat] then
        changed[#changed + 1] = { seat = seat, state = state }
      end
      if #changed == CHANGE_SEATS then
        change_seats(it.schedule, changed)
        changed = {}
      end
    end
    if #changed > 0 then
      change_seats(it.schedule, changed)
    end
    if it.is_off and is_off(it.schedule) then
      changes(it.schedule, '"sections":[],"seats":[],"state":"cancelled"')
    end
  end
end

local function sequence_of(schedule)
  return tonumber(redis.call('GET', key('count:', schedule)) or 0)
end

-- The whole map: epoch, sequence, whether the show is cancelled, then each seat that is not
-- free and its state.
function reads.snapshot(schedule)
  local state = is_off(schedule) and 'cancelled' or 'open'
  local map = { epoch(), whole(sequence_of(schedule)), state }
  local updates = redis.call('HGETALL', key('seats:', schedule))
  for at = 1, #updates, 2 do
    local stage = string.match(updates[at + 1], '^%d+ (%a+)')
    if stage ~= 'freed' then
      map[#map + 1] = updates[at]
      map[#map + 1] = stage
    end
  end
  return map
end

-- How many seats of these schedules are held, and how many are sold.
function reads.taken(...)
  local held, sold = 0, 0
  for _, schedule in ipairs({ ... }) do
    local counts = redis.call('HGETALL', key('taken:', schedule))
    for at = 1, #counts, 2 do
      if string.match(counts[at], ' held$') then
        held = held + tonumber(counts[at + 1])
      else
        sold = sold + tonumber(counts[at + 1])
      end
    end
  end
  return { whole(held), whole(sold) }
end

-- The changes after a position in the map's history: epoch, sequence, whether that position is
-- known, then the changes in order.
function reads.since(schedule, its_epoch, its_sequence)
  local now, sequence = epoch(), sequence_of(schedule)
  local missing = sequence - tonumber(its_sequence)
  local log = key('log:', schedule)
  if its_epoch ~= now or missing < 0 or missing > redis.call('LLEN', log) then
    return { now, whole(sequence), 'gone' }
  end
  local answer = { now, whole(sequence), 'known' }
  if missing > 0 then
    local upto = math.min(-1, READ_CHANGES - 1 - missing)
    for _, change in ipairs(redis.call('LRANGE', log, -missing, upto)) do
      answer[#answer + 1] = change
    end
  end
  return answer
end

-- For a rebuild: the schedules of one part.
local function maps_of(part)
  local maps = {}
  for _, schedule in ipairs(redis.call('SMEMBERS', key('schedules'))) do
    if is_in(part, schedule) then
      maps[#maps + 1] = schedule
    end
  end
  return maps
end

-- Every stored update, one line each.
function reads.digest(part)
  local lines = {}
  for _, schedule in ipairs(maps_of(part)) do
    if is_off(schedule) then
      lines[#lines + 1] = schedule .. ' off'
    end
    local updates = redis.call('HGETALL', key('seats:', schedule))
    for at = 1, #updates, 2 do
      lines[#lines + 1] = schedule .. ' ' .. updates[at] .. ' ' .. updates[at + 1]
    end
  end
  return lines
end

-- The seat map of each schedule, as Valkey keeps it:
--
--   seats:<schedule>   hash  seat -> the last word on it: `<hold version> <stage>`
--   taken:<schedule>   hash  `<section> held`, `<section> sold` -> how many seats
--   count:<schedule>   text  the sequence: how many changes the map has seen
--   log:<schedule>     list  those changes as JSON, the newest last, without a hole
--   off:<schedule>     text  the show is off
--   schedules          set   all schedules that have a map
--
-- A freed seat keeps its word: the version in it is the fence that a late message of a
-- former owner meets.

-- How far one owner of a seat has come, in the order of the stages.
local STAGES = { held = 1, sold = 2, freed = 3 }
-- Changes that are kept for who was away for a while. A watcher who missed more, or who
-- comes back when the log has been silent for a day, reads the map.
local LOG_CHANGES = 10000
local LOG_SECS = 86400
-- Changes handed out by one read.
local READ_CHANGES = 500

-- Which making of the map this is: the name of its generation.
local function epoch()
  return string.sub(ctx.at, #own('g') + 1)
end

-- What the map shows of a seat whose last word has this stage.
local function state_of(stage)
  return stage == 'freed' and 'free' or stage
end

local function section_of(seat)
  return string.match(seat, '^([^-]*)')
end

-- The later of two words on one seat is that of the later owner, or of the later stage of
-- the same owner. Whatever the order of arrival, and however often each arrives, the same
-- word remains.
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
    redis.call('HINCRBY', key('taken:' .. schedule), section .. ' ' .. state, by)
  end
end

-- The sections as they are now, as the change tells them.
local function taken_of(schedule, sections)
  local taken = {}
  for at, section in ipairs(sections) do
    local counts = redis.call('HMGET', key('taken:' .. schedule), section .. ' held',
      section .. ' sold')
    taken[at] = {
      section = section,
      held = tonumber(counts[1] or 0),
      sold = tonumber(counts[2] or 0),
    }
  end
  return taken
end

-- One more change of the map, for whoever watches and for who was away.
local function changes(schedule, what)
  redis.call('SADD', key('schedules'), schedule)
  local sequence = redis.call('INCR', key('count:' .. schedule))
  local change = string.format('{"sequence":%.0f,%s}', sequence, what)
  local log = key('log:' .. schedule)
  redis.call('RPUSH', log, change)
  redis.call('LTRIM', log, -LOG_CHANGES, -1)
  redis.call('EXPIRE', log, LOG_SECS)
  announce('concert.seats', schedule,
    string.format('{"epoch":"%s","delta":%s}', epoch(), change))
end

-- A word on some seats. What it changes to the eye is one change of the map; a new owner
-- who is heard of before the old one has gone changes the fence alone.
function writes.mark(schedule, version, stage, ...)
  local seats, changed, sections, touched = { ... }, {}, {}, {}
  if #seats == 0 then
    return
  end
  local map = key('seats:' .. schedule)
  local words = redis.call('HMGET', map, ...)
  local state = state_of(stage)
  for at, seat in ipairs(seats) do
    local later, before = is_later(tonumber(version), stage, words[at])
    if later then
      redis.call('HSET', map, seat, version .. ' ' .. stage)
      if before ~= state then
        local section = section_of(seat)
        count(schedule, section, before, -1)
        count(schedule, section, state, 1)
        changed[#changed + 1] = { seat = seat, state = state }
        if not touched[section] then
          touched[section] = true
          sections[#sections + 1] = section
        end
      end
    end
  end
  if #changed == 0 then
    return
  end
  changes(schedule, string.format('"sections":%s,"seats":%s',
    cjson.encode(taken_of(schedule, sections)), cjson.encode(changed)))
end

local function is_off(schedule)
  return redis.call('EXISTS', key('off:' .. schedule)) == 1
end

-- The show is off, which is a change by itself; the seats are given back one by one.
function writes.off(schedule)
  if not is_off(schedule) then
    redis.call('SET', key('off:' .. schedule), 1)
    changes(schedule, '"sections":[],"seats":[],"state":"cancelled"')
  end
end

local function sequence_of(schedule)
  return tonumber(redis.call('GET', key('count:' .. schedule)) or 0)
end

-- The whole map: epoch, sequence, whether the show is off, then each seat that is not free and
-- its state.
function reads.snapshot(schedule)
  local state = is_off(schedule) and 'cancelled' or 'open'
  local map = { epoch(), whole(sequence_of(schedule)), state }
  local words = redis.call('HGETALL', key('seats:' .. schedule))
  for at = 1, #words, 2 do
    local stage = string.match(words[at + 1], '^%d+ (%a+)')
    if stage ~= 'freed' then
      map[#map + 1] = words[at]
      map[#map + 1] = stage
    end
  end
  return map
end

-- What came after a place in the map's history: epoch, sequence, whether that place is
-- known, then the changes in order.
function reads.since(schedule, its_epoch, its_sequence)
  local now, sequence = epoch(), sequence_of(schedule)
  local missing = sequence - tonumber(its_sequence)
  local log = key('log:' .. schedule)
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

-- For a rebuilding: the schedules that belong to a part.
local function maps_of(part)
  local maps = {}
  for _, schedule in ipairs(redis.call('SMEMBERS', key('schedules'))) do
    if is_in(part, schedule) then
      maps[#maps + 1] = schedule
    end
  end
  return maps
end

-- Every word that is kept, as one line each.
function reads.digest(part)
  local lines = {}
  for _, schedule in ipairs(maps_of(part)) do
    if is_off(schedule) then
      lines[#lines + 1] = schedule .. ' off'
    end
    local words = redis.call('HGETALL', key('seats:' .. schedule))
    for at = 1, #words, 2 do
      lines[#lines + 1] = schedule .. ' ' .. words[at] .. ' ' .. words[at + 1]
    end
  end
  return lines
end

-- What every service on Valkey remembers of the mesh: what it heard, what it answered,
-- what it told, and how far its relay has come.
--
-- The engine appends a service's own functions to this file and loads both as one library.
-- One call runs one act, and Valkey runs one call at a time: what an act claims, changes
-- and tells takes effect together, and is logged together, or not at all.
--
-- An act must decide before it writes: an error after a write would leave half of it.

-- All keys of a service share one hash tag and so one slot; KEYS[1] is that root.
local act

-- What the mesh keeps for the service, whatever the service itself knows.
local function own(name)
  return act.root .. ':' .. name
end

-- What the service knows. Where that can be built anew (`IS_REPLAYABLE`, said above this
-- file), it lies in the generation at hand, and the service's functions know of no other.
local function key(name)
  return act.at .. ':' .. name
end

-- The service's acts by name: `acts` may write, `reads` may not.
local acts, reads = {}, {}

-- Refusals: `no` is final, `not_yet` waits for what the act depends on.
local function no(code, detail)
  return { refusal = 'no', code = code, detail = detail }
end

local function not_yet(code, detail)
  return { refusal = 'not_yet', code = code, detail = detail }
end

-- A whole number as text: Lua alone would write 1e+14.
local function whole(number)
  return string.format('%.0f', number)
end

-- Milliseconds since 1970 as RFC 3339 (days to civil date after Howard Hinnant).
local function rfc3339(millis)
  local floor = math.floor
  local days = floor(millis / 86400000)
  local rest = millis - days * 86400000
  local shifted = days + 719468
  local era = floor(shifted / 146097)
  local day_of_era = shifted - era * 146097
  local year_of_era = floor((day_of_era - floor(day_of_era / 1460)
    + floor(day_of_era / 36524) - floor(day_of_era / 146096)) / 365)
  local day_of_year = day_of_era
    - (365 * year_of_era + floor(year_of_era / 4) - floor(year_of_era / 100))
  local month = floor((5 * day_of_year + 2) / 153)
  local day = day_of_year - floor((153 * month + 2) / 5) + 1
  month = month < 10 and month + 3 or month - 9
  local year = year_of_era + era * 400 + (month <= 2 and 1 or 0)
  return string.format('%04d-%02d-%02dT%02d:%02d:%02d.%03dZ', year, month, day,
    floor(rest / 3600000), floor(rest / 60000) % 60, floor(rest / 1000) % 60, rest % 1000)
end

-- A UUIDv7: the act's time, a counter, and the random half that the caller rolled.
local function new_id()
  act.ids = act.ids + 1
  local time = string.format('%012x', act.now)
  return string.format('%s-%s-7%03x-%s', string.sub(time, 1, 8), string.sub(time, 9),
    act.ids % 4096, act.seed)
end

-- Tells a fact: it joins the outbox in the step that makes it true. The saga is the
-- act's own, unless the fact continues another. What is made a second time is not told.
local function tell(fact, schedule, about, what, saga)
  if act.is_silent then
    return
  end
  act.told[fact] = true
  redis.call('XADD', own('outbox'), '*',
    'event_id', new_id(),
    'subject', 'onsale.' .. fact .. '.v1.' .. schedule,
    'payload', cjson.encode(what),
    'about', about,
    'saga_id', saga or act.saga_id,
    'cause_id', act.cause_id,
    'at', whole(act.now),
    'deliveries', act.deliveries,
    'traceparent', act.traceparent)
end

-- Says something (JSON) to whoever listens right now, under `live.<name>.<about>`; it is
-- kept nowhere. What is made a second time is news to nobody.
local function announce(name, about, what)
  if not act.restoring and not act.is_silent then
    local announced = act.announced
    announced[#announced + 1] = 'live.' .. name .. '.' .. about
    announced[#announced + 1] = what
  end
end

-- The inbox: one set of 16-byte event ids for each day in which the events were told (a
-- UUIDv7 begins with its time). A day is forgotten a week after its last use.
local INBOX_SECS = 8 * 86400

local function inbox(event_id)
  local millis = 0
  for at = 1, 6 do
    millis = millis * 256 + string.byte(event_id, at)
  end
  return key('inbox:' .. whole(math.floor(millis / 86400000)))
end

-- Answers to commands with an Idempotency-Key are kept for a day.
local ANSWER_MILLIS = 24 * 3600 * 1000

local function done(value)
  local told = {}
  for fact in pairs(act.told) do
    told[#told + 1] = fact
  end
  return { 'done', told, value or {}, act.announced }
end

local function begin(keys, args)
  act = {
    root = keys[1],
    at = keys[1],
    now = tonumber(args[2]),
    seed = args[3],
    event_id = args[4],
    saga_id = args[5],
    cause_id = args[6],
    traceparent = args[7],
    scope = args[8],
    body = args[9],
    restoring = args[10] == '1',
    deliveries = args[11],
    ids = 0,
    told = {},
    announced = {},
  }
  local given = {}
  for at = 12, #args do
    given[#given + 1] = args[at]
  end
  return args[1], given
end

-- From here on `key` speaks of this generation.
local function stand_on(generation)
  act.at = own('g' .. generation)
end

-- Whether a thing belongs to a part of what is compared or carried over: by the end of its id.
local function is_in(part, id)
  return string.sub(id, -2) == part
end

-- Whether there is a store that knows all that it should; one that was emptied must not act
-- on nothing as if that were the truth. `whole` names the live generation, where there are
-- generations.
local function is_whole()
  local live = redis.call('GET', own('whole'))
  if live and IS_REPLAYABLE then
    stand_on(live)
  end
  return live
end

-- Decides one act where we stand, unless its event was heard there before. The inbox lies
-- with what was made of it: what one generation has heard another may not have.
local function decide(name, given)
  local day = act.event_id ~= '' and inbox(act.event_id)
  if day and redis.call('SISMEMBER', day, act.event_id) == 1 then
    return 'repeat'
  end
  local value = acts[name](unpack(given)) or {}
  if value.refusal then
    return value.refusal, value
  end
  if day then
    redis.call('SADD', day, act.event_id)
    redis.call('EXPIRE', day, INBOX_SECS)
  end
  return 'done', value
end

-- A decision as the caller reads it.
local function ending(how, value)
  if how == 'done' then
    return done(value)
  elseif how == 'repeat' then
    return { 'repeat' }
  end
  return { how, value.code, value.detail or '' }
end

-- What is taken in while a shadow is built is taken in there as well, in the same step. What
-- the shadow refuses for now, because it has not come so far, is still before it in a stream.
-- A shadow that fails is given up; the live generation has done its part.
local function mirror(name, given)
  local shadow = IS_REPLAYABLE and redis.call('GET', own('shadow'))
  if not shadow then
    return
  end
  stand_on(shadow)
  act.is_silent = true
  if not pcall(decide, name, given) then
    redis.call('DEL', own('shadow'))
  end
end

-- Runs one act: what was heard before is a repeat, what was answered before is answered
-- the same, and everything else is decided once.
local function run(keys, args)
  local name, given = begin(keys, args)
  if not is_whole() and (IS_REPLAYABLE or not act.restoring) then
    return { 'lost' }
  end
  local answer = act.scope ~= '' and own('answer:' .. act.scope)
  local before = answer and redis.call('GET', answer)
  if before then
    local kept = cmsgpack.unpack(before)
    if kept.body ~= act.body then
      return { 'reused' }
    end
    return done(kept.value)
  end
  local how, value = decide(name, given)
  if answer and how == 'done' then
    local kept = cmsgpack.pack({ body = act.body, value = value })
    redis.call('SET', answer, kept, 'PX', ANSWER_MILLIS)
  end
  local ended = ending(how, value)
  mirror(name, given)
  return ended
end

local function read(keys, args)
  local name, given = begin(keys, args)
  if not is_whole() then
    return { 'lost' }
  end
  local value = reads[name](unpack(given)) or {}
  if value.refusal then
    return { value.refusal, value.code, value.detail or '' }
  end
  return done(value)
end

-- The relay. It holds the outbox by a lease that lapses with it; the token in the lease
-- fences a relay that was paused for longer than that.
local relay = {}

function relay.take(token, ttl)
  local is_taken = redis.call('SET', own('relay:lease'), token, 'NX', 'PX', ttl)
  return { is_taken and token or nil }
end

local function holds(token, ttl)
  if redis.call('GET', own('relay:lease')) ~= token then
    return false
  end
  redis.call('PEXPIRE', own('relay:lease'), ttl)
  return true
end

function relay.release(token)
  if redis.call('GET', own('relay:lease')) == token then
    redis.call('DEL', own('relay:lease'))
  end
  return {}
end

-- Positions are kept by stream sequence, so that the relay can go back to what a stream
-- still has. Equal sequences are ordered by cursor, which is why cursors have leading zeros.
local POSITIONS = 4096

function relay.position(token, ttl)
  if not holds(token, ttl) then
    return { 'gone' }
  end
  local newest = redis.call('ZREVRANGE', own('relay:log'), 0, 0, 'WITHSCORES')
  return { 'held', newest[1] or '', newest[2] or '0' }
end

function relay.read(token, ttl, after, limit)
  if not holds(token, ttl) then
    return { 'gone' }
  end
  return { 'held', redis.call('XRANGE', own('outbox'), '(' .. after, '+', 'COUNT', limit) }
end

function relay.advance(token, ttl, cursor, stream_seq)
  if not holds(token, ttl) then
    return { 'gone' }
  end
  redis.call('ZADD', own('relay:log'), stream_seq, cursor)
  redis.call('ZREMRANGEBYRANK', own('relay:log'), 0, -POSITIONS - 1)
  return { 'held' }
end

function relay.rewind(token, ttl, last_seq)
  if not holds(token, ttl) then
    return { 'gone' }
  end
  redis.call('ZREMRANGEBYSCORE', own('relay:log'), '(' .. last_seq, '+inf')
  return relay.position(token, ttl)
end

-- Told facts are kept for `keep` milliseconds, and for less when there are more than
-- `most` of them; what the relay has not published yet is kept in any case.
function relay.trim(keep, most)
  local newest = redis.call('ZREVRANGE', own('relay:log'), 0, 0)[1]
  if not newest then
    return {}
  end
  local published = tonumber(string.sub(newest, 1, 20))
  keep = tonumber(keep)
  repeat
    local before = math.min(published, act.now - keep)
    redis.call('XTRIM', own('outbox'), 'MINID', '~', whole(math.max(before, 0)), 'LIMIT', 0)
    keep = math.floor(keep / 2)
  until keep < 1000 or redis.call('XLEN', own('outbox')) <= tonumber(most)
  return {}
end

-- Writes a value if it still is what the caller last saw (`''`: nothing at all).
function relay.swap(name, seen, new)
  if (redis.call('GET', own(name)) or '') ~= seen then
    return { 0 }
  end
  redis.call('SET', own(name), new)
  return { 1 }
end

-- Says that the store knows all that it should: at the first start, or rebuilt.
function relay.seal()
  redis.call('SET', own('whole'), whole(act.now))
  return {}
end

-- Building anew. A shadow is a generation that is being made of what was told, next to the
-- live one; `generations` names all that were ever begun and may still have keys. Whoever
-- builds is fenced by the shadow's name, which is never used again, and by a lease: one that
-- was paused for longer, or whose store was emptied, finds that its shadow is gone.
local SHADOW_MILLIS = 30000

local function builds(generation)
  if redis.call('GET', own('shadow')) ~= generation then
    return false
  end
  redis.call('PEXPIRE', own('shadow'), SHADOW_MILLIS)
  return true
end

function relay.begin_shadow(generation)
  if not redis.call('SET', own('shadow'), generation, 'NX', 'PX', SHADOW_MILLIS) then
    return { 0 }
  end
  redis.call('SADD', own('generations'), generation)
  return { 1 }
end

function relay.give_up_shadow(generation)
  if redis.call('GET', own('shadow')) == generation then
    redis.call('DEL', own('shadow'))
  end
  return {}
end

-- From one call to the next, everybody reads and writes what was the shadow.
function relay.swap_in_shadow(generation)
  if not builds(generation) then
    return { 0 }
  end
  redis.call('SET', own('whole'), generation)
  redis.call('DEL', own('shadow'))
  return { 1 }
end

-- The lines of `reads.digest` that only the live generation has, and those that only the
-- shadow has, of the things whose ids end in `part`. Nothing can happen between the two.
function relay.compare_shadow(generation, part)
  local live = redis.call('GET', own('whole'))
  if not live or not builds(generation) then
    return { 'gone' }
  end
  stand_on(live)
  local before, is_before = reads.digest(part), {}
  stand_on(generation)
  local after, is_after = reads.digest(part), {}
  for _, line in ipairs(before) do
    is_before[line] = true
  end
  local gone, new = {}, {}
  for _, line in ipairs(after) do
    is_after[line] = true
    if not is_before[line] then
      new[#new + 1] = line
    end
  end
  for _, line in ipairs(before) do
    if not is_after[line] then
      gone[#gone + 1] = line
    end
  end
  return { 'held', gone, new }
end

-- What the streams have forgotten and the live generation still knows is carried over to the
-- shadow: `reads.carry` names it as calls of `acts.carried`. It is given since when each
-- stream has what was told.
function relay.carry_over(generation, part, ...)
  local live = redis.call('GET', own('whole'))
  if not builds(generation) then
    return { 'gone' }
  elseif not live or not reads.carry then
    return { 'held', '0' }
  end
  stand_on(live)
  local rows = reads.carry(part, ...)
  stand_on(generation)
  act.is_silent = true
  for _, row in ipairs(rows) do
    acts.carried(unpack(row))
  end
  return { 'held', whole(#rows) }
end

-- Takes a stored fact into the shadow, and into nothing else. The shadow's name comes where
-- other calls have their idempotency key.
local function feed(keys, args)
  local name, given = begin(keys, args)
  if not builds(act.scope) then
    return { 'lost' }
  end
  stand_on(act.scope)
  act.is_silent = true
  return ending(decide(name, given))
end

local function serve(keys, args)
  local name, given = begin(keys, args)
  return relay[name](unpack(given))
end

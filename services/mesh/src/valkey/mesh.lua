-- What a service's functions have at hand, and how one act of theirs is decided.
--
-- The engine appends the other files of the mesh and a service's own functions to this one
-- and loads them as one library. One call runs a batch, and Valkey runs one call at a time:
-- what a message claims, changes and emits takes effect together, and is logged together. An
-- act that fails or refuses leaves nothing (`stage.lua`), and its neighbours are unharmed.

-- All keys of a service share one hash tag and so one slot; KEYS[1] is that root.
local ctx

-- What the mesh keeps for the service, whatever the service itself knows.
local function own(name)
  return ctx.root .. ':' .. name
end

-- What the service knows. Where that can be built anew (`IS_REPLAYABLE`, said above this
-- file), it lies in the generation at hand, and the service's functions know of no other.
local function key(name)
  return ctx.at .. ':' .. name
end

-- The service's acts by name: `acts` may write, `reads` may not. `serves` is the mesh's own.
local writes, reads, serves = {}, {}, {}

-- Refusals: `no` is final, `not_yet` waits for what the act depends on.
local function no(code, detail)
  return { refusal = 'no', code = code, detail = detail }
end

local function not_yet(code, detail)
  return { refusal = 'not_yet', code = code, detail = detail }
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

-- A UUIDv7: the call's time and a counter, and the random half that the caller rolled.
local function new_id()
  ctx.ids = ctx.ids + 1
  local time = string.format('%012x', ctx.now + math.floor(ctx.ids / 4096))
  return string.format('%s-%s-7%03x-%s', string.sub(time, 1, 8), string.sub(time, 9),
    ctx.ids % 4096, ctx.seed)
end

-- Emits an event: it joins the outbox in the step that makes it true. The saga is the
-- act's own, unless the event continues another. What is made a second time is not emitted.
-- The members are those of the crate `events`, in their order.
local function tell(fact, schedule, about, what, saga)
  if ctx.is_silent then
    return
  elseif ctx.may_tell and not string.find(ctx.may_tell, ' ' .. fact .. ' ', 1, true) then
    error(fact .. ' is not declared as a consequence here', 0)
  end
  local data = cjson.encode(what)
  if #data > EVENT_BYTES_MAX then
    error(fact .. ' of ' .. #data .. ' bytes fits in no message', 0)
  end
  local kind, optional = 'onsale.' .. fact .. '.v1', ''
  if ctx.cause_id then
    optional = ',"causationid":"' .. ctx.cause_id .. '"'
  end
  if ctx.traceparent then
    optional = optional .. ',"traceparent":"' .. ctx.traceparent .. '"'
  end
  if ctx.attempt then
    optional = optional .. ',"attempt":' .. ctx.attempt
  end
  local told = ctx.told
  told[#told + 1] = kind .. '.' .. schedule
  told[#told + 1] = '{"specversion":"1.0","id":"' .. new_id() .. '","source":"' .. SOURCE
    .. '","type":"' .. kind .. '","time":"' .. ctx.time .. '","subject":"' .. about
    .. '","sagaid":"' .. (saga or ctx.saga_id) .. '"' .. optional .. ',"data":' .. data .. '}'
end

-- Says something (JSON) to whoever listens right now, under `live.<name>.<about>`; it is
-- kept nowhere. What is made a second time is news to nobody.
local function announce(name, about, what)
  if not ctx.is_restoring and not ctx.is_silent then
    local announced = ctx.announced
    announced[#announced + 1] = 'live.' .. name .. '.' .. about
    announced[#announced + 1] = what
  end
end

-- Whether a thing belongs to a part of what is compared or carried over: by the end of its id.
local function is_in(part, id)
  return string.sub(id, -2) == part
end

-- What every call begins with.
local function begin(keys, args)
  open_stage()
  ctx = {
    root = keys[1],
    at = keys[1],
    now = tonumber(args[1]),
    time = args[2],
    seed = args[3],
    is_restoring = args[4] == '1',
    ids = 0,
    told = {},
    announced = {},
    parked = {},
  }
end

-- From here on `key` speaks of this generation.
local function stand_on(generation)
  ctx.at = own('g' .. generation)
end

-- Whether there is a store that knows all that it should; one that was emptied must not act
-- on nothing as if that were the truth. `whole` names the live generation, where there are
-- generations.
local function is_whole()
  local live = call('GET', own('whole'))
  if live and IS_REPLAYABLE then
    stand_on(live)
  end
  return live
end

-- An inbox: one set of 16-byte ids for each day in which they were made (a UUIDv7 begins with
-- its time). A day is forgotten when no stream has its messages and no outbox sends them again.
local KEPT_SECS = 16 * 86400

local function day_of(id)
  local a, b, c, d, e, f = string.byte(id, 1, 6)
  local millis = ((((a * 256 + b) * 256 + c) * 256 + d) * 256 + e) * 256 + f
  return 'inbox:' .. whole(math.floor(millis / 86400000))
end

local function is_in_inbox(day, id)
  return value_of(image_of(day, SET), id)
end

local function claim(day, id)
  local inbox = image_of(day, SET)
  assign(inbox, id, id)
  expire(inbox, KEPT_SECS * 1000)
end

-- Where a generation can be made of events one by one, it has an inbox of them: what one
-- generation has taken in another may not have.
local function is_repeat(entry)
  return entry.day and is_in_inbox(key(entry.day), entry.event_id)
end

local function cause_of(failure)
  return type(failure) == 'table' and failure.err or tostring(failure)
end

-- How far the call has come, and a return to there.
local function mark()
  return { noted, #ctx.told, #ctx.announced, #ctx.parked }
end

local function cut(list, length)
  for at = #list, length + 1, -1 do
    list[at] = nil
  end
end

local function return_to(mark)
  take_back(mark[1])
  cut(ctx.told, mark[2])
  cut(ctx.announced, mark[3])
  cut(ctx.parked, mark[4])
end

-- Decides one act where we stand. What it wrote and said is taken back unless it is done.
local function decide(entry)
  if is_repeat(entry) then
    return 'repeat'
  end
  local before = mark()
  ctx.saga_id, ctx.cause_id, ctx.traceparent = entry.saga_id, entry.cause_id, entry.traceparent
  ctx.may_tell, ctx.attempt = entry.may_tell, entry.attempt
  local is_ok, value = pcall(writes[entry.name], unpack(entry.args))
  local refusal = is_ok and value and value.refusal
  if not is_ok or refusal then
    return_to(before)
  elseif entry.day then
    claim(key(entry.day), entry.event_id)
  end
  if not is_ok then
    return 'failed', { code = cause_of(value) }
  end
  return refusal or 'done', value or {}
end

-- What is taken in while a shadow is built is taken in there as well, in the same step. What
-- the shadow refuses for now, because it has not come so far, is still before it in a stream.
-- A shadow that fails is given up; the live generation has done its part.
local function mirror(entry)
  if not ctx.shadow then
    return
  end
  local live = ctx.at
  stand_on(ctx.shadow)
  ctx.is_silent = true
  if decide(entry) == 'failed' then
    call('DEL', own('shadow'))
    ctx.shadow = nil
  end
  ctx.at, ctx.is_silent = live, false
end

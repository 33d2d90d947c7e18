-- What a service's functions can use, and how one of them is run.
--
-- The engine joins the files of the mesh and a service's own functions and loads them as one
-- library. One call runs a batch, and Valkey runs one call at a time: what a message claims,
-- changes and emits takes effect together, and is logged together. A function that fails or
-- refuses leaves nothing (`stage.lua`) and does not affect the others of its batch.

-- The context of the call at work. All keys of a service share one hash tag and so one slot;
-- KEYS[1] is that root. In `ctx.known` a service's functions may keep what they have read, with
-- every change of it, for the next ones of the call; it is dropped when one of them fails.
local ctx

-- A key of the mesh's own, beside the service's state.
local function own(name)
  return ctx.root .. ':' .. name
end

-- A key of the service's state: a name, and what it is of. Where that can be rebuilt
-- (`IS_REPLAYABLE`, defined above this file), the key lies in the current generation; the service's
-- functions see no other. Most events of a call are of one thing, so names are made once.
local function key(name, of)
  if not of then
    assert(string.byte(name, -1) ~= 58, 'a key of nothing')
    return ctx.at .. ':' .. name
  end
  local known = ctx.keys[name]
  if not known then
    known = {}
    ctx.keys[name] = known
  end
  local made = known[of]
  if not made then
    made = ctx.at .. ':' .. name .. of
    known[of] = made
  end
  return made
end

-- The functions by name: those in `writes` may write, those in `reads` may not. `serves` has the
-- mesh's own.
local writes, reads, serves = {}, {}, {}

-- What a service does once at the end of each call, after all its functions.
local finish = function() end

-- Refusals: `no` is final, `not_yet` waits for what the function depends on.
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

-- A UUIDv7: the call's time and a counter, and the random half that the caller sent.
local function new_id()
  ctx.ids = ctx.ids + 1
  local at = ctx.ids % 4096
  if at == 0 or not ctx.id_begins then
    local time = string.format('%012x', ctx.now + math.floor(ctx.ids / 4096))
    ctx.id_begins = string.sub(time, 1, 8) .. '-' .. string.sub(time, 9) .. '-7'
  end
  return ctx.id_begins .. string.format('%03x-', at) .. ctx.seed
end

-- What `ctx.traceparent` is as long as when each emitted event gets a span of its own: the version
-- and the trace.
local TRACE_CHARS = 36

-- The context that an event carries. The id of a span is made from that of the event, which no
-- other event has; the engine reads it there and records the span (`spans.rs`).
local function context_of(id)
  local traceparent = ctx.traceparent
  if #traceparent ~= TRACE_CHARS then
    return traceparent
  end
  return traceparent .. string.sub(id, 10, 13) .. string.sub(id, 16, 18) .. string.sub(id, 28)
    .. '-01'
end

-- Emits an event: it is written to the outbox in the same step as the state. The saga is that
-- of the work at hand, unless the event continues another. A shadow emits nothing. The members
-- are those of the crate `events`, in their order.
local function emit(event, schedule, about, what, saga)
  if ctx.is_silent then
    return
  elseif ctx.may_emit and not string.find(ctx.may_emit, ' ' .. event .. ' ', 1, true) then
    error(event .. ' is not declared as a consequence here', 0)
  end
  local data = cjson.encode(what)
  if #data > EVENT_BYTES_MAX then
    error(event .. ' of ' .. #data .. ' bytes fits in no message', 0)
  end
  local id, kind, optional = new_id(), 'onsale.' .. event .. '.v1', ''
  if ctx.cause_id then
    optional = ',"causationid":"' .. ctx.cause_id .. '"'
  end
  if ctx.traceparent then
    optional = optional .. ',"traceparent":"' .. context_of(id) .. '"'
  end
  if ctx.attempt then
    optional = optional .. ',"attempt":' .. ctx.attempt
  end
  local emitted = ctx.emitted
  emitted[#emitted + 1] = kind .. '.' .. schedule
  emitted[#emitted + 1] = '{"specversion":"1.0","id":"' .. id .. '","source":"' .. SOURCE
    .. '","type":"' .. kind .. '","time":"' .. ctx.time .. '","subject":"' .. about
    .. '","sagaid":"' .. (saga or ctx.saga_id) .. '"' .. optional .. ',"data":' .. data .. '}'
end

-- Publishes an announcement (JSON) under `live.<name>.<about>` to current subscribers; it is
-- stored nowhere. A rebuild announces nothing.
local function announce(name, about, what)
  if not ctx.is_restoring and not ctx.is_silent then
    local announced = ctx.announced
    announced[#announced + 1] = 'live.' .. name .. '.' .. about
    announced[#announced + 1] = what
  end
end

-- Whether an entity belongs to a part of what is compared or carried over, by the end of its id.
local function is_in(part, id)
  return string.sub(id, -2) == part
end

-- Begins a call.
local function begin(keys, args)
  open_stage()
  ctx = {
    root = keys[1],
    at = keys[1],
    keys = {},
    known = {},
    now = tonumber(args[1]),
    time = args[2],
    seed = args[3],
    is_restoring = args[4] == '1',
    ids = 0,
    emitted = {},
    announced = {},
    parked = {},
  }
end

-- From here on, `key` names keys of this generation.
local function stand_on(generation)
  ctx.at, ctx.keys, ctx.known = own('g' .. generation), {}, {}
end

-- Whether the store is complete; an emptied one must not decide as if nothing had ever happened.
-- `whole` names the live generation, where there are generations.
local function is_whole()
  local live = call('GET', own('whole'))
  if live and IS_REPLAYABLE then
    stand_on(live)
  end
  return live
end

-- An inbox: one set of 16-byte ids for each day on which they were created (a UUIDv7 begins with
-- its time). A day expires when no stream has its messages any more and no outbox can publish
-- them again.
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

-- Where generations are built from single events, each has an inbox of events: what one
-- generation has taken in, another may not have.
local function is_repeat(entry)
  return entry.day and is_in_inbox(key(entry.day), entry.event_id)
end

local function cause_of(failure)
  return type(failure) == 'table' and failure.err or tostring(failure)
end

-- A savepoint of the call, to return to: four numbers, since a table for each event costs much.
local function mark()
  return noted, #ctx.emitted, #ctx.announced, #ctx.parked
end

local function cut(list, length)
  for at = #list, length + 1, -1 do
    list[at] = nil
  end
end

local function return_to(noted_at, emitted_at, announced_at, parked_at)
  take_back(noted_at)
  ctx.known = {}
  cut(ctx.emitted, emitted_at)
  cut(ctx.announced, announced_at)
  cut(ctx.parked, parked_at)
end

-- Runs one function on the current generation. What it wrote, emitted and announced is rolled
-- back unless it ends as done.
local function decide(entry)
  if is_repeat(entry) then
    return 'repeat'
  end
  local noted_at, emitted_at, announced_at, parked_at = mark()
  ctx.saga_id, ctx.cause_id, ctx.traceparent = entry.saga_id, entry.cause_id, entry.traceparent
  ctx.may_emit, ctx.attempt = entry.may_emit, entry.attempt
  local is_ok, value = pcall(writes[entry.name], unpack(entry.args))
  local refusal = is_ok and value and value.refusal
  if not is_ok or refusal then
    return_to(noted_at, emitted_at, announced_at, parked_at)
  elseif entry.day then
    claim(key(entry.day), entry.event_id)
  end
  if not is_ok then
    return 'failed', { code = cause_of(value) }
  end
  return refusal or 'done', value or {}
end

-- While a shadow is built, it takes in what the live generation takes in, in the same step. What
-- it refuses for now, because it is not that far yet, it will still read from a stream. A shadow
-- that fails is given up; the live generation is not affected.
local function mirror(entry)
  if not ctx.shadow then
    return
  end
  local live, keys, known = ctx.at, ctx.keys, ctx.known
  stand_on(ctx.shadow)
  ctx.is_silent = true
  if decide(entry) == 'failed' then
    call('DEL', own('shadow'))
    ctx.shadow = nil
  end
  ctx.at, ctx.keys, ctx.known, ctx.is_silent = live, keys, known, false
end

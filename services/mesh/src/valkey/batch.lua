-- A batch: messages and commands in their order, each of them wholly or not at all.

-- A call leaves what it has not begun after so long to the next one: meanwhile nobody else is
-- answered.
local CALL_SECS = 0.02

-- One event or command of a message: how it is read here, `call.rs` writes.
local function next_entry(at)
  local entry = {
    at = at,
    name = next_arg(),
    event_id = next_arg(),
    saga_id = next_arg(),
    cause_id = next_arg(),
    traceparent = next_arg(),
    may_tell = next_arg(),
    attempt = next_arg(),
    key = next_arg(),
    envelope = next_arg(),
  }
  entry.given = next_args(tonumber(next_arg()))
  return entry
end

local function next_work(at)
  local work = {
    at = at,
    id = next_arg(),
    parks = next_arg() == '1',
    scope = next_arg(),
    body = next_arg(),
    subject = next_arg(),
    stream = next_arg(),
    sequence = next_arg(),
  }
  for place = 1, tonumber(next_arg()) do
    work[place] = next_entry(place)
  end
  return work
end

local function text_of(refusal)
  local detail = refusal.detail or ''
  return detail == '' and refusal.code or detail
end

-- Takes one event of a message in, or parks it; `false` when it has to be parked and the call
-- has not brought what is kept of it.
local function take_in(work, entry, is_full)
  if is_repeat(entry) then
    mirror(entry)
    return 'repeat'
  end
  local how, why, first
  if entry.name == '' then
    how, why = 'failed', { code = entry.given[1] }
  else
    first = parked.is_any() and parked.first(entry.key)
    if not first then
      how, why = decide(entry)
    end
  end
  if how == 'done' then
    mirror(entry)
  elseif not is_full then
    return false
  elseif first then
    parked.keep(work, entry, 'behind', 'it waits for what is before it', 0)
  else
    parked.keep(work, entry, how == 'failed' and 'dead' or 'early', text_of(why), entry.attempt)
  end
  return 'done'
end

-- A message, by all of its events.
local function take_in_all(work, is_full)
  if not is_full and parked.is_any() then
    return false
  end
  local news = #work == 0
  for _, entry in ipairs(work) do
    local how = take_in(work, entry, is_full)
    if not how then
      return false
    end
    news = news or how ~= 'repeat'
  end
  return { news and 'done' or 'repeat' }
end

-- Answers to commands with an Idempotency-Key are kept as long as an inbox.
local function stored(work)
  local kept = work.scope ~= '' and call('GET', own('answer:' .. work.scope))
  if not kept then
    return nil
  end
  kept = cmsgpack.unpack(kept)
  return kept.body == work.body and { 'done', kept.value } or { 'reused' }
end

-- A decision as the caller reads it.
local function ending(how, value)
  if how == 'done' then
    return { 'done', value }
  elseif how == 'repeat' then
    return { 'repeat' }
  end
  return { how, value.code, value.detail or '' }
end

local function answer(work)
  local before = stored(work)
  if before then
    return before
  end
  local how, value = decide(work[1])
  if how == 'done' and work.scope ~= '' then
    local kept = cmsgpack.pack({ body = work.body, value = value })
    recorded('SET', own('answer:' .. work.scope), kept, 'EX', KEPT_SECS)
  end
  if how ~= 'failed' then
    mirror(work[1])
  end
  return ending(how, value)
end

-- Runs one message or command. What comes with an id was taken in before, or is claimed; a
-- single event is claimed in the generation, where there are generations.
local function run_work(work, is_full)
  local is_claimed = work.id ~= '' and (work.parks or not IS_REPLAYABLE)
  local day = is_claimed and own(day_of(work.id))
  if day and call('SISMEMBER', day, work.id) == 1 then
    return { 'repeat' }
  end
  local ended
  if work.parks then
    ended = take_in_all(work, is_full)
  else
    ended = answer(work)
  end
  if day and ended and ended[1] == 'done' then
    claim(day, work.id)
  end
  return ended
end

-- Tries a parked event again, whose number and note on success come where a command has its
-- idempotency key. One that a generation was made of meanwhile is taken in.
local function retry(work)
  local entry, row = work[1], parked.row(work.scope)
  if not row then
    return { 'gone' }
  end
  local how, value = decide(entry)
  if how ~= 'done' and how ~= 'repeat' then
    return ending(how, value)
  end
  mirror(entry)
  parked.finish(work.scope, row, 'resolved', work.body)
  return { 'done', value or {} }
end

-- Ends a call: what was emitted is written, and everything is said to the caller.
local function close(and_then, endings)
  return { and_then, endings, act.announced, outbox.write(), act.parked,
    parked.is_any() and 1 or 0 }
end

-- Runs so many works until there are no more (`end`) or the time is over (`more`). Before one
-- that has to be parked and has not brought what is kept of it (`full`), or that shows a fault
-- of the mesh itself (`fault`), it stops: the caller goes on behind those that have ended.
local function run_all(count, run_one)
  local endings, began = {}, os.clock()
  for at = 1, count do
    local work, announced, kept = next_work(at), #act.announced, #act.parked
    local is_ok, ended = pcall(run_one, work)
    if not is_ok or not ended then
      take_back(0)
      for place = #act.announced, announced + 1, -1 do
        act.announced[place] = nil
      end
      for place = #act.parked, kept + 1, -1 do
        act.parked[place] = nil
      end
      endings[at] = not is_ok and { 'fault', cause_of(ended) } or nil
      return close(is_ok and 'full' or 'fault', endings)
    end
    endings[at] = ended
    outbox.add(act.told)
    act.told, journal = {}, {}
    if at < count and os.clock() - began > CALL_SECS then
      return close('more', endings)
    end
  end
  return close('end', endings)
end

local function run(keys, args)
  begin(keys, args)
  act.open, act.messages, act.parked = {}, {}, {}
  local mode, generation, count = next_arg(), next_arg(), tonumber(next_arg())
  if mode == 'feed' then
    if not builds(generation) then
      return { 'lost' }
    end
    stand_on(generation)
    act.is_silent = true
    return run_all(count, function(work)
      return ending(decide(work[1]))
    end)
  elseif not is_whole() and (IS_REPLAYABLE or not act.is_restoring) then
    return { 'lost' }
  end
  return run_all(count, mode == 'retry' and retry or function(work)
    return run_work(work, mode == 'full')
  end)
end

local function read(keys, args)
  begin(keys, args)
  if not is_whole() then
    return { 'lost' }
  end
  local name = next_arg()
  local value = reads[name](unpack(next_args())) or {}
  return ending(value.refusal or 'done', value)
end

local function serve(keys, args)
  begin(keys, args)
  local name = next_arg()
  return serves[name](unpack(next_args()))
end

-- Services write so that it can be taken back.
local host, redis = redis, { call = recorded }

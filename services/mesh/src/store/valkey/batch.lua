-- A batch: messages and commands in their order, each as a whole or not at all.

-- After so long, a call leaves what it has not begun to the next call, because Valkey answers no
-- other client meanwhile.
local CALL_SECS = 0.02

local function text_of(refusal)
  local detail = refusal.detail or ''
  return detail == '' and refusal.code or detail
end

-- Takes in one event of a message, or parks it. Returns `false` if it has to be parked and the
-- call did not send its key and envelope (`is_full`).
local function take_in(work, at, is_full)
  local entry = work.entries[at]
  if is_repeat(entry) then
    mirror(entry)
    return 'repeat'
  end
  local how, why, first
  if not entry.name then
    how, why = 'failed', { code = entry.args[1] }
  else
    first = ctx.has_parked and parked.first(entry.key)
    if not first then
      how, why = decide(entry)
    end
  end
  if how == 'done' then
    mirror(entry)
  elseif not is_full then
    return false
  elseif first then
    parked.keep(work, at, 'behind', 'it waits for what is before it', 0)
  else
    parked.keep(work, at, how == 'failed' and 'dead' or 'early', text_of(why),
      entry.attempt or 1)
  end
  return 'done'
end

-- Takes in all events of a message.
local function take_in_all(work, is_full)
  if not is_full and ctx.has_parked then
    return false
  end
  local news = #work.entries == 0
  for at = 1, #work.entries do
    local how = take_in(work, at, is_full)
    if not how then
      return false
    end
    news = news or how ~= 'repeat'
  end
  return { news and 'done' or 'repeat' }
end

-- The stored answer to a command with an Idempotency-Key; answers are kept as long as an inbox.
local function stored(work)
  local kept = work.scope and redis.call('GET', own('answer:' .. work.scope))
  if not kept then
    return nil
  end
  kept = cmsgpack.unpack(kept)
  return kept.body == work.body and { 'done', kept.value } or { 'reused' }
end

-- The result of a function as the engine reads it.
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
  local how, value = decide(work.entries[1])
  if how == 'done' and work.scope then
    local kept = cmsgpack.pack({ body = work.body, value = value })
    redis.call('SET', own('answer:' .. work.scope), kept, 'EX', KEPT_SECS)
  end
  if how ~= 'failed' then
    mirror(work.entries[1])
  end
  return ending(how, value)
end

-- Runs one message or command. One with an id was taken in before, or is claimed now. Where there
-- are generations, a single event is claimed in its generation.
local function run_work(work, is_full)
  local day = work.day and own(work.day)
  if day and is_in_inbox(day, work.id) then
    return { 'repeat' }
  end
  local ended
  if work.stream then
    ended = take_in_all(work, is_full)
  else
    ended = answer(work)
  end
  if day and ended and ended[1] == 'done' then
    claim(day, work.id)
  end
  return ended
end

-- Retries a parked event; its number and the entry for its history come in the fields of a
-- command's idempotency key. An event that the generation has taken in meanwhile is resolved.
local function retry(work)
  local entry, row = work.entries[1], parked.row(work.scope)
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

-- Ends a call: writes what was staged and emitted, and returns everything to the engine.
local function close(and_then, endings)
  finish()
  write_stage()
  return { and_then, endings, ctx.announced, outbox.write(), ctx.parked,
    parked.is_any() and 1 or 0 }
end

-- Runs works until there are no more (`end`) or the time is over (`more`). It stops before a work
-- that has to be parked without the fields for it (`full`) and at a fault in the mesh's own Lua
-- (`fault`). The engine goes on after those that have ended.
local function run_all(works, run_one)
  local endings, began = {}, os.clock()
  redis.call = stage_call
  for at, work in ipairs(works) do
    work.at = at
    local noted_at, emitted_at, announced_at, parked_at = mark()
    local is_ok, ended = pcall(run_one, work)
    if not is_ok or not ended then
      return_to(noted_at, emitted_at, announced_at, parked_at)
      endings[at] = not is_ok and { 'fault', cause_of(ended) } or nil
      return close(is_ok and 'full' or 'fault', endings)
    end
    endings[at] = ended
    keep_all()
    if at < #works and os.clock() - began > CALL_SECS then
      return close('more', endings)
    end
  end
  return close('end', endings)
end

-- Reads from the inboxes, at once, all ids of the messages and events of a call.
local function open_inbox(works)
  local inboxes = {}
  local function look(day, id)
    local inbox = inboxes[day] or {}
    inboxes[day], inbox[#inbox + 1] = inbox, id
  end
  for _, work in ipairs(works) do
    if work.id and (work.stream or not IS_REPLAYABLE) then
      work.day = day_of(work.id)
      look(own(work.day), work.id)
    end
    for _, entry in ipairs(IS_REPLAYABLE and work.entries or {}) do
      if entry.event_id then
        entry.day = day_of(entry.event_id)
        look(key(entry.day), entry.event_id)
      end
    end
  end
  for day, ids in pairs(inboxes) do
    load(image_of(day, SET), ids)
  end
end

local function run(keys, args)
  begin(keys, args)
  local mode, works, generation = args[5], cmsgpack.unpack(args[6]), args[7]
  if mode == 'feed' then
    if not builds(generation) then
      return { 'lost' }
    end
    stand_on(generation)
    ctx.is_silent = true
    open_inbox(works)
    return run_all(works, function(work)
      return ending(decide(work.entries[1]))
    end)
  elseif ctx.is_restoring then
    if is_whole() or not builds(generation) then
      return { 'lost' }
    end
  elseif not is_whole() then
    return { 'lost' }
  end
  ctx.has_parked = parked.is_any()
  ctx.shadow = IS_REPLAYABLE and call('GET', own('shadow'))
  open_inbox(works)
  return run_all(works, mode == 'retry' and retry or function(work)
    return run_work(work, mode == 'full')
  end)
end

local function read(keys, args)
  begin(keys, args)
  if not is_whole() then
    return { 'lost' }
  end
  local value = reads[args[5]](unpack(args, 6)) or {}
  return ending(value.refusal or 'done', value)
end

local function serve(keys, args)
  begin(keys, args)
  return serves[args[5]](unpack(args, 6))
end

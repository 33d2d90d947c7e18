-- The outbox: messages, each the events of one call under one subject.
--
--   outbox:<id>      hash  subject, number of events, body, time, number of refusals
--   outbox:waiting   zset  ids of messages without a mark, by the end of their lease
--   outbox:unsent    zset  the same ones, by the time they were emitted
--   outbox:marks     zset  ids of messages with a mark, by their sequence in the stream
--   outbox:sent      zset  the same ones, by the time they were emitted
--   outbox:generation      the generation of marks that was begun last
--   outbox:agreed    text  the position up to which outbox and stream agree: sequence, id, and
--                          when the stream stored that message
--   outbox:comparison      the instance that compares outbox and stream, until its lease is over

local SECOND = 1000000
-- The lease of a new message, for the publisher that has it in memory, and of a swept one, for
-- the instance that swept it.
local LEASE = 2 * SECOND
-- The backoff of a refused message starts at a second and grows up to this.
local REFUSED_MAX = 60 * SECOND
-- Messages counted of a backlog at most.
local BACKLOG_MAX = 5000
-- Rows that one call of housekeeping reads at most.
local TIDY_ROWS = 1000

local outbox = {}

-- Packs the emitted events (subject and JSON, in turn) into messages.
local function pack(emitted)
  local open, messages = {}, {}
  for at = 1, #emitted, 2 do
    local subject, event = emitted[at], emitted[at + 1]
    local message = open[subject]
    if not message or #message.parts >= MESSAGE_EVENTS_MAX
      or message.bytes + #event >= MESSAGE_BYTES_MAX then
      message = { subject = subject, parts = {}, bytes = 0 }
      open[subject] = message
      messages[#messages + 1] = message
    end
    message.parts[#message.parts + 1] = event
    message.bytes = message.bytes + 1 + #event
  end
  return messages
end

-- Writes the messages of this call, and returns them as the engine reads them.
function outbox.write()
  local rows, now = {}, clock()
  for at, message in ipairs(pack(ctx.emitted)) do
    local id, events = new_id(), #message.parts
    local body = '[' .. table.concat(message.parts, ',') .. ']'
    call('HSET', own('outbox:' .. id), 'subject', message.subject, 'events', events,
      'body', body, 'at', whole(now))
    call('ZADD', own('outbox:waiting'), whole(now + LEASE), id)
    call('ZADD', own('outbox:unsent'), whole(now), id)
    rows[at] = { id, message.subject, events, body }
  end
  return rows
end

local function messages_of(ids)
  local rows = {}
  for at, id in ipairs(ids) do
    local row = call('HMGET', own('outbox:' .. id), 'subject', 'events', 'body')
    rows[at] = { id, row[1], tonumber(row[2]), row[3] }
  end
  return rows
end

function serves.sweep(most)
  local now = clock()
  local ids = call('ZRANGEBYSCORE', own('outbox:waiting'), '-inf', whole(now), 'LIMIT', 0, most)
  for _, id in ipairs(ids) do
    call('ZADD', own('outbox:waiting'), whole(now + LEASE), id)
  end
  return messages_of(ids)
end

function serves.unsent(most)
  return messages_of(call('ZRANGE', own('outbox:unsent'), 0, most - 1))
end

-- Moves a message from one pair of sets to the other.
local function move(id, from, by_from, to, by_to, score)
  local at = call('ZSCORE', own(from), id)
  if at then
    call('ZREM', own(from), id)
    call('ZREM', own(by_from), id)
    call('ZADD', own(to), at, id)
    call('ZADD', own(by_to), score or at, id)
  end
end

local function generation()
  return call('GET', own('outbox:generation')) or '0'
end

-- Begins a generation of marks: none of an earlier one is written any more.
function serves.begin_generation()
  return { whole(call('INCR', own('outbox:generation'))) }
end

function serves.generation()
  return { generation() }
end

-- Marks messages as published, if no later generation than theirs has begun; returns whether
-- that is so. The other arguments are ids and sequences, in turn.
function serves.mark(of, ...)
  if of ~= generation() then
    return { '0' }
  end
  local marks = { ... }
  for at = 1, #marks, 2 do
    move(marks[at], 'outbox:unsent', 'outbox:waiting', 'outbox:sent', 'outbox:marks', marks[at + 1])
  end
  return { '1' }
end

-- Ids and sequences of the published messages that were emitted last, the latest first.
function serves.latest_marks(most)
  local rows = {}
  for at, id in ipairs(call('ZREVRANGE', own('outbox:sent'), 0, most - 1)) do
    rows[at] = { id, call('ZSCORE', own('outbox:marks'), id) }
  end
  return rows
end

-- Leases the comparison to an instance, or prolongs its lease; returns whether it has it now.
function serves.lease_comparison(instance, millis)
  local has = call('GET', own('outbox:comparison'))
  if has and has ~= instance then
    return { '0' }
  end
  call('SET', own('outbox:comparison'), instance, 'PX', millis)
  return { '1' }
end

function serves.release_comparison(instance)
  if call('GET', own('outbox:comparison')) == instance then
    call('DEL', own('outbox:comparison'))
  end
  return {}
end

-- Moves the verified position, or removes it, if no later generation has begun; returns whether
-- that is so.
function serves.set_verified(of, place)
  if of ~= generation() then
    return { '0' }
  end
  if place == '' then
    call('DEL', own('outbox:agreed'))
  else
    call('SET', own('outbox:agreed'), place)
  end
  return { '1' }
end

-- Takes marks away. Such messages are due at once, the oldest first.
function serves.unmark(...)
  local marks = { ... }
  for at = 1, #marks, 2 do
    if tonumber(call('ZSCORE', own('outbox:marks'), marks[at]) or -1) == tonumber(marks[at + 1]) then
      move(marks[at], 'outbox:sent', 'outbox:marks', 'outbox:unsent', 'outbox:waiting')
    end
  end
  return {}
end

-- Takes the marks of messages away whose sequence lies between the two, whose id is not below
-- `since`, and whose subject begins with one of the prefixes, so that they are published again.
-- Reads up to TIDY_ROWS of them; returns the number of marks and the last sequence read, which is
-- empty at the end.
function serves.publish_again(above, below, since, ...)
  local marks, last = own('outbox:marks'), ''
  local found = call('ZRANGEBYSCORE', marks, '(' .. above, '(' .. below, 'WITHSCORES', 'LIMIT', 0,
    TIDY_ROWS)
  local count = 0
  for at = 1, #found, 2 do
    local id, subject = found[at], call('HGET', own('outbox:' .. found[at]), 'subject') or ''
    last = found[at + 1]
    for _, prefix in ipairs({ ... }) do
      if id >= since and string.sub(subject, 1, #prefix) == prefix then
        move(id, 'outbox:sent', 'outbox:marks', 'outbox:unsent', 'outbox:waiting')
        count = count + 1
        break
      end
    end
  end
  return { whole(count), last }
end

function serves.put_off(id)
  if call('ZSCORE', own('outbox:waiting'), id) then
    local refused = call('HINCRBY', own('outbox:' .. id), 'refused', 1)
    local pause = math.min(SECOND * 2 ^ math.min(refused - 1, 6), REFUSED_MAX)
    call('ZADD', own('outbox:waiting'), whole(clock() + pause), id)
  end
  return {}
end

-- The number of unpublished events, and when the oldest was emitted.
function serves.backlog()
  local oldest = call('ZRANGE', own('outbox:unsent'), 0, BACKLOG_MAX - 1, 'WITHSCORES')
  local events = 0
  for at = 1, #oldest, 2 do
    events = events + call('HGET', own('outbox:' .. oldest[at]), 'events')
  end
  return { whole(events), oldest[2] or '' }
end

-- Deletes published messages: those older than `keep` seconds, and the oldest when there are more
-- than `most`. Returns how many.
function serves.trim(keep, most)
  local sent = own('outbox:sent')
  local old = call('ZRANGEBYSCORE', sent, '-inf', whole(clock() - keep * SECOND), 'LIMIT', 0,
    TIDY_ROWS)
  local over = math.min(call('ZCARD', sent) - most, TIDY_ROWS)
  if #old < over then
    old = call('ZRANGE', sent, 0, over - 1)
  end
  for _, id in ipairs(old) do
    call('DEL', own('outbox:' .. id))
    call('ZREM', sent, id)
    call('ZREM', own('outbox:marks'), id)
  end
  return { whole(#old) }
end

-- The outbox: messages, each the events of one call under one subject.
--
--   outbox:<id>      hash  subject, how many events, body, when, how often refused
--   outbox:waiting   zset  id by the end of its lease: messages without a mark
--   outbox:unsent    zset  the same ones by when they were emitted
--   outbox:marks     zset  id by its sequence in the stream: messages with a mark
--   outbox:sent      zset  the same ones by when they were emitted
--   outbox:verified  text  up to where outbox and stream agree: `<sequence> <id>`

local SECOND = 1000000
-- A new message belongs to the publisher that has it in memory, and one that a sweep has
-- taken to the instance that took it, for so long.
local LEASE = 2 * SECOND
-- A refused message waits a second, then ever longer, up to this.
local REFUSED_MAX = 60 * SECOND
-- Messages that are counted of a backlog at most.
local BACKLOG_MAX = 5000
-- Rows that one call of a housekeeping looks at.
local TIDY_ROWS = 1000

local outbox = {}

-- Packs what was emitted (subject and JSON, in turn) into messages.
local function pack(told)
  local open, messages = {}, {}
  for at = 1, #told, 2 do
    local subject, event = told[at], told[at + 1]
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

-- Writes the messages of this call; as the caller reads them.
function outbox.write()
  local emitted, now = {}, clock()
  for at, message in ipairs(pack(ctx.told)) do
    local id, events = new_id(), #message.parts
    local body = '[' .. table.concat(message.parts, ',') .. ']'
    call('HSET', own('outbox:' .. id), 'subject', message.subject, 'events', events,
      'body', body, 'at', whole(now))
    call('ZADD', own('outbox:waiting'), whole(now + LEASE), id)
    call('ZADD', own('outbox:unsent'), whole(now), id)
    emitted[at] = { id, message.subject, events, body }
  end
  return emitted
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

-- Ids and sequences, in turn.
function serves.mark(...)
  local marks = { ... }
  for at = 1, #marks, 2 do
    move(marks[at], 'outbox:unsent', 'outbox:waiting', 'outbox:sent', 'outbox:marks', marks[at + 1])
  end
  return {}
end

-- What has lost its mark is due at once, the oldest first.
function serves.unmark(...)
  local marks = { ... }
  for at = 1, #marks, 2 do
    if tonumber(call('ZSCORE', own('outbox:marks'), marks[at]) or -1) == tonumber(marks[at + 1]) then
      move(marks[at], 'outbox:sent', 'outbox:marks', 'outbox:unsent', 'outbox:waiting')
    end
  end
  return {}
end

-- Has messages published again whose sequence lies between the two, that are no older than the
-- id, and whose subject begins with one of the texts: how many of this piece, and its last
-- sequence; nothing in its place at the end.
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

-- How many events wait, and when the oldest was emitted.
function serves.backlog()
  local oldest = call('ZRANGE', own('outbox:unsent'), 0, BACKLOG_MAX - 1, 'WITHSCORES')
  local events = 0
  for at = 1, #oldest, 2 do
    events = events + call('HGET', own('outbox:' .. oldest[at]), 'events')
  end
  return { whole(events), oldest[2] or '' }
end

-- Forgets messages that are published: after `keep` seconds, or when there are more than
-- `most` of them. How many were looked at.
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

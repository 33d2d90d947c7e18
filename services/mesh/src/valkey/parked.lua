-- Parked events. They belong to no generation: what could not be taken in waits on while
-- what was taken in is built anew.
--
--   parked:last           text  the newest number
--   parked:row:<number>   hash  the row
--   parked:then:<number>  list  what became of it, as JSON
--   parked:all, :open     zset  numbers; those that have not ended
--   parked:of:<key>       zset  numbers of an order key
--   parked:line:<key>     zset  those of them that have not ended: only the first is tried
--   parked:due            zset  number by the time of its next attempt
--   parked:ended          zset  number by when it ended

local NO_KEY = '-'
-- An early event is tried again after so long.
local EARLY_PAUSE = 20000
-- What became of a row is kept, at most so often.
local HISTORY_MAX = 100
-- Characters of a cause that are kept.
local CAUSE_MAX = 4000

local parked = {}

function parked.is_any()
  return call('EXISTS', own('parked:open')) == 1
end

-- The first open row of a key.
function parked.first(of)
  return of ~= NO_KEY and call('ZRANGE', own('parked:line:' .. of), 0, 0)[1]
end

-- Parks an event of a message: early, behind, or dead.
function parked.keep(work, entry, state, cause, attempts)
  cause = string.sub(cause, 1, CAUSE_MAX)
  local number = recorded('INCR', own('parked:last'))
  recorded('HSET', own('parked:row:' .. number), 'key', entry.key, 'state', state,
    'cause', cause, 'attempts', attempts, 'unsettled', 0, 'envelope', entry.envelope,
    'subject', work.subject, 'stream', work.stream, 'sequence', work.sequence,
    'kept_at', whole(act.now))
  recorded('ZADD', own('parked:all'), number, number)
  recorded('ZADD', own('parked:open'), number, number)
  recorded('ZADD', own('parked:of:' .. entry.key), number, number)
  if entry.key ~= NO_KEY then
    recorded('ZADD', own('parked:line:' .. entry.key), number, number)
  end
  if state == 'early' then
    recorded('ZADD', own('parked:due'), whole(clock() + EARLY_PAUSE), number)
  end
  local kept = act.parked
  kept[#kept + 1] = { number, work.at, entry.at, state, cause, attempts }
end

local function row_of(number)
  local row = call('HMGET', own('parked:row:' .. number), 'key', 'state', 'leased')
  if call('ZSCORE', own('parked:open'), number) then
    return { key = row[1], state = row[2], leased = tonumber(row[3] or 0) }
  end
end

-- The row, if it is open and nothing of its key comes before it.
function parked.eligible(number)
  local row = row_of(number)
  local first = row and parked.first(row.key)
  return row and (not first or first == number) and row or nil
end

local function remember(number, event)
  if event ~= '' then
    call('RPUSH', own('parked:then:' .. number), event)
    call('LTRIM', own('parked:then:' .. number), -HISTORY_MAX, -1)
  end
end

-- Ends a row; whoever is next in its line is due, unless an operator has to decide.
function parked.finish(number, row, state, event)
  call('HSET', own('parked:row:' .. number), 'state', state, 'unsettled', 0)
  call('HDEL', own('parked:row:' .. number), 'leased')
  call('ZREM', own('parked:open'), number)
  call('ZREM', own('parked:due'), number)
  call('ZREM', own('parked:line:' .. row.key), number)
  call('ZADD', own('parked:ended'), whole(clock()), number)
  remember(number, event)
  local following = parked.first(row.key)
  if following and call('HGET', own('parked:row:' .. following), 'state') ~= 'dead' then
    call('ZADD', own('parked:due'), 'NX', whole(clock()), following)
  end
end

-- Rows as the caller reads them.
local function rows_of(numbers)
  local rows = {}
  for at, number in ipairs(numbers) do
    rows[at] = call('HMGET', own('parked:row:' .. number), 'key', 'state', 'cause', 'attempts',
      'unsettled', 'envelope', 'subject', 'stream', 'sequence', 'kept_at')
    table.insert(rows[at], number)
    table.insert(rows[at], call('LRANGE', own('parked:then:' .. number), 0, -1))
  end
  return rows
end

-- Leases rows for so many milliseconds: those that are due, the first of a key, or the one
-- of a number that has no key. The attempt counts before it is made.
function serves.lease(which, what, millis)
  local now, numbers, taken = clock(), {}, {}
  if which == 'due' then
    numbers = call('ZRANGEBYSCORE', own('parked:due'), '-inf', whole(now), 'LIMIT', 0, what)
  elseif which == 'first' then
    numbers = { parked.first(what) or nil }
  else
    local row = row_of(what)
    numbers = { row and row.key == NO_KEY and what or nil }
  end
  for _, number in ipairs(numbers) do
    local row, ends = parked.eligible(number), whole(now + millis * 1000)
    if row and row.leased <= now then
      call('HSET', own('parked:row:' .. number), 'leased', ends)
      call('HINCRBY', own('parked:row:' .. number), 'attempts', 1)
      call('HINCRBY', own('parked:row:' .. number), 'unsettled', 1)
      if row.state ~= 'dead' then
        call('ZADD', own('parked:due'), ends, number)
      end
      taken[#taken + 1] = number
    elseif not row then
      call('ZREM', own('parked:due'), number)
    end
  end
  return rows_of(taken)
end

-- What became of an attempt that did not take the event in.
function serves.settle(number, state, cause, counts, millis, event)
  local row, path = row_of(number), own('parked:row:' .. number)
  if not row then
    return {}
  end
  if counts == '0' then
    call('HINCRBY', path, 'attempts', -1)
    state = row.state
  end
  call('HSET', path, 'state', state, 'cause', string.sub(cause, 1, CAUSE_MAX), 'unsettled', 0)
  call('HDEL', path, 'leased')
  if state == 'dead' then
    call('ZREM', own('parked:due'), number)
  else
    call('ZADD', own('parked:due'), whole(clock() + millis * 1000), number)
  end
  remember(number, event)
  return {}
end

function serves.discard(number, event)
  local row = row_of(number)
  if row then
    parked.finish(number, row, 'discarded', event)
  end
  return { row and '1' or '0' }
end

-- The newest `most` rows of a set, in the order of parking; or one.
function serves.parked(set, most)
  return rows_of(call('ZRANGE', own('parked:' .. set), -most, -1))
end

function serves.parked_one(number)
  local is_kept = call('ZSCORE', own('parked:all'), number)
  return rows_of({ is_kept and number or nil })
end

-- Forgets rows that ended more than `keep` seconds ago. How many were looked at.
function serves.forget(keep)
  local old = call('ZRANGEBYSCORE', own('parked:ended'), '-inf', whole(clock() - keep * SECOND),
    'LIMIT', 0, TIDY_ROWS)
  for _, number in ipairs(old) do
    local of = call('HGET', own('parked:row:' .. number), 'key') or NO_KEY
    call('ZREM', own('parked:of:' .. of), number)
    call('ZREM', own('parked:all'), number)
    call('ZREM', own('parked:ended'), number)
    call('DEL', own('parked:row:' .. number), own('parked:then:' .. number))
  end
  return { whole(#old) }
end

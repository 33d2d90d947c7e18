-- Parked events. They belong to no generation: they stay parked while the state is rebuilt.
--
--   parked:last           text  the newest number
--   parked:row:<number>   hash  the row
--   parked:then:<number>  list  its history, as JSON
--   parked:all, :open     zset  all numbers; those of open rows
--   parked:of:<key>       zset  the numbers of an order key
--   parked:line:<key>     zset  those of them that hold the key (open and not early): only the
--                               first of these is tried
--   parked:aside:<key>    zset  early ones that came due while a row before them held the key
--   parked:due            zset  numbers by the time of the next attempt
--   parked:ended          zset  numbers by the time when the row ended

local NO_KEY = '-'
-- The pause before the first retry of an early event, in microseconds.
local EARLY_PAUSE = 20000
-- Entries of a row's history that are kept.
local HISTORY_MAX = 100
-- Characters of a cause that are kept.
local CAUSE_MAX = 4000
-- Open rows that are counted at most.
local COUNTED_MAX = 5000

local parked = {}

function parked.is_any()
  return call('EXISTS', own('parked:open')) == 1
end

-- The number of the first row that holds a key. An early row holds none: what it waits for may
-- come under the same key.
function parked.first(of)
  return of ~= NO_KEY and redis.call('ZRANGE', own('parked:line:' .. of), 0, 0)[1]
end

-- Parks an event of a message: early, behind, or dead.
function parked.keep(work, at, state, cause, attempts)
  local entry = work.entries[at]
  cause = string.sub(cause, 1, CAUSE_MAX)
  local number = redis.call('INCR', own('parked:last'))
  redis.call('HSET', own('parked:row:' .. number), 'key', entry.key, 'state', state,
    'cause', cause, 'attempts', attempts, 'unsettled', 0, 'envelope', entry.envelope or '',
    'subject', work.subject, 'stream', work.stream, 'sequence', work.sequence,
    'kept_at', whole(ctx.now))
  redis.call('ZADD', own('parked:all'), number, number)
  redis.call('ZADD', own('parked:open'), number, number)
  redis.call('ZADD', own('parked:of:' .. entry.key), number, number)
  if state == 'early' then
    redis.call('ZADD', own('parked:due'), whole(clock() + EARLY_PAUSE), number)
  elseif entry.key ~= NO_KEY then
    redis.call('ZADD', own('parked:line:' .. entry.key), number, number)
  end
  local kept = ctx.parked
  kept[#kept + 1] = { number, work.at, at, state, cause, attempts }
  ctx.has_parked = true
end

-- The row, if it is open.
function parked.row(number)
  local row = call('HMGET', own('parked:row:' .. number), 'key', 'state', 'leased')
  if call('ZSCORE', own('parked:open'), number) then
    return { key = row[1], state = row[2], leased = tonumber(row[3] or 0) }
  end
end

-- Whether no row before this one holds its key.
local function is_eligible(number, row)
  local first = parked.first(row.key)
  return not first or tonumber(first) >= tonumber(number)
end

-- Lets the rows come due that may be tried now: the first that holds the key, unless it is a dead
-- letter, and the early ones before it.
local function wake(of)
  if of == NO_KEY then
    return
  end
  local first, aside = parked.first(of), own('parked:aside:' .. of)
  for _, number in ipairs(call('ZRANGEBYSCORE', aside, '-inf', first or '+inf')) do
    call('ZREM', aside, number)
    call('ZADD', own('parked:due'), 'NX', whole(clock()), number)
  end
  if first and call('HGET', own('parked:row:' .. first), 'state') ~= 'dead' then
    call('ZADD', own('parked:due'), 'NX', whole(clock()), first)
  end
end

local function remember(number, event)
  if event ~= '' then
    call('RPUSH', own('parked:then:' .. number), event)
    call('LTRIM', own('parked:then:' .. number), -HISTORY_MAX, -1)
  end
end

-- Ends a row, and lets the rows behind it come due.
function parked.finish(number, row, state, event)
  call('HSET', own('parked:row:' .. number), 'state', state, 'unsettled', 0)
  call('HDEL', own('parked:row:' .. number), 'leased')
  call('ZREM', own('parked:open'), number)
  call('ZREM', own('parked:due'), number)
  call('ZREM', own('parked:line:' .. row.key), number)
  call('ZREM', own('parked:aside:' .. row.key), number)
  call('ZADD', own('parked:ended'), whole(clock()), number)
  remember(number, event)
  wake(row.key)
end

-- Rows as the engine reads them.
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

-- Leases rows for so many milliseconds: those that are due, the first that holds a key, or the
-- row of a number if it has no key or is early. The attempt is counted before it is made.
function serves.lease(which, what, millis)
  local now, numbers, taken = clock(), {}, {}
  if which == 'due' then
    numbers = call('ZRANGEBYSCORE', own('parked:due'), '-inf', whole(now), 'LIMIT', 0, what)
  elseif which == 'first' then
    numbers = { parked.first(what) or nil }
  else
    local row = parked.row(what)
    numbers = { row and (row.key == NO_KEY or row.state == 'early') and what or nil }
  end
  for _, number in ipairs(numbers) do
    local row, ends = parked.row(number), whole(now + millis * 1000)
    local may_be_tried = row and is_eligible(number, row)
    if may_be_tried and row.leased <= now then
      call('HSET', own('parked:row:' .. number), 'leased', ends)
      call('HINCRBY', own('parked:row:' .. number), 'attempts', 1)
      call('HINCRBY', own('parked:row:' .. number), 'unsettled', 1)
      if row.state ~= 'dead' then
        call('ZADD', own('parked:due'), ends, number)
      end
      taken[#taken + 1] = number
    elseif not may_be_tried then
      call('ZREM', own('parked:due'), number)
      if row and row.state == 'early' then
        call('ZADD', own('parked:aside:' .. row.key), number, number)
      end
    end
  end
  return rows_of(taken)
end

-- Writes the outcome of an attempt that did not take the event in. A row that becomes early no
-- longer holds its key.
function serves.settle(number, state, cause, counts, millis, event)
  local row, path = parked.row(number), own('parked:row:' .. number)
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
    if row.key ~= NO_KEY then
      call('ZADD', own('parked:line:' .. row.key), number, number)
    end
  else
    call('ZADD', own('parked:due'), whole(clock() + millis * 1000), number)
  end
  if state == 'early' and call('ZREM', own('parked:line:' .. row.key), number) == 1 then
    wake(row.key)
  end
  remember(number, event)
  return {}
end

function serves.discard(number, event)
  local row = parked.row(number)
  if row then
    parked.finish(number, row, 'discarded', event)
  end
  return { row and '1' or '0' }
end

-- The newest `most` rows of a set, in the order of parking.
function serves.parked(set, most)
  return rows_of(call('ZRANGE', own('parked:' .. set), -most, -1))
end

-- How many open rows are no dead letters, and how many are; of the first some thousands.
function serves.parked_open()
  local waiting, dead = 0, 0
  for _, number in ipairs(call('ZRANGE', own('parked:open'), 0, COUNTED_MAX - 1)) do
    if call('HGET', own('parked:row:' .. number), 'state') == 'dead' then
      dead = dead + 1
    else
      waiting = waiting + 1
    end
  end
  return { whole(waiting), whole(dead) }
end

function serves.parked_one(number)
  local is_kept = call('ZSCORE', own('parked:all'), number)
  return rows_of({ is_kept and number or nil })
end

-- Deletes rows that ended more than `keep` seconds ago. Returns how many.
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

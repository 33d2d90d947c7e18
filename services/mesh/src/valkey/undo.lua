-- Writes that can be taken back. A function of Valkey does not roll back: what it has written
-- when it fails stays. So an act writes through `recorded`, which notes for every write the
-- calls that bring back what was there before. Taken back latest first, each of them meets
-- exactly what its write has left, and so everything is as it was when the act began: values,
-- scores, order and expiry. A write that is not known here is refused before it is made.

-- `redis.call`, which a library has only when it is called.
local call

-- Calls that undo, in the order of the writes.
local journal = {}

-- Takes back what was written since the journal was this long.
local function take_back(mark)
  for at = #journal, mark + 1, -1 do
    call(unpack(journal[at]))
    journal[at] = nil
  end
end

local function note(...)
  journal[#journal + 1] = { ... }
end

-- A write that may empty a key ends its expiry with it: that is brought back after (and so
-- noted before) what was in it.
local function note_expiry(key, else_persists)
  local at = call('PEXPIRETIME', key)
  if at > 0 then
    note('PEXPIREAT', key, at)
  elseif else_persists then
    note('PERSIST', key)
  end
end

local function every_second(first, list)
  local some = {}
  for at = first, #list, 2 do
    some[#some + 1] = list[at]
  end
  return some
end

-- How each write is noted, before it is made. What returns a function has it called with the
-- write's result.
local noted = {}

local function note_fields(key, fields)
  local before = call('HMGET', key, unpack(fields))
  local new, old = {}, {}
  for at, field in ipairs(fields) do
    if before[at] then
      old[#old + 1], old[#old + 2] = field, before[at]
    else
      new[#new + 1] = field
    end
  end
  if #new > 0 then
    note('HDEL', key, unpack(new))
  end
  if #old > 0 then
    note('HSET', key, unpack(old))
  end
end

function noted.HSET(key, ...)
  note_fields(key, every_second(1, { ... }))
end

function noted.HSETNX(key, field)
  note_fields(key, { field })
end

noted.HINCRBY = noted.HSETNX

function noted.HDEL(key, ...)
  note_expiry(key)
  note_fields(key, { ... })
end

local function note_members(key, members, undo, is_in)
  local was_in, some = call('SMISMEMBER', key, unpack(members)), {}
  for at, member in ipairs(members) do
    if was_in[at] == is_in then
      some[#some + 1] = member
    end
  end
  if #some > 0 then
    note(undo, key, unpack(some))
  end
end

function noted.SADD(key, ...)
  note_members(key, { ... }, 'SREM', 0)
end

function noted.SREM(key, ...)
  note_expiry(key)
  note_members(key, { ... }, 'SADD', 1)
end

local function note_scores(key, members)
  local scores = call('ZMSCORE', key, unpack(members))
  for at, member in ipairs(members) do
    if scores[at] then
      note('ZADD', key, scores[at], member)
    else
      note('ZREM', key, member)
    end
  end
end

function noted.ZADD(key, ...)
  assert(tonumber((...)), 'ZADD with options cannot be taken back')
  note_scores(key, every_second(2, { ... }))
end

function noted.ZINCRBY(key, _, member)
  note_scores(key, { member })
end

function noted.ZREM(key, ...)
  note_expiry(key)
  note_scores(key, { ... })
end

function noted.ZPOPMIN(key)
  note_expiry(key)
  return function(popped)
    for at = 1, #popped, 2 do
      note('ZADD', key, popped[at + 1], popped[at])
    end
  end
end

function noted.SET(key)
  local before = call('GET', key)
  if before then
    note_expiry(key)
    note('SET', key, before)
  else
    note('DEL', key)
  end
end

noted.INCR = noted.SET
noted.INCRBY = noted.SET

function noted.RPUSH(key, ...)
  note('RPOP', key, select('#', ...))
end

function noted.LTRIM(key, first, last)
  assert(tonumber(last) == -1 and tonumber(first) < 0, 'only the end of a list can be kept')
  note_expiry(key)
  local gone = call('LRANGE', key, 0, first - 1)
  for at = 1, #gone do
    note('LPUSH', key, gone[at])
  end
end

function noted.EXPIRE(key, span)
  assert(tonumber(span) > 0, 'an expiry lies ahead')
  note_expiry(key, true)
end

noted.PEXPIRE = noted.EXPIRE

local READS = {
  EXISTS = true, GET = true, HEXISTS = true, HGET = true, HGETALL = true, HKEYS = true,
  HLEN = true, HMGET = true, HVALS = true, LINDEX = true, LLEN = true, LRANGE = true,
  MGET = true, PTTL = true, SCARD = true, SISMEMBER = true, SMEMBERS = true, SMISMEMBER = true,
  TTL = true, ZCARD = true, ZCOUNT = true, ZMSCORE = true, ZRANGE = true, ZRANGEBYSCORE = true,
  ZRANK = true, ZREVRANGE = true, ZREVRANGEBYSCORE = true, ZREVRANK = true, ZSCORE = true,
  ZUNION = true,
}

-- `redis.call` as services know it.
local function recorded(name, ...)
  if READS[name] then
    return call(name, ...)
  end
  local mark, before = #journal, noted[name]
  assert(before, name .. ' cannot be taken back')
  local then_note = before(...)
  local is_ok, result = pcall(call, name, ...)
  if not is_ok then
    -- One command changes everything it is to change, or nothing.
    for at = #journal, mark + 1, -1 do
      journal[at] = nil
    end
    error(result, 0)
  end
  if then_note then
    then_note(result)
  end
  return result
end

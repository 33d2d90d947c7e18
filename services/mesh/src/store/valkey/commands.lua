-- The commands that a service's functions can call. They read and write the stage (`stage.lua`)
-- and return what Valkey itself would return. Any other command is refused before it is run.

-- An argument as it is sent to Valkey.
local function text(value)
  if type(value) == 'string' then
    return value
  elseif type(value) ~= 'number' or value ~= value then
    error('arguments of commands must be texts or numbers', 0)
  elseif value % 1 == 0 and math.abs(value) < 2 ^ 53 then
    return whole(value)
  end
  local short = string.format('%.15g', value)
  return tonumber(short) == value and short or string.format('%.17g', value)
end

-- The arguments as texts. Their number must be a multiple of `many`, and not 0.
local function texts(many, ...)
  local words, count = { ... }, select('#', ...)
  if count == 0 or count % many ~= 0 then
    error('ERR wrong number of arguments', 0)
  end
  for at = 1, count do
    if type(words[at]) ~= 'string' then
      words[at] = text(words[at])
    end
  end
  return words
end

-- Scores are numbers, and functions read them as numbers.
local function score_of(value)
  local score = tonumber(value)
  if not score or score ~= score then
    error('ERR value is not a valid float', 0)
  end
  return score
end

local staged = {}

function staged.HGET(name, field)
  return value_of(image_of(name, HASH), text(field))
end

function staged.HMGET(name, ...)
  local image, fields = image_of(name, HASH), texts(1, ...)
  load(image, fields)
  for at = 1, #fields do
    fields[at] = image.values[fields[at]]
  end
  return fields
end

function staged.SISMEMBER(name, member)
  return value_of(image_of(name, SET), text(member)) and 1 or 0
end

function staged.ZSCORE(name, member)
  return value_of(image_of(name, ZSET), text(member))
end

function staged.GET(name)
  return value_of(image_of(name, TEXT), VALUE)
end

local function all_of(image, has_fields)
  local all = {}
  for field, value in pairs(load_all(image)) do
    if value and field ~= EXPIRES then
      if has_fields then
        all[#all + 1] = field
      end
      all[#all + 1] = value
    end
  end
  return all
end

function staged.HGETALL(name)
  return all_of(image_of(name, HASH), true)
end

function staged.HVALS(name)
  return all_of(image_of(name, HASH))
end

function staged.SMEMBERS(name)
  return all_of(image_of(name, SET))
end

-- Commands that need an order or a count are run on the store.
local function on_store(command)
  return function(...)
    for at = 1, select('#', ...) do
      local image = stage[select(at, ...)]
      if image then
        assert(image.kind ~= LIST, 'a staged list cannot be read')
        flush(image)
      end
    end
    return call(command, ...)
  end
end

staged.EXISTS, staged.ZCARD, staged.ZRANK = on_store('EXISTS'), on_store('ZCARD'), on_store('ZRANK')
staged.ZRANGE, staged.ZRANGEBYSCORE = on_store('ZRANGE'), on_store('ZRANGEBYSCORE')

-- Writes a value for every field that `words` names, from `first` on; returns how many are new.
local function write(image, words, first, step, value_at)
  load(image, words, first, step)
  local new = 0
  for at = first, #words, step do
    new = new + (image.values[words[at]] and 0 or 1)
    assign(image, words[at], words[at + value_at])
  end
  return new
end

-- Nearly every write is of one field; this one does without lists.
local function write_one(image, field, value)
  local is_new = not value_of(image, field)
  assign(image, field, value)
  return is_new and 1 or 0
end

function staged.HSET(name, field, value, ...)
  if select('#', ...) == 0 then
    return write_one(image_of(name, HASH), text(field), text(value))
  end
  return write(image_of(name, HASH), texts(2, field, value, ...), 1, 2, 1)
end

function staged.SADD(name, ...)
  return write(image_of(name, SET), texts(1, ...), 1, 1, 0)
end

function staged.ZADD(name, score, member, ...)
  if select('#', ...) == 0 then
    return write_one(image_of(name, ZSET), text(member), score_of(score))
  end
  local words = texts(2, score, member, ...)
  for at = 1, #words, 2 do
    words[at] = score_of(words[at])
  end
  return write(image_of(name, ZSET), words, 2, 2, -1)
end

function staged.HSETNX(name, field, value)
  local image = image_of(name, HASH)
  field, value = text(field), text(value)
  if value_of(image, field) then
    return 0
  end
  assign(image, field, value)
  return 1
end

function staged.HDEL(name, ...)
  return remove(image_of(name, HASH), texts(1, ...))
end

function staged.SREM(name, ...)
  return remove(image_of(name, SET), texts(1, ...))
end

function staged.ZREM(name, ...)
  return remove(image_of(name, ZSET), texts(1, ...))
end

function staged.ZPOPMIN(name, count)
  local popped, members = staged.ZRANGE(name, 0, (count or 1) - 1, 'WITHSCORES'), {}
  for at = 1, #popped, 2 do
    members[#members + 1] = popped[at]
  end
  remove(image_of(name, ZSET), members)
  return popped
end

function staged.ZINCRBY(name, by, member)
  local image = image_of(name, ZSET)
  member = text(member)
  local score = score_of((value_of(image, member) or 0) + score_of(by))
  assign(image, member, score)
  return score
end

-- Adds to a whole number. Lua's numbers are exact up to 2^53.
local function add(image, field, by)
  local before, more = value_of(image, field) or '0', text(by)
  if not (string.find(before, '^-?%d+$') and string.find(more, '^-?%d+$')) then
    error('ERR value is not an integer or out of range', 0)
  end
  local sum = before + more
  if math.abs(sum) >= 2 ^ 53 then
    error('ERR increment or decrement would overflow', 0)
  end
  assign(image, field, text(sum))
  return sum
end

function staged.HINCRBY(name, field, by)
  return add(image_of(name, HASH), text(field), by)
end

function staged.INCR(name)
  return add(image_of(name, TEXT), VALUE, 1)
end

function staged.PEXPIRE(name, millis)
  return expire(image_of(name), millis)
end

function staged.EXPIRE(name, seconds)
  return expire(image_of(name), seconds * 1000)
end

-- Unlike Valkey's SET it does not overwrite a key of another kind.
function staged.SET(name, value, how, seconds)
  assert(not how or how == 'EX', 'SET with other options cannot be staged')
  local image = image_of(name, TEXT)
  load(image, { VALUE })
  assign(image, VALUE, text(value))
  assign(image, EXPIRES, false)
  if how then
    expire(image, seconds * 1000)
  end
end

function staged.RPUSH(name, ...)
  local new, image = texts(1, ...), list_of(name)
  local before = image.values.pushed
  for at = 1, #new do
    image.pushed[before + at] = new[at]
  end
  assign(image, 'pushed', before + #new)
  assign(image, 'length', image.values.length + #new)
  return image.values.length
end

function staged.LTRIM(name, first, last)
  assert(first * 1 < 0 and last * 1 == -1, 'only the end of a list can be kept')
  local image = list_of(name)
  assign(image, 'length', math.min(image.values.length, -first))
end

-- `redis.call` as a service's functions see it.
local function stage_call(command, ...)
  local run = staged[command]
  if not run then
    error(tostring(command) .. ' cannot be staged', 0)
  end
  return run(...)
end

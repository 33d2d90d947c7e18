-- The stage: what one call reads and writes, by key. A Valkey function does not roll back, and
-- each command costs more than the work it does. So a service's function reads a field from the
-- store once a call and writes to the stage; at the end of the call each key is written at once.
-- When a function fails, its writes are rolled back on the stage, and the others of the call find
-- everything as it was: values, scores, order and expiry.
--
-- Writing the stage cannot fail half-way. A field is read before it is written, which shows a key
-- of another kind; numbers and the count of arguments are checked when a write is staged; and
-- Valkey refuses a call for lack of memory before it begins. So a wrong write fails its own
-- function, and `write_stage` never meets what Valkey would refuse.
--
-- A command that needs the order of a sorted set has that key written first and runs on the
-- store. If the function is rolled back later, its fields are written once more, as they were.

-- The library's real `redis.call`, which exists only during a call.
local function host_call()
  return redis.call
end

-- The real `redis.call` of the current call. The `redis.call` of a service's functions is the
-- stage's.
local call
local host, redis = redis, {}

-- The images of this call's keys, by name and in the order in which they were first touched.
local stage, images
-- The changes of the work at hand: image, field and previous value, in turn.
local journal, noted
-- Whole numbers of this call as text, cached because most are used repeatedly.
local written
-- The server's clock at its first reading, in microseconds; leases and expiries use it.
local clocked

local function open_stage()
  call = host_call()
  redis.call = call
  stage, images, journal, noted, written, clocked = {}, {}, {}, 0, {}, nil
end

-- A whole number as text: Lua alone would write 1e+14.
local function whole(number)
  local text = written[number]
  if not text then
    text = string.format('%.0f', number + 0)
    written[number] = text
  end
  return text
end

local function clock()
  if not clocked then
    local time = call('TIME')
    clocked = time[1] * 1000000 + time[2]
  end
  return clocked
end

-- A text has one field. A key's expiry (or `false`) lies among its fields as well, under a name
-- that no field has.
local VALUE, EXPIRES = 'value', {}
-- The number of arguments that Lua can unpack is limited.
local WORDS_MAX = 4000

-- The kinds of keys: how fields are read, written and dropped.
local HASH = { all = 'HGETALL', write = 'HSET', drop = 'HDEL' }
local SET = { all = 'SMEMBERS', write = 'SADD', drop = 'SREM' }
local ZSET = { write = 'ZADD', drop = 'ZREM' }
local TEXT, LIST = {}, {}

-- The image of a key: the known values of its fields, `false` where there is none, and which are
-- to be written. Its kind is certain once a read has proven it.
local function image_of(name, kind)
  local image = stage[name]
  if not image then
    image = { name = name, kind = kind, values = {}, dirty = {} }
    stage[name], images[#images + 1] = image, image
  elseif kind and image.kind ~= kind then
    if image.is_proven then
      error('WRONGTYPE Operation against a key holding the wrong kind of value', 0)
    end
    image.kind = kind
  end
  return image
end

function HASH.read(name, fields)
  return call('HMGET', name, unpack(fields))
end

function SET.read(name, members)
  local is_in = call('SMISMEMBER', name, unpack(members))
  for at, member in ipairs(members) do
    is_in[at] = is_in[at] == 1 and member
  end
  return is_in
end

function ZSET.read(name, members)
  local scores = call('ZMSCORE', name, unpack(members))
  for at = 1, #members do
    scores[at] = tonumber(scores[at])
  end
  return scores
end

function TEXT.read(name)
  return { call('GET', name) }
end

-- One field: without a list, which costs more than the command.
function HASH.read_one(name, field)
  return call('HGET', name, field)
end

function SET.read_one(name, member)
  return call('SISMEMBER', name, member) == 1 and member
end

function ZSET.read_one(name, member)
  return tonumber(call('ZSCORE', name, member) or nil)
end

function TEXT.read_one(name)
  return call('GET', name)
end

-- Reads the fields that are not known yet: those named by every `step`th word from `first` on.
local function load(image, words, first, step)
  local values, unknown = image.values, nil
  for at = first or 1, #words, step or 1 do
    if values[words[at]] == nil then
      unknown = unknown or {}
      unknown[#unknown + 1] = words[at]
    end
  end
  if unknown then
    local found = image.is_whole and {} or image.kind.read(image.name, unknown)
    image.is_proven = true
    for at = 1, #unknown do
      values[unknown[at]] = found[at] or false
    end
  end
end

local function value_of(image, field)
  local value = image.values[field]
  if value == nil then
    value = not image.is_whole and image.kind.read_one(image.name, field) or false
    image.is_proven, image.values[field] = true, value
  end
  return value
end

-- Reads all of a hash or set.
local function load_all(image)
  local values = image.values
  if not image.is_whole then
    local found, step = call(image.kind.all, image.name), image.kind == HASH and 2 or 1
    image.is_whole, image.is_proven = true, true
    for at = 1, #found, step do
      if values[found[at]] == nil then
        values[found[at]] = found[at + step - 1]
      end
    end
  end
  return values
end

local function expiry_of(image)
  if image.values[EXPIRES] == nil then
    local at = call('PEXPIRETIME', image.name)
    image.values[EXPIRES] = at > 0 and at
  end
  return image.values[EXPIRES]
end

local function assign(image, field, value)
  local before = image.values[field]
  if before ~= value then
    journal[noted + 1], journal[noted + 2], journal[noted + 3] = image, field, before
    noted = noted + 3
    image.values[field], image.dirty[field] = value, true
  end
end

-- Rolls the stage back to a length of the journal. Fields that may have been written to the store
-- meanwhile are written again.
local function take_back(mark)
  for at = noted - 2, mark + 1, -3 do
    local image, field = journal[at], journal[at + 1]
    image.values[field], image.dirty[field] = journal[at + 2], true
  end
  noted = mark
end

-- Ends a work: what it staged is kept.
local function keep_all()
  noted = 0
end

local function write_words(command, name, words)
  for at = 1, #words, WORDS_MAX do
    call(command, name, unpack(words, at, math.min(#words, at + WORDS_MAX - 1)))
  end
end

local function write_fields(image)
  local kind, values, words, gone = image.kind, image.values, {}, {}
  for field in pairs(image.dirty) do
    local value = values[field]
    if value and kind == HASH and field ~= EXPIRES then
      words[#words + 1] = field
      words[#words + 1] = value
    elseif value and field ~= EXPIRES then
      words[#words + 1] = value
      words[#words + 1] = kind == ZSET and field or nil
    elseif field ~= EXPIRES then
      gone[#gone + 1] = field
    end
  end
  image.dirty = { [EXPIRES] = image.dirty[EXPIRES] }
  write_words(kind.write, image.name, words)
  write_words(kind.drop, image.name, gone)
end

local function write_text(image, is_last)
  local value, dirty = image.values[VALUE], image.dirty
  local expires = is_last and dirty[EXPIRES] and image.values[EXPIRES]
  if dirty[VALUE] and not value then
    call('DEL', image.name)
  elseif dirty[VALUE] and expires then
    call('SET', image.name, value, 'PXAT', expires)
    dirty[EXPIRES] = nil
  elseif dirty[VALUE] then
    call('SET', image.name, value, 'KEEPTTL')
  end
  dirty[VALUE] = nil
end

local function write_list(image)
  local values = image.values
  for at = #image.pushed, values.pushed + 1, -1 do
    image.pushed[at] = nil
  end
  write_words('RPUSH', image.name, image.pushed)
  if values.length < image.length + values.pushed then
    call('LTRIM', image.name, -values.length, -1)
  end
end

-- Writes the changed fields of a key. Its expiry is left to the end of the call, when nothing can
-- be rolled back any more.
local function flush(image, is_last)
  if next(image.dirty) == nil or not image.kind then
    return
  elseif image.kind == TEXT then
    write_text(image, is_last)
  elseif image.kind == LIST then
    write_list(image)
  else
    write_fields(image)
  end
end

-- Ends a call: writes every key as it is on the stage.
local function write_stage()
  for _, image in ipairs(images) do
    flush(image, true)
    local expires = image.dirty[EXPIRES] and image.values[EXPIRES]
    if expires then
      call('PEXPIREAT', image.name, expires)
    elseif expires == false then
      call('PERSIST', image.name)
    end
  end
  open_stage()
end

-- The store drops a key's expiry when the key is emptied. If the work at hand has staged an
-- expiry without reading the old one, it is read here, while it still can be.
local function save_expiry(image)
  for at = 1, noted, 3 do
    if journal[at] == image and journal[at + 1] == EXPIRES and journal[at + 2] == nil then
      local expires = call('PEXPIRETIME', image.name)
      journal[at + 2] = expires > 0 and expires
    end
  end
end

-- Drops fields; returns how many there were. A key that is emptied loses its expiry, also when it
-- is filled again, so where there is an expiry the store is written in the same order.
local function remove(image, fields)
  if #fields == 1 then
    value_of(image, fields[1])
  else
    load(image, fields)
  end
  local gone, expires = 0, expiry_of(image)
  if expires then
    flush(image)
    save_expiry(image)
  end
  for at = 1, #fields do
    gone = gone + (image.values[fields[at]] and 1 or 0)
    assign(image, fields[at], false)
  end
  if expires then
    flush(image)
    if call('EXISTS', image.name) == 0 then
      assign(image, EXPIRES, false)
    end
  end
  return gone
end

local function has_any(image)
  if image.kind == LIST and image.length then
    return image.values.length > 0
  end
  for field, value in pairs(image.values) do
    if value and field ~= EXPIRES then
      return true
    end
  end
  flush(image)
  return call('EXISTS', image.name) == 1
end

local function expire(image, millis)
  assert(millis * 1 > 0, 'an expiry must lie in the future')
  local at = math.floor(clock() / 1000) + millis
  if image.values[EXPIRES] ~= at and not has_any(image) then
    return 0
  end
  assign(image, EXPIRES, at)
  return 1
end

-- A list grows at its end and keeps only its end: pushed values stay here until the call ends,
-- after those that the store had before.
local function list_of(name)
  local image = image_of(name, LIST)
  if not image.length then
    image.length, image.pushed, image.is_proven = call('LLEN', name), {}, true
    image.values.length, image.values.pushed = image.length, 0
  end
  return image
end

-- The state of the rankings, as Valkey keeps it:
--
--   titles                  hash  concert -> title
--   schedules               set   every known schedule
--   schedule:<schedule>     hash  its data; seats ever sold and sold now; when it sold out
--   sales:<schedule>        hash  payment -> `<seats> <sold at> <returned at>`; `-` where that
--                                 event has not come (yet)
--   sold:<window>:<bucket>  zset  concert by seats sold in this bucket and not refunded
--   sell_out:<concert>      zset  schedule by milliseconds from opening to last seat
--   fastest                 zset  concert by the least of these

-- A window slides in steps: a sale counts in it until its whole bucket is older than the
-- window. Buckets use the events' own times, so they are the same whenever the events come.
local WINDOWS = {
  ['1h'] = { span = 3600000, step = 60000 },
  ['24h'] = { span = 24 * 3600000, step = 600000 },
  ['7d'] = { span = 7 * 24 * 3600000, step = 3600000 },
}
-- The single sales of a show are kept until this long after it began; until then no payment
-- counts twice, whatever event id it comes under.
local SALES_SECS = 30 * 86400

local FIELDS = { 'opens_at', 'starts_at', 'total', 'gross', 'net', 'latest', 'out_at' }

-- The schedule, or nil when its opening has not come.
local function schedule_of(id)
  if ctx.known[id] then
    return ctx.known[id]
  end
  local values = redis.call('HMGET', key('schedule:', id), 'concert', 'cancelled',
    unpack(FIELDS))
  local schedule = { id = id, concert = values[1], is_cancelled = values[2] == '1' }
  for at, field in ipairs(FIELDS) do
    schedule[field] = tonumber(values[at + 2])
  end
  if schedule.total then
    ctx.known[id] = schedule
    return schedule
  end
end

local function set(schedule, field, value)
  schedule[field] = value
  redis.call('HSET', key('schedule:', schedule.id), field, whole(value))
end

local function sale_from(line)
  local seats, sold_at, back_at = string.match(line or '0 - -', '^(%S+) (%S+) (%S+)$')
  return { seats = tonumber(seats), sold_at = tonumber(sold_at), back_at = tonumber(back_at) }
end

local function sale_of(schedule, payment)
  return sale_from(redis.call('HGET', key('sales:', schedule.id), payment))
end

local function keep(schedule, payment, sale)
  local function moment(millis)
    return millis and whole(millis) or '-'
  end
  local sales = key('sales:', schedule.id)
  redis.call('HSET', sales, payment, string.format('%.0f %s %s', sale.seats,
    moment(sale.sold_at), moment(sale.back_at)))
  local show_in = math.max(schedule.starts_at - ctx.now, 0) / 1000
  redis.call('EXPIRE', sales, whole(math.ceil(show_in) + SALES_SECS))
end

-- Whether the single sales have expired: the counts made of them stay.
local function is_history(schedule)
  return ctx.now >= schedule.starts_at + SALES_SECS * 1000
end

-- Adds seats to the buckets of the time of their sale, or subtracts them. A bucket expires when
-- no window reaches it any more.
local function count(concert, sold_at, seats)
  for name, window in pairs(WINDOWS) do
    local bucket = math.floor(sold_at / window.step)
    local left = (bucket + 1) * window.step + window.span - ctx.now
    if left > 0 then
      local sold = key('sold:' .. name .. ':' .. whole(bucket))
      if tonumber(redis.call('ZINCRBY', sold, whole(seats), concert)) <= 0 then
        redis.call('ZREM', sold, concert)
      end
      redis.call('PEXPIRE', sold, whole(left))
    end
  end
end

-- A concert is as fast as the fastest of its schedules.
local function rank(concert)
  local first = redis.call('ZRANGE', key('sell_out:', concert), 0, 0, 'WITHSCORES')
  if first[1] then
    redis.call('ZADD', key('fastest'), first[2], concert)
  else
    redis.call('ZREM', key('fastest'), concert)
  end
end

local function sold_out(schedule, at)
  local sell_out = key('sell_out:', schedule.concert)
  if at then
    set(schedule, 'out_at', at)
  else
    schedule.out_at = nil
    redis.call('HDEL', key('schedule:', schedule.id), 'out_at')
  end
  if at and not schedule.is_cancelled then
    redis.call('ZADD', sell_out, whole(math.max(at - schedule.opens_at, 0)), schedule.id)
  else
    redis.call('ZREM', sell_out, schedule.id)
  end
  rank(schedule.concert)
end

-- The first moment at which every seat was sold, by the times of all sales and refunds.
local function first_sold_out(schedule)
  local moves = {}
  local lines = redis.call('HVALS', key('sales:', schedule.id))
  for _, line in ipairs(lines) do
    local sale = sale_from(line)
    if sale.sold_at then
      moves[#moves + 1] = { at = sale.sold_at, seats = sale.seats }
      if sale.back_at then
        moves[#moves + 1] = { at = sale.back_at, seats = -sale.seats }
      end
    end
  end
  table.sort(moves, function(a, b)
    return a.at < b.at or (a.at == b.at and a.seats > b.seats)
  end)
  local net = 0
  for _, move in ipairs(moves) do
    net = net + move.seats
    if net >= schedule.total then
      return move.at
    end
  end
  return nil
end

-- Updates the sell-out of a schedule after a sale or a refund at this time. An event in the order
-- of time, as nearly every one is, needs no look at the other sales; a late one may change when
-- the show first sold out. During a replay no sale has expired.
local function update_sell_out(schedule, at)
  local latest = schedule.latest or -1
  if at > latest then
    set(schedule, 'latest', at)
  end
  if (schedule.gross or 0) < schedule.total or (schedule.out_at and at >= schedule.out_at) then
    return
  end
  if at > latest then
    if schedule.net >= schedule.total then
      sold_out(schedule, at)
    end
  elseif ctx.is_silent or not is_history(schedule) then
    local first = first_sold_out(schedule)
    if first ~= schedule.out_at then
      sold_out(schedule, first)
    end
  end
end

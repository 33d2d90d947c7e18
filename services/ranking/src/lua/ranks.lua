-- Reads the rankings, and the digest that compares one generation with another.

-- The buckets that a window reaches now, first to last.
local function reached(window)
  return math.floor((ctx.now - window.span) / window.step), math.floor(ctx.now / window.step)
end

-- Concert, title and seats of the concerts that sold most, at most `most`.
function reads.sold(name, most)
  local window, buckets, ranked = WINDOWS[name], {}, {}
  local first, last = reached(window)
  for bucket = first, last do
    buckets[#buckets + 1] = key('sold:' .. name .. ':' .. whole(bucket))
  end
  buckets[#buckets + 1] = 'WITHSCORES'
  local sums = redis.call('ZUNION', #buckets - 1, unpack(buckets))
  for at = #sums - 1, math.max(1, #sums + 1 - 2 * tonumber(most)), -2 do
    ranked[#ranked + 1] = sums[at]
    ranked[#ranked + 1] = redis.call('HGET', key('titles'), sums[at]) or ''
    ranked[#ranked + 1] = whole(tonumber(sums[at + 1]))
  end
  return ranked
end

-- Concert, title, milliseconds and schedule of the fastest sell-outs, at most `most`.
function reads.fastest(most)
  local ranked = {}
  local concerts = redis.call('ZRANGE', key('fastest'), 0, tonumber(most) - 1)
  for _, concert in ipairs(concerts) do
    local first = redis.call('ZRANGE', key('sell_out:', concert), 0, 0, 'WITHSCORES')
    ranked[#ranked + 1] = concert
    ranked[#ranked + 1] = redis.call('HGET', key('titles'), concert) or ''
    ranked[#ranked + 1] = whole(tonumber(first[2]))
    ranked[#ranked + 1] = first[1]
  end
  return ranked
end

local function sum_of(concert, name)
  local window, sum = WINDOWS[name], 0
  local first, last = reached(window)
  for bucket = first, last do
    local sold = key('sold:' .. name .. ':' .. whole(bucket))
    sum = sum + (tonumber(redis.call('ZSCORE', sold, concert) or 0))
  end
  return sum
end

function reads.digest(part)
  local lines = {}
  for _, id in ipairs(redis.call('SMEMBERS', key('schedules'))) do
    if is_in(part, id) then
      local schedule = schedule_of(id) or {}
      local sold = schedule.total and not is_history(schedule)
        and string.format('sold %.0f, %.0f now', schedule.gross or 0, schedule.net or 0) or '-'
      lines[#lines + 1] = string.format('schedule %s of %s: opens %.0f, %.0f seats, %s, %s, %s',
        id, schedule.concert or '-', schedule.opens_at or 0, schedule.total or 0,
        schedule.is_cancelled and 'cancelled' or 'open', sold,
        schedule.out_at and 'sold out ' .. whole(schedule.out_at) or 'not sold out')
    end
  end
  local titles = redis.call('HGETALL', key('titles'))
  for at = 1, #titles, 2 do
    local concert = titles[at]
    if is_in(part, concert) then
      local fastest = redis.call('ZSCORE', key('fastest'), concert) or '-'
      lines[#lines + 1] = string.format('concert %s, %s: %.0f in 1h, %.0f in 24h, %.0f in 7d, %s ms',
        concert, titles[at + 1], sum_of(concert, '1h'), sum_of(concert, '24h'),
        sum_of(concert, '7d'), fastest)
    end
  end
  return lines
end

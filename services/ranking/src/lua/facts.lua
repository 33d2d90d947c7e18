-- What is heard of schedules and payments: each may come twice, also under another id, late,
-- or before what it follows from.

local function unheard_of()
  return not_yet('not_found', 'There is no such schedule.')
end

function acts.open(id, concert, title, opens_at, starts_at, total)
  local schedule = key('schedule:' .. id)
  if redis.call('HSETNX', schedule, 'total', total) == 0 then
    return
  end
  redis.call('HSET', schedule, 'concert', concert, 'opens_at', opens_at,
    'starts_at', starts_at)
  redis.call('SADD', key('schedules'), id)
  redis.call('HSET', key('titles'), concert, title)
end

-- A show that was called off has no place among the fastest. Its money goes back, and each
-- return takes its seats out of what was sold.
function acts.cancel(id, concert)
  redis.call('HSET', key('schedule:' .. id), 'cancelled', '1')
  redis.call('SADD', key('schedules'), id)
  redis.call('ZREM', key('sell_out:' .. concert), id)
  rank(concert)
end

function acts.sell(id, payment, seats, sold_at)
  local schedule = schedule_of(id)
  if not schedule then
    return unheard_of()
  end
  local sale = sale_of(schedule, payment)
  if sale.sold_at then
    return
  end
  sale.seats, sale.sold_at = tonumber(seats), tonumber(sold_at)
  keep(schedule, payment, sale)
  set(schedule, 'gross', (schedule.gross or 0) + sale.seats)
  if not sale.back_at then
    set(schedule, 'net', (schedule.net or 0) + sale.seats)
    count(schedule.concert, sale.sold_at, sale.seats)
  end
  judge(schedule, sale.sold_at)
end

-- Heard before its sale, a return waits there for it.
function acts.give_back(id, payment, back_at)
  local schedule = schedule_of(id)
  if not schedule then
    return unheard_of()
  end
  local sale = sale_of(schedule, payment)
  if sale.back_at then
    return
  end
  sale.back_at = tonumber(back_at)
  keep(schedule, payment, sale)
  if sale.sold_at then
    set(schedule, 'net', schedule.net - sale.seats)
    count(schedule.concert, sale.sold_at, -sale.seats)
  end
  judge(schedule, sale.back_at)
end

-- A sell-out of which the single sales are forgotten.
local function carry_sell_out(id, out_at)
  local schedule = schedule_of(id)
  if schedule and not schedule.out_at then
    sold_out(schedule, tonumber(out_at))
  end
end

function acts.carried(name, ...)
  if name == 'sell_out' then
    carry_sell_out(...)
  else
    acts[name](...)
  end
end

-- The moment in a UUIDv7: what is opened gets its id when it is opened.
local function born_at(id)
  return tonumber(string.sub(id, 1, 8) .. string.sub(id, 10, 13), 16)
end

local function carry_sales(rows, schedule, paid_since)
  local sales = redis.call('HGETALL', key('sales:' .. schedule.id))
  for at = 1, #sales, 2 do
    local payment, sale = sales[at], sale_from(sales[at + 1])
    if sale.sold_at and sale.sold_at < paid_since then
      rows[#rows + 1] = { 'sell', schedule.id, payment, whole(sale.seats), whole(sale.sold_at) }
    end
    if sale.back_at and sale.back_at < paid_since then
      rows[#rows + 1] = { 'give_back', schedule.id, payment, whole(sale.back_at) }
    end
  end
end

-- Schedules opened, and payments ended, before the streams of concert and payment begin.
function reads.carry(part, opened_since, paid_since)
  local rows = {}
  opened_since, paid_since = tonumber(opened_since), tonumber(paid_since)
  for _, id in ipairs(redis.call('SMEMBERS', key('schedules'))) do
    local schedule = is_in(part, id) and schedule_of(id)
    if schedule then
      if born_at(id) < opened_since then
        rows[#rows + 1] = { 'open', id, schedule.concert,
          redis.call('HGET', key('titles'), schedule.concert), whole(schedule.opens_at),
          whole(schedule.starts_at), whole(schedule.total) }
        if schedule.is_cancelled then
          rows[#rows + 1] = { 'cancel', id, schedule.concert }
        end
      end
      carry_sales(rows, schedule, paid_since)
      if is_history(schedule) and schedule.out_at then
        rows[#rows + 1] = { 'sell_out', id, whole(schedule.out_at) }
      end
    end
  end
  return rows
end

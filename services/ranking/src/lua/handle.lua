-- What is heard of schedules and payments: each may come twice, also under another id, late,
-- or before what it follows from.

local function unheard_of()
  return not_yet('not_found', 'There is no such schedule.')
end

function writes.open(id, concert, title, opens_at, starts_at, total)
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
function writes.cancel(id, concert)
  redis.call('HSET', key('schedule:' .. id), 'cancelled', '1')
  redis.call('SADD', key('schedules'), id)
  redis.call('ZREM', key('sell_out:' .. concert), id)
  rank(concert)
end

function writes.sell(id, payment, seats, sold_at)
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
function writes.give_back(id, payment, back_at)
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

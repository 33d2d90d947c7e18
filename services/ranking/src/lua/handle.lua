-- Handles the events of schedules and payments. Each of them may come twice, also under another
-- id, late, or before the event that it follows from.

local function unknown_schedule()
  return not_yet('not_found', 'There is no such schedule.')
end

function writes.open(id, concert, title, opens_at, starts_at, total)
  local schedule = key('schedule:', id)
  if redis.call('HSETNX', schedule, 'total', total) == 0 then
    return
  end
  redis.call('HSET', schedule, 'concert', concert, 'opens_at', opens_at,
    'starts_at', starts_at)
  ctx.known[id] = nil
  redis.call('SADD', key('schedules'), id)
  redis.call('HSET', key('titles'), concert, title)
end

-- A cancelled show is not among the fastest. Its payments are refunded, and each refund subtracts
-- its seats.
function writes.cancel(id, concert)
  redis.call('HSET', key('schedule:', id), 'cancelled', '1')
  ctx.known[id] = nil
  redis.call('SADD', key('schedules'), id)
  redis.call('ZREM', key('sell_out:', concert), id)
  rank(concert)
end

function writes.sell(id, payment, seats, sold_at)
  local schedule = schedule_of(id)
  if not schedule then
    return unknown_schedule()
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
  update_sell_out(schedule, sale.sold_at)
end

-- A refund that comes before its sale is stored with it.
function writes.refund(id, payment, back_at)
  local schedule = schedule_of(id)
  if not schedule then
    return unknown_schedule()
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
  update_sell_out(schedule, sale.back_at)
end

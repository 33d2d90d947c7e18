-- Gives up a reservation that the transaction has locked.
--
-- $1 reservation, $2 caller, $3 schedule, $4 seats, $5 payment or null, $6 points to return,
-- $7 ledger entry, $8 now
with wallet as (
    update wallets set balance = balance + $6 where user_id = $2 and $5 is not null
    returning balance
), entry as (
    insert into entries (user_id, id, payment_id, amount, balance, at, kind, house)
    select $2, $7, $5, $6, balance, $8, 'refund', 'sales' from wallet
), payment as (
    update payments set state = 'REFUNDED', ended_at = $8 where id = $5
), place as (
    update places set bought = bought - cardinality($4)
    where schedule_id = $3 and user_id = $2 and $5 is not null
), freed as (
    update seats set reservation_id = null
    where schedule_id = $3 and seat = any($4) and reservation_id = $1
), emitted as (
    insert into outbox (kind, payload, at)
    select 'reservation.cancelled',
        jsonb_build_object('reservation_id', $1, 'schedule_id', $3, 'user_id', $2,
            'payment_id', $5, 'refund', $6), $8
)
update reservations set state = 'CANCELLED' where id = $1

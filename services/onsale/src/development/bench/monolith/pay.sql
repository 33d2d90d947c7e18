-- One payment: one statement, one transaction, one round trip.
--
-- The update of the hold decides: it finds the row only while the hold is the caller's
-- and lives, and keeps it locked until the end. Nothing else happens when it finds none. A
-- wallet that has too little breaks `wallets_enough`, one that is closed or missing leaves
-- the debit without a balance; both undo everything.
--
-- $1 reservation, $2 caller, $3 payment, $4 ledger entry, $5 idempotency key or null, $6 now
with hold as (
    update reservations set state = 'CONFIRMED', payment_id = $3
    where id = $1 and user_id = $2 and state = 'PENDING' and expires_at > $6
    returning schedule_id, amount, hold_version, jsonb_array_length(seats) as seats
), wallet as (
    update wallets w set balance = w.balance - hold.amount
    from hold where w.user_id = $2 and not w.closed
    returning w.balance
), entry as (
    insert into entries (user_id, id, payment_id, amount, balance, at, kind, house)
    select $2, $4, $3, -amount, (select balance from wallet), $6, 'debit', 'sales' from hold
), place as (
    -- The place ends unless another hold of the fan still lives.
    update places p
    set bought = p.bought + hold.seats,
        state = case when exists (select from reservations r
                    where r.user_id = $2 and r.schedule_id = hold.schedule_id
                      and r.state = 'PENDING' and r.id <> $1)
                then p.state else 'COMPLETED' end
    from hold where p.schedule_id = hold.schedule_id and p.user_id = $2
), emitted as (
    insert into outbox (kind, payload, at)
    select 'payment.completed',
        jsonb_build_object('payment_id', $3, 'reservation_id', $1, 'schedule_id', schedule_id,
            'user_id', $2, 'amount', amount, 'seats', seats), $6
    from hold
)
insert into payments (id, reservation_id, schedule_id, user_id, amount, hold_version,
    requested_at, ended_at, state, idempotency_key)
select $3, $1, schedule_id, $2, amount, hold_version, $6, $6, 'COMPLETED', $5 from hold
returning schedule_id, amount

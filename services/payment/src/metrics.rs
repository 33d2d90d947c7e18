//! The metrics of payments.

use mesh::{
    engine::Failure,
    metrics::{Metric, Sample},
};
use sqlx::PgPool;

use crate::{domain::Standing, rows::reason_name};

/// How payments ended.
pub(crate) static PAYMENTS: Metric = Metric::counter(
    "onsale_payments",
    "Payments that have ended; `compensated` failed after points were debited, and gave them back",
    &["outcome", "reason"],
);
/// Its labels, which are exported from the start.
pub(crate) const ENDS: &[&[&str]] = &[
    &["completed", ""],
    &["failed", "insufficient_balance"],
    &["failed", "no_wallet"],
    &["compensated", "hold_gone"],
    &["compensated", "show_cancelled"],
];
/// How long they took.
pub(crate) static DURATION: Metric = Metric::histogram(
    "onsale_payment_duration_seconds",
    "Time from the request of a payment to its end",
    &["outcome"],
    &[0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0],
);
/// Its labels.
pub(crate) const OUTCOMES: &[&[&str]] = &[&["completed"], &["failed"], &["compensated"]];
static OPEN: Metric = Metric::gauge(
    "onsale_payments_open",
    "Payments that were requested and have not ended, among the newest ten thousand",
    &[],
);

/// The gauges that are sampled.
pub(crate) const GAUGES: &[&Metric] = &[&OPEN];

/// Payments that are looked at for those that run.
const NEWEST: i64 = 10_000;

/// The outcome and the reason of a payment that has ended; `None` for one that runs, or that was
/// refunded long after its end. A compensated one is emitted after the points are back.
pub(crate) fn end_of(standing: Standing) -> Option<(&'static str, &'static str)> {
    match standing {
        Standing::Completed => Some(("completed", "")),
        Standing::Failed(reason) => {
            let reason = reason_name(reason);
            let is_compensated = ENDS.contains(&&["compensated", reason][..]);
            Some((if is_compensated { "compensated" } else { "failed" }, reason))
        }
        Standing::Requested | Standing::Unwinding | Standing::Refunded => None,
    }
}

/// The newest payments that run. There is no index of these: completing a payment would have to
/// change it.
pub(crate) async fn sample(pool: &PgPool) -> Result<Vec<Sample>, Failure> {
    let open: i64 = sqlx::query_scalar(
        "select count(*) filter (where state = 'REQUESTED')
         from (select state from payments order by id desc limit $1) as newest",
    )
    .bind(NEWEST)
    .fetch_one(pool)
    .await?;
    Ok(vec![OPEN.is(open as f64)])
}

#[cfg(test)]
mod tests {
    use events::payment::PaymentFailure;

    use super::*;

    #[test]
    fn a_payment_that_gave_points_back_is_compensated_and_one_that_took_none_failed() {
        let of = |reason| end_of(Standing::Failed(reason)).unwrap().0;
        assert_eq!(of(PaymentFailure::HoldGone), "compensated");
        assert_eq!(of(PaymentFailure::ShowCancelled), "compensated");
        assert_eq!(of(PaymentFailure::InsufficientBalance), "failed");
        assert_eq!(of(PaymentFailure::NoWallet), "failed");
        assert_eq!(end_of(Standing::Completed), Some(("completed", "")));
        assert_eq!(end_of(Standing::Unwinding), None);
    }
}

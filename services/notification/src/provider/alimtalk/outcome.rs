//! The outcome of a try with Kakao.

use crate::{
    domain::Delivery,
    provider::parcel::{Parcel, Sent},
};

/// The outcome of a try with Kakao.
pub(super) enum Outcome {
    /// The try is over.
    Ended(Delivery),
    /// Kakao refused it, for this reason.
    Refused(String),
}

impl Outcome {
    pub(super) fn sort(self, parcel: Parcel, sent: &mut Sent, refused: &mut Vec<(Parcel, String)>) {
        match self {
            Self::Ended(delivery) => sent.deliveries.push((parcel.id, delivery)),
            Self::Refused(why) => refused.push((parcel, why)),
        }
    }
}

//! The names of states and of kinds in the database.

use events::point::EntryKind;
use mesh::postgres::unknown;

use crate::domain::WalletState;

pub(super) fn state_name(state: WalletState) -> &'static str {
    match state {
        WalletState::Open => "open",
        WalletState::Closing => "closing",
        WalletState::Closed => "closed",
    }
}

pub(super) fn state_named(name: &str) -> sqlx::Result<WalletState> {
    match name {
        "open" => Ok(WalletState::Open),
        "closing" => Ok(WalletState::Closing),
        "closed" => Ok(WalletState::Closed),
        _ => Err(unknown("wallet state", name)),
    }
}

pub(super) fn kind_name(kind: EntryKind) -> &'static str {
    match kind {
        EntryKind::Charge => "charge",
        EntryKind::Debit => "debit",
        EntryKind::Refund => "refund",
        EntryKind::Forfeit => "forfeit",
    }
}

pub(super) fn kind_named(name: &str) -> sqlx::Result<EntryKind> {
    [EntryKind::Charge, EntryKind::Debit, EntryKind::Refund, EntryKind::Forfeit]
        .into_iter()
        .find(|kind| kind_name(*kind) == name)
        .ok_or_else(|| unknown("entry kind", name))
}

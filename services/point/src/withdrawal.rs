//! Letting a fan go, or not: no points may be left, unless they are given up.

use events::{
    EntryId,
    point::{EntryKind, PointForfeited, PointWithdrawalBlocked, PointWithdrawalCleared},
    user::{UserWithdrawalRefused, UserWithdrawalRequested, UserWithdrawn},
    withdrawal::Standing,
};
use mesh::{Hear, Miss, Turn};

use crate::{
    Book, Keys, Rules,
    book::Stranded,
    domain::{Entry, Wallet, at_stake},
};

impl Hear<UserWithdrawalRequested> for Book {
    fn keys(event: &UserWithdrawalRequested, keys: &mut Keys) {
        keys.wallets.push(event.user_id.0);
        keys.leaving.push(event.user_id.0);
    }

    fn hear(
        &mut self,
        event: &UserWithdrawalRequested,
        turn: &mut Turn<'_, Rules>,
    ) -> Result<(), Miss> {
        let &UserWithdrawalRequested { user_id, attempt, forfeit, .. } = event;
        let wallet = self.wallet(user_id).ok_or(Miss::NotYet("user.registered of this fan"))?;
        let block = at_stake(wallet, forfeit);
        let Some((standing, answer)) = Standing::asked(self.standing(attempt), block) else {
            return Ok(());
        };
        self.keep_attempt(attempt, user_id, standing);
        match answer {
            Ok(()) => turn.tell(PointWithdrawalCleared { user_id, attempt }),
            Err(reason) => turn.tell(PointWithdrawalBlocked { user_id, attempt, reason }),
        }
        Ok(())
    }
}

impl Hear<UserWithdrawalRefused> for Book {
    fn keys(event: &UserWithdrawalRefused, keys: &mut Keys) {
        keys.wallets.push(event.user_id.0);
        keys.leaving.push(event.user_id.0);
    }

    /// It locks the wallet, like the request that it may overtake.
    fn hear(&mut self, event: &UserWithdrawalRefused, _: &mut Turn<'_, Rules>) -> Result<(), Miss> {
        self.wallet(event.user_id).ok_or(Miss::NotYet("user.registered of this fan"))?;
        if let Some(standing) = Standing::refused(self.standing(event.attempt)) {
            self.keep_attempt(event.attempt, event.user_id, standing);
        }
        Ok(())
    }
}

impl Hear<UserWithdrawn> for Book {
    fn keys(event: &UserWithdrawn, keys: &mut Keys) {
        keys.wallets.push(event.user_id.0);
        keys.leaving.push(event.user_id.0);
    }

    /// What is left is given up, or was given back while the account was being closed.
    fn hear(&mut self, event: &UserWithdrawn, turn: &mut Turn<'_, Rules>) -> Result<(), Miss> {
        let &UserWithdrawn { user_id, attempt, forfeit, .. } = event;
        let Some(standing) = Standing::withdrawn(self.standing(attempt)) else { return Ok(()) };
        self.open_wallet(user_id, Wallet::CLOSED);
        self.keep_attempt(attempt, user_id, standing);
        let amount = self.wallet(user_id).map_or(0, |wallet| wallet.balance);
        if amount == 0 {
            return Ok(());
        }
        if !forfeit {
            self.strand(Stranded { user_id, payment_id: None, amount, at: turn.now });
            return Ok(());
        }
        let entry_id = EntryId(turn.new_id());
        self.enter(Entry {
            user_id,
            id: entry_id,
            kind: EntryKind::Forfeit,
            amount: -amount,
            balance: 0,
            payment_id: None,
            at: turn.now,
        });
        turn.tell(PointForfeited { user_id, entry_id, amount, balance: 0 });
        Ok(())
    }
}

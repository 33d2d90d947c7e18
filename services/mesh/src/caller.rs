//! Who is asking, and who may.

use events::{Problem, Timestamp, UserId, codes, user::Role};

/// Who a message comes from.
#[derive(Debug, Clone, PartialEq)]
pub enum Caller {
    /// A verified access token.
    User {
        /// Whose.
        user_id: UserId,
        /// What the account may do.
        roles: Vec<Role>,
        /// When the token runs out.
        expires_at: Timestamp,
    },
    /// No token was given.
    Anonymous,
    /// The mesh itself: a heard fact or a timer.
    Mesh,
}

impl Caller {
    /// The user behind an access token.
    ///
    /// # Errors
    /// `unauthenticated` for anybody else.
    pub fn user_id(&self) -> Result<UserId, Problem> {
        match self {
            Self::User { user_id, .. } => Ok(*user_id),
            Self::Anonymous | Self::Mesh => Err(codes::UNAUTHENTICATED.into()),
        }
    }

    /// Whether the caller has this role.
    pub fn has(&self, role: Role) -> bool {
        matches!(self, Self::User { roles, .. } if roles.contains(&role))
    }
}

/// Who may call an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Allow {
    /// Everybody, and anybody may read the answer; a token is not even looked at.
    Anyone,
    /// Everybody, and the answer is a secret of who has asked: a session. A token is not even
    /// looked at.
    Newcomer,
    /// Everybody with a valid access token.
    User,
    /// Accounts with this role.
    Role(Role),
    /// Accounts with one of these roles.
    OneOf(&'static [Role]),
    /// Services alone, as far as the broker lets each of them ask; it is not under `cmd.`.
    Service,
    /// Nobody from outside: only this service's own timers and endpoints.
    Inside,
}

impl Allow {
    /// Whether anybody may read what is answered.
    pub(crate) fn is_public(self) -> bool {
        self == Self::Anyone
    }

    /// Whether the caller's token, if there is one, makes no difference.
    pub(crate) fn needs_no_token(self) -> bool {
        matches!(self, Self::Anyone | Self::Newcomer | Self::Service)
    }

    /// Lets the caller pass, or says why not.
    ///
    /// # Errors
    /// `unauthenticated` without a token, `forbidden` without the role.
    pub fn check(self, caller: &Caller) -> Result<(), Problem> {
        let wanted = match &self {
            Self::Role(role) => std::slice::from_ref(role),
            Self::OneOf(roles) => roles,
            Self::Anyone | Self::Newcomer | Self::User | Self::Service | Self::Inside => &[],
        };
        match (self, caller) {
            (Self::Anyone | Self::Newcomer | Self::Service, _)
            | (_, Caller::Mesh)
            | (Self::User, Caller::User { .. }) => Ok(()),
            (Self::Inside, _) => Err(codes::FORBIDDEN.into()),
            (_, Caller::User { .. }) if wanted.iter().any(|role| caller.has(*role)) => Ok(()),
            (_, Caller::User { .. }) => Err(lacking(wanted)),
            (_, Caller::Anonymous) => Err(Problem::new(
                codes::UNAUTHENTICATED,
                "Send `Authorization: Bearer <access token>`.",
            )
            .with("field", "Authorization")),
        }
    }
}

fn lacking(roles: &[Role]) -> Problem {
    let names: Vec<_> = roles.iter().map(|role| format!("{role:?}").to_lowercase()).collect();
    Problem::new(codes::FORBIDDEN, format!("This needs the role {}.", names.join(" or ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fan() -> Caller {
        Caller::User {
            user_id: UserId(uuid::Uuid::nil()),
            roles: vec![Role::Fan],
            expires_at: Timestamp(time::OffsetDateTime::UNIX_EPOCH),
        }
    }

    #[test]
    fn a_role_is_needed_where_it_is_asked_for() {
        assert!(Allow::User.check(&fan()).is_ok());
        let refusal = Allow::Role(Role::Organizer).check(&fan()).unwrap_err();
        assert!(refusal.is(codes::FORBIDDEN));
    }

    #[test]
    fn one_of_several_roles_is_enough() {
        const EITHER: Allow = Allow::OneOf(&[Role::Organizer, Role::Operator]);
        let with = |role| Caller::User {
            user_id: UserId(uuid::Uuid::nil()),
            roles: vec![Role::Fan, role],
            expires_at: Timestamp(time::OffsetDateTime::UNIX_EPOCH),
        };
        assert!(EITHER.check(&with(Role::Operator)).is_ok());
        assert!(EITHER.check(&with(Role::Organizer)).is_ok());
        let refusal = EITHER.check(&fan()).unwrap_err();
        assert_eq!(refusal.detail, "This needs the role organizer or operator.");
        assert!(EITHER.check(&Caller::Anonymous).unwrap_err().is(codes::UNAUTHENTICATED));
    }

    #[test]
    fn nobody_from_outside_reaches_an_inner_command() {
        assert!(Allow::Inside.check(&fan()).is_err());
        assert!(Allow::Inside.check(&Caller::Mesh).is_ok());
    }
}

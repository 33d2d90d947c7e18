//! The caller of an endpoint, and which callers an endpoint allows.

use events::{Problem, Timestamp, UserId, codes, user::Role};

/// The sender of a message.
#[derive(Debug, Clone, PartialEq)]
pub enum Caller {
    /// A verified access token.
    User {
        /// The account.
        user_id: UserId,
        /// What the account may do.
        roles: Vec<Role>,
        /// When the token expires.
        expires_at: Timestamp,
    },
    /// The request has no token.
    Anonymous,
    /// The mesh itself: a consumed event or a timer.
    Mesh,
}

impl Caller {
    /// The user behind an access token.
    ///
    /// # Errors
    /// `unauthenticated` for any other caller.
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

/// Which callers an endpoint allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Allow {
    /// All callers, and the answer is public; a token is ignored.
    Anyone,
    /// All callers, but the answer is secret to the caller: a session. A token is ignored.
    Newcomer,
    /// All callers with a valid access token.
    User,
    /// Accounts with this role.
    Role(Role),
    /// Accounts with one of these roles.
    OneOf(&'static [Role]),
    /// Only services, each as far as the broker permits it; it is not under `cmd.`.
    Service,
    /// No caller from outside: only this service's own timers and endpoints.
    Inside,
}

impl Allow {
    /// Whether the answer is public.
    pub(crate) fn is_public(self) -> bool {
        self == Self::Anyone
    }

    /// Whether the caller's token, if any, is ignored.
    pub(crate) fn needs_no_token(self) -> bool {
        matches!(self, Self::Anyone | Self::Newcomer | Self::Service)
    }

    /// Allows the caller, or returns why not.
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
    fn an_endpoint_for_a_role_refuses_a_caller_without_it() {
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
    fn an_inside_command_is_refused_to_callers_from_outside() {
        assert!(Allow::Inside.check(&fan()).is_err());
        assert!(Allow::Inside.check(&Caller::Mesh).is_ok());
    }
}

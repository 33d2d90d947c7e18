//! The saga timeline, the stall watchdog and the auditor: what happened, what is still to
//! come, and what should never have happened.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{EventId, Page, SagaId, ScheduleId, Timestamp, UserId};

/// `audit.saga_stalled`: an awaited fact did not come in time.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct SagaStalled {
    /// The saga.
    pub saga_id: SagaId,
    /// Its flow, for example `pay`.
    pub flow: String,
    /// The facts of which one is awaited.
    pub awaited: Vec<String>,
    /// The service that should tell it.
    pub service: String,
    /// The fact it should follow.
    pub after: String,
    /// That fact's id.
    pub after_id: EventId,
    /// When it was due.
    pub due_at: Timestamp,
    /// Whose sale.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schedule_id: Option<ScheduleId>,
}

/// A rule that always holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum Rule {
    /// A seat of a schedule has at most one owner at a time.
    OneOwner,
    /// Money is taken once for a payment, and given back at most once.
    TakenOnce,
    /// Completed payments and confirmed seats match one to one.
    PaidIsOwned,
    /// What was taken for no seats is given back.
    GivenBack,
    /// A wallet's balance is the sum of its movements, and never below zero.
    LedgerSums,
    /// No hold is used past its hard cap.
    HardCap,
    /// No fact comes outside its declared flow.
    DeclaredFlow,
}

impl Rule {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::OneOwner,
        Self::TakenOnce,
        Self::PaidIsOwned,
        Self::GivenBack,
        Self::LedgerSums,
        Self::HardCap,
        Self::DeclaredFlow,
    ];

    /// Its name on the wire, for example `one_owner`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::OneOwner => "one_owner",
            Self::TakenOnce => "taken_once",
            Self::PaidIsOwned => "paid_is_owned",
            Self::GivenBack => "given_back",
            Self::LedgerSums => "ledger_sums",
            Self::HardCap => "hard_cap",
            Self::DeclaredFlow => "declared_flow",
        }
    }
}

/// `audit.violation`: facts were told that cannot all be true.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Violation {
    /// Made of the rule and the offending facts, so that finding it again is the same one.
    pub violation_id: Uuid,
    /// The rule that is broken.
    pub rule: Rule,
    /// How, in words.
    pub detail: String,
    /// The offending facts.
    pub events: Vec<EventId>,
    /// The saga of the last of them.
    pub saga_id: SagaId,
    /// Whose sale.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schedule_id: Option<ScheduleId>,
}

crate::events! {
    SagaStalled = "audit.saga_stalled", schedule: |e| e.schedule_id, about: |e| e.saga_id.0;
    Violation = "audit.violation", schedule: |e| e.schedule_id, about: |e| e.violation_id;
}

/// Where a saga stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum SagaState {
    /// Something is still to come, and there is time.
    Running,
    /// Something is still to come, and its time is over.
    Stalled,
    /// Over; what was done had to be undone.
    Compensated,
    /// Over; refused, and nothing had to be undone.
    Failed,
    /// Over, as it should.
    Completed,
}

impl SagaState {
    /// Its name on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Stalled => "stalled",
            Self::Compensated => "compensated",
            Self::Failed => "failed",
            Self::Completed => "completed",
        }
    }
}

/// Read one saga. Found by the id of the saga, or of a payment, a reservation, a user (the
/// latest saga), an event or a trace; or by a seat.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct GetSaga {
    /// A UUID, 32 hex digits of a trace id, or `<schedule id>/<seat>`.
    pub id: String,
}

/// Find sagas, the latest first (operator).
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(default)]
pub struct FindSagas {
    /// Only in this state.
    pub state: Option<SagaState>,
    /// Only those this service took part in or is awaited in.
    pub service: Option<String>,
    /// Only those with a fact since then.
    pub since: Option<Timestamp>,
    /// Only those about this: an id, a trace id, or `<schedule id>/<seat>`.
    pub about: Option<String>,
    /// `next_cursor` of the page before.
    pub cursor: Option<String>,
    /// Entries wanted, 1 to 100; 20 when absent.
    pub limit: Option<u32>,
}

/// A saga in one line.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct SagaLine {
    /// The saga.
    pub saga_id: SagaId,
    /// Its flow, for example `pay`.
    pub flow: String,
    /// Where it stands.
    pub state: SagaState,
    /// Whose it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user_id: Option<UserId>,
    /// Whose sale.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schedule_id: Option<ScheduleId>,
    /// When its first fact was told.
    pub began_at: Timestamp,
    /// When its last fact was told.
    pub last_at: Timestamp,
    /// Its last fact.
    #[serde(rename = "last_fact")]
    pub last_event: String,
    /// Number of its facts.
    #[serde(rename = "facts")]
    pub events: u32,
    /// Services that are awaited.
    pub awaited: Vec<String>,
    /// 32 hex digits; absent when it was not traced.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trace_id: Option<String>,
}

/// A saga as it happened.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Saga {
    /// In one line.
    #[serde(flatten)]
    pub line: SagaLine,
    /// Its facts in causal order: each after its cause, siblings by time.
    pub steps: Vec<Step>,
    /// What is still to come.
    pub to_come: Vec<ToCome>,
}

/// One fact of a saga.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Step {
    /// The fact, for example `point.debited`.
    #[serde(rename = "fact")]
    pub event: String,
    /// The service that told it.
    pub service: String,
    /// Its id.
    pub event_id: EventId,
    /// The event or command it follows from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cause_id: Option<Uuid>,
    /// Steps between the beginning and this one: 0 for what a command began.
    pub depth: u32,
    /// When it was told.
    pub at: Timestamp,
    /// Milliseconds since its cause was told; since the first fact when that is unknown.
    pub after_ms: i64,
    /// How often its cause had to be delivered to the service that told it; 1 is normal.
    pub deliveries: u32,
    /// 32 hex digits; absent when it was not traced.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trace_id: Option<String>,
    /// The fact of this saga that it undoes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub undoes: Option<String>,
    /// The fact of this saga by which it was undone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub undone_by: Option<String>,
    /// What was told.
    pub data: serde_json::Value,
}

/// A fact that is still to come.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ToCome {
    /// One of these.
    #[serde(rename = "facts")]
    pub events: Vec<String>,
    /// By this service.
    pub service: String,
    /// After this fact.
    pub after: String,
    /// That fact's id.
    pub after_id: EventId,
    /// Until then.
    pub due_at: Timestamp,
    /// Whether its time is over.
    pub is_overdue: bool,
}

/// Note what the watchdog found; only the service itself says so.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ReportStall {
    /// What stalled.
    pub stalled: SagaStalled,
}

/// Note what the auditor found; only the service itself says so.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ReportViolation {
    /// What was found.
    pub violation: Violation,
}

/// List what the auditor has found, the latest first (operator).
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(default)]
pub struct FindViolations {
    /// `next_cursor` of the page before.
    pub cursor: Option<String>,
    /// Entries wanted, 1 to 100; 20 when absent.
    pub limit: Option<u32>,
}

/// That it was noted.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Reported {}

crate::commands! {
    GetSaga = "audit.saga", 200 => Saga;
    FindSagas = "audit.sagas", 200 => Page<SagaLine>;
    FindViolations = "audit.violations", 200 => Page<Violation>;
    ReportStall = "audit.report_stall", 200 => Reported;
    ReportViolation = "audit.report_violation", 200 => Reported;
}

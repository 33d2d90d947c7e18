//! The saga timeline, the stall watchdog and the auditor: what happened, what is still
//! awaited, and what should never have happened.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{EventId, Page, SagaId, ScheduleId, Timestamp, UserId};

/// `audit.saga_stalled`: an awaited event did not come in time.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct SagaStalled {
    /// The saga.
    pub saga_id: SagaId,
    /// Its flow, for example `pay`.
    pub flow: String,
    /// The events of which one is awaited.
    pub awaited: Vec<String>,
    /// The service that should emit it.
    pub service: String,
    /// The event that it should follow.
    pub after: String,
    /// The id of that event.
    pub after_id: EventId,
    /// When it was due.
    pub due_at: Timestamp,
    /// The schedule it belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schedule_id: Option<ScheduleId>,
}

/// An invariant that the auditor checks.
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
    /// Money that was taken without seats is given back.
    GivenBack,
    /// A wallet's balance is the sum of its movements, and never below zero.
    LedgerSums,
    /// No hold is used past its hard cap.
    HardCap,
    /// No event comes outside its declared flow.
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

/// `audit.violation`: events were emitted that contradict each other.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Violation {
    /// Derived from the rule and the offending events, so that the same violation found again
    /// has the same id.
    pub violation_id: Uuid,
    /// The rule that is broken.
    pub rule: Rule,
    /// How, in words.
    pub detail: String,
    /// The offending events.
    pub events: Vec<EventId>,
    /// The saga of the last of them.
    pub saga_id: SagaId,
    /// The schedule it belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schedule_id: Option<ScheduleId>,
}

crate::events! {
    SagaStalled = "audit.saga_stalled", schedule: |e| e.schedule_id, about: |e| e.saga_id.0;
    Violation = "audit.violation", schedule: |e| e.schedule_id, about: |e| e.violation_id;
}

/// The state of a saga.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum SagaState {
    /// An event is awaited, and its deadline is not over.
    Running,
    /// An event is awaited, and its deadline is over.
    Stalled,
    /// Ended; what was done had to be compensated.
    Compensated,
    /// Ended with a refusal; nothing had to be compensated.
    Failed,
    /// Ended with success.
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

/// Read one saga, by the id of the saga, of a payment, a reservation, a user (the latest saga),
/// an event or a trace, or by a seat.
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
    /// Only sagas in this state.
    pub state: Option<SagaState>,
    /// Only sagas in which this service took part or is awaited.
    pub service: Option<String>,
    /// Only sagas with an event since then.
    pub since: Option<Timestamp>,
    /// Only sagas about this: an id, a trace id, or `<schedule id>/<seat>`.
    pub about: Option<String>,
    /// `next_cursor` of the page before.
    pub cursor: Option<String>,
    /// The number of entries wanted, 1 to 100; 20 when absent.
    pub limit: Option<u32>,
}

/// A saga in one line of a list.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct SagaLine {
    /// The saga.
    pub saga_id: SagaId,
    /// Its flow, for example `pay`.
    pub flow: String,
    /// Its state.
    pub state: SagaState,
    /// The fan it belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user_id: Option<UserId>,
    /// The schedule it belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schedule_id: Option<ScheduleId>,
    /// When its first event was emitted.
    pub began_at: Timestamp,
    /// When its last event was emitted.
    pub last_at: Timestamp,
    /// Its last event.
    #[serde(rename = "last_fact")]
    pub last_event: String,
    /// The number of its events.
    #[serde(rename = "facts")]
    pub events: u32,
    /// Services that are awaited.
    pub awaited: Vec<String>,
    /// 32 hex digits; absent when it was not traced.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trace_id: Option<String>,
}

/// A saga with all its events.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Saga {
    /// Its summary.
    #[serde(flatten)]
    pub line: SagaLine,
    /// Its events in causal order: each after its cause, siblings by time.
    pub steps: Vec<Step>,
    /// The events that are still awaited.
    pub to_come: Vec<ToCome>,
}

/// One event of a saga.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Step {
    /// The event, for example `point.debited`.
    #[serde(rename = "fact")]
    pub event: String,
    /// The service that emitted it.
    pub service: String,
    /// Its id.
    pub event_id: EventId,
    /// The event or command it follows from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cause_id: Option<Uuid>,
    /// The number of steps between the first event and this one: 0 for an event that a command
    /// emitted.
    pub depth: u32,
    /// When it was emitted.
    pub at: Timestamp,
    /// Milliseconds since its cause was emitted; since the first event when that is unknown.
    pub after_ms: i64,
    /// How often its cause had to be delivered to the service that emitted it; 1 is normal.
    pub deliveries: u32,
    /// 32 hex digits; absent when it was not traced.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trace_id: Option<String>,
    /// The event of this saga that it compensates.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub undoes: Option<String>,
    /// The event of this saga that compensates it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub undone_by: Option<String>,
    /// The data of the event.
    pub data: serde_json::Value,
}

/// An event that is still awaited.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ToCome {
    /// One of these events is awaited.
    #[serde(rename = "facts")]
    pub events: Vec<String>,
    /// The service that should emit it.
    pub service: String,
    /// The event that it should follow.
    pub after: String,
    /// The id of that event.
    pub after_id: EventId,
    /// The deadline.
    pub due_at: Timestamp,
    /// Whether the deadline is over.
    pub is_overdue: bool,
}

/// Record what the watchdog found; only the service itself sends this.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ReportStall {
    /// The stalled saga.
    pub stalled: SagaStalled,
}

/// Record what the auditor found; only the service itself sends this.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ReportViolation {
    /// The violation.
    pub violation: Violation,
}

/// List what the auditor has found, the latest first (operator).
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(default)]
pub struct FindViolations {
    /// `next_cursor` of the page before.
    pub cursor: Option<String>,
    /// The number of entries wanted, 1 to 100; 20 when absent.
    pub limit: Option<u32>,
}

/// The report was recorded.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Reported {}

crate::commands! {
    GetSaga = "audit.saga", 200 => Saga;
    FindSagas = "audit.sagas", 200 => Page<SagaLine>;
    FindViolations = "audit.violations", 200 => Page<Violation>;
    ReportStall = "audit.report_stall", 200 => Reported;
    ReportViolation = "audit.report_violation", 200 => Reported;
}

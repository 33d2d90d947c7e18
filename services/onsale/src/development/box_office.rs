//! What an organizer does before a sale: an account with the role, a concert, a schedule.

use std::time::Duration;

use anyhow::{Context, Result};
use events::{
    concert::{Concert, CreateConcert, OpenSchedule, Schedule},
    user::{Account, Session},
};
use uuid::Uuid;

use crate::{config::Credentials, http::Http};

/// How long the operator's first log-in is tried.
const LOG_IN_WITHIN: Duration = Duration::from_secs(20);

/// Signs an organizer up and has the operator grant the role.
///
/// # Errors
/// When one of the requests is refused.
pub async fn organizer(http: &Http, operator: &Credentials) -> Result<Session> {
    let operator: Session = http
        .post("/v1/sessions")
        .json(operator)
        // The user service may run in a process of its own that is still starting.
        .send_patiently(LOG_IN_WITHIN)
        .await?
        .json()
        .context("logging in as the operator")?;
    let own = Credentials {
        email: format!("organizer-{}@example.com", Uuid::now_v7().simple()),
        password: Uuid::new_v4().to_string(),
    };
    let account: Session = http
        .post("/v1/users")
        .json(&own)
        .send()
        .await?
        .json()
        .context("signing the organizer up")?;
    let path = format!("/v1/users/{}/roles/organizer", account.user_id);
    http.ask(reqwest::Method::PUT, path)
        .token(&operator.access_token)
        .send()
        .await?
        .json::<Account>()
        .context("granting the organizer's role")?;
    // Roles are in the token, so only a new one has it.
    http.post("/v1/sessions").json(&own).send().await?.json().context("logging in as the organizer")
}

/// Enters a concert.
///
/// # Errors
/// When the request is refused.
pub async fn concert(http: &Http, token: &str, concert: &CreateConcert) -> Result<Concert> {
    http.post("/v1/concerts")
        .token(token)
        .json(concert)
        .send()
        .await?
        .json()
        .context("entering the concert")
}

/// Puts a performance on sale.
///
/// # Errors
/// When the request is refused; a malformed seat plan names line and column.
pub async fn open(http: &Http, token: &str, schedule: &OpenSchedule) -> Result<Schedule> {
    http.post(format!("/v1/concerts/{}/schedules", schedule.concert_id))
        .token(token)
        .json(schedule)
        .send()
        .await?
        .json()
        .context("opening the schedule")
}

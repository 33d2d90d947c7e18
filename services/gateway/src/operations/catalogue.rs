//! Concerts and schedules. Seats are in [`crate::operations::seats`].

use axum::{
    extract::{FromRequestParts, Request, State},
    http::{Uri, header, request::Parts},
    response::Response,
};
use events::{
    Command, ConcertId, Page, Problem, ScheduleId, Timestamp, UserId, codes,
    concert::{
        AddOrganizer, Admission, CancelSchedule, Concert, CreateConcert, FindConcerts,
        FindSchedules, GetConcert, GetOrganizers, OpenSchedule, Organizers, RemoveOrganizer,
        Schedule,
    },
    user::Role,
};
use mesh::Allow;
use serde::Deserialize;
use utoipa::IntoParams;

use crate::{
    http::{
        call::{
            Call, Head, Id, PLAN_BYTES_MAX, Params, json, not_an_id, parameters, path_parameters,
            short,
        },
        edge::Edge,
        media,
        op::Op,
        problem::{Copies, Refused, answer, with_header},
    },
    operations::{examples, page::PageParams},
};

/// Who may put something on sale.
const ORGANIZERS: Allow = Allow::OneOf(&[Role::Organizer, Role::Operator]);
const TAG: &str = "catalogue";

/// The operations of this area.
pub(crate) fn ops() -> Vec<Op> {
    readers().into_iter().map(Op::open_to_scripts).chain(organizers()).collect()
}

fn readers() -> Vec<Op> {
    vec![
        Op::get("/v1/concerts", find_concerts)
            .named(TAG, "findConcerts", "Find concerts")
            .query::<ConcertParams>()
            .gives::<Page<Concert>>(200, "A page of concerts", examples::CONCERTS),
        Op::get("/v1/concerts/{id}", get_concert)
            .named(TAG, "getConcert", "Read one concert")
            .gives::<Concert>(200, "The concert", examples::CONCERT)
            .refuses(&[codes::NOT_FOUND]),
        Op::get("/v1/concerts/{id}/schedules", find_schedules)
            .named(TAG, "findSchedules", "List the schedules of a concert")
            .query::<PageParams>()
            .gives::<Page<Schedule>>(200, "A page of schedules", examples::SCHEDULES)
            .refuses(&[codes::NOT_FOUND]),
    ]
}

fn organizers() -> Vec<Op> {
    vec![
        Op::post("/v1/concerts", create_concert)
            .named(TAG, "createConcert", "Enter a concert")
            .for_organizers()
            .command()
            .takes::<CreateConcert>(examples::CREATE_CONCERT)
            .gives::<Concert>(CreateConcert::STATUS, "The concert", examples::CONCERT),
        Op::post("/v1/concerts/{id}/schedules", open_schedule)
            .named(TAG, "openSchedule", "Put a performance on sale")
            .explained(
                "The seat plan is CSV whose header names `section`, `row`, `seat` and `price`, one \
                 line a seat: inside the JSON as text, or as a `text/csv` body with everything \
                 else in the query. Columns come in any order, with others between them, separated \
                 by commas, semicolons or tabs; a body may be in any encoding that its \
                 `Content-Type` states. `1-300` as `seat` stands for as many seats, and a standing \
                 area has them without a `row`. A malformed plan is refused with line, column, \
                 field and reason, and nothing is stored. At most 8 MiB.",
            )
            .for_organizers()
            .command()
            .query::<ScheduleParams>()
            .takes_without::<OpenSchedule>("concert_id", examples::OPEN_SCHEDULE)
            .also_takes("text/csv", examples::SEAT_PLAN)
            .gives::<Schedule>(OpenSchedule::STATUS, "The schedule", examples::SCHEDULE)
            .refuses(&[codes::NOT_FOUND, codes::SEAT_PLAN_INVALID]),
        Op::delete("/v1/schedules/{id}", cancel_schedule)
            .named(TAG, "cancelSchedule", "Cancel a performance")
            .explained("Every hold ends and every payment is refunded; that takes a while.")
            .for_organizers()
            .command()
            .query::<CancelParams>()
            .gives::<Schedule>(
                CancelSchedule::STATUS,
                "Cancelled; refunds follow",
                examples::CANCELLED_SCHEDULE,
            )
            .refuses(&[codes::NOT_FOUND, codes::ALREADY_CANCELLED]),
        Op::get("/v1/concerts/{id}/organizers", get_organizers)
            .named(TAG, "getOrganizers", "Read the organizers of a concert")
            .explained(
                "The concert's organizers, by whom they were added, and when. The account that \
                 entered the concert is the first. With none left, because their accounts were \
                 closed, only operators can act on it.",
            )
            .for_organizers()
            .gives::<Organizers>(200, "The organizers", examples::ORGANIZERS)
            .refuses(&[codes::NOT_FOUND]),
        Op::put("/v1/concerts/{id}/organizers/{user_id}", add_organizer)
            .named(TAG, "addOrganizer", "Let a colleague act on a concert")
            .explained(
                "An account with the role `organizer` may then act on the concert and all of its \
                 schedules like the others. Adding one that it already has changes nothing.",
            )
            .for_organizers()
            .command()
            .gives::<Organizers>(200, "The organizers", examples::ORGANIZERS)
            .refuses(&[codes::NOT_FOUND]),
        Op::delete("/v1/concerts/{id}/organizers/{user_id}", remove_organizer)
            .named(TAG, "removeOrganizer", "Remove an organizer from a concert")
            .explained("Also the caller's own account. A concert keeps its last organizer.")
            .for_organizers()
            .command()
            .gives::<Organizers>(200, "The organizers", examples::ORGANIZERS)
            .refuses(&[codes::NOT_FOUND, codes::LAST_ORGANIZER]),
    ]
}

/// Which concerts.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct ConcertParams {
    /// Words, each matched from its beginning in title or artist; at most 200 characters.
    q: Option<String>,
    /// `next_cursor` of the previous page.
    #[param(min_length = 1)]
    cursor: Option<String>,
    /// Entries wanted, 1 to 100; 20 when absent.
    #[param(minimum = 1, maximum = 100)]
    limit: Option<u32>,
}

/// Why a performance is cancelled.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct CancelParams {
    /// The reason, for the fans; at most 500 characters.
    #[param(min_length = 1, max_length = 500)]
    reason: Option<String>,
}

/// A schedule whose seat plan comes as `text/csv`.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct ScheduleParams {
    /// With `text/csv`, required: where; 1 to 200 characters.
    #[param(required = false)]
    venue: String,
    /// With `text/csv`, required: when the show begins.
    #[param(required = false, value_type = String, format = DateTime)]
    starts_at: Timestamp,
    /// With `text/csv`: when the first fan is admitted; now when absent.
    #[param(value_type = Option<String>, format = DateTime)]
    opens_at: Option<Timestamp>,
    /// With `text/csv`: until when a ticket can be refunded; `starts_at` at the latest and when
    /// absent.
    #[param(value_type = Option<String>, format = DateTime)]
    refund_until: Option<Timestamp>,
    /// With `text/csv`: fans admitted each second at most.
    per_second: Option<u32>,
    /// With `text/csv`: ACTIVE fans at any one time at most.
    active_max: Option<u32>,
    /// With `text/csv`: seconds an admitted fan has to reserve.
    pass_secs: Option<u32>,
    /// With `text/csv`: seconds until a hold expires.
    hold_secs: Option<u32>,
    /// With `text/csv`: seats one fan may hold or own.
    seats_per_fan_max: Option<u32>,
}

impl ScheduleParams {
    fn with_plan(self, concert_id: ConcertId, seat_plan: String) -> OpenSchedule {
        let usual = Admission::default();
        OpenSchedule {
            concert_id,
            venue: self.venue,
            starts_at: self.starts_at,
            opens_at: self.opens_at,
            refund_until: self.refund_until,
            admission: Admission {
                per_second: self.per_second.unwrap_or(usual.per_second),
                active_max: self.active_max.unwrap_or(usual.active_max),
                pass_secs: self.pass_secs.unwrap_or(usual.pass_secs),
            },
            hold_secs: self.hold_secs,
            seats_per_fan_max: self.seats_per_fan_max,
            seat_plan,
        }
    }
}

async fn find_concerts(
    State(edge): State<Edge>,
    Params(params): Params<ConcertParams>,
    head: Head,
) -> Result<Response, Refused> {
    let ConcertParams { q, cursor, limit } = params;
    edge.read(&head, &FindConcerts { q, cursor, limit }, Copies::Catalogue).await
}

async fn get_concert(
    State(edge): State<Edge>,
    Id(concert_id): Id<ConcertId>,
    head: Head,
) -> Result<Response, Refused> {
    edge.read(&head, &GetConcert { concert_id }, Copies::Catalogue).await
}

async fn find_schedules(
    State(edge): State<Edge>,
    Id(concert_id): Id<ConcertId>,
    Params(PageParams { cursor, limit }): Params<PageParams>,
    head: Head,
) -> Result<Response, Refused> {
    edge.read(&head, &FindSchedules { concert_id, cursor, limit }, Copies::Catalogue).await
}

async fn create_concert(State(edge): State<Edge>, call: Call) -> Result<Response, Refused> {
    #[derive(Deserialize)]
    struct Made {
        concert_id: ConcertId,
    }
    let answered = edge.send_command::<CreateConcert>(&call.head, call.body).await?;
    let made = serde_json::from_slice::<Made>(&answered.body).ok();
    let response = answer(answered, Copies::None);
    Ok(match made {
        Some(Made { concert_id }) => {
            with_header(response, header::LOCATION, &format!("/v1/concerts/{concert_id}"))
        }
        None => response,
    })
}

async fn open_schedule(
    State(edge): State<Edge>,
    Id(concert_id): Id<ConcertId>,
    request: Request,
) -> Result<Response, Refused> {
    let in_query = match media::is_of(request.headers(), "text/csv") {
        true => Some(Params::<ScheduleParams>::of(request.method(), request.uri())?.0),
        false => {
            is_without_parameters(request.uri())?;
            None
        }
    };
    // So large a body is read only for an account that may send one, and for few at once.
    let (caller, request) = edge.caller_of(request).await?;
    ORGANIZERS.check(&caller)?;
    let _place = edge.place_for_plan().await?;
    let call = Call::read(request, PLAN_BYTES_MAX, &["application/json", "text/csv"]).await?;
    let body = match in_query {
        Some(params) => {
            json(&params.with_plan(concert_id, media::plan_text(&call.head.0, &call.body)?))
        }
        None => call.body_with(&[("concert_id", concert_id.to_string())])?,
    };
    let answered = edge.send_command::<OpenSchedule>(&call.head, body).await?;
    Ok(answer(answered, Copies::None))
}

fn is_without_parameters(uri: &Uri) -> Result<(), Problem> {
    let Some((name, _)) = parameters(uri).next() else { return Ok(()) };
    let what = "belongs in the body, which is JSON; the query is for `text/csv`";
    Err(Problem::about(codes::BAD_REQUEST, &short(&name), what))
}

async fn cancel_schedule(
    State(edge): State<Edge>,
    Id(schedule_id): Id<ScheduleId>,
    Params(CancelParams { reason }): Params<CancelParams>,
    head: Head,
) -> Result<Response, Refused> {
    let command = CancelSchedule { schedule_id, reason: reason.unwrap_or_default() };
    let location = format!("/v1/schedules/{schedule_id}/seats");
    let response = edge.command::<CancelSchedule>(&head, json(&command)).await?;
    Ok(match response.status().is_success() {
        true => with_header(response, header::LOCATION, &location),
        false => response,
    })
}

async fn get_organizers(
    State(edge): State<Edge>,
    Id(concert_id): Id<ConcertId>,
    head: Head,
) -> Result<Response, Refused> {
    edge.read(&head, &GetOrganizers { concert_id }, Copies::None).await
}

async fn add_organizer(
    State(edge): State<Edge>,
    Colleague { concert_id, user_id }: Colleague,
    head: Head,
) -> Result<Response, Refused> {
    edge.command::<AddOrganizer>(&head, json(&AddOrganizer { concert_id, user_id })).await
}

async fn remove_organizer(
    State(edge): State<Edge>,
    Colleague { concert_id, user_id }: Colleague,
    head: Head,
) -> Result<Response, Refused> {
    edge.command::<RemoveOrganizer>(&head, json(&RemoveOrganizer { concert_id, user_id })).await
}

/// An account and a concert, from the path.
struct Colleague {
    concert_id: ConcertId,
    user_id: UserId,
}

impl<S: Send + Sync> FromRequestParts<S> for Colleague {
    type Rejection = Refused;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Refused> {
        let of = path_parameters(parts, state).await?;
        let [(concert_name, concert), (user_name, user)] = &of[..] else {
            unreachable!("two names")
        };
        Ok(Self {
            concert_id: concert.parse().map_err(|_| not_an_id(concert_name, concert))?,
            user_id: user.parse().map_err(|_| not_an_id(user_name, user))?,
        })
    }
}

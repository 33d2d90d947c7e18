//! What is decided outside Valkey: which concerts share a place, and how many places are shown.

use events::{
    Problem, codes,
    ranking::{RankBy, RankedConcert, Window},
};

/// Places of a ranking at most.
pub const LIMIT_MAX: u32 = 100;
/// Places of a ranking when the caller gives no limit.
const LIMIT_DEFAULT: u32 = 10;

/// The number of places to show.
///
/// # Errors
/// `invalid` for zero, or too many.
pub fn limit(wanted: Option<u32>) -> Result<usize, Problem> {
    let limit = wanted.unwrap_or(LIMIT_DEFAULT);
    if !(1..=LIMIT_MAX).contains(&limit) {
        let what = format!("must be 1 to {LIMIT_MAX}, not {limit}");
        return Err(Problem::about(codes::INVALID, "limit", what));
    }
    Ok(limit as usize)
}

/// The name of the window in Valkey.
pub fn window_name(window: Window) -> &'static str {
    match window {
        Window::Hour => "1h",
        Window::Day => "24h",
        Window::Week => "7d",
    }
}

/// The places of a ranking, decoded from what `ranks.lua` returns: for each concert its id, its
/// title and the number it is ranked by; a sell-out also has its schedule.
///
/// Equal concerts share a place, and the next place counts all concerts before it: 1, 2, 2, 4.
///
/// # Errors
/// `internal` for rows of another shape.
pub fn places(by: RankBy, rows: &[String]) -> Result<Vec<RankedConcert>, Problem> {
    let width = match by {
        RankBy::Sold => 3,
        RankBy::SellOut => 4,
    };
    let mut places: Vec<RankedConcert> = rows
        .chunks(width)
        .map(|row| ranked(by, row))
        .collect::<Option<_>>()
        .ok_or_else(malformed)?;
    let worth = |place: &RankedConcert| (place.sell_out_ms, place.seats_sold.map(|seats| -seats));
    places.sort_by_key(|place| (worth(place), place.concert_id));
    for at in 0..places.len() {
        let shared =
            at.checked_sub(1).filter(|before| worth(&places[*before]) == worth(&places[at]));
        places[at].place = shared.map_or(at as u32 + 1, |before| places[before].place);
    }
    Ok(places)
}

fn ranked(by: RankBy, row: &[String]) -> Option<RankedConcert> {
    let amount: i64 = row.get(2)?.parse().ok()?;
    Some(RankedConcert {
        place: 0,
        concert_id: row[0].parse().ok()?,
        title: row[1].clone(),
        seats_sold: (by == RankBy::Sold).then_some(amount),
        sell_out_ms: (by == RankBy::SellOut).then_some(amount),
        schedule_id: match by {
            RankBy::Sold => None,
            RankBy::SellOut => Some(row.get(3)?.parse().ok()?),
        },
    })
}

fn malformed() -> Problem {
    Problem::new(codes::INTERNAL, "A ranking cannot be decoded.")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(concerts: &[(u128, &str)]) -> Vec<String> {
        let row = |(id, amount): &(u128, &str)| {
            [uuid::Uuid::from_u128(*id).to_string(), format!("T{id}"), (*amount).to_owned()]
        };
        concerts.iter().flat_map(row).collect()
    }

    #[test]
    fn equal_concerts_share_a_place_and_the_next_place_counts_all_before_it() {
        let rows = rows(&[(3, "5"), (1, "5"), (2, "9"), (4, "1")]);
        let places = places(RankBy::Sold, &rows).unwrap();
        let seen: Vec<_> =
            places.iter().map(|p| (p.place, p.concert_id.0.as_u128(), p.seats_sold)).collect();
        assert_eq!(seen, [(1, 2, Some(9)), (2, 1, Some(5)), (2, 3, Some(5)), (4, 4, Some(1))]);
        assert!(places.iter().all(|place| place.sell_out_ms.is_none()));
    }

    #[test]
    fn the_fastest_sell_out_is_first_and_names_its_schedule() {
        let schedule = uuid::Uuid::from_u128(7).to_string();
        let row = |id: &str| {
            let concert = uuid::Uuid::from_u128(1).to_string();
            vec![concert, "T".into(), id.to_owned(), schedule.clone()]
        };
        let places = places(RankBy::SellOut, &[row("90"), row("12")].concat()).unwrap();
        assert_eq!((places[0].place, places[0].sell_out_ms), (1, Some(12)));
        assert_eq!((places[1].place, places[1].sell_out_ms), (2, Some(90)));
        assert_eq!(places[0].schedule_id.map(|id| id.to_string()), Some(schedule));
    }

    #[test]
    fn rows_of_another_shape_are_refused() {
        for rows in [vec!["x".to_owned()], rows(&[(1, "many")])] {
            assert!(places(RankBy::Sold, &rows).unwrap_err().is(codes::INTERNAL));
        }
        assert_eq!(places(RankBy::SellOut, &[]), Ok(vec![]));
    }

    #[test]
    fn one_to_a_hundred_places_are_shown() {
        assert_eq!(limit(None), Ok(10));
        assert_eq!(limit(Some(100)), Ok(100));
        for wrong in [0, 101, u32::MAX] {
            assert!(limit(Some(wrong)).unwrap_err().is(codes::INVALID));
        }
    }

    #[test]
    fn a_window_has_the_same_name_in_valkey_and_in_json() {
        for window in [Window::Hour, Window::Day, Window::Week] {
            assert_eq!(serde_json::to_value(window).unwrap(), window_name(window));
        }
    }
}

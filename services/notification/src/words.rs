//! The text of a message, in the language of its fan.
//!
//! The venue of a show does not give its time zone. Korean texts give times in Korea, where
//! their readers are; English texts give UTC. Both name the zone.

use std::{collections::BTreeMap, sync::LazyLock};

use events::{
    SeatId, Timestamp,
    notification::{Locale, MessageKind},
    payment::PaymentFailure,
};
use serde::{Deserialize, Serialize};
use time::{UtcOffset, format_description::StaticFormatDescription, macros::format_description};

/// Seats that a message lists at most; of the others it gives the number.
const SEATS_LISTED_MAX: usize = 8;
/// Characters of the seats that are listed. A provider takes a thousand for all of a message.
const SEATS_CHARS_MAX: usize = 300;

/// What a message says beside the show: fields of the event.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Details {
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) seats: Vec<SeatId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) amount: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) until: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) reason: Option<PaymentFailure>,
}

/// A show, as messages name it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Show {
    pub(crate) title: String,
    pub(crate) venue: String,
    pub(crate) starts_at: Timestamp,
}

/// A message in words.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Words {
    /// The template's name with the provider.
    pub(crate) code: &'static str,
    /// One line.
    pub(crate) title: &'static str,
    /// All of it.
    pub(crate) text: String,
    /// The template's values.
    pub(crate) values: Values,
}

/// The values of a template by name.
pub(crate) type Values = BTreeMap<&'static str, String>;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Template {
    code: String,
    title: String,
    text: String,
}

#[derive(Debug, Deserialize)]
struct Templates {
    phrases: BTreeMap<Locale, BTreeMap<String, String>>,
    #[serde(flatten)]
    of: BTreeMap<MessageKind, BTreeMap<Locale, Template>>,
}

/// The templates are part of the binary; a test checks that they are complete.
static TEMPLATES: LazyLock<Templates> = LazyLock::new(|| {
    toml::from_str(include_str!("templates.toml")).expect("the templates can be read")
});

fn phrase(locale: Locale, name: &str) -> &'static str {
    TEMPLATES.phrases.get(&locale).and_then(|phrases| phrases.get(name)).map_or("", String::as_str)
}

/// Puts a message into words.
pub(crate) fn words(
    kind: MessageKind,
    locale: Locale,
    details: &Details,
    show: Option<&Show>,
) -> Words {
    let values = values(kind, locale, details, show);
    let template = &TEMPLATES.of[&kind][&locale];
    let text = fill(&template.text, &values);
    Words { code: &template.code, title: &template.title, text, values }
}

fn values(kind: MessageKind, locale: Locale, details: &Details, show: Option<&Show>) -> Values {
    let mut values = Values::from([("show", show_words(locale, show))]);
    let paid = amount(locale, details.amount.unwrap_or_default());
    match kind {
        MessageKind::ReservationMade => {
            values.insert("seats", seats(locale, &details.seats));
            values.insert("amount", paid);
            values.insert("until", details.until.map_or(String::new(), |at| moment(locale, at)));
        }
        MessageKind::PaymentCompleted | MessageKind::MoneyReturned => {
            values.insert("amount", paid);
        }
        MessageKind::PaymentFailed => {
            let reason = details.reason.map_or("", |reason| phrase(locale, failure(reason)));
            values.insert("reason", reason.to_owned());
            values.insert("amount", paid);
        }
        MessageKind::HoldExpired => {
            let show_has_begun = show.zip(details.until).is_some_and(|(it, at)| at >= it.starts_at);
            let next = if show_has_begun { "sales_over" } else { "reserve_again" };
            values.insert("next", phrase(locale, next).to_owned());
            values.insert("seats", seats(locale, &details.seats));
        }
        MessageKind::ShowCancelled => {
            let refund = match details.amount {
                Some(1..) => fill(phrase(locale, "refund"), &Values::from([("amount", paid)])),
                _ => phrase(locale, "no_refund").to_owned(),
            };
            values.insert("refund", refund);
            values.insert("seats", seats(locale, &details.seats));
        }
    }
    values
}

fn failure(reason: PaymentFailure) -> &'static str {
    match reason {
        PaymentFailure::InsufficientBalance => "insufficient_balance",
        PaymentFailure::NoWallet => "no_wallet",
        PaymentFailure::HoldGone => "hold_gone",
        PaymentFailure::ShowCancelled => "called_off",
    }
}

fn show_words(locale: Locale, show: Option<&Show>) -> String {
    let Some(show) = show else { return phrase(locale, "some_show").to_owned() };
    let values = Values::from([
        ("title", show.title.clone()),
        ("venue", show.venue.clone()),
        ("time", moment(locale, show.starts_at)),
    ]);
    fill(phrase(locale, "show"), &values)
}

fn amount(locale: Locale, points: i64) -> String {
    if points == 1 {
        return phrase(locale, "one_point").to_owned();
    }
    fill(phrase(locale, "amount"), &Values::from([("number", number(points))]))
}

/// A number with a comma between thousands, as both languages write it.
fn number(n: i64) -> String {
    let digits = n.unsigned_abs().to_string();
    let mut written = String::from(if n < 0 { "-" } else { "" });
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            written.push(',');
        }
        written.push(digit);
    }
    written
}

fn seats(locale: Locale, seats: &[SeatId]) -> String {
    let mut chars = 0;
    let fits = |seat: &&str| {
        chars += text::length(seat);
        chars <= SEATS_CHARS_MAX
    };
    let names = seats.iter().take(SEATS_LISTED_MAX).map(|seat| &*seat.0);
    let names: Vec<&str> = names.take_while(fits).collect();
    let listed = names.join(", ");
    match (seats.len() - names.len(), locale) {
        (0, _) => listed,
        (more, Locale::En) => format!("{listed} and {more} more"),
        (more, Locale::Ko) => format!("{listed} 외 {more}석"),
    }
}

const UTC: StaticFormatDescription =
    format_description!("[day padding:none] [month repr:long] [year], [hour]:[minute] UTC");
const KST: StaticFormatDescription = format_description!(
    "[year]년 [month padding:none]월 [day padding:none]일 [hour]:[minute](한국 시간)"
);

fn moment(locale: Locale, at: Timestamp) -> String {
    let (offset, format) = match locale {
        Locale::En => (UtcOffset::UTC, UTC),
        Locale::Ko => (UtcOffset::from_hms(9, 0, 0).unwrap_or(UtcOffset::UTC), KST),
    };
    // The last hours of the calendar do not exist nine hours further east.
    let there = at.0.checked_to_offset(offset).unwrap_or(at.0);
    there.format(format).unwrap_or_default()
}

/// Replaces names by their values. A value is not searched for names again: a title may contain
/// `#{amount}` and remains a title.
fn fill(template: &str, values: &Values) -> String {
    let mut text = String::with_capacity(template.len() * 2);
    let mut rest = template;
    while let Some((before, after)) = rest.split_once("#{") {
        let Some((name, behind)) = after.split_once('}') else { break };
        text.push_str(before);
        text.push_str(values.get(name).map_or("", String::as_str));
        rest = behind;
    }
    text.push_str(rest);
    text
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use time::macros::datetime;

    use super::*;

    fn show() -> Show {
        Show {
            title: "Night Train".into(),
            venue: "Club Blau".into(),
            starts_at: Timestamp(datetime!(2027-06-01 19:00 UTC)),
        }
    }

    fn details() -> Details {
        Details {
            seats: vec![SeatId("A-1-1".into()), SeatId("A-1-2".into())],
            amount: Some(240_000),
            until: Some(Timestamp(datetime!(2027-03-10 10:05:12 UTC))),
            reason: Some(PaymentFailure::InsufficientBalance),
        }
    }

    fn text(kind: MessageKind, locale: Locale) -> String {
        words(kind, locale, &details(), Some(&show())).text
    }

    #[test]
    fn every_kind_has_a_text_in_every_language_with_all_of_its_values() {
        let mut codes = BTreeSet::new();
        for kind in MessageKind::ALL {
            for locale in Locale::ALL {
                let template = &TEMPLATES.of[&kind][&locale];
                let words = words(kind, locale, &details(), Some(&show()));
                let named: BTreeSet<&str> = template
                    .text
                    .split("#{")
                    .skip(1)
                    .filter_map(|rest| rest.split('}').next())
                    .collect();
                let given: BTreeSet<&str> = words.values.keys().copied().collect();
                assert_eq!(named, given, "{kind:?} {locale:?}");
                assert!(words.values.values().all(|value| !value.is_empty()), "{words:?}");
                assert!(!words.text.contains("#{") && words.text.contains("Night Train"));
                // Kakao takes no longer code and no longer text.
                assert!(words.code.len() <= 20, "{}", words.code);
                assert!(words.text.chars().count() <= 1_000);
                assert!(codes.insert(words.code), "{} is used twice", words.code);
            }
        }
    }

    #[test]
    fn phrases_are_the_same_in_both_languages() {
        let names = |locale| TEMPLATES.phrases[&locale].keys().collect::<Vec<_>>();
        assert_eq!(names(Locale::En), names(Locale::Ko));
    }

    #[test]
    fn the_english_texts() {
        assert_eq!(
            text(MessageKind::ReservationMade, Locale::En),
            "Your seats are held. Pay by 10 March 2027, 10:05 UTC, or they become free again.\n\
             Show: Night Train, Club Blau, 1 June 2027, 19:00 UTC\n\
             Seats: A-1-1, A-1-2\n\
             To pay: 240,000 points"
        );
        assert_eq!(
            text(MessageKind::ShowCancelled, Locale::En),
            "We are sorry: the show is cancelled, and so is your reservation. \
             240,000 points will be returned to your wallet.\n\
             Show: Night Train, Club Blau, 1 June 2027, 19:00 UTC\n\
             Seats: A-1-1, A-1-2"
        );
        let failed = text(MessageKind::PaymentFailed, Locale::En);
        assert!(failed.starts_with("Your payment failed. There are too few points"), "{failed}");
    }

    #[test]
    fn the_korean_texts() {
        assert_eq!(
            text(MessageKind::ReservationMade, Locale::Ko),
            "좌석을 잡아 두었습니다. 아래 기한까지 결제하지 않으시면 좌석이 다시 판매됩니다.\n\
             ▶ 공연: Night Train / Club Blau / 2027년 6월 2일 04:00(한국 시간)\n\
             ▶ 좌석: A-1-1, A-1-2\n\
             ▶ 결제하실 금액: 240,000포인트\n\
             ▶ 결제 기한: 2027년 3월 10일 19:05(한국 시간)"
        );
        let returned = text(MessageKind::MoneyReturned, Locale::Ko);
        assert!(returned.contains("▶ 환불 금액: 240,000포인트"), "{returned}");
        let completed = text(MessageKind::PaymentCompleted, Locale::Ko);
        assert!(completed.starts_with("결제가 완료되어 예매가 확정되었습니다."), "{completed}");
        let expired = text(MessageKind::HoldExpired, Locale::Ko);
        assert!(expired.starts_with("결제 기한이 지나 좌석이 해제되었습니다."), "{expired}");
    }

    #[test]
    fn each_failure_is_explained_in_each_language() {
        let reasons = [
            PaymentFailure::InsufficientBalance,
            PaymentFailure::NoWallet,
            PaymentFailure::HoldGone,
            PaymentFailure::ShowCancelled,
        ];
        for locale in Locale::ALL {
            let said: BTreeSet<String> = reasons
                .into_iter()
                .map(|reason| Details { reason: Some(reason), ..details() })
                .map(|details| words(MessageKind::PaymentFailed, locale, &details, None).text)
                .collect();
            assert_eq!(said.len(), reasons.len());
        }
    }

    #[test]
    fn a_fan_is_not_sent_back_to_a_sale_that_is_over() {
        let begins = show().starts_at;
        let said = |at, locale| {
            let details = Details { until: Some(at), ..details() };
            words(MessageKind::HoldExpired, locale, &details, Some(&show())).text
        };
        for (locale, again) in [(Locale::En, "reserve once more"), (Locale::Ko, "다시 예매하실")]
        {
            assert!(said(begins.plus_millis(-1), locale).contains(again));
            assert!(!said(begins, locale).contains(again), "{}", said(begins, locale));
        }
    }

    #[test]
    fn a_show_that_is_not_known_is_not_named() {
        let said = words(MessageKind::HoldExpired, Locale::En, &details(), None).text;
        assert!(said.contains("Show: the show you chose\n"), "{said}");
        let said = words(MessageKind::HoldExpired, Locale::Ko, &details(), None).text;
        assert!(said.contains("▶ 공연: 선택하신 공연\n"), "{said}");
    }

    #[test]
    fn a_hold_that_was_not_paid_returns_no_money() {
        let details = Details { amount: Some(0), ..details() };
        let said = words(MessageKind::ShowCancelled, Locale::En, &details, None).text;
        assert!(said.contains("nothing needs to be returned"), "{said}");
    }

    #[test]
    fn a_title_is_not_searched_for_names() {
        let show = Show { title: "#{amount} #{".into(), ..show() };
        let said = words(MessageKind::MoneyReturned, Locale::En, &details(), Some(&show)).text;
        assert!(said.contains("Show: #{amount} #{, Club Blau"), "{said}");
    }

    #[test]
    fn numbers_have_a_comma_between_thousands() {
        let written = [0, 7, 999, 1_000, 240_000, 1_234_567, -1_000].map(number);
        assert_eq!(written, ["0", "7", "999", "1,000", "240,000", "1,234,567", "-1,000"]);
        assert_eq!(amount(Locale::En, 1), "1 point");
    }

    #[test]
    fn of_many_seats_some_are_listed() {
        let many: Vec<SeatId> = (1..=10).map(|n| SeatId(format!("A-1-{n}"))).collect();
        assert!(seats(Locale::En, &many).ends_with("A-1-8 and 2 more"));
        assert!(seats(Locale::Ko, &many).ends_with("A-1-8 외 2석"));
        let name = "구".repeat(64);
        let long = vec![SeatId::new(&name, &name, &name); 10];
        assert_eq!(seats(Locale::Ko, &long), format!("{} 외 9석", long[0]));
    }
}

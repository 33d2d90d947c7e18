//! The relay's protocol: requests and answers as JSON.

use std::collections::BTreeMap;

use events::{Timestamp, notification::Channel};
use serde::{Deserialize, Serialize};
use time::{UtcOffset, macros::format_description};
use uuid::Uuid;

use super::outcome::Outcome;
use crate::{domain::Delivery, provider::parcel::Parcel};

/// Bytes of a short text message; a longer one is sent as the long kind, with a title.
pub(super) const SMS_BYTES_MAX: usize = 90;

/// Messages of one template.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Send<'a> {
    pub(super) sender_key: &'a str,
    pub(super) template_code: &'a str,
    pub(super) recipient_list: Vec<Recipient<'a>>,
}

/// One message.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Recipient<'a> {
    recipient_no: String,
    template_parameter: &'a BTreeMap<&'static str, String>,
    /// The relay itself sends no text message: then we would not know which way it went.
    resend_parameter: Resend,
    recipient_grouping_key: Uuid,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Resend {
    is_resend: bool,
}

impl<'a> Recipient<'a> {
    pub(super) fn of(parcel: &'a Parcel) -> Self {
        Self {
            recipient_no: parcel.phone.as_deref().map(dialled).unwrap_or_default(),
            template_parameter: &parcel.words.values,
            resend_parameter: Resend { is_resend: false },
            recipient_grouping_key: parcel.id,
        }
    }
}

/// Whether the request as a whole was understood.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Head {
    is_successful: bool,
    result_code: i64,
    #[serde(default)]
    result_message: String,
}

impl Head {
    pub(super) fn check(&self) -> Result<(), Delivery> {
        if self.is_successful {
            return Ok(());
        }
        Err(Delivery::later(format!("code {}: {}", self.result_code, self.result_message)))
    }
}

/// The results of [`Send`].
#[derive(Deserialize)]
pub(super) struct Results {
    pub(super) header: Head,
    message: Batch,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Batch {
    request_id: String,
    send_results: Vec<ResultOfOne>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ResultOfOne {
    recipient_seq: i64,
    result_code: i64,
    #[serde(default)]
    result_message: String,
    recipient_grouping_key: String,
}

impl Results {
    /// The outcome of each of these messages. One without a result is looked up later.
    pub(super) fn of(self, parcels: Vec<Parcel>) -> Vec<(Parcel, Outcome)> {
        let Batch { request_id, send_results } = self.message;
        let results: BTreeMap<&str, &ResultOfOne> = send_results
            .iter()
            .map(|result| (result.recipient_grouping_key.as_str(), result))
            .collect();
        let outcome = |parcel: Parcel| {
            let outcome = match results.get(parcel.id.to_string().as_str()) {
                Some(result) if result.result_code == 0 => Outcome::Ended(Delivery::Accepted(
                    format!("{request_id}/{}", result.recipient_seq),
                )),
                Some(result) => Outcome::Refused(why(result.result_code, &result.result_message)),
                None => Outcome::Ended(Delivery::later("no result for this message")),
            };
            (parcel, outcome)
        };
        parcels.into_iter().map(outcome).collect()
    }
}

/// The answer to a status request.
#[derive(Deserialize)]
pub(super) struct StatusAnswer {
    pub(super) header: Head,
    pub(super) message: Status,
}

/// The status of one message.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Status {
    request_id: String,
    recipient_seq: i64,
    message_status: String,
    #[serde(default)]
    result_code: String,
    #[serde(default)]
    result_code_name: String,
    #[serde(default)]
    pub(super) recipient_grouping_key: String,
}

impl Status {
    pub(super) fn outcome(self) -> Outcome {
        match self.message_status.as_str() {
            "COMPLETED" => Outcome::Ended(Delivery::Taken(Channel::Alimtalk)),
            "FAILED" | "CANCEL" => Outcome::Refused(why(self.result_code, &self.result_code_name)),
            _ => {
                let receipt = format!("{}/{}", self.request_id, self.recipient_seq);
                Outcome::Ended(Delivery::Accepted(receipt))
            }
        }
    }
}

/// Messages under one key.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Found {
    pub(super) header: Head,
    pub(super) message_search_result_response: FoundMessages,
}

#[derive(Deserialize)]
pub(super) struct FoundMessages {
    #[serde(default)]
    pub(super) messages: Vec<Status>,
}

/// A text message; with a title it is a long one.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct SmsSend<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) title: Option<&'a str>,
    pub(super) body: &'a str,
    pub(super) send_no: &'a str,
    pub(super) recipient_list: [SmsRecipient; 1],
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct SmsRecipient {
    pub(super) recipient_no: String,
    pub(super) recipient_grouping_key: Uuid,
}

/// The results of [`SmsSend`].
#[derive(Deserialize)]
pub(super) struct SmsResults {
    header: Head,
    body: Option<SmsBody>,
}

#[derive(Deserialize)]
struct SmsBody {
    data: SmsData,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct SmsData {
    #[serde(default)]
    send_result_list: Vec<SmsResult>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct SmsResult {
    result_code: i64,
    #[serde(default)]
    result_message: String,
}

impl SmsResults {
    /// How the fallback ended; `refused` is why it was needed.
    pub(super) fn delivery(self, refused: &str) -> Delivery {
        if let Err(later) = self.header.check() {
            return later;
        }
        match self.body.and_then(|body| body.data.send_result_list.into_iter().next()) {
            Some(result) if result.result_code == 0 => Delivery::Taken(Channel::Sms),
            Some(result) => {
                let sms = why(result.result_code, &result.result_message);
                Delivery::Refused(format!("AlimTalk: {refused}; SMS: {sms}"))
            }
            None => Delivery::later("no result for this message"),
        }
    }
}

/// Text messages under one key.
#[derive(Deserialize)]
pub(super) struct FoundTexts {
    header: Head,
    body: Option<FoundBody>,
}

#[derive(Deserialize)]
struct FoundBody {
    #[serde(default)]
    data: Vec<FoundText>,
}

/// A text message that the relay has.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct FoundText {
    msg_status: String,
    #[serde(default)]
    result_code: String,
    #[serde(default)]
    recipient_grouping_key: String,
}

impl FoundTexts {
    pub(super) fn texts(self) -> Result<Vec<FoundText>, Delivery> {
        self.header.check()?;
        Ok(self.body.map(|body| body.data).unwrap_or_default())
    }
}

impl FoundText {
    /// The status of a text message that failed.
    const FAILED: &str = "0";

    pub(super) fn is_of(&self, id: Uuid) -> bool {
        self.recipient_grouping_key == id.to_string()
    }

    /// How the fallback ended, or will end: a message that the relay has counts as taken.
    pub(super) fn delivery(&self, refused: &str) -> Delivery {
        if self.msg_status == Self::FAILED {
            let sms = format!("code {}", self.result_code);
            return Delivery::Refused(format!("AlimTalk: {refused}; SMS: {sms}"));
        }
        Delivery::Taken(Channel::Sms)
    }
}

fn why(code: impl std::fmt::Display, message: &str) -> String {
    format!("code {code}: {message}")
}

/// A number as it is dialled from Korea: a Korean one without the country code, others with it.
pub(super) fn dialled(phone: &str) -> String {
    match phone.strip_prefix("+82") {
        Some(at_home) => format!("0{at_home}"),
        None => phone.trim_start_matches('+').to_owned(),
    }
}

/// Bytes of a text as the networks count them: two for anything that is not ASCII.
pub(super) fn bytes_on_air(text: &str) -> usize {
    text.chars().map(|c| if c.is_ascii() { 1 } else { 2 }).sum()
}

/// A moment as the relay writes it: in Korean time.
pub(super) fn in_korea(at: Timestamp) -> String {
    let format = format_description!("[year]-[month]-[day] [hour]:[minute]:[second]");
    let korea = UtcOffset::from_hms(9, 0, 0).unwrap_or(UtcOffset::UTC);
    at.0.to_offset(korea).format(format).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_dialled_as_from_korea() {
        assert_eq!(dialled("+821012345678"), "01012345678");
        assert_eq!(dialled("+12025550123"), "12025550123");
    }

    #[test]
    fn a_korean_character_takes_two_bytes() {
        assert_eq!(bytes_on_air("결제 ok"), 7);
    }

    #[test]
    fn a_request_to_the_relay_has_korean_time() {
        let at = Timestamp(time::macros::datetime!(2027-03-10 18:30:05 UTC));
        assert_eq!(in_korea(at), "2027-03-11 03:30:05");
    }
}

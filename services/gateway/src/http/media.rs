//! The type and the text encoding of a body, from its `Content-Type`.
//!
//! Clients spell each of them in several ways that mean the same, and all of them are accepted.

use axum::http::{HeaderMap, header};
use encoding_rs::{Encoding, UTF_8, UTF_16BE, UTF_16LE};
use events::{Problem, codes};

const JSON: &str = "application/json";
/// The type of a seat plan that is sent as a body of its own.
const PLAN: &str = "text/csv";
/// The types of body that are read here, each with its other names.
const TYPES: [(&str, &[&str]); 2] = [
    (JSON, &["text/json", "application/x-json"]),
    (
        PLAN,
        &[
            "text/comma-separated-values",
            "text/tab-separated-values",
            "text/x-csv",
            "application/csv",
            "application/x-csv",
            // What Windows says of a CSV file once Excel is installed.
            "application/vnd.ms-excel",
        ],
    ),
];

fn stated(headers: &HeaderMap) -> Option<&str> {
    headers.get(header::CONTENT_TYPE)?.to_str().ok()
}

/// Whether the body is of this type, in whatever encoding.
pub(crate) fn is_of(headers: &HeaderMap, kind: &str) -> bool {
    let Some(stated) = stated(headers) else { return false };
    let stated = stated.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    let others = TYPES.iter().find(|(name, _)| *name == kind).map_or(&[][..], |(_, it)| it);
    let is_structured =
        kind == JSON && stated.starts_with("application/") && stated.ends_with("+json");
    stated == kind || others.contains(&stated.as_str()) || is_structured
}

/// Whether a body of this type is read here in the encoding that is stated. JSON is UTF-8; a
/// plan is a file, so it may be in any encoding.
pub(crate) fn is_read(headers: &HeaderMap, kind: &str) -> bool {
    is_of(headers, kind) && (kind == PLAN || encoding(headers) == Some(UTF_8))
}

/// The encoding that is stated; UTF-8 when none is, and `None` for an unknown one.
fn encoding(headers: &HeaderMap) -> Option<&'static Encoding> {
    let mut parts = stated(headers).unwrap_or_default().split(';').skip(1);
    let stated = parts.find_map(|part| {
        let (name, value) = part.split_once('=')?;
        name.trim().eq_ignore_ascii_case("charset").then(|| value.trim().trim_matches(['"', '\'']))
    });
    match stated {
        None | Some("") => Some(UTF_8),
        // It is a subset of UTF-8; to browsers the label means another encoding.
        Some(label) if is_ascii(label) => Some(UTF_8),
        Some(label) => Encoding::for_label(label.as_bytes())
            .or_else(|| Encoding::for_label(label.replace('_', "-").as_bytes())),
    }
}

fn is_ascii(label: &str) -> bool {
    ["us-ascii", "ascii", "utf8mb4"].iter().any(|it| label.eq_ignore_ascii_case(it))
}

/// The text of a seat plan, decoded from the encoding that its first bytes show, or else from
/// the one that is stated.
///
/// # Errors
/// `seat_plan_invalid`, with the line that cannot be read.
pub(crate) fn plan_text(headers: &HeaderMap, body: &[u8]) -> Result<String, Problem> {
    let marked = Encoding::for_bom(body).map(|(encoding, _)| encoding);
    let detected = marked.or_else(|| wide(body));
    let stated = encoding(headers).ok_or_else(|| {
        let what = "must state `charset=utf-8`, or another encoding that is known";
        Problem::about(codes::UNSUPPORTED_MEDIA_TYPE, "Content-Type", what)
    })?;
    let encoding = detected.unwrap_or(stated);
    if encoding == UTF_8 {
        let text = str::from_utf8(body);
        return text.map(str::to_owned).map_err(|error| not_utf8(body, error.valid_up_to()));
    }
    let (text, _, has_errors) = encoding.decode(body);
    if !has_errors {
        return Ok(text.into_owned());
    }
    let before = text.split('\u{fffd}').next().unwrap_or_default();
    Err(unread(line_at(before.as_bytes()), encoding.name()))
}

/// UTF-16 without a byte order mark: every other byte of the plan's header is zero.
fn wide(body: &[u8]) -> Option<&'static Encoding> {
    match body.first_chunk::<4>()?.map(|byte| byte == 0) {
        [false, true, false, true] => Some(UTF_16LE),
        [true, false, true, false] => Some(UTF_16BE),
        _ => None,
    }
}

fn not_utf8(body: &[u8], valid_up_to: usize) -> Problem {
    unread(line_at(&body[..valid_up_to]), "UTF-8")
}

fn unread(line: usize, encoding: &str) -> Problem {
    let reason = format!(
        "line {line} is not {encoding}: save the file as `CSV UTF-8`, or state its encoding as \
         `Content-Type: text/csv; charset=euc-kr`"
    );
    Problem::new(codes::SEAT_PLAN_INVALID, reason.clone())
        .with("line", line)
        .with("column", 1)
        .with("field", "")
        .with("reason", reason)
}

fn line_at(before: &[u8]) -> usize {
    1 + before.iter().filter(|byte| **byte == b'\n').count()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn typed(content_type: &str) -> HeaderMap {
        HeaderMap::from_iter([(header::CONTENT_TYPE, content_type.parse().unwrap())])
    }

    #[test]
    fn a_content_type_is_recognised_however_it_is_written() {
        for json in [
            "application/json",
            "Application/JSON; charset=UTF-8",
            "application/json;charset=utf8",
            "application/json; charset=\"utf-8\"",
            "application/json ; Charset = 'UTF8'",
            "application/json; charset=utf_8",
            "application/json; charset=us-ascii",
            "application/json; charset=",
            "application/json;",
            "application/json; odata=verbose; charset=utf-8",
            "application/vnd.api+json",
            "text/json",
        ] {
            let headers = typed(json);
            assert!(is_of(&headers, "application/json"), "{json}");
            assert!(is_read(&headers, "application/json"), "{json}");
            assert!(!is_of(&headers, "text/csv"), "{json}");
        }
        for other in ["text/plain", "application/xml", "json", "", "application/jsonp"] {
            assert!(!is_of(&typed(other), "application/json"), "{other}");
        }
        assert!(!is_of(&HeaderMap::new(), "application/json"));
        for csv in ["text/csv; header=present", "TEXT/CSV", "application/vnd.ms-excel"] {
            assert!(is_of(&typed(csv), "text/csv"), "{csv}");
        }
    }

    #[test]
    fn other_encodings_are_distinguished_from_utf_8() {
        for other in ["iso-8859-1", "latin1", "utf-16", "euc-kr", "shift_jis"] {
            let found = encoding(&typed(&format!("application/json; charset={other}")));
            assert!(found.is_some_and(|it| it != UTF_8), "{other}");
            let json = typed(&format!("application/json; charset={other}"));
            assert!(!is_read(&json, "application/json"), "{other}");
        }
        assert_eq!(encoding(&typed("application/json; charset=klingon")), None);
    }

    #[test]
    fn a_plan_is_read_in_the_encoding_it_was_saved_in() {
        let plan = "section,row,seat,price\nR석,A,1,1000\n";
        let utf16 = |to_bytes: fn(u16) -> [u8; 2]| -> Vec<u8> {
            "\u{feff}".encode_utf16().chain(plan.encode_utf16()).flat_map(to_bytes).collect()
        };
        for body in [plan.into(), utf16(u16::to_le_bytes), utf16(u16::to_be_bytes)] {
            assert_eq!(plan_text(&typed("text/csv"), &body).unwrap(), plan);
            if body.len() > plan.len() {
                assert_eq!(plan_text(&typed("text/csv"), &body[2..]).unwrap(), plan, "no mark");
            }
        }
        let korean = encoding_rs::EUC_KR.encode(plan).0;
        for label in ["euc-kr", "EUC_KR", "ks_c_5601-1987", "windows-949"] {
            let headers = typed(&format!("text/csv; charset={label}"));
            assert_eq!(plan_text(&headers, &korean).unwrap(), plan, "{label}");
        }
    }

    #[test]
    fn an_unreadable_plan_is_refused_with_the_line_and_the_remedy() {
        let plan = b"section,row,seat,price\nR\xbc\xae,A,1,1000\n";
        let problem = plan_text(&typed("text/csv"), plan).unwrap_err();
        assert!(problem.is(codes::SEAT_PLAN_INVALID));
        assert_eq!(problem.extra["line"], 2);
        assert!(problem.detail.contains("charset="), "{problem}");
        let malformed =
            plan_text(&typed("text/csv; charset=euc-kr"), b"a\nb\xff\xff,1").unwrap_err();
        assert_eq!(malformed.extra["line"], 2);
        let unknown = plan_text(&typed("text/csv; charset=klingon"), plan).unwrap_err();
        assert!(unknown.is(codes::UNSUPPORTED_MEDIA_TYPE));
    }
}

//! E-mail addresses. Only a mail can show whether one exists; this module refuses text that
//! cannot be an address.
//!
//! Different spellings of an address become the same: capital letters, full-width letters, a
//! domain in Unicode or in its ASCII form, quotes that are not needed. Dots that the standard
//! forbids, beside each other or before the `@`, are accepted: docomo and others gave out such
//! addresses, and they work.

use idna::uts46::{AsciiDenyList, DnsLength, Hyphens, Uts46};
use unicode_normalization::UnicodeNormalization;

use crate::{
    Flaw,
    judge::{Shape, check, is_blank, is_hidden},
};

/// The limit of a mail's envelope (RFC 5321).
const BYTES_MAX: usize = 254;
const MAILBOX_BYTES_MAX: usize = 64;
/// Characters that a mailbox can have only inside quotes, which are not used in practice.
const ODD: &str = "@,;:<>()[]\\\"";

/// An address in the form in which it is stored and compared.
///
/// # Errors
/// What is wrong with it, to be written after its name.
pub fn email(text: &str) -> Result<String, Flaw> {
    let typed = text.trim();
    if typed.len() > 4 * BYTES_MAX {
        return Err(too_long());
    }
    check(&typed.nfc().collect::<String>(), Shape::Line)?;
    if typed.chars().any(is_hidden) {
        return Err(Flaw::new("has a character that cannot be seen"));
    }
    let plain: String = typed.nfkc().collect();
    let Some((mailbox, domain)) = plain.rsplit_once('@') else {
        return Err(Flaw::new("has no `@`; an address is like `fan@example.com`"));
    };
    let mailbox = mailbox_of(mailbox)?;
    let domain = domain_of(domain)?;
    let email = format!("{mailbox}@{domain}");
    if email.len() > BYTES_MAX {
        return Err(too_long());
    }
    Ok(email)
}

fn too_long() -> Flaw {
    Flaw::new(format!("is longer than {BYTES_MAX} bytes"))
}

fn mailbox_of(typed: &str) -> Result<String, Flaw> {
    let unquoted = typed.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
    let mailbox: String = unquoted.unwrap_or(typed).to_lowercase().nfc().collect();
    if mailbox.is_empty() {
        return Err(Flaw::new("has nothing before the `@`"));
    }
    if mailbox.len() > MAILBOX_BYTES_MAX {
        let flaw = format!("has more than {MAILBOX_BYTES_MAX} bytes before the `@`");
        return Err(Flaw::new(flaw));
    }
    if let Some(odd) = mailbox.chars().find(|c| ODD.contains(*c) || is_blank(*c)) {
        return Err(Flaw::new(format!("has {odd:?} before the `@`")));
    }
    if mailbox.starts_with('.') {
        return Err(Flaw::new("begins with a dot"));
    }
    Ok(mailbox)
}

fn domain_of(typed: &str) -> Result<String, Flaw> {
    let read = Uts46::new().to_ascii(
        typed.as_bytes(),
        AsciiDenyList::STD3,
        Hyphens::CheckFirstLast,
        DnsLength::Verify,
    );
    let domain = read.map_err(|_| Flaw::new("has no domain after the `@`"))?;
    let last = domain.rsplit('.').next().unwrap_or_default();
    if !domain.contains('.') || last.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(Flaw::new("has no full domain, such as `example.com`, after the `@`"));
    }
    Ok(domain.into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spellings_of_one_address_become_the_same() {
        let nfd: String = "전화@서울.kr".nfd().collect();
        for (kept, spellings) in [
            (
                "fan+1@example.org",
                vec![" Fan+1@Example.ORG ", "ｆａｎ＋１＠ｅｘａｍｐｌｅ．ｏｒｇ"],
            ),
            ("fan@xn--2i4bq6h.kr", vec!["fan@서울.kr", "fan@xn--2i4bq6h.kr", "FAN@XN--2I4BQ6H.KR"]),
            ("전화@xn--2i4bq6h.kr", vec!["전화@서울.kr", &nfd]),
            ("fan@xn--mnchen-3ya.de", vec!["fan@münchen.de", "fan@MU\u{308}NCHEN.de"]),
            ("fan@xn--r8jz45g.jp", vec!["fan@例え.jp", "fan@例え。jp"]),
            ("josé@example.com", vec!["José@example.com", "JOSE\u{301}@example.com"]),
            ("fan@example.com", vec!["\"fan\"@example.com", "fan@example.com"]),
        ] {
            for spelling in spellings {
                assert_eq!(email(spelling).as_deref(), Ok(kept), "{spelling}");
            }
            assert_eq!(email(kept).as_deref(), Ok(kept), "normalising again changes nothing");
        }
    }

    #[test]
    fn addresses_that_work_are_accepted_even_if_the_standard_forbids_them() {
        for taken in [
            "try..this.05@docomo.ne.jp",
            "ends.@docomo.ne.jp",
            "a...b..@ezweb.ne.jp",
            "o'brien@example.ie",
            "a/b=c{d}|e~f!g#h$i%j&k*l?m^n`o_p@example.com",
            "_@example.com",
            "a@b.co",
        ] {
            assert_eq!(email(taken).as_deref(), Ok(taken));
        }
        assert_eq!(email("\"try..this\"@docomo.ne.jp").as_deref(), Ok("try..this@docomo.ne.jp"));
    }

    #[test]
    fn text_that_cannot_be_an_address_is_refused() {
        let long = format!("{}@example.org", "a".repeat(65));
        let longer = format!("a@{}org", "example.".repeat(40));
        let huge = format!("{}@example.org", "a".repeat(60_000));
        for text in [
            "",
            "@",
            "fan",
            "fan@",
            "@example.org",
            "fan@localhost",
            "fan@1.2.3.4",
            "fan@[1.2.3.4]",
            "a b@example.org",
            "\"a b\"@example.org",
            "a\u{a0}b@example.org",
            "a@b@example.org",
            "fan@example..org",
            "fan@.org",
            "fan@-a.org",
            "fan@a-.org",
            "fan@exa_mple.org",
            ".fan@example.org",
            "fan@example.org\r\nBcc: all",
            "<fan@example.org>",
            "fan\0@example.org",
            "fan@xn--a.org",
            &long,
            &longer,
            &huge,
        ] {
            assert!(email(text).is_err(), "{text}");
        }
    }

    #[test]
    fn an_address_with_a_hidden_character_is_refused() {
        for text in [
            "fan\u{200b}@example.org",
            "fan@exa\u{ad}mple.org",
            "\u{202e}fan@example.org",
            "fan@example.org\u{feff}",
            "fan\u{fe0f}@example.org",
            "می\u{200c}خواهم@example.org",
        ] {
            assert!(email(text).is_err(), "{text:?}");
        }
    }
}

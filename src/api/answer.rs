//! The body of a 200: the two lists of a bulk delete, or `success` of a single-entry DELETE.

use std::fmt;

use serde::{Deserialize, Deserializer, de};

use crate::model::{deletion::EntryId, envelope::without_bom, outcome::Answer};

/// `deleted` is required, because without it the answer says nothing about any row. `failed` may be missing or null, because a
/// row in neither list comes back anyway. Other keys are ignored.
#[derive(Deserialize)]
struct RawAnswer {
    deleted: Vec<Id>,
    failed: Option<Vec<Id>>,
}

/// An ID as text. The API's IDs are numbers, and an answer may write them as such.
struct Id(String);

impl<'de> Deserialize<'de> for Id {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Spelling)
    }
}

/// Accepts a value that has one spelling as text. serde turns an integer beyond 64 bits into a fraction with other digits, so
/// fractions and exponents are refused.
struct Spelling;

impl de::Visitor<'_> for Spelling {
    type Value = Id;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an ID: a string or an integer of at most 64 bits")
    }

    fn visit_str<E>(self, id: &str) -> Result<Id, E> {
        Ok(Id(id.to_owned()))
    }

    fn visit_string<E>(self, id: String) -> Result<Id, E> {
        Ok(Id(id))
    }

    fn visit_u64<E>(self, id: u64) -> Result<Id, E> {
        Ok(Id(id.to_string()))
    }

    fn visit_i64<E>(self, id: i64) -> Result<Id, E> {
        Ok(Id(id.to_string()))
    }
}

/// Parses the answer to a bulk delete.
///
/// # Errors
/// If the body is not the documented JSON object.
pub(super) fn parse_lists(body: &[u8]) -> Result<Answer, String> {
    let RawAnswer { deleted, failed } = parse_object(body)?;
    let texts = |ids: Vec<Id>| ids.into_iter().map(|Id(id)| id).collect();
    Ok(Answer { deleted: texts(deleted), failed: texts(failed.unwrap_or_default()) })
}

/// The answer to a single-entry DELETE.
#[derive(Deserialize)]
struct RawSuccess {
    success: bool,
}

/// Parses the answer to a single-entry DELETE into the form of the two lists.
///
/// # Errors
/// If the body is not the documented JSON object.
pub(super) fn parse_success(body: &[u8], entry: &EntryId) -> Result<Answer, String> {
    let RawSuccess { success } = parse_object(body)?;
    let (entry, none) = (vec![entry.as_str().to_owned()], Vec::new());
    let (deleted, failed) = if success { (entry, none) } else { (none, entry) };
    Ok(Answer { deleted, failed })
}

/// Parses a JSON object. A derived `Deserialize` would accept an array in place of an object, such as `[["1"],[]]`.
///
/// # Errors
/// If the body is anything else.
pub(super) fn parse_object<T: serde::de::DeserializeOwned>(body: &[u8]) -> Result<T, String> {
    let body = without_bom(body);
    if !body.trim_ascii_start().starts_with(b"{") {
        return Err("not the promised JSON: not an object".to_owned());
    }
    serde_json::from_slice(body).map_err(|error| format!("not the promised JSON: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_clear_is_taken_and_what_is_not_is_no_answer() {
        let lists = |body: &str| parse_lists(body.as_bytes()).ok().map(|Answer { deleted, failed }| (deleted, failed));
        let texts = |ids: &[&str]| ids.iter().map(|id| (*id).to_owned()).collect::<Vec<_>>();
        for (body, deleted, failed) in [
            (r#"{"deleted":["1"],"failed":["2"]}"#, &["1"][..], &["2"][..]),
            (r#"{"deleted":["1"],"failed":null}"#, &["1"], &[]),
            (r#"{"deleted":["1"]}"#, &["1"], &[]),
            ("\u{feff} {\"deleted\":[],\"failed\":[]}", &[], &[]),
            (r#"{"deleted":[1, "2"],"failed":[-3]}"#, &["1", "2"], &["-3"]),
            (
                r#"{"deleted":[0,18446744073709551615,-9223372036854775808]}"#,
                &["0", "18446744073709551615", "-9223372036854775808"],
                &[],
            ),
        ] {
            assert_eq!(lists(body), Some((texts(deleted), texts(failed))), "{body}");
        }
        for body in [
            "",
            "[]",
            "{}",
            "\u{feff}",
            "\u{feff}\u{feff}{\"deleted\":[]}",
            r#"{"success":true}"#,
            r#"{"failed":["1"]}"#,
            r#"{"deleted":null,"failed":[]}"#,
            r#"{"deleted":[],"failed":false}"#,
            r#"{"deleted":[1.0]}"#,
            r#"{"deleted":[1e3]}"#,
            r#"{"deleted":[1E3]}"#,
            r#"{"deleted":[-0]}"#,
            r#"{"deleted":[01]}"#,
            r#"{"deleted":[18446744073709551616]}"#,
            r#"{"deleted":[-9223372036854775809]}"#,
            r#"{"deleted":[true]}"#,
            r#"{"deleted":[null]}"#,
            r#"{"deleted":[],"deleted":[]}"#,
            r#"{"deleted":[],"failed":null,"failed":[]}"#,
        ] {
            assert_eq!(lists(body), None, "{body}");
        }
    }

    #[test]
    fn a_single_entry_is_answered_with_an_object_that_has_a_boolean() {
        let entry = EntryId::parse("7").unwrap();
        let parse = |body: &str| parse_success(body.as_bytes(), &entry).ok().map(|said| (said.deleted, said.failed));
        let seven = || vec!["7".to_owned()];
        assert_eq!(parse(r#" {"success": true, "more": []}"#), Some((seven(), vec![])));
        assert_eq!(parse(r#"{"success":false}"#), Some((vec![], seven())));
        assert_eq!(parse("\u{feff}{\"success\":true}"), Some((seven(), vec![])));
        for other in ["", "true", "[true]", "{}", r#"{"success":null}"#, r#"{"success":"true"}"#, r#"{"success":1}"#] {
            assert_eq!(parse(other), None, "{other}");
        }
        assert_eq!(parse(r#"{"success":true,"success":false}"#), None, "twice");
        assert_eq!(parse(r#"{"success":true} x"#), None);
    }
}

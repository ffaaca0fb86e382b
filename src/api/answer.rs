//! The two lists of a bulk delete's answer.

use std::fmt;

use serde::{Deserialize, Deserializer, de};

use super::parse_object;
use crate::model::outcome::Answer;

/// Without `deleted`, nothing is said about any row. `failed` may be left out or null: a row that is in neither list comes
/// back either way. What else the API may add is no concern of ours.
#[derive(Deserialize)]
struct RawAnswer {
    deleted: Vec<Id>,
    failed: Option<Vec<Id>>,
}

/// An ID as text; IDs are numbers, and may be written as such.
struct Id(String);

impl<'de> Deserialize<'de> for Id {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Spelling)
    }
}

/// Takes what has one spelling as text. A number beyond 64 bits arrives as a fraction, whose digits are not those that
/// were sent; so fractions and exponents are none.
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

/// The two lists, by their names.
pub(super) fn parse(body: &[u8]) -> Result<Answer, String> {
    let RawAnswer { deleted, failed } = parse_object(body)?;
    let texts = |ids: Vec<Id>| ids.into_iter().map(|Id(id)| id).collect();
    Ok(Answer { deleted: texts(deleted), failed: texts(failed.unwrap_or_default()) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_clear_is_taken_and_what_is_not_is_no_answer() {
        let lists = |body: &str| parse(body.as_bytes()).ok().map(|Answer { deleted, failed }| (deleted, failed));
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
}

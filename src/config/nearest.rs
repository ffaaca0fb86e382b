//! The known name that somebody probably meant by an unknown one.

/// Similarity from which a name is suggested, 0 to 1. `regoin` and `region` have 0.95, `verbose` and `error` 0.68.
const SIMILAR: f64 = 0.8;

/// The name that is most similar to the text, whatever its case; `None` if none is similar.
pub(super) fn nearest<'a>(written: &str, names: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let written = written.to_lowercase();
    names
        .into_iter()
        .map(|name| (strsim::jaro_winkler(&written, name), name))
        .filter(|(similarity, _)| *similarity > SIMILAR)
        .max_by(|(left, _), (right, _)| left.total_cmp(right))
        .map(|(_, name)| name)
}

/// IDs that are suggested.
const SUGGESTED: usize = 3;

/// The IDs that take the fewest edits to get from `written`, whatever their case: at most a third of its characters, and only those
/// that are nearly as near as the nearest. IDs often begin alike, so a similarity of names would suggest nearly all of them.
pub(crate) fn nearest_ids<'a>(written: &str, ids: impl IntoIterator<Item = &'a str>) -> Vec<&'a str> {
    let written = written.to_lowercase();
    let most = written.chars().count() / 3;
    let distance = |id: &'a str| {
        let lower = id.to_lowercase();
        // Who gives the end of an ID, or its beginning, means the ID.
        let is_part = written.len() >= 3 && lower.contains(&written);
        (if is_part { 1 } else { strsim::osa_distance(&written, &lower) }, id)
    };
    let mut near: Vec<(usize, &str)> = ids.into_iter().map(distance).filter(|(slips, _)| *slips <= most).collect();
    near.sort_unstable();
    let least = near.first().map_or(0, |(slips, _)| *slips);
    near.into_iter().take_while(|(slips, _)| *slips <= least + 1).take(SUGGESTED).map(|(_, id)| id).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_finds_the_ids_that_may_be_meant_and_not_all_that_begin_alike() {
        let ids = ["PROJECT-58RP822I", "PROJECT-58RP822J", "PROJECT-AAAAAAAA", "BAKERY", "CINEMA", "a", "b"];
        let cases: [(&str, &[&str]); 9] = [
            ("PROJECT-58RP82I", &["PROJECT-58RP822I", "PROJECT-58RP822J"]),
            ("PROJECT-58RP8221", &["PROJECT-58RP822I", "PROJECT-58RP822J"]),
            ("project-58rp822i", &["PROJECT-58RP822I", "PROJECT-58RP822J"]),
            ("58RP822", &["PROJECT-58RP822I", "PROJECT-58RP822J"]),
            ("PROJECT-12345678", &[]),
            ("BAKREY", &["BAKERY"]),
            ("NOPE", &[]),
            ("c", &[]),
            ("", &[]),
        ];
        for (written, meant) in cases {
            assert_eq!(nearest_ids(written, ids), meant, "{written}");
        }
    }

    #[test]
    fn a_slip_finds_the_name_that_was_meant_and_another_word_finds_none() {
        let names = ["region", "base_url", "key", "key_file", "requests_per_second"];
        let cases = [
            ("regoin", Some("region")),
            ("REGION", Some("region")),
            ("baseurl", Some("base_url")),
            ("keyfile", Some("key_file")),
            ("keys", Some("key")),
            ("request_per_second", Some("requests_per_second")),
            ("rps", None),
            ("colour", None),
            ("", None),
        ];
        for (written, meant) in cases {
            assert_eq!(nearest(written, names), meant, "{written}");
        }
    }
}

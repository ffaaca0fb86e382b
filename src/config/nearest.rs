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

/// How many characters an ID may differ from one that is suggested, and how many are suggested.
const SLIPS: usize = 2;
const SUGGESTED: usize = 3;

/// The IDs that differ from `written` by a slip or two, whatever their case, the nearest first. IDs often begin alike, so a
/// similarity of names would suggest nearly all of them.
pub(crate) fn nearest_ids(written: &str, ids: Vec<String>) -> Vec<String> {
    let written = written.to_lowercase();
    let distance = |id: String| (strsim::osa_distance(&written, &id.to_lowercase()), id);
    // Of a short ID, two slips are another ID.
    let most = SLIPS.min(written.chars().count() / 3);
    let mut near: Vec<(usize, String)> = ids.into_iter().map(distance).filter(|(slips, _)| *slips <= most).collect();
    near.sort();
    near.into_iter().map(|(_, id)| id).take(SUGGESTED).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_that_begin_alike_are_suggested_only_for_a_slip() {
        let near = |written: &str| {
            let ids = ["PROJECT-58RP822I", "PROJECT-58RP822J", "PROJECT-99ZZ111A", "a", "b"].map(str::to_owned);
            nearest_ids(written, ids.to_vec())
        };
        assert_eq!(near("PROJECT-58RP82I"), ["PROJECT-58RP822I", "PROJECT-58RP822J"]);
        assert_eq!(near("project-99zz111a"), ["PROJECT-99ZZ111A"]);
        assert!(near("PROJECT-12345678").is_empty() && near("c").is_empty());
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

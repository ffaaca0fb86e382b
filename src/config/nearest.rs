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

#[cfg(test)]
mod tests {
    use super::*;

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

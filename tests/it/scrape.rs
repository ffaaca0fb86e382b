//! A strict reader of the OpenMetrics text format: what is not as the specification wants it is a failed test.

use std::collections::HashSet;

/// A metric family.
#[derive(Debug, Default)]
pub struct Family {
    pub name: String,
    pub kind: String,
    pub unit: Option<String>,
    /// Each sample's name with its labels as written, and its value.
    pub samples: Vec<(String, f64)>,
}

/// Every family, in the order in which they come.
pub fn parse(text: &str) -> Vec<Family> {
    let body = text.strip_suffix("# EOF\n").unwrap_or_else(|| panic!("the last line is not # EOF: {text}"));
    assert!(!body.contains("# EOF"), "one # EOF: {text}");
    let mut families: Vec<Family> = Vec::new();
    let mut seen = HashSet::new();
    for line in body.lines() {
        if let Some(rest) = line.strip_prefix("# ") {
            let [keyword, name, value] = rest.splitn(3, ' ').collect::<Vec<_>>()[..] else { panic!("{line}") };
            if families.last().is_none_or(|family| family.name != name) {
                assert!(is_name(name), "{line}");
                assert!(families.iter().all(|family| family.name != name), "{name} comes in one piece");
                families.push(Family { name: name.to_owned(), ..Family::default() });
            }
            let family = families.last_mut().unwrap();
            assert!(family.samples.is_empty(), "what {name} is comes before its samples");
            match keyword {
                "HELP" => assert!(!value.is_empty(), "{line}"),
                "TYPE" => {
                    assert!(family.kind.is_empty(), "{line}");
                    value.clone_into(&mut family.kind);
                }
                "UNIT" => {
                    assert!(name.ends_with(&format!("_{value}")), "{line}");
                    family.unit = Some(value.to_owned());
                }
                _ => panic!("{line}"),
            }
            continue;
        }
        let family = families.last_mut().unwrap_or_else(|| panic!("{line} has no family"));
        let (sample, value) = line.rsplit_once(' ').unwrap();
        let value: f64 = value.parse().unwrap();
        assert!(seen.insert(sample.to_owned()), "{sample} comes twice");
        let name = sample.split('{').next().unwrap();
        let suffix = name.strip_prefix(&family.name).unwrap_or_else(|| panic!("{sample} is none of {}", family.name));
        let allowed: &[&str] = match family.kind.as_str() {
            "counter" => &["_total"],
            "gauge" => &[""],
            "info" => &["_info"],
            "histogram" => &["_bucket", "_sum", "_count"],
            other => panic!("{other} is no type of {}", family.name),
        };
        assert!(allowed.contains(&suffix), "{line}");
        if family.kind != "gauge" {
            assert!(value >= 0.0, "{line}");
        }
        labels(sample);
        family.samples.push((sample.to_owned(), value));
    }
    families.iter().filter(|family| family.kind == "histogram").for_each(buckets);
    families
}

fn is_name(name: &str) -> bool {
    name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') && !name.starts_with(|c: char| c.is_ascii_digit())
}

/// None of ours has an escape, a comma or a brace in it.
fn labels(sample: &str) {
    let Some((_, rest)) = sample.split_once('{') else { return };
    let inside = rest.strip_suffix('}').unwrap_or_else(|| panic!("{sample}"));
    for label in inside.split(',').filter(|label| !label.is_empty()) {
        let (name, value) = label.split_once('=').unwrap();
        assert!(is_name(name), "{sample}");
        let value = value.strip_prefix('"').and_then(|value| value.strip_suffix('"')).unwrap();
        assert!(!value.contains(['"', '\\', '\n']), "{sample}");
    }
}

/// Buckets grow, and the last one has all that the count has.
fn buckets(family: &Family) {
    let of = |suffix: &str| {
        let name = format!("{}{suffix}", family.name);
        family
            .samples
            .iter()
            .filter(move |(sample, _)| sample.split('{').next() == Some(&name))
            .map(|(_, value)| *value)
    };
    let buckets: Vec<f64> = of("_bucket").collect();
    assert!(buckets.is_sorted(), "{family:?}");
    assert_eq!(buckets.last().copied(), of("_count").next(), "{family:?}");
    let last = &family.samples.iter().rfind(|(sample, _)| sample.contains("_bucket")).unwrap().0;
    assert!(last.contains("le=\"+Inf\""), "{family:?}");
    assert_eq!(of("_sum").count(), 1, "{family:?}");
}

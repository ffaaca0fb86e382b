//! Messages about sections and keys that there are not: they say which one was probably meant.

use super::{nearest::nearest, raw::SECTIONS, shown::shown_name};

/// The keys of a section; `None` if there is no such section.
pub(super) fn keys_of(section: &str) -> Option<&'static [&'static str]> {
    SECTIONS.iter().find(|(name, _)| *name == section).map(|(_, keys)| *keys)
}

/// Every section with each of its keys.
pub(super) fn keys() -> impl Iterator<Item = (&'static str, &'static str)> {
    SECTIONS.iter().flat_map(|(section, keys)| keys.iter().map(|key| (*section, *key)))
}

/// The section and the key that were probably meant. A section that was meant without its key has none.
pub(super) fn meant(section: &str, key: &str) -> Option<(&'static str, Option<&'static str>)> {
    let near = nearest(section, SECTIONS.iter().map(|(name, _)| *name));
    // The same key in another section is a better guess than a similar key in this one.
    let same = |here: bool| keys().find(|(of, name)| *name == key && (!here || near == Some(*of)));
    if let Some((section, key)) = same(true).or_else(|| same(false)) {
        return Some((section, Some(key)));
    }
    let section = near?;
    Some((section, nearest(key, keys_of(section)?.iter().copied())))
}

/// What a section of this name in a file is told.
pub(super) fn section_in_file(name: &str) -> String {
    let said = format!("there is no section {}", shown_name(name));
    if let Some((section, key)) = keys().find(|(_, key)| *key == name) {
        return format!("{said}; did you mean the key {key} of the section [{section}]? It belongs below that line");
    }
    match nearest(name, SECTIONS.iter().map(|(section, _)| *section)) {
        Some(section) => format!("{said}; did you mean {section}?"),
        None => format!("{said}; {}", sections()),
    }
}

/// What a key of this name in a file is told.
pub(super) fn key_in_file(section: &str, name: &str) -> String {
    let said = format!("there is no key {section}.{}", shown_name(name));
    match meant(section, name) {
        Some((there, Some(key))) if there == section => format!("{said}; did you mean {key}?"),
        Some((there, Some(key))) => format!("{said}; did you mean {key} of the section [{there}]?"),
        Some((_, None)) | None => format!("{said}; {}", keys_listed(section)),
    }
}

/// The sections, for a message.
pub(super) fn sections() -> String {
    let names: Vec<&str> = SECTIONS.iter().map(|(section, _)| *section).collect();
    format!("the sections are {}", names.join(", "))
}

/// The keys of a section, for a message.
pub(super) fn keys_listed(section: &str) -> String {
    format!("the keys of {section} are {}", keys_of(section).unwrap_or_default().join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_in_a_file_is_told_what_was_meant() {
        let keys = [
            ("api", "regoin", "there is no key api.regoin; did you mean region?"),
            ("api", "baseUrl", "did you mean base_url?"),
            ("hold", "max_attempts", "did you mean max_attempts of the section [retry]?"),
            ("api", "burst", "did you mean burst of the section [rate_limit]?"),
            ("log", "colour", "the keys of log are format, filter"),
            (
                "api",
                "sk0123456789abcdef",
                "there is no key api.(not shown, because it looks like a key); the keys of api",
            ),
        ];
        for (section, name, said) in keys {
            let told = key_in_file(section, name);
            assert!(told.contains(said), "{section} {name}: {told}");
        }
        let sections = [
            ("API", "there is no section API; did you mean api?"),
            ("ratelimit", "did you mean rate_limit?"),
            ("region", "did you mean the key region of the section [api]?"),
            ("colours", "the sections are database, api,"),
        ];
        for (name, said) in sections {
            let told = section_in_file(name);
            assert!(told.contains(said), "{name}: {told}");
        }
    }
}

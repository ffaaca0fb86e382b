//! Links between pages lead to a file that is there, and to a heading that is in it.

use std::{collections::HashSet, path::Path};

use regex::Regex;

use super::{pages, root};

/// The anchors that a Markdown renderer makes of the headings: lower case, punctuation left out, a hyphen for each space, and a
/// number behind a repeated one.
fn anchors(text: &str) -> HashSet<String> {
    let mut seen = HashSet::new();
    let mut is_code = false;
    for line in text.lines() {
        is_code ^= line.trim_start().starts_with("```");
        let Some(heading) = line.strip_prefix('#').filter(|_| !is_code) else { continue };
        let heading = heading.trim_start_matches('#').trim().to_lowercase();
        let kept = heading.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
        let anchor: String = kept.map(|c| if c == ' ' { '-' } else { c }).collect();
        let numbered = (1..).map(|number| format!("{anchor}-{number}"));
        let free = std::iter::once(anchor.clone()).chain(numbered).find(|name| !seen.contains(name)).unwrap();
        seen.insert(free);
    }
    seen
}

#[test]
fn every_link_leads_to_a_file_and_a_heading_that_are_there() {
    let form = Regex::new(r"\]\(([^)\s]+)\)").unwrap();
    let code = Regex::new(r"(?ms)^ *```.*?^ *```|`[^`\n]*`").unwrap();
    let mut checked = 0;
    for page in pages() {
        let prose = code.replace_all(&page.text, "");
        for link in form.captures_iter(&prose) {
            let link = &link[1];
            if link.contains("://") || link.starts_with("mailto:") {
                continue;
            }
            checked += 1;
            let (file, anchor) = link.split_once('#').map_or((link, None), |(file, anchor)| (file, Some(anchor)));
            let path = if file.is_empty() {
                root().join(&page.path)
            } else {
                root().join(&page.path).parent().unwrap_or(Path::new("")).join(file)
            };
            assert!(path.exists(), "{}: {link}: there is no such file", page.path);
            if let Some(anchor) = anchor {
                let there = std::fs::read_to_string(&path).unwrap();
                assert!(anchors(&there).contains(anchor), "{}: {link}: there is no such heading", page.path);
            }
        }
    }
    assert!(checked > 10, "only {checked} links");
}

#[test]
fn headings_become_the_anchors_that_links_use() {
    let text =
        "# The life of a row\n## `sweeper status --json`\n## What's next?\n## What's next?\n```sh\n# no heading\n```\n";
    let expected = ["the-life-of-a-row", "sweeper-status---json", "whats-next", "whats-next-1"];
    assert_eq!(anchors(text), expected.map(str::to_owned).into());
}

//! The end of a report: what `--check` reads of it, and a SHA-256 over all that stands before. Whoever edits the page and leaves the seal
//! as it is, is found out; whoever makes a new seal is not.

use anyhow::Context as _;
use serde::{Deserialize, Serialize};

use super::{
    canonical::{VERSION, sha256},
    facts::{Facts, States},
};
use crate::{
    cli::{Failure, times::rfc3339},
    printable,
};

/// What a report says that can be checked. The JSON form has these fields among others.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Claim {
    /// The canonical form that is hashed.
    pub(super) canonical: String,
    pub(super) label: String,
    pub(super) queue: String,
    pub(super) read_at: String,
    pub(super) wishes: States,
    pub(super) sha256: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) lines: Option<Vec<String>>,
}

/// A report that was read.
#[derive(Debug)]
pub(super) struct Sealed {
    pub(super) claim: Claim,
    /// The seal fits.
    pub(super) is_intact: bool,
}

const NAME: &str = "sweeper-report ";
/// In text and HTML, what stands before the seal and, in HTML, behind it.
const SEAL: &str = "\nseal ";
pub(super) const HTML_END: &str = "</pre>\n</main>\n</body>\n</html>\n";
const JSON_SEAL: &str = ",\"seal\":\"";
const JSON_END: &str = "\"}\n";

/// The line that `--check` reads in text and HTML.
///
/// # Errors
/// If it cannot be written as JSON.
pub(super) fn claim_line(facts: &Facts) -> Result<String, Failure> {
    let claim = Claim {
        canonical: VERSION.to_owned(),
        label: facts.label.clone(),
        queue: facts.queue.clone(),
        read_at: rfc3339(facts.read.0),
        wishes: facts.states,
        sha256: facts.sha256.clone(),
        lines: None,
    };
    let json = serde_json::to_string(&claim).context("write JSON")?;
    Ok(format!("{NAME}{}", printable::json_line(&json)))
}

/// The page with its seal. The page ends with [`claim_line`].
pub(super) fn sealed_text(page: &str) -> String {
    format!("{page}{SEAL}{}\n", sha256(page))
}

/// The same. The page ends with [`claim_line`] in a `pre`.
pub(super) fn sealed_html(page: &str) -> String {
    format!("{page}{SEAL}{}\n{HTML_END}", sha256(page))
}

/// The object with its seal as the last field.
pub(super) fn sealed_json(object: &str) -> String {
    let open = object.strip_suffix('}').unwrap_or(object);
    format!("{open}{JSON_SEAL}{}{JSON_END}", sha256(open))
}

/// Reads a report; `None` if it is none.
pub(super) fn read(file: &str) -> Option<Sealed> {
    let (is_json, is_html) = (file.starts_with('{'), file.starts_with("<!DOCTYPE html>"));
    let (before, end) = if is_json { (JSON_SEAL, JSON_END) } else { (SEAL, "\n") };
    let sealed = file.rsplit_once(before);
    let claim = if is_json {
        serde_json::from_str(file).ok()?
    } else {
        let line = file.lines().rev().find_map(|line| line.strip_prefix(NAME))?;
        let json = if is_html { super::html::unescaped(line) } else { line.to_owned() };
        serde_json::from_str(&json).ok()?
    };
    let is_intact = sealed.is_some_and(|(page, rest)| {
        let html = format!("{end}{HTML_END}");
        let seal = rest.strip_suffix(if is_html { html.as_str() } else { end });
        seal.is_some_and(|seal| seal == sha256(page))
    });
    Some(Sealed { claim, is_intact })
}

//! The canonical form of a label's wishes, version 1: the bytes that a report's SHA-256 is made of. docs/proof.md has it in words. Another
//! form gets another version, because reports of this one are in archives.

use sha2::{Digest as _, Sha256};

use crate::{model::clock::Timestamp, queue::report::Record};

/// The name of the form.
pub(super) const VERSION: &str = "v1";

/// The fields of a line, in order.
pub(super) const FIELDS: [&str; 13] = [
    "agent_id",
    "entry_id",
    "state",
    "asked_at",
    "ended_at",
    "cause",
    "cancelled_by",
    "verified_at",
    "sent_at",
    "answered_at",
    "status",
    "correlation_id",
    "remote_id",
];

/// The first line: the form and the label.
pub(super) fn head(label: &str) -> String {
    format!("sweeper report {VERSION}\t{}", escaped(label))
}

/// The line of a wish, without its end.
pub(super) fn line(record: &Record) -> String {
    let request = record.request.as_ref();
    let time = |at: Option<Timestamp>| at.map(|at| at.0.to_string());
    let text = |text: Option<&str>| text.map(escaped);
    let fields: [Option<String>; FIELDS.len()] = [
        text(Some(&record.agent)),
        text(Some(&record.entry)),
        text(Some(&record.state)),
        time(Some(record.asked_at)),
        time(record.ended_at),
        text(record.cause.as_deref()),
        text(record.cancelled_by.as_deref()),
        time(record.verified_at),
        time(request.map(|request| request.claimed_at)),
        time(request.and_then(|request| request.answered_at)),
        request.and_then(|request| request.status).map(|status| status.to_string()),
        text(request.map(|request| request.correlation_id.as_str())),
        text(request.and_then(|request| request.remote_id.as_deref())),
    ];
    fields.map(|field| field.unwrap_or_else(|| NOTHING.to_owned())).join("\t")
}

/// The field of a value that is not there.
pub(super) const NOTHING: &str = "\\N";

/// The text without what separates fields and lines.
fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('\t', "\\t").replace('\n', "\\n").replace('\r', "\\r")
}

/// A SHA-256 of lines, each with a line feed behind it.
#[derive(Clone, Debug, Default)]
pub(super) struct Hash(Sha256);

impl Hash {
    pub(super) fn add(&mut self, line: &str) {
        self.0.update(line.as_bytes());
        self.0.update(b"\n");
    }

    pub(super) fn hex(self) -> String {
        hex(&self.0.finalize())
    }
}

/// The SHA-256 of a text.
pub(super) fn sha256(text: &str) -> String {
    hex(&Sha256::digest(text.as_bytes()))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::queue::report::SentRequest;

    #[test]
    fn the_lines_and_their_hash_are_those_that_the_page_on_proof_shows() {
        let request = SentRequest {
            kind: "bulk".to_owned(),
            claimed_at: Timestamp(1_764_000_001_000),
            answered_at: Some(Timestamp(1_764_000_001_250)),
            status: Some(200),
            correlation_id: "6f2c1f0e-4a55-4d4e-9a0e-0d6f3a1b2c3d".to_owned(),
            remote_id: Some("a\tb\\c".to_owned()),
            ..SentRequest::default()
        };
        let deleted = Record {
            agent: "PROJECT-58RP822I".to_owned(),
            entry: "4711".to_owned(),
            label: Some("ERASURE 17".to_owned()),
            state: "deleted".to_owned(),
            asked_at: Timestamp(1_764_000_000_000),
            ended_at: Some(Timestamp(1_764_000_001_250)),
            request: Some(request),
            ..Record::default()
        };
        let open = Record {
            agent: "PROJECT-58RP822I".to_owned(),
            entry: "4712".to_owned(),
            state: "pending".to_owned(),
            asked_at: Timestamp(1_764_000_000_000),
            ..Record::default()
        };
        let lines = [head("ERASURE 17"), line(&deleted), line(&open)];
        let page = include_str!("../../../docs/proof.md");
        let mut hash = Hash::default();
        for line in &lines {
            let shown = line.replace('\t', "<TAB>");
            assert!(page.contains(&format!("{shown}<LF>\n")), "docs/proof.md has no {shown}");
            hash.add(line);
        }
        let hash = hash.hex();
        assert!(page.contains(&hash), "docs/proof.md has no {hash}");
        assert_eq!(hash, sha256(&format!("{}\n", lines.join("\n"))));
        assert!(lines.iter().skip(1).all(|line| line.split('\t').count() == FIELDS.len()));
    }
}

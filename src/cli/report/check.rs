//! `sweeper report --check`: compares a report with the queue.

use std::{
    cmp::Ordering,
    fs::{self, File},
    io::{self, IsTerminal as _, Read},
    path::Path,
    process::ExitCode,
};

use super::{
    canonical::{FIELDS, Hash, VERSION},
    facts::States,
    gather, seal,
};
use crate::{
    cli::{
        Failure,
        terminal::{say, warn_person},
        times::{plural, show_count, show_text},
    },
    config::Config,
    model::{clock::Clock, label::Label},
    printable::{absolute, shell},
};

/// The most wishes that are named.
const MOST_NAMED: usize = 20;
/// The longest report that is read, in GiB: some four million wishes with --rows. A check takes several times that memory.
const MOST_GIB: u64 = 1;
/// What a check can show.
const LIMIT: &str = "a check shows that something has changed, and not who has changed it";

/// Checks the report in this file; `-`: on standard input.
///
/// # Errors
/// If the file or the database cannot be read, or the file is no report.
pub(super) async fn check(file: &Path, config: &Config, clock: &Clock) -> Result<ExitCode, Failure> {
    let is_stdin = file.as_os_str() == "-";
    let path = if is_stdin { "standard input".to_owned() } else { absolute(file).display().to_string() };
    let bytes = if is_stdin { read_stdin() } else { read_file(file) };
    let bytes = bytes.map_err(|error| Failure::Usage(format!("read {path}: {error}")))?;
    let text = String::from_utf8_lossy(&bytes);
    let no_report =
        || Failure::Usage(format!("{path}: this is no report of `sweeper report`, or its last lines are missing"));
    let seal::Sealed { claim, is_intact } = seal::read(&text).ok_or_else(no_report)?;
    if claim.canonical != VERSION {
        let form = show_text(&claim.canonical, 20);
        let said = format!(
            "{path}: its lines are of the form {form}, and this sweeper knows {VERSION}: check it with a newer one"
        );
        return Err(Failure::Usage(said));
    }
    let label = Label::parse(&claim.label).map_err(|_| no_report())?;
    let facts = gather(&label, claim.lines.is_some(), config, clock).await?;
    let mut found = Vec::new();
    if !is_intact {
        found.push(about_seal(facts.sha256 == claim.sha256));
    }
    if claim.lines.as_ref().is_some_and(|lines| hash(lines) != claim.sha256) {
        found.push("the file's own lines do not have the SHA-256 that the file says".to_owned());
    }
    if facts.sha256 != claim.sha256 {
        found.push(format!("the queue does not say about the label {} what it said then", shell(label.as_str())));
        found.extend(counts(claim.wishes, facts.states));
        match (&claim.lines, &facts.lines) {
            (Some(then), Some(now)) => found.extend(differences(then, now)),
            _ => found.push("which wishes differ: only a report with --json --rows can tell".to_owned()),
        }
    } else if claim.wishes != facts.states {
        found.push("the file's numbers are not those of the wishes that it has the SHA-256 of".to_owned());
        found.extend(counts(claim.wishes, facts.states));
    }
    if claim.queue != facts.queue {
        found.push(format!(
            "note: the report is of the queue {}, and this is {}",
            show_text(&claim.queue, 300),
            facts.queue
        ));
    }
    let is_changed = !is_intact || found.iter().any(|line| !line.starts_with("note: "));
    let head = if is_changed {
        format!("changed since {}: {path}", show_text(&claim.read_at, 30))
    } else {
        let wishes = plural(claim.wishes.all(), "wish", "wishes");
        format!(
            "unchanged: the queue says about {wishes} with the label {label} what it said at {}",
            show_text(&claim.read_at, 30)
        )
    };
    let lines: Vec<String> =
        std::iter::once(head).chain(found.iter().map(|line| format!("  {line}"))).chain([LIMIT.to_owned()]).collect();
    say(&lines.join("\n"))?;
    Ok(ExitCode::from(u8::from(is_changed)))
}

/// What follows from a seal that does not fit. `says_the_same`: the queue says what the file says.
fn about_seal(says_the_same: bool) -> String {
    let so = if says_the_same {
        ". The queue says about the label what it said then; the file may have other line ends, for example"
    } else {
        ", so its label and its numbers may be somebody else's, too"
    };
    format!("the file is not as it was written: its seal does not fit{so}")
}

/// The content of a file. A device or a pipe may have no end.
fn read_file(file: &Path) -> io::Result<Vec<u8>> {
    let found = fs::metadata(file)?;
    if !found.is_file() {
        return Err(io::Error::other("it must be a regular file, or - for standard input"));
    }
    if found.len() > MOST_GIB << 30 {
        return Err(too_long());
    }
    read(File::open(file)?, MOST_GIB << 30)
}

fn too_long() -> io::Error {
    io::Error::other(format!("it is longer than {MOST_GIB} GiB, and no report is"))
}

fn read_stdin() -> io::Result<Vec<u8>> {
    if io::stdin().is_terminal() {
        warn_person("reading the report from standard input: Ctrl-D ends it");
    }
    read(io::stdin().lock(), MOST_GIB << 30)
}

fn read(from: impl Read, most: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    from.take(most.saturating_add(1)).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > most {
        return Err(too_long());
    }
    Ok(bytes)
}

fn hash(lines: &[String]) -> String {
    let mut hash = Hash::default();
    lines.iter().for_each(|line| hash.add(line));
    hash.hex()
}

/// The numbers that differ.
fn counts(then: States, now: States) -> Vec<String> {
    let counts = [
        ("deleted", then.deleted, now.deleted),
        ("absent", then.absent, now.absent),
        ("dead", then.dead, now.dead),
        ("cancelled", then.cancelled, now.cancelled),
        ("open", then.open, now.open),
    ];
    let differ = counts.into_iter().filter(|(_, then, now)| then != now);
    differ.map(|(state, then, now)| format!("{state}: {} then, {} now", show_count(then), show_count(now))).collect()
}

/// The wishes that differ, each with how. Both lists are in the order of agents and entries, behind their first line.
fn differences(then: &[String], now: &[String]) -> Vec<String> {
    let lines = |all: &[String]| -> Vec<Vec<String>> {
        all.iter().skip(1).map(|line| line.split('\t').map(str::to_owned).collect()).collect()
    };
    let (then, now) = (lines(then), lines(now));
    let key = |line: &[String]| (line.first().cloned().unwrap_or_default(), line.get(1).cloned().unwrap_or_default());
    let (mut then, mut now) = (then.iter().peekable(), now.iter().peekable());
    let (mut said, mut count) = (Vec::new(), 0_u64);
    loop {
        let order = match (then.peek(), now.peek()) {
            (None, None) => break,
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some(then), Some(now)) => key(then).cmp(&key(now)),
        };
        let difference = match order {
            Ordering::Less => then.next().map(|line| format!("{}: is no longer there", name(line))),
            Ordering::Greater => now.next().map(|line| format!("{}: was not there then", name(line))),
            Ordering::Equal => then.next().zip(now.next()).and_then(|(then, now)| fields(then, now)),
        };
        if let Some(difference) = difference {
            count += 1;
            if said.len() < MOST_NAMED {
                said.push(difference);
            }
        }
    }
    if count > said.len() as u64 {
        said.push(format!("and {} more", show_count(count - said.len() as u64)));
    }
    said
}

fn name(line: &[String]) -> String {
    line.iter().take(2).map(|part| show_text(part, 255)).collect::<Vec<_>>().join(" ")
}

/// The fields of a wish that differ.
fn fields(then: &[String], now: &[String]) -> Option<String> {
    let differ: Vec<String> = FIELDS
        .iter()
        .enumerate()
        .map(|(at, field)| (field, then.get(at).map_or("", String::as_str), now.get(at).map_or("", String::as_str)))
        .filter(|(_, then, now)| then != now)
        .map(|(field, then, now)| format!("{field} was {}, is {}", show_text(then, 100), show_text(now, 100)))
        .collect();
    (!differ.is_empty()).then(|| format!("{}: {}", name(then), differ.join("; ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_no_end_is_read_up_to_the_limit() {
        assert_eq!(read(&b"1234"[..], 4).unwrap(), b"1234");
        assert!(read(&b"12345"[..], 4).unwrap_err().to_string().contains("longer than 1 GiB"));
        assert!(read(io::repeat(b'x'), 4).is_err());
    }
}

//! What a verify has found, for people and for programs.

use anyhow::Context as _;
use serde::Serialize;

use super::{
    VerifyArgs, plural, report,
    rows::{Compared, Still},
    say, show_count, warn_person,
};
use crate::{
    cli::{Failure, times::show_time},
    config::Config,
    model::deletion::State,
    printable::{self, shell},
};

/// Rows that are named.
const SHOWN: usize = 10;

/// What else there is to say of the rows.
#[derive(Clone, Copy, Debug)]
pub(super) struct Outcome {
    /// Rows, or wishes of the label, that are not settled.
    pub(super) pending: u64,
    /// Wishes of the label whose rows are gone.
    pub(super) pruned: u64,
    /// Rows that were written as verified.
    pub(super) written: u64,
}

/// The object of `--json`. Names and meanings are stable. Times are Unix milliseconds.
#[derive(Debug, Serialize)]
struct Object<'c> {
    database: String,
    agent: &'c str,
    label: Option<&'c str>,
    /// When the listing began; null if the cache changed each time.
    at: Option<i64>,
    /// Why the listings did not count.
    shifted: Vec<&'c str>,
    listed: Option<u64>,
    verified: u64,
    dry_run: bool,
    still_listed: Vec<StillObject<'c>>,
    dead_gone: Vec<&'c str>,
    dead_listed: u64,
    left_out: u64,
    changed: u64,
    pending: u64,
    pruned: u64,
    requeued: Option<u64>,
}

#[derive(Debug, Serialize)]
struct StillObject<'c> {
    entry_id: &'c str,
    state: &'static str,
    settled_at: i64,
    request_id: Option<i64>,
    correlation_id: Option<&'c str>,
    cached_at: Option<i64>,
    cached_again: bool,
}

/// Prints what was found.
pub(super) struct Page<'a> {
    args: &'a VerifyArgs,
    config: &'a Config,
}

impl<'a> Page<'a> {
    pub(super) fn new(args: &'a VerifyArgs, config: &'a Config) -> Self {
        Self { args, config }
    }

    fn empty(&self) -> Object<'_> {
        Object {
            database: self.config.store.name(),
            agent: self.args.agent.as_str(),
            label: self.args.label.as_ref().map(|label| label.as_str()),
            at: None,
            shifted: Vec::new(),
            listed: None,
            verified: 0,
            dry_run: self.args.dry_run,
            still_listed: Vec::new(),
            dead_gone: Vec::new(),
            dead_listed: 0,
            left_out: 0,
            changed: 0,
            pending: 0,
            pruned: 0,
            requeued: None,
        }
    }

    fn print(object: &Object<'_>) -> Result<(), Failure> {
        let text = serde_json::to_string(object).context("write JSON")?;
        say(&printable::json_line(&text))
    }

    /// There was no row to compare.
    pub(super) fn nothing(&self, outcome: &Outcome) -> Result<(), Failure> {
        let Outcome { pending, pruned, .. } = *outcome;
        if self.args.json {
            return Self::print(&Object { pending, pruned, ..self.empty() });
        }
        let pending = match pending {
            0 => String::new(),
            some => format!("; {}", plural(some, "row is pending", "rows are pending")),
        };
        let pruned = match pruned {
            0 => String::new(),
            some => format!("; the {} of the label kept no longer", plural(some, "row is", "rows are")),
        };
        say(&format!("no settled row matches; nothing was listed{pending}{pruned}"))
    }

    /// The cache changed each time.
    pub(super) fn shifted(&self, reasons: &[String]) -> Result<(), Failure> {
        if self.args.json {
            let shifted = reasons.iter().map(String::as_str).collect();
            Self::print(&Object { shifted, ..self.empty() })?;
        }
        let (agent, times) = (&self.args.agent, reasons.len());
        let last = reasons.last().map_or("", String::as_str);
        warn_person(&format!(
            "sweeper: verify {agent}: nothing was written: listing the cache was tried {times} times, and no listing counts ({last}). Run \
             it again when fewer entries come and go"
        ));
        Ok(())
    }

    /// Prints the lines for a person. The object for programs comes last, with everything in it.
    pub(super) fn compared(&self, compared: &Compared, outcome: &Outcome) -> Result<(), Failure> {
        if self.args.json { Ok(()) } else { say(&self.lines(compared, outcome).join("\n")) }
    }

    fn lines(&self, compared: &Compared, outcome: &Outcome) -> Vec<String> {
        let Self { args: VerifyArgs { agent, dry_run, .. }, .. } = self;
        let entries = plural(compared.listed, "entry", "entries");
        let mut lines = vec![format!("the cache of {agent} had {entries} at {}", show_time(compared.began))];
        let rows = |count: u64| plural(count, "row", "rows");
        if *dry_run {
            let gone = (compared.gone.len() + compared.dead_gone.len()) as u64;
            lines.push(format!("dry run: {} would be verified; nothing was written", rows(gone)));
        } else {
            lines.push(format!("verified {}: the entry is not in the cache", rows(outcome.written)));
        }
        if !compared.dead_gone.is_empty() {
            let count = plural(compared.dead_gone.len() as u64, "of them is", "of them are");
            lines.push(format!("{count} dead, and the entry is not in the cache all the same:"));
            let names = compared.dead_gone.iter().map(|(_, entry)| format!("  {}", printable::line(entry)));
            list(&mut lines, names, compared.dead_gone.len());
        }
        if !compared.still.is_empty() {
            let count = plural(compared.still.len() as u64, "row is", "rows are");
            lines.push(format!("{count} deleted or absent, and the entry is in the cache:"));
            list(&mut lines, compared.still.iter().map(still), compared.still.len());
        }
        for (count, one, many) in [
            (compared.dead_listed, "dead row has its entry in the cache", "dead rows have their entries in the cache"),
            (
                compared.left_out,
                "row was settled by somebody else meanwhile, or is invalid (`sweeper check`), and was not compared",
                "rows were settled by somebody else meanwhile, or are invalid (`sweeper check`), and were not compared",
            ),
            (
                compared.changed,
                "row was reopened or removed meanwhile, and is left out",
                "rows were reopened or removed meanwhile, and are left out",
            ),
            (outcome.pending, "row is pending, and was not compared", "rows are pending, and were not compared"),
            (
                outcome.pruned,
                "wish has no row any more (queue.retention), and nothing to compare",
                "wishes have no row any more (queue.retention), and nothing to compare",
            ),
        ] {
            lines.extend((count > 0).then(|| plural(count, one, many)));
        }
        lines
    }

    /// The end: what was reopened, and what can be done.
    pub(super) fn end(&self, compared: &Compared, outcome: &Outcome, requeued: Option<u64>) -> Result<(), Failure> {
        let Outcome { pending, pruned, written } = *outcome;
        let still = compared.still.len() as u64;
        if self.args.json {
            return Self::print(&Object {
                at: Some(compared.began.0),
                listed: Some(compared.listed),
                verified: written,
                still_listed: compared.still.iter().map(StillObject::new).collect(),
                dead_gone: compared.dead_gone.iter().map(|(_, entry)| entry.as_str()).collect(),
                dead_listed: compared.dead_listed,
                left_out: compared.left_out,
                changed: compared.changed,
                pending,
                pruned,
                requeued,
                ..self.empty()
            });
        }
        match requeued {
            Some(0) => report("nothing was reopened"),
            Some(done) => {
                report(&format!("reopened {}", show_count(done)));
                if done < still {
                    let rows = plural(still - done, "row was", "rows were");
                    warn_person(&format!("{rows} changed or removed by somebody else meanwhile"));
                }
            }
            None if still > 0 && self.args.requeue => {
                report(&format!("dry run: {} would be reopened", plural(still, "row", "rows")));
            }
            None if still > 0 => {
                let agent = shell(self.args.agent.as_str());
                report(&format!(
                    "`sweeper verify --agent {agent} --requeue` reopens what is in the cache; ask PolyAI's support, with the \
                     correlation IDs, why it was not deleted"
                ));
            }
            None => {}
        }
        Ok(())
    }
}

/// Adds the first names, and the number of the others.
fn list(lines: &mut Vec<String>, names: impl Iterator<Item = String>, all: usize) {
    lines.extend(names.take(SHOWN));
    if all > SHOWN {
        lines.push(format!("  … and {} more; --json has all of them", show_count((all - SHOWN) as u64)));
    }
}

/// A row whose entry is in the cache.
fn still(still: &Still) -> String {
    let (state, at) = (still.row.state.as_str(), show_time(still.row.settled_at));
    let by = match (still.request, &still.correlation_id) {
        (Some(request), Some(id)) => format!(" by request {request}, correlation ID {id}"),
        (Some(request), None) => format!(" by request {request}, which is not kept any more"),
        (None, _) => String::new(),
    };
    let found = if still.row.state == State::Absent { "found " } else { "" };
    let ended = format!("{found}{state} {at}{by}");
    let cached = match still.cached_at {
        Some(cached_at) if still.is_new() => format!("; cached again {}, after that", show_time(cached_at)),
        Some(cached_at) => format!("; cached {}", show_time(cached_at)),
        None => String::new(),
    };
    printable::line(&format!("  {}: {ended}{cached}", still.entry)).into_owned()
}

impl<'c> StillObject<'c> {
    fn new(still: &'c Still) -> Self {
        Self {
            entry_id: &still.entry,
            state: still.row.state.as_str(),
            settled_at: still.row.settled_at.0,
            request_id: still.request,
            correlation_id: still.correlation_id.as_deref(),
            cached_at: still.cached_at.map(|at| at.0),
            cached_again: still.is_new(),
        }
    }
}

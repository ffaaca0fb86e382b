//! `sweeper status --label`: what became of the wishes with one label.

use std::{
    future::Future,
    io::{self, IsTerminal as _},
    pin::pin,
    process::ExitCode,
};

use anyhow::Context as _;
use serde::Serialize;
use tokio::time::sleep;

use super::StatusArgs;
use crate::{
    cli::{
        Failure,
        names::unknown_label,
        terminal::{GREEN, RED, YELLOW, styled, table, warn_person, write_coloured},
        times::{plural, show_count, show_time},
    },
    config::Config,
    model::{
        clock::{Clock, Timestamp},
        deletion::AgentId,
        label::Label,
    },
    printable::{self, shell},
    queue::{either::Reader, report::LabelStanding, sqlite::twice_if_damaged},
};

/// The object that `--json` writes. Names and meanings are stable. Times are Unix milliseconds.
#[derive(Debug, Serialize)]
struct Report<'a> {
    database: String,
    at: i64,
    label: &'a str,
    agent: Option<&'a str>,
    wishes: Wishes,
    wished_at: i64,
    closed_at: Option<i64>,
}

#[derive(Debug, Serialize)]
struct Wishes {
    pending: u64,
    deleted: u64,
    absent: u64,
    dead: u64,
    cancelled: u64,
}

/// Shows how the wishes with `label` stand; with `--watch`, until `shutdown` completes. The exit code tells whether all of them
/// are fulfilled.
///
/// # Errors
/// If the database cannot be read, or standard output cannot be written.
pub(super) async fn status(
    label: &Label,
    args: &StatusArgs,
    config: &Config,
    clock: &Clock,
    shutdown: impl Future<Output = ()>,
) -> Result<ExitCode, Failure> {
    let mut shutdown = pin!(shutdown);
    let mut first = true;
    loop {
        let now = clock.now();
        let look = async || look(label, args.agent.as_ref(), config).await;
        let standing = match twice_if_damaged(look).await? {
            Ok(standing) => standing,
            Err(said) => {
                warn_person(&said);
                return Ok(ExitCode::from(1));
            }
        };
        let text = if args.json {
            json(label, args.agent.as_ref(), &standing, config, now)?
        } else {
            let clear = if args.watch.is_some() && io::stdout().is_terminal() { "\u{1b}[H\u{1b}[2J" } else { "" };
            let gap = if first || !clear.is_empty() { "" } else { "\n" };
            format!("{clear}{gap}{}", page(label, args.agent.as_ref(), &standing).join("\n"))
        };
        first = false;
        let is_read = write_coloured(&text)?;
        let code = ExitCode::from(code(&standing));
        let Some(pause) = args.watch.filter(|_| is_read) else { return Ok(code) };
        tokio::select! {
            () = &mut shutdown => return Ok(code),
            () = sleep(pause) => {}
        }
    }
}

/// How the label stands, or the message that there is none.
async fn look(
    label: &Label,
    agent: Option<&AgentId>,
    config: &Config,
) -> Result<Result<LabelStanding, String>, Failure> {
    if let Some(standing) = Reader::open(&config.store).await?.label(label, agent).await? {
        return Ok(Ok(standing));
    }
    let whose = agent.map_or_else(String::new, |agent| format!(" for agent {agent}"));
    let none = || format!("there is no wish with the label {}{whose}", shell(label.as_str()));
    Ok(Err(unknown_label(label, config).await?.unwrap_or_else(none)))
}

/// 4 if a wish will not be fulfilled without a person, else 1 if one is open, else 0.
fn code(standing: &LabelStanding) -> u8 {
    match standing {
        LabelStanding { dead: 0, cancelled: 0, pending: 0, .. } => 0,
        LabelStanding { dead: 0, cancelled: 0, .. } => 1,
        LabelStanding { .. } => 4,
    }
}

fn json(
    label: &Label,
    agent: Option<&AgentId>,
    standing: &LabelStanding,
    config: &Config,
    now: Timestamp,
) -> Result<String, Failure> {
    let LabelStanding { pending, deleted, absent, dead, cancelled, wished_at, closed_at } = *standing;
    let report = Report {
        database: config.store.name(),
        at: now.0,
        label: label.as_str(),
        agent: agent.map(AgentId::as_str),
        wishes: Wishes { pending, deleted, absent, dead, cancelled },
        wished_at: wished_at.0,
        closed_at: closed_at.map(|at| at.0),
    };
    let text = serde_json::to_string(&report).context("write JSON")?;
    Ok(printable::json_line(&text).into_owned())
}

fn page(label: &Label, agent: Option<&AgentId>, standing: &LabelStanding) -> Vec<String> {
    let LabelStanding { pending, deleted, absent, dead, cancelled, wished_at, closed_at } = *standing;
    let of_agent = agent.map_or_else(String::new, |agent| format!(", agent {agent}"));
    let mut lines = vec![format!("label      {label}{of_agent}"), format!("wished     {}", show_time(wished_at))];
    if let Some(at) = closed_at {
        lines.push(format!("last end   {}", show_time(at)));
    }
    lines.push(String::new());
    let counts =
        [("pending", pending), ("deleted", deleted), ("absent", absent), ("dead", dead), ("cancelled", cancelled)];
    let mut rows = table(["state", "wishes"], &[1], counts.map(|(state, count)| [state.to_owned(), show_count(count)]));
    for (row, (state, count)) in rows.iter_mut().skip(1).zip(counts) {
        match state {
            "dead" | "cancelled" if count > 0 => *row = styled(RED, &row),
            "pending" if count > 0 => *row = styled(YELLOW, &row),
            _ => {}
        }
    }
    lines.extend(rows);
    lines.push(String::new());
    lines.extend(conclusion(label, standing));
    lines
}

/// What the numbers come to, and what to do about them.
fn conclusion(label: &Label, standing: &LabelStanding) -> Vec<String> {
    let LabelStanding { pending, deleted, absent, dead, cancelled, .. } = *standing;
    let name = shell(label.as_str());
    let lost = dead + cancelled;
    if lost > 0 {
        let lost = plural(lost, "wish", "wishes");
        let open = if pending > 0 { format!("; {} open", plural(pending, "is", "are")) } else { String::new() };
        let said = format!("{lost} cannot be fulfilled without you (dead or cancelled){open}");
        let mut lines = vec![styled(RED, said)];
        lines.push(format!("which ones: sweeper list --label {name} --state dead,cancelled"));
        if dead > 0 {
            lines.push(format!("try the dead again: sweeper retry --label {name}"));
        }
        lines
    } else if pending > 0 {
        vec![plural(pending, "wish is open", "wishes are open")]
    } else {
        let all = plural(deleted + absent, "wish is fulfilled", "wishes are fulfilled");
        vec![styled(GREEN, format!("all: {all}"))]
    }
}

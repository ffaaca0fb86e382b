//! The last acts of operators, on the page and in JSON.

use serde::Serialize;

use crate::{
    cli::{
        screen,
        terminal::table,
        times::{plural, show_text},
    },
    durations,
    model::{
        act::{Act, ActKind},
        clock::Timestamp,
    },
    printable,
};

/// The longest name that is shown whole where there is a width.
const MAX_NAME: usize = 16;

#[derive(Debug, Serialize)]
pub(super) struct ActReport {
    at: i64,
    act: Option<&'static str>,
    operator: String,
    scope: Option<String>,
    rows: u64,
    detail: Option<String>,
    ended: bool,
}

impl ActReport {
    pub(super) fn new(act: &Act) -> Self {
        let Act { acted_at, kind, operator, scope, rows, detail, ended, .. } = act.clone();
        Self { at: acted_at.0, act: kind.map(ActKind::as_str), operator, scope, rows, detail, ended }
    }
}

/// A line for each act.
pub(super) fn act_lines(acts: &[Act], now: Timestamp) -> Vec<String> {
    let rows = acts.iter().map(|act| {
        let ago = durations::show_roughly(now.since(act.acted_at));
        let most = if screen::columns().is_some() { MAX_NAME } else { usize::MAX - 1 };
        let name = show_text(&act.operator, most);
        let kind = act.kind.map_or("?", ActKind::as_str).to_owned();
        [kind, name, ago, printable::line(&what(act)).into_owned()]
    });
    table(["last acts", "by", "ago", ""], &[2], rows)
}

/// What was done, to what, and why.
fn what(act: &Act) -> String {
    let detail = act.detail.as_ref().map_or_else(String::new, |detail| format!(", {detail}"));
    let on = match act.scope.as_deref() {
        Some("*") => "everything",
        Some(agent) => agent,
        None => "several agents",
    };
    let rows = match act.kind {
        Some(ActKind::Release) if act.scope.is_none() => {
            return format!("{}{detail}", plural(act.rows, "hold", "holds"));
        }
        Some(ActKind::Hold | ActKind::Release) => String::new(),
        Some(ActKind::Retry | ActKind::Cancel | ActKind::Enqueue | ActKind::Verify) | None => {
            format!("{} of ", plural(act.rows, "row", "rows"))
        }
    };
    let cut = if act.ended { "" } else { " (not ended)" };
    format!("{rows}{on}{cut}{detail}")
}

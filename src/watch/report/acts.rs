//! The last acts of operators, in words and in JSON.

use serde::Serialize;

use super::figures::plural;
use crate::model::act::{Act, ActKind};

#[derive(Debug, Serialize)]
pub(crate) struct ActReport {
    at: i64,
    act: Option<&'static str>,
    operator: String,
    scope: Option<String>,
    rows: u64,
    detail: Option<String>,
    ended: bool,
}

impl ActReport {
    pub(crate) fn new(act: &Act) -> Self {
        let Act { acted_at, kind, operator, scope, rows, detail, ended, .. } = act.clone();
        Self { at: acted_at.0, act: kind.map(ActKind::as_str), operator, scope, rows, detail, ended }
    }
}

/// What was done, to what, and why.
pub(crate) fn what(act: &Act) -> String {
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

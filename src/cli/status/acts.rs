//! The last acts of operators on the terminal.

use crate::{
    cli::{screen, terminal::table, times::show_text},
    durations,
    model::{
        act::{Act, ActKind},
        clock::Timestamp,
    },
    printable,
    watch::report::acts::what,
};

/// The longest name that is shown whole where there is a width.
const MAX_NAME: usize = 16;

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

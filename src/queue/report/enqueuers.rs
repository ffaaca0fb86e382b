//! Who enqueued a wish with a label: the operator of the command that was at work when the wish was made.
//!
//! A wish does not name its command. Its time is that of the database's clock, and so are the times of an act that enqueues, which are
//! read before the first of its wishes is written and after the last one. So a wish that a command made lies between the two. SQL that
//! wishes under the same label for the same agent between the two cannot be told from it.

use std::collections::HashMap;

use super::Record;
use crate::model::{act::MAX_DETAIL, clock::Timestamp, label::Label};

/// The newest acts that are looked at.
pub(in crate::queue) const MOST_ACTS: i64 = 100_000;
/// What stands before the label in [`crate::model::act::Draft::detail`].
const BEFORE_LABEL: &str = ", label: ";
/// What the detail of an act ends with whose rows were enqueued with this label.
pub(in crate::queue) fn end_of_detail(label: &Label) -> String {
    format!("{BEFORE_LABEL}{label}")
}

/// SQLite counts days in floating point, and may come to a millisecond less than the command does. In milliseconds.
const ROUNDING: i64 = 1;

/// An `enqueue` in the table of acts.
#[derive(Debug)]
pub(in crate::queue) struct FoundAct {
    pub(in crate::queue) operator: String,
    /// The agent; `None`: several.
    pub(in crate::queue) scope: Option<String>,
    pub(in crate::queue) acted_at: Timestamp,
    pub(in crate::queue) updated_at: Timestamp,
    pub(in crate::queue) detail: String,
}

/// Who enqueued wishes with labels, by commands that left an act.
#[derive(Debug, Default)]
pub struct Enqueuers {
    operators: Vec<String>,
    by_label: HashMap<String, OfLabel>,
}

/// The commands that enqueued under one label.
#[derive(Debug, Default)]
struct OfLabel {
    by_agent: HashMap<String, Spans>,
    /// Those for more than one agent. Nobody knows which, so they count for all.
    several: Spans,
}

/// Who can have enqueued at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Who {
    Nobody,
    /// An index of [`Enqueuers::operators`].
    One(usize),
    More,
}

impl Who {
    fn or(self, other: Self) -> Self {
        match (self, other) {
            (Self::Nobody, who) | (who, Self::Nobody) => who,
            (Self::One(one), Self::One(other)) if one == other => self,
            (Self::One(_) | Self::More, Self::One(_) | Self::More) => Self::More,
        }
    }
}

/// First spans of time, each with its operator; then, in order, the times at which it changes who was at work.
#[derive(Debug, Default)]
struct Spans {
    added: Vec<(i64, i64, usize)>,
    changes: Vec<(i64, Who)>,
}

impl Spans {
    /// Works out the changes.
    fn sort(&mut self) {
        let ends = |(from, until, operator): (i64, i64, usize)| {
            [(from.saturating_sub(ROUNDING), true, operator), (until.saturating_add(1), false, operator)]
        };
        let mut ends: Vec<(i64, bool, usize)> = self.added.drain(..).flat_map(ends).collect();
        ends.sort_unstable();
        let mut at_work: HashMap<usize, usize> = HashMap::new();
        for (at, begins, operator) in ends {
            let spans = at_work.entry(operator).or_default();
            *spans = if begins { *spans + 1 } else { spans.saturating_sub(1) };
            if *spans == 0 {
                at_work.remove(&operator);
            }
            let who = match (at_work.len(), at_work.keys().next()) {
                (1, Some(one)) => Who::One(*one),
                (0, _) | (_, None) => Who::Nobody,
                _ => Who::More,
            };
            match self.changes.last_mut() {
                Some((last, is)) if *last == at => *is = who,
                _ => self.changes.push((at, who)),
            }
        }
    }

    fn at(&self, at: i64) -> Who {
        let begun = self.changes.partition_point(|(from, _)| *from <= at);
        begun.checked_sub(1).map_or(Who::Nobody, |last| self.changes[last].1)
    }
}

impl Enqueuers {
    pub(in crate::queue) fn new(acts: impl IntoIterator<Item = FoundAct>) -> Self {
        let mut found = Self::default();
        let mut numbers: HashMap<String, usize> = HashMap::new();
        for FoundAct { operator, scope, acted_at, updated_at, detail } in acts {
            // A detail that was cut may end inside of the label. With the words twice, nobody can tell where the label begins.
            let is_whole = detail.chars().count() < MAX_DETAIL && detail.matches(BEFORE_LABEL).count() == 1;
            let Some((_, label)) = detail.split_once(BEFORE_LABEL).filter(|_| is_whole) else { continue };
            let operator = *numbers.entry(operator).or_insert_with_key(|name| {
                found.operators.push(name.clone());
                found.operators.len() - 1
            });
            let of_label = found.by_label.entry(label.to_owned()).or_default();
            let spans = match scope {
                Some(agent) => of_label.by_agent.entry(agent).or_default(),
                None => &mut of_label.several,
            };
            // The clock was set back meanwhile, or another server answers now. When the command wrote its rows is not known.
            if updated_at >= acted_at {
                spans.added.push((acted_at.0, updated_at.0, operator));
            }
        }
        for of_label in found.by_label.values_mut() {
            of_label.by_agent.values_mut().chain([&mut of_label.several]).for_each(Spans::sort);
        }
        found
    }

    /// The operator whose command enqueued this record; `None` if there is none, or if more than one can have.
    #[must_use]
    pub fn of(&self, record: &Record) -> Option<&str> {
        let of_label = self.by_label.get(record.label.as_deref()?)?;
        let at = record.asked_at.0;
        let of_agent = of_label.by_agent.get(&record.agent).map_or(Who::Nobody, |spans| spans.at(at));
        match of_agent.or(of_label.several.at(at)) {
            Who::One(operator) => self.operators.get(operator).map(String::as_str),
            Who::Nobody | Who::More => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn act(operator: &str, scope: Option<&str>, from: i64, until: i64, detail: &str) -> FoundAct {
        FoundAct {
            operator: operator.to_owned(),
            scope: scope.map(str::to_owned),
            acted_at: Timestamp(from),
            updated_at: Timestamp(until),
            detail: detail.to_owned(),
        }
    }

    fn asked(label: Option<&str>, agent: &str, at: i64) -> Record {
        let label = label.map(str::to_owned);
        Record { label, agent: agent.to_owned(), asked_at: Timestamp(at), ..Record::default() }
    }

    #[test]
    fn who_asked_is_known_only_if_one_operator_can_have() {
        let cut = format!("from {}, label: T", "x".repeat(MAX_DETAIL - 15));
        assert_eq!(cut.chars().count(), MAX_DETAIL);
        let acts = Enqueuers::new([
            act("ann", Some("a"), 1_000_000, 1_000_500, "from arguments, label: T"),
            act("ann", None, 1_000_000, 2_000_000, "from standard input, priority 5, label: T"),
            act("bob", Some("b"), 1_500_000, 1_500_000, "from arguments, label: T"),
            act("bob", Some("b"), 1_400_000, 1_600_000, "from arguments, label: T"),
            act("eve", None, 9_000_000, 9_000_000, "from /tmp/, label: x, label: T"),
            act("eve", None, 9_000_000, 9_000_000, &cut),
            act("eve", None, 9_000_000, 9_000_000, "from arguments"),
            act("eve", Some("d"), 9_500_000, 9_400_000, "from arguments, label: T"),
        ]);
        for (label, agent, at, who) in [
            (Some("T"), "a", 1_000_005, Some("ann")),
            (Some("T"), "a", 1_000_600, Some("ann")),
            (Some("T"), "c", 1_900_000, Some("ann")),
            (Some("T"), "b", 1_399_998, Some("ann")),
            (Some("T"), "b", 1_399_999, None),
            (Some("T"), "b", 1_500_000, None),
            (Some("T"), "b", 1_600_000, None),
            (Some("T"), "b", 1_600_001, Some("ann")),
            (Some("T"), "a", 2_000_000, Some("ann")),
            (Some("T"), "a", 2_000_001, None),
            (Some("T"), "a", 999_999, Some("ann")),
            (Some("T"), "a", 999_998, None),
            (Some("U"), "a", 1_000_000, None),
            (None, "a", 1_000_000, None),
            (Some("T"), "a", 9_000_000, None),
            (Some("T"), "d", 9_450_000, None),
            (Some("T"), "d", 9_600_000, None),
        ] {
            assert_eq!(acts.of(&asked(label, agent, at)), who, "{label:?} {agent} {at}");
        }
    }

    #[test]
    fn a_command_is_looked_up_among_those_of_its_label_and_agent_alone() {
        let number = MOST_ACTS;
        let acts = (0..number).map(|n| {
            let scope = (n % 2 == 0).then(|| format!("agent {}", n % 10));
            act(&format!("operator {}", n % 7), scope.as_deref(), n * 10, n * 10 + 4, "from arguments, label: T")
        });
        let acts = Enqueuers::new(acts);
        for n in 0..number {
            let agent = format!("agent {}", n % 10);
            let who = format!("operator {}", n % 7);
            assert_eq!(acts.of(&asked(Some("T"), &agent, n * 10 + 2)), Some(who.as_str()), "{n}");
            assert_eq!(acts.of(&asked(Some("T"), &agent, n * 10 + 7)), None, "{n}");
        }
    }
}

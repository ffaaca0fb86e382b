//! Wishes that a command has found in the inbox, and may not find there any more when it changes them.

use std::collections::{BTreeMap, BTreeSet};

use sqlx::PgConnection;

use crate::model::deletion::DeletionId;

/// The wishes whose entries are remembered. That takes some 150 MB.
const MOST_REMEMBERED: usize = 1_000_000;

/// $1 ids. The wishes that are in the inbox.
const THERE: &str = "SELECT id FROM deletions WHERE id = ANY ($1) AND state = 'new'";

/// $1 agents; $2 entries. The pending rows of these.
const ROWS: &str = "
SELECT DISTINCT known.id FROM unnest($1::text[], $2::text[]) AS gone (agent_id, entry_id)
JOIN deletions AS known ON known.agent_id = gone.agent_id AND known.entry_id = gone.entry_id
WHERE known.state <> 'new' AND known.settled_at IS NULL";

/// A wish in the inbox: its id, its agent and its entry.
pub(super) type Found = (i64, String, String);

/// The entries of wishes in the inbox, by the wishes' ids. The leader may take a wish in before the command comes to it. Then the row
/// has the wish's id, or another one if the entry had a row already: one that was settled and is reopened, or one that others wish for.
#[derive(Clone, Debug, Default)]
pub(super) struct Wishes(BTreeMap<i64, (String, String)>);

/// Rows and wishes that a command was told to change.
#[derive(Debug)]
pub(super) struct Chosen {
    pub(super) rows: Vec<i64>,
    pub(super) wishes: Vec<i64>,
    entries: Wishes,
}

impl Wishes {
    /// Remembers wishes, and returns what they are called among the ids of rows. Until a leader has put the ids right that a restored
    /// copy gives out, a wish can have the id of another entry's row. So the ids of wishes are negative here.
    pub(super) fn remember(&mut self, found: Vec<Found>) -> Vec<DeletionId> {
        let name = |(id, agent, entry)| {
            if self.0.len() < MOST_REMEMBERED {
                self.0.insert(id, (agent, entry));
            }
            DeletionId(-id)
        };
        found.into_iter().map(name).collect()
    }

    /// What these ids are of, each in the order of the ids.
    pub(super) fn among(&self, ids: &[DeletionId]) -> Chosen {
        let (wishes, rows): (Vec<i64>, Vec<i64>) = ids.iter().map(|id| id.0).partition(|id| *id < 0);
        let (mut rows, mut wishes) = (rows, wishes.into_iter().map(|id| -id).collect::<Vec<i64>>());
        rows.sort_unstable();
        wishes.sort_unstable();
        let entries = wishes.iter().filter_map(|id| self.0.get_key_value(id)).map(|(id, of)| (*id, of.clone()));
        Chosen { entries: Self(entries.collect()), rows, wishes }
    }
}

impl Chosen {
    /// The same, with the pending rows that wishes have become, or have gone into, instead of these wishes. Between two turns of the
    /// leader, nothing is taken in.
    pub(super) async fn now(&self, conn: &mut PgConnection) -> Result<Self, sqlx::Error> {
        let mut chosen = Self { rows: self.rows.clone(), wishes: Vec::new(), entries: Wishes::default() };
        if self.wishes.is_empty() {
            return Ok(chosen);
        }
        let there: Vec<i64> = sqlx::query_scalar(THERE).bind(&self.wishes).fetch_all(&mut *conn).await?;
        let there: BTreeSet<i64> = there.into_iter().collect();
        let gone = self.entries.0.iter().filter(|(id, _)| !there.contains(id)).map(|(_, of)| of);
        let (agents, entries): (Vec<&str>, Vec<&str>) =
            gone.map(|(agent, entry)| (agent.as_str(), entry.as_str())).unzip();
        if !agents.is_empty() {
            let rows: Vec<i64> = sqlx::query_scalar(ROWS).bind(agents).bind(entries).fetch_all(conn).await?;
            let all: BTreeSet<i64> = chosen.rows.into_iter().chain(rows).collect();
            chosen.rows = all.into_iter().collect();
        }
        chosen.wishes = there.into_iter().collect();
        Ok(chosen)
    }
}

//! Wishes that a command has found in the inbox, and may not find there any more when it changes them.

use std::collections::{BTreeMap, BTreeSet};

use sqlx::PgConnection;

use super::{producer::Producer, revive::deletions};
use crate::model::deletion::DeletionId;

/// The columns of a statement that finds rows and wishes: all ids; ids, agents and entries of the wishes in the inbox.
macro_rules! found {
    () => {
        "SELECT coalesce(array_agg(id ORDER BY id), '{}'), coalesce(array_agg(id ORDER BY id) FILTER (WHERE is_new), '{}'),
    coalesce(array_agg(agent_id ORDER BY id) FILTER (WHERE is_new), '{}'),
    coalesce(array_agg(entry_id ORDER BY id) FILTER (WHERE is_new), '{}')"
    };
}
pub(super) use found;

/// $1 ids. Those that exist, in the inbox or as a row.
const THERE: &str = "SELECT id FROM deletions WHERE id = ANY ($1)";

/// $1 agents; $2 entries. The pending rows of these.
const ROWS: &str = "
SELECT DISTINCT known.id FROM unnest($1::text[], $2::text[]) AS gone (agent_id, entry_id)
JOIN deletions AS known ON known.agent_id = gone.agent_id AND known.entry_id = gone.entry_id
WHERE known.state <> 'new' AND known.settled_at IS NULL";

/// What a statement with the columns of `found!` returns.
pub(super) type Found = (Vec<i64>, Vec<i64>, Vec<String>, Vec<String>);

/// The entries of wishes in the inbox, by the wishes' ids. The leader may take a wish in before the command comes to it. Then the
/// wish's id is gone if its entry had a row already, which is settled and reopened, or pending for others, and has another id.
#[derive(Clone, Debug, Default)]
pub(super) struct Wishes(BTreeMap<i64, (String, String)>);

impl Wishes {
    fn add(&mut self, (_, ids, agents, entries): Found) {
        self.0.extend(ids.into_iter().zip(agents.into_iter().zip(entries)));
    }

    /// Those of the wishes that are among these ids.
    pub(super) fn among(&self, ids: &[DeletionId]) -> Self {
        Self(ids.iter().filter_map(|id| self.0.get_key_value(&id.0)).map(|(id, of)| (*id, of.clone())).collect())
    }

    /// The ids, in their order, and for those of wishes that are gone, the ids of the pending rows that the wishes have gone into.
    /// Between two turns of the leader, nothing is taken in.
    pub(super) async fn follow(&self, conn: &mut PgConnection, ids: &[i64]) -> Result<Vec<i64>, sqlx::Error> {
        let mut all: BTreeSet<i64> = ids.iter().copied().collect();
        if !self.0.is_empty() {
            let wishes: Vec<i64> = self.0.keys().copied().collect();
            let there: Vec<i64> = sqlx::query_scalar(THERE).bind(&wishes).fetch_all(&mut *conn).await?;
            let there: BTreeSet<i64> = there.into_iter().collect();
            let gone = self.0.iter().filter(|(id, _)| !there.contains(id));
            let (gone, of): (Vec<i64>, Vec<&(String, String)>) = gone.unzip();
            if !gone.is_empty() {
                let (agents, entries): (Vec<&str>, Vec<&str>) =
                    of.into_iter().map(|(agent, entry)| (agent.as_str(), entry.as_str())).unzip();
                let rows: Vec<i64> = sqlx::query_scalar(ROWS).bind(agents).bind(entries).fetch_all(conn).await?;
                all.retain(|id| gone.binary_search(id).is_err());
                all.extend(rows);
            }
        }
        Ok(all.into_iter().collect())
    }
}

impl Producer {
    /// Remembers the wishes, and returns all ids.
    pub(super) fn found(&mut self, mut found: Found) -> Vec<DeletionId> {
        let ids = std::mem::take(&mut found.0);
        self.wishes.add(found);
        deletions(ids)
    }
}

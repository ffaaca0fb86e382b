//! Removes the wishes of labels whose last wish was closed long ago: see [`crate::queue::label_walk`].

use sqlx::PgConnection;

use super::{Store, errors::StoreError};
use crate::{
    model::clock::Timestamp,
    queue::{
        Upkeep,
        label_walk::{LabelWalk, Stage},
    },
};

/// Wishes in a stretch. A step removes one, and reads up to ten.
const STRETCH: u32 = 1_000;
const STRETCHES: u32 = 10;

/// $1 label. The next label in order. A wish without a label has the label '', and goes with its row.
const NEXT: &str = "SELECT min(label) FROM wishes WHERE label > $1";

/// The next wishes of a label. $1 label; $2, $3 the agent and the entry after which to read; $4 how many.
macro_rules! stretch {
    () => {
        "SELECT agent_id, entry_id, state, closed_at FROM wishes
        WHERE label = $1 AND (agent_id, entry_id) > ($2, $3) ORDER BY agent_id, entry_id LIMIT $4"
    };
}

/// $5 cutoff. Returns the number of wishes in the stretch, the last agent and entry, and whether one of them is open or young.
const LOOK: &str = concat!(
    "WITH stretch AS MATERIALIZED (",
    stretch!(),
    "), last AS MATERIALIZED (SELECT agent_id, entry_id FROM stretch ORDER BY agent_id DESC, entry_id DESC LIMIT 1)
    SELECT (SELECT count(*) FROM stretch), coalesce((SELECT agent_id FROM last), ''), coalesce((SELECT entry_id FROM last), ''),
        EXISTS (SELECT 1 FROM stretch WHERE state IS NULL OR closed_at >= $5)"
);

/// $5 cutoff; $6 whether dead and cancelled wishes go as well. A wish that has been opened again since the look stays.
const REMOVE: &str = concat!(
    "DELETE FROM wishes WHERE label = $1 AND (agent_id, entry_id) IN (SELECT agent_id, entry_id FROM (",
    stretch!(),
    ") AS stretch WHERE state IS NOT NULL AND (closed_at >= $5) IS NOT TRUE AND ($6 OR state IN ('deleted', 'absent')))"
);

const PRUNING: &str = "prune labels";

impl Store {
    /// Removes wishes of labels of which no wish is open, and the last was closed before `cutoff`. Each call goes on where the last one
    /// ended.
    pub(super) async fn prune_labels(&mut self, cutoff: Timestamp) -> Result<Upkeep, StoreError> {
        let mut read = 0;
        while read < STRETCH * STRETCHES {
            if self.labels.stage == Stage::Done {
                let after = self.labels.label.clone();
                let next = async |conn: &mut PgConnection| sqlx::query_scalar(NEXT).bind(after).fetch_one(conn).await;
                let next: Option<String> = self.run(PRUNING, next).await?;
                let Some(label) = next else {
                    self.labels = LabelWalk::default();
                    return Ok(Upkeep { removed: 0, more: false });
                };
                self.labels = LabelWalk { label, stage: Stage::Check, ..LabelWalk::default() };
            }
            let (label, (agent, entry)) = (self.labels.label.clone(), self.labels.after.clone());
            let look = async |conn: &mut PgConnection| {
                let query = sqlx::query_as(LOOK).bind(label).bind(agent).bind(entry);
                query.bind(i64::from(STRETCH)).bind(cutoff.0).fetch_one(conn).await
            };
            let (count, agent, entry, is_young): (i64, String, String, bool) = self.run(PRUNING, look).await?;
            match self.labels.stage {
                // A label that gets a wish while it is removed begins anew with that.
                Stage::Check if is_young => self.labels.stage = Stage::Done,
                Stage::Check | Stage::Done => self.labels.pass(count, STRETCH, (agent, entry)),
                Stage::Fulfilled | Stage::Rest => {
                    let removed = if count > 0 { self.remove_wishes(cutoff).await? } else { 0 };
                    self.labels.pass(count, STRETCH, (agent, entry));
                    if removed > 0 {
                        return Ok(Upkeep { removed, more: true });
                    }
                }
            }
            read += u32::try_from(count).unwrap_or(STRETCH).max(1);
        }
        Ok(Upkeep { removed: 0, more: true })
    }

    async fn remove_wishes(&mut self, cutoff: Timestamp) -> Result<u64, StoreError> {
        let (label, (agent, entry)) = (self.labels.label.clone(), self.labels.after.clone());
        let with_others = self.labels.stage == Stage::Rest;
        let remove = async |conn: &mut PgConnection| {
            let query = sqlx::query(REMOVE).bind(label).bind(agent).bind(entry).bind(i64::from(STRETCH));
            query.bind(cutoff.0).bind(with_others).execute(conn).await
        };
        Ok(self.run(PRUNING, remove).await?.rows_affected())
    }
}

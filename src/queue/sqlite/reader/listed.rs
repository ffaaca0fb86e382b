//! Rows one page after the other, in constant memory: each page is a short read of its own, and goes on behind the last row of the
//! page before. Each walk reads an index, or the table, in order, so that no page reads what another one has read.

use sqlx::AssertSqlSafe;

use super::{
    super::{rows::json, step_limit::SOME_ROWS},
    Reader, StoreError,
};
use crate::{
    model::{deletion::AgentId, outcome::Cause},
    queue::report::{Choice, ListedRow, Listing, PAGE, Page, Place},
};

/// The columns of a row of `deletions`.
macro_rules! columns {
    () => {
        "id, agent_id, entry_id, state, last_cause, attempts, priority, batch_max, due_at, created_at, settled_at, label,
        NULL AS wished_at, NULL AS closed_by, request_id, verified_at"
    };
}

/// A page: of the next rows, those that are chosen, and the last one, behind which the next page goes on. ?1 how many; ?2 states: [state,
/// …], or NULL for all; ?3 agent or NULL; ?4 cause or NULL.
macro_rules! page {
    ($rows:expr) => {
        concat!(
            "WITH stretch AS MATERIALIZED (",
            $rows,
            "), numbered AS (SELECT *, row_number() OVER () AS number, count(*) OVER () AS numbers,
                (?2 IS NULL OR state IN (SELECT value FROM json_each(?2))) AND (?3 IS NULL OR agent_id = ?3)
                    AND (?4 IS NULL OR last_cause IS ?4) AS is_chosen
            FROM stretch)
            SELECT * FROM numbered WHERE is_chosen OR number = numbers ORDER BY number"
        )
    };
}

/// ?5 the id after which to read
pub(in crate::queue::sqlite) const BY_ID: &str =
    page!(concat!("SELECT ", columns!(), " FROM deletions NOT INDEXED WHERE id > ?5 ORDER BY id LIMIT ?1"));

/// ?5 the entry after which to read
pub(in crate::queue::sqlite) const OF_AGENT: &str = page!(concat!(
    "SELECT ",
    columns!(),
    " FROM deletions WHERE agent_id = ?3 AND entry_id > ?5 ORDER BY entry_id LIMIT ?1"
));

/// ?5 to ?8 the place in the index after which to read; ?9 the id there. SQLite does not use the id with a comparison of rows, so
/// rows of the same place come first.
pub(in crate::queue::sqlite) const PENDING: &str = page!(concat!(
    "SELECT * FROM (SELECT ",
    columns!(),
    " FROM deletions INDEXED BY deletions_due WHERE state = 'pending' AND priority = ?5 AND agent_id = ?6 AND batch_max = ?7
        AND due_at = ?8 AND id > ?9 ORDER BY id LIMIT ?1)
    UNION ALL SELECT * FROM (SELECT ",
    columns!(),
    " FROM deletions INDEXED BY deletions_due
        WHERE state = 'pending' AND (priority, agent_id, batch_max, due_at) > (?5, ?6, ?7, ?8)
        ORDER BY priority, agent_id, batch_max, due_at, id LIMIT ?1)
    LIMIT ?1"
));

/// ?5 cause or NULL; ?6 the id after which to read
pub(in crate::queue::sqlite) const DEAD: &str = page!(concat!(
    "SELECT ",
    columns!(),
    " FROM deletions INDEXED BY deletions_dead WHERE state = 'dead' AND last_cause IS ?5 AND id > ?6 ORDER BY id LIMIT ?1"
));

/// ?1 the cause after which to look
const NEXT_CAUSE: &str =
    "SELECT min(last_cause) FROM deletions INDEXED BY deletions_dead WHERE state = 'dead' AND last_cause > ?1";

/// ?5 label; ?6, ?7 the agent and the entry after which to read. Of a wish whose row is gone, the row's columns are NULL. If the row was
/// reopened since the wish ended, they are about another wish, and all but the id are NULL.
pub(in crate::queue::sqlite) const OF_LABEL: &str = page!(
    "SELECT deletions.id, wished.agent_id, wished.entry_id, coalesce(wished.state, 'pending') AS state, same.last_cause,
        same.attempts, same.priority, same.batch_max, same.due_at, same.created_at, closed_at AS settled_at, wished.label, wished_at,
        closed_by, same.request_id, same.verified_at
    FROM (SELECT * FROM wishes WHERE label = ?5 AND (agent_id, entry_id) > (?6, ?7) ORDER BY agent_id, entry_id LIMIT ?1) AS wished
    LEFT JOIN deletions ON deletions.agent_id = wished.agent_id AND deletions.entry_id = wished.entry_id
    LEFT JOIN deletions AS same ON same.id = deletions.id
        AND same.state = coalesce(wished.state, 'pending') AND same.settled_at IS wished.closed_at
    ORDER BY wished.agent_id, wished.entry_id"
);

impl Reader {
    /// The next rows of a walk, which may be none; `None` at its end. A walk may go on with another reader.
    ///
    /// # Errors
    /// If SQLite fails. The same call then can be made again.
    pub async fn listed(&mut self, listing: &mut Listing) -> Result<Option<Vec<ListedRow>>, StoreError> {
        let Some(place) = listing.place().cloned() else { return Ok(None) };
        let page = match self.page(listing.choice(), &place).await {
            Ok(page) => page,
            Err(source) => return Err(self.blame("list the rows", source).await),
        };
        let next_cause = match place.cause_at_end(&page) {
            Some(cause) => self.next_cause(cause).await?,
            None => None,
        };
        Ok(Some(listing.go_on(page, next_cause)))
    }

    async fn page(&mut self, choice: &Choice, place: &Place) -> Result<Page, sqlx::Error> {
        let statement = match place {
            Place::ById { .. } => BY_ID,
            Place::OfAgent { .. } => OF_AGENT,
            Place::Pending { .. } => PENDING,
            Place::Dead { .. } => DEAD,
            Place::OfLabel { .. } => OF_LABEL,
            // There is none: an INSERT writes the rows themselves.
            Place::Inbox { .. } => return Ok(Page::default()),
        };
        let states = (!choice.states.is_empty()).then(|| json(&choice.states));
        let query = sqlx::query(AssertSqlSafe(statement)).bind(PAGE).bind(states);
        let query = query.bind(choice.agent.as_ref().map(AgentId::as_str)).bind(choice.cause.map(Cause::as_str));
        let query = match place {
            Place::ById { after } => query.bind(after),
            Place::OfAgent { after } => query.bind(after),
            Place::Pending { priority, agent, batch_max, due_at, id } => {
                query.bind(priority).bind(agent).bind(batch_max).bind(due_at).bind(id)
            }
            Place::Dead { cause, after, .. } => query.bind(cause).bind(after),
            Place::OfLabel { label, agent, entry } => query.bind(label).bind(agent).bind(entry),
            Place::Inbox { .. } => query,
        };
        let _budget = self.steps.allow(SOME_ROWS);
        let rows = query.fetch_all(&mut self.conn).await?;
        Ok(Page::of(&rows))
    }

    /// The cause of dead rows that comes after this one.
    async fn next_cause(&mut self, cause: &str) -> Result<Option<String>, StoreError> {
        let next = sqlx::query_scalar(NEXT_CAUSE).bind(cause).fetch_one(&mut self.conn).await;
        next.map_err(|source| StoreError { path: self.path.clone(), doing: "list the rows", source })
    }
}

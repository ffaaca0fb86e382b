//! Records one page after the other, in constant memory. Each walk reads the table or an index in order.

use sqlx::{AssertSqlSafe, SqliteConnection};

use super::{
    super::{
        rows::{holds, json},
        step_limit::SOME_ROWS,
    },
    Reader, StoreError,
};
use crate::{
    model::{deletion::AgentId, hold::HoldRow, label::Label},
    queue::report::{
        Enqueuers, FoundAct, FoundRequest, MOST_ACTS, PAGE, Record, RecordChoice, RecordPage, RecordPlace, Records,
        concerning, end_of_detail,
    },
};

/// A page: of the next rows, those that are chosen, and the last one, behind which the next page goes on. ?1 how many; ?2 states: [state,
/// …], or NULL for all; ?3 agent or NULL; ?4, ?5 since and until, or NULL; ?6 whether they are about the end; ?7 label or NULL.
macro_rules! page {
    ($rows:expr) => {
        concat!(
            "WITH stretch AS MATERIALIZED (",
            $rows,
            "), numbered AS (SELECT *, row_number() OVER () AS number, count(*) OVER () AS numbers,
                is_own AND (?2 IS NULL OR state IN (SELECT value FROM json_each(?2))) AND (?3 IS NULL OR agent_id = ?3)
                    AND (?7 IS NULL OR label = ?7) AND (?4 IS NULL OR iif(?6, ended_at, asked_at) >= ?4)
                    AND (?5 IS NULL OR iif(?6, ended_at, asked_at) < ?5) AS is_chosen
            FROM stretch)
            SELECT * FROM numbered WHERE is_chosen OR number = numbers ORDER BY number"
        )
    };
}

/// A row of `deletions`. It is a record of its own if it has no label, if it was wished for without one as well, or if no wish with its
/// label says the same.
macro_rules! rows {
    ($from:expr) => {
        page!(concat!(
            "SELECT id, agent_id, entry_id, NULL AS label, state, last_cause, coalesce(plain_at, created_at) AS asked_at,
                settled_at AS ended_at, priority, attempts, due_at, maybe_done, verified_at, request_id, NULL AS closed_by,
                label IS NULL OR plain_at IS NOT NULL OR NOT EXISTS (
                    SELECT 1 FROM wishes WHERE wishes.label = read.label AND wishes.agent_id = read.agent_id
                        AND wishes.entry_id = read.entry_id) AS is_own
            FROM (SELECT *, CASE WHEN label IS NOT NULL THEN (
                    SELECT wished_at FROM wishes WHERE wishes.label = '' AND wishes.agent_id = deletions.agent_id
                        AND wishes.entry_id = deletions.entry_id) END AS plain_at
                FROM ",
            $from,
            " LIMIT ?1) AS read"
        ))
    };
}

/// A wish, with its row if that still is as the wish says. A row that was reopened since, or that is gone, tells nothing about it. The
/// record of a wish without a label is that of the row.
macro_rules! wishes {
    ($where:expr, $of_wished:expr) => {
        page!(concat!(
            "SELECT id, wished.agent_id, wished.entry_id, wished.label, coalesce(wished.state, 'pending') AS state, last_cause,
                wished_at AS asked_at, closed_at AS ended_at, priority, attempts, due_at, maybe_done, verified_at, request_id,
                closed_by, wished.label <> '' AS is_own
            FROM (SELECT * FROM wishes WHERE ",
            $where,
            " LIMIT ?1) AS wished
            LEFT JOIN deletions ON deletions.agent_id = wished.agent_id AND deletions.entry_id = wished.entry_id
                AND deletions.state = coalesce(wished.state, 'pending') AND deletions.settled_at IS wished.closed_at
            ORDER BY ",
            $of_wished
        ))
    };
}

/// ?8 the id after which to read
pub(in crate::queue::sqlite) const ROWS: &str = rows!("deletions NOT INDEXED WHERE id > ?8 ORDER BY id");
/// ?8 the entry after which to read
pub(in crate::queue::sqlite) const ROWS_OF_AGENT: &str =
    rows!("deletions WHERE agent_id = ?3 AND entry_id > ?8 ORDER BY entry_id");
/// ?8, ?9, ?10 the label, the agent and the entry after which to read
pub(in crate::queue::sqlite) const WISHES: &str = wishes!(
    "(label, agent_id, entry_id) > (?8, ?9, ?10) ORDER BY label, agent_id, entry_id",
    "wished.label, wished.agent_id, wished.entry_id"
);
/// ?8, ?9 the agent and the entry after which to read
pub(in crate::queue::sqlite) const WISHES_OF_LABEL: &str = wishes!(
    "label = ?7 AND (agent_id, entry_id) > (?8, ?9) ORDER BY agent_id, entry_id",
    "wished.agent_id, wished.entry_id"
);
/// ?8, ?9 the entry and the label after which to read
pub(in crate::queue::sqlite) const WISHES_OF_AGENT: &str =
    wishes!("agent_id = ?3 AND (entry_id, label) > (?8, ?9) ORDER BY entry_id, label", "wished.entry_id, wished.label");

/// ?1 ids: [id, …]
const REQUESTS: &str = "
SELECT id, kind, size, claimed_at, answered_at, status, detail, correlation_id, remote_id, NULL, NULL, verdicts
FROM requests WHERE id IN (SELECT value FROM json_each(?1))";

/// ?1 the most acts; ?2 the end of their details, or NULL
const ENQUEUERS: &str = "
SELECT operator, scope, acted_at, updated_at, detail FROM acts
WHERE act = 'enqueue' AND detail LIKE '%, label: %' AND (?2 IS NULL OR substr(detail, -length(?2)) = ?2) ORDER BY id DESC LIMIT ?1";

impl Reader {
    /// The next records of a walk, which may be none; `None` at its end. A walk may go on with another reader.
    ///
    /// # Errors
    /// If SQLite fails. The same call then can be made again.
    pub async fn records(&mut self, records: &mut Records) -> Result<Option<Vec<Record>>, StoreError> {
        let Some(place) = records.place().cloned() else { return Ok(None) };
        let read = {
            let _budget = self.steps.allow(SOME_ROWS);
            let conn = &mut self.conn;
            let read = async {
                // One transaction, so that a row and its request are of the same moment.
                sqlx::raw_sql("BEGIN").execute(&mut *conn).await?;
                let read = page(conn, records.choice(), &place).await;
                sqlx::raw_sql("ROLLBACK").execute(&mut *conn).await?;
                read
            };
            read.await
        };
        match read {
            Ok((page, requests)) => Ok(Some(records.go_on(page, &requests))),
            Err(source) => Err(self.blame("read the records", source).await),
        }
    }

    /// All holds.
    ///
    /// # Errors
    /// If SQLite fails.
    pub async fn holds(&mut self) -> Result<Vec<HoldRow>, StoreError> {
        match holds(&mut self.conn).await {
            Ok(found) => Ok(concerning(found, None)),
            Err(source) => Err(self.blame("read the holds", source).await),
        }
    }

    /// Who enqueued wishes with this label, or with any, by commands that left an act.
    ///
    /// # Errors
    /// If SQLite fails.
    pub async fn enqueuers(&mut self, label: Option<&Label>) -> Result<Enqueuers, StoreError> {
        match sqlx::query(ENQUEUERS).bind(MOST_ACTS).bind(label.map(end_of_detail)).fetch_all(&mut self.conn).await {
            Ok(rows) => Ok(Enqueuers::new(rows.iter().map(FoundAct::of))),
            Err(source) => Err(self.blame("read the acts", source).await),
        }
    }
}

async fn page(
    conn: &mut SqliteConnection,
    choice: &RecordChoice,
    place: &RecordPlace,
) -> Result<(RecordPage, Vec<FoundRequest>), sqlx::Error> {
    let statement = match place {
        RecordPlace::Rows { .. } => ROWS,
        RecordPlace::RowsOfAgent { .. } => ROWS_OF_AGENT,
        RecordPlace::Wishes { .. } => WISHES,
        RecordPlace::WishesOfLabel { .. } => WISHES_OF_LABEL,
        RecordPlace::WishesOfAgent { .. } => WISHES_OF_AGENT,
        // There is none: an INSERT writes the rows themselves.
        RecordPlace::Inbox { .. } => return Ok((RecordPage::default(), Vec::new())),
    };
    let states = (!choice.states.is_empty()).then(|| json(&choice.states));
    let query = sqlx::query(AssertSqlSafe(statement)).bind(PAGE).bind(states);
    let query = query.bind(choice.agent.as_ref().map(AgentId::as_str));
    let query = query.bind(choice.since.map(|at| at.0)).bind(choice.until.map(|at| at.0)).bind(choice.by_end);
    let query = query.bind(choice.label.as_ref().map(Label::as_str));
    let query = match place {
        RecordPlace::Rows { after } => query.bind(after),
        RecordPlace::RowsOfAgent { after } => query.bind(after),
        RecordPlace::Wishes { label, agent, entry } => query.bind(label).bind(agent).bind(entry),
        RecordPlace::WishesOfLabel { agent, entry } => query.bind(agent).bind(entry),
        RecordPlace::WishesOfAgent { entry, label } => query.bind(entry).bind(label),
        RecordPlace::Inbox { .. } => query,
    };
    let rows = query.fetch_all(&mut *conn).await?;
    let page = RecordPage::of(&rows);
    let requests = sqlx::query(REQUESTS).bind(json(&page.requests())).fetch_all(conn).await?;
    Ok((page, requests.iter().map(FoundRequest::of).collect()))
}

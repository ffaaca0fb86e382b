//! Records one page after the other, in constant memory. Each walk reads an index in order.

use sqlx::{AssertSqlSafe, PgConnection};

use crate::{
    model::{deletion::AgentId, label::Label},
    queue::report::{
        Enqueuers, FoundAct, FoundRequest, MOST_ACTS, PAGE, RecordChoice, RecordPage, RecordPlace, end_of_detail,
    },
};

/// A page: of the next rows, those that are chosen, and the last one, behind which the next page goes on. $1 how many; $2 states, or NULL
/// for all; $3 agent or NULL; $4, $5 since and until, or NULL; $6 whether they are about the end; $7 label or NULL.
macro_rules! page {
    ($rows:expr) => {
        concat!(
            "WITH stretch AS MATERIALIZED (",
            $rows,
            "), numbered AS (SELECT *, row_number() OVER () AS number, count(*) OVER () AS numbers,
                is_own AND ($2::text[] IS NULL OR state = ANY ($2)) AND ($3::text IS NULL OR agent_id = $3)
                    AND ($7::text IS NULL OR label = $7)
                    AND ($4::bigint IS NULL OR CASE WHEN $6::boolean THEN ended_at ELSE asked_at END >= $4)
                    AND ($5::bigint IS NULL OR CASE WHEN $6::boolean THEN ended_at ELSE asked_at END < $5) AS is_chosen
            FROM stretch)
            SELECT * FROM numbered WHERE is_chosen OR number = numbers ORDER BY number"
        )
    };
}

/// A row of `deletions`. It is a record of its own if it has no label, if it was wished for without one as well, or if no wish with its
/// label says the same. With EXISTS, the server could read all wishes for each page.
macro_rules! rows {
    ($where:expr) => {
        page!(concat!(
            "SELECT id, agent_id, entry_id, NULL::text AS label, state, last_cause, coalesce(plain_at, created_at) AS asked_at,
                settled_at AS ended_at, priority, attempts::bigint, due_at, maybe_done, verified_at, request_id,
                NULL::text AS closed_by,
                label IS NULL OR plain_at IS NOT NULL OR (
                    SELECT 1 FROM wishes WHERE wishes.label = read.label AND wishes.agent_id = read.agent_id
                        AND wishes.entry_id = read.entry_id LIMIT 1) IS NULL AS is_own,
                '' AS place
            FROM (SELECT *, CASE WHEN label IS NOT NULL THEN (
                    SELECT wished_at FROM wishes WHERE wishes.label = '' AND wishes.agent_id = known.agent_id
                        AND wishes.entry_id = known.entry_id LIMIT 1) END AS plain_at
                FROM deletions_known AS known WHERE ",
            $where,
            " LIMIT $1) AS read"
        ))
    };
}

/// A wish, with its row if that still is as the wish says. A row that was reopened since, or that is gone, tells nothing about it. The
/// record of a wish without a label is that of the row.
macro_rules! wishes {
    ($where:expr, $order:expr) => {
        page!(concat!(
            "SELECT known.id, wished.agent_id, wished.entry_id, wished.label, coalesce(wished.state, 'pending') AS state, last_cause,
                wished_at AS asked_at, closed_at AS ended_at, priority, attempts::bigint, due_at, maybe_done, verified_at,
                request_id, closed_by, wished.label <> '' AS is_own, '' AS place
            FROM (SELECT * FROM wishes WHERE ",
            $where,
            " LIMIT $1) AS wished
            LEFT JOIN LATERAL (
                SELECT * FROM deletions_known AS row WHERE row.agent_id = wished.agent_id AND row.entry_id = wished.entry_id
                    AND row.state = coalesce(wished.state, 'pending') AND row.settled_at IS NOT DISTINCT FROM wished.closed_at
                LIMIT 1
            ) AS known ON true
            ORDER BY ",
            $order
        ))
    };
}

/// $8 the id after which to read
const ROWS: &str = rows!("id > $8 ORDER BY id");
/// $8 the entry after which to read
const ROWS_OF_AGENT: &str = rows!("agent_id = $3 AND entry_id > $8 ORDER BY agent_id, entry_id");
/// $8, $9, $10 the label, the agent and the entry after which to read
const WISHES: &str = wishes!(
    "(label, agent_id, entry_id) > ($8, $9, $10) ORDER BY label, agent_id, entry_id",
    "wished.label, wished.agent_id, wished.entry_id"
);
/// $8, $9 the agent and the entry after which to read
const WISHES_OF_LABEL: &str = wishes!(
    "label = $7 AND (agent_id, entry_id) > ($8, $9) ORDER BY label, agent_id, entry_id",
    "wished.agent_id, wished.entry_id"
);
/// $8, $9 the entry and the label after which to read
const WISHES_OF_AGENT: &str = wishes!(
    "agent_id = $3 AND entry_id >= $8 AND (entry_id, label) > ($8, $9) ORDER BY agent_id, entry_id, label",
    "wished.entry_id, wished.label"
);
/// $8 the place after which to read
const INBOX: &str = page!(
    "SELECT id, agent_id, entry_id, label, state, NULL::text AS last_cause, created_at AS asked_at, NULL::bigint AS ended_at,
        priority, attempts::bigint, due_at, maybe_done, NULL::bigint AS verified_at, NULL::bigint AS request_id,
        NULL::text AS closed_by, true AS is_own, ctid::text AS place
    FROM deletions_new WHERE ctid > $8::text::tid LIMIT $1"
);
/// The place before the first one.
const START: &str = "(0,0)";

/// $1 ids
const REQUESTS: &str = "
SELECT id, kind, size::bigint, claimed_at, answered_at, status::bigint, detail, correlation_id::text, remote_id, NULL::text, NULL::text,
    verdicts::text
FROM requests WHERE id = ANY ($1)";

/// $1 the most acts; $2 the end of their details, or NULL
const ENQUEUERS: &str = "
SELECT operator, scope, acted_at, updated_at, detail FROM acts
WHERE act = 'enqueue' AND detail LIKE '%, label: %' AND ($2::text IS NULL OR right(detail, length($2)) = $2)
ORDER BY id DESC LIMIT $1";

/// The next page.
pub(super) async fn page(
    conn: &mut PgConnection,
    choice: &RecordChoice,
    place: &RecordPlace,
) -> Result<RecordPage, sqlx::Error> {
    let statement = match place {
        RecordPlace::Rows { .. } => ROWS,
        RecordPlace::RowsOfAgent { .. } => ROWS_OF_AGENT,
        RecordPlace::Wishes { .. } => WISHES,
        RecordPlace::WishesOfLabel { .. } => WISHES_OF_LABEL,
        RecordPlace::WishesOfAgent { .. } => WISHES_OF_AGENT,
        RecordPlace::Inbox { .. } => INBOX,
    };
    let states = (!choice.states.is_empty()).then_some(&choice.states);
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
        RecordPlace::Inbox { after } => query.bind(after.as_deref().unwrap_or(START)),
    };
    let rows = query.fetch_all(conn).await?;
    Ok(RecordPage::of(&rows))
}

/// These requests, as far as they are kept.
pub(super) async fn requests(conn: &mut PgConnection, ids: &[i64]) -> Result<Vec<FoundRequest>, sqlx::Error> {
    let rows = sqlx::query(REQUESTS).bind(ids).fetch_all(conn).await?;
    Ok(rows.iter().map(FoundRequest::of).collect())
}

/// Who enqueued wishes with this label, or with any.
pub(super) async fn enqueuers(conn: &mut PgConnection, label: Option<&Label>) -> Result<Enqueuers, sqlx::Error> {
    let rows = sqlx::query(ENQUEUERS).bind(MOST_ACTS).bind(label.map(end_of_detail)).fetch_all(conn).await?;
    Ok(Enqueuers::new(rows.iter().map(FoundAct::of)))
}

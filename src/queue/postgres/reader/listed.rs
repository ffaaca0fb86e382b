//! Rows one page after the other, in constant memory. Each walk reads an index in order, so that no page reads what another one has read.

use sqlx::{AssertSqlSafe, PgConnection};

use crate::{
    model::{deletion::AgentId, outcome::Cause},
    queue::report::{Choice, PAGE, Page, Place},
};

/// The columns of a row of `deletions`.
macro_rules! columns {
    () => {
        "id, agent_id, entry_id, state, last_cause, attempts::bigint, priority, batch_max::bigint, due_at, created_at, settled_at,
        label, NULL::bigint AS wished_at, NULL::text AS closed_by, '' AS place, request_id, verified_at"
    };
}

/// A page: of the next rows, those that are chosen, and the last one, behind which the next page goes on. $1 how many; $2 states, or NULL
/// for all; $3 agent or NULL; $4 cause or NULL.
macro_rules! page {
    ($rows:expr) => {
        concat!(
            "WITH stretch AS MATERIALIZED (",
            $rows,
            "), numbered AS (SELECT *, row_number() OVER () AS number, count(*) OVER () AS numbers,
                ($2::text[] IS NULL OR state = ANY ($2)) AND ($3::text IS NULL OR agent_id = $3)
                    AND ($4::text IS NULL OR last_cause IS NOT DISTINCT FROM $4) AS is_chosen
            FROM stretch)
            SELECT * FROM numbered WHERE is_chosen OR number = numbers ORDER BY number"
        )
    };
}

/// $5 the id after which to read
const BY_ID: &str = page!(concat!("SELECT ", columns!(), " FROM deletions_known WHERE id > $5 ORDER BY id LIMIT $1"));

/// $5 the entry after which to read
const OF_AGENT: &str = page!(concat!(
    "SELECT ",
    columns!(),
    " FROM deletions_known WHERE agent_id = $3 AND entry_id > $5 ORDER BY agent_id, entry_id LIMIT $1"
));

/// $5 to $9 the place in the index after which to read
const PENDING: &str = page!(concat!(
    "SELECT ",
    columns!(),
    " FROM deletions_known WHERE state = 'pending' AND (priority, agent_id, batch_max, due_at, id) > ($5, $6, $7, $8, $9)
    ORDER BY priority, agent_id, batch_max, due_at, id LIMIT $1"
));

/// $5 cause; $6 the id after which to read
const DEAD: &str = page!(concat!(
    "SELECT ",
    columns!(),
    " FROM deletions_known WHERE state = 'dead' AND last_cause = $5 AND id > $6 ORDER BY last_cause, id LIMIT $1"
));
/// $5 NULL; $6 the id after which to read
const DEAD_WITHOUT_CAUSE: &str = page!(concat!(
    "SELECT ",
    columns!(),
    " FROM deletions_known WHERE state = 'dead' AND last_cause IS NULL AND $5::text IS NULL AND id > $6
    ORDER BY last_cause, id LIMIT $1"
));

/// $1 the cause after which to look
const NEXT_CAUSE: &str = "
SELECT last_cause FROM deletions_known WHERE state = 'dead' AND last_cause > $1 ORDER BY last_cause, id LIMIT 1";

/// $5 label; $6, $7 the agent and the entry after which to read. Of a wish whose row is gone, the row's columns are NULL. If the row was
/// reopened since the wish ended, they are about another wish, and all but the id are NULL.
const OF_LABEL: &str = page!(
    "SELECT known.id, wished.agent_id, wished.entry_id, coalesce(wished.state, 'pending') AS state, same.last_cause,
        same.attempts::bigint, same.priority, same.batch_max::bigint, same.due_at, same.created_at, closed_at AS settled_at,
        wished.label, wished_at, closed_by, '' AS place, same.request_id, same.verified_at
    FROM (SELECT * FROM wishes WHERE label = $5 AND (agent_id, entry_id) > ($6, $7)
        ORDER BY label, agent_id, entry_id LIMIT $1) AS wished
    LEFT JOIN LATERAL (
        SELECT * FROM deletions_known WHERE agent_id = wished.agent_id AND entry_id = wished.entry_id LIMIT 1
    ) AS known ON true
    LEFT JOIN LATERAL (
        SELECT known.* WHERE known.state = coalesce(wished.state, 'pending') AND known.settled_at IS NOT DISTINCT FROM wished.closed_at
    ) AS same ON true
    ORDER BY wished.agent_id, wished.entry_id"
);

/// $5 label or NULL; $6 the place after which to read. A wish for a pending row of the label is in the walk through its wishes, too.
const INBOX: &str = page!(
    "SELECT id, agent_id, entry_id, state, NULL::text AS last_cause, attempts::bigint, priority, batch_max::bigint, due_at,
        created_at, settled_at, label, CASE WHEN $5::text IS NOT NULL THEN created_at END AS wished_at, NULL::text AS closed_by,
        ctid::text AS place, request_id, verified_at
    FROM deletions_new WHERE ctid > $6::text::tid AND ($5::text IS NULL OR label = $5) LIMIT $1"
);
/// The place before the first one.
const START: &str = "(0,0)";

/// The next page.
pub(super) async fn page(conn: &mut PgConnection, choice: &Choice, place: &Place) -> Result<Page, sqlx::Error> {
    let statement = match place {
        Place::ById { .. } => BY_ID,
        Place::OfAgent { .. } => OF_AGENT,
        Place::Pending { .. } => PENDING,
        Place::Dead { cause: Some(_), .. } => DEAD,
        Place::Dead { cause: None, .. } => DEAD_WITHOUT_CAUSE,
        Place::OfLabel { .. } => OF_LABEL,
        Place::Inbox { .. } => INBOX,
    };
    let states = (!choice.states.is_empty()).then_some(&choice.states);
    let query = sqlx::query(AssertSqlSafe(statement)).bind(PAGE).bind(states);
    let query = query.bind(choice.agent.as_ref().map(AgentId::as_str)).bind(choice.cause.map(Cause::as_str));
    let query = match place {
        Place::ById { after } => query.bind(after),
        Place::OfAgent { after } => query.bind(after),
        Place::Pending { priority, agent, batch_max, due_at, id } => {
            let batch_max = i16::try_from(*batch_max).unwrap_or(i16::MAX);
            query.bind(priority).bind(agent).bind(batch_max).bind(due_at).bind(id)
        }
        Place::Dead { cause, after, .. } => query.bind(cause).bind(after),
        Place::OfLabel { label, agent, entry } => query.bind(label).bind(agent).bind(entry),
        Place::Inbox { after } => {
            query.bind(choice.label.as_ref().map(|label| label.as_str())).bind(after.as_deref().unwrap_or(START))
        }
    };
    let rows = query.fetch_all(conn).await?;
    Ok(Page::of(&rows))
}

/// The cause of dead rows that comes after this one.
pub(super) async fn next_cause(conn: &mut PgConnection, cause: &str) -> Result<Option<String>, sqlx::Error> {
    sqlx::query_scalar(NEXT_CAUSE).bind(cause).fetch_optional(conn).await
}

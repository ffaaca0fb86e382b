//! The last acts of operators.

use sqlx::SqliteConnection;

use super::super::acts::act_row;
use crate::model::act::Act;

/// The number of acts that are read.
const SHOWN: u32 = 3;

/// ?1 agent or NULL; ?2 the most acts. An act on several agents may concern any.
const LAST: &str = "
SELECT id, acted_at, act, operator, scope, rows, detail, ended FROM acts
WHERE ?1 IS NULL OR scope IS NULL OR scope IN ('*', ?1) ORDER BY id DESC LIMIT ?2";

/// The last acts that concern an agent; without an agent, the last of all. The newest comes first.
pub(super) async fn last(conn: &mut SqliteConnection, agent: Option<&str>) -> Result<Vec<Act>, sqlx::Error> {
    let rows = sqlx::query(LAST).bind(agent).bind(SHOWN).fetch_all(conn).await?;
    Ok(rows.iter().map(act_row).collect())
}

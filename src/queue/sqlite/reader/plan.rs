//! What would go out: the open rows by agent and priority, and the requests that they take.

use sqlx::{SqliteConnection, sqlite::SqliteRow};

use super::{
    super::{
        invalid_rows::invalid,
        lock_holder::holder,
        rows::{holds, json},
        step_limit::whole_file,
    },
    Reader, count, introduction, text, value,
};
use crate::{
    model::{clock::Timestamp, deletion::AgentId},
    queue::{
        report::{Daemon, LaneLoad, Load, Outlook, Remaining, agents, concerning},
        sqlite::StoreError,
    },
};

/// ?1 now; ?2 agent or NULL; ?3 ids that are left out: [id, …]. A row for each lane, grouped in the order of the index, so that nothing is sorted.
pub(in crate::queue::sqlite) const LANES_TO_SEND: &str = "
SELECT agent_id, priority, batch_max, sum(due_at <= ?1), sum(due_at > ?1), min(iif(due_at > ?1, due_at, NULL)),
    max(iif(due_at > ?1, due_at, NULL)), min(id)
FROM deletions INDEXED BY deletions_due
WHERE state = 'pending' AND (?2 IS NULL OR agent_id = ?2) AND id NOT IN (SELECT value FROM json_each(?3))
GROUP BY priority, agent_id, batch_max";

/// ?1 agent or NULL
const IN_FLIGHT: &str = "
SELECT count(*), sum(size) FROM requests INDEXED BY requests_unanswered
WHERE answered_at IS NULL AND (?1 IS NULL OR agent_id = ?1)";

/// ?1 ids: [id, …]; ?2 agent
const OF_AGENT: &str = "SELECT count(*) FROM deletions WHERE id IN (SELECT value FROM json_each(?1)) AND agent_id = ?2";

impl Reader {
    /// What is left to do. Counts along the index of open rows.
    ///
    /// # Errors
    /// If SQLite fails.
    pub async fn remaining(&mut self, now: Timestamp) -> Result<Remaining, StoreError> {
        let read = async {
            let _budget = self.steps.allow(whole_file(&self.path));
            let lanes = sqlx::query(LANES_TO_SEND).bind(now.0).bind(None::<&str>).bind("[]");
            let lanes = lanes.fetch_all(&mut self.conn).await?;
            Ok(Remaining::of(&agents(lanes.iter().map(lane_load), 1), &holds(&mut self.conn).await?, now))
        };
        read.await.map_err(|source| StoreError { path: self.path.clone(), doing: "count what is left", source })
    }

    /// What would go out, or the part of one agent, at one moment. A request carries at most `batch_size` rows, or as
    /// many as in the daemon that works on the queue. Reads the whole table.
    ///
    /// # Errors
    /// If SQLite fails.
    pub async fn outlook(
        &mut self,
        agent: Option<&AgentId>,
        batch_size: u8,
        now: Timestamp,
    ) -> Result<Outlook, StoreError> {
        let held = holder(&self.path);
        let budget = self.steps.allow(whole_file(&self.path));
        let read = async {
            // One transaction, so that all counts are of the same moment.
            sqlx::raw_sql("BEGIN").execute(&mut self.conn).await?;
            let pid = held.as_ref().ok().copied().flatten().flatten();
            let outlook = outlook(&mut self.conn, agent, batch_size, pid, now).await;
            sqlx::raw_sql("ROLLBACK").execute(&mut self.conn).await?;
            outlook
        };
        let outlook = read.await;
        drop(budget);
        let mut outlook = match outlook {
            Ok(outlook) => outlook,
            Err(source) => return Err(self.blame("read what would go out", source).await),
        };
        outlook.daemon.running = held.as_ref().ok().map(Option::is_some);
        outlook.daemon.pid = held.ok().flatten().flatten();
        Ok(outlook)
    }
}

async fn outlook(
    conn: &mut SqliteConnection,
    agent: Option<&AgentId>,
    batch_size: u8,
    pid: Option<u32>,
    now: Timestamp,
) -> Result<Outlook, sqlx::Error> {
    let name = agent.map(AgentId::as_str);
    let refused = refused(conn).await?;
    let lanes = sqlx::query(LANES_TO_SEND).bind(now.0).bind(name).bind(json(&refused)).fetch_all(&mut *conn).await?;
    let in_flight = sqlx::query(IN_FLIGHT).bind(name).fetch_one(&mut *conn).await?;
    let introduction = introduction(conn, pid).await?;
    // Whoever asks may have another configuration than the daemon.
    let in_effect = introduction.as_ref().and_then(|said| said.in_effect);
    let batch_size = in_effect.map_or(batch_size, |settings| settings.batch_size);
    Ok(Outlook {
        agents: agents(lanes.iter().map(lane_load), batch_size),
        refused: count_of(conn, &refused, name).await?,
        in_flight: Load { requests: count(&in_flight, 0), rows: count(&in_flight, 1) },
        holds: concerning(holds(conn).await?, agent),
        inbox: None,
        daemon: Daemon { introduction, ..Daemon::default() },
    })
}

/// A row of [`LANES_TO_SEND`].
fn lane_load(row: &SqliteRow) -> LaneLoad {
    LaneLoad {
        agent: text(row, 0).unwrap_or_default(),
        priority: value(row, 1).unwrap_or(0),
        batch_max: value(row, 2),
        due: count(row, 3),
        later: count(row, 4),
        next_due_at: value(row, 5).map(Timestamp),
        last_due_at: value(row, 6).map(Timestamp),
        first_id: value(row, 7),
    }
}

/// The open rows that the daemon would make dead, because they cannot be read.
async fn refused(conn: &mut SqliteConnection) -> Result<Vec<i64>, sqlx::Error> {
    let (mut refused, mut from) = (Vec::new(), Some(i64::MIN));
    while let Some(first) = from {
        let (found, next) = invalid(conn, first).await?;
        refused.extend(found.ids);
        from = next;
    }
    Ok(refused)
}

/// The number of these rows, or of those of one agent.
async fn count_of(conn: &mut SqliteConnection, ids: &[i64], agent: Option<&str>) -> Result<u64, sqlx::Error> {
    match agent {
        Some(agent) if !ids.is_empty() => {
            let of_agent = sqlx::query(OF_AGENT).bind(json(&ids)).bind(agent).fetch_one(conn).await?;
            Ok(count(&of_agent, 0))
        }
        Some(_) | None => Ok(ids.len() as u64),
    }
}

//! What can be seen of a queue without creating or changing any file.

use std::path::PathBuf;

use sqlx::{AssertSqlSafe, Connection as _, SqliteConnection};

use super::{
    errors::{OpenError, StoreError},
    lock_holder::holder,
    open::Options,
    reader::{introduction, text},
    rows::holds,
    schema::connect_untouching,
    schema_watch::schema_changes,
};
use crate::{
    model::{deletion::AgentId, hold::HoldRow},
    queue::{SchemaChange, report::Daemon},
};

/// The agent of the pending row that is likely to go first, or else of the newest request.
const AN_AGENT: [&str; 2] = [
    "SELECT agent_id FROM deletions INDEXED BY deletions_due WHERE state = 'pending'
     ORDER BY priority DESC, agent_id DESC LIMIT 1",
    "SELECT agent_id FROM requests ORDER BY id DESC LIMIT 1",
];

/// What was seen of a queue.
#[derive(Debug)]
pub struct Inspection {
    /// The daemon that works on it.
    pub daemon: Daemon,
    /// The tables, or why they cannot be used.
    pub tables: Result<Tables, OpenError>,
}

/// What was read in up-to-date tables.
#[derive(Debug)]
pub struct Tables {
    /// What other programs have changed of them.
    pub changes: Vec<SchemaChange>,
    /// The holds.
    pub holds: Vec<HoldRow>,
    /// An agent that the queue has pending rows of, or had a request for.
    pub agent: Option<AgentId>,
}

/// Looks at the queue.
pub async fn inspect(options: &Options) -> Inspection {
    let held = holder(&options.path);
    let pid = held.as_ref().ok().copied().flatten().flatten();
    let mut daemon = Daemon { running: held.as_ref().ok().map(Option::is_some), pid, ..Daemon::default() };
    let tables = async {
        let mut conn = connect_untouching(options).await?;
        let read = async {
            daemon.introduction = introduction(&mut conn, pid).await?;
            tables(&mut conn).await
        };
        let read = read.await;
        // A connection that is only dropped closes some time later.
        let _ = conn.close().await;
        read.map_err(|source| StoreError { path: PathBuf::clone(&options.path), doing: "read", source }.into())
    };
    let tables = tables.await;
    Inspection { daemon, tables }
}

async fn tables(conn: &mut SqliteConnection) -> Result<Tables, sqlx::Error> {
    let changes = schema_changes(conn).await?;
    let holds = holds(conn).await?;
    let mut agent = None;
    for query in AN_AGENT {
        if agent.is_none() {
            let found = sqlx::query(AssertSqlSafe(query)).fetch_optional(&mut *conn).await?;
            agent = found.and_then(|row| AgentId::parse(&text(&row, 0)?).ok());
        }
    }
    Ok(Tables { changes, holds, agent })
}

//! What can be seen of a server and of the queue on it without changing anything, for `sweeper check`.

use sqlx::{Connection as _, PgConnection};

use super::{
    Address,
    command::connect_known,
    errors::{OpenError, StoreError},
    listing,
    open::Options,
    reader,
    schema_watch::schema_changes,
    session::is_pooled,
};
use crate::{
    model::{deletion::AgentId, hold::HoldRow},
    queue::{SchemaChange, report::Daemon},
};

const DOING: &str = "read";

/// The server's version, the encryption of this connection, and the role.
const SERVER: &str = "
SELECT current_setting('server_version'), (SELECT version FROM pg_stat_ssl WHERE pid = pg_backend_pid() AND ssl), current_user::text";

/// Whether this role may make the tables.
const MAY_CREATE: &str = "
SELECT CASE WHEN to_regnamespace('sweeper') IS NULL THEN has_database_privilege(current_database(), 'CREATE')
    ELSE has_schema_privilege('sweeper', 'CREATE') END";

/// What this role may do with the tables: whether it owns them, may read all of them, may enqueue, and may lift holds.
const RIGHTS: &str = "
SELECT (SELECT pg_has_role(relowner, 'USAGE') FROM pg_class WHERE oid = 'sweeper.deletions'::regclass),
    has_table_privilege('sweeper.leadership', 'SELECT') AND has_table_privilege('sweeper.deletions_known', 'SELECT')
        AND has_table_privilege('sweeper.requests', 'SELECT'),
    has_any_column_privilege('sweeper.deletions', 'INSERT'), has_table_privilege('sweeper.holds', 'DELETE'),
    pg_has_role('pg_read_all_stats', 'USAGE')";

/// The agent of the pending row that is likely to go first, or else of the newest request.
const AN_AGENT: &str = "
SELECT coalesce(
    (SELECT agent_id FROM deletions_known WHERE state = 'pending' ORDER BY priority DESC, agent_id DESC LIMIT 1),
    (SELECT agent_id FROM requests ORDER BY id DESC LIMIT 1))";

/// What was seen.
#[derive(Debug)]
pub struct Checkup {
    /// The server, or why it cannot be reached.
    pub server: Result<Server, StoreError>,
    /// The tables, or why they cannot be used.
    pub tables: Result<Tables, OpenError>,
    /// The files with trusted issuers: the setting and the path, and the number of certificates or why the file cannot be used.
    pub issuers: Vec<(String, Result<usize, String>)>,
}

/// A server that was reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    /// Its version: `15.18 (Debian 15.18-1)`.
    pub version: String,
    /// The version of TLS; `None`: the connection is not encrypted.
    pub tls: Option<String>,
    /// The role as which we are connected.
    pub role: String,
    /// The role may make the tables.
    pub may_create: bool,
    /// A pooler in between gives each transaction another session.
    pub is_pooled: bool,
}

/// What was read in up-to-date tables.
#[derive(Debug)]
pub struct Tables {
    /// What others have changed of them.
    pub changes: Vec<SchemaChange>,
    /// What the role may do; `None`: so much was changed that it cannot be read.
    pub rights: Option<Rights>,
    /// What a role that may read them has read.
    pub seen: Option<Seen>,
}

/// What a role may do with the tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "rights are independent of each other")]
pub struct Rights {
    /// It owns them, as the role of a daemon must.
    pub owns: bool,
    /// It may read all of them.
    pub reads: bool,
    /// It may enqueue.
    pub enqueues: bool,
    /// It may lift holds.
    pub releases: bool,
    /// The server tells it about the sessions of other roles.
    pub sees_sessions: bool,
}

/// What the tables say.
#[derive(Debug)]
pub struct Seen {
    /// Who works on the queue.
    pub daemon: Daemon,
    /// The holds.
    pub holds: Vec<HoldRow>,
    /// An agent that the queue has pending rows of, or had a request for.
    pub agent: Option<AgentId>,
}

impl Checkup {
    /// Looks at the server and at the queue.
    pub async fn of(options: &Options) -> Self {
        let server = server(&options.address).await;
        let server = server.map_err(|source| StoreError::new(&options.address, "connect", source));
        Self { server, tables: tables(options).await, issuers: options.address.all_issuers() }
    }
}

async fn server(address: &Address) -> Result<Server, sqlx::Error> {
    let mut conn = address.connect().await?;
    let (version, tls, role) = sqlx::query_as(SERVER).fetch_one(&mut conn).await?;
    let may_create = sqlx::query_scalar(MAY_CREATE).fetch_one(&mut conn).await?;
    let is_pooled = is_pooled(&mut conn, address).await?;
    conn.close().await?;
    Ok(Server { version, tls, role, may_create, is_pooled })
}

async fn tables(options: &Options) -> Result<Tables, OpenError> {
    let mut conn = connect_known(options).await?;
    let read = read(&mut conn).await;
    // Whatever becomes of it: what was read is read.
    let _ = conn.close().await;
    read.map_err(|source| StoreError::new(&options.address, DOING, source).into())
}

async fn read(conn: &mut PgConnection) -> Result<Tables, sqlx::Error> {
    let changes = schema_changes(conn, false).await?;
    match read_rows(conn).await {
        Ok((rights, seen)) => Ok(Tables { changes, rights: Some(rights), seen }),
        Err(_) if !changes.is_empty() => Ok(Tables { changes, rights: None, seen: None }),
        Err(error) => Err(error),
    }
}

async fn read_rows(conn: &mut PgConnection) -> Result<(Rights, Option<Seen>), sqlx::Error> {
    let (owns, reads, enqueues, releases, sees_sessions) = sqlx::query_as(RIGHTS).fetch_one(&mut *conn).await?;
    let rights = Rights { owns, reads, enqueues, releases, sees_sessions };
    if !rights.reads {
        return Ok((rights, None));
    }
    let daemon = reader::daemon(conn).await?;
    let holds = listing::holds(conn).await?;
    let agent: Option<String> = sqlx::query_scalar(AN_AGENT).fetch_one(conn).await?;
    let agent = agent.and_then(|agent| AgentId::parse(&agent).ok());
    Ok((rights, Some(Seen { daemon, holds, agent })))
}

//! Where the queue is: one server, or several of which one takes writes.

use std::{path::PathBuf, time::Duration};

use sqlx::{ConnectOptions as _, PgConnection, postgres::PgConnectOptions};
use tokio::time::timeout;

use super::deadline::until;
use crate::cluster::OWNER;

/// A server that is starting answers late.
const PATIENCE: Duration = Duration::from_secs(5);

/// A database on one of these servers.
#[derive(Clone, Debug)]
pub struct Place {
    /// The directories with the servers' sockets.
    pub servers: Vec<PathBuf>,
    pub database: String,
}

impl Place {
    /// The URL of the database, by a socket in this directory.
    pub fn url(&self, socket: &std::path::Path) -> String {
        format!("postgres://{OWNER}@localhost/{}?host={}", self.database, socket.display())
    }

    /// Connects to the server that takes writes, if there is one now.
    pub async fn try_connect(&self) -> Option<PgConnection> {
        for server in &self.servers {
            let options = PgConnectOptions::new_without_pgpass().socket(server).username(OWNER);
            let options = options.database(&self.database).disable_statement_logging();
            let connecting = async {
                let mut conn = options.connect().await?;
                let is_standby: bool = sqlx::query_scalar("SELECT pg_is_in_recovery()").fetch_one(&mut conn).await?;
                sqlx::raw_sql("SET search_path = sweeper").execute(&mut conn).await?;
                Ok::<_, sqlx::Error>((conn, is_standby))
            };
            if let Ok(Ok((conn, false))) = timeout(PATIENCE, connecting).await {
                return Some(conn);
            }
        }
        None
    }

    pub async fn connect(&self) -> PgConnection {
        until(Duration::from_secs(60), || "a server that takes writes".to_owned(), async || self.try_connect().await)
            .await
    }
}

//! The other side of the queue, for those parts of this program that enqueue.

use std::path::PathBuf;

use sqlx::{Connection, SqliteConnection};

use super::file::{Options, StoreError, connect};

/// A producer's connection, for those parts of this program that enqueue.
#[derive(Debug)]
pub struct Producer {
    conn: SqliteConnection,
    path: PathBuf,
}

impl Producer {
    /// The statement that it inserts with; anybody can.
    pub const INSERT: &str = "INSERT INTO deletions (agent_id, entry_id, priority) VALUES (?, ?, ?)";

    /// Opens the file as any client would.
    ///
    /// # Errors
    /// If SQLite fails.
    pub async fn open(options: &Options) -> Result<Self, StoreError> {
        Ok(Self { conn: connect(options, false).await?, path: options.path.clone() })
    }

    /// Inserts (agent, entry, priority) rows in one transaction.
    ///
    /// # Errors
    /// If SQLite fails or refuses a row; then none is inserted.
    pub async fn insert<'r>(
        &mut self,
        rows: impl IntoIterator<Item = (&'r str, &'r str, i64)>,
    ) -> Result<(), StoreError> {
        let path = self.path.clone();
        let error = |source| StoreError { path: path.clone(), doing: "insert", source };
        let mut tx = self.conn.begin_with("BEGIN IMMEDIATE").await.map_err(error)?;
        for (agent, entry, priority) in rows {
            sqlx::query(Self::INSERT).bind(agent).bind(entry).bind(priority).execute(&mut *tx).await.map_err(error)?;
        }
        tx.commit().await.map_err(error)
    }

    /// How many rows of each agent are in each state, and why the dead ones are dead. Reads the whole table.
    ///
    /// # Errors
    /// If SQLite fails.
    pub async fn totals(&mut self) -> Result<Vec<(String, String, Option<String>, i64)>, StoreError> {
        sqlx::query_as(
            "SELECT agent_id, state, CASE state WHEN 'dead' THEN last_cause END AS cause, count(*) FROM deletions
             GROUP BY 1, 2, 3 ORDER BY 1, 2 DESC, 3",
        )
        .fetch_all(&mut self.conn)
        .await
        .map_err(|source| StoreError { path: self.path.clone(), doing: "count", source })
    }
}

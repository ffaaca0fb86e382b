//! The clean close of a connection that writes: every commit is then in the database file, which can be copied alone.

use std::{path::Path, time::Duration};

use sqlx::SqliteConnection;
use tokio::time::sleep;

use super::{connection::Connection, lock_holder::holder};

/// How often a checkpoint is tried while a reader keeps it from finishing, and the pause after each try. A count that had begun
/// is over by then, unless the table is very long.
const TRIES: u32 = 20;
const PAUSE: Duration = Duration::from_millis(25);

/// Closes a command's connection. If a daemon works on the file, the checkpoint is left to it.
///
/// # Errors
/// If SQLite fails; nothing is lost by that.
pub(super) async fn close_beside_daemon(conn: Connection, database: &Path) -> Result<(), sqlx::Error> {
    if matches!(holder(database), Ok(Some(_))) { conn.close().await } else { checkpoint_and_close(conn).await }
}

/// Copies the WAL into the database file, and closes the connection.
///
/// SQLite does this itself, and removes the WAL, when the last connection is closed. But while another process has the file
/// open (a shell that waits for its user, say), no connection of ours is the last.
///
/// # Errors
/// If SQLite fails; nothing is lost by that.
pub(super) async fn checkpoint_and_close(mut conn: Connection) -> Result<(), sqlx::Error> {
    // If other processes use another WAL by now, copying ours would overwrite their commits.
    if conn.files.replaced().is_some() {
        return conn.close().await;
    }
    let copied = checkpoint(&mut conn).await;
    // A connection that is only dropped closes on sqlx's thread, perhaps not before the process ends.
    conn.close().await?;
    copied
}

async fn checkpoint(conn: &mut SqliteConnection) -> Result<(), sqlx::Error> {
    // SQLite's own waiting for a reader would hold the write lock meanwhile.
    sqlx::raw_sql("PRAGMA busy_timeout = 0").execute(&mut *conn).await?;
    for _ in 0..TRIES {
        let (is_busy,): (bool,) = sqlx::query_as("PRAGMA wal_checkpoint(TRUNCATE)").fetch_one(&mut *conn).await?;
        if !is_busy {
            break;
        }
        sleep(PAUSE).await;
    }
    Ok(())
}

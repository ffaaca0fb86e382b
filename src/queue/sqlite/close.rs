//! The clean end of a connection that writes: all that was committed is in the file, which can then be taken away alone.

use std::{path::Path, time::Duration};

use sqlx::SqliteConnection;
use tokio::time::sleep;

use super::{connection::Connection, lock::holder};

/// How often the log of commits is tried to be copied while somebody reads what was there before it, and how long after each
/// time: a count that has begun is over by then, unless the table is very long.
const TRIES: u32 = 20;
const PAUSE: Duration = Duration::from_millis(25);

/// Closes a connection beside whoever works on the file: a daemon sees to its log by itself.
///
/// # Errors
/// If SQLite fails; nothing is lost by that.
pub(super) async fn leave(conn: Connection, database: &Path) -> Result<(), sqlx::Error> {
    if matches!(holder(database), Ok(Some(_))) { conn.close().await } else { put_away(conn).await }
}

/// Copies the log of commits into the file, and closes the connection: the last one removes the log.
///
/// SQLite does both by itself when the last connection is closed. But while any other process has the file open, a shell that
/// waits for its user, say, nobody's is the last one.
///
/// # Errors
/// If SQLite fails; nothing is lost by that.
pub(super) async fn put_away(mut conn: Connection) -> Result<(), sqlx::Error> {
    // If others use another log than this connection knows, nothing of it may be copied.
    if conn.files.replaced().is_some() {
        return conn.close().await;
    }
    let copied = copy_log(&mut conn).await;
    // To drop the connection would close it on a thread of its own, perhaps not before the process ends.
    conn.close().await?;
    copied
}

async fn copy_log(conn: &mut SqliteConnection) -> Result<(), sqlx::Error> {
    // Waiting for a reader, SQLite would keep others from writing.
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

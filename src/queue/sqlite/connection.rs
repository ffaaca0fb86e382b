//! A connection that writes, and ends without harm when its files were taken away.

use std::{
    mem,
    ops::{Deref, DerefMut},
};

use sqlx::{Connection as _, SqliteConnection};

use super::files::Files;

/// A connection that is closed when it is dropped; but not if others use another log than it knows. The last one to close a
/// database copies its log into it and removes the log: without having seen what others wrote, that would lose theirs.
///
/// A connection that only reads cannot do that, and needs none of this.
#[derive(Debug)]
pub(super) struct Connection {
    /// `Some` until it is dropped.
    inner: Option<SqliteConnection>,
    pub(super) files: Files,
}

impl Connection {
    pub(super) fn new(conn: SqliteConnection, files: Files) -> Self {
        Self { inner: Some(conn), files }
    }

    /// Closes it, and waits for that.
    ///
    /// # Errors
    /// If SQLite fails.
    pub(super) async fn close(mut self) -> Result<(), sqlx::Error> {
        match self.inner.take() {
            Some(conn) if self.files.may_be_closed() => conn.close().await,
            left => {
                mem::forget(left);
                Ok(())
            }
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        let conn = self.inner.take();
        if !self.files.may_be_closed() {
            // It stays open, and idle, until the process ends.
            mem::forget(conn);
        }
    }
}

impl Deref for Connection {
    type Target = SqliteConnection;

    fn deref(&self) -> &SqliteConnection {
        self.inner.as_ref().unwrap_or_else(|| unreachable!("it is there until it is dropped"))
    }
}

impl DerefMut for Connection {
    fn deref_mut(&mut self) -> &mut SqliteConnection {
        self.inner.as_mut().unwrap_or_else(|| unreachable!("it is there until it is dropped"))
    }
}

//! The one row of `leadership`: what leaders hand on to each other.

use sqlx::PgConnection;

use super::{
    Store,
    address::Address,
    errors::{OpenError, StoreError},
    open::OPEN,
    schema_watch::{SchemaWatch, TRIGGERS},
    session::Session,
};
use crate::queue::{Change, SchemaChange};

/// Puts the row back if somebody has removed it. The epoch is one that nobody had: that of the last leader is in its row of `daemon`,
/// unless it ended before it wrote that, and in its requests.
const PUT_BACK: &str = "
INSERT INTO leadership (epoch, last_request)
SELECT 1 + greatest((SELECT max(epoch) FROM daemon), (SELECT epoch FROM requests ORDER BY id DESC LIMIT 1), 0),
    coalesce((SELECT max(id) FROM requests), 0)
WHERE NOT EXISTS (SELECT 1 FROM leadership)";

/// $1 our epoch; $2 the last request. Puts the row back as the leader knows it.
const PUT_OURS_BACK: &str = "
INSERT INTO leadership (epoch, last_request) SELECT $1, $2 WHERE NOT EXISTS (SELECT 1 FROM leadership)";

/// Begins an epoch. Returns its number; the highest ID of a request so far, also of a pruned one; and the number of requests without an
/// answer.
const BEGIN_EPOCH: &str = "
UPDATE leadership SET epoch = epoch + 1
RETURNING epoch, greatest(last_request, coalesce((SELECT max(id) FROM requests), 0)),
    (SELECT count(*) FROM requests WHERE answered_at IS NULL)";

/// An epoch that was begun.
pub(super) struct Epoch {
    pub(super) number: i64,
    /// The highest ID of a request so far, also of a pruned one.
    pub(super) last_request: i64,
    /// Requests without an answer.
    pub(super) orphaned: i64,
}

/// Looks at the tables after the migrations, and logs what others have changed of them.
///
/// # Errors
/// If tables are missing, or the server fails.
pub(super) async fn watched(session: &mut Session, address: &Address) -> Result<SchemaWatch, OpenError> {
    let mut watch = SchemaWatch::default();
    let look = session.run(async |conn: &mut PgConnection| watch.update(conn).await).await;
    look.map_err(|source| StoreError::new(address, OPEN, source))?;
    let is_missing = |object: &&SchemaChange| object.kind == "table" && object.change == Change::Missing;
    let missing: Vec<String> = watch.changes().iter().filter(is_missing).map(|table| table.name.clone()).collect();
    if missing.is_empty() { Ok(watch) } else { Err(OpenError::Incomplete { address: address.clone(), missing }) }
}

/// Sees to it that the row is there. Under the lock, nobody else does.
///
/// # Errors
/// If the server fails.
pub(super) async fn put_back(session: &mut Session) -> Result<(), sqlx::Error> {
    session.run(async |conn: &mut PgConnection| sqlx::query(PUT_BACK).execute(conn).await.map(drop)).await
}

/// Begins an epoch.
///
/// # Errors
/// If the server fails, or something keeps the row from being written.
pub(super) async fn begin_epoch(
    session: &mut Session,
    watch: &SchemaWatch,
    address: &Address,
) -> Result<Epoch, StoreError> {
    let begun = async {
        put_back(session).await?;
        session.run(async |conn: &mut PgConnection| sqlx::query_as(BEGIN_EPOCH).fetch_optional(conn).await).await
    };
    match begun.await {
        Ok(Some((number, last_request, orphaned))) => Ok(Epoch { number, last_request, orphaned }),
        Ok(None) => {
            let message = "the row of leadership is not there, or not written".to_owned();
            Err(StoreError::not_done(address, OPEN, message, watch.changes()))
        }
        Err(source) => Err(StoreError::new(address, OPEN, source).blamed(watch.changes())),
    }
}

impl Store {
    /// Looks at the tables, and logs what others have changed of them since the last look.
    pub(super) async fn watch_tables(&mut self) -> Result<(), StoreError> {
        let mut watch = std::mem::take(&mut self.watch);
        let looked = self.run("look at the tables", async |conn: &mut PgConnection| watch.update(conn).await).await;
        self.watch = watch;
        looked?;
        self.watch.log_news();
        Ok(())
    }

    /// Looks at the tables if there are other triggers than at the last look.
    pub(super) async fn watch_triggers(&mut self) -> Result<(), StoreError> {
        let look = async |conn: &mut PgConnection| sqlx::query_scalar(TRIGGERS).fetch_one(conn).await;
        let triggers: i64 = self.run("look at the triggers", look).await?;
        if triggers == self.watch.triggers() { Ok(()) } else { self.watch_tables().await }
    }

    /// Puts the row of `leadership` back, if somebody has removed it: without it, the next leader has to guess its epoch.
    pub(super) async fn keep_leadership(&mut self) -> Result<(), StoreError> {
        let (epoch, last_request) = (self.epoch, self.next_request.saturating_sub(1));
        let put_back = async |conn: &mut PgConnection| {
            sqlx::query(PUT_OURS_BACK).bind(epoch).bind(last_request).execute(conn).await
        };
        self.run("write the row of leadership", put_back).await.map(drop)
    }
}

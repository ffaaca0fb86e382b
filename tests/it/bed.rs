//! The bed on SQLite, for tests that use its SQL or look at its file.

use tempfile::TempDir;

use crate::{engines::sqlite::Sqlite, suite::engine::Setup};
pub use crate::{
    engines::sqlite::open,
    suite::bed::{KEY, Plan, START, ids, status_with},
};

/// Lets this connection write values that the CHECKs refuse, and drops the triggers that check INSERTs.
pub const UNCHECKED: &str = "PRAGMA ignore_check_constraints = ON;
    DROP TRIGGER IF EXISTS deletions_checked; DROP TRIGGER IF EXISTS holds_checked;";

pub type Bed = crate::suite::bed::Bed<Sqlite>;

/// A bed on the queue in this directory. The queue is made if there is none.
pub async fn on(dir: TempDir, plan: Plan) -> Bed {
    let setup = Setup { busy_timeout: plan.busy_timeout, in_memory: false };
    Bed::on(Sqlite::on(dir, setup).await, plan).await
}

impl Bed {
    /// How many rows meet this SQL condition.
    pub async fn count(&mut self, condition: &str) -> i64 {
        self.query::<(i64,)>(&format!("SELECT count(*) FROM deletions WHERE {condition}")).await[0].0
    }
}

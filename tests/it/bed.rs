//! The bed on SQLite, for tests that speak its SQL or look at its file.

use tempfile::TempDir;

use crate::{engines::sqlite::Sqlite, suite::engine::Setup};
pub use crate::{
    engines::sqlite::open,
    suite::bed::{KEY, Plan, START, ids, listing, status_with},
};

/// From here on, this connection may write values that the CHECKs refuse, and no INSERT is checked by the triggers.
pub const UNCHECKED: &str = "PRAGMA ignore_check_constraints = ON;
    DROP TRIGGER IF EXISTS deletions_checked; DROP TRIGGER IF EXISTS holds_checked;";

pub type Bed = crate::suite::bed::Bed<Sqlite>;

/// The queue that is in this directory; a new one if there is none.
pub async fn on(dir: TempDir, plan: Plan) -> Bed {
    let setup = Setup { busy_timeout: plan.busy_timeout, in_memory: false };
    Bed::on(Sqlite::on(dir, setup).await, plan).await
}

impl Bed {
    /// How many rows are so.
    pub async fn count(&mut self, condition: &str) -> i64 {
        self.query::<(i64,)>(&format!("SELECT count(*) FROM deletions WHERE {condition}")).await[0].0
    }
}

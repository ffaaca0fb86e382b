//! The rights that producers and operators need, and no others.

/// What a role may do with a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Grant {
    /// Enqueue, and read the rows.
    Producer,
    /// Read everything, and place and lift holds.
    Operator,
}

/// The columns that a producer writes. All others are the leader's.
const PRODUCED: &str = "agent_id, entry_id, priority, due_at, label";

impl Grant {
    /// The statements that give `role` these rights: for the owner of the tables, after they were made.
    #[must_use]
    pub fn statements(self, role: &str) -> Vec<String> {
        let role = format!("\"{}\"", role.replace('"', "\"\""));
        let rights: &[&str] = match self {
            Self::Producer => &["SELECT ON sweeper.deletions", "INSERT (PRODUCED) ON sweeper.deletions"],
            Self::Operator => &[
                "SELECT ON ALL TABLES IN SCHEMA sweeper",
                "INSERT (scope, cause, until_at, why), UPDATE (until_at, why), DELETE ON sweeper.holds",
            ],
        };
        let grant = |right: &&str| format!("GRANT {} TO {role}", right.replace("PRODUCED", PRODUCED));
        [&"USAGE ON SCHEMA sweeper"].into_iter().chain(rights).map(grant).collect()
    }
}

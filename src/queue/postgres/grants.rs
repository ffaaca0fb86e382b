//! The rights that producers and operators need, and no others.

use sqlx::{AssertSqlSafe, Connection as _, PgConnection};

use super::{
    Address,
    command::connect_known,
    errors::{OpenError, StoreError},
    open::Options,
};

/// What a role may do with a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Grant {
    /// Enqueue, and read the rows.
    Producer,
    /// All that commands do, but what only the daemon and the owner of the tables may: `run`, `init` and `grant`.
    Operator,
}

/// Why no rights were granted.
#[derive(Debug, thiserror::Error)]
pub enum GrantError {
    /// The queue cannot be used, or a statement failed.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// There is no such role.
    #[error("database {address}: there is no role {role} on its server; `CREATE ROLE {role} LOGIN` makes one")]
    NoRole {
        /// The database.
        address: Address,
        /// The role, as SQL has it.
        role: String,
    },
    /// The server grants nothing to others, and does not call that an error.
    #[error("database {address}: only {owner}, who owns the tables, may grant rights on them: connect as that role")]
    NotOwner {
        /// The database.
        address: Address,
        /// The owner, as SQL has it.
        owner: String,
    },
}

/// The columns that a producer writes. All others are the leader's.
const PRODUCED: &str = "agent_id, entry_id, priority, due_at, label";

/// For `sweeper enqueue`, and for any client. With `--from-cache`, it keeps to the holds, and leaves the daemon its share of the rate.
const PRODUCER: [&str; 2] =
    ["SELECT, INSERT (PRODUCED) ON sweeper.deletions", "SELECT ON sweeper.holds, sweeper.daemon"];

/// For all commands. What `sweeper retry` and `sweeper verify` change of a row is what the leader knows of its attempts, and what was
/// verified.
const OPERATOR: [&str; 6] = [
    "SELECT ON ALL TABLES IN SCHEMA sweeper",
    "INSERT (PRODUCED), UPDATE (state, attempts, due_at, batch_max, asks, request_id, first_fault, evidence, settled_at, verified_at), \
     DELETE ON sweeper.deletions",
    "INSERT (scope, cause, since_at, until_at, why), UPDATE (since_at, until_at, probed_at, repeats, why), DELETE \
     ON sweeper.holds",
    "INSERT (label, agent_id, entry_id, wished_at, state, closed_at, closed_by), UPDATE (state, closed_at, closed_by) \
     ON sweeper.wishes",
    "INSERT (acted_at, act, operator, scope, rows, detail, updated_at, ended), \
     UPDATE (scope, rows, updated_at, ended, logged) ON sweeper.acts",
    "EXECUTE ON FUNCTION sweeper.between_turns()",
];

/// The owner of the tables, and whether we are that role or a member of it.
const OWNER: &str = "
SELECT quote_ident(pg_get_userbyid(relowner)), pg_has_role(relowner, 'USAGE') FROM pg_class
WHERE oid = 'sweeper.deletions'::regclass";
/// $1 roles. The first of them that is not there.
const MISSING: &str = "
SELECT given.role FROM unnest($1::text[]) WITH ORDINALITY AS given (role, n)
WHERE NOT EXISTS (SELECT 1 FROM pg_roles WHERE rolname = given.role) ORDER BY given.n LIMIT 1";

const GRANTING: &str = "grant rights";

impl Grant {
    /// The option of `sweeper grant` that gives these rights.
    pub(super) fn option(self) -> &'static str {
        match self {
            Self::Producer => "--producer",
            Self::Operator => "--operator",
        }
    }

    /// The statements that give `role` these rights: for the owner of the tables, after they were made.
    #[must_use]
    pub fn statements(self, role: &str) -> Vec<String> {
        let role = quoted(role);
        let rights: &[&str] = match self {
            Self::Producer => &PRODUCER,
            Self::Operator => &OPERATOR,
        };
        let grant = |right: &&str| format!("GRANT {} TO {role}", right.replace("PRODUCED", PRODUCED));
        [&"USAGE ON SCHEMA sweeper"].into_iter().chain(rights).map(grant).collect()
    }

    /// The statement with which `role` finds the tables without naming the schema. Nothing needs it.
    #[must_use]
    pub fn search_path(role: &str, options: &Options) -> String {
        let database = quoted(options.address.database());
        format!("ALTER ROLE {} IN DATABASE {database} SET search_path = sweeper", quoted(role))
    }

    /// Gives each role its rights, in one transaction.
    ///
    /// # Errors
    /// If a role does not exist, if we do not own the tables, or if the server fails; then nothing is granted.
    pub async fn apply(grants: &[(Self, &str)], options: &Options) -> Result<(), GrantError> {
        let address = &options.address;
        let mut conn = connect_known(options).await?;
        let error = |source| OpenError::from(StoreError::new(address, GRANTING, source));
        let (owner, is_ours): (String, bool) = sqlx::query_as(OWNER).fetch_one(&mut conn).await.map_err(error)?;
        if !is_ours {
            return Err(GrantError::NotOwner { address: address.clone(), owner });
        }
        let roles: Vec<&str> = grants.iter().map(|(_, role)| *role).collect();
        let missing = sqlx::query_scalar(MISSING).bind(roles).fetch_optional(&mut conn).await.map_err(error)?;
        if let Some(role) = missing {
            let role: String = role;
            return Err(GrantError::NoRole { address: address.clone(), role: quoted(&role) });
        }
        execute(grants, &mut conn).await.map_err(error)?;
        // Everything is committed.
        let _ = conn.close().await;
        Ok(())
    }
}

async fn execute(grants: &[(Grant, &str)], conn: &mut PgConnection) -> Result<(), sqlx::Error> {
    let mut tx = conn.begin().await?;
    for statement in grants.iter().flat_map(|(grant, role)| grant.statements(role)) {
        sqlx::raw_sql(AssertSqlSafe(statement)).execute(&mut *tx).await?;
    }
    tx.commit().await
}

/// A name as SQL has it.
#[must_use]
pub fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

//! The connections of commands, beside whoever leads.

use sqlx::PgConnection;

use super::{
    errors::{OpenError, StoreError},
    open::{OPEN, Options},
    schema::{OLDEST_SERVER, migrator, server_version},
};

/// What a command waits for: another one's locks as long as the daemon would.
const SETTINGS: &str = "SET search_path = sweeper; SET idle_in_transaction_session_timeout = '60s';";

/// Whether there are tables of ours, which another program's schema of that name does not have, and whether there is the list of
/// migrations. No row if this role may not see them.
pub(super) const TABLES: &str = "
SELECT to_regclass('sweeper.leadership') IS NOT NULL
        OR num_nonnulls(to_regclass('sweeper.deletions'), to_regclass('sweeper.requests')) = 2,
    to_regclass('sweeper._sqlx_migrations') IS NOT NULL
FROM (SELECT to_regnamespace('sweeper') AS schema) AS ours
WHERE schema IS NOT NULL AND has_schema_privilege(schema, 'USAGE')";
const SCHEMA: &str = "SELECT to_regnamespace('sweeper') IS NOT NULL";
/// The newest migration that was made. Who may not read it is told so by the statement that needs the tables.
const VERSION: &str = "
SELECT max(version) FROM _sqlx_migrations WHERE has_table_privilege('sweeper._sqlx_migrations', 'SELECT')";
const MAY_READ_VERSION: &str = "SELECT has_table_privilege('sweeper._sqlx_migrations', 'SELECT')";

/// Connects to tables that are there and up to date.
///
/// # Errors
/// If they are not, or the server fails.
pub(super) async fn connect_known(options: &Options) -> Result<PgConnection, OpenError> {
    let address = &options.address;
    let error = |source| OpenError::from(StoreError::new(address, OPEN, source));
    let mut conn = address.connect().await.map_err(error)?;
    let version = server_version(&mut conn).await.map_err(error)?;
    if version < OLDEST_SERVER {
        return Err(OpenError::OldServer { address: address.clone(), version });
    }
    let patience = options.busy_timeout.as_millis().max(1);
    let settings = sqlx::AssertSqlSafe(format!("{SETTINGS} SET lock_timeout = '{patience}ms'"));
    sqlx::raw_sql(settings).execute(&mut conn).await.map_err(error)?;
    let tables: Option<(bool, bool)> = sqlx::query_as(TABLES).fetch_optional(&mut conn).await.map_err(error)?;
    match tables {
        Some((true, true)) => {}
        Some((true, false)) => return Err(OpenError::without_migrations(address)),
        Some((false, _)) => return Err(OpenError::Empty { address: address.clone() }),
        None => {
            let exists: bool = sqlx::query_scalar(SCHEMA).fetch_one(&mut conn).await.map_err(error)?;
            let address = address.clone();
            return Err(if exists { OpenError::NoAccess { address } } else { OpenError::Empty { address } });
        }
    }
    let may_read = sqlx::query_scalar(MAY_READ_VERSION).fetch_one(&mut conn).await.map_err(error)?;
    if may_read {
        let version: Option<i64> = sqlx::query_scalar(VERSION).fetch_one(&mut conn).await.map_err(error)?;
        let (known, made) = (newest(), version.unwrap_or(0));
        if made > known {
            return Err(OpenError::Newer { address: address.clone(), version: made });
        }
        if made < known {
            return Err(OpenError::Older { address: address.clone(), version: made });
        }
    }
    Ok(conn)
}

/// The newest migration that this version has.
pub(super) fn newest() -> i64 {
    migrator().iter().map(|migration| migration.version).max().unwrap_or(0)
}

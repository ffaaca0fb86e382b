//! Our schema, and the migrations that make its tables.

use std::borrow::Cow;

use sqlx::{
    AssertSqlSafe, PgConnection, SqlSafeStr as _,
    migrate::{Migration, MigrationType, Migrator},
};

use super::session::SCHEMA;

/// The oldest server that has what we use: idle timeouts, and scans of a range of a table's places.
pub(super) const OLDEST_SERVER: u32 = 14;

/// Two that make the schema at the same time: one of them is told this.
const UNIQUE_VIOLATION: &str = "23505";

/// All migrations, the oldest first. Only the leader runs them, under its own lock.
pub(super) fn migrator() -> Migrator {
    let migration = |version, description: &'static str, sql: &'static str| {
        Migration::new(version, Cow::Borrowed(description), MigrationType::Simple, sql.into_sql_str(), false)
    };
    let first = migration(1, "queue", include_str!("../../../migrations/postgres/0001_queue.sql"));
    let mut migrator = Migrator::with_migrations(vec![first]);
    migrator.set_locking(false);
    migrator
}

/// The server's major version.
pub(super) async fn server_version(conn: &mut PgConnection) -> Result<u32, sqlx::Error> {
    let version: String = sqlx::query_scalar("SHOW server_version_num").fetch_one(conn).await?;
    version.parse::<u32>().map(|version| version / 10_000).map_err(|error| sqlx::Error::Decode(error.into()))
}

/// Makes the schema, if there is none. A role that may not make one can use one that is there.
pub(super) async fn make_schema(conn: &mut PgConnection) -> Result<(), sqlx::Error> {
    let exists =
        sqlx::query_scalar("SELECT to_regnamespace($1) IS NOT NULL").bind(SCHEMA).fetch_one(&mut *conn).await?;
    if exists {
        return Ok(());
    }
    let made = sqlx::raw_sql(AssertSqlSafe(format!("CREATE SCHEMA IF NOT EXISTS {SCHEMA}"))).execute(conn).await;
    let is_there = |error: &sqlx::Error| {
        error.as_database_error().and_then(|error| error.code()).is_some_and(|code| code == UNIQUE_VIOLATION)
    };
    made.map(drop).or_else(|error| if is_there(&error) { Ok(()) } else { Err(error) })
}

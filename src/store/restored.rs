//! A file of ours without our application ID: a `.dump` that was loaded into a new file, which does not carry it. It is known by
//! its tables.

use std::collections::HashMap;

use sqlx::{ConnectOptions as _, SqliteConnection, migrate::Migrator, sqlite::SqliteConnectOptions};

use super::schema::migrator;

/// Type, name and statement of everything that somebody made.
const OBJECTS: &str = "
SELECT type, name, sql FROM sqlite_master WHERE name NOT LIKE 'sqlite\\_%' ESCAPE '\\' AND sql IS NOT NULL";

/// Whether it is sqlx that keeps a list of migrations there.
const HAS_A_LIST: &str =
    "SELECT count(*) = 2 FROM pragma_table_info('_sqlx_migrations') WHERE name IN ('version', 'checksum')";

/// ?1 the checksum of our first migration.
const IS_LISTED: &str = "SELECT EXISTS (SELECT 1 FROM _sqlx_migrations WHERE version = 1 AND checksum = ?1)";

/// What an earlier version's rows are taken over from.
pub(super) const LOOKS_LIKE_OURS: &str = "
SELECT (SELECT count(*) FROM sqlite_master WHERE type = 'table' AND name IN ('deletions', 'requests', 'holds')) = 3
   AND (SELECT count(*) FROM pragma_table_info('_sqlx_migrations') WHERE name IN ('version', 'checksum')) = 2
   AND (SELECT count(*) FROM pragma_table_info('deletions')
        WHERE name IN ('agent_id', 'entry_id', 'priority', 'due_at', 'created_at', 'state')) = 6";

/// sqlx's own list. How it writes it down is its own affair.
const MIGRATIONS: &str = "_sqlx_migrations";

/// What a file without our application ID is.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Likeness {
    /// Somebody else's.
    Foreign,
    /// Ours: whatever our migrations make is in it, to the letter.
    Same,
    /// It was to be ours; what of it is missing or other than we make it.
    Altered(Vec<String>),
}

/// Compares what is in a file with what our migrations make.
pub(super) async fn likeness(conn: &mut SqliteConnection) -> Result<Likeness, sqlx::Error> {
    let found = objects(conn).await?;
    let first = migrator().iter().next().map(|migration| migration.checksum.to_vec());
    let is_listed = sqlx::query_scalar(HAS_A_LIST).fetch_one(&mut *conn).await?
        && sqlx::query_scalar(IS_LISTED).bind(first).fetch_one(&mut *conn).await?;
    let version: i64 = if is_listed {
        sqlx::query_scalar("SELECT max(version) FROM _sqlx_migrations").fetch_one(conn).await?
    } else {
        i64::MAX
    };
    let ours = made_by(version).await?;
    let table = ("table".to_owned(), "deletions".to_owned());
    // Without our list, the main table tells.
    if !is_listed && found.get(&table).is_none_or(|sql| ours.get(&table) != Some(sql)) {
        return Ok(Likeness::Foreign);
    }
    let mut wrong: Vec<String> = ours
        .iter()
        .filter(|((_, name), _)| name != MIGRATIONS)
        .filter_map(|((kind, name), sql)| match found.get(&(kind.clone(), name.clone())) {
            None => Some(format!("the {kind} {name} is missing")),
            Some(found) if found != sql => Some(format!("the {kind} {name} is another one")),
            Some(_) => None,
        })
        .collect();
    wrong.sort_unstable();
    if !is_listed {
        wrong.push(format!("the row of this version in {MIGRATIONS} is missing"));
    }
    Ok(if wrong.is_empty() { Likeness::Same } else { Likeness::Altered(wrong) })
}

type Objects = HashMap<(String, String), String>;

async fn objects(conn: &mut SqliteConnection) -> Result<Objects, sqlx::Error> {
    let rows: Vec<(String, String, String)> = sqlx::query_as(OBJECTS).fetch_all(conn).await?;
    Ok(rows.into_iter().map(|(kind, name, sql)| ((kind, name), sql)).collect())
}

/// What our migrations up to this version make of an empty database.
async fn made_by(version: i64) -> Result<Objects, sqlx::Error> {
    let migrations = migrator().iter().filter(|migration| migration.version <= version).cloned().collect();
    let mut conn = SqliteConnectOptions::new().in_memory(true).disable_statement_logging().connect().await?;
    Migrator::with_migrations(migrations).run(&mut conn).await?;
    objects(&mut conn).await
}

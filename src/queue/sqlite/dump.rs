//! A file of ours without our application ID: a `.dump`, which does not carry the ID, was loaded into a new file. Its tables show
//! that it is ours.

use sqlx::SqliteConnection;

use super::{
    schema::migrator,
    schema_watch::{MIGRATIONS, Object, made_by, objects},
};

/// Whether sqlx keeps a list of migrations in the file.
const HAS_MIGRATIONS: &str =
    "SELECT count(*) = 2 FROM pragma_table_info('_sqlx_migrations') WHERE name IN ('version', 'checksum')";

/// ?1 the checksum of our first migration.
const IS_LISTED: &str = "SELECT EXISTS (SELECT 1 FROM _sqlx_migrations WHERE version = 1 AND checksum = ?1)";

/// Whether the file has the tables and columns from which an older version's pending rows can be taken over.
pub(super) const LOOKS_LIKE_OURS: &str = "
SELECT (SELECT count(*) FROM sqlite_master WHERE type = 'table' AND name IN ('deletions', 'requests', 'holds')) = 3
   AND (SELECT count(*) FROM pragma_table_info('_sqlx_migrations') WHERE name IN ('version', 'checksum')) = 2
   AND (SELECT count(*) FROM pragma_table_info('deletions')
        WHERE name IN ('agent_id', 'entry_id', 'priority', 'due_at', 'created_at', 'state')) = 6";

/// How much a file without our application ID looks like ours.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Likeness {
    /// It is another program's.
    NotOurs,
    /// It is ours: it has every object that our migrations make, with the same SQL.
    Same,
    /// It was ours, and these objects are missing or were changed.
    Altered(Vec<String>),
}

/// Compares the objects in a file with those that our migrations make.
pub(super) async fn likeness(conn: &mut SqliteConnection) -> Result<Likeness, sqlx::Error> {
    let found = objects(conn, None).await?;
    let first = migrator().iter().next().map(|migration| migration.checksum.to_vec());
    let is_listed = sqlx::query_scalar(HAS_MIGRATIONS).fetch_one(&mut *conn).await?
        && sqlx::query_scalar(IS_LISTED).bind(first).fetch_one(&mut *conn).await?;
    let version: i64 = if is_listed {
        sqlx::query_scalar("SELECT max(version) FROM _sqlx_migrations").fetch_one(conn).await?
    } else {
        i64::MAX
    };
    let ours = made_by(version).await?;
    // Without our row in the list of migrations, the table `deletions` decides.
    let is_main = |object: &&Object| object.kind == "table" && object.name == "deletions";
    if !is_listed && ours.iter().find(is_main).is_none_or(|table| !found.contains(table)) {
        return Ok(Likeness::NotOurs);
    }
    let mut wrong: Vec<String> = ours
        .iter()
        .filter_map(|known| match found.iter().find(|object| known.is_namesake(object)) {
            None => Some(format!("the {} {} is missing", known.kind, known.name)),
            Some(object) if object != known => Some(format!("the {} {} is another one", known.kind, known.name)),
            Some(_) => None,
        })
        .collect();
    wrong.sort_unstable();
    if !is_listed {
        wrong.push(format!("the row of this version in {MIGRATIONS} is missing"));
    }
    Ok(if wrong.is_empty() { Likeness::Same } else { Likeness::Altered(wrong) })
}

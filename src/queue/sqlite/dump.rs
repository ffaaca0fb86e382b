//! A file of ours without our application ID: a `.dump` that was loaded into a new file, which does not carry it. It is known by
//! its tables.

use sqlx::SqliteConnection;

use super::{
    schema::migrator,
    trust::{MIGRATIONS, Object, made_by, objects},
};

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
    let found = objects(conn, None).await?;
    let first = migrator().iter().next().map(|migration| migration.checksum.to_vec());
    let is_listed = sqlx::query_scalar(HAS_A_LIST).fetch_one(&mut *conn).await?
        && sqlx::query_scalar(IS_LISTED).bind(first).fetch_one(&mut *conn).await?;
    let version: i64 = if is_listed {
        sqlx::query_scalar("SELECT max(version) FROM _sqlx_migrations").fetch_one(conn).await?
    } else {
        i64::MAX
    };
    let ours = made_by(version).await?;
    // Without our list, the main table tells.
    let is_main = |object: &&Object| object.kind == "table" && object.name == "deletions";
    if !is_listed && ours.iter().find(is_main).is_none_or(|table| !found.contains(table)) {
        return Ok(Likeness::Foreign);
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

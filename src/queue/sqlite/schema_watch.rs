//! Whether the tables are as our migrations make them.
//!
//! Whoever can write the file can add a trigger, and it then runs inside our transactions: it can leave out what we write,
//! undo it, or never end. That cannot be prevented; it can be seen, and said.

use std::{collections::BTreeSet, fmt, io, path::Path};

use sqlx::{
    ConnectOptions as _, Row as _, SqliteConnection,
    migrate::{MigrateError, Migrator},
    sqlite::SqliteConnectOptions,
};
use tokio::sync::OnceCell;

use super::{
    errors::{OpenError, StoreError, migration_code},
    rows::json,
    schema::migrator,
    steps::Steps,
};

/// sqlx's list of migrations, which other versions of it may make otherwise. Triggers on it are foreign all the same.
pub(super) const MIGRATIONS: &str = "_sqlx_migrations";

/// ?1 tables: [name, …], or NULL for all. Names in SQLite have no case. What has no SQL is an index of a constraint.
const OBJECTS: &str = "
SELECT type, name, tbl_name, sql FROM sqlite_master
WHERE sql IS NOT NULL AND (?1 IS NULL OR tbl_name COLLATE NOCASE IN (SELECT value FROM json_each(?1)))
ORDER BY type DESC, name";

/// Most of the names that are said, and the longest.
const MOST_NAMED: usize = 10;
const LONGEST_NAME: usize = 100;

/// Something about our tables that is not as our migrations make it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Foreign {
    /// `trigger`, `index`, `table` or `view`.
    pub kind: String,
    /// Its name.
    pub name: String,
    /// The table of ours that it is on.
    pub table: String,
    /// What is foreign about it.
    pub how: How,
}

/// What is foreign about something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// It is not ours.
    Added,
    /// It is ours, and was changed.
    Changed,
    /// It is ours, and is not there.
    Missing,
}

impl Foreign {
    /// Whether it can have a say in what our statements write: an index that is not ours only makes them slow.
    pub(super) fn can_interfere(&self) -> bool {
        self.kind != "index"
    }
}

impl fmt::Display for Foreign {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kind, name, table, how } = self;
        write!(f, "{kind} {name}")?;
        if !name.eq_ignore_ascii_case(table) {
            write!(f, " on {table}")?;
        }
        f.write_str(match how {
            How::Added => "",
            How::Changed => " (ours, changed)",
            How::Missing => " (ours, missing)",
        })
    }
}

/// All of them in one text, the first few by name.
#[must_use]
pub fn list(foreign: &[Foreign]) -> String {
    let named: Vec<String> = foreign.iter().take(MOST_NAMED).map(Foreign::to_string).collect();
    let more = foreign.len().saturating_sub(MOST_NAMED);
    if more > 0 { format!("{}, and {more} more", named.join(", ")) } else { named.join(", ") }
}

/// Something that `sqlite_master` lists.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Object {
    pub(super) kind: String,
    pub(super) name: String,
    table: String,
    sql: String,
}

impl Object {
    /// Whether it has the kind and the name of the other one. Names in SQLite have no case.
    pub(super) fn is_namesake(&self, other: &Self) -> bool {
        self.kind == other.kind && self.name.eq_ignore_ascii_case(&other.name)
    }
}

/// What all migrations together make, in a database that is made for that once.
async fn ours() -> Result<&'static [Object], sqlx::Error> {
    static OURS: OnceCell<Vec<Object>> = OnceCell::const_new();
    Ok(OURS.get_or_try_init(|| made_by(i64::MAX)).await?)
}

/// What our migrations up to this version make of an empty database.
pub(super) async fn made_by(version: i64) -> Result<Vec<Object>, sqlx::Error> {
    let migrations = migrator().iter().filter(|migration| migration.version <= version).cloned().collect();
    let mut conn = SqliteConnectOptions::new().in_memory(true).disable_statement_logging().connect().await?;
    let made = Migrator::with_migrations(migrations).run(&mut conn).await;
    made.map_err(|error| sqlx::Error::Migrate(Box::new(error)))?;
    let mut objects = objects(&mut conn, None).await?;
    objects.retain(|object| object.name != MIGRATIONS && !object.name.starts_with("sqlite_"));
    Ok(objects)
}

/// What is in a database, on these tables or on all.
pub(super) async fn objects(conn: &mut SqliteConnection, tables: Option<&str>) -> Result<Vec<Object>, sqlx::Error> {
    let rows = sqlx::query(OBJECTS).bind(tables).fetch_all(conn).await?;
    let text = |row: &sqlx::sqlite::SqliteRow, column: usize| -> Result<String, sqlx::Error> {
        // It need not be UTF-8.
        let bytes: Option<&[u8]> = row.try_get_unchecked(column)?;
        Ok(String::from_utf8_lossy(bytes.unwrap_or_default()).into_owned())
    };
    let object =
        |row| Ok(Object { kind: text(row, 0)?, name: text(row, 1)?, table: text(row, 2)?, sql: text(row, 3)? });
    rows.iter().map(object).collect()
}

/// What about our tables is not as our migrations make it.
pub(super) async fn foreign(conn: &mut SqliteConnection) -> Result<Vec<Foreign>, sqlx::Error> {
    let ours = ours().await?;
    let tables: BTreeSet<&str> = ours.iter().map(|object| object.table.as_str()).chain([MIGRATIONS]).collect();
    let found = objects(conn, Some(&json(&tables))).await?;
    let foreign = |object: &Object, how| Foreign {
        kind: object.kind.clone(),
        name: object.name.chars().take(LONGEST_NAME).collect(),
        // As we write it.
        table: tables.iter().find(|table| object.table.eq_ignore_ascii_case(table)).unwrap_or(&"").to_string(),
        how,
    };
    let there = found.iter().filter(|object| object.name != MIGRATIONS).filter_map(|object| {
        match ours.iter().find(|known| known.is_namesake(object)) {
            Some(known) if known == object => None,
            Some(_) => Some(foreign(object, How::Changed)),
            None => Some(foreign(object, How::Added)),
        }
    });
    let missing = ours.iter().filter(|known| !found.iter().any(|object| known.is_namesake(object)));
    Ok(there.chain(missing.map(|known| foreign(known, How::Missing))).collect())
}

/// What is known of the tables.
#[derive(Debug, Default)]
pub(super) struct Schema {
    /// `PRAGMA schema_version` when they were looked at: it changes with every table, index, trigger and view.
    version: Option<i64>,
    pub(super) foreign: Vec<Foreign>,
    /// Nobody has been told of them.
    is_news: bool,
}

impl Schema {
    /// Looks at the tables again if this is another version than the last time.
    pub(super) async fn follow(&mut self, conn: &mut SqliteConnection, version: i64) -> Result<(), sqlx::Error> {
        if self.version != Some(version) {
            let found = foreign(conn).await?;
            self.is_news |= !found.is_empty() && found != self.foreign;
            self.foreign = found;
            self.version = Some(version);
        }
        Ok(())
    }

    /// Whether something of somebody else's may have a say in what our statements write.
    pub(super) fn is_interfered_with(&self) -> bool {
        self.foreign.iter().any(Foreign::can_interfere)
    }

    /// What nobody has been told of yet.
    pub(super) fn news(&mut self) -> Option<&[Foreign]> {
        std::mem::take(&mut self.is_news).then_some(self.foreign.as_slice())
    }
}

/// Something of somebody else's kept a statement from doing what it does.
#[derive(Debug)]
pub(super) struct Interference {
    said: String,
    pub(super) foreign: Vec<Foreign>,
}

impl fmt::Display for Interference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { said, foreign } = self;
        if foreign.is_empty() {
            return write!(
                f,
                "{said}, though the tables are as sweeper makes them: look at the file with PRAGMA integrity_check"
            );
        }
        write!(
            f,
            "{said}; not made by sweeper, and at work inside its transactions: {}; drop what is not sweeper's",
            list(foreign)
        )
    }
}

impl std::error::Error for Interference {}

/// A statement that SQLite calls done, and that is not.
pub(super) fn not_done(said: String, foreign: &[Foreign]) -> sqlx::Error {
    sqlx::Error::Io(io::Error::other(Interference { said, foreign: foreign.to_vec() }))
}

impl StoreError {
    /// If this is that a statement was kept from doing what it does: what about the tables is not as our migrations make it.
    #[must_use]
    pub fn foreign(&self) -> Option<&[Foreign]> {
        let sqlx::Error::Io(error) = &self.source else { return None };
        let interference = error.get_ref()?.downcast_ref::<Interference>()?;
        Some(&interference.foreign)
    }
}

/// Why a migration failed: with what others had put onto its tables before, if there is any.
pub(super) async fn blame_migration(
    conn: &mut SqliteConnection,
    steps: &Steps,
    path: &Path,
    source: MigrateError,
) -> OpenError {
    let path = path.to_owned();
    let said = match migration_code(&source).map(|code| code & 0xff) {
        Some(9) => interrupted(steps),
        Some(1 | 19) => source.to_string(),
        _ => return OpenError::Migrate { path, source: Box::new(source) },
    };
    // What is ours is missing because it is not made yet.
    let mut foreign = foreign(conn).await.unwrap_or_default();
    foreign.retain(|object| object.how == How::Added);
    if foreign.is_empty() {
        return OpenError::Migrate { path, source: Box::new(source) };
    }
    StoreError { path, doing: "migrate", source: not_done(said, &foreign) }.into()
}

fn interrupted(steps: &Steps) -> String {
    format!("interrupted after {} million steps of SQLite", steps.most() / 1_000_000)
}

/// The same error, with the names of what may be its cause, if it is one that a trigger or an index can cause.
pub(super) async fn blame(conn: &mut SqliteConnection, steps: &Steps, error: StoreError) -> StoreError {
    let code = error.code().map(|code| code & 0xff);
    // SQLITE_ERROR (a trigger that needs a table which is gone), SQLITE_INTERRUPT, _TOOBIG, _CONSTRAINT, _MISMATCH.
    let Some(1 | 9 | 18 | 19 | 20) = code else { return error };
    let said = match (code, error.source.as_database_error()) {
        (Some(9), _) => interrupted(steps),
        (_, Some(said)) => said.message().to_owned(),
        (_, None) => return error,
    };
    match foreign(conn).await {
        Ok(foreign) if code == Some(9) || !foreign.is_empty() => {
            StoreError { source: not_done(said, &foreign), ..error }
        }
        Ok(_) | Err(_) => error,
    }
}

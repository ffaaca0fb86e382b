//! Whether the tables are as our migrations make them: see [`crate::queue::SchemaChange`].

use std::collections::BTreeSet;

use sqlx::{ConnectOptions as _, Row as _, SqliteConnection, migrate::Migrator, sqlite::SqliteConnectOptions};
use tokio::sync::OnceCell;

use super::{rows::json, schema::migrator};
use crate::queue::schema_changes::{Change, KnownChanges, SchemaChange};

/// sqlx's table of migrations. Other versions of sqlx may define it otherwise, so its definition is not compared. Triggers on it
/// are foreign all the same.
pub(super) const MIGRATIONS: &str = "_sqlx_migrations";

/// ?1 tables: [name, …], or NULL for all. SQLite's names are case-insensitive. An object without SQL is the index of a
/// constraint.
const OBJECTS: &str = "
SELECT type, name, tbl_name, sql FROM sqlite_master
WHERE sql IS NOT NULL AND (?1 IS NULL OR tbl_name COLLATE NOCASE IN (SELECT value FROM json_each(?1)))
ORDER BY type DESC, name";

/// A row of `sqlite_master`.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Object {
    pub(super) kind: String,
    pub(super) name: String,
    table: String,
    sql: String,
}

impl Object {
    /// Whether both have the same kind and name. SQLite's names are case-insensitive.
    pub(super) fn is_namesake(&self, other: &Self) -> bool {
        self.kind == other.kind && self.name.eq_ignore_ascii_case(&other.name)
    }
}

/// The objects that all migrations together make, in an in-memory database that is made once for that.
async fn ours() -> Result<&'static [Object], sqlx::Error> {
    static OURS: OnceCell<Vec<Object>> = OnceCell::const_new();
    Ok(OURS.get_or_try_init(|| made_by(i64::MAX)).await?)
}

/// The objects that our migrations up to this version make in an empty database.
pub(super) async fn made_by(version: i64) -> Result<Vec<Object>, sqlx::Error> {
    let migrations = migrator().iter().filter(|migration| migration.version <= version).cloned().collect();
    let mut conn = SqliteConnectOptions::new().in_memory(true).disable_statement_logging().connect().await?;
    let made = Migrator::with_migrations(migrations).run(&mut conn).await;
    made.map_err(|error| sqlx::Error::Migrate(Box::new(error)))?;
    let mut objects = objects(&mut conn, None).await?;
    objects.retain(|object| object.name != MIGRATIONS && !object.name.starts_with("sqlite_"));
    Ok(objects)
}

/// The objects in a database, on these tables or on all.
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

/// The differences between our tables in this database and what our migrations make.
pub(super) async fn schema_changes(conn: &mut SqliteConnection) -> Result<Vec<SchemaChange>, sqlx::Error> {
    let ours = ours().await?;
    let tables: BTreeSet<&str> = ours.iter().map(|object| object.table.as_str()).chain([MIGRATIONS]).collect();
    let found = objects(conn, Some(&json(&tables))).await?;
    let changed = |object: &Object, change| {
        // In our own spelling.
        let table = tables.iter().find(|table| object.table.eq_ignore_ascii_case(table)).unwrap_or(&"");
        SchemaChange::new(&object.kind, &object.name, table, change)
    };
    let there = found.iter().filter(|object| object.name != MIGRATIONS).filter_map(|object| {
        match ours.iter().find(|known| known.is_namesake(object)) {
            Some(known) if known == object => None,
            Some(_) => Some(changed(object, Change::Altered)),
            None => Some(changed(object, Change::Added)),
        }
    });
    let missing = ours.iter().filter(|known| !found.iter().any(|object| known.is_namesake(object)));
    Ok(there.chain(missing.map(|known| changed(known, Change::Missing))).collect())
}

/// The last known state of the schema.
#[derive(Debug, Default)]
pub(super) struct SchemaWatch {
    /// `PRAGMA schema_version` at the last look. It changes with every table, index, trigger and view.
    version: Option<i64>,
    known: KnownChanges,
}

impl SchemaWatch {
    /// Looks at the tables if their version is another one than at the last look.
    pub(super) async fn update(&mut self, conn: &mut SqliteConnection) -> Result<(), sqlx::Error> {
        let version = sqlx::query_scalar("PRAGMA schema_version").fetch_one(&mut *conn).await?;
        self.update_to(conn, version).await
    }

    /// The same, with the version, if the caller has read that.
    pub(super) async fn update_to(&mut self, conn: &mut SqliteConnection, version: i64) -> Result<(), sqlx::Error> {
        if self.version != Some(version) {
            self.known.update(schema_changes(conn).await?);
            self.version = Some(version);
        }
        Ok(())
    }

    /// Whether a foreign trigger or the like can change what our statements write.
    pub(super) fn can_interfere(&self) -> bool {
        self.known.can_interfere()
    }

    /// The changes at the last look.
    pub(super) fn changes(&self) -> &[SchemaChange] {
        &self.known.changes
    }

    /// The changes, if they have not been reported yet.
    pub(super) fn news(&mut self) -> Option<&[SchemaChange]> {
        self.known.news()
    }
}

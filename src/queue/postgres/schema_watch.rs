//! Whether the tables are as our migrations make them: see [`crate::queue::SchemaChange`].
//!
//! What they make is in `migrations/postgres/objects.txt`, which a test compares with a fresh database. Objects are compared by what
//! the catalogs of every version say alike, and not by SQL that a version prints in its own way.

use sqlx::{Connection as _, PgConnection};

use super::{
    command::connect_known,
    errors::{OpenError, StoreError},
    open::Options,
};
use crate::queue::schema_changes::{Change, KnownChanges, SchemaChange, log_modified};

/// One line for each object: kind, table, name, definition.
const OURS: &str = include_str!("../../../migrations/postgres/objects.txt");

/// The names of the triggers on the tables that a turn writes to, and whether they are switched on, in a number: another trigger makes
/// another number. In a turn, this takes some microseconds.
macro_rules! triggers {
    () => {
        "(SELECT coalesce(sum(pg_trigger.oid::bigint * ascii(tgenabled::text) + pg_trigger.xmin::text::bigint
        + pg_proc.xmin::text::bigint), 0)::bigint
    FROM pg_trigger JOIN pg_proc ON pg_proc.oid = tgfoid WHERE tgrelid = ANY (ARRAY[
        to_regclass('sweeper.requests'), to_regclass('sweeper.deletions_known'), to_regclass('sweeper.deletions_new'),
        to_regclass('sweeper.wishes'), to_regclass('sweeper.holds'), to_regclass('sweeper.daemon')]::oid[]))"
    };
}
pub(super) use triggers;

/// See [`triggers`].
pub(super) const TRIGGERS: &str = concat!("SELECT ", triggers!());

/// $1 tables, $2 functions, or NULL for all but the list of migrations; $3 whether this role is a daemon's, which must own them. Else it
/// is enough if they have one owner. Returns kind, table, name, definition; and the owner, if that is another one than it must be. The
/// schema may be another role's that lets this one in.
///
/// Left out, because versions differ: constraints NOT NULL, and what a partition takes over from an identity column. Of expressions,
/// only constants are compared.
const OBJECTS: &str = "
WITH ours AS MATERIALIZED (
    SELECT pg_class.oid, relname::text AS name, relkind, relpersistence, relowner, relrowsecurity, relispartition,
        pg_get_expr(relpartbound, pg_class.oid) AS bound
    FROM pg_class
    WHERE relnamespace = to_regnamespace('sweeper') AND relname <> '_sqlx_migrations'
        AND ($1::text[] IS NULL OR relname = ANY ($1::text[]::name[])) AND relkind IN ('r', 'p', 'v', 'm', 'f')
),
entitled AS MATERIALIZED (
    SELECT CASE WHEN $3 OR pg_has_role(relowner, 'USAGE') THEN (SELECT oid FROM pg_roles WHERE rolname = current_user)
        ELSE relowner END AS role
    FROM ours WHERE name = 'deletions'
),
found (kind, \"table\", name, definition, owner) AS (
    SELECT 'schema', nspname::text, nspname::text, '',
        CASE WHEN NOT has_schema_privilege(role, pg_namespace.oid, 'USAGE') THEN nspowner END
    FROM pg_namespace LEFT JOIN entitled ON true WHERE nspname = 'sweeper'
    UNION ALL
    SELECT CASE WHEN ours.relkind IN ('v', 'm') THEN 'view' ELSE 'table' END, ours.name, ours.name,
        concat_ws(' ', ours.relkind, ours.relpersistence, 'partition of ' || parent.relname, bound), ours.relowner
    FROM ours LEFT JOIN pg_inherits ON inhrelid = ours.oid LEFT JOIN pg_class AS parent ON parent.oid = inhparent
    UNION ALL
    SELECT 'partition', ours.name, part.relname::text, '', NULL
    FROM ours JOIN pg_inherits ON inhparent = ours.oid JOIN pg_class AS part ON part.oid = inhrelid
    WHERE part.oid NOT IN (SELECT oid FROM ours)
    UNION ALL
    SELECT 'row-level security of', ours.name, ours.name, '', NULL FROM ours WHERE relrowsecurity
    UNION ALL
    SELECT 'column', ours.name, attname::text, concat_ws(' ', format_type(atttypid, atttypmod), 'collate ' || collname,
        CASE WHEN attnotnull THEN 'not null' END, CASE WHEN NOT relispartition THEN 'identity ' || nullif(attidentity::text, '') END,
        'generated ' || nullif(attgenerated::text, ''),
        'default ' || CASE WHEN pg_get_expr(adbin, adrelid) LIKE '%(%' THEN '...' ELSE pg_get_expr(adbin, adrelid) END), NULL
    FROM ours JOIN pg_attribute ON attrelid = ours.oid AND attnum > 0 AND NOT attisdropped
    LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum AND attgenerated::text = ''
    LEFT JOIN pg_collation ON pg_collation.oid = attcollation
    UNION ALL
    SELECT 'index', ours.name, pg_class.relname::text, concat_ws(' ', amname, CASE WHEN indisunique THEN 'unique' END,
        (SELECT string_agg(coalesce(attname, '...'), ', ' ORDER BY key.n) FROM unnest(indkey::smallint[]) WITH ORDINALITY AS key (num, n)
         LEFT JOIN pg_attribute ON attrelid = indrelid AND attnum = key.num),
        indoption::text, 'where ' || pg_get_expr(indpred, indrelid),
        CASE WHEN NOT (indisvalid AND indisready AND indislive) THEN 'invalid' END), NULL
    FROM ours JOIN pg_index ON indrelid = ours.oid JOIN pg_class ON pg_class.oid = indexrelid JOIN pg_am ON pg_am.oid = relam
    UNION ALL
    SELECT 'constraint', ours.name, conname::text, concat_ws(' ', contype,
        (SELECT string_agg(attname, ', ' ORDER BY attnum) FROM pg_attribute WHERE attrelid = conrelid AND attnum = ANY (conkey)),
        CASE WHEN NOT convalidated THEN 'not validated' END, CASE WHEN condeferrable THEN 'deferrable' END,
        CASE WHEN to_jsonb(con)->>'conenforced' = 'false' THEN 'not enforced' END), NULL
    FROM ours JOIN pg_constraint AS con ON conrelid = ours.oid WHERE contype IN ('c', 'f', 'p', 'u', 'x')
    UNION ALL
    SELECT 'foreign key', ours.name, conname::text, '', NULL
    FROM ours JOIN pg_constraint ON confrelid = ours.oid WHERE conrelid NOT IN (SELECT oid FROM ours)
    UNION ALL
    SELECT 'trigger', ours.name, tgname::text, concat_ws(' ', pronamespace::regnamespace::text || '.' || proname, tgtype,
        (SELECT string_agg(attname, ', ' ORDER BY attnum) FROM pg_attribute
         WHERE attrelid = tgrelid AND attnum = ANY (tgattr::smallint[])),
        CASE WHEN tgqual IS NOT NULL THEN 'when' END, CASE WHEN tgenabled <> 'O' THEN 'switched to ' || tgenabled::text END), NULL
    FROM ours JOIN pg_trigger ON tgrelid = ours.oid AND NOT tgisinternal AND tgparentid = 0 JOIN pg_proc ON pg_proc.oid = tgfoid
    UNION ALL
    SELECT 'rule', ours.name, rulename::text, '', NULL FROM ours JOIN pg_rewrite ON ev_class = ours.oid WHERE rulename <> '_RETURN'
    UNION ALL
    SELECT 'function', '', proname::text, concat_ws(' ', lanname, oidvectortypes(proargtypes), CASE WHEN prosecdef THEN 'definer' END,
        proconfig::text, left(encode(sha256(convert_to(prosrc, 'UTF8')), 'hex'), 16)), proowner
    FROM pg_proc JOIN pg_language ON pg_language.oid = prolang
    WHERE pronamespace = to_regnamespace('sweeper') AND ($2::text[] IS NULL OR proname = ANY ($2::text[]::name[]))
)
SELECT kind, \"table\", name, definition,
    CASE WHEN kind = 'schema' OR NOT pg_has_role((SELECT role FROM entitled), owner, 'USAGE') THEN pg_get_userbyid(owner)::text END
FROM found ORDER BY kind COLLATE \"C\" DESC, \"table\" COLLATE \"C\", name COLLATE \"C\"";

/// What a role may read of it: whether the one row of `leadership` is there. `None`: there is no such table, or not for this role.
const MAY_READ_LEADERSHIP: &str =
    "SELECT coalesce(has_table_privilege(to_regclass('sweeper.leadership'), 'SELECT'), false)";
const HAS_LEADERSHIP: &str = "SELECT EXISTS (SELECT 1 FROM sweeper.leadership)";

/// An object of a schema.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Object<T> {
    kind: T,
    table: T,
    name: T,
    definition: T,
}

impl<T: AsRef<str>> Object<T> {
    fn is_namesake<U: AsRef<str>>(&self, other: &Object<U>) -> bool {
        self.kind.as_ref() == other.kind.as_ref()
            && self.table.as_ref() == other.table.as_ref()
            && self.name.as_ref() == other.name.as_ref()
    }

    fn changed(&self, change: Change) -> SchemaChange {
        SchemaChange::new(self.kind.as_ref(), self.name.as_ref(), self.table.as_ref(), change)
    }

    /// The kind. An index with which a write can fail has a kind of its own.
    fn kind_in_words(&self) -> &str {
        match (self.kind.as_ref(), self.definition.as_ref()) {
            ("index", definition) if definition.contains(" unique") => "unique index",
            ("index", definition) if definition.contains("...") => "index of an expression",
            (kind, _) => kind,
        }
    }

    fn is_relation(&self) -> bool {
        ["table", "view"].contains(&self.kind.as_ref())
    }
}

/// What our migrations make.
fn ours() -> Vec<Object<&'static str>> {
    let object = |line: &'static str| {
        let mut fields = line.splitn(4, '\t');
        let mut field = || fields.next().unwrap_or_default();
        Object { kind: field(), table: field(), name: field(), definition: field() }
    };
    OURS.lines().map(object).collect()
}

/// What is in the schema: see [`OBJECTS`].
async fn objects(
    conn: &mut PgConnection,
    tables: Option<Vec<&str>>,
    functions: Option<Vec<&str>>,
    must_own: bool,
) -> Result<Vec<(Object<String>, Option<String>)>, sqlx::Error> {
    let query = sqlx::query_as(OBJECTS).bind(tables).bind(functions).bind(must_own);
    let rows: Vec<(String, String, String, String, Option<String>)> = query.fetch_all(conn).await?;
    let object = |(kind, table, name, definition, owner)| (Object { kind, table, name, definition }, owner);
    Ok(rows.into_iter().map(object).collect())
}

/// The differences between our tables in this database and what our migrations make, also in the one row of `leadership`.
/// `must_own`: this role is a daemon's.
pub(super) async fn schema_changes(conn: &mut PgConnection, must_own: bool) -> Result<Vec<SchemaChange>, sqlx::Error> {
    let ours = ours();
    let names = |kinds: &[&str]| -> Option<Vec<&str>> {
        Some(ours.iter().filter(|object| kinds.contains(&object.kind)).map(|object| object.name).collect())
    };
    let found = objects(conn, names(&["table", "view"]), names(&["function"]), must_own).await?;
    let mut changes = Vec::new();
    for (object, owner) in &found {
        match ours.iter().find(|known| known.is_namesake(object)) {
            Some(known) if known.definition == object.definition => {}
            Some(known) => changes.push(known.changed(Change::Altered)),
            None => changes.push(SchemaChange::new(object.kind_in_words(), &object.name, &object.table, Change::Added)),
        }
        changes.extend(owner.as_ref().map(|owner| object.changed(Change::OwnedBy(owner.clone()))));
    }
    let missing: Vec<_> =
        ours.iter().filter(|known| !found.iter().any(|(object, _)| known.is_namesake(object))).collect();
    // What was on a table went with the table.
    let went_with = |object: &Object<&str>| {
        !object.is_relation() && missing.iter().any(|table| table.is_relation() && table.name == object.table)
    };
    changes.extend(missing.iter().filter(|object| !went_with(object)).map(|object| object.changed(Change::Missing)));
    if sqlx::query_scalar(MAY_READ_LEADERSHIP).fetch_one(&mut *conn).await?
        && !sqlx::query_scalar::<_, bool>(HAS_LEADERSHIP).fetch_one(conn).await?
    {
        changes.push(SchemaChange::new("row of", "leadership", "leadership", Change::Missing));
    }
    Ok(changes)
}

/// The last known state of the schema.
#[derive(Debug, Default)]
pub(super) struct SchemaWatch {
    known: KnownChanges,
    /// See [`triggers`].
    triggers: i64,
}

impl SchemaWatch {
    /// Looks at the tables.
    pub(super) async fn update(&mut self, conn: &mut PgConnection) -> Result<(), sqlx::Error> {
        // Before the others: a trigger that is made in between makes the next turn look again.
        let triggers = sqlx::query_scalar(TRIGGERS).fetch_one(&mut *conn).await?;
        self.known.update(schema_changes(conn, true).await?);
        self.triggers = triggers;
        Ok(())
    }

    /// The triggers at the last look, in a number.
    pub(super) fn triggers(&self) -> i64 {
        self.triggers
    }

    /// Whether a foreign trigger or the like can change what our statements write.
    pub(super) fn can_interfere(&self) -> bool {
        self.known.can_interfere()
    }

    /// The changes at the last look.
    pub(super) fn changes(&self) -> &[SchemaChange] {
        &self.known.changes
    }

    /// Logs the changes, if they are others than at the last look.
    pub(super) fn log_news(&mut self) {
        self.known.news().into_iter().for_each(log_modified);
    }
}

/// Whether the tables of a queue are as sweeper makes them: the differences.
///
/// # Errors
/// If there is no queue, it is not up to date or not for this role to see, or the server fails.
pub async fn changed_tables(options: &Options) -> Result<Vec<SchemaChange>, OpenError> {
    look(options, async |conn: &mut PgConnection| schema_changes(conn, true).await).await
}

/// The objects of a queue's schema, whatever they are: a line for each, as `migrations/postgres/objects.txt` has them.
///
/// # Errors
/// As [`changed_tables`].
pub async fn described_tables(options: &Options) -> Result<String, OpenError> {
    let found = look(options, async |conn: &mut PgConnection| objects(conn, None, None, true).await).await?;
    let line = |(Object { kind, table, name, definition }, _): &(Object<String>, _)| {
        format!("{kind}\t{table}\t{name}\t{definition}\n")
    };
    Ok(found.iter().map(line).collect())
}

async fn look<T>(
    options: &Options,
    work: impl AsyncFnOnce(&mut PgConnection) -> Result<T, sqlx::Error>,
) -> Result<T, OpenError> {
    let mut conn = connect_known(options).await?;
    let looked = work(&mut conn).await;
    // Whatever becomes of it: what was read is read.
    let _ = conn.close().await;
    looked.map_err(|source| StoreError::new(&options.address, "look at the tables", source).into())
}

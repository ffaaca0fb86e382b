//! Producers that mean no harm and do it anyway: rows that the CHECKs refuse, and rows for which they were switched off.

use std::time::Duration;

use sqlx::{AssertSqlSafe, Connection, SqliteConnection};

use crate::bed::{Bed, Plan, START, UNCHECKED};

/// One of each type, and the odd ones among them, as SQL literals.
fn values() -> Vec<String> {
    let text = |text: &str| format!("'{}'", text.replace('\'', "''"));
    let mut values: Vec<String> = [
        "NULL",
        "0",
        "1",
        "-1",
        "21",
        "0.5",
        "1e300",
        "-1e300",
        "9e999",
        "9223372036854775807",
        "-9223372036854775808",
        "x''",
        "x'00'",
        "x'ff'",
        "x'eda080'",
        "CAST(x'eda080' AS TEXT)",
        "CAST(x'ff31' AS TEXT)",
        "'1' || char(0) || '2'",
        "char(10)",
        "char(127)",
        "char(8238)",
        "zeroblob(1048576)",
    ]
    .map(str::to_owned)
    .into();
    values.extend(
        [
            "",
            " ",
            "1 ",
            "01",
            "gone",
            "pending",
            "deleted",
            "dead",
            "..",
            ".",
            "*",
            "../../admin",
            "a/b",
            "a\\b",
            "%2e%2e",
            "%2F",
            "a?b#c",
            "'; DROP TABLE deletions; --",
            "\u{1F600}",
            "\u{0}",
        ]
        .map(text),
    );
    values.push(format!("'{}'", "x".repeat(1 << 20)));
    values
}

const COLUMNS: [&str; 15] = [
    "id",
    "agent_id",
    "entry_id",
    "priority",
    "state",
    "attempts",
    "due_at",
    "batch_max",
    "asks",
    "maybe_done",
    "request_id",
    "first_fault",
    "last_cause",
    "created_at",
    "settled_at",
];

/// Inserts a row with each of [`values`] in each column, the rest of it in order; returns how many were taken.
async fn insert_every_value_in_every_column(conn: &mut SqliteConnection) -> usize {
    let mut taken = 0;
    for column in COLUMNS {
        for (n, value) in values().iter().enumerate() {
            let fixed = [("agent_id", "'odd'".to_owned()), ("entry_id", format!("'{column}-{n}'"))];
            let (names, values): (Vec<&str>, Vec<&str>) = fixed
                .iter()
                .filter(|(name, _)| *name != column)
                .map(|(name, value)| (*name, value.as_str()))
                .chain([(column, value.as_str())])
                .unzip();
            let sql = format!("INSERT INTO deletions ({}) VALUES ({})", names.join(", "), values.join(", "));
            taken += usize::from(sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut *conn).await.is_ok());
        }
    }
    taken
}

/// Works on whatever is there until the good rows are deleted and nothing odd is open any more that is due.
async fn work_it_off(bed: &mut Bed) {
    bed.insert_many("good", 50).await;
    for _ in 0..20 {
        bed.work().await;
        bed.clock.advance(std::time::Duration::from_secs(100));
    }
    assert_eq!(bed.count("agent_id = 'good' AND state = 'deleted'").await, 50);
    let open: Vec<(i64, String)> =
        bed.query("SELECT id, quote(due_at) FROM deletions WHERE state = 'pending' AND typeof(due_at) <> 'text'").await;
    let now = bed.clock.now().0;
    let open: Vec<_> =
        open.iter().filter(|(_, due_at)| due_at.parse::<f64>().is_ok_and(|at| at <= now as f64)).collect();
    assert!(open.is_empty(), "due, and left lying: {open:?}");
    for sent in bed.sent().concat() {
        let fits = (1..=255).contains(&sent.len()) && sent.bytes().all(|byte| byte.is_ascii_graphic());
        assert!(fits, "{sent:?} was sent");
    }
    for request in bed.sandbox.requests() {
        assert!(request.uri.starts_with("/v1/agents/") && request.uri.split('/').count() == 6, "{}", request.uri);
    }
    // Which names the broken CHECKs, too, where they were switched off.
    let broken: Vec<(String,)> = bed.query("PRAGMA integrity_check(1000)").await;
    let broken: Vec<_> =
        broken.iter().filter(|(said,)| said != "ok" && said != "CHECK constraint failed in deletions").collect();
    assert!(broken.is_empty(), "{broken:?}");
}

#[tokio::test]
async fn every_value_in_every_column_is_refused_or_handled() {
    let mut bed = Bed::new(Plan::default()).await;
    let mut conn = SqliteConnection::connect(bed.options.path.to_str().unwrap()).await.unwrap();
    let taken = insert_every_value_in_every_column(&mut conn).await;
    assert!((50..250).contains(&taken), "{taken} of {}", COLUMNS.len() * values().len());
    work_it_off(&mut bed).await;
}

#[tokio::test]
async fn what_a_check_refuses_an_insert_or_ignore_does_not_pass_over_in_silence() {
    let (bed, bare) = (Bed::new(Plan::default()).await, Bed::new(Plan::default()).await);
    let connect = async |bed: &Bed| SqliteConnection::connect(bed.options.path.to_str().unwrap()).await.unwrap();
    let (mut conn, mut checked) = (connect(&bed).await, connect(&bare).await);
    // Here, the CHECKs alone decide.
    sqlx::raw_sql("DROP TRIGGER deletions_checked; DROP TRIGGER holds_checked").execute(&mut checked).await.unwrap();
    let holds = ["scope", "cause", "since_at", "until_at", "probed_at", "repeats"];
    let columns = COLUMNS.map(|column| ("deletions", column)).into_iter();
    let mut refused = 0;
    for (table, column) in
        columns.chain([("deletions", "evidence"), ("deletions", "label")]).chain(holds.map(|column| ("holds", column)))
    {
        for (n, value) in values().iter().enumerate() {
            let fixed = match table {
                "holds" => vec![("scope", format!("'{column}-{n}'"))],
                _ => vec![("agent_id", "'odd'".to_owned()), ("entry_id", format!("'{column}-{n}'"))],
            };
            let (names, texts): (Vec<&str>, Vec<&str>) = fixed
                .iter()
                .filter(|(name, _)| *name != column)
                .map(|(name, value)| (*name, value.as_str()))
                .chain([(column, value.as_str())])
                .unzip();
            let into = format!("INTO {table} ({}) VALUES ({})", names.join(", "), texts.join(", "));
            let plain = sqlx::raw_sql(AssertSqlSafe(format!("INSERT {into}"))).execute(&mut checked).await;
            let ignoring = sqlx::raw_sql(AssertSqlSafe(format!("INSERT OR IGNORE {into}"))).execute(&mut conn).await;
            // In a trigger, that the id is -1 looks like that none is given.
            if (column, value.as_str()) == ("id", "-1") {
                continue;
            }
            let what = &into[..into.len().min(200)];
            assert_eq!(ignoring.is_ok(), plain.is_ok(), "{what}: {ignoring:?}, {plain:?}");
            assert!(ignoring.is_err() || ignoring.unwrap().rows_affected() == 1, "{what}: nothing was said");
            refused += usize::from(plain.is_err());
        }
    }
    assert!(refused > 300, "{refused}");
}

#[tokio::test]
async fn a_row_whose_checks_were_switched_off_ends_nothing_but_itself() {
    let mut bed = Bed::new(Plan::default()).await;
    let mut conn = SqliteConnection::connect(bed.options.path.to_str().unwrap()).await.unwrap();
    sqlx::raw_sql(UNCHECKED).execute(&mut conn).await.unwrap();
    let taken = insert_every_value_in_every_column(&mut conn).await;
    assert!(taken > 400, "{taken} of {}", COLUMNS.len() * values().len());
    work_it_off(&mut bed).await;
    let mut bed = bed.restart().await;
    bed.work().await;
}

#[tokio::test]
async fn a_row_that_no_request_can_carry_is_made_dead_and_stops_nobody() {
    let mut bed = Bed::new(Plan::default()).await;
    bed.insert_many("a", 30).await;
    bed.execute(UNCHECKED).await;
    bed.execute(
        "INSERT INTO deletions (agent_id, entry_id, due_at) VALUES
             ('a', 'white space', 0), ('a', '', 0), ('no/agent', '1', 0),
             ('a', 'never', 253402300800000), ('b', 'never', 9223372036854775807), ('b', 'long ago', -1)",
    )
    .await;
    bed.work().await;
    assert_eq!(bed.count("state = 'deleted'").await, 30);
    assert_eq!(bed.count("state = 'dead' AND last_cause = 'rejected'").await, 6);
    assert_eq!(bed.worker.totals().dead, 6, "--until-empty tells of them");
}

#[tokio::test]
async fn odd_values_in_holds_and_requests_end_nothing() {
    let mut bed = Bed::new(Plan::default()).await;
    let mut conn = SqliteConnection::connect(bed.options.path.to_str().unwrap()).await.unwrap();
    sqlx::raw_sql(UNCHECKED).execute(&mut conn).await.unwrap();
    for (table, fixed, columns) in [
        ("holds", ("scope", "'elsewhere'"), vec!["scope", "cause", "since_at", "until_at", "probed_at", "repeats"]),
        (
            "requests",
            ("correlation_id, agent_id, deletion_ids, size, claimed_at", "'c', 'a', '[1]', 1, 1"),
            vec![
                "kind",
                "answered_at",
                "status",
                "deleted",
                "absent",
                "retried",
                "dead",
                "fault",
                "detail",
                "remote_id",
                "verdicts",
            ],
        ),
    ] {
        for column in columns {
            for value in values() {
                let (names, values) = match fixed.0 == column {
                    true => (column.to_owned(), value),
                    false => (format!("{}, {column}", fixed.0), format!("{}, {value}", fixed.1)),
                };
                let sql = format!("INSERT INTO {table} ({names}) VALUES ({values})");
                let _ = sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut conn).await;
            }
        }
    }
    for manifest in values() {
        let sql = format!(
            "INSERT INTO requests (correlation_id, agent_id, deletion_ids, size, claimed_at) VALUES ('c', 'a', {manifest}, 1, 1)"
        );
        let _ = sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut conn).await;
    }
    assert!(bed.query::<(i64,)>("SELECT count(*) FROM requests").await[0].0 > 100);
    let mut bed = bed.restart().await;
    bed.execute("DELETE FROM holds WHERE scope = '*'").await;
    bed.insert_many("good", 50).await;
    bed.work().await;
    assert_eq!(bed.count("agent_id = 'good' AND state = 'deleted'").await, 50);
}

#[tokio::test]
async fn holds_with_odd_values_hold_what_they_say_at_the_most_and_can_be_lifted() {
    let past = format!("{}", START.minus(Duration::from_secs(1)));
    // since_at, until_at, whether it holds; the last of them only past the CHECKs.
    let cases = [
        (START.to_string(), past.clone(), false),
        (past.clone(), "0".to_owned(), false),
        ("253402300799999".to_owned(), past.clone(), false),
        ("0".to_owned(), "253402300799999".to_owned(), true),
        ("253402300799999".to_owned(), format!("{START} + 1"), true),
        ("0".to_owned(), "9223372036854775807".to_owned(), true),
        ("-9223372036854775807".to_owned(), "-9223372036854775807".to_owned(), false),
        ("'now'".to_owned(), "'tomorrow'".to_owned(), true),
        ("x'00'".to_owned(), "1.5".to_owned(), true),
    ];
    for cause in ["'operator'", "'nonsense'", "x'ff'"] {
        for (since, until, holds) in &cases {
            let mut bed = Bed::new(Plan::default()).await;
            bed.insert_many("a", 40).await;
            bed.execute(UNCHECKED).await;
            bed.execute(&format!(
                "INSERT INTO holds (scope, cause, since_at, until_at) VALUES ('a', {cause}, {since}, {until}),
                     ('no agent', {cause}, {since}, {until}), (x'61ff', {cause}, {since}, {until})"
            ))
            .await;
            bed.insert_many("b", 20).await;
            bed.work().await;
            let what = format!("{cause} since {since} until {until}");
            assert_eq!(bed.sizes().len(), if *holds { 1 } else { 3 }, "{what}");
            bed.execute("DELETE FROM holds WHERE scope = 'a'").await;
            bed.work().await;
            assert_eq!(bed.count("state = 'deleted'").await, 60, "{what}");
        }
    }
}

//! The SQL interface: what an INSERT may say, whatever its conflict clause.

use audio_cache_sweeper::model::deletion::refuse_floating;
use sqlx::{AssertSqlSafe, Connection, SqliteConnection};

use crate::bed::{Bed, Plan};

/// A producer's connection to a new queue.
async fn producer(bed: &Bed) -> SqliteConnection {
    SqliteConnection::connect(bed.options.path.to_str().unwrap()).await.unwrap()
}

async fn try_to(conn: &mut SqliteConnection, sql: &str) -> Result<(), String> {
    let done = sqlx::raw_sql(AssertSqlSafe(sql)).execute(conn).await;
    done.map(drop).map_err(|error| error.as_database_error().unwrap().message().to_owned())
}

/// Every way to write an INSERT that goes on after a conflict.
const CLAUSES: [(&str, &str); 8] = [
    ("INSERT", ""),
    ("INSERT OR IGNORE", ""),
    ("INSERT OR REPLACE", ""),
    ("INSERT OR FAIL", ""),
    ("INSERT OR ROLLBACK", ""),
    ("INSERT", " ON CONFLICT DO NOTHING"),
    ("INSERT", " ON CONFLICT (agent_id, entry_id) DO NOTHING"),
    ("INSERT", " ON CONFLICT (agent_id, entry_id) DO UPDATE SET priority = excluded.priority"),
];

#[tokio::test]
async fn seconds_are_refused_wherever_a_time_is_written() {
    let mut bed = Bed::new(Plan::default()).await;
    let mut conn = producer(&bed).await;
    let looks = |column: &str| format!("{column} must be Unix milliseconds; this looks like seconds");
    let (seconds, millis) =
        ("CAST(strftime('%s', 'now', '+7 days') AS INTEGER)", "strftime('%s', 'now', '+7 days') * 1000");
    for (table, columns, fixed, column) in [
        ("deletions", "agent_id, entry_id", "'a', '1'", "due_at"),
        ("deletions", "agent_id, entry_id", "'a', '1'", "created_at"),
        ("deletions", "agent_id, entry_id, state", "'a', '1', 'deleted'", "settled_at"),
        ("holds", "scope", "'a'", "since_at"),
        ("holds", "scope", "'a'", "until_at"),
    ] {
        let key = if table == "holds" { "scope" } else { "agent_id" };
        for (insert, clause) in CLAUSES {
            let clause = clause
                .replace("agent_id, entry_id", if table == "holds" { "scope, cause" } else { "agent_id, entry_id" });
            let clause = clause.replace("priority", column);
            let insert =
                |value| format!("{insert} INTO {table} ({columns}, {column}) VALUES ({fixed}, {value}){clause}");
            assert_eq!(try_to(&mut conn, &insert(seconds)).await, Err(looks(column)), "{}", insert(seconds));
            assert_eq!(try_to(&mut conn, &insert("99999999999")).await, Err(looks(column)));
            try_to(&mut conn, &insert(millis)).await.unwrap();
            let update = |value| format!("UPDATE {table} SET {column} = {value} WHERE {key} = 'a'");
            let error = try_to(&mut conn, &update(seconds)).await.unwrap_err();
            assert_eq!(error, format!("CHECK constraint failed: {}", looks(column)));
            for value in [millis, "0", "100000000000"] {
                try_to(&mut conn, &update(value)).await.unwrap();
            }
            try_to(&mut conn, &format!("DELETE FROM {table}")).await.unwrap();
        }
    }
    // "In an hour", as a span.
    for span in ["1", "3600", "604800"] {
        let due = format!("INSERT INTO deletions (agent_id, entry_id, due_at) VALUES ('a', '1', {span})");
        assert_eq!(try_to(&mut conn, &due).await, Err(looks("due_at")));
        let until = format!("INSERT INTO holds (scope, until_at) VALUES ('*', {span})");
        assert_eq!(try_to(&mut conn, &until).await, Err(looks("until_at")));
    }
    // A machine whose clock begins in 1970 can enqueue, and reopen.
    let early = "INSERT INTO deletions (agent_id, entry_id, created_at) VALUES ('a', '1', 60000)";
    try_to(&mut conn, early).await.unwrap();
    bed.work().await;
    assert_eq!(bed.count("state = 'deleted'").await, 1);
    try_to(&mut conn, early).await.unwrap();
    assert_eq!(bed.count("state = 'pending' AND due_at = 0").await, 1);
}

/// What drivers and spreadsheets make of numbers that they keep as doubles.
const FLOATING: [&str; 18] = [
    "4711.0",
    "4711.",
    "4711.00",
    "0.0",
    "-4711.0",
    "+4711.0",
    "4711,0",
    "9.00719925474099e+15",
    "9.007199254740992E15",
    "9007199254740993.0",
    "4.71E+15",
    "4,71E+15",
    "1e+16",
    "1e+21",
    "1.0e16",
    "1.0e+20",
    "1.5e+300",
    "-1e+22",
];

/// Text that looks nearly like it, and may be an ID.
const NOT_FLOATING: [&str; 18] = [
    "4711", "007", "1.5", "1.2.0", "10.0.0.0", "1e5", "4711e10", "123e4567", "12e", "e+5", "1e+", "abc.0", "v1.0",
    "a1e+5", "4711.10", "1.5e-05", "1e+2+3", ".",
];

#[tokio::test]
async fn a_number_that_was_bound_as_a_double_is_refused_whatever_the_clause() {
    let mut bed = Bed::new(Plan::default()).await;
    let mut conn = producer(&bed).await;
    for text in FLOATING {
        for (insert, clause) in CLAUSES {
            for values in [format!("('a', '{text}')"), format!("('{text}', '1')")] {
                let sql = format!("{insert} INTO deletions (agent_id, entry_id) VALUES {values}{clause}");
                let error = try_to(&mut conn, &sql).await.unwrap_err();
                assert!(error.contains("floating-point") && error.contains("bind it as text"), "{sql}: {error}");
            }
        }
    }
    for (n, text) in NOT_FLOATING.iter().enumerate() {
        let sql = format!("INSERT INTO deletions (agent_id, entry_id) VALUES ('a', '{text}'), ('agent-{n}', '{text}')");
        try_to(&mut conn, &sql).await.unwrap_or_else(|error| panic!("{text}: {error}"));
    }
    bed.execute("DELETE FROM deletions").await;
    let insert = "INSERT INTO deletions (agent_id, entry_id) VALUES ('a', ?)";
    for number in [4711.0, 9_007_199_254_740_993.0, 1e300, 0.0, -1.0] {
        let error = sqlx::query(insert).bind(number).execute(&mut conn).await.unwrap_err().to_string();
        assert!(error.contains("floating-point"), "{number}: {error}");
    }
    sqlx::query(insert).bind(9_007_199_254_740_993_i64).execute(&mut conn).await.unwrap();
    assert_eq!(bed.query::<(String,)>("SELECT entry_id FROM deletions").await, [("9007199254740993".to_owned(),)]);
}

#[tokio::test]
async fn what_the_schema_refuses_as_a_double_enqueue_refuses_too() {
    for text in FLOATING {
        assert!(refuse_floating(text).is_err(), "{text}");
    }
    for text in NOT_FLOATING {
        assert!(refuse_floating(text).is_ok(), "{text}");
    }
    let bed = Bed::new(Plan::default()).await;
    let mut conn = producer(&bed).await;
    let mut rng = fastrand::Rng::with_seed(15);
    let mut refused = 0;
    try_to(&mut conn, "BEGIN").await.unwrap();
    for _ in 0..20_000 {
        let length = rng.usize(1..9);
        let text: String =
            std::iter::repeat_with(|| char::from(rng.choice(*b"01239000.,eE++-a").unwrap())).take(length).collect();
        let inserted =
            try_to(&mut conn, &format!("INSERT INTO deletions (agent_id, entry_id) VALUES ('a', '{text}')")).await;
        assert_eq!(inserted.is_err(), refuse_floating(&text).is_err(), "{text}: {inserted:?}");
        refused += usize::from(inserted.is_err());
    }
    assert!(refused > 100, "{refused}");
}

/// A deleted, a pending and a waiting row, and what each clause makes of inserting them again.
async fn repeat(insert: &str, clause: &str) -> (Result<Vec<(i64,)>, String>, Vec<(i64, String, i64, i64)>) {
    let mut bed = Bed::new(Plan::default()).await;
    let mut conn = producer(&bed).await;
    try_to(&mut conn, "INSERT INTO deletions (agent_id, entry_id) VALUES ('a', '1')").await.unwrap();
    bed.work().await;
    let open = "INSERT INTO deletions (agent_id, entry_id, due_at) VALUES ('a', '2', 0), ('a', '3', 4100000000000)";
    try_to(&mut conn, open).await.unwrap();
    let values = "('a', '1', 7, 4000000000009), ('a', '2', 7, 4000000000009), ('a', '3', 7, 4000000000009)";
    let sql =
        format!("{insert} INTO deletions (agent_id, entry_id, priority, due_at) VALUES {values}{clause} RETURNING id");
    let told = sqlx::query_as(AssertSqlSafe(sql)).fetch_all(&mut conn).await;
    let told = told.map_err(|error| error.as_database_error().unwrap().message().to_owned());
    (told, bed.query("SELECT id, state, priority, due_at FROM deletions ORDER BY id").await)
}

#[tokio::test]
async fn a_repeated_insert_does_the_same_whatever_its_clause_or_fails_aloud() {
    let before = [
        (1, "deleted".to_owned(), 0, 0),
        (2, "pending".to_owned(), 0, 0),
        (3, "pending".to_owned(), 0, 4_100_000_000_000),
    ];
    let after = [
        (1, "pending".to_owned(), 7, 4_000_000_000_009),
        (2, "pending".to_owned(), 7, 0),
        (3, "pending".to_owned(), 7, 4_000_000_000_009),
    ];
    for (insert, clause) in [
        ("INSERT", ""),
        ("INSERT OR IGNORE", ""),
        ("INSERT", " ON CONFLICT DO NOTHING"),
        ("INSERT", " ON CONFLICT (agent_id, entry_id) DO NOTHING"),
    ] {
        assert_eq!(repeat(insert, clause).await, (Ok(vec![]), after.to_vec()), "{insert}{clause}");
    }
    // An upsert's RETURNING has the rows that there are, and its own update goes on top.
    let same = " ON CONFLICT (agent_id, entry_id) DO UPDATE SET agent_id = excluded.agent_id";
    assert_eq!(repeat("INSERT", same).await, (Ok(vec![(1,), (2,), (3,)]), after.to_vec()));
    let lower = " ON CONFLICT (agent_id, entry_id) DO UPDATE SET priority = 3";
    let mut lowered = after.to_vec();
    lowered.iter_mut().for_each(|row| row.2 = 3);
    assert_eq!(repeat("INSERT", lower).await, (Ok(vec![(1,), (2,), (3,)]), lowered));
    for (insert, clause, said) in [
        ("INSERT OR REPLACE", "", "INSERT OR REPLACE would replace a row that is there"),
        ("REPLACE", "", "INSERT OR REPLACE would replace a row that is there"),
        ("INSERT OR ABORT", "", "UNIQUE constraint failed: deletions.agent_id, deletions.entry_id"),
        ("INSERT OR ROLLBACK", "", "UNIQUE constraint failed: deletions.agent_id, deletions.entry_id"),
        (
            "INSERT",
            " ON CONFLICT (agent_id, entry_id) DO UPDATE SET entry_id = 'other'",
            "id, agent_id and entry_id of a deletion stay as they are",
        ),
    ] {
        let (told, rows) = repeat(insert, clause).await;
        let error = told.unwrap_err();
        assert!(error.contains(said), "{insert}{clause}: {error}");
        assert_eq!(rows, before, "{insert}{clause}: nothing of it is done");
    }
}

#[tokio::test]
async fn an_insert_or_replace_of_what_is_new_inserts_it_whatever_was_repeated_before() {
    let bed = Bed::new(Plan::default()).await;
    let mut conn = producer(&bed).await;
    let insert = "INSERT OR REPLACE INTO deletions (agent_id, entry_id) VALUES ('a', '1')";
    try_to(&mut conn, insert).await.unwrap();
    for clause in ["", " OR IGNORE"] {
        // It is repeated, taken out, and is new again.
        try_to(&mut conn, &insert.replace(" OR REPLACE", clause)).await.unwrap();
        assert!(try_to(&mut conn, insert).await.is_err());
        try_to(&mut conn, "DELETE FROM deletions").await.unwrap();
        try_to(&mut conn, insert).await.unwrap();
        try_to(&mut conn, "INSERT INTO deletions (agent_id, entry_id) VALUES ('a', '2'), ('b', '1')").await.unwrap();
        try_to(&mut conn, "DELETE FROM deletions WHERE entry_id = '2' OR agent_id = 'b'").await.unwrap();
    }
    // With recursive triggers, OR REPLACE fires those on DELETE, too.
    try_to(&mut conn, "PRAGMA recursive_triggers = ON").await.unwrap();
    assert!(try_to(&mut conn, insert).await.is_err());
    // Whoever empties the triggers' own table takes nothing from them.
    try_to(&mut conn, "DELETE FROM repeated").await.unwrap();
    assert!(try_to(&mut conn, insert).await.is_err());
}

#[tokio::test]
async fn a_repeated_hold_takes_the_place_of_the_first_whatever_its_clause() {
    for (insert, clause) in CLAUSES {
        let mut bed = Bed::new(Plan::default()).await;
        let mut conn = producer(&bed).await;
        try_to(&mut conn, "INSERT INTO holds (scope, until_at) VALUES ('a', 4000000060000)").await.unwrap();
        let clause = clause.replace("agent_id, entry_id", "scope, cause").replace("priority", "until_at");
        try_to(&mut conn, &format!("{insert} INTO holds (scope) VALUES ('a'){clause}")).await.unwrap();
        let holds: Vec<(String, Option<i64>)> = bed.query("SELECT scope, until_at FROM holds").await;
        assert_eq!(holds, [("a".to_owned(), None)], "{insert}{clause}");
    }
}

#[tokio::test]
async fn the_entry_of_a_row_cannot_be_changed_while_its_answer_is_on_its_way() {
    let mut bed = Bed::new(Plan::default()).await;
    bed.insert(&[("a", "1"), ("a", "2")]).await;
    let mut conn = producer(&bed).await;
    for change in ["entry_id = '3'", "agent_id = 'b'", "id = 9", "entry_id = '2'"] {
        for update in ["UPDATE", "UPDATE OR REPLACE"] {
            let error = try_to(&mut conn, &format!("{update} deletions SET {change} WHERE entry_id = '1'")).await;
            assert!(error.unwrap_err().contains("delete the row and insert another"), "{update} {change}");
        }
    }
    try_to(&mut conn, "UPDATE deletions SET entry_id = entry_id, priority = 1").await.unwrap();
    bed.work().await;
    assert_eq!(bed.count("state = 'deleted'").await, 2);
}

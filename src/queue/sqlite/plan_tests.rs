//! SQLite's plan of each statement of a turn: the index that it must use, and the tables that it must not read through.

use std::time::Duration;

use sqlx::{Row, SqliteConnection};

use super::{
    Options, Store, Synchronous, connection::connect, due_rows, expired_acts, expired_labels, expired_requests,
    invalid_rows, labels, listing, producer, reader, revive, settle, upkeep, verify,
};

async fn plan(conn: &mut SqliteConnection, sql: &str) -> String {
    let rows = sqlx::query(sqlx::AssertSqlSafe(format!("EXPLAIN QUERY PLAN {sql}"))).fetch_all(conn).await.unwrap();
    rows.iter().map(|row| row.get::<String, _>("detail")).collect::<Vec<_>>().join("\n")
}

/// Name, statement, and lines that its plan must have.
const PLANS: [(&str, &str, &[&str]); 48] = [
    (
        "lanes",
        listing::LANES,
        &[
            "SCAN deletions USING COVERING INDEX deletions_due",
            // All columns: with fewer, each step would go through the whole lane or priority.
            "SEARCH next USING COVERING INDEX deletions_due ((priority,agent_id,batch_max,due_at)>(?,?,?,?))",
            "SEARCH head USING INTEGER PRIMARY KEY",
        ],
    ),
    (
        "look",
        due_rows::LOOK,
        &["SEARCH deletions USING INDEX deletions_due (priority=? AND agent_id=? AND batch_max=? AND due_at=?)"],
    ),
    (
        "look for the newest",
        due_rows::LOOK_NEWEST,
        &["SEARCH deletions USING INDEX deletions_due (priority=? AND agent_id=? AND batch_max=? AND due_at=?)"],
    ),
    (
        "look for what is due later",
        due_rows::LOOK_LATER,
        &[
            "SEARCH deletions USING INDEX deletions_due (priority=? AND agent_id=? AND batch_max=? AND due_at>? AND due_at<?)",
        ],
    ),
    (
        "settle rows that have ended",
        settle::SETTLE_ENDED,
        &["SEARCH deletions USING INTEGER PRIMARY KEY", "SEARCH requests EXISTS USING INTEGER PRIMARY KEY"],
    ),
    (
        "settle rows that come back",
        settle::SETTLE_RETURNING,
        &["SEARCH deletions USING INTEGER PRIMARY KEY", "SEARCH requests EXISTS USING INTEGER PRIMARY KEY"],
    ),
    ("settle the requests", settle::SETTLE_REQUESTS, &["SEARCH requests USING INTEGER PRIMARY KEY"]),
    ("the end of a stretch of a sweep", invalid_rows::END, &["SEARCH deletions USING INTEGER PRIMARY KEY (rowid>?)"]),
    ("a stretch of a sweep", invalid_rows::READ, &["SEARCH deletions USING INTEGER PRIMARY KEY (rowid>? AND rowid<?)"]),
    ("make invalid rows dead", invalid_rows::MAKE_DEAD, &["SEARCH deletions USING INTEGER PRIMARY KEY (rowid=?)"]),
    (
        "orphans",
        listing::ORPHANS,
        &["requests USING INDEX requests_unanswered", "SEARCH deletions USING INTEGER PRIMARY KEY"],
    ),
    (
        "emptiness",
        "SELECT EXISTS (SELECT 1 FROM deletions WHERE state = 'pending')",
        &["deletions USING COVERING INDEX deletions_due"],
    ),
    ("standing of the open rows", reader::PENDING, &["SCAN deletions USING COVERING INDEX deletions_due"]),
    ("what would go out", reader::LANES_TO_SEND, &["SCAN deletions USING COVERING INDEX deletions_due"]),
    (
        "rows in flight",
        reader::PENDING_IN_FLIGHT,
        &["SEARCH deletions USING INTEGER PRIMARY KEY", "SCAN requests USING INDEX requests_unanswered"],
    ),
    (
        "rows that wait for others",
        reader::IDLE,
        &["SEARCH deletions USING INDEX deletions_due (priority=? AND agent_id=? AND batch_max=? AND due_at<?)"],
    ),
    ("standing of the dead rows", reader::DEAD, &["SCAN deletions USING INDEX deletions_dead"]),
    (
        "enqueue",
        producer::REPEATS,
        &["SEARCH deletions USING INDEX sqlite_autoindex_deletions_1 (agent_id=? AND entry_id=?)"],
    ),
    ("revive", revive::REVIVE, &["SEARCH deletions USING INTEGER PRIMARY KEY"]),
    (
        "reading back what was settled",
        verify::UNSETTLED,
        &["SEARCH deletions USING INTEGER PRIMARY KEY", "SEARCH requests USING INTEGER PRIMARY KEY"],
    ),
    ("reading back what was claimed", verify::ON_RECORD, &["SEARCH requests USING INTEGER PRIMARY KEY"]),
    (
        "reading back what was enqueued",
        producer::MISSING,
        &["SEARCH deletions USING INDEX sqlite_autoindex_deletions_1 (agent_id=? AND entry_id=?)"],
    ),
    ("the wishes of a label", reader::OF_LABEL, &["SEARCH wishes USING PRIMARY KEY (label=?)"]),
    (
        "the wishes for an entry",
        reader::OF_ENTRY,
        &["SEARCH wishes USING INDEX wishes_entry (agent_id=? AND entry_id=?)"],
    ),
    ("the labels", reader::LABELS, &["SEARCH wishes USING PRIMARY KEY (label>?)"]),
    ("the next label", expired_labels::NEXT, &["SEARCH wishes USING PRIMARY KEY (label>?)"]),
    (
        "look for an expired label",
        expired_labels::LOOK,
        &["SEARCH wishes USING PRIMARY KEY (label=? AND (agent_id,entry_id)>(?,?))"],
    ),
    (
        "remove an expired label",
        expired_labels::REMOVE,
        &[
            "SEARCH wishes USING PRIMARY KEY (label=? AND (agent_id,entry_id)>(?,?))",
            "SEARCH wishes USING PRIMARY KEY (label=? AND agent_id=? AND entry_id=?)",
        ],
    ),
    (
        "records of rows",
        reader::RECORDS,
        &[
            "SEARCH deletions USING INTEGER PRIMARY KEY (rowid>?)",
            "SEARCH wishes USING PRIMARY KEY (label=? AND agent_id=? AND entry_id=?)",
        ],
    ),
    (
        "records of an agent's rows",
        reader::RECORDS_OF_AGENT,
        &["SEARCH deletions USING INDEX sqlite_autoindex_deletions_1 (agent_id=? AND entry_id>?)"],
    ),
    (
        "records of wishes",
        reader::RECORDS_OF_WISHES,
        &[
            "SEARCH wishes USING PRIMARY KEY ((label,agent_id,entry_id)>(?,?,?))",
            "SEARCH deletions USING INDEX sqlite_autoindex_deletions_1",
        ],
    ),
    (
        "records of a label",
        reader::RECORDS_OF_LABEL,
        &["SEARCH wishes USING PRIMARY KEY (label=? AND (agent_id,entry_id)>(?,?))"],
    ),
    (
        "records of an agent's wishes",
        reader::RECORDS_OF_AGENTS_WISHES,
        &["SEARCH wishes USING INDEX wishes_entry (agent_id=? AND (entry_id,label)>(?,?))"],
    ),
    (
        "look for old rows",
        upkeep::LOOK,
        &[
            "SEARCH deletions USING INTEGER PRIMARY KEY (rowid>?)",
            "SEARCH known USING INTEGER PRIMARY KEY (rowid=?)",
            "SEARCH wishes USING COVERING INDEX wishes_entry (agent_id=? AND entry_id=?)",
        ],
    ),
    (
        "remove old rows",
        upkeep::DELETE,
        &[
            "SEARCH deletions USING INTEGER PRIMARY KEY (rowid>? AND rowid<?)",
            "SEARCH known USING INTEGER PRIMARY KEY (rowid=?)",
            "SEARCH wishes USING COVERING INDEX wishes_entry (agent_id=? AND entry_id=?)",
        ],
    ),
    (
        "look for old requests",
        expired_requests::LOOK,
        &[
            "SEARCH requests USING INTEGER PRIMARY KEY (rowid>?)",
            "SEARCH deletions USING INTEGER PRIMARY KEY (rowid=?)",
            "SEARCH wishes USING COVERING INDEX wishes_entry (agent_id=? AND entry_id=?)",
        ],
    ),
    (
        "look for old acts",
        expired_acts::LOOK,
        &["SEARCH acts USING INTEGER PRIMARY KEY (rowid>?)", "SEARCH wishes USING PRIMARY KEY (label=?)"],
    ),
    ("remove old acts", expired_acts::DELETE, &["SEARCH acts USING INTEGER PRIMARY KEY (rowid=?)"]),
    ("remove old requests", expired_requests::DELETE, &["SEARCH requests USING INTEGER PRIMARY KEY (rowid=?)"]),
    ("list by id", reader::LIST_BY_ID, &["SEARCH deletions USING INTEGER PRIMARY KEY (rowid>?)"]),
    (
        "list an agent's rows",
        reader::LIST_OF_AGENT,
        &["SEARCH deletions USING INDEX sqlite_autoindex_deletions_1 (agent_id=? AND entry_id>?)"],
    ),
    (
        "list pending rows",
        reader::LIST_PENDING,
        &[
            "SEARCH deletions USING INDEX deletions_due (priority=? AND agent_id=? AND batch_max=? AND due_at=? AND rowid>?)",
            "SEARCH deletions USING INDEX deletions_due ((priority,agent_id,batch_max,due_at)>(?,?,?,?))",
        ],
    ),
    ("list dead rows", reader::LIST_DEAD, &["SEARCH deletions USING INDEX deletions_dead (last_cause=? AND rowid>?)"]),
    (
        "list a label's wishes",
        reader::LIST_OF_LABEL,
        &[
            "SEARCH wishes USING PRIMARY KEY (label=? AND (agent_id,entry_id)>(?,?))",
            "SEARCH deletions USING COVERING INDEX sqlite_autoindex_deletions_1 (agent_id=? AND entry_id=?)",
            "SEARCH same USING INTEGER PRIMARY KEY (rowid=?)",
        ],
    ),
    (
        "dead rows of a label",
        labels::DEAD,
        &[
            "SEARCH wishes USING PRIMARY KEY (label=?)",
            "SEARCH deletions USING INDEX sqlite_autoindex_deletions_1 (agent_id=? AND entry_id=?)",
        ],
    ),
    (
        "pending rows of a label",
        labels::PENDING,
        &[
            "SEARCH wishes USING PRIMARY KEY (label=?)",
            "SEARCH deletions USING INDEX sqlite_autoindex_deletions_1 (agent_id=? AND entry_id=?)",
        ],
    ),
    (
        "cancel wishes of a label",
        labels::CANCEL,
        &["SEARCH wishes USING PRIMARY KEY (label=? AND agent_id=? AND entry_id=?)"],
    ),
    (
        "cancel all wishes for rows",
        labels::CANCEL_ALL,
        &["SEARCH wishes USING INDEX wishes_entry (agent_id=? AND entry_id=?)"],
    ),
];

/// The lines that the plan of [`reader::first_rows`] must have. That statement is put together at run time.
const PLAN_OF_FIRST_ROWS: [&str; 2] = [
    "SEARCH first USING INTEGER PRIMARY KEY",
    "SEARCH next USING COVERING INDEX deletions_due (priority=? AND agent_id=? AND batch_max=? AND due_at>?)",
];

#[tokio::test]
async fn no_statement_of_a_turn_reads_a_table_through() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options {
        path: dir.path().join("queue.db"),
        busy_timeout: Duration::from_secs(5),
        synchronous: Synchronous::Full,
    };
    drop(Store::open(options.clone()).await.unwrap());
    let mut conn = connect(&options, true).await.unwrap();
    let first_rows = reader::first_rows();
    let first_rows: (&str, &str, &[&str]) = ("age of the open rows", &first_rows, &PLAN_OF_FIRST_ROWS);
    for (name, sql, expected) in PLANS.into_iter().chain([first_rows]) {
        let plan = plan(&mut conn, sql).await;
        for line in expected {
            assert!(plan.contains(line), "{name}: {line:?} is missing in\n{plan}");
        }
        let through: Vec<&str> = plan
            .lines()
            .filter(|line| {
                ["SCAN deletions", "SCAN requests", "SCAN wishes", "SCAN head", "SCAN next"]
                    .iter()
                    .any(|scan| line.starts_with(scan))
                    && !line.contains("USING")
            })
            .collect();
        assert!(through.is_empty(), "{name}: {through:?} in\n{plan}");
        // Rows must come in the order of the index: to sort them, a look would read the whole lane. The one sort is that of the
        // lanes.
        let sorts = name.starts_with("look") && plan.matches("TEMP B-TREE FOR ORDER BY").count() > 1;
        assert!(!sorts, "{name} sorts in\n{plan}");
    }
}

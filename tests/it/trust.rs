//! Whoever can write the file can add triggers, which run inside our transactions. What they leave out, undo or never end is
//! noticed: nothing is sent that is not on record, the work ends with 3, and the message names them.

use std::{future::pending, path::Path, time::Duration};

use audio_cache_sweeper::{
    queue::sqlite::StoreError,
    sandbox::{Mood, Options},
    worker::{Ended, Until},
};
use tokio::time::timeout;

use crate::{
    bed::{Bed, Plan, UNCHECKED},
    daemon::{Daemon, Log as DaemonLog, configured, finish, open, queue, sandbox, sql, sweeper},
    logs::Log,
};

/// A statement that SQLite never comes to the end of.
const ENDLESS: &str = "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n";

/// Works until something is wrong, which is soon.
async fn fail(bed: &mut Bed) -> StoreError {
    // Long enough for any machine: when it is over, nothing was found wrong.
    timeout(Duration::from_secs(60), bed.worker.run(pending(), Until::Told)).await.unwrap().unwrap_err()
}

/// It ends the work for good, and names the trigger, its table and what to do.
fn assert_named(error: &StoreError, trigger: &str) {
    let said = error.to_string();
    assert!(!error.is_temporary(), "{said}");
    assert!(said.contains(trigger) && said.contains("drop what is not sweeper's"), "{said}");
    assert!(said.contains("queue.db"), "{said}");
}

#[tokio::test]
async fn what_is_not_on_record_is_not_sent() {
    for (trigger, body) in [
        ("theirs BEFORE INSERT ON requests", "SELECT RAISE(IGNORE)"),
        ("theirs BEFORE INSERT ON Requests WHEN NEW.id % 2 = 0", "SELECT RAISE(IGNORE)"),
        ("theirs AFTER INSERT ON requests", "DELETE FROM requests WHERE id = NEW.id"),
        ("theirs AFTER INSERT ON requests", "UPDATE requests SET deletion_ids = '[]' WHERE id = NEW.id"),
        ("theirs AFTER INSERT ON requests", "UPDATE requests SET correlation_id = 'x' WHERE id = NEW.id"),
        ("theirs AFTER INSERT ON requests", "UPDATE requests SET answered_at = 1 WHERE id = NEW.id"),
        (
            "theirs AFTER INSERT ON requests",
            "INSERT OR REPLACE INTO requests SELECT * FROM requests WHERE 0; UPDATE requests SET id = id + 1000000 WHERE id = NEW.id",
        ),
        ("theirs BEFORE INSERT ON requests", "SELECT RAISE(ABORT, 'not today')"),
        ("theirs BEFORE INSERT ON requests", "SELECT RAISE(ROLLBACK, 'not today')"),
        ("theirs BEFORE INSERT ON requests", "INSERT INTO gone VALUES (1)"),
    ] {
        let log = Log::default();
        let _guard = log.capture();
        let mut bed = Bed::new(Plan::default()).await;
        bed.insert_many("a", 50).await;
        bed.execute(&format!("CREATE TRIGGER {trigger} BEGIN {body}; END")).await;
        let error = fail(&mut bed).await;
        assert_named(&error, "trigger theirs on requests");
        assert_eq!(bed.sizes(), [0; 0], "{trigger} {body}");
        let counts = bed.query::<(i64,)>("SELECT count(*) FROM requests").await;
        assert_eq!(counts, [(0,)], "it is undone: {trigger} {body}");
        assert_eq!(bed.count("state = 'pending'").await, 50);
        let [said] = &log.events("trigger_interference")[..] else { panic!("once: {:?}", log.entries()) };
        assert_eq!((&said["level"], &said["names"]), (&"ERROR".into(), &"trigger theirs on requests".into()), "{said}");
    }
}

#[tokio::test]
async fn an_answer_that_cannot_be_written_ends_the_work_before_anything_more_is_sent() {
    let row = "trigger theirs on deletions";
    let request = "trigger theirs on requests";
    for (name, trigger, body) in [
        (row, "BEFORE UPDATE ON deletions", "SELECT RAISE(IGNORE)"),
        (row, "BEFORE UPDATE ON deletions WHEN OLD.entry_id = '7'", "SELECT RAISE(IGNORE)"),
        (
            row,
            "AFTER UPDATE OF state ON deletions WHEN NEW.state = 'deleted'",
            "UPDATE deletions SET state = 'pending', settled_at = NULL WHERE id = NEW.id",
        ),
        (
            row,
            "AFTER UPDATE ON deletions WHEN NEW.state = 'pending'",
            "UPDATE deletions SET request_id = NULL, due_at = 0, attempts = 0 WHERE id = NEW.id",
        ),
        (request, "BEFORE UPDATE ON requests", "SELECT RAISE(IGNORE)"),
        (
            request,
            "AFTER UPDATE OF answered_at ON requests",
            "UPDATE requests SET answered_at = NULL WHERE id = NEW.id",
        ),
        (
            request,
            "AFTER UPDATE OF answered_at ON requests",
            "UPDATE deletions SET state = 'pending', settled_at = NULL",
        ),
    ] {
        let sandbox = Options { failing: vec!["3".to_owned()], ..Plan::default().sandbox };
        let mut bed = Bed::new(Plan { sandbox, ..Plan::default() }).await;
        bed.insert_many("a", 10).await;
        bed.execute(&format!("CREATE TRIGGER theirs {trigger} BEGIN {body}; END")).await;
        let error = fail(&mut bed).await;
        assert_named(&error, name);
        assert!(error.to_string().contains("is not there after it was written"), "{error}");
        assert_eq!(bed.sizes(), [10], "{trigger} {body}");
        // All or nothing: it is as the claim left it, for the next start.
        let open = bed.query::<(i64,)>("SELECT count(*) FROM requests WHERE answered_at IS NULL").await;
        assert_eq!((open[0].0, bed.count("state = 'pending' AND attempts = 0").await), (1, 10), "{trigger} {body}");
    }
}

#[tokio::test]
async fn what_the_daemon_places_lifts_and_buries_is_looked_for_too() {
    let mut bed = Bed::new(Plan::default()).await;
    bed.sandbox.script([Mood::status(401)]);
    bed.insert_many("a", 5).await;
    bed.execute("CREATE TRIGGER theirs BEFORE INSERT ON holds BEGIN SELECT RAISE(IGNORE); END").await;
    let error = fail(&mut bed).await;
    assert_named(&error, "trigger theirs on holds");
    assert!(error.to_string().contains("the hold on * for unauthorized is not there"), "{error}");
    assert_eq!(bed.sizes().len(), 1);

    let mut bed = Bed::new(Plan::default()).await;
    bed.insert_many("a", 5).await;
    bed.execute("INSERT INTO holds (scope, until_at) VALUES ('a', 4000000001000)").await;
    bed.execute("CREATE TRIGGER theirs BEFORE DELETE ON holds BEGIN SELECT RAISE(IGNORE); END").await;
    bed.work().await;
    bed.clock.advance(Duration::from_secs(2));
    let error = fail(&mut bed).await;
    assert_named(&error, "trigger theirs on holds");
    assert!(error.to_string().contains("1 holds are still there"), "{error}");

    let mut bed = Bed::new(Plan::default()).await;
    bed.execute(UNCHECKED).await;
    bed.execute(
        "INSERT INTO deletions (agent_id, entry_id) VALUES ('a', 'not printable: ' || char(10)), ('a/b', '1');
         CREATE TRIGGER theirs BEFORE UPDATE ON deletions BEGIN SELECT RAISE(IGNORE); END",
    )
    .await;
    let error = fail(&mut bed).await;
    assert_named(&error, "trigger theirs on deletions");
    assert!(error.to_string().contains("still pending"), "{error}");
}

#[tokio::test]
async fn who_only_watches_is_named_once_and_the_work_goes_on() {
    let log = Log::default();
    let _guard = log.capture();
    let mut bed = Bed::new(Plan::default()).await;
    bed.insert_many("a", 45).await;
    bed.work().await;
    assert_eq!(log.events("schema_modified").len(), 0, "{:?}", log.entries());
    // Made while the daemon runs.
    bed.execute(
        "CREATE TABLE audit (what, id);
         CREATE INDEX by_id ON audit (id);
         CREATE TRIGGER audit_deletions AFTER UPDATE OF state ON deletions BEGIN
             INSERT INTO audit VALUES (NEW.state, NEW.id); END;
         CREATE INDEX by_state ON deletions (state)",
    )
    .await;
    let names = "trigger audit_deletions on deletions, index by_state on deletions";
    bed.insert_many("b", 45).await;
    bed.sandbox.script([Mood::Gate]);
    bed.worker.turn().await.unwrap();
    // What is taken out while it is on its way is not missed.
    bed.execute("DELETE FROM deletions WHERE agent_id = 'b' AND entry_id IN ('1', '2', '3')").await;
    bed.execute("UPDATE deletions SET state = 'dead', settled_at = 1 WHERE agent_id = 'b' AND entry_id = '4'").await;
    bed.sandbox.open_gate();
    assert_eq!(bed.worker.run(pending(), Until::Empty { give_up_after: None }).await.unwrap(), Ended::Empty);
    assert_eq!(bed.count("state = 'deleted'").await, 45 + 41);
    let told: Vec<_> = log.events("schema_modified").iter().map(|line| line["names"].clone()).collect();
    assert_eq!(told, [names]);
    assert_eq!(log.events("schema_modified")[0]["level"], "WARN");
    // And found at the start.
    let bed = bed.restart().await;
    assert_eq!(log.events("schema_modified").len(), 2);
    drop(bed);
}

#[tokio::test]
async fn a_trigger_of_ours_that_was_changed_or_is_missing_is_named() {
    let log = Log::default();
    let _guard = log.capture();
    let mut bed = Bed::new(Plan::default()).await;
    bed.execute(
        "DROP TRIGGER deletions_renamed;
         DROP TRIGGER deletions_id_given;
         CREATE TRIGGER deletions_id_given BEFORE INSERT ON deletions WHEN NEW.id > 5 BEGIN
             SELECT RAISE(ABORT, 'no'); END;
         DROP VIEW outcomes",
    )
    .await;
    bed.work().await;
    let [told] = &log.events("schema_modified")[..] else { panic!("once: {:?}", log.entries()) };
    let names = "trigger deletions_id_given on deletions (ours, changed), view outcomes (ours, missing), \
                 trigger deletions_renamed on deletions (ours, missing)";
    assert_eq!(told["names"], names);
}

#[tokio::test]
async fn the_upkeep_has_a_bound_of_its_own() {
    let mut bed = Bed::new(Plan::default()).await;
    bed.insert_many("a", 20).await;
    bed.work().await;
    bed.execute(&format!("CREATE TRIGGER theirs BEFORE DELETE ON deletions BEGIN {ENDLESS}; END")).await;
    bed.clock.advance(bed.plan.settings.retention * 2);
    let error = fail(&mut bed).await;
    assert_named(&error, "trigger theirs on deletions");
    assert!(error.to_string().contains("prune: interrupted after 100 million"), "{error}");
}

/// It ended with 3, and named the trigger in each place.
fn assert_ended(code: i32, log: &DaemonLog, trigger: &str) {
    assert_eq!((code, log.count("trigger_interference", "ERROR")), (3, 1), "{log:#?}");
    assert_eq!(log.last("trigger_interference", "names"), trigger);
    assert!(log.last("stopped", "error").contains(trigger), "{log:#?}");
}

async fn states(dir: &Path) -> Vec<(String,)> {
    sql(dir, "SELECT state || count(*) FROM deletions GROUP BY state").await
}

#[tokio::test]
async fn each_start_says_it_again_until_the_trigger_is_dropped_and_then_the_answer_is_taken_for_lost() {
    let dir = tempfile::tempdir().unwrap();
    let sandbox = sandbox(Options::default()).await;
    queue(dir.path(), 20).await;
    sql(dir.path(), "CREATE TRIGGER theirs BEFORE UPDATE ON deletions BEGIN SELECT RAISE(IGNORE); END").await;
    for _ in 0..2 {
        let (code, log) = Daemon::start(configured(dir.path(), &sandbox)).ended().await;
        assert_ended(code, &log, "trigger theirs on deletions");
        assert_eq!(log.count("schema_modified", "WARN"), 1, "{log:#?}");
        assert_eq!(sandbox.requests().len(), 1, "the second start sends nothing");
    }
    let mut init = sweeper(dir.path());
    init.arg("init");
    let (code, _, stderr) = finish(init).await;
    assert!(
        code == 0 && stderr.contains("the tables are not as sweeper makes them: trigger theirs on deletions"),
        "{code}: {stderr}"
    );
    sql(dir.path(), "DROP TRIGGER theirs").await;
    let mut command = configured(dir.path(), &sandbox);
    command.args(["run", "--until-empty"]);
    let (code, stdout, _) = finish(command).await;
    assert_eq!((code, states(dir.path()).await), (0, vec![("absent20".to_owned(),)]), "{stdout}");
}

#[tokio::test]
async fn a_trigger_that_never_ends_is_interrupted_and_named_and_producers_go_on() {
    let dir = tempfile::tempdir().unwrap();
    let sandbox = sandbox(Options::default()).await;
    queue(dir.path(), 20).await;
    let endless = format!("CREATE TRIGGER theirs AFTER UPDATE ON deletions BEGIN {ENDLESS}; END");
    sql(dir.path(), &endless).await;
    let (code, log) = Daemon::start(configured(dir.path(), &sandbox)).ended().await;
    assert_ended(code, &log, "trigger theirs on deletions");
    assert!(log.last("stopped", "error").contains("interrupted after"), "{log:#?}");
    sql(dir.path(), "INSERT INTO deletions (agent_id, entry_id) VALUES ('b', '1')").await;
    assert_eq!(states(dir.path()).await, [("pending21".to_owned(),)]);
}

#[tokio::test]
async fn what_is_enqueued_and_left_out_by_a_trigger_is_not_called_waiting_and_one_that_never_ends_is_named() {
    for (body, said) in [
        ("SELECT RAISE(IGNORE)".to_owned(), "2 of 2 rows are not pending after they were enqueued"),
        (ENDLESS.to_owned(), "interrupted after"),
    ] {
        let dir = tempfile::tempdir().unwrap();
        queue(dir.path(), 1).await;
        sql(dir.path(), &format!("CREATE TRIGGER theirs BEFORE INSERT ON deletions BEGIN {body}; END")).await;
        let mut command = sweeper(dir.path());
        command.args(["enqueue", "--agent", "b", "4711", "4712"]);
        let (code, stdout, stderr) = finish(command).await;
        assert_eq!(code, 3, "{stdout}{stderr}");
        assert!(stderr.contains(said) && stderr.contains("trigger theirs on deletions"), "{stderr}");
        // Nobody is shut out by what is left of it.
        sql(dir.path(), "DROP TRIGGER theirs").await;
        sql(dir.path(), "INSERT INTO deletions (agent_id, entry_id) VALUES ('b', '4711')").await;
    }
}

#[tokio::test]
async fn rows_that_a_trigger_keeps_from_being_taken_out_or_brought_back_are_not_called_changed() {
    for (event, prepared, arguments, said) in [
        ("DELETE", "SELECT 1", &["cancel", "--all", "--yes"][..], "2 of 2 rows are still pending"),
        (
            "UPDATE",
            "UPDATE deletions SET state = 'dead', settled_at = created_at, last_cause = 'lost'",
            &["retry", "--all", "--yes"],
            "2 of 2 rows are still dead",
        ),
    ] {
        let dir = tempfile::tempdir().unwrap();
        queue(dir.path(), 2).await;
        let mut conn = open(&dir.path().join("sweeper.db")).await;
        let theirs =
            format!("{prepared}; CREATE TRIGGER theirs BEFORE {event} ON deletions BEGIN SELECT RAISE(IGNORE); END");
        sqlx::raw_sql(sqlx::AssertSqlSafe(theirs)).execute(&mut conn).await.unwrap();
        let mut command = sweeper(dir.path());
        command.args(arguments);
        let (code, stdout, stderr) = finish(command).await;
        assert_eq!(code, 3, "{stdout}{stderr}");
        assert!(stderr.contains(said) && stderr.contains("trigger theirs on deletions"), "{stderr}");
    }
}

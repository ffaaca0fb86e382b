//! Whoever owns the tables, or is a superuser, can add triggers, which run inside our transactions. What they leave out or undo is
//! noticed: nothing is sent that is not on record, no wish is lost, the work ends with 3, and the message names them.

use std::{future::pending, time::Duration};

use audio_cache_sweeper::{
    sandbox::{Mood, Options},
    worker::{Ended, Until},
};
use tokio::time::timeout;

use super::own::Own;
use crate::{
    daemon::{Log as DaemonLog, sandbox},
    engines::postgres::Postgres,
    logs::Log,
    suite::bed::{Bed, Plan},
};

/// It ended with 3, and named the trigger and what to do in each place.
fn assert_named(code: i32, log: &DaemonLog, name: &str, said: &str) {
    assert_eq!((code, log.count("trigger_interference", "ERROR")), (3, 1), "{said}: {log:#?}");
    assert_eq!(log.last("trigger_interference", "names"), name, "{log:#?}");
    let error = log.last("stopped", "error");
    assert!(
        error.contains(name) && error.contains(said) && error.contains("drop what is not sweeper's"),
        "{said}: {error}"
    );
}

const ALL: &str = "RETURN NULL;";

#[tokio::test]
async fn what_is_not_on_record_is_not_sent() {
    let missing = "requests that were about to be sent are on record";
    for (trigger, body, said) in [
        ("BEFORE INSERT ON requests FOR EACH ROW", ALL, missing),
        ("BEFORE INSERT ON requests FOR EACH ROW WHEN (NEW.id % 2 = 0)", ALL, missing),
        ("BEFORE INSERT ON requests FOR EACH ROW", "NEW.deletion_ids = '{}'; RETURN NEW;", missing),
        ("BEFORE INSERT ON requests FOR EACH ROW", "NEW.id = NEW.id + 1000000; RETURN NEW;", missing),
        (
            "AFTER INSERT ON requests FOR EACH ROW",
            "DELETE FROM sweeper.requests WHERE id = NEW.id; RETURN NULL;",
            missing,
        ),
        (
            "AFTER INSERT ON requests FOR EACH STATEMENT",
            "UPDATE sweeper.requests SET answered_at = 1; RETURN NULL;",
            missing,
        ),
        (
            "AFTER INSERT ON requests DEFERRABLE INITIALLY DEFERRED FOR EACH ROW",
            "DELETE FROM sweeper.requests WHERE id = NEW.id; RETURN NULL;",
            missing,
        ),
        ("BEFORE INSERT ON requests FOR EACH ROW", "RAISE 'not today';", "not today"),
    ] {
        let Some(own) = Own::new().await else { return };
        own.insert(50).await;
        own.interfere(trigger, body).await;
        let sandbox = sandbox(Options::default()).await;
        let (code, log) = own.work(&sandbox, &["--until-empty"]).await;
        assert_named(code, &log, "trigger theirs on requests", said);
        assert_eq!(sandbox.requests().len(), 0, "{trigger} {body}");
        let counts = "SELECT count(*) FROM sweeper.requests UNION ALL SELECT count(*) FROM sweeper.deletions_known";
        assert_eq!(own.numbers(counts).await, [0, 50], "it is undone: {trigger} {body}");
    }
}

#[tokio::test]
async fn an_answer_that_cannot_be_written_ends_the_work_before_anything_more_is_sent() {
    let (row, request) = ("trigger theirs on deletions_known", "trigger theirs on requests");
    let back = "UPDATE sweeper.deletions_known SET state = 'pending', settled_at = NULL WHERE settled_at IS NOT NULL; RETURN NULL;";
    for (name, trigger, body) in [
        (row, "BEFORE UPDATE ON deletions_known FOR EACH ROW", ALL),
        (row, "BEFORE UPDATE ON deletions_known FOR EACH ROW WHEN (OLD.entry_id = '7')", ALL),
        (row, "BEFORE UPDATE ON deletions_known FOR EACH ROW WHEN (OLD.entry_id = '3')", ALL),
        (row, "AFTER UPDATE ON deletions_known FOR EACH STATEMENT WHEN (pg_trigger_depth() = 0)", back),
        (request, "BEFORE UPDATE ON requests FOR EACH ROW", ALL),
        (request, "BEFORE UPDATE ON requests FOR EACH ROW", "NEW.answered_at = NULL; RETURN NEW;"),
        (request, "AFTER UPDATE ON requests FOR EACH STATEMENT WHEN (pg_trigger_depth() = 0)", back),
    ] {
        let Some(own) = Own::new().await else { return };
        own.insert(10).await;
        own.interfere(trigger, body).await;
        // One row comes back, and the others reach their end.
        let sandbox = sandbox(Options { failing: vec!["3".to_owned()], ..Options::default() }).await;
        let (code, log) = own.work(&sandbox, &["--until-empty"]).await;
        assert_named(code, &log, name, "is not there after it was written");
        assert_eq!(sandbox.requests().len(), 1, "{trigger} {body}");
        // All or nothing: it is as the claim left it, for the next start.
        let counts = "SELECT count(*) FROM sweeper.requests WHERE answered_at IS NULL
            UNION ALL SELECT count(*) FROM sweeper.deletions_known WHERE state = 'pending' AND attempts = 0";
        assert_eq!(own.numbers(counts).await, [1, 10], "{trigger} {body}");
    }
}

#[tokio::test]
async fn each_start_says_it_again_until_the_trigger_is_dropped_and_then_the_answer_is_taken_for_lost() {
    let Some(own) = Own::new().await else { return };
    own.insert(20).await;
    own.interfere("BEFORE UPDATE ON deletions_known FOR EACH ROW", ALL).await;
    let sandbox = sandbox(Options::default()).await;
    for _ in 0..2 {
        let (code, log) = own.work(&sandbox, &[]).await;
        assert_named(code, &log, "trigger theirs on deletions_known", "after it was written");
        assert_eq!(log.count("schema_modified", "WARN"), 1, "{log:#?}");
        assert_eq!(sandbox.requests().len(), 1, "the second start sends nothing");
    }
    own.execute("DROP TRIGGER theirs ON deletions_known").await;
    let (code, _) = own.work(&sandbox, &["--until-empty"]).await;
    assert_eq!(
        (code, own.numbers("SELECT count(*) FROM sweeper.deletions WHERE state = 'absent'").await),
        (0, vec![20])
    );
}

#[tokio::test]
async fn a_wish_that_does_not_become_a_row_stays_in_the_inbox_and_ends_the_work() {
    let (inbox, rows) = ("trigger theirs on deletions_new", "trigger theirs on deletions_known");
    for (name, trigger, body) in [
        (inbox, "BEFORE DELETE ON deletions_new FOR EACH ROW", ALL),
        (inbox, "BEFORE DELETE ON deletions_new FOR EACH ROW WHEN (OLD.entry_id = '7')", ALL),
        (rows, "BEFORE INSERT ON deletions_known FOR EACH ROW", ALL),
        (rows, "BEFORE INSERT ON deletions_known FOR EACH ROW WHEN (NEW.entry_id = '7')", ALL),
        (rows, "BEFORE UPDATE ON deletions_known FOR EACH ROW", ALL),
        (
            rows,
            "AFTER INSERT ON deletions_known FOR EACH ROW",
            "DELETE FROM sweeper.deletions_known WHERE id = NEW.id; RETURN NULL;",
        ),
        ("trigger theirs on wishes", "BEFORE INSERT ON wishes FOR EACH ROW", ALL),
    ] {
        let Some(own) = Own::new().await else { return };
        let sandbox = sandbox(Options::default()).await;
        // Two are settled, and wished for again.
        own.insert(2).await;
        assert_eq!(own.work(&sandbox, &["--until-empty"]).await.0, 0);
        own.insert(10).await;
        own.execute("INSERT INTO deletions (agent_id, entry_id, label) VALUES ('a', '11', 'T')").await;
        own.interfere(trigger, body).await;
        let (code, log) = own.work(&sandbox, &["--until-empty"]).await;
        assert_named(code, &log, name, "nothing was changed");
        let counts =
            "SELECT count(*) FROM sweeper.deletions_new UNION ALL SELECT count(*) FROM sweeper.deletions_known";
        assert_eq!(own.numbers(counts).await, [11, 2], "{trigger} {body}");
        own.execute("DROP FUNCTION public.theirs CASCADE").await;
        assert_eq!(own.work(&sandbox, &["--until-empty"]).await.0, 0);
        let counts = "SELECT count(*) FROM sweeper.deletions_known WHERE state <> 'pending'
            UNION ALL SELECT count(*) FROM sweeper.wishes WHERE state = 'deleted'";
        assert_eq!(own.numbers(counts).await, [11, 1], "nothing is lost: {trigger} {body}");
    }
}

#[tokio::test]
async fn holds_acts_notes_and_invalid_rows_that_are_not_written_end_the_work_too() {
    let hold = "INSERT INTO holds (scope, until_at) VALUES ('a', 1764000000000)";
    let act =
        "INSERT INTO acts (acted_at, act, operator, rows, updated_at, ended) VALUES (1, 'retry', 'ann', 1, 1, true)";
    let invalid = "INSERT INTO deletions_known (id, agent_id, entry_id, state) OVERRIDING SYSTEM VALUE VALUES (99, 'a b', '1', 'pending')";
    for (prepared, trigger, name, said) in [
        ("", "BEFORE INSERT ON holds", "trigger theirs on holds", "the hold on * for unauthorized is not there"),
        (hold, "BEFORE DELETE ON holds", "trigger theirs on holds", "1 holds are still there"),
        (act, "BEFORE UPDATE ON acts", "trigger theirs on acts", "1 acts are not marked"),
        (hold, "BEFORE DELETE ON edits", "trigger theirs on edits", "the rows of edits stay there"),
        (
            invalid,
            "BEFORE UPDATE ON deletions_known",
            "trigger theirs on deletions_known",
            "1 rows that were made dead are still pending",
        ),
        (
            "",
            "BEFORE UPDATE ON leadership",
            "trigger theirs on leadership",
            "the row of leadership is not there, or not written",
        ),
    ] {
        let Some(own) = Own::new().await else { return };
        own.insert(5).await;
        own.execute(prepared).await;
        own.interfere(&format!("{trigger} FOR EACH ROW"), ALL).await;
        let sandbox = sandbox(Options::default()).await;
        if said.contains("unauthorized") {
            sandbox.script([Mood::status(401)]);
        }
        let (code, log) = own.work(&sandbox, &[]).await;
        let error = log.last("stopped", "error");
        assert!(code == 3 && error.contains(name) && error.contains(said), "{trigger}: {code} {error}");
    }
}

#[tokio::test]
async fn a_rule_or_a_policy_that_makes_a_statement_fail_is_named() {
    for (sql, name) in [
        ("CREATE RULE theirs AS ON INSERT TO requests DO INSTEAD NOTHING", "rule theirs on requests"),
        ("CREATE RULE theirs AS ON UPDATE TO deletions_known DO INSTEAD NOTHING", "rule theirs on deletions_known"),
        ("CREATE RULE theirs AS ON DELETE TO deletions_new DO INSTEAD NOTHING", "rule theirs on deletions_new"),
        (
            "ALTER TABLE requests ENABLE ROW LEVEL SECURITY; ALTER TABLE requests FORCE ROW LEVEL SECURITY",
            "row-level security of requests",
        ),
        ("ALTER TABLE deletions_known DROP CONSTRAINT \"one row per agent_id and entry_id\"", "(ours, missing)"),
        (
            "ALTER TABLE deletions_known ADD CHECK (state <> 'deleted')",
            "constraint deletions_known_state_check on deletions_known",
        ),
    ] {
        let Some(own) = Own::new().await else { return };
        own.insert(5).await;
        own.execute(sql).await;
        let sandbox = sandbox(Options::default()).await;
        let (code, log) = own.work(&sandbox, &["--until-empty"]).await;
        assert_eq!((code, log.count("trigger_interference", "ERROR")), (3, 1), "{sql}: {log:#?}");
        assert!(log.last("stopped", "error").contains(name), "{sql}: {log:#?}");
        assert!(sandbox.requests().len() <= 1, "{sql}");
    }
}

#[tokio::test]
async fn what_is_enqueued_and_left_out_by_a_trigger_is_not_called_accepted() {
    let Some(own) = Own::new().await else { return };
    own.interfere("BEFORE INSERT ON deletions_new FOR EACH ROW WHEN (NEW.entry_id = '4711')", ALL).await;
    let (code, out, err) = own.run(&["enqueue", "--agent", "b", "4711", "4712"]).await;
    let said = "1 of 2 rows are not in the inbox after they were enqueued; not made by sweeper, and at work inside its transactions: \
                trigger theirs on deletions_new";
    assert!(code == 3 && err.contains(said), "{code} {out}{err}");
    assert_eq!(own.numbers("SELECT count(*) FROM sweeper.deletions").await, [0], "all or nothing");
}

/// A daemon looks at the tables once a minute, and a turn must not trust in that.
#[tokio::test]
async fn a_trigger_that_is_made_while_the_daemon_runs_is_noticed_by_the_next_turn() {
    if crate::cluster::cluster().is_none() {
        return;
    }
    let back =
        "UPDATE sweeper.deletions_known SET state = 'pending', settled_at = NULL WHERE id = NEW.id; RETURN NULL;";
    for (trigger, body, sent) in [
        ("BEFORE UPDATE ON deletions_known FOR EACH ROW WHEN (OLD.entry_id = '7')", ALL, 1),
        ("AFTER UPDATE ON deletions_known FOR EACH ROW WHEN (NEW.state = 'deleted')", back, 1),
        ("AFTER INSERT ON requests FOR EACH ROW", "DELETE FROM sweeper.requests WHERE id = NEW.id; RETURN NULL;", 1),
    ] {
        let mut bed = Bed::<Postgres>::new(Plan::default()).await;
        bed.insert_many("a", 20).await;
        bed.sandbox.script([Mood::Gate]);
        bed.worker.turn().await.unwrap();
        bed.engine
            .execute(&format!(
                "CREATE FUNCTION theirs() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {body} END $$;
                 CREATE TRIGGER theirs {trigger} EXECUTE FUNCTION theirs()"
            ))
            .await;
        bed.insert_many("b", 20).await;
        bed.sandbox.open_gate();
        let ended = timeout(Duration::from_secs(60), bed.worker.run(pending(), Until::Told)).await.unwrap();
        bed.engine.execute("DROP FUNCTION theirs CASCADE").await;
        let error = ended.unwrap_err();
        assert!(error.to_string().contains("trigger theirs on "), "{error}");
        assert_eq!(bed.sizes().len(), sent, "{trigger}: {error}");
    }
}

#[tokio::test]
async fn who_only_watches_is_named_once_and_rows_that_are_taken_out_meanwhile_are_not_missed() {
    if crate::cluster::cluster().is_none() {
        return;
    }
    for is_watched in [true, false] {
        let log = Log::default();
        let _guard = log.capture();
        let mut bed = Bed::<Postgres>::new(Plan::default()).await;
        if is_watched {
            bed.engine
                .execute(
                    "CREATE FUNCTION audited() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
                     CREATE TRIGGER audited AFTER UPDATE ON deletions_known FOR EACH ROW EXECUTE FUNCTION audited()",
                )
                .await;
        }
        bed.insert_many("b", 45).await;
        bed.sandbox.script([Mood::Gate]);
        bed.worker.turn().await.unwrap();
        bed.engine
            .execute(
                "DELETE FROM deletions WHERE entry_id IN ('1', '2', '3');
                 UPDATE deletions SET state = 'dead', settled_at = 1 WHERE entry_id = '4'",
            )
            .await;
        bed.sandbox.open_gate();
        let ended = bed.worker.run(pending(), Until::Empty { give_up_after: None }).await;
        if is_watched {
            bed.engine.execute("DROP FUNCTION audited CASCADE").await;
        }
        assert_eq!(ended.unwrap(), Ended::Empty);
        let deleted: Vec<(i64,)> = bed.engine.query("SELECT count(*) FROM deletions WHERE state = 'deleted'").await;
        assert_eq!(deleted, [(41,)]);
        assert_eq!(log.events("schema_modified").len(), usize::from(is_watched), "{:?}", log.entries());
    }
}

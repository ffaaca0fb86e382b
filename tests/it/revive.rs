//! `sweeper retry` and `sweeper cancel`, run as a user would.

use std::{path::Path, process::Command};

use audio_cache_sweeper::sandbox::{Mood, Options};

use crate::{
    bed::UNCHECKED,
    daemon::{Daemon, Locked, finish, queue, sandbox, sql, sweeper},
    enqueue::{fed, on_a_terminal},
};

fn run(dir: &Path, arguments: &[&str]) -> (i32, String, String) {
    fed(command(dir, arguments), "")
}

fn command(dir: &Path, arguments: &[&str]) -> Command {
    let mut command = sweeper(dir);
    command.args(arguments);
    command
}

/// Dead rows of two agents and three causes, and rows in every other state.
async fn mixed(dir: &Path) {
    queue(dir, 3).await; // a 1, 2, 3
    for insert in [
        "INSERT INTO deletions (agent_id, entry_id, state, settled_at, last_cause, attempts, batch_max, asks, maybe_done,
             request_id, first_fault)
         VALUES ('a', 'x', 'dead', 5, 'api_failed', 8, 0, 2, 1, 7, 6), ('a', 'y', 'dead', 5, 'rejected', 1, 1, 0, 0, 7, NULL),
                ('b', 'x', 'dead', 5, 'lost', 8, 20, 0, 1, 7, 7), ('b', 'y', 'dead', 5, 'api_failed', 8, 20, 0, 0, 7, 1)",
        "INSERT INTO deletions (agent_id, entry_id, state, settled_at) VALUES ('a', 'd', 'deleted', 5), ('b', 'a', 'absent', 5)",
        "INSERT INTO deletions (agent_id, entry_id) VALUES ('b', 'p')",
    ] {
        sql(dir, insert).await;
    }
}

async fn ids(dir: &Path, condition: &str) -> String {
    let rows = sql(dir, &format!("SELECT agent_id || entry_id FROM deletions WHERE {condition} ORDER BY 1")).await;
    rows.into_iter().map(|(id,)| id).collect::<Vec<_>>().join(" ")
}

#[tokio::test]
async fn dead_rows_come_back_by_agent_by_cause_or_all() {
    let cases: [(&[&str], &str); 5] = [
        (&["--agent", "a"], "ax ay"),
        (&["--cause", "api_failed"], "ax by"),
        (&["--agent", "b", "--cause", "api_failed"], "by"),
        (&["--all"], "ax ay bx by"),
        (&["--cause", "throttled"], ""),
    ];
    for (selector, revived) in cases {
        let dir = tempfile::tempdir().unwrap();
        mixed(dir.path()).await;
        let before = ids(dir.path(), "1").await;
        let count = revived.split_whitespace().count();
        let s = if count == 1 { "" } else { "s" };
        let (code, out, _) = run(dir.path(), &[&["retry", "--dry-run"], selector].concat());
        assert_eq!((code, out), (0, format!("dry run: {count} dead row{s} would be retried; nothing was written\n")));
        assert_eq!(ids(dir.path(), "state = 'dead'").await, "ax ay bx by");
        let (code, out, err) = run(dir.path(), &[&["retry", "--yes"], selector].concat());
        let said = if count > 0 {
            format!("retried {count}\n")
        } else {
            "no dead row matches; nothing was written\n".to_owned()
        };
        assert_eq!((code, out, err.as_str()), (0, said, ""), "{selector:?}");
        let condition = "state = 'pending' AND settled_at IS NULL AND attempts = 0 AND asks = 0 AND due_at > 0
                         AND request_id IS NULL AND first_fault IS NULL";
        assert_eq!(ids(dir.path(), condition).await, revived, "{selector:?}");
        assert_eq!(
            ids(dir.path(), "state = 'pending' AND due_at = 0").await,
            "a1 a2 a3 bp",
            "the others stay as they are"
        );
        let condition = "state = 'dead' AND attempts > 0 AND settled_at = 5 AND request_id = 7";
        let left: Vec<_> = ["ax", "ay", "bx", "by"].into_iter().filter(|id| !revived.contains(id)).collect();
        assert_eq!(ids(dir.path(), condition).await, left.join(" "), "{selector:?}");
        assert_eq!(
            (ids(dir.path(), "state IN ('deleted', 'absent')").await.as_str(), ids(dir.path(), "1").await),
            ("ad ba", before)
        );
    }
}

#[tokio::test]
async fn what_is_known_of_a_dead_row_comes_back_with_it() {
    let dir = tempfile::tempdir().unwrap();
    mixed(dir.path()).await;
    run(dir.path(), &["retry", "--all", "--yes"]);
    assert_eq!(ids(dir.path(), "batch_max = 1").await, "ay", "a rejected row goes by itself");
    assert_eq!(ids(dir.path(), "batch_max = 20 AND due_at > 0").await, "ax bx by");
    assert_eq!(ids(dir.path(), "maybe_done = 1").await, "ax bx");
}

#[tokio::test]
async fn a_row_that_no_request_can_carry_stays_dead_and_keeps_no_other() {
    let dir = tempfile::tempdir().unwrap();
    mixed(dir.path()).await;
    let odd = "INSERT INTO deletions (agent_id, entry_id, state, settled_at, last_cause, batch_max)
         VALUES ('a', 'odd', 'dead', 5, 'rejected', 99)";
    sql(dir.path(), &format!("{UNCHECKED} {odd}")).await;
    let (code, out, err) = run(dir.path(), &["retry", "--all", "--yes"]);
    assert_eq!((code, out.as_str()), (0, "retried 4\n"));
    let reason = "values that the schema does not allow were forced in, and no request can carry them";
    assert_eq!(err, format!("1 row stays dead: {reason}\n"));
    assert_eq!(ids(dir.path(), "state = 'dead'").await, "aodd");
}

#[tokio::test]
async fn many_rows_are_revived_and_cancelled_in_steps() {
    let dir = tempfile::tempdir().unwrap();
    queue(dir.path(), 5_000).await;
    sql(dir.path(), "UPDATE deletions SET state = 'dead', settled_at = 5, last_cause = 'lost'").await;
    assert_eq!(run(dir.path(), &["retry", "--all", "--yes"]).1, "retried 5000\n");
    assert_eq!(run(dir.path(), &["cancel", "--all", "--yes"]).1, "cancelled 5000\n");
    assert_eq!(ids(dir.path(), "1").await, "");
}

#[tokio::test]
async fn pending_rows_are_taken_out_by_entry_by_agent_or_all() {
    let cases: [(&[&str], &str, i32); 5] = [
        (&["--agent", "a", "1", "3", "1"], "a2 bp", 0),
        (&["--agent", "a"], "bp", 0),
        (&["--all"], "", 0),
        (&["--agent", "a", "1", "x", "nothing"], "a2 a3 bp", 1),
        (&["--agent", "a", "d"], "a1 a2 a3 bp", 1),
    ];
    for (selector, left, code) in cases {
        let dir = tempfile::tempdir().unwrap();
        mixed(dir.path()).await;
        let count = 4 - left.split_whitespace().count();
        let s = if count == 1 { "" } else { "s" };
        let (dry_code, out, _) = run(dir.path(), &[&["cancel", "--dry-run"], selector].concat());
        assert_eq!(
            (dry_code, out),
            (code, format!("dry run: {count} pending row{s} would be cancelled; nothing was written\n"))
        );
        assert_eq!(ids(dir.path(), "state = 'pending'").await, "a1 a2 a3 bp");
        let (real_code, out, err) = run(dir.path(), &[&["cancel", "--yes"], selector].concat());
        let said = if count > 0 {
            format!("cancelled {count}\n")
        } else {
            "no pending row matches; nothing was written\n".to_owned()
        };
        assert_eq!((real_code, out), (code, said), "{selector:?}: {err}");
        assert_eq!(err.contains("not pending"), code == 1, "{err}");
        assert_eq!(ids(dir.path(), "state = 'pending'").await, left, "{selector:?}");
        assert_eq!(ids(dir.path(), "state <> 'pending'").await, "ad ax ay ba bx by", "what was settled stays");
    }
}

#[tokio::test]
async fn an_agent_without_rows_is_a_slip_and_nothing_is_done() {
    let dir = tempfile::tempdir().unwrap();
    mixed(dir.path()).await;
    for command in ["cancel", "retry"] {
        for how in ["--dry-run", "--yes"] {
            let (code, out, err) = run(dir.path(), &[command, "--agent", "nobody", how]);
            assert_eq!((code, out.as_str()), (1, ""), "{command} {how}: {err}");
            assert!(err.starts_with("there is no row of agent nobody in /"), "{command} {how}: {err}");
        }
    }
    assert_eq!(ids(dir.path(), "state = 'pending'").await, "a1 a2 a3 bp");
}

#[tokio::test]
async fn whoever_cancels_a_row_that_is_on_its_way_is_told_so() {
    let dir = tempfile::tempdir().unwrap();
    let sandbox = sandbox(Options::default()).await;
    let daemon = Daemon::start_calling(dir.path(), &sandbox, Mood::Gate, "1h").await;
    let (code, out, err) = finish(command(dir.path(), &["cancel", "--all", "--yes"])).await;
    assert_eq!((code, out.as_str()), (0, "cancelled 1\n"));
    assert_eq!(err, "1 row was in flight, and may be deleted all the same\n");
    sandbox.open_gate();
    let daemon = daemon.until("request").await;
    daemon.signal("TERM");
    assert_eq!(daemon.ended().await.0, 0);
    assert!(sandbox.requests().iter().all(|request| request.status == 200));
    assert_eq!(ids(dir.path(), "1").await, "", "the answer brings no row back");
}

#[tokio::test]
async fn slips_end_with_2_and_a_database_that_cannot_be_used_with_3() {
    let dir = tempfile::tempdir().unwrap();
    mixed(dir.path()).await;
    let cases: [(&[&str], &str); 11] = [
        (&["retry", "--yes"], "--agent <AGENT>"),
        (&["retry", "--all", "--agent", "a"], "cannot be used with"),
        (&["retry", "--cause", "api_faild"], "a similar value exists: 'api_failed'"),
        (&["retry", "--cause", "operator"], "invalid value 'operator'"),
        (&["retry", "--all"], "standard input is no terminal: give --yes"),
        (&["cancel", "--yes"], "--agent <AGENT>"),
        (&["cancel", "1", "--yes"], "--agent <AGENT>"),
        (&["cancel", "--all", "--agent", "a"], "cannot be used with"),
        (&["cancel", "--all"], "standard input is no terminal: give --yes"),
        (&["cancel", "--agent", "a", "b c"], "\"b c\" is not an ID"),
        (&["cancle", "--all"], "a similar subcommand exists: 'cancel'"),
    ];
    for (arguments, said) in cases {
        let (code, out, err) = run(dir.path(), arguments);
        assert_eq!((code, out.as_str()), (2, ""), "{arguments:?}: {err}");
        assert!(err.contains(said), "{arguments:?}: {said:?} is missing in {err}");
    }
    let _locked = Locked::new(dir.path()).await;
    for name in ["retry", "cancel"] {
        let mut command = command(dir.path(), &[name, "--all", "--yes"]);
        command.env("SWEEPER__DATABASE__BUSY_TIMEOUT", "10ms");
        let (code, _, err) = finish(command).await;
        assert_eq!(code, 3);
        assert!(err.contains("another process is writing"), "{err}");
        let mut elsewhere = self::command(dir.path(), &[name, "--all", "--yes"]);
        elsewhere.env("SWEEPER__DATABASE__PATH", "nowhere.db");
        let (code, _, err) = finish(elsewhere).await;
        assert_eq!(code, 3);
        assert!(err.contains("nowhere.db: there is no such file") && !dir.path().join("nowhere.db").exists(), "{err}");
    }
    assert_eq!(ids(dir.path(), "state = 'dead'").await, "ax ay bx by");
}

#[tokio::test]
async fn on_a_terminal_both_ask_first() {
    let dir = tempfile::tempdir().unwrap();
    mixed(dir.path()).await;
    for (name, question) in [("retry", "Retry 4 dead rows?"), ("cancel", "That cannot be undone.")] {
        let Some((code, shown)) = on_a_terminal(command(dir.path(), &[name, "--all"]), "no").await else { return };
        assert_eq!(code, 1, "{shown}");
        assert!(shown.contains(question) && shown.contains("nothing was written"), "{shown}");
        assert_eq!(ids(dir.path(), "state IN ('dead', 'pending')").await.split_whitespace().count(), 8);
    }
    let (code, shown) = on_a_terminal(command(dir.path(), &["cancel", "--all"]), "yes").await.unwrap();
    assert_eq!((code, shown.contains("cancelled 4")), (0, true), "{shown}");
    let (code, shown) = on_a_terminal(command(dir.path(), &["retry", "--all"]), "Y").await.unwrap();
    assert_eq!((code, shown.contains("retried 4")), (0, true), "{shown}");
}

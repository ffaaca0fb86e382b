//! `sweeper hold` and `sweeper release`, and the acts that commands leave, from outside.

use std::{
    io::Write as _,
    path::Path,
    process::{Command, Stdio},
};

use audio_cache_sweeper::{model::outcome::Cause, sandbox::Options};

use crate::{
    bed::UNCHECKED,
    daemon::{Daemon, configured, finish, queue, sandbox, sql, sweeper},
    enqueue::{fed, on_a_terminal},
};

/// A command of this operator: what it says on both channels, and how it ends.
fn run(dir: &Path, arguments: &[&str]) -> (i32, String, String) {
    let mut command = sweeper(dir);
    command.args(arguments).env("SUDO_USER", "ann").env("TZ", "UTC0");
    fed(command, "")
}

async fn all(dir: &Path, query: &str) -> Vec<String> {
    sql(dir, query).await.into_iter().map(|(text,)| text).collect()
}

/// Each act, the oldest first.
async fn acts(dir: &Path) -> Vec<String> {
    let query = "SELECT concat_ws('|', act, operator, coalesce(scope, '-'), rows, detail, ended) FROM acts ORDER BY id";
    all(dir, query).await
}

async fn holds(dir: &Path) -> Vec<String> {
    all(dir, "SELECT concat_ws('|', scope, cause, until_at IS NULL, why) FROM holds ORDER BY 1").await
}

#[tokio::test]
async fn a_hold_says_what_it_holds_until_when_and_how_it_is_lifted() {
    let dir = tempfile::tempdir().unwrap();
    queue(dir.path(), 3).await;
    let claim = "INSERT INTO requests (correlation_id, agent_id, deletion_ids, size, claimed_at)
                 VALUES ('x', 'a', '[1]', 1, 5)";
    sql(dir.path(), claim).await;
    let (code, out, err) = run(dir.path(), &["hold", "--agent", "a", "--why", "wrong voice"]);
    assert_eq!((code, err.as_str()), (0, ""));
    assert_eq!(
        out,
        "held a until somebody releases it; 2 pending rows wait\n\
         requests with 1 row are on their way, and are not stopped\n\
         lift it with: sweeper release --agent a\n"
    );
    let (code, out, _) = run(dir.path(), &["hold", "--all", "--for", "90m", "--as", "Bob Ö"]);
    assert!(code == 0 && out.starts_with("held everything until 20"), "{out}");
    assert!(out.contains(" UTC, for 1h 30m; 2 pending rows wait\n"), "{out}");
    assert!(out.ends_with("lift it with: sweeper release --all\n"), "{out}");
    assert_eq!(holds(dir.path()).await, ["*|operator|0", "a|operator|1|wrong voice"]);
    let found = acts(dir.path()).await;
    assert_eq!(found[0], "hold|ann|a|1|until somebody releases it: wrong voice|1");
    assert!(found[1].starts_with("hold|Bob Ö|*|1|until 20") && found.len() == 2, "{found:?}");
}

#[tokio::test]
async fn a_hold_that_is_there_is_replaced_and_that_is_said() {
    let dir = tempfile::tempdir().unwrap();
    queue(dir.path(), 1).await;
    sql(dir.path(), "INSERT INTO holds (scope, cause) VALUES ('a', 'forbidden')").await;
    run(dir.path(), &["hold", "--agent", "a", "--why", "wrong voice"]);
    let (code, out, _) = run(dir.path(), &["hold", "--agent", "a", "--for", "1h"]);
    assert!(code == 0 && out.contains("this takes the place of the hold of "), "{out}");
    assert!(out.contains(" ago, until somebody releases it: wrong voice\n"), "{out}");
    assert_eq!(holds(dir.path()).await, ["a|forbidden|1", "a|operator|0"], "the daemon's own stays");
}

#[tokio::test]
async fn an_agent_without_a_row_is_held_and_named() {
    let dir = tempfile::tempdir().unwrap();
    queue(dir.path(), 1).await;
    sql(dir.path(), "INSERT INTO deletions (agent_id, entry_id) VALUES ('PROJECT-58RP822I', 1), ('PROJECT-1', 1)")
        .await;
    let (code, _, err) = run(dir.path(), &["hold", "--agent", "PROJECT-58RP82I"]);
    let path = dir.path().join("sweeper.db").display().to_string();
    let said = format!(
        "there is no row of agent PROJECT-58RP82I in {path}; did you mean PROJECT-58RP822I? The hold is placed all the same\n"
    );
    assert_eq!((code, err), (0, said));
    let (_, _, err) = run(dir.path(), &["hold", "--agent", "BAKERY"]);
    assert!(err.starts_with(&format!("there is no row of agent BAKERY in {path}; ")), "{err}");
    assert!(err.ends_with("; the hold is placed all the same\n"), "{err}");
    assert_eq!(holds(dir.path()).await.len(), 2);
}

#[tokio::test]
async fn a_release_lifts_the_operator_s_hold_and_says_what_is_left() {
    let dir = tempfile::tempdir().unwrap();
    queue(dir.path(), 1).await;
    sql(
        dir.path(),
        "INSERT INTO holds (scope, cause, why) VALUES ('a', 'operator', 'wrong voice'), ('a', 'forbidden', NULL),
         ('b', 'operator', NULL), ('*', 'operator', NULL)",
    )
    .await;
    let (code, out, err) = run(dir.path(), &["release", "--agent", "a"]);
    assert_eq!((code, err.as_str()), (0, ""));
    let lines: Vec<&str> = out.lines().collect();
    assert!(lines[0].starts_with("released a: the hold of ") && lines[0].ends_with(": wrong voice"), "{out}");
    assert!(lines[1].starts_with("a is still held (forbidden): "), "{out}");
    assert!(lines[1].ends_with("lift it with: sweeper release --agent a --cause forbidden"), "{out}");
    assert!(lines[2].starts_with("everything is still held (operator): "), "{out}");
    assert!(lines[2].ends_with("lift it with: sweeper release --all"), "{out}");
    assert_eq!(holds(dir.path()).await, ["*|operator|1", "a|forbidden|1", "b|operator|1"]);
    let (code, out, _) = run(dir.path(), &["release", "--all"]);
    assert!(code == 0 && out.contains("2 holds on single agents stay"), "{out}");
    assert_eq!(holds(dir.path()).await, ["a|forbidden|1", "b|operator|1"]);
    assert_eq!(acts(dir.path()).await, ["release|ann|a|1|cause: operator|1", "release|ann|*|1|cause: operator|1"]);
}

#[tokio::test]
async fn a_release_with_nothing_to_lift_ends_with_1_and_leaves_no_act() {
    let dir = tempfile::tempdir().unwrap();
    queue(dir.path(), 1).await;
    sql(dir.path(), "INSERT INTO holds (scope, cause) VALUES ('a', 'unknown_agent')").await;
    for (arguments, said, out_says) in [
        (
            &["--agent", "a"][..],
            "nothing was released: no operator holds a\n",
            "release --agent a --cause unknown_agent\n",
        ),
        (&["--all"], "nothing was released: no operator holds everything\n", "1 hold on a single agent stays"),
        (&["--cause", "lost"], "nothing was released: there is no hold on anything for lost\n", "1 hold on a"),
        (&["--agent", "b", "--every-cause"], "nothing was released: there is no hold on b\n", ""),
    ] {
        let (code, out, err) = run(dir.path(), &[&["release"], arguments].concat());
        assert_eq!((code, err.as_str()), (1, said), "{arguments:?}");
        assert!(out.contains(out_says), "{arguments:?}: {out}");
    }
    assert_eq!((acts(dir.path()).await, holds(dir.path()).await.len()), (Vec::new(), 1));
}

#[tokio::test]
async fn the_daemon_s_holds_are_lifted_by_cause() {
    let place = Cause::ALL.map(|cause| format!("('a', '{0}'), ('b', '{0}'), ('*', '{0}')", cause.as_str())).join(", ");
    for (arguments, left) in [
        (&["--cause", "throttled"][..], "cause <> 'throttled'"),
        (&["--agent", "a", "--cause", "throttled"], "cause <> 'throttled' OR scope <> 'a'"),
        (&["--all", "--cause", "unauthorized"], "cause <> 'unauthorized' OR scope <> '*'"),
        (&["--agent", "b", "--every-cause"], "scope <> 'b'"),
        (&["--cause", "operator"], "cause <> 'operator'"),
    ] {
        let dir = tempfile::tempdir().unwrap();
        queue(dir.path(), 1).await;
        sql(dir.path(), &format!("INSERT INTO holds (scope, cause) VALUES {place}")).await;
        let expected = all(dir.path(), &format!("SELECT scope || cause FROM holds WHERE {left} ORDER BY 1")).await;
        let (code, out, err) = run(dir.path(), &[&["release"], arguments].concat());
        assert_eq!((code, err.as_str()), (0, ""), "{arguments:?}: {out}");
        assert_eq!(all(dir.path(), "SELECT scope || cause FROM holds ORDER BY 1").await, expected, "{arguments:?}");
    }
}

#[tokio::test]
async fn slips_of_hold_and_release_end_with_2_and_change_nothing() {
    let dir = tempfile::tempdir().unwrap();
    queue(dir.path(), 1).await;
    let long = "w".repeat(501);
    let allowed =
        "must be a duration such as 250ms, 30s, 5m or 30d, from 1s to 366d; leave the option out to hold until";
    let cases: [(&[&str], &str); 16] = [
        (&["hold"], "--agent <AGENT>"),
        (&["hold", "--all", "--agent", "a"], "cannot be used with"),
        (&["hold", "--agent", "a/b"], "\"a/b\" is not an agent ID"),
        (&["hold", "--all", "--for", "0s"], allowed),
        (&["hold", "--all", "--for", "-5m"], allowed),
        (&["hold", "--all", "--for", "99999999999999999999d"], allowed),
        (&["hold", "--all", "--for", "10y"], allowed),
        (&["hold", "--all", "--for", "60"], allowed),
        (&["hold", "--all", "--why", " "], "is empty: leave the option out"),
        (&["hold", "--all", "--why", "a\nb"], "must be text on one line"),
        (&["hold", "--all", "--why", &long], "has 501 characters: at most 500"),
        (&["hold", "--all", "--as", "\u{1b}[2J"], "must be text on one line"),
        (&["release"], "--agent <AGENT>"),
        (&["release", "--every-cause"], "--agent <AGENT>"),
        (&["release", "--all", "--every-cause", "--cause", "lost"], "cannot be used with"),
        (&["release", "--cause", "forbiden"], "a similar value exists: 'forbidden'"),
    ];
    for (arguments, said) in cases {
        let (code, out, err) = run(dir.path(), arguments);
        assert_eq!((code, out.as_str()), (2, ""), "{arguments:?}: {err}");
        assert!(err.contains(said), "{arguments:?}: {said:?} is missing in {err}");
    }
    assert_eq!((holds(dir.path()).await, acts(dir.path()).await), (Vec::new(), Vec::new()));
}

#[tokio::test]
async fn every_act_on_rows_is_kept_with_how_many_it_changed() {
    let dir = tempfile::tempdir().unwrap();
    queue(dir.path(), 0).await;
    let ids: String = (1..=5_001).map(|id| format!("{id}\n")).collect();
    std::fs::write(dir.path().join("ids.txt"), ids).unwrap();
    run(dir.path(), &["enqueue", "--agent", "a", "one"]);
    run(dir.path(), &["enqueue", "--agent", "a", "--file", "ids.txt", "--priority", "3"]);
    let mut command = sweeper(dir.path());
    command.arg("enqueue").env("SUDO_USER", "ann");
    fed(command, "agent_id,entry_id\na,1\nb,1\n");
    run(dir.path(), &["enqueue", "--agent", "a", "--dry-run", "6001", "6002"]);
    sql(dir.path(), "UPDATE deletions SET state = 'dead', settled_at = 5, last_cause = 'lost' WHERE id > 2").await;
    run(dir.path(), &["retry", "--agent", "a", "--cause", "lost", "--yes"]);
    run(dir.path(), &["retry", "--all", "--dry-run"]);
    run(dir.path(), &["retry", "--cause", "throttled", "--yes"]);
    run(dir.path(), &["cancel", "--agent", "a", "one", "--yes"]);
    run(dir.path(), &["cancel", "--all", "--yes", "--as", "bob"]);
    let file = dir.path().canonicalize().unwrap().join("ids.txt").display().to_string();
    assert_eq!(
        acts(dir.path()).await,
        [
            &format!("enqueue|ann|a|5001|from {file}, priority 3|1"),
            "enqueue|ann|-|2|from standard input|1",
            "retry|ann|a|5000|dead rows, cause: lost|1",
            "cancel|ann|a|1|named entries|1",
            "cancel|bob|*|5001|pending rows|1",
        ]
    );
}

#[tokio::test]
async fn a_hold_that_a_trigger_keeps_out_is_not_called_held() {
    for (theirs, arguments, said) in [
        ("INSERT ON holds", &["hold", "--all"][..], "the hold on * is not there after it was placed"),
        ("DELETE ON holds", &["release", "--agent", "a"], "1 holds are still there after they were lifted"),
        ("INSERT ON acts", &["hold", "--all"], "the act is not in the table acts"),
    ] {
        let dir = tempfile::tempdir().unwrap();
        queue(dir.path(), 1).await;
        sql(dir.path(), "INSERT INTO holds (scope) VALUES ('a')").await;
        sql(dir.path(), &format!("CREATE TRIGGER theirs BEFORE {theirs} BEGIN SELECT RAISE(IGNORE); END")).await;
        let (code, out, err) = run(dir.path(), arguments);
        assert_eq!((code, out.as_str()), (3, ""), "{theirs}: {err}");
        assert!(err.contains(said) && err.contains("trigger theirs on "), "{theirs}: {err}");
        assert_eq!((holds(dir.path()).await.len(), acts(dir.path()).await.len()), (1, 0), "{theirs}");
    }
}

#[tokio::test]
async fn a_hold_with_an_invalid_cause_counts_as_an_operator_s() {
    let dir = tempfile::tempdir().unwrap();
    queue(dir.path(), 1).await;
    sql(dir.path(), &format!("{UNCHECKED} INSERT INTO holds (scope, cause) VALUES ('a', 'weather')")).await;
    assert_eq!(run(dir.path(), &["release", "--agent", "a", "--cause", "lost"]).0, 1);
    assert_eq!(run(dir.path(), &["release", "--agent", "a"]).0, 0);
    assert_eq!(holds(dir.path()).await, [""; 0]);
}

#[tokio::test]
async fn acts_that_were_forced_in_are_shown_and_logged_and_harm_nobody() {
    let dir = tempfile::tempdir().unwrap();
    let sandbox = sandbox(Options::default()).await;
    queue(dir.path(), 1).await;
    let odd = "INSERT INTO acts (acted_at, act, operator, scope, rows, detail, updated_at, ended) VALUES
        ('x', 'shout', x'61ff', 'a b', -5, printf('%9999d', 1), 'y', 1),
        (5, x'00', 'a' || char(27) || '[2J', x'2a', 'many', x'1b', 5, 0)";
    sql(dir.path(), &format!("{UNCHECKED} {odd}")).await;
    let (code, out, err) = run(dir.path(), &["status"]);
    assert!(code == 0 && err.is_empty() && !out.contains('\u{1b}'), "{out}{err}");
    assert_eq!(run(dir.path(), &["status", "--json"]).0, 0);
    let mut command = configured(dir.path(), &sandbox);
    command.args(["run", "--until-empty"]);
    let (code, log, _) = finish(command).await;
    assert_eq!((code, log.matches("\"operator_act\"").count()), (0, 2), "{log}");
    assert_eq!(all(dir.path(), "SELECT 'left' FROM acts WHERE logged = 0").await, [""; 0]);
}

/// Rows that were tried, released or never tried, and are due later; one that is due; and one that is dead.
async fn waiting(dir: &Path) {
    queue(dir, 0).await;
    sql(dir, "DELETE FROM deletions").await;
    let later = "253402300799999";
    let insert = format!(
        "INSERT INTO deletions (agent_id, entry_id, due_at, attempts, request_id, last_cause) VALUES
             ('a', 'failed', {later}, 2, 7, 'lost'), ('a', 'released', {later}, 0, 8, 'throttled'),
             ('b', 'failed', {later}, 1, 9, 'lost'), ('a', 'never', {later}, 0, NULL, NULL),
             ('a', 'due', 0, 1, 7, 'lost')"
    );
    sql(dir, &insert).await;
    let dead = "INSERT INTO deletions (agent_id, entry_id, state, settled_at, last_cause) VALUES ('a', 'dead', 'dead', 5, 'lost')";
    sql(dir, dead).await;
}

/// The rows that are due later.
async fn due_later(dir: &Path) -> String {
    let query = "SELECT agent_id || '.' || entry_id FROM deletions WHERE due_at > 3000000000000 ORDER BY 1";
    all(dir, query).await.join(" ")
}

#[tokio::test]
async fn rows_that_failed_before_become_due_now_and_rows_never_tried_keep_their_time() {
    let cases: [(&[&str], usize, &str); 5] = [
        (&["--all"], 3, "a.never"),
        (&["--agent", "a"], 2, "a.never b.failed"),
        (&["--cause", "throttled"], 1, "a.failed a.never b.failed"),
        (&["--agent", "b", "--cause", "lost"], 1, "a.failed a.never a.released"),
        (&["--all", "--scheduled", "--yes"], 4, ""),
    ];
    for (chosen, count, left) in cases {
        let dir = tempfile::tempdir().unwrap();
        waiting(dir.path()).await;
        let (code, out, _) = run(dir.path(), &[&["retry", "--now", "--dry-run"], chosen].concat());
        let rows = if count == 1 { "row" } else { "rows" };
        let early = if left.is_empty() { ", of which 1 was enqueued for a later time" } else { "" };
        let said = format!("dry run: {count} waiting {rows}{early} would become due now; nothing was written\n");
        assert_eq!((code, out), (0, said), "{chosen:?}");
        assert_eq!(due_later(dir.path()).await, "a.failed a.never a.released b.failed");
        let (code, out, err) = run(dir.path(), &[&["retry", "--now"], chosen].concat());
        assert_eq!((code, out, err.as_str()), (0, format!("due now {count}\n"), ""), "{chosen:?}");
        assert_eq!(due_later(dir.path()).await, left, "{chosen:?}");
        let unchanged = "SELECT entry_id || attempts FROM deletions WHERE entry_id IN ('failed', 'due') ORDER BY id";
        assert_eq!(all(dir.path(), unchanged).await, ["failed2", "failed1", "due1"], "attempts still count");
        assert_eq!(all(dir.path(), "SELECT entry_id FROM deletions WHERE state = 'dead'").await, ["dead"]);
        let (_, out, _) = run(dir.path(), &[&["retry", "--now"], chosen].concat());
        assert_eq!(out, "no waiting row matches; nothing was written\n");
        let found = acts(dir.path()).await;
        assert!(found.len() == 1 && found[0].starts_with("retry|ann|"), "{found:?}");
    }
}

#[tokio::test]
async fn only_rows_that_somebody_scheduled_are_asked_about() {
    let dir = tempfile::tempdir().unwrap();
    waiting(dir.path()).await;
    for (arguments, said) in [
        (&["retry", "--now", "--all", "--scheduled"][..], "standard input is no terminal: give --yes"),
        (&["retry", "--all", "--scheduled"], "--now"),
        (&["retry", "--now"], "--agent <AGENT>"),
        (&["retry", "--now", "--scheduled", "--cause", "lost"], "cannot be used with"),
    ] {
        let (code, _, err) = run(dir.path(), arguments);
        assert_eq!(code, 2, "{arguments:?}: {err}");
        assert!(err.contains(said), "{arguments:?}: {err}");
    }
    let mut command = sweeper(dir.path());
    command.args(["retry", "--now", "--all", "--scheduled"]);
    let Some((code, shown)) = on_a_terminal(command, "no").await else { return };
    assert_eq!(code, 1, "{shown}");
    assert!(shown.contains("Send 4 waiting rows at once, of which 1 was enqueued for a later time?"), "{shown}");
    assert_eq!(due_later(dir.path()).await, "a.failed a.never a.released b.failed");
}

#[tokio::test]
async fn rows_that_are_held_all_the_same_are_counted() {
    let dir = tempfile::tempdir().unwrap();
    waiting(dir.path()).await;
    sql(dir.path(), "INSERT INTO holds (scope) VALUES ('a')").await;
    let (code, out, err) = run(dir.path(), &["retry", "--now", "--all"]);
    assert_eq!((code, out.as_str()), (0, "due now 3\n"));
    let lists = "for a hold: `sweeper status` lists the holds, `sweeper release` lifts them\n";
    assert_eq!(err, format!("2 of these rows wait {lists}"));
    let (_, _, err) = run(dir.path(), &["retry", "--all", "--yes"]);
    assert_eq!(err, format!("1 of these rows waits {lists}"));
    sql(dir.path(), "UPDATE holds SET until_at = 100000000000").await;
    sql(dir.path(), "UPDATE deletions SET due_at = 253402300799999 WHERE entry_id = 'failed'").await;
    assert_eq!(run(dir.path(), &["retry", "--now", "--all"]).2, "", "a hold that is over holds nothing");
}

#[tokio::test]
async fn a_daemon_sends_what_is_retried_now_at_once_and_logs_who_did_it() {
    let dir = tempfile::tempdir().unwrap();
    // Failing rows wait for others that failed, for a share of the hour.
    let sandbox = sandbox(Options { failing: vec!["1".to_owned()], ..Options::default() }).await;
    queue(dir.path(), 2).await;
    let mut command = configured(dir.path(), &sandbox);
    command.env("SWEEPER__RETRY__BASE_DELAY", "1h").env("SWEEPER__HOLD__AFTER_FAULTS", "9");
    let daemon = Daemon::start(command).until("request").await;
    while all(dir.path(), "SELECT entry_id FROM deletions WHERE due_at > created_at").await.is_empty() {}
    let retry = command_of(dir.path(), &["retry", "--now", "--all", "--as", "Ann"]);
    assert_eq!(finish(retry).await.1, "due now 1\n");
    sandbox.arrived(2).await;
    let daemon = daemon.until("request").await;
    let hold = command_of(dir.path(), &["hold", "--all", "--why", "lunch", "--as", "Ann"]);
    assert_eq!(finish(hold).await.0, 0);
    let daemon = daemon.until("hold_placed").await;
    assert!(daemon.text().contains(r#""why":"lunch""#), "{}", daemon.text());
    assert!(daemon.text().contains(r#""remedy":"`sweeper release --all` lifts it""#), "{}", daemon.text());
    daemon.signal("TERM");
    let (code, log) = daemon.ended().await;
    assert_eq!((code, log.count("operator_act", "INFO")), (0, 2), "{log:#?}");
    assert_eq!(log.last("operator_act", "message"), "Ann held everything");
    assert_eq!(log.last("operator_act", "detail"), "until somebody releases it: lunch");
    assert_eq!(all(dir.path(), "SELECT act FROM acts WHERE logged = 0").await, [""; 0]);
}

fn command_of(dir: &Path, arguments: &[&str]) -> Command {
    let mut command = sweeper(dir);
    command.args(arguments);
    command
}

#[tokio::test]
async fn a_command_that_is_killed_leaves_the_number_of_rows_that_it_had_changed() {
    let dir = tempfile::tempdir().unwrap();
    queue(dir.path(), 0).await;
    let mut command = command_of(dir.path(), &["enqueue", "--agent", "a"]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let mut input = child.stdin.take().unwrap();
    for ids in ["10\n11\n", "12\n13\n14\n"] {
        let before = all(dir.path(), "SELECT entry_id FROM deletions").await.len();
        input.write_all(ids.as_bytes()).unwrap();
        while all(dir.path(), "SELECT entry_id FROM deletions").await.len() == before {}
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let rows = all(dir.path(), "SELECT entry_id FROM deletions").await.len() - 1;
    assert_eq!(rows, 5);
    let found = acts(dir.path()).await;
    assert!(found.len() == 1 && found[0].ends_with("|a|5|from standard input|0"), "{found:?}");
}

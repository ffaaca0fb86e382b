//! `sweeper run --max-requests N`: so many requests leave, and not one more; then it ends.

use audio_cache_sweeper::sandbox::{Mood, Options, Outage, Sandbox};
use serde_json::Value;

use crate::daemon::{Daemon, configured, finish, queue, sandbox, sql, sweeper};

/// Runs it with these arguments and variables: its exit code, and the last line of its log.
async fn canary(
    dir: &std::path::Path,
    sandbox: &Sandbox,
    arguments: &[&str],
    environment: &[(&str, &str)],
) -> (i32, Value) {
    let mut command = configured(dir, sandbox);
    command.args(["run", "--max-requests"]).args(arguments).envs(environment.iter().copied());
    let (code, out, err) = finish(command).await;
    assert_eq!(err, "", "{out}");
    (code, serde_json::from_str(out.lines().last().unwrap()).unwrap())
}

#[tokio::test]
async fn as_many_requests_as_it_may_send_leave_side_by_side_and_it_ends() {
    for requests in [1, 7, 8, 9, 30] {
        let dir = tempfile::tempdir().unwrap();
        let sandbox = sandbox(Options::default()).await;
        queue(dir.path(), 1_000).await;
        let (code, last) = canary(dir.path(), &sandbox, &[&requests.to_string()], &[]).await;
        assert_eq!((code, sandbox.requests().len()), (0, requests), "{last}");
        let done = (&last["event"], &last["exit_code"], &last["requests"], &last["deleted"]);
        assert_eq!(done, (&"stopped".into(), &0.into(), &requests.into(), &(20 * requests).into()));
        let left = sql(dir.path(), "SELECT CAST(count(*) AS TEXT) FROM deletions WHERE state = 'pending'").await;
        assert_eq!(left, [((1_000 - 20 * requests).to_string(),)]);
        let open = sql(dir.path(), "SELECT 'open' FROM requests WHERE answered_at IS NULL").await;
        assert_eq!(open, [], "each is settled");
    }
}

#[tokio::test]
async fn probes_and_single_entry_deletes_and_requests_without_an_answer_count() {
    let dir = tempfile::tempdir().unwrap();
    let down = sandbox(Options { outage: Some(Outage::Status(500)), ..Options::default() }).await;
    queue(dir.path(), 200).await;
    let short = [("SWEEPER__HOLD__BASE_DELAY", "10ms"), ("SWEEPER__HOLD__MAX_DELAY", "20ms")];
    let (code, last) = canary(dir.path(), &down, &["12"], &short).await;
    assert_eq!((code, down.requests().len()), (0, 12), "{last}");

    let dir = tempfile::tempdir().unwrap();
    let sandbox = sandbox(Options { failing: vec!["3".to_owned()], ..Options::default() }).await;
    queue(dir.path(), 20).await;
    let (code, last) = canary(dir.path(), &sandbox, &["4"], &[("SWEEPER__RETRY__MAX_ATTEMPTS", "3")]).await;
    let methods: Vec<String> = sandbox.requests().iter().map(|request| request.method.clone()).collect();
    assert_eq!((code, methods.len(), methods[3].as_str()), (4, 4, "DELETE"), "{last}");

    let dir = tempfile::tempdir().unwrap();
    queue(dir.path(), 40).await;
    sandbox.script([Mood::Reset { done: false }]);
    let (code, last) = canary(dir.path(), &sandbox, &["1"], &[]).await;
    assert_eq!((code, sandbox.requests().len(), &last["retried"]), (0, 5, &20.into()), "{last}");
    assert_eq!(sql(dir.path(), "SELECT fault FROM requests").await, [("lost".to_owned(),)]);
}

#[tokio::test]
async fn a_dead_row_of_its_requests_is_4_and_one_of_an_earlier_daemon_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let api = sandbox(Options { failing: vec!["3".to_owned()], ..Options::default() }).await;
    queue(dir.path(), 20).await;
    let one_attempt = [("SWEEPER__RETRY__MAX_ATTEMPTS", "1"), ("SWEEPER__RETRY__ASK_SINGLY", "false")];
    let (code, last) = canary(dir.path(), &api, &["1"], &one_attempt).await;
    assert_eq!((code, &last["dead"], &last["exit_code"]), (4, &1.into(), &4.into()), "{last}");

    let dir = tempfile::tempdir().unwrap();
    let sandbox = sandbox(Options::default()).await;
    let killed = Daemon::start_calling(dir.path(), &sandbox, Mood::Hang, "8s").await;
    killed.signal("KILL");
    killed.ended().await;
    sql(dir.path(), "INSERT INTO deletions (agent_id, entry_id) VALUES ('a', 'next')").await;
    let (code, last) = canary(dir.path(), &sandbox, &["1"], &one_attempt).await;
    assert_eq!((code, &last["dead"], &last["deleted"]), (0, &1.into(), &1.into()), "{last}");
}

#[tokio::test]
async fn it_waits_for_rows_as_the_daemon_does_unless_it_is_to_end_when_the_queue_is_empty() {
    let dir = tempfile::tempdir().unwrap();
    let sandbox = sandbox(Options::default()).await;
    queue(dir.path(), 1).await;
    let mut command = configured(dir.path(), &sandbox);
    command.args(["run", "--max-requests", "2"]);
    let waits = Daemon::spawn(command).until("request").await;
    sql(dir.path(), "INSERT INTO deletions (agent_id, entry_id) VALUES ('a', 'more'), ('b', '1'), ('c', '1')").await;
    let (code, log) = waits.ended().await;
    assert_eq!((code, sandbox.requests().len(), log.last("stopping", "why")), (0, 2, "max_requests".to_owned()));
    let (code, last) = canary(dir.path(), &sandbox, &["9", "--until-empty"], &[]).await;
    assert_eq!((code, &last["requests"]), (0, &2.into()), "{last}");
    queue(dir.path(), 100).await;
    let (code, last) = canary(dir.path(), &sandbox, &["2", "--until-empty"], &[]).await;
    assert_eq!((code, &last["requests"]), (0, &2.into()), "{last}");
    let mut command = configured(dir.path(), &sandbox);
    command.args(["run", "--max-requests", "99"]);
    let told = Daemon::spawn(command).until("request").await;
    told.signal("TERM");
    let (code, log) = told.ended().await;
    assert_eq!((code, log.last("stopping", "why")), (0, "told".to_owned()));
}

#[tokio::test]
async fn what_is_no_number_of_requests_is_refused_with_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    for (given, said) in [
        ("0", "must be 1 or more; to send nothing, use `sweeper plan`"),
        ("-1", "must be a number of requests, 1 or more"),
        ("many", "must be a number of requests, 1 or more"),
        ("", "must be a number of requests, 1 or more"),
        ("1.5", "must be a number of requests, 1 or more"),
    ] {
        let mut command = sweeper(dir.path());
        command.args(["run", "--max-requests", given]);
        let (code, _, err) = finish(command).await;
        assert!(code == 2 && err.contains(said), "{given}: {code} {err}");
    }
}

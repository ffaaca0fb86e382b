//! The hold of a verify: nothing is in flight and nothing is sent while the cache is listed, and it goes in every way.

use std::process::{Child, Command, Stdio};

use audio_cache_sweeper::{model::clock::Clock, sandbox::Mood};

use super::{Scene, Sql, on_both};
use crate::{
    daemon::{Daemon, blocking},
    enqueue::signalled,
};

on_both!(
    while_it_lists_a_daemon_sends_nothing_of_the_agent_and_goes_on_with_others,
    what_is_in_flight_is_waited_for,
    what_a_dead_daemon_left_in_flight_does_not_block_for_ever,
    a_request_in_spite_of_the_hold_is_a_reason_to_list_again,
    a_signal_lifts_the_hold,
    a_signal_in_the_middle_of_writing_leaves_what_is_written,
    a_hold_of_a_killed_command_ends_by_itself,
    a_hold_that_somebody_lifts_ends_the_listing,
    an_operator_s_hold_stays,
);

impl<E: Sql> Scene<E> {
    /// Begins to verify `a`. The first page waits at the gate.
    async fn listing(&self) -> Child {
        self.sandbox.script([Mood::Gate]);
        let before = self.sandbox.requests().len();
        let mut command = self.command(&["verify", "--agent", "a"]);
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        self.sandbox.arrived(before + 1).await;
        child
    }

    async fn until(&mut self, query: &str, expected: &str) {
        let clock = Clock::system();
        loop {
            let found = self.engine.joined(query).await;
            if found == expected {
                return;
            }
            assert!(clock.elapsed().as_secs() < 60, "{query}: {found}, and not {expected}");
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    }

    /// Requests that delete entries of `a`.
    fn sent(&self) -> usize {
        let all = self.sandbox.requests();
        all.iter().filter(|request| request.method != "GET" && request.uri.contains("/agents/a/")).count()
    }
}

async fn ended(child: Child) -> (Option<i32>, String, String) {
    let output = blocking(move || child.wait_with_output().unwrap()).await;
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

async fn while_it_lists_a_daemon_sends_nothing_of_the_agent_and_goes_on_with_others<E: Sql>() {
    let mut scene = Scene::<E>::new(30, &[]).await;
    scene.settled("deleted", &["x", "y"]).await;
    let daemon = Daemon::start(scene.command(&[])).until("started").await;
    let child = scene.listing().await;
    assert_eq!(scene.holds().await, "verify");
    let (_, told, _) = scene.run(&["status"]).await;
    assert!(told.contains("verify: ann, process "), "{told}");
    // x is reopened meanwhile.
    let wish = "INSERT INTO deletions (agent_id, entry_id) VALUES ('a', '1'), ('a', 'x'), ('b', '1'), ('b', '2')";
    scene.engine.sql(wish).await;
    let gone = "SELECT entry_id FROM deletions WHERE agent_id = 'b' AND state = 'deleted' ORDER BY entry_id";
    scene.until(gone, "1 2").await;
    let (code, out, err) = scene.run(&["verify", "--agent", "a"]).await;
    assert_eq!((code, out.as_str()), (1, ""));
    let process = format!("(ann, process {})", child.id());
    assert!(err.contains("another `sweeper verify` of a is under way since 20") && err.contains(&process), "{err}");
    assert_eq!((scene.sent(), scene.holds().await.as_str()), (0, "verify"), "the hold of the first one stays");
    scene.sandbox.open_gate();
    let (code, out, err) = ended(child).await;
    assert_eq!((code, err.as_str()), (Some(0), ""), "{out}");
    assert!(out.contains("verified 1 row: ") && out.contains("2 rows are pending, and were not compared"), "{out}");
    assert_eq!(scene.verified().await, "y", "x was reopened");
    // The hold is lifted, and the rows go.
    let gone = "SELECT state FROM deletions WHERE agent_id = 'a' AND entry_id IN ('1', 'x') ORDER BY entry_id";
    scene.until(gone, "deleted absent").await;
    assert_eq!(scene.holds().await, "");
    scene.until("SELECT act FROM acts WHERE logged", "verify").await;
    daemon.signal("TERM");
    let (_, log) = daemon.ended().await;
    assert_eq!((log.count("hold_placed", "WARN"), log.count("hold_lifted", "INFO")), (1, 1), "{log:?}");
    assert_eq!(log.last("hold_placed", "cause"), "verify");
    assert_eq!(log.last("operator_act", "message"), "ann verified 1 row of a");
}

async fn what_is_in_flight_is_waited_for<E: Sql>() {
    let mut scene = Scene::<E>::new(30, &[]).await;
    scene.settled("deleted", &["x"]).await;
    scene.sandbox.script([Mood::Gate]);
    scene.engine.sql("INSERT INTO deletions (agent_id, entry_id) VALUES ('a', '1')").await;
    let _daemon = Daemon::start(scene.command(&[])).until("started").await;
    scene.sandbox.arrived(1).await;
    let mut command = scene.command(&["verify", "--agent", "a"]);
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    scene.until("SELECT cause FROM holds", "verify").await;
    assert_eq!(scene.listings().len(), 0, "a request is in flight");
    scene.sandbox.open_gate();
    let (code, out, _) = ended(child).await;
    assert_eq!(code, Some(0), "{out}");
    // What came back before the listing is compared.
    assert!(out.contains("had 29 entries") && out.contains("verified 2 rows"), "{out}");
    assert_eq!(scene.verified().await, "1 x");
}

async fn what_a_dead_daemon_left_in_flight_does_not_block_for_ever<E: Sql>() {
    let mut scene = Scene::<E>::new(30, &[]).await;
    scene.settled("deleted", &["x"]).await;
    scene.sandbox.script([Mood::Hang]);
    scene.engine.sql("INSERT INTO deletions (agent_id, entry_id) VALUES ('a', '1')").await;
    let daemon = Daemon::start(scene.command(&[])).until("started").await;
    scene.sandbox.arrived(1).await;
    daemon.signal("KILL");
    daemon.ended().await;
    let (code, out, err) = scene.verify(&[]).await;
    assert_eq!((code, out.as_str()), (1, ""));
    assert!(err.contains("verify a: request 1 of a with 1 row has no answer since 20"), "{err}");
    assert!(
        err.contains("no daemon runs") && err.contains("Start the daemon, which settles it, and verify again"),
        "{err}"
    );
    assert_eq!((scene.listings().len(), scene.holds().await.as_str(), scene.verified().await.as_str()), (0, "", ""));
}

async fn a_signal_lifts_the_hold<E: Sql>() {
    let mut scene = Scene::<E>::new(30, &[]).await;
    scene.settled("deleted", &["x"]).await;
    for (name, code) in [("INT", 130), ("TERM", 143)] {
        let child = scene.listing().await;
        assert_eq!(scene.holds().await, "verify");
        let (ended, said) = blocking(move || signalled(child, name)).await;
        assert_eq!(ended, Some(code), "{said}");
        assert!(
            said.contains(&format!("stopped by SIG{name} before the cache of a was listed and compared")),
            "{said}"
        );
        assert!(said.contains("nothing was written"), "{said}");
        assert_eq!((scene.holds().await.as_str(), scene.verified().await.as_str()), ("", ""));
    }
}

async fn a_request_in_spite_of_the_hold_is_a_reason_to_list_again<E: Sql>() {
    let mut scene = Scene::<E>::new(30, &[]).await;
    scene.settled("deleted", &["x"]).await;
    let child = scene.listing().await;
    // As a daemon does whose clock is so far ahead that the hold is over for it.
    let sent = format!(
        "INSERT INTO requests (id, correlation_id, agent_id, deletion_ids, size, claimed_at, answered_at)
        VALUES (1, '6f2c1f0e-4a55-4d4e-9a0e-0d6f3a1b2c3d', 'a', '{}', 1, 1700000000000, 1700000000000)",
        E::MANIFEST
    );
    scene.engine.sql(&sent).await;
    scene.sandbox.open_gate();
    let (code, out, err) = ended(child).await;
    assert_eq!(code, Some(0), "{out}{err}");
    assert!(
        err.contains("1 request of a went out meanwhile, in spite of the hold") && err.contains("listing again"),
        "{err}"
    );
    assert_eq!((scene.listings().len(), scene.verified().await.as_str()), (2, "x"));
}

async fn a_signal_in_the_middle_of_writing_leaves_what_is_written<E: Sql>() {
    const ROWS: u64 = 30_000;
    let mut scene = Scene::<E>::new(30, &[]).await;
    let rows = format!(
        "INSERT INTO deletions (agent_id, entry_id, state, settled_at)
        WITH RECURSIVE number (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM number WHERE n < {ROWS})
        SELECT 'a', 'x' || n, 'deleted', 1700000000000 FROM number"
    );
    scene.engine.sql(&rows).await;
    let mut command = scene.command(&["verify", "--agent", "a"]);
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let count = "SELECT CAST(count(verified_at) AS text) FROM deletions";
    let clock = Clock::system();
    while scene.engine.joined(count).await == "0" {
        assert!(clock.elapsed().as_secs() < 60, "nothing is written");
    }
    // It cannot go on before the signal is there.
    scene.engine.sql(E::KEEP_OUT).await;
    let told = Command::new("kill").args(["-s", "INT", &child.id().to_string()]).status();
    scene.engine.sql("COMMIT").await;
    assert!(told.unwrap().success());
    let (ended, _, said) = ended(child).await;
    assert_eq!(ended, Some(130), "{said}");
    let written: u64 = scene.engine.joined(count).await.parse().unwrap();
    assert!((1..ROWS).contains(&written), "{written}");
    let rows = format!("{},{:03} rows", written / 1_000, written % 1_000);
    assert!(said.contains(&format!("stopped by SIGINT after {rows} were written: run it again")), "{written}: {said}");
    assert_eq!((scene.holds().await.as_str(), scene.acts().await), ("", format!("verify|ann|a|{written}")));
    // The next one writes them all.
    let found = scene.json(&[]).await;
    assert_eq!(found["verified"], ROWS, "{found}");
}

async fn a_hold_of_a_killed_command_ends_by_itself<E: Sql>() {
    let mut scene = Scene::<E>::new(30, &[]).await;
    scene.settled("deleted", &["x"]).await;
    let mut child = scene.listing().await;
    child.kill().unwrap();
    child.wait().unwrap();
    let now = Clock::system().now().0;
    let soon = format!("until_at > {now} AND until_at <= {}", now + 180_000);
    assert_eq!(scene.engine.joined(&format!("SELECT cause FROM holds WHERE {soon}")).await, "verify");
    let (_, _, err) = scene.verify(&[]).await;
    assert!(err.contains("if it was killed, its hold ends at 20") && err.contains("--cause verify` lifts it"), "{err}");
    // As if that time had come: no request has to probe, and the daemon removes the row.
    scene.engine.sql(&format!("UPDATE holds SET until_at = {now}")).await;
    scene.engine.sql("INSERT INTO deletions (agent_id, entry_id) VALUES ('a', '1')").await;
    let daemon = Daemon::start(scene.command(&[])).until("started").await;
    scene.until("SELECT entry_id FROM deletions WHERE state = 'deleted' ORDER BY entry_id", "1 x").await;
    // The turn that sends may leave that to the next one.
    scene.until("SELECT cause FROM holds", "").await;
    daemon.signal("TERM");
    daemon.ended().await;
    // Without a daemon, the next command takes its place.
    scene.engine.sql(&format!("INSERT INTO holds (scope, cause, until_at) VALUES ('a', 'verify', {now})")).await;
    assert_eq!(scene.verify(&[]).await.0, 0);
    assert_eq!((scene.verified().await.as_str(), scene.holds().await.as_str()), ("1 x", ""));
}

async fn a_hold_that_somebody_lifts_ends_the_listing<E: Sql>() {
    let mut scene = Scene::<E>::new(30, &[]).await;
    scene.settled("deleted", &["x"]).await;
    let child = scene.listing().await;
    let (_, out, _) = scene.run(&["release", "--agent", "a", "--cause", "verify"]).await;
    assert!(out.starts_with("released a (verify): the hold of 0s ago, for another 2m"), "{out}");
    scene.sandbox.open_gate();
    let (code, out, err) = ended(child).await;
    assert_eq!((code, out.as_str()), (Some(1), ""));
    assert!(err.contains("its hold has ended, or somebody has lifted it") && err.contains("verify again"), "{err}");
    assert_eq!(scene.verified().await, "");
}

async fn an_operator_s_hold_stays<E: Sql>() {
    let mut scene = Scene::<E>::new(30, &[]).await;
    scene.settled("deleted", &["x"]).await;
    assert_eq!(scene.run(&["hold", "--agent", "a", "--why", "audit"]).await.0, 0);
    // It pauses deletions, and a listing is none.
    assert_eq!(scene.verify(&[]).await.0, 0);
    assert_eq!((scene.holds().await.as_str(), scene.verified().await.as_str()), ("operator", "x"));
    let why = "SELECT why FROM holds WHERE scope = 'a' AND until_at IS NULL";
    assert_eq!(scene.engine.joined(why).await, "audit");
    // A hold on everything may be about the API.
    assert_eq!(scene.run(&["hold", "--all"]).await.0, 0);
    let listings = scene.listings().len();
    let (code, _, err) = scene.verify(&[]).await;
    assert!(code == 1 && err.contains("everything is held (operator) until somebody lifts the hold"), "{err}");
    assert_eq!((scene.holds().await.as_str(), scene.listings().len()), ("operator operator", listings));
}

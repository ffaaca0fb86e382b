//! `sweeper retry` and `sweeper cancel` on a queue on a server, without a daemon. With one: see `changes`.

use audio_cache_sweeper::model::{clock::Timestamp, deletion::State, outcome::Cause};

use super::commands::{Scene, scene};
use crate::suite::engine::{Engine as _, Request, Row};

/// Dead rows of two agents and three causes, and rows in every other state.
async fn mixed() -> Option<Scene> {
    let mut scene = scene().await?;
    let settled = |id, agent: &str, entry: &str, state| Row {
        state,
        settled_at: Some(Timestamp(5)),
        ..Row::new(id, agent, entry)
    };
    let dead = |id, agent: &str, entry: &str, cause| Row {
        last_cause: Some(cause),
        attempts: 8,
        batch_max: 1,
        asks: 2,
        maybe_done: true,
        request: Some(7),
        first_fault: Some(6),
        ..settled(id, agent, entry, State::Dead)
    };
    scene
        .put(&[
            Row::new(1, "a", "1"),
            dead(2, "a", "x", Cause::ApiFailed),
            dead(3, "a", "y", Cause::Rejected),
            dead(4, "b", "x", Cause::Lost),
            dead(5, "b", "y", Cause::ApiFailed),
            settled(6, "a", "d", State::Deleted),
            settled(7, "b", "a", State::Absent),
            Row {
                attempts: 2,
                due_at: Timestamp(4_000_000_000_000),
                last_cause: Some(Cause::Lost),
                ..Row::new(8, "b", "w")
            },
            Row { due_at: Timestamp(4_000_000_000_000), ..Row::new(9, "b", "s") },
        ])
        .await;
    Some(scene)
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
        let Some(mut scene) = mixed().await else { return };
        let count = revived.split_whitespace().count();
        let s = if count == 1 { "" } else { "s" };
        let dry = scene.run(&[&["retry", "--dry-run"], selector].concat());
        assert_eq!(
            dry,
            (0, format!("dry run: {count} dead row{s} would be retried; nothing was written\n"), String::new())
        );
        assert_eq!(scene.ids("state = 'dead'").await, "ax ay bx by");
        let said = match count {
            0 => "no dead row matches; nothing was written\n".to_owned(),
            _ => format!("retried {count}\n"),
        };
        let done = scene.run(&[&["retry", "--yes", "--as", "ann"], selector].concat());
        assert_eq!(done, (0, said, String::new()), "{selector:?}");
        let back = "state = 'pending' AND settled_at IS NULL AND attempts = 0 AND asks = 0 AND due_at BETWEEN 1 AND 3000000000000
            AND request_id IS NULL AND first_fault IS NULL AND maybe_done";
        assert_eq!(scene.ids(back).await, revived, "{selector:?}");
        let left: Vec<_> = ["ax", "ay", "bx", "by"].into_iter().filter(|id| !revived.contains(id)).collect();
        assert_eq!(
            scene.ids("state = 'dead' AND attempts = 8 AND settled_at = 5").await,
            left.join(" "),
            "{selector:?}"
        );
        assert_eq!(
            scene.ids("batch_max = 1 AND state = 'pending'").await,
            if revived.contains("ay") { "ay" } else { "" }
        );
        assert_eq!(scene.ids("state IN ('deleted', 'absent') OR id IN (1, 8, 9)").await, "a1 ad ba bw bs");
        let acts = scene.acts().await;
        assert_eq!(acts.is_empty(), count == 0, "{acts}");
        assert!(count == 0 || acts.starts_with("ann retry") && acts.ends_with(&format!("{count} true")), "{acts}");
    }
}

#[tokio::test]
async fn rows_that_wait_become_due_and_scheduled_ones_only_if_that_is_asked_for() {
    let Some(mut scene) = mixed().await else { return };
    assert_eq!(scene.run(&["enqueue", "--agent", "c", "--due", "30d", "new"]).0, 0);
    assert_eq!(scene.run(&["retry", "--now", "--all"]), (0, "due now 1\n".to_owned(), String::new()));
    assert_eq!(scene.ids("due_at = 0 AND settled_at IS NULL").await, "a1 bw");
    let (code, out, _) = scene.run(&["retry", "--now", "--all", "--scheduled", "--dry-run"]);
    let would = "dry run: 2 waiting rows, of which 2 were enqueued for a later time would become due now; nothing was written\n";
    assert_eq!((code, out.as_str()), (0, would));
    assert_eq!(
        scene.run(&["retry", "--now", "--all", "--scheduled", "--yes"]),
        (0, "due now 2\n".to_owned(), String::new())
    );
    assert_eq!(scene.ids("due_at = 0 AND settled_at IS NULL").await, "a1 bw bs cnew", "also a wish in the inbox");
    assert_eq!(scene.ids("attempts = 2").await, "bw", "attempts still count");
}

#[tokio::test]
async fn rows_that_a_hold_holds_are_told() {
    let Some(scene) = mixed().await else { return };
    assert_eq!(scene.run(&["hold", "--agent", "b"]).0, 0);
    let (code, out, err) = scene.run(&["retry", "--all", "--yes"]);
    assert_eq!((code, out.as_str()), (0, "retried 4\n"));
    assert_eq!(
        err,
        "2 of these rows wait for a hold: `sweeper status` lists the holds, `sweeper release` lifts them\n"
    );
}

#[tokio::test]
async fn pending_rows_and_wishes_in_the_inbox_are_taken_out_by_entry_by_agent_or_all() {
    let cases: [(&[&str], &str, usize); 3] = [
        (&["--agent", "a", "1", "new"], "ax ay bx by ad ba bw bs bnew", 2),
        (&["--agent", "b"], "a1 ax ay bx by ad ba anew", 3),
        (&["--all"], "ax ay bx by ad ba", 5),
    ];
    for (selector, left, count) in cases {
        let Some(mut scene) = mixed().await else { return };
        for agent in ["a", "b"] {
            assert_eq!(scene.run(&["enqueue", "--agent", agent, "new"]).0, 0);
        }
        let done = scene.run(&[&["cancel", "--yes", "--as", "ann"], selector].concat());
        assert_eq!(done, (0, format!("cancelled {count}\n"), String::new()), "{selector:?}");
        assert_eq!(scene.ids("true").await, left, "{selector:?}");
        assert!(scene.acts().await.ends_with(&format!(" {count} true")));
        scene.take_in().await;
    }
}

#[tokio::test]
async fn an_entry_that_is_not_pending_is_named_and_rows_in_flight_are_told() {
    let Some(mut scene) = scene().await else { return };
    let rows: Vec<Row> = (1..=3).map(|id| Row::new(id, "a", &id.to_string())).collect();
    scene.engine.put(&rows, &[Request::new(4, "a", &[1, 2])]).await;
    let (code, out, err) = scene.run(&["cancel", "--agent", "a", "1", "3", "9", "--yes"]);
    assert_eq!((code, out.as_str()), (1, "cancelled 2\n"));
    let missing = "a 9: not pending; `sweeper show a 9` tells more";
    assert_eq!(err, format!("{missing}\n1 row was in flight, and may be deleted all the same\n"));
    assert_eq!(scene.ids("true").await, "a2");
}

#[tokio::test]
async fn many_rows_are_changed_in_steps() {
    let Some(mut scene) = scene().await else { return };
    let fill = "INSERT INTO deletions (id, agent_id, entry_id, state, settled_at, last_cause) OVERRIDING SYSTEM VALUE
        SELECT n, 'a', n, 'dead', 5, 'lost' FROM generate_series(1, 5000) AS n";
    scene.engine.execute(fill).await;
    assert_eq!(scene.run(&["retry", "--all", "--yes", "--as", "ann"]).1, "retried 5000\n");
    assert_eq!(scene.run(&["cancel", "--all", "--yes", "--as", "ann"]).1, "cancelled 5000\n");
    assert_eq!(scene.ids("true").await, "");
    assert_eq!(scene.acts().await, "ann retry * 5000 true; ann cancel * 5000 true");
}

#[tokio::test]
async fn the_wishes_of_a_label_are_cancelled_and_rows_that_others_wish_for_stay() {
    let Some(mut scene) = scene().await else { return };
    let enqueue = |label: &str, ids: &[&str]| {
        assert_eq!(scene.run(&[&["enqueue", "--agent", "a", "--label", label], ids].concat()).0, 0);
    };
    enqueue("T-1", &["1", "2"]);
    enqueue("T-2", &["2"]);
    scene.take_in().await;
    enqueue("T-1", &["3"]);
    enqueue("T-2", &["4"]);
    let (code, out, err) = scene.run(&["cancel", "--label", "T-1", "--yes", "--as", "ann"]);
    assert_eq!((code, out.as_str(), err.as_str()), (0, "cancelled 3; 1 row stays pending, wished for by others\n", ""));
    assert_eq!(scene.ids("settled_at IS NULL").await, "a2 a4");
    let wishes = "SELECT concat_ws(' ', label, entry_id, coalesce(state, 'open'), closed_by) FROM wishes ORDER BY label, entry_id";
    assert_eq!(scene.texts(wishes).await, "T-1 1 cancelled ann T-1 2 cancelled ann T-1 3 cancelled ann T-2 2 open");
    // Without a label, all wishes go with the row.
    assert_eq!(scene.run(&["cancel", "--agent", "a", "--yes", "--as", "bob"]).1, "cancelled 2\n");
    assert_eq!(
        scene.texts(wishes).await,
        "T-1 1 cancelled ann T-1 2 cancelled ann T-1 3 cancelled ann T-2 2 cancelled bob T-2 4 cancelled bob"
    );
}

#[tokio::test]
async fn the_dead_rows_of_a_label_come_back_with_all_their_wishes() {
    let Some(mut scene) = scene().await else { return };
    for label in ["T-1", "T-2"] {
        assert_eq!(scene.run(&["enqueue", "--agent", "a", "--label", label, "1"]).0, 0);
    }
    assert_eq!(scene.run(&["enqueue", "--agent", "a", "2"]).0, 0);
    scene.take_in().await;
    scene.engine.execute("UPDATE deletions SET state = 'dead', settled_at = 5, last_cause = 'lost'").await;
    assert_eq!(scene.run(&["retry", "--label", "T-1", "--yes"]).1, "retried 1\n");
    assert_eq!(scene.ids("state = 'pending'").await, "a1");
    assert_eq!(scene.texts("SELECT label FROM wishes WHERE state IS NULL ORDER BY 1").await, "T-1 T-2");
}

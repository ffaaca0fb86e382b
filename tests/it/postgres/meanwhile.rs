//! Wishes that the leader takes in between a command's look and its change. The command does with them what it was told to do.

use audio_cache_sweeper::{
    model::{
        deletion::{AgentId, EntryId},
        label::Label,
    },
    queue::{Queue as _, postgres::Producer},
};

use super::scene;
use crate::{
    engines::postgres::Postgres,
    suite::seam::{NOW, Seam},
};

/// What the entries of the wishes had before: no row; a row that is settled; one that others wish for.
const BEFORE: &str = "
INSERT INTO deletions (agent_id, entry_id, state, settled_at, last_cause) VALUES
    ('a', 'gone', 'deleted', 5, NULL), ('a', 'dead', 'dead', 5, 'lost'), ('a', 'other', 'deleted', 5, NULL)";
const PENDING: &str = "INSERT INTO deletions (agent_id, entry_id, label) VALUES ('a', 'both', 'T-2')";
const WISHES: &str = "
INSERT INTO deletions (agent_id, entry_id, label, due_at)
SELECT 'a', entry, 'T-1', 253402300000000 FROM unnest(ARRAY['new', 'gone', 'dead', 'both']) AS entry";

/// Wishes with the label T-1 in the inbox, and who changes them.
struct Scene {
    seam: Seam<Postgres>,
    producer: Producer,
}

impl Scene {
    async fn new() -> Option<Self> {
        let mut seam = scene().await?;
        seam.engine.execute(BEFORE).await;
        seam.engine.execute(PENDING).await;
        while seam.queue.changed().await.unwrap() {}
        seam.engine.execute(WISHES).await;
        let producer = Producer::join(&seam.engine.options).await.unwrap();
        Some(Self { seam, producer })
    }

    /// The leader takes in the wishes, and one more that the command has not seen.
    async fn take_in(&mut self) {
        self.seam.engine.execute("INSERT INTO deletions (agent_id, entry_id) VALUES ('a', 'other')").await;
        while self.seam.queue.changed().await.unwrap() {}
        let (inbox,) = self.seam.engine.query::<(i64,)>("SELECT count(*) FROM deletions_new").await[0];
        assert_eq!(inbox, 0);
    }

    async fn entries(&mut self, condition: &str) -> String {
        let sql = format!(
            "SELECT coalesce(string_agg(entry_id, ' ' ORDER BY entry_id), '') FROM deletions WHERE {condition}"
        );
        self.seam.engine.query::<(String,)>(&sql).await.remove(0).0
    }
}

fn agent() -> AgentId {
    AgentId::parse("a").unwrap()
}

fn label() -> Label {
    Label::parse("T-1").unwrap()
}

#[tokio::test]
async fn what_was_to_be_cancelled_is_cancelled_also_if_it_has_reopened_a_row() {
    for agent in [Some(agent()), None] {
        let Some(mut scene) = Scene::new().await else { return };
        let ids = scene.producer.pending(agent.as_ref()).await.unwrap();
        assert_eq!(ids.len(), 5);
        scene.take_in().await;
        let cancelled = scene.producer.cancel(&ids, NOW).await.unwrap();
        assert_eq!(
            (cancelled.done, cancelled.in_flight),
            (4, 0),
            "one of five wishes has gone into a row of the others"
        );
        assert_eq!(scene.entries("true").await, "other", "what the command has not seen stays");
        let open = "SELECT label FROM wishes WHERE state IS NULL";
        assert_eq!(scene.seam.engine.query::<(String,)>(open).await, []);
    }
}

#[tokio::test]
async fn an_entry_that_was_named_is_cancelled_whatever_the_leader_makes_of_its_wish() {
    for entry in ["new", "gone", "dead", "both"] {
        for label in [None, Some(label())] {
            let Some(mut scene) = Scene::new().await else { return };
            let named = EntryId::parse(entry).unwrap();
            let ids = scene.producer.pending_rows(&agent(), &named, label.as_ref()).await.unwrap();
            scene.take_in().await;
            let kept = match &label {
                Some(label) => {
                    let cancelled = scene.producer.cancel_wishes(label, &ids, NOW).await.unwrap();
                    assert_eq!(cancelled.wishes, 1, "{entry}");
                    cancelled.kept
                }
                None => {
                    assert_eq!(scene.producer.cancel(&ids, NOW).await.unwrap().done, 1, "{entry}");
                    0
                }
            };
            // Whoever wished for a row that died wishes for it again.
            assert_eq!(kept, u64::from(matches!(entry, "both" | "dead") && label.is_some()), "{entry}");
            let left = scene.entries("state = 'pending'").await;
            let expected = ["both", "dead", "gone", "new", "other"].into_iter();
            let expected: Vec<&str> = expected.filter(|other| *other != entry || kept > 0).collect();
            assert_eq!(left, expected.join(" "));
        }
    }
}

#[tokio::test]
async fn the_wishes_of_a_label_are_cancelled_in_the_rows_that_they_have_gone_into() {
    for agent in [Some(agent()), None] {
        let Some(mut scene) = Scene::new().await else { return };
        let ids = scene.producer.pending_of_label(&label(), agent.as_ref()).await.unwrap();
        assert_eq!(ids.len(), 4);
        scene.take_in().await;
        let cancelled = scene.producer.cancel_wishes(&label(), &ids, NOW).await.unwrap();
        assert_eq!((cancelled.wishes, cancelled.kept), (4, 2));
        assert_eq!(scene.entries("state = 'pending'").await, "both dead other");
        let wishes = "SELECT DISTINCT label || ' ' || coalesce(state, 'open') FROM wishes ORDER BY 1";
        let wishes: Vec<(String,)> = scene.seam.engine.query(wishes).await;
        assert_eq!(wishes, [("T-1 cancelled".to_owned(),), ("T-2 open".to_owned(),)]);
    }
}

#[tokio::test]
async fn what_was_to_be_made_due_is_made_due() {
    let Some(mut scene) = Scene::new().await else { return };
    let (ids, untried) = scene.producer.waiting(None, None, true, NOW).await.unwrap();
    assert_eq!((ids.len(), untried), (4, 4));
    scene.take_in().await;
    // The row that was there is due at once already.
    assert_eq!(scene.producer.hurry(&ids, true, NOW).await.unwrap().done, 3);
    assert_eq!(scene.entries("state = 'pending' AND due_at = 0").await, "both dead gone new");
}

#[tokio::test]
async fn a_wish_that_was_settled_meanwhile_is_left_alone() {
    let Some(mut scene) = Scene::new().await else { return };
    let ids = scene.producer.pending(None).await.unwrap();
    scene.take_in().await;
    scene.seam.engine.execute("UPDATE deletions SET state = 'absent', settled_at = 6 WHERE entry_id = 'gone'").await;
    assert_eq!(scene.producer.cancel(&ids, NOW).await.unwrap().done, 3);
    assert_eq!(scene.entries("true").await, "gone other");
}

/// As in a restored copy that gives out ids again, before a leader has put that right.
#[tokio::test]
async fn a_wish_and_the_row_of_another_entry_that_has_its_id_are_told_apart() {
    let Some(mut seam) = scene().await else { return };
    seam.engine.execute("INSERT INTO deletions (agent_id, entry_id) VALUES ('b', '1'), ('b', '2')").await;
    while seam.queue.changed().await.unwrap() {}
    let twins = "INSERT INTO deletions (id, agent_id, entry_id, due_at) OVERRIDING SYSTEM VALUE
                 SELECT id, 'a', entry_id, 253402300000000 FROM deletions";
    seam.engine.execute(twins).await;
    let mut producer = Producer::join(&seam.engine.options).await.unwrap();
    let (ids, untried) = producer.waiting(Some(&agent()), None, true, NOW).await.unwrap();
    assert_eq!((ids.len(), untried), (2, 2));
    assert_eq!(producer.hurry(&ids[..1], true, NOW).await.unwrap().done, 1);
    let ids = producer.pending(Some(&agent())).await.unwrap();
    assert_eq!(producer.cancel(&ids, NOW).await.unwrap().done, 2);
    let left: Vec<(String, String)> = seam.engine.query("SELECT agent_id, entry_id FROM deletions ORDER BY id").await;
    assert_eq!(left, [("b".to_owned(), "1".to_owned()), ("b".to_owned(), "2".to_owned())]);
}

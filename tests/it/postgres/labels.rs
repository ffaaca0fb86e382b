//! Labels: which wishes an entry has, whatever is done to its row, whether wishes are taken in one at a time or together.

use audio_cache_sweeper::queue::Queue as _;

use super::scene;
use crate::{engines::postgres::Postgres, suite::seam::Seam};

struct Scene {
    seam: Seam<Postgres>,
    /// Each wish is taken in before the next one comes.
    apart: bool,
}

impl Scene {
    async fn new(apart: bool) -> Option<Self> {
        Some(Self { seam: scene().await?, apart })
    }

    async fn take_in(&mut self) {
        while self.seam.queue.changed().await.unwrap() {}
    }

    async fn run(&mut self, sql: &str) {
        self.take_in().await;
        self.seam.engine.execute(sql).await;
    }

    /// Wishes for entry 1. An empty label: without one.
    async fn wish(&mut self, label: &str) {
        let sql = "INSERT INTO deletions (agent_id, entry_id, label) VALUES ('a', '1', nullif('LABEL', ''))";
        self.seam.engine.execute(&sql.replace("LABEL", label)).await;
        if self.apart {
            self.take_in().await;
        }
    }

    async fn settle(&mut self, state: &str) {
        let sql = "UPDATE deletions SET state = 'STATE', settled_at = 2000000000000 WHERE state = 'pending'";
        self.run(&sql.replace("STATE", state)).await;
    }

    async fn retry(&mut self) {
        let sql =
            "UPDATE deletions SET state = 'pending', settled_at = NULL, attempts = 0, due_at = 0 WHERE state = 'dead'";
        self.run(sql).await;
    }

    async fn cancel(&mut self, label: &str) {
        let sql = "UPDATE wishes SET state = 'cancelled', closed_at = 2000000000001, closed_by = 'ann'
                   WHERE label = 'LABEL' AND state IS NULL";
        self.run(&sql.replace("LABEL", label)).await;
    }

    /// The rows and the wishes: `entry state label` of each row, then `label state` of each wish.
    async fn now(&mut self) -> Vec<String> {
        self.take_in().await;
        now(&mut self.seam.engine, "a").await
    }
}

async fn now(engine: &mut Postgres, agent: &str) -> Vec<String> {
    let rows = "SELECT concat_ws(' ', entry_id, state, coalesce(label, '-')) FROM deletions WHERE agent_id = 'AGENT' ORDER BY id";
    let wishes = "SELECT '\"' || label || '\" ' || coalesce(state, 'open') || coalesce(' by ' || closed_by, '')
                  FROM wishes WHERE agent_id = 'AGENT' ORDER BY entry_id, label";
    let mut now: Vec<(String,)> = engine.query(&rows.replace("AGENT", agent)).await;
    now.extend(engine.query::<(String,)>(&wishes.replace("AGENT", agent)).await);
    let odd = "SELECT label FROM wishes WHERE (state IS NULL) <> (closed_at IS NULL)";
    assert_eq!(engine.query::<(String,)>(odd).await, [], "a wish has a time of its end if it has ended");
    now.into_iter().map(|(line,)| line).collect()
}

const EACH_WAY: [bool; 2] = [true, false];

#[tokio::test]
async fn an_entry_that_is_wished_for_under_two_labels_goes_only_with_the_last_of_them() {
    for apart in EACH_WAY {
        let Some(mut scene) = Scene::new(apart).await else { return };
        for label in ["T", "U", "T"] {
            scene.wish(label).await;
        }
        assert_eq!(scene.now().await, ["1 pending T", "\"T\" open", "\"U\" open"], "the row has the newest label");
        scene.cancel("T").await;
        assert_eq!(scene.now().await, ["1 pending U", "\"T\" cancelled by ann", "\"U\" open"]);
        scene.settle("deleted").await;
        assert_eq!(scene.now().await, ["1 deleted U", "\"T\" cancelled by ann", "\"U\" deleted"]);
        let Some(mut scene) = Scene::new(apart).await else { return };
        scene.wish("T").await;
        scene.wish("U").await;
        scene.cancel("T").await;
        scene.cancel("U").await;
        assert_eq!(scene.now().await, ["\"T\" cancelled by ann", "\"U\" cancelled by ann"]);
    }
}

#[tokio::test]
async fn cancelling_a_label_never_drops_a_wish_without_one() {
    for (apart, first, second) in [(true, "", "T"), (true, "T", ""), (false, "", "T"), (false, "T", "")] {
        let Some(mut scene) = Scene::new(apart).await else { return };
        for label in [first, second, second, first] {
            scene.wish(label).await;
        }
        assert_eq!(scene.now().await, ["1 pending T", "\"\" open", "\"T\" open"], "once each");
        scene.cancel("T").await;
        assert_eq!(scene.now().await, ["1 pending -", "\"T\" cancelled by ann"], "it is a row without labels again");
        scene.wish("U").await;
        scene.settle("deleted").await;
        assert_eq!(scene.now().await, ["1 deleted U", "\"T\" cancelled by ann", "\"U\" deleted"]);
    }
}

#[tokio::test]
async fn a_fulfilled_wish_stays_fulfilled_when_somebody_else_wants_the_entry_gone_again() {
    for (again, row) in [("U", "1 pending U"), ("", "1 pending -")] {
        let Some(mut scene) = Scene::new(true).await else { return };
        scene.wish("T").await;
        scene.settle("deleted").await;
        scene.wish(again).await;
        let open: &[&str] = if again.is_empty() { &[] } else { &["\"U\" open"] };
        assert_eq!(scene.now().await, [&[row, "\"T\" deleted"], open].concat());
        scene.run("DELETE FROM deletions").await;
        let cancelled: &[&str] = if again.is_empty() { &[] } else { &["\"U\" cancelled"] };
        assert_eq!(scene.now().await, [&["\"T\" deleted"], cancelled].concat(), "and when the row is gone");
    }
    let Some(mut scene) = Scene::new(true).await else { return };
    scene.wish("T").await;
    scene.settle("absent").await;
    scene.wish("T").await;
    assert_eq!(scene.now().await, ["1 pending T", "\"T\" open"], "the same label wishes for it anew");
    scene.run("DELETE FROM deletions").await;
    scene.wish("T").await;
    assert_eq!(scene.now().await, ["1 pending T", "\"T\" open"], "also after the row was cancelled");
}

#[tokio::test]
async fn a_dead_wish_opens_again_with_its_row_and_follows_it_to_another_end() {
    let Some(mut scene) = Scene::new(true).await else { return };
    scene.wish("").await;
    scene.wish("T").await;
    scene.settle("dead").await;
    assert_eq!(scene.now().await, ["1 dead T", "\"\" dead", "\"T\" dead"]);
    scene.retry().await;
    assert_eq!(scene.now().await, ["1 pending T", "\"\" open", "\"T\" open"]);
    scene.settle("dead").await;
    scene.wish("U").await;
    assert_eq!(scene.now().await, ["1 pending U", "\"\" open", "\"T\" open", "\"U\" open"]);
    scene.settle("deleted").await;
    assert_eq!(scene.now().await, ["1 deleted U", "\"T\" deleted", "\"U\" deleted"]);
}

#[tokio::test]
async fn a_label_comes_with_an_insert_and_an_update_cannot_lose_it() {
    let Some(mut scene) = Scene::new(true).await else { return };
    scene.wish("T").await;
    let says = "the label of a deletion comes with an INSERT: insert the entry again with the label";
    for label in ["'X'", "NULL"] {
        let sql = format!("UPDATE deletions SET label = {label}");
        assert_eq!(scene.seam.engine.try_to(&sql).await, Err(says.to_owned()), "{label}");
    }
    scene.settle("deleted").await;
    scene.run("UPDATE deletions SET label = NULL").await;
    assert_eq!(scene.now().await, ["1 deleted -", "\"T\" deleted"]);
}

/// Every sequence of up to three wishes.
fn sequences() -> Vec<Vec<&'static str>> {
    let labels = ["", "T", "U"];
    let mut all: Vec<Vec<&str>> = labels.iter().map(|label| vec![*label]).collect();
    for length in 1..3 {
        let longer = all
            .iter()
            .filter(|sequence| sequence.len() == length)
            .flat_map(|sequence| labels.iter().map(|label| sequence.iter().chain([label]).copied().collect()));
        let longer: Vec<Vec<&str>> = longer.collect();
        all.extend(longer);
    }
    all
}

/// The last words about an entry: its first wishes, and what became of its row.
const BEFORE: [(&[&str], &str); 8] = [
    (&[], ""),
    (&[""], "pending"),
    (&["T"], "pending"),
    (&["", "T"], "pending"),
    (&["T"], "deleted"),
    (&[""], "dead"),
    (&["T"], "dead"),
    (&["T", ""], "dead"),
];

#[tokio::test]
async fn wishes_that_are_taken_in_together_come_to_the_same_as_one_after_the_other() {
    let Some(mut scene) = Scene::new(true).await else { return };
    let cases: Vec<_> =
        BEFORE.iter().flat_map(|before| sequences().into_iter().map(move |then| (*before, then))).collect();
    let insert = |agent: &str, case: usize, label: &str| {
        format!(
            "INSERT INTO deletions (agent_id, entry_id, label) VALUES ('{agent}', '{case}', nullif('{label}', ''));"
        )
    };
    let both = ["a", "b"];
    for (case, ((labels, state), _)) in cases.iter().enumerate() {
        for agent in both {
            let wishes: String = labels.iter().map(|label| insert(agent, case, label)).collect();
            scene.seam.engine.execute(&wishes).await;
        }
        if !["", "pending"].contains(state) {
            let sql = "UPDATE deletions SET state = 'STATE', settled_at = 2000000000000 WHERE entry_id = 'CASE'";
            scene.run(&sql.replace("STATE", state).replace("CASE", &case.to_string())).await;
        }
    }
    for at in 0..3 {
        let nth = |(case, (_, then)): (usize, &(_, Vec<&str>))| Some(insert("a", case, then.get(at)?));
        let wishes: String = cases.iter().enumerate().filter_map(nth).collect();
        scene.run(&wishes).await;
    }
    let all = |(case, (_, then)): (usize, &(_, Vec<&str>))| {
        then.iter().map(|label| insert("b", case, label)).collect::<String>()
    };
    let wishes: String = cases.iter().enumerate().map(all).collect();
    scene.run(&wishes).await;
    scene.take_in().await;
    let [apart, together] = [now(&mut scene.seam.engine, "a").await, now(&mut scene.seam.engine, "b").await];
    assert!(apart.len() > 2 * cases.len());
    // In the order of their entries.
    let sorted = |mut lines: Vec<String>| {
        lines[..cases.len()].sort();
        lines
    };
    assert_eq!(sorted(apart), sorted(together));
}

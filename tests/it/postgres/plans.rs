//! The plans of the worker's statements, as the server executes them: on tables that were empty when they were made. Either they were
//! never analysed, and the server takes it that they will grow; or they were, and it takes it that they stay empty.

use std::{fs, time::Duration};

use audio_cache_sweeper::{
    model::{
        act::{Act, ActId, ActKind},
        clock::Timestamp,
    },
    sandbox::{Mood, Options},
};
use sqlx::AssertSqlSafe;

use crate::{
    cluster::cluster,
    engines::postgres::Postgres,
    suite::{
        bed::{Bed, Plan, START},
        engine::{Engine as _, Setup, Wish},
    },
};

/// A statement and its plan, as the module `auto_explain` logs them.
struct Planned {
    text: String,
}

impl Planned {
    /// The number of lines with this in the plan.
    fn count(&self, what: &str) -> usize {
        self.text.lines().filter(|line| line.contains(what)).count()
    }
}

/// What the sessions of daemons have executed in this database.
fn planned(log: &str, database: &str) -> Vec<Planned> {
    let ours = format!("{database} sweeper leader LOG:  duration:");
    let mut found: Vec<Planned> = Vec::new();
    let mut is_ours = false;
    for line in log.lines() {
        if !line.starts_with('\t') {
            is_ours = line.starts_with(&ours) && line.ends_with("plan:");
            if is_ours {
                found.push(Planned { text: String::new() });
            }
        } else if let Some(planned) = found.last_mut().filter(|_| is_ours) {
            planned.text.push_str(line);
            planned.text.push('\n');
        }
    }
    found
}

/// Begins or ends the logging of plans, for new sessions in this database.
async fn log_plans(database: &str, logs: bool) {
    let settings: &[&str] = match logs {
        true => &[
            "SET session_preload_libraries = 'auto_explain'",
            "SET auto_explain.log_min_duration = 0",
            "SET auto_explain.log_nested_statements = on",
        ],
        false => &["RESET ALL"],
    };
    let mut admin = cluster().unwrap().connect("postgres", "postgres").await;
    for setting in settings {
        let sql = format!("ALTER DATABASE {database} {setting}");
        sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut admin).await.unwrap();
    }
}

/// Everything that a worker does: answers of each kind, holds, a crash, acts, labels, upkeep, a clock that is set back.
async fn work_through(engine: Postgres) -> Bed<Postgres> {
    let options = Options { failing: vec!["3".to_owned()], ..Plan::default().sandbox };
    let mut plan = Plan { sandbox: options, request_timeout: Duration::from_millis(200), ..Plan::default() };
    plan.settings.retention = Duration::from_secs(3_600);
    let mut bed = Bed::on(engine, plan).await;
    bed.sandbox.script([Mood::status(401)]);
    for agent in ["a", "b"] {
        bed.insert_many(agent, 50).await;
    }
    bed.engine
        .execute("INSERT INTO deletions (agent_id, entry_id, label) VALUES ('a', '3', 'T'), ('c', '1', 'T')")
        .await;
    bed.enqueue(&[Wish { due_at: START.plus(Duration::from_secs(10)), ..Wish::of("c", "2") }]).await;
    for _ in 0..6 {
        bed.work().await;
        bed.clock.advance(Duration::from_secs(80));
    }
    let act = Act {
        id: ActId(1),
        acted_at: START,
        kind: Some(ActKind::Retry),
        operator: "ann".to_owned(),
        scope: None,
        rows: 1,
        detail: None,
        ended: true,
    };
    bed.engine.act(&act).await;
    bed.pause("b").await;
    bed.insert(&[("a", "again"), ("b", "again")]).await;
    bed.sandbox.script([Mood::Hang]);
    bed.worker.turn().await.unwrap();
    let mut bed = bed.restart().await;
    bed.clock.advance(Duration::from_secs(100_000));
    bed.clock.jump_to(Timestamp(bed.clock.now().0 - 1_000_000));
    bed.lift_all().await;
    for _ in 0..20 {
        bed.work().await;
        bed.worker.do_chores().await.unwrap();
        bed.clock.advance(Duration::from_secs(100));
    }
    bed
}

/// What the worker's sessions have executed, if there is a server.
async fn all_planned(are_analysed: bool) -> Option<Vec<Planned>> {
    let server = cluster()?;
    let mut engine = Postgres::create(Setup { busy_timeout: Duration::from_secs(5), in_memory: true }).await;
    if are_analysed {
        engine.execute("VACUUM ANALYZE").await;
    }
    let database = engine.database.name().to_owned();
    log_plans(&database, true).await;
    let bed = work_through(engine).await;
    log_plans(&database, false).await;
    drop(bed);
    let log = fs::read_to_string(server.log()).unwrap();
    let all = planned(&log, &database);
    assert!(all.len() > 100, "{}", all.len());
    Some(all)
}

/// Those with this in their text.
fn with<'p>(all: &'p [Planned], fragment: &str) -> Vec<&'p Planned> {
    let of: Vec<&Planned> = all.iter().filter(|planned| planned.text.contains(fragment)).collect();
    assert!(!of.is_empty(), "no statement has {fragment}");
    of
}

fn check_turns(all: &[Planned]) {
    for turn in with(all, "coalesce(requests.answered_at, -1)") {
        let text = &turn.text;
        assert!(turn.count("Index Scan using deletions_known_pkey on deletions_known") == 1, "{text}");
        assert!(turn.count("Index Scan using requests_pkey on requests") == 1, "{text}");
        assert_eq!(turn.count("Index Cond: ((id >= "), 2, "not a whole index for each turn: {text}");
        assert_eq!(turn.count("deletions_due"), 0, "{text}");
    }
}

#[tokio::test]
async fn a_turn_reads_no_more_than_it_needs_if_the_tables_were_empty_when_they_were_analysed() {
    if let Some(all) = all_planned(true).await {
        check_turns(&all);
    }
}

#[tokio::test]
async fn no_statement_of_the_worker_reads_more_of_a_table_than_it_needs() {
    let Some(all) = all_planned(false).await else { return };
    check_turns(&all);
    let of = |fragment| with(&all, fragment);
    for Planned { text } in &all {
        for table in ["deletions_known", "requests"] {
            assert!(!text.contains(&format!("Seq Scan on {table}")), "{text}");
        }
    }
    for look in of("lane.after_id") {
        let text = &look.text;
        assert_eq!(look.count("using deletions_due on deletions_known"), 3, "{text}");
        let is_bounded =
            |line: &&str| line.contains("Index Cond:") && line.contains("batch_max") && line.contains("due_at");
        assert_eq!(text.lines().filter(is_bounded).count(), 3, "{text}");
        assert_eq!(look.count("hashed SubPlan"), 2, "{text}");
        assert_eq!(look.count("Sort  ("), 0, "in the order of the index: {text}");
    }
    for lanes in of("WITH RECURSIVE lane AS") {
        // The one that counts reads another row of each lane.
        let scans = if lanes.text.contains("due_at, id FROM lane") { 2 } else { 3 };
        assert_eq!(lanes.count("using deletions_due on deletions_known"), scans, "{}", lanes.text);
        assert!(lanes.count("Index Cond: (ROW(") == 1 && lanes.count("Sort  (") == 0, "{}", lanes.text);
    }
    for taken in of("DELETE FROM deletions_new") {
        assert_eq!(taken.count("Tid Scan on deletions_new"), 1, "{}", taken.text);
    }
    for poll in of("SELECT EXISTS (SELECT 1 FROM deletions_new WHERE ctid") {
        assert_eq!(poll.count("Tid Range Scan on deletions_new"), 1, "{}", poll.text);
    }
    for (prune, index) in [
        ("DELETE FROM deletions_known AS row", "using wishes_entry on wishes"),
        ("(stretch.deletion_ids)", "using wishes_entry on wishes"),
        ("DELETE FROM acts", "using wishes_pkey on wishes"),
    ] {
        for step in of(prune) {
            assert!(step.count(index) == 1 && step.count("hashed SubPlan") == 0, "{}", step.text);
            assert_eq!(step.count("Seq Scan on acts"), 0, "{}", step.text);
        }
    }
    for orphans in of("FROM requests CROSS JOIN LATERAL unnest(requests.deletion_ids) AS named") {
        assert_eq!(orphans.count("using requests_unanswered on requests"), 1, "{}", orphans.text);
        assert_eq!(orphans.count("using deletions_known_pkey on deletions_known"), 1, "{}", orphans.text);
    }
}

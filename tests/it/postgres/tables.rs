//! What others have changed of the tables is named, by `check`, by `init` and by the daemon. And the row that leaders need comes back.

use std::{env, fs, path::Path};

use audio_cache_sweeper::{
    queue::postgres::{Address, Options, described_tables},
    sandbox::Options as Api,
};

use super::own::Own;
use crate::{
    daemon::sandbox,
    engines::postgres::{LEASE, Postgres},
    logs::Log,
    suite::{
        bed::{Bed, Plan},
        engine::Engine as _,
    },
};

const OBJECTS: &str = "migrations/postgres/objects.txt";

#[tokio::test]
async fn the_list_of_our_objects_is_what_the_migrations_make() {
    let Some(own) = Own::new().await else { return };
    let address = Address::parse(&[&own.url()]).unwrap();
    let (busy_timeout, request_timeout) = (std::time::Duration::ZERO, std::time::Duration::ZERO);
    let options = Options { address, busy_timeout, lease: LEASE, request_timeout };
    let made = described_tables(&options).await.unwrap();
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(OBJECTS);
    if env::var_os("UPDATE_OBJECTS").is_some() {
        fs::write(&path, &made).unwrap();
    }
    let listed = fs::read_to_string(&path).unwrap();
    assert!(
        listed == made,
        "{OBJECTS} is stale: UPDATE_OBJECTS=1 cargo test --test it postgres::tables writes it anew"
    );
}

#[tokio::test]
async fn tables_that_nobody_has_changed_give_no_line() {
    let Some(own) = Own::new().await else { return };
    let (code, out) = own.check().await;
    assert!(code == 0 && out.contains("tables ok up to date"), "{out}");
    own.insert(10).await;
    let sandbox = sandbox(Api::default()).await;
    let (code, log) = own.work(&sandbox, &["--until-empty"]).await;
    assert_eq!((code, log.count("schema_modified", "WARN")), (0, 0), "{log:#?}");
    let (code, _, stderr) = own.run(&["init"]).await;
    assert_eq!((code, stderr), (0, String::new()));
}

/// What somebody does, and the names of what is then not as it was made.
const CHANGED: [(&str, &str); 17] = [
    (
        "CREATE FUNCTION public.theirs() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
         CREATE TRIGGER theirs BEFORE UPDATE ON deletions_known FOR EACH ROW EXECUTE FUNCTION public.theirs()",
        "trigger theirs on deletions_known",
    ),
    (
        "ALTER TABLE deletions_known DISABLE TRIGGER deletions_ended",
        "trigger deletions_ended on deletions_known (ours, changed)",
    ),
    ("DROP TRIGGER holds_edited ON holds", "trigger holds_edited on holds (ours, missing)"),
    (
        "CREATE OR REPLACE FUNCTION between_turns() RETURNS void LANGUAGE plpgsql SECURITY DEFINER
         SET search_path = sweeper, pg_temp AS 'BEGIN END'",
        "function between_turns (ours, changed)",
    ),
    ("ALTER TABLE requests ENABLE ROW LEVEL SECURITY", "row-level security of requests"),
    ("CREATE RULE theirs AS ON DELETE TO deletions_new DO INSTEAD NOTHING", "rule theirs on deletions_new"),
    (
        "ALTER TABLE deletions_known DROP CONSTRAINT \"asks must be 0 or more\"",
        "constraint asks must be 0 or more on deletions_known (ours, missing)",
    ),
    ("ALTER TABLE holds ADD CHECK (repeats < 3)", "constraint holds_repeats_check on holds"),
    ("ALTER TABLE acts ADD COLUMN theirs text", "column theirs on acts"),
    ("ALTER TABLE wishes ALTER COLUMN wished_at DROP NOT NULL", "column wished_at on wishes (ours, changed)"),
    ("ALTER TABLE holds ALTER COLUMN cause SET DEFAULT 'lost'", "column cause on holds (ours, changed)"),
    ("ALTER TABLE requests SET UNLOGGED", "table requests (ours, changed)"),
    ("ALTER TABLE holds OWNER TO postgres", "table holds (ours, owned by postgres)"),
    ("CREATE TABLE theirs PARTITION OF deletions FOR VALUES IN ('parked')", "partition theirs on deletions"),
    ("CREATE TABLE public.theirs (id bigint REFERENCES requests)", "foreign key theirs_id_fkey on requests"),
    ("DROP VIEW outcomes", "view outcomes (ours, missing)"),
    ("DROP TABLE wishes", "table wishes (ours, missing)"),
];

/// Those that only make the daemon slow.
const SLOW: [(&str, &str); 3] = [
    ("DROP INDEX deletions_due", "index deletions_due on deletions_known (ours, missing)"),
    ("CREATE INDEX by_state ON deletions_known (state)", "index by_state on deletions_known"),
    (
        "UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'requests_unanswered'::regclass",
        "index requests_unanswered on requests (ours, changed)",
    ),
];

#[tokio::test]
async fn check_names_each_thing_that_is_not_as_it_was_made() {
    for (number, (sql, names)) in CHANGED.into_iter().chain(SLOW).enumerate() {
        let Some(own) = Own::new().await else { return };
        own.execute(sql).await;
        let (code, out) = own.check().await;
        let does = if number < CHANGED.len() {
            "What is added runs with every write"
        } else {
            "Every turn of the daemon may be slow"
        };
        let said = format!("tables NOT others have changed them: {names}. {does}");
        assert!(code == 1 && out.contains(&said), "{sql}: {code} {out}");
    }
}

#[tokio::test]
async fn init_and_the_start_of_a_daemon_name_it_too_and_a_daemon_that_can_work_goes_on() {
    let Some(own) = Own::new().await else { return };
    own.interfere("AFTER UPDATE OF state ON deletions_known FOR EACH ROW", "RETURN NULL;").await;
    own.execute("DROP INDEX deletions_dead; ALTER SCHEMA sweeper OWNER TO postgres; GRANT USAGE, CREATE ON SCHEMA sweeper TO sweeper").await;
    own.insert(10).await;
    // A schema that an administrator has made is in order.
    let names = "trigger theirs on deletions_known, \
                 index deletions_dead on deletions_known (ours, missing)";
    let (code, _, stderr) = own.run(&["init"]).await;
    let stderr = stderr.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(code == 0 && stderr.contains(&format!("the tables are not as sweeper makes them: {names}")), "{stderr}");
    let sandbox = sandbox(Api::default()).await;
    let (code, log) = own.work(&sandbox, &["--until-empty"]).await;
    assert_eq!((code, log.count("schema_modified", "WARN")), (0, 1), "{log:#?}");
    assert_eq!(log.last("schema_modified", "names"), names);
    assert_eq!(own.numbers("SELECT count(*) FROM sweeper.deletions WHERE state <> 'pending'").await, [10]);
}

#[tokio::test]
async fn without_one_of_the_tables_nothing_starts_and_the_table_is_named() {
    for (table, commands) in [
        ("holds", &["init", "run"][..]),
        ("leadership", &["init", "run"]),
        ("_sqlx_migrations", &["init", "run", "status"]),
    ] {
        let Some(own) = Own::new().await else { return };
        own.execute(&format!("DROP TABLE {table}")).await;
        for command in commands {
            let (code, out, err) = own.run(&[command]).await;
            let said = format!("somebody has dropped 1 of the queue's tables from the schema sweeper: {table}");
            assert!(code == 3 && (out + &err).contains(&said), "{command} without {table}: {code} {err}");
        }
    }
}

#[tokio::test]
async fn what_is_changed_while_a_daemon_leads_is_told_of_once_at_its_next_look() {
    if crate::cluster::cluster().is_none() {
        return;
    }
    let log = Log::default();
    let _guard = log.capture();
    let mut bed = Bed::<Postgres>::new(Plan::default()).await;
    let told = || -> Vec<String> {
        log.events("schema_modified").iter().map(|line| line["names"].as_str().unwrap().to_owned()).collect()
    };
    bed.insert_many("a", 5).await;
    bed.work().await;
    bed.engine.execute("CREATE INDEX by_state ON deletions_known (state); DELETE FROM leadership").await;
    assert_eq!(told(), [""; 0]);
    let names = "index by_state on deletions_known, row of leadership (ours, missing)";
    let looks = async {
        while told().len() < 2 {
            bed.clock.advance(std::time::Duration::from_secs(61));
            bed.worker.do_chores().await.unwrap();
            // It looks again once the rows are counted.
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(60), looks).await.unwrap();
    // In the second look, the row is there again, which is a change, too.
    assert_eq!(told(), [names, "index by_state on deletions_known"]);
    let leadership: Vec<(i64, i64)> = bed.engine.query("SELECT epoch, last_request FROM leadership").await;
    assert_eq!(leadership, [(1, 1)]);
    // A trigger is noticed by the turn that meets it first.
    bed.engine
        .execute(
            "CREATE FUNCTION theirs() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
             CREATE TRIGGER theirs AFTER UPDATE ON deletions_known FOR EACH ROW EXECUTE FUNCTION theirs()",
        )
        .await;
    bed.insert_many("b", 5).await;
    bed.work().await;
    let now = told();
    bed.engine.execute("DROP FUNCTION theirs CASCADE; DROP INDEX by_state").await;
    assert_eq!(now.last().unwrap(), "trigger theirs on deletions_known, index by_state on deletions_known");
    assert_eq!(bed.engine.pending().await, 0);
}

#[tokio::test]
async fn an_empty_leadership_is_filled_again_and_neither_epochs_nor_requests_go_backwards() {
    let Some(own) = Own::new().await else { return };
    let sandbox = sandbox(Api::default()).await;
    let (mut last_epoch, mut last_request) = (0, 0);
    for round in 0..3 {
        own.execute(&format!("INSERT INTO deletions (agent_id, entry_id) VALUES ('a', '{round}')")).await;
        let (code, log) = own.work(&sandbox, &["--until-empty"]).await;
        let named = u64::from(round == 2);
        assert_eq!((code, log.count("schema_modified", "WARN") as u64), (0, named), "{log:#?}");
        let now =
            own.numbers("SELECT epoch FROM sweeper.leadership UNION ALL SELECT max(id) FROM sweeper.requests").await;
        assert!(now[0] > last_epoch && now[1] > last_request, "{round}: {now:?}");
        [last_epoch, last_request] = [now[0], now[1]];
        own.execute("DELETE FROM leadership").await;
        let (code, out) = own.check().await;
        assert!(code == 1 && out.contains("others have changed them: row of leadership (ours, missing)"), "{out}");
        assert_eq!(own.run(&["status"]).await.0, 0);
        if round == 0 {
            let (code, _, stderr) = own.run(&["init"]).await;
            assert_eq!((code, stderr), (0, String::new()));
            let now = own.numbers("SELECT unnest(ARRAY[epoch, last_request]) FROM sweeper.leadership").await;
            assert!(now[0] > last_epoch && now[1] == last_request, "{now:?}");
        }
    }
}

//! What else the same deletions could be done with on the same server, made ready: scripts in `benches/peers/postgres`. And our daemon.
//!
//! Their first argument is `fill`, which makes their own tables in an empty database, or `work`. Whoever is done prints a line of JSON:
//! `seconds` since it began to work, and `peak_kib`.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use audio_cache_sweeper::queue::Queue as _;
use serde::Deserialize;
use sqlx::AssertSqlSafe;

use crate::{daemon::daemon, install, install::text, queue, server::Server};

/// Who empties the queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Who {
    /// `sweeper run`. `taken_in`: the leader has taken the rows in before; else they are where producers put them.
    Sweeper { taken_in: bool },
    /// pg-boss: one job per ID, or prepared jobs; by `work()` or by `fetch()`; jobs per fetch, and workers.
    Boss { is_prepared: bool, by: &'static str, batch: u32, workers: u32 },
    /// graphile-worker: how it uses its jobs, and how many at a time.
    Graphile { how: &'static str, concurrent: u32 },
    /// A script with psycopg.
    Script,
}

/// What one run came to.
#[derive(Clone, Copy, Debug, Deserialize)]
pub struct Run {
    pub seconds: f64,
    pub peak_kib: Option<u64>,
}

impl Who {
    pub fn name(self) -> String {
        match self {
            Self::Sweeper { taken_in: true } => "sweeper, rows taken in".to_owned(),
            Self::Sweeper { taken_in: false } => "sweeper, rows in the inbox".to_owned(),
            Self::Boss { is_prepared, by, batch, workers } => {
                let jobs = if is_prepared { "20 a job" } else { "1 a job" };
                format!("pg-boss, {jobs}, {by}(), {workers} × {batch}")
            }
            Self::Graphile { how: "single", .. } => "graphile-worker, 1 a job".to_owned(),
            Self::Graphile { how: "gather", .. } => "graphile-worker, 1 a job, gathered".to_owned(),
            Self::Graphile { how: "record", .. } => "graphile-worker, 20 a job, recorded".to_owned(),
            Self::Graphile { .. } => "graphile-worker, 20 a job".to_owned(),
            Self::Script => "psycopg, SKIP LOCKED".to_owned(),
        }
    }

    /// Whether each ID has a job of its own.
    pub fn is_single(self) -> bool {
        match self {
            Self::Boss { is_prepared, .. } => !is_prepared,
            Self::Graphile { how, .. } => how == "single" || how == "gather",
            Self::Sweeper { .. } | Self::Script => false,
        }
    }

    /// What it does not do that the sweeper does.
    pub fn leaves_out(self) -> &'static str {
        match self {
            Self::Sweeper { .. } => "",
            Self::Boss { is_prepared: false, by: "work", .. } => "rate, claim before sending, requests on record",
            Self::Boss { is_prepared: false, .. } => "rate, claim before sending, outcome and requests on record",
            Self::Boss { by: "work", .. } => "grouping, retry of single IDs, rate, claim before sending",
            Self::Boss { .. } => "grouping, outcome on record, retry of single IDs, rate, claim before sending",
            Self::Graphile { how: "single", .. } => "full requests, any record, rate, claim before sending",
            Self::Graphile { how: "gather", .. } => "any record, rate, claim before sending",
            Self::Graphile { how: "record", .. } => "grouping, rate, claim before sending, requests on record",
            Self::Graphile { .. } => "grouping, any record, rate, claim before sending",
            Self::Script => "retry, any record, rate, claim before sending, other producers' duplicates",
        }
    }

    /// The script of a peer.
    fn script(self) -> &'static str {
        match self {
            Self::Boss { .. } => "pg_boss.mjs",
            Self::Graphile { .. } => "graphile_worker.mjs",
            Self::Script => "skip_locked.py",
            Self::Sweeper { .. } => unreachable!("it is no script"),
        }
    }

    /// The name of the database that its rows are copied from.
    fn template(self, rows: u32, agents: u32) -> String {
        let jobs = if self.is_single() { "single" } else { "prepared" };
        let kind = match self {
            Self::Sweeper { taken_in } => format!("sweeper_{taken_in}"),
            Self::Boss { .. } => format!("boss_{jobs}"),
            Self::Graphile { .. } => format!("graphile_{jobs}"),
            Self::Script => "script".to_owned(),
        };
        format!("{kind}_{rows}_{agents}")
    }

    /// Makes the database `work` with these rows.
    pub async fn fill(self, server: &Server, peers: &Peers, made: &mut Vec<String>, rows: u32, agents: u32) {
        let template = self.template(rows, agents);
        if !made.contains(&template) {
            server.make(&template, "template1").await;
            let url = server.url(&template);
            match self {
                Self::Sweeper { taken_in: true } => drop(queue::fill(server, &template, rows, agents).await),
                Self::Sweeper { taken_in: false } => {
                    queue::open(&url).await.close().await.unwrap();
                    queue::insert(&url, rows, agents).await;
                }
                Self::Boss { .. } | Self::Graphile { .. } | Self::Script => {
                    let mut fill = peers.command(self.script());
                    fill.args(["fill", &url, &rows.to_string(), &agents.to_string()]);
                    text(fill.arg(if self.is_single() { "single" } else { "prepared" })).unwrap();
                }
            }
            // As autovacuum would sooner or later.
            let tables = if let Self::Sweeper { .. } = self { "sweeper.deletions" } else { "" };
            let vacuum = AssertSqlSafe(format!("VACUUM ANALYZE {tables}"));
            sqlx::raw_sql(vacuum).execute(&mut server.connect(&template).await).await.unwrap();
            made.push(template.clone());
        }
        server.make("work", &template).await;
    }

    /// The process that empties `work`. A sweeper goes on when that is done, unless it `ends`; the others end.
    pub fn work(self, server: &Server, peers: &Peers, stand_in: &str, rows: u32, ends: bool) -> Command {
        let (url, text) = (server.url("work"), |number: u32| number.to_string());
        if let Self::Sweeper { taken_in } = self {
            // Rows that come one after the other fill a request only if it waits for them, as it does by default.
            let mut command = daemon(&url, stand_in, if taken_in { "0ms" } else { "500ms" });
            if ends {
                command.arg("--until-empty");
            }
            return command;
        }
        let mut command = peers.command(self.script());
        command.args(["work", &url, stand_in, &text(rows)]).stdout(Stdio::piped());
        if let Self::Boss { is_prepared, by, batch, workers } = self {
            command.args([if is_prepared { "prepared" } else { "single" }, by, &text(batch), &text(workers)]);
        } else if let Self::Graphile { how, concurrent } = self {
            command.args([how, &text(concurrent)]);
        }
        command
    }

    /// How many IDs are not done in `work`, as its own tables say.
    pub fn left(self) -> &'static str {
        match self {
            Self::Sweeper { .. } => "SELECT count(*) FROM sweeper.deletions WHERE state <> 'deleted'",
            Self::Boss { is_prepared: false, .. } => {
                "SELECT count(*) FROM pgboss.job WHERE name = 'deletions' AND state <> 'completed'"
            }
            Self::Boss { .. } => {
                "SELECT coalesce(sum(jsonb_array_length(data->'ids')), 0)::bigint FROM pgboss.job
                 WHERE name = 'deletions' AND state <> 'completed'"
            }
            Self::Graphile { .. } if self.is_single() => "SELECT count(*) FROM graphile_worker._private_jobs",
            Self::Graphile { .. } => {
                "SELECT coalesce(sum(json_array_length(payload)), 0)::bigint FROM graphile_worker._private_jobs"
            }
            Self::Script => "SELECT count(*) FROM deletions WHERE NOT done",
        }
    }
}

/// The programs that could be made ready; for the others, why not.
#[derive(Debug)]
pub struct Peers {
    /// The folder with the scripts for Node.js, and what they need.
    node: Result<PathBuf, String>,
    python: Result<PathBuf, String>,
}

impl Peers {
    /// Makes them ready below `target/peers`; the first time, that takes the network.
    pub fn ready() -> Self {
        let target = Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("peers");
        fs::create_dir_all(&target).unwrap();
        let python = install::python(&target.join("venv-postgres"), &beside().join("requirements.txt"));
        let peers = Self { node: node(&target.join("node-postgres")), python };
        for (who, why) in
            [("pg-boss, graphile-worker", peers.node.as_ref().err()), ("psycopg", peers.python.as_ref().err())]
        {
            if let Some(why) = why {
                println!("  SKIPPED: {who}: {why}");
            }
        }
        peers
    }

    pub fn has(&self, who: Who) -> bool {
        match who {
            Who::Sweeper { .. } => true,
            Who::Boss { .. } | Who::Graphile { .. } => self.node.is_ok(),
            Who::Script => self.python.is_ok(),
        }
    }

    /// Which versions they are.
    pub fn versions() -> String {
        let said = [include_str!("../peers/postgres/package.json"), include_str!("../peers/postgres/requirements.txt")];
        let [node, python] = said;
        let node = node
            .lines()
            .filter(|line| line.contains(": \""))
            .map(|line| line.trim().trim_end_matches(',').replace('"', ""));
        node.chain(python.lines().map(str::to_owned)).collect::<Vec<_>>().join(", ")
    }

    /// What runs a script.
    fn command(&self, script: &str) -> Command {
        if script.ends_with(".py") {
            let mut command = Command::new(self.python.as_ref().unwrap());
            command.arg(beside().join(script));
            return command;
        }
        let folder = self.node.as_ref().unwrap();
        let mut command = Command::new(folder.join("node_modules/node/bin/node"));
        // Else graphile-worker writes a line about each job.
        command.arg(folder.join(script)).env("NO_LOG_SUCCESS", "1").env("NODE_ENV", "production");
        command
    }
}

fn beside() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/peers/postgres")
}

/// The scripts beside the modules, where Node.js looks for them.
fn node(folder: &Path) -> Result<PathBuf, String> {
    fs::create_dir_all(folder).unwrap();
    let (wanted, installed) = (fs::read_to_string(beside().join("package.json")).unwrap(), folder.join("installed"));
    for name in ["package.json", "api.mjs", "pg_boss.mjs", "graphile_worker.mjs"] {
        fs::copy(beside().join(name), folder.join(name)).unwrap();
    }
    if fs::read_to_string(&installed).is_ok_and(|installed| installed == wanted) {
        return Ok(folder.to_owned());
    }
    text(Command::new("npm").current_dir(folder).args(["install", "--no-audit", "--no-fund"]))?;
    fs::write(installed, wanted).unwrap();
    Ok(folder.to_owned())
}

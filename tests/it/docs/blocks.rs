//! Code blocks. What can be run is run as it stands there, one page after the other, each in a directory of its own with a
//! queue and a stand-in for the API. `<!-- not run: why -->` above a block keeps it from being run; then it is only parsed.
//!
//! A shell block is a script for bash that ends with its first error. `sweeper run` without an end of its own goes on in the
//! background until the page ends.

use std::{
    collections::HashMap,
    fs,
    io::Write as _,
    os::unix::fs::PermissionsExt as _,
    path::PathBuf,
    process::{Command, Stdio},
    time::Duration,
};

use audio_cache_sweeper::{
    config::Config,
    sandbox::{Options, Sandbox},
};
use sqlx::{AssertSqlSafe, Connection as _};

use super::{Page, pages};
use crate::{
    cluster::cluster,
    daemon::{BINARY, KEY, blocking, clean, open, skipped, sql, sweeper},
    engines::postgres::Postgres,
    suite::engine::{Engine as _, Setup},
};

/// Languages whose blocks are run.
const RUN: [&str; 4] = ["sh", "sql", "python", "js"];
/// Languages whose blocks are parsed.
const PARSED: [&str; 3] = ["json", "yaml", "toml"];
/// Output, diagrams, and forms.
const SHOWN: [&str; 3] = ["text", "mermaid", "promql"];

/// Runs `sweeper` as the pages name it. A daemon goes to the background, and its process number into a file.
const WRAPPER: &str = r#"#!/bin/bash
case " $* " in
  " run "*--until-empty* | " run "*--max-requests* | " run "*--help*) ;;
  *" run "*)
    "$SWEEPER_BINARY" "$@" >>daemon.log 2>&1 &
    echo $! >>"$SWEEPER_PIDS"
    for _ in $(seq 600); do grep -q '"started"' daemon.log && exit 0; kill -0 $! 2>/dev/null || break; sleep 0.05; done
    cat daemon.log >&2
    exit 1 ;;
esac
exec "$SWEEPER_BINARY" "$@"
"#;

struct Block {
    /// The page and the line.
    place: String,
    language: String,
    text: String,
    /// Why it is not run.
    not_run: Option<String>,
}

fn blocks(page: &Page) -> Vec<Block> {
    let mut found = Vec::new();
    let mut lines = page.text.lines().enumerate();
    let mut above = "";
    while let Some((number, line)) = lines.next() {
        let indent = line.len() - line.trim_start().len();
        let Some(language) = line.trim_start().strip_prefix("```") else {
            if !line.trim().is_empty() {
                above = line.trim();
            }
            continue;
        };
        let body: Vec<&str> = lines
            .by_ref()
            .map(|(_, line)| line.get(indent..).unwrap_or_default())
            .take_while(|line| !line.starts_with("```"))
            .collect();
        let not_run = above.strip_prefix("<!-- not run: ").and_then(|rest| rest.strip_suffix(" -->"));
        found.push(Block {
            place: format!("{}, line {}", page.path, number + 1),
            language: language.to_owned(),
            text: body.join("\n") + "\n",
            not_run: not_run.map(str::to_owned),
        });
        above = "";
    }
    found
}

/// Feeds a program, and returns what it said if it failed. `None` and a word aloud if it is not there.
fn feed(mut command: Command, input: &str, place: &str) -> Option<Result<String, String>> {
    let started = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let Ok(mut child) = started else {
        skipped(&format!("{place}: there is no {}", command.get_program().display()));
        return None;
    };
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    Some(if output.status.success() { Ok(said) } else { Err(said) })
}

fn parse(block: &Block) -> Result<(), String> {
    match block.language.as_str() {
        "sh" => {
            let mut bash = Command::new("bash");
            bash.arg("-n");
            feed(bash, &block.text, &block.place).map_or(Ok(()), |done| done.map(drop))
        }
        "json" => {
            let objects = serde_json::Deserializer::from_str(&block.text).into_iter::<serde_json::Value>();
            objects.collect::<Result<Vec<_>, _>>().map(drop).map_err(|error| error.to_string())
        }
        "yaml" => {
            let parsed: Result<Vec<serde_json::Value>, _> = serde_saphyr::from_multiple(&block.text);
            parsed.map(drop).map_err(|error| error.to_string())
        }
        // All TOML is our configuration.
        "toml" => {
            let dir = tempfile::tempdir().unwrap();
            let file = dir.path().join("sweeper.toml");
            fs::write(&file, &block.text).unwrap();
            Config::load(Some(&file), &HashMap::new()).map(drop).map_err(|error| error.to_string())
        }
        _ => Ok(()),
    }
}

#[test]
fn every_block_is_of_a_language_that_is_run_or_parsed_and_says_why_it_is_not_run() {
    let mut seen = 0;
    for block in pages().iter().flat_map(blocks) {
        let Block { place, language, not_run, .. } = &block;
        let language = language.as_str();
        assert!(
            RUN.contains(&language) || PARSED.contains(&language) || SHOWN.contains(&language),
            "{place}: {language:?} is no language that is run, parsed or only shown"
        );
        assert!(not_run.as_ref().is_none_or(|why| why.len() > 3), "{place}: not run, and why?");
        if let Err(problem) = parse(&block) {
            panic!("{place}: {problem}");
        }
        seen += 1;
    }
    assert!(seen > 10, "only {seen} blocks");
}

/// What the blocks of a page find: a queue with a row in each state, a stand-in for the API, and `sweeper` in the path.
struct Scene {
    dir: tempfile::TempDir,
    sandbox: Sandbox,
    /// The queue of the page about PostgreSQL.
    postgres: Option<Postgres>,
}

/// The page whose queue is on a server.
const ON_SERVER: &str = "docs/postgres.md";

impl Scene {
    async fn new(page: &Page) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let bin = dir.path().join("bin");
        fs::create_dir(&bin).unwrap();
        fs::write(bin.join("sweeper"), WRAPPER).unwrap();
        fs::set_permissions(bin.join("sweeper"), fs::Permissions::from_mode(0o755)).unwrap();
        let here = dir.path().join("here");
        fs::create_dir(&here).unwrap();
        // It takes any key.
        let sandbox = Sandbox::start(([127, 0, 0, 1], 0).into(), Options::default()).await.unwrap();
        let postgres = match page.path.as_str() {
            ON_SERVER => Some(Postgres::create(Setup { busy_timeout: Duration::from_secs(5), in_memory: true }).await),
            _ => None,
        };
        let scene = Self { dir, sandbox, postgres };
        sweeper(&here).arg("init").status().unwrap();
        let rows = "INSERT INTO deletions (agent_id, entry_id, state, settled_at, last_cause, attempts) VALUES
            ('PROJECT-58RP822I', '4701', 'pending', NULL, NULL, 0),
            ('PROJECT-58RP822I', '4702', 'deleted', 1790000000000, NULL, 1),
            ('PROJECT-58RP822I', '4703', 'dead', 1790000000000, 'api_failed', 8)";
        sql(&here, rows).await;
        // A backup, an archive and an older file are where the pages name them.
        for copy in ["old.db", "copy.db"] {
            sql(&here, &format!("VACUUM INTO '{}'", here.join(copy).display())).await;
        }
        // The shell would make an empty file of the archive.
        fs::File::create(here.join("archive.db")).unwrap();
        scene
    }

    fn here(&self) -> PathBuf {
        self.dir.path().join("here")
    }

    fn command(&self, program: &str) -> Command {
        let mut command = clean(program, &self.here());
        let path = std::env::var("PATH").unwrap_or_default();
        command
            .env("PATH", format!("{}:{path}", self.dir.path().join("bin").display()))
            .env("SWEEPER_BINARY", BINARY)
            .env("SWEEPER_PIDS", self.dir.path().join("pids"))
            .env("SWEEPER__API__BASE_URL", self.sandbox.url())
            .env("SWEEPER__API__KEY", KEY);
        if let Some(postgres) = &self.postgres {
            postgres.configure(&mut command);
        }
        command
    }

    async fn run(&mut self, block: &Block) -> Result<(), String> {
        let needs_shell = block.language == "sh" && block.text.contains("sqlite3 ");
        if needs_shell && Command::new("sqlite3").arg("--version").output().is_err() {
            skipped(&format!("{}: there is no sqlite3", block.place));
            return Ok(());
        }
        let program = match block.language.as_str() {
            "sql" => return self.run_sql(&block.text).await,
            "sh" => "bash",
            "python" => "python3",
            _ => "node",
        };
        let mut command = self.command(program);
        match program {
            "bash" => command.args(["-euo", "pipefail", "-s"]),
            "node" => command.args(["--input-type=module", "-"]),
            _ => command.arg("-"),
        };
        let (text, place) = (block.text.clone(), block.place.clone());
        blocking(move || feed(command, &text, &place)).await.map_or(Ok(()), |done| done.map(drop))
    }

    /// With the SQLite that is compiled in. It knows no directory of its own.
    async fn run_sql(&mut self, text: &str) -> Result<(), String> {
        if let Some(postgres) = &mut self.postgres {
            return postgres.try_to(text).await;
        }
        let file = regex::Regex::new(r"'([a-z]+\.db)'").unwrap();
        let text = file.replace_all(text, format!("'{}/$1'", self.here().display()));
        let mut conn = open(&self.here().join("sweeper.db")).await;
        let done = sqlx::raw_sql(AssertSqlSafe(text.into_owned())).execute(&mut conn).await;
        conn.close().await.unwrap();
        done.map(drop).map_err(|error| error.to_string())
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        let pids = fs::read_to_string(self.dir.path().join("pids")).unwrap_or_default();
        for pid in pids.lines() {
            let _ = Command::new("kill").arg(pid).status();
        }
    }
}

#[tokio::test]
async fn every_block_that_can_be_run_runs_as_it_stands_there() {
    let mut run = 0;
    for page in pages() {
        let mut wrong = Vec::new();
        let blocks = blocks(&page);
        let runnable = |block: &&Block| block.not_run.is_none() && RUN.contains(&block.language.as_str());
        if !blocks.iter().any(|block| runnable(&block)) {
            continue;
        }
        if page.path == ON_SERVER && cluster().is_none() {
            continue;
        }
        let mut scene = Scene::new(&page).await;
        for block in blocks.iter().filter(runnable) {
            run += 1;
            if let Err(said) = scene.run(block).await {
                wrong.push(format!("{}: {said}", block.place));
            }
        }
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    }
    assert!(run > 10, "only {run} blocks");
}

#[test]
fn a_block_is_found_with_its_language_and_why_it_is_not_run() {
    let text = "a\n\n<!-- not run: it needs docker -->\n```sh\ndocker ps\n```\n* b:\n  ```sql\n  SELECT 1;\n  ```\n";
    let page = Page { path: "x.md".to_owned(), text: text.to_owned() };
    let found: Vec<(String, String, String, Option<String>)> =
        blocks(&page).into_iter().map(|block| (block.place, block.language, block.text, block.not_run)).collect();
    let why = Some("it needs docker".to_owned());
    let expected = [("x.md, line 4", "sh", "docker ps\n", why), ("x.md, line 8", "sql", "SELECT 1;\n", None)];
    let expected = expected.map(|(place, language, text, why)| (place.into(), language.into(), text.into(), why));
    assert_eq!(found, expected);
    let wrong = |language: &str, text: &str| {
        let block = Block { place: "x".into(), language: language.into(), text: text.into(), not_run: None };
        parse(&block).is_err()
    };
    assert!(wrong("json", "{") && wrong("yaml", "a: [") && wrong("toml", "a = ") && wrong("sh", "if\n"));
}

//! The architecture, held: which file may know which, and what only one of them may do.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// From the shell to the core: a room (a file or folder right below `src`) names only rooms of lines below its own.
const ROOMS: [&[&str]; 10] = [
    &["main"],
    &["cli"],
    &["config", "sandbox"],
    &["worker"],
    &["watch"],
    &["queue", "api", "pace"],
    &["model"],
    &["event", "small_file", "durations"],
    &["permission"],
    &["printable"],
];

/// Files and folders that decide, and neither wait nor read nor write: below `src`.
const PURE: [&str; 14] = [
    "printable.rs",
    "durations.rs",
    "model/",
    "model.rs",
    "queue.rs",
    "pace/holds.rs",
    "pace/holds/",
    "pace/learnt.rs",
    "pace/rate.rs",
    "pace/told.rs",
    "pace/concurrency.rs",
    "worker/lanes.rs",
    "worker/plan.rs",
    "watch/health.rs",
];

/// The engines: each is the only one to know its database.
const ENGINES: [&str; 2] = ["queue/sqlite", "queue/postgres"];
/// Rooms that know which engines there are. All others know the seam alone.
const KNOW_ENGINES: [&str; 3] = ["cli", "config", "queue"];

/// The Rust files in a folder and below.
fn walk(dir: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            walk(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}

/// Every source file: its room, its path below `src`, and its text without comments.
fn sources() -> Vec<(String, String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    walk(&root, &mut files);
    assert!(files.len() > 15);
    files
        .into_iter()
        .map(|path| {
            let below = path.strip_prefix(&root).unwrap().to_str().unwrap().to_owned();
            let room = below.split('/').next().unwrap().trim_end_matches(".rs").to_owned();
            let code: Vec<String> = fs::read_to_string(&path)
                .unwrap()
                .lines()
                .filter(|line| !line.trim_start().starts_with("//"))
                .map(str::to_owned)
                .collect();
            (room, below, code.join("\n"))
        })
        .filter(|(room, _, _)| room != "lib")
        .collect()
}

fn layer(room: &str) -> usize {
    ROOMS
        .iter()
        .position(|layer| layer.contains(&room))
        .unwrap_or_else(|| panic!("{room} has no layer: give it one in tests/it/tidy.rs"))
}

/// The modules that `code` takes from this crate: `crate::name`, one at a time or in braces.
fn imports(code: &str) -> Vec<String> {
    let mut names = Vec::new();
    for (at, _) in code.match_indices("crate::") {
        let rest = &code[at + "crate::".len()..];
        if let Some(group) = rest.strip_prefix('{') {
            let mut depth = 0;
            let mut name = String::new();
            for c in group.chars() {
                match c {
                    '{' => depth += 1,
                    '}' if depth == 0 => break,
                    '}' => depth -= 1,
                    ',' if depth == 0 => {}
                    _ => {}
                }
                if depth == 0 && c == ',' {
                    names.push(std::mem::take(&mut name));
                } else {
                    name.push(c);
                }
            }
            names.push(name);
        } else {
            names.push(rest.to_owned());
        }
    }
    names
        .iter()
        .map(|name| name.trim().chars().take_while(|c| c.is_ascii_lowercase() || *c == '_').collect::<String>())
        .filter(|name| !name.is_empty())
        .collect()
}

#[test]
fn imports_run_one_way() {
    assert_eq!(
        imports("use crate::{api::{Api, Reply}, clock::Clock,\n key};\ncrate::pace::x"),
        ["api", "clock", "key", "pace"]
    );
    let mut seen = 0;
    for (room, path, code) in sources() {
        for import in imports(&code).into_iter().filter(|import| *import != room) {
            seen += 1;
            assert!(layer(&room) < layer(&import), "{path}: {room} must not know {import}");
        }
    }
    assert!(seen > 40, "only {seen} imports were found");
}

#[test]
fn only_an_engine_knows_sql() {
    let statements = ["SELECT ", "INSERT INTO ", "UPDATE ", "DELETE FROM ", "PRAGMA ", "CREATE TABLE "];
    for (_, path, code) in sources() {
        if ENGINES.iter().any(|engine| path.starts_with(engine)) {
            continue;
        }
        // The message about a wrong `log.filter` has a directive as its example.
        assert!(!code.replace("info,sqlx=warn", "").contains("sqlx"), "{path} names sqlx");
        // The demo shows people what to type.
        if path != "cli/demo.rs" {
            let found = statements.iter().find(|statement| code.contains(**statement));
            assert_eq!(found, None, "{path} has SQL");
        }
    }
}

#[test]
fn the_suite_that_every_engine_must_pass_names_no_database_and_no_sql() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/suite");
    let mut files = Vec::new();
    walk(&root, &mut files);
    assert!(files.len() > 10);
    for file in files {
        let text = fs::read_to_string(&file).unwrap();
        for name in [
            "sqlx",
            "sqlite",
            "Sqlite",
            "postgres",
            "Postgres",
            "SELECT ",
            "INSERT INTO",
            "UPDATE ",
            "DELETE FROM",
            "PRAGMA ",
            "BEGIN IMMEDIATE",
        ] {
            assert!(!text.contains(name), "{} has {name}", file.display());
        }
    }
}

#[test]
fn the_worker_and_whoever_watches_know_no_engine() {
    for (room, path, code) in sources() {
        let names = ["sqlite::", "sqlite,", "Sqlite", "postgres::", "postgres,", "Postgres"]
            .iter()
            .any(|name| code.contains(name));
        assert!(KNOW_ENGINES.contains(&room.as_str()) || !names, "{path} names an engine");
    }
}

#[test]
fn clocks_chance_and_environment_are_read_in_one_place_each() {
    let places = [
        ("Instant::now", "model/clock.rs"),
        ("SystemTime::now", "model/clock.rs"),
        ("Rng::new()", "cli"),
        ("env::var", "cli"),
        ("watchdog_enabled(", "cli"),
        ("with_seed(", "sandbox"),
    ];
    for (_, path, code) in sources() {
        // Unit tests seed their own chance.
        let code = code.split("#[cfg(test)]").next().unwrap();
        if path.ends_with("_tests.rs") {
            continue;
        }
        for (what, place) in places {
            assert!(path.starts_with(place) || !code.contains(what), "{path}: {what} belongs into {place}");
        }
    }
}

#[test]
fn the_pure_files_name_no_runtime_database_network_or_log() {
    let sources = sources();
    for pure in PURE {
        let mut files = sources.iter().filter(|(_, path, _)| path.starts_with(pure)).peekable();
        assert!(files.peek().is_some(), "there is no {pure}");
        for (_, path, code) in files {
            for name in ["tokio", "sqlx", "reqwest", "tracing", "governor"] {
                assert!(!code.contains(name), "{path} names {name}");
            }
        }
    }
}

#[test]
fn no_file_outgrows_what_one_head_holds() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    for (_, path, _) in sources() {
        let lines = fs::read_to_string(root.join(&path)).unwrap().lines().count();
        assert!(lines <= 450, "{path} has {lines} lines");
    }
}

#[test]
fn the_docs_have_every_event_every_key_and_every_cause() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = |name: &str| fs::read_to_string(root.join("docs").join(name)).unwrap();
    let has = |name: &str, what: &str| assert!(page(name).contains(what), "docs/{name} has no {what}");
    let events = fs::read_to_string(root.join("src/event.rs")).unwrap();
    let events: Vec<&str> =
        events.lines().filter_map(|line| line.strip_prefix("pub const ")?.split('"').nth(1)).collect();
    assert!(events.len() > 10);
    for event in events {
        has("reference-logs.md", &format!("| `{event}` |"));
    }
    for cause in audio_cache_sweeper::model::outcome::Cause::ALL {
        has("delivery.md", &format!("`{}`", cause.as_str()));
        has("troubleshooting.md", cause.as_str());
    }
    let config = audio_cache_sweeper::config::Config::load(None, &std::collections::HashMap::new()).unwrap();
    for key in config.shown.keys().map(String::as_str).chain(["api.key", "api.key_file", "api.base_url"]) {
        has("configuration.md", &format!("`{key}`"));
    }
}

#[test]
fn the_readme_is_short() {
    let readme = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md")).unwrap();
    assert!(readme.lines().count() <= 190, "{} lines", readme.lines().count());
}

#[test]
fn the_tests_that_the_guarantees_name_are_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let guarantees = fs::read_to_string(root.join("docs/guarantees.md")).unwrap();
    // A name without a module is a unit test's.
    let unit_tests: String = sources().into_iter().map(|(_, _, code)| code).collect();
    let mut seen = 0;
    for name in guarantees.split('`').filter(|name| name.len() > 30 && !name.contains(' ')) {
        seen += 1;
        let (module, text, name) = match name.split_once("::") {
            Some((module, name)) => {
                // The suite's are run for each engine, as `suite::ENGINE::MODULE::NAME`.
                let files = ["suite/", ""].map(|folder| root.join(format!("tests/it/{folder}{module}.rs")));
                (module, files.iter().filter_map(|file| fs::read_to_string(file).ok()).collect(), name)
            }
            None => ("src", unit_tests.clone(), name),
        };
        let is_there = ["(", "<E: Engine>("].iter().any(|then| text.contains(&format!("fn {name}{then}")));
        assert!(is_there, "{module} has no test {name}");
    }
    assert!(seen >= 18, "only {seen} tests are named");
}

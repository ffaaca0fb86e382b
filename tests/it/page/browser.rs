//! The page in a real browser: by width, by colour scheme, by keyboard, and as axe judges it for people who do not see it.
//!
//! `SWEEPER_SCREENSHOTS` names a directory in which the screenshots stay.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use audio_cache_sweeper::sandbox::Options;
use serde_json::Value;

use super::{TOKEN, scene, until};
use crate::daemon::{blocking, skipped};

/// The version of axe whose rules the page is held to.
const AXE: &str = "axe-core@4.14.1";

/// Enough of everything, with names that are as long as may be.
const ROWS: &str = "
INSERT INTO deletions (agent_id, entry_id, label) WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 4000)
SELECT 'PROJECT-58RP822I', i, 'ERASURE-17' FROM n;
INSERT INTO deletions (agent_id, entry_id) WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 900)
SELECT 'PROJECT-' || printf('%08X', i % 30 * 7919), i FROM n;
INSERT INTO deletions (agent_id, entry_id, label) VALUES
    ('PROJECT-WITH-A-NAME-THAT-IS-AS-LONG-AS-' || replace(hex(zeroblob(50)), '0', 'x'), 'not-a-number', 'a label of several words');
INSERT INTO deletions (agent_id, entry_id, due_at) VALUES ('PROJECT-58RP822I', 'later', 4000000000000);
INSERT INTO holds (scope, cause, why) VALUES ('PROJECT-00001EEF', 'operator', 'the new voice is not approved yet');
INSERT INTO holds (scope, cause, until_at) VALUES ('PROJECT-00003DDE', 'forbidden', 4000000000000);
INSERT INTO acts (acted_at, updated_at, act, operator, scope, rows, ended)
    VALUES (unixepoch() * 1000, unixepoch() * 1000, 'hold', 'ines', 'PROJECT-00001EEF', 1, 1);";

/// A program that is there.
fn found(names: &[&str]) -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    env::split_paths(&path).flat_map(|dir| names.iter().map(move |name| dir.join(name))).find(|file| file.is_file())
}

/// The script of axe, fetched once.
fn axe() -> Option<PathBuf> {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("axe");
    let script = dir.join("node_modules/axe-core/axe.min.js");
    if !script.is_file() {
        let mut npm = Command::new("npm");
        npm.args(["install", "--no-audit", "--no-fund", "--no-save", "--prefix"]).arg(&dir).arg(AXE);
        fs::create_dir_all(&dir).unwrap();
        npm.stdout(Stdio::null()).stderr(Stdio::null()).stdin(Stdio::null()).status().ok()?;
    }
    script.is_file().then_some(script)
}

#[tokio::test]
async fn a_browser_shows_it_at_every_width_in_both_schemes_and_axe_finds_nothing() {
    let (Some(chromium), Some(node)) = (found(&["chromium", "chromium-browser", "google-chrome"]), found(&["node"]))
    else {
        return skipped("the page in a browser: there is no chromium, or no node");
    };
    let Some(axe) = blocking(axe).await else {
        return skipped("the page in a browser: npm cannot fetch axe-core");
    };
    let options = Options {
        agents: vec![("PROJECT-58RP822I".to_owned(), 3_900)],
        numeric_ids: true,
        forbidden: vec!["PROJECT-00005CCD".to_owned()],
        ..Options::default()
    };
    let scene = scene(options, ROWS, "request", |command| {
        command.env("SWEEPER__RETRY__MAX_ATTEMPTS", "1").env("SWEEPER__RATE_LIMIT__REQUESTS_PER_SECOND", "40");
        command.env("SWEEPER__RATE_LIMIT__BURST", "10");
    })
    .await;
    until(scene.address, "Last requests").await;
    let (own, temporary) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let dir = env::var_os("SWEEPER_SCREENSHOTS").map_or_else(|| own.path().to_owned(), PathBuf::from);
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/page/browser.mjs");
    let mut command = Command::new(node);
    command.args(["--no-warnings", "--experimental-websocket"]).arg(script).arg(chromium).arg(axe).arg(dir);
    command.env("TMPDIR", temporary.path());
    command.args([
        &format!("http://{}", scene.address),
        TOKEN,
        "/?refresh=off",
        "/entry?agent=PROJECT-58RP822I&id=7",
        "/login",
    ]);
    let output = blocking(move || command.output().unwrap()).await;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let told: Value = serde_json::from_slice(&output.stdout).unwrap();
    judge(&told);
    // The browser's profile is gone. Other files there are those that it makes for itself.
    let left = |dir: &Path| fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name()).collect::<Vec<_>>();
    assert!(left(temporary.path()).iter().all(|name| !name.to_string_lossy().starts_with("sweeper")));
    assert!(left(own.path()).iter().all(|name| name.to_string_lossy().ends_with(".png")), "{:?}", left(own.path()));
}

fn judge(told: &Value) {
    let login = serde_json::json!({
        "path": "/", "cookies": [{ "httpOnly": true, "sameSite": "Strict", "hasToken": false }], "script": "",
    });
    assert_eq!(told["login"], login);
    let pages = told["pages"].as_array().unwrap();
    assert_eq!(pages.len(), 18);
    for page in pages {
        assert_eq!(page["violations"], serde_json::json!([]), "{page:#}");
        assert!(page["wide"].as_u64() <= page["width"].as_u64(), "it scrolls sideways: {page:#}");
        assert_eq!(page["styled"], true, "{page:#}");
    }
    let stops = told["stops"].as_array().unwrap();
    let names: Vec<&str> = stops.iter().map(|stop| stop["name"].as_str().unwrap()).collect();
    assert_eq!(names[..2], ["Skip to the content", "sweeper"], "{names:?}");
    for wanted in ["Refresh every 15 s", "Look up an entry", "Log out"] {
        assert!(names.contains(&wanted), "{names:?}");
    }
    assert!(stops.iter().all(|stop| stop["outline"] != "none" && stop["isIn"] == true), "{stops:#?}");
    // That the page was refused nothing that it needs, and ran nothing.
    assert_eq!(told["complaints"], serde_json::json!([]));
}

//! `sweeper enqueue --from-cache`: what is listed, how patiently, and what of it is enqueued.

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use audio_cache_sweeper::{
    model::clock::Clock,
    sandbox::{Mood, Options, Sandbox},
};
use serde_json::{Value, json};

use super::{on_a_terminal, rows, signalled};
use crate::{
    bed::status_with,
    daemon::{Daemon, KEY, blocking, configured, finish, queue, sandbox, sql},
};

/// From the cache of `a` on this sandbox; every request tried again soon.
fn cached(dir: &Path, sandbox: &Sandbox, arguments: &[&str]) -> Command {
    let mut command = configured(dir, sandbox);
    command
        .args(["enqueue", "--create", "--agent", "a", "--from-cache"])
        .args(arguments)
        .env("SWEEPER__HOLD__BASE_DELAY", "1ms");
    command.env("SWEEPER__HOLD__MAX_DELAY", "2ms").env("SWEEPER__HOLD__MAX_RETRY_AFTER", "5ms");
    command
}

fn page(total: u64, entries: impl IntoIterator<Item = Value>) -> Mood {
    Mood::Garble(json!({ "totalCount": total, "entries": entries.into_iter().collect::<Vec<_>>() }).to_string())
}

fn entry(id: u64) -> Value {
    json!({ "id": id.to_string() })
}

#[tokio::test]
async fn a_cache_is_listed_to_its_end_before_anything_is_enqueued() {
    let dir = tempfile::tempdir().unwrap();
    let sandbox = sandbox(Options { agents: vec![("a".to_owned(), 450)], ..Options::default() }).await;
    let (code, out, err) = finish(cached(dir.path(), &sandbox, &["--yes", "--priority", "3"])).await;
    assert_eq!((code, err.as_str()), (0, ""), "{out}");
    assert!(out.starts_with("450 of 450 entries in the cache of a\n  1  cached 2025-"), "{out}");
    assert!(
        out.contains("  … and 440 more\n")
            && out.ends_with("inserted 450, already waiting 0, now due earlier 0, reopened 0, refused 0\n")
    );
    let uris: Vec<String> =
        sandbox.requests().into_iter().map(|request| format!("{} {}", request.method, request.uri)).collect();
    let expected = [0, 200, 400].map(|offset| format!("GET /v1/agents/a/audio-cache?limit=200&offset={offset}"));
    assert_eq!(uris, expected);
    for request in sandbox.requests() {
        assert_eq!(request.headers["x-api-key"], KEY);
        assert!(request.headers.contains_key("x-polyai-correlation-id"));
    }
    assert_eq!(rows(dir.path()).await.len(), 450);
    assert_eq!(rows(dir.path()).await[0], "a 1 3 0");
    assert_eq!(finish(cached(dir.path(), &sandbox, &["--dry-run"])).await.0, 0, "a dry run need not ask");
}

#[tokio::test]
async fn filters_take_what_is_known_to_match_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let sandbox = sandbox(Options::default()).await;
    let entries = || {
        [
            json!({ "id": "1", "transcript": "Hello Ärger", "cachedAt": "2026-01-01T00:00:00Z", "hitCount": 1,
                    "provider": "p", "providerVoiceId": "v", "languageCode": "en" }),
            json!({ "id": "2", "transcript": "Bye", "cachedAt": "2026-01-03T00:00:00", "hitCount": 9, "provider": "q",
                    "providerVoiceId": "w", "languageCode": "de" }),
            json!({ "id": "3" }),
            json!({ "id": "not an id" }),
        ]
    };
    let cases: [(&[&str], &str, &str); 8] = [
        (&["--cached-before", "2026-01-02"], "1", "1 entry stays: the API does not say"),
        (&["--hit-count-below", "9"], "1", "1 entry stays: the API does not say"),
        (&["--provider", "Q"], "2", "1 entry stays: no ID"),
        (&["--voice", "w"], "2", ""),
        (&["--language", "DE"], "2", ""),
        (&["--transcript-matches", "(?i)^hello ä"], "1", ""),
        (&["--language", "de", "--voice", "v"], "", ""),
        (&[], "1 2 3", ""),
    ];
    for (filter, taken, said) in cases {
        fs::read_dir(dir.path()).unwrap().for_each(|file| fs::remove_file(file.unwrap().path()).unwrap());
        sandbox.script([page(4, entries())]);
        let (code, out, err) = finish(cached(dir.path(), &sandbox, &[&["--yes"], filter].concat())).await;
        assert_eq!(code, 0, "{err}");
        assert!(err.contains(said), "{filter:?}: {err}");
        let ids = if taken.is_empty() { Vec::new() } else { sql(dir.path(), "SELECT entry_id FROM deletions").await };
        let ids: Vec<String> = ids.into_iter().map(|(id,)| id).collect();
        assert_eq!(ids.join(" "), taken, "{filter:?}: {out}");
    }
}

#[tokio::test]
async fn a_cache_that_changes_meanwhile_is_told_of_and_what_comes_twice_counts_once() {
    let dir = tempfile::tempdir().unwrap();
    let sandbox = sandbox(Options::default()).await;
    sandbox.script([page(5, (1..=3).map(entry)), page(4, (3..=4).map(entry))]);
    let (code, out, err) = finish(cached(dir.path(), &sandbox, &["--yes"])).await;
    assert_eq!(code, 0);
    assert!(out.ends_with("inserted 4, already waiting 0, now due earlier 0, reopened 0, refused 0\n"), "{out}");
    assert!(err.contains("the cache had 4 to 5 entries while it was listed; 1 entry was listed twice"), "{err}");
    sandbox.script([page(5, (1..=3).map(entry)), page(5, [])]);
    let (_, _, err) = finish(cached(dir.path(), &sandbox, &["--yes"])).await;
    assert!(err.contains("the API says that there are 5 entries, and listed 3"), "{err}");
    sandbox.script([page(0, [])]);
    let (code, out, err) = finish(cached(dir.path(), &sandbox, &["--yes"])).await;
    assert_eq!((code, out.as_str(), err.as_str()), (0, "0 of 0 entries in the cache of a\n", ""));
}

#[tokio::test]
async fn what_the_api_says_of_its_number_is_not_taken_for_the_end() {
    let dir = tempfile::tempdir().unwrap();
    let sandbox = sandbox(Options::default()).await;
    sandbox.script([
        page(300, (1..=200).map(entry)),
        page(300, (201..=400).map(entry)),
        page(300, (401..=450).map(entry)),
    ]);
    let (code, out, err) = finish(cached(dir.path(), &sandbox, &["--yes"])).await;
    assert_eq!((code, rows(dir.path()).await.len()), (0, 450), "{out}");
    assert!(err.contains("the API says that there are 300 entries, and listed 450"), "{err}");
    // And one that goes round in circles comes to an end.
    sandbox.script((0..9).map(|_| page(1_000_000, (1..=200).map(entry))));
    let before = sandbox.requests().len();
    let (code, _, err) = finish(cached(dir.path(), &sandbox, &["--yes"])).await;
    assert_eq!((code, sandbox.requests().len() - before), (0, 4), "{err}");
    assert!(err.contains("nothing new on 3 pages in a row"), "{err}");
}

#[tokio::test]
async fn a_page_is_asked_for_again_if_that_may_help_and_not_for_ever() {
    let dir = tempfile::tempdir().unwrap();
    let sandbox = sandbox(Options { agents: vec![("a".to_owned(), 3)], ..Options::default() }).await;
    let passing = || {
        [
            status_with(429, "retry-after", "3600"),
            Mood::status(500),
            Mood::Reset { done: false },
            Mood::Garble("<html>".to_owned()),
            Mood::status(503),
        ]
    };
    sandbox.script(passing());
    let (code, out, err) = finish(cached(dir.path(), &sandbox, &["--yes"])).await;
    assert_eq!(code, 0, "{err}");
    assert!(out.contains("inserted 3") && err.matches("trying again in").count() == 5, "{err}");
    assert!(err.contains("the API answered 429; trying again in 5ms"), "clamped: {err}");
    sandbox.script(passing());
    sandbox.script([Mood::status(500)]);
    let (code, _, err) = finish(cached(dir.path(), &sandbox, &["--yes"])).await;
    assert_eq!(code, 1);
    assert!(err.contains("list the audio cache of a: the API answered 500: as ordered (correlation ID "), "{err}");
    for (status, said) in
        [(401, "the API key is wrong"), (403, "needs `read`"), (404, "check the agent's ID"), (301, "base_url")]
    {
        let before = sandbox.requests().len();
        sandbox.script([Mood::status(status)]);
        let (code, _, err) = finish(cached(dir.path(), &sandbox, &["--yes"])).await;
        assert_eq!((code, sandbox.requests().len() - before), (1, 1), "{status}: {err}");
        assert!(err.contains(&format!("answered {status}")) && err.contains(said), "{err}");
    }
    sandbox.script([
        status_with(403, "x-none", ""),
        Mood::Say { status: 403, headers: vec![], body: format!("no {KEY}") },
    ]);
    for _ in 0..2 {
        let (_, out, err) = finish(cached(dir.path(), &sandbox, &["--yes"])).await;
        assert!(!out.contains(KEY) && !err.contains(KEY), "{err}");
    }
}

#[tokio::test]
async fn listing_keeps_to_the_configured_rate() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options {
        agents: vec![("a".to_owned(), 1_600)],
        rate_limit: Some(5.try_into().unwrap()),
        ..Options::default()
    };
    let sandbox = sandbox(options).await;
    let mut command = cached(dir.path(), &sandbox, &["--dry-run"]);
    command.env("SWEEPER__RATE_LIMIT__REQUESTS_PER_SECOND", "5").env("SWEEPER__RATE_LIMIT__BURST", "3");
    assert_eq!(finish(command).await.0, 0);
    let statuses: Vec<u16> = sandbox.requests().iter().map(|request| request.status).collect();
    assert_eq!(statuses, [200; 9], "never throttled, and asked once more after the last full page");
}

#[tokio::test]
async fn a_hold_keeps_a_cache_from_being_listed_unless_it_ends_soon() {
    let dir = tempfile::tempdir().unwrap();
    let sandbox = sandbox(Options { agents: vec![("a".to_owned(), 3)], ..Options::default() }).await;
    queue(dir.path(), 1).await;
    let now = Clock::system().now().0;
    let lift = "sweeper release";
    for (hold, said) in [
        (
            "('*', 'operator', 0, NULL, 0)".to_owned(),
            format!("everything is held (operator) until somebody lifts the hold with `{lift} --all`"),
        ),
        (format!("('a', 'forbidden', 0, {}, 1)", now + 7_300_000), "a is held (forbidden) for another 2h".to_owned()),
    ] {
        sql(dir.path(), &format!("INSERT INTO holds (scope, cause, since_at, until_at, repeats) VALUES {hold}")).await;
        let (code, out, err) = finish(cached(dir.path(), &sandbox, &["--yes"])).await;
        assert_eq!((code, out.as_str()), (1, ""));
        assert!(err.contains(&said) && err.contains(lift), "{err}");
        assert_eq!(sandbox.requests().len(), 0);
        sql(dir.path(), "DELETE FROM holds").await;
    }
    let soon = Clock::system().now().0 + 1_500;
    sql(
        dir.path(),
        "INSERT INTO holds (scope, cause, since_at, until_at, repeats)
         VALUES ('b', 'operator', 0, NULL, 0), ('*', 'throttled', 0, 100000000000, 1)",
    )
    .await;
    sql(dir.path(), &format!("INSERT INTO holds (scope, until_at) VALUES ('a', {soon})")).await;
    let (code, out, err) = finish(cached(dir.path(), &sandbox, &["--yes"])).await;
    assert_eq!(code, 0, "{err}");
    assert!(out.contains("inserted 2, already waiting 1"), "{out}");
    assert!(err.starts_with("a is held (operator); going on in ") && Clock::system().now().0 >= soon, "{err}");
}

#[tokio::test]
async fn beside_a_daemon_a_cache_is_listed_at_half_of_its_rate() {
    let dir = tempfile::tempdir().unwrap();
    let sandbox = sandbox(Options { agents: vec![("a".to_owned(), 900)], ..Options::default() }).await;
    let mut command = configured(dir.path(), &sandbox);
    command.env("SWEEPER__RATE_LIMIT__REQUESTS_PER_SECOND", "20");
    let _daemon = Daemon::start(command).until("started").await;
    while sql(dir.path(), "SELECT 'said' FROM daemon WHERE requests_per_second = 20").await.is_empty() {}
    // As if it had been throttled: far below what is configured, which the listing alone would keep to.
    sql(dir.path(), "UPDATE daemon SET requests_per_second = 4").await;
    let clock = Clock::system();
    let (code, out, err) = finish(cached(dir.path(), &sandbox, &["--dry-run"])).await;
    let took = clock.elapsed();
    assert_eq!((code, sandbox.requests().len()), (0, 5), "{out}{err}");
    assert!(took >= Duration::from_secs(2), "four gaps of half a second in {took:?}");
}

#[tokio::test]
async fn a_long_retry_after_ends_the_listing_and_what_was_listed_is_enqueued() {
    let dir = tempfile::tempdir().unwrap();
    let sandbox = sandbox(Options { agents: vec![("a".to_owned(), 300)], ..Options::default() }).await;
    let list = || {
        let mut command = cached(dir.path(), &sandbox, &["--yes"]);
        command.env("SWEEPER__HOLD__MAX_RETRY_AFTER", "2h");
        finish(command)
    };
    let said = "the API answered 429 with a Retry-After of 1h: run it again after 20";
    sandbox.script([status_with(429, "retry-after", "3600")]);
    let (code, out, err) = list().await;
    assert_eq!((code, out.as_str(), sandbox.requests().len()), (1, "", 1));
    assert!(err.contains(said), "{err}");
    sandbox.script([Mood::Plain, status_with(429, "retry-after", "3600")]);
    let (code, out, err) = list().await;
    assert_eq!((code, sandbox.requests().len()), (1, 3), "{err}");
    assert!(out.contains("inserted 200") && err.contains("not listed to its end") && err.contains(said), "{out}{err}");
    assert!(!err.contains("the API says that there are"), "{err}");
    assert_eq!(rows(dir.path()).await.len(), 200);
    sandbox.script([status_with(429, "retry-after", "1")]);
    let (code, _, err) = list().await;
    assert!(code == 0 && err.contains("the API answered 429; trying again in 1s"), "{err}");
}

#[tokio::test]
async fn a_signal_while_a_cache_is_listed_or_a_question_waits_enqueues_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let sandbox = sandbox(Options { agents: vec![("a".to_owned(), 450)], ..Options::default() }).await;
    sandbox.script([Mood::Plain, Mood::Gate]);
    let mut command = cached(dir.path(), &sandbox, &["--yes"]);
    let child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    sandbox.arrived(2).await;
    let (code, said) = blocking(move || signalled(child, "TERM")).await;
    assert_eq!(code, Some(143), "{said}");
    assert!(said.contains("stopped by SIGTERM before the cache was listed to its end; nothing was enqueued"), "{said}");
    sandbox.open_gate();
    // On a terminal, this character is Ctrl-C.
    let Some((code, shown)) = on_a_terminal(cached(dir.path(), &sandbox, &[]), "\u{3}").await else { return };
    assert_eq!(code, 130, "{shown}");
    assert!(shown.contains("stopped by SIGINT before there was an answer; nothing was enqueued"), "{shown}");
    assert!(!dir.path().join("sweeper.db").exists());
}

#[tokio::test]
async fn on_a_terminal_it_asks_before_it_enqueues_what_it_found() {
    let dir = tempfile::tempdir().unwrap();
    let sandbox = sandbox(Options { agents: vec![("a".to_owned(), 12)], ..Options::default() }).await;
    let Some((code, shown)) = on_a_terminal(cached(dir.path(), &sandbox, &[]), "n").await else { return };
    assert_eq!(code, 1, "{shown}");
    assert!(shown.contains("12 of 12 entries") && shown.contains("nothing was enqueued"), "{shown}");
    assert!(!dir.path().join("sweeper.db").exists());
    let (code, shown) = on_a_terminal(cached(dir.path(), &sandbox, &[]), "y").await.unwrap();
    assert_eq!(code, 0, "{shown}");
    assert!(shown.contains("Enqueue these 12 deletions? They cannot be undone. [y/N]"), "{shown}");
    assert_eq!(rows(dir.path()).await.len(), 12);
}

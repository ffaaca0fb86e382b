//! `sweeper check`: what it sees of the database, what it asks the API with `--online`, and that it changes nothing.

use std::{
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt as _,
    path::Path,
    process::Command,
};

use audio_cache_sweeper::sandbox::{Mood, Options, Permission, Sandbox};
use regex::Regex;

use crate::{
    bed::status_with,
    daemon::{Daemon, KEY, configured, finish, open, queue, sandbox, sql, sweeper},
    storage::unprivileged,
    tls::{Authority, over_tls, proxy},
};

/// Runs it: its exit code, and its lines about the database and the API. A line that was broken is whole again.
async fn run(mut command: Command, arguments: &[&str]) -> (i32, Vec<String>) {
    command.arg("check").args(arguments);
    let (code, out, err) = finish(command).await;
    assert_eq!(err, "", "{out}");
    let (_, lines) = out.split_once("\ndatabase ").unwrap_or_else(|| panic!("{out}"));
    let (lines, end) = lines.rsplit_once("\n\n").unwrap();
    let said = "the configuration can be used";
    let end_of = if code == 0 { format!("{said}\n") } else { format!("{said}; see NOT above for what is not well\n") };
    assert_eq!(end, end_of);
    let whole = Regex::new(r"\n {17}").unwrap().replace_all(lines, " ").into_owned();
    (code, format!("database {whole}").lines().map(str::to_owned).collect())
}

/// Asks the API of this sandbox, with an empty queue.
async fn ask(sandbox: &Sandbox, arguments: &[&str], environment: &[(&str, &str)]) -> (i32, Vec<String>) {
    let dir = tempfile::tempdir().unwrap();
    let mut command = configured(dir.path(), sandbox);
    command.envs(environment.iter().copied());
    let (code, mut lines) = run(command, &[&["--online"], arguments].concat()).await;
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0, "nothing is made");
    assert!(lines.remove(0).contains("is not there"));
    assert_eq!(lines.remove(0), "daemon      -    not running");
    (code, lines)
}

/// The state of each line: `connection ok, key NOT`.
fn states(lines: &[String]) -> String {
    let state = |line: &String| line.split_whitespace().take(2).collect::<Vec<_>>().join(" ");
    lines.iter().map(state).collect::<Vec<_>>().join(", ")
}

fn line<'l>(lines: &'l [String], name: &str) -> &'l str {
    lines.iter().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("no {name} in {lines:#?}"))
}

const WELL: &str = "connection ok, key ok, region ok, agent ok, read ok, write ";

#[tokio::test]
async fn it_says_what_is_right_with_one_request_that_deletes_nothing() {
    let api = sandbox(Options { agents: vec![("A".to_owned(), 60)], ..Options::default() }).await;
    let (code, lines) = ask(&api, &["--agent", "A"], &[]).await;
    assert_eq!((code, states(&lines)), (0, format!("{WELL}-")), "{lines:#?}");
    let url = api.url();
    for (name, said) in [
        ("connection", format!("{url} at {}", url.trim_start_matches("http://"))),
        ("connection", "; without TLS".to_owned()),
        ("key", "api.key (set by SWEEPER__API__KEY)".to_owned()),
        ("region", format!("api.base_url = {url}/ (set by SWEEPER__API__BASE_URL)")),
        ("agent", "A: 60 entries in its cache".to_owned()),
        ("write", "not tried; `--try-write --agent A` sends a bulk delete without any ID".to_owned()),
    ] {
        assert!(line(&lines, name).contains(&said), "{said}: {lines:#?}");
    }
    let [request] = &api.requests()[..] else { panic!("one request") };
    assert_eq!((&*request.method, &*request.uri), ("GET", "/v1/agents/A/audio-cache?limit=1&offset=0"));
}

#[tokio::test]
async fn whether_the_key_may_write_is_tried_only_if_somebody_asks_and_without_any_id() {
    let api = sandbox(Options { agents: vec![("A".to_owned(), 60)], ..Options::default() }).await;
    let write = ["--try-write", "--agent", "A"];
    let (code, lines) = ask(&api, &write, &[]).await;
    assert_eq!((code, states(&lines)), (0, format!("{WELL}ok")), "{lines:#?}");
    assert!(line(&lines, "write").contains("answered 400 to a bulk delete without any ID, as its contract says"));
    let requests = api.requests();
    let [_, request] = &requests[..] else { panic!("{requests:#?}") };
    assert_eq!((&*request.method, &request.body[..]), ("POST", &br#"{"ids":[]}"#[..]));
    assert!((1..=60).all(|id| !api.is_gone("A", &id.to_string())));

    for (permission, states_of, lacks) in [
        (Permission::Read, format!("{WELL}NOT"), "the key lacks `write` on the audio cache of A"),
        (
            Permission::Write,
            "connection ok, key ok, region -, agent -, read NOT, write ok".to_owned(),
            "the key lacks `read` on the audio cache of A",
        ),
    ] {
        let api = sandbox(Options { permission, ..Options::default() }).await;
        let (code, lines) = ask(&api, &write, &[]).await;
        assert_eq!((code, states(&lines)), (1, states_of), "{lines:#?}");
        assert!(
            lines.iter().any(|line| line.contains(lacks) && line.contains("403") && line.contains("Correlation ID "))
        );
    }
    let dir = tempfile::tempdir().unwrap();
    for arguments in
        [&["--try-write"][..], &["--try-write", "--online"], &["--agent", "A"], &["--try-write", "--agent", "A"]]
    {
        let mut command = sweeper(dir.path());
        command.arg("check").args(arguments);
        assert_eq!(finish(command).await.0, 2, "{arguments:?}");
    }
}

#[tokio::test]
async fn what_the_api_says_is_explained_with_what_to_do() {
    let known = || Options { agents: vec![("A".to_owned(), 1)], ..Options::default() };
    let api = sandbox(known()).await;
    let about_a = &["--agent", "A", "--try-write"][..];
    let unknown = "region -, agent -, read -, write -";
    let (code, lines) = ask(&api, about_a, &[("SWEEPER__API__KEY", "another-key")]).await;
    assert_eq!((code, states(&lines)), (1, format!("connection ok, key NOT, {unknown}")), "{lines:#?}");
    let said = line(&lines, "key");
    for part in ["401: ", "missing or invalid API key", "set by SWEEPER__API__KEY", "expired", "another region"] {
        assert!(said.contains(part), "{part}: {said}");
    }
    assert_eq!(api.requests().len(), 1, "a second request would tell nothing");
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), "another-key").unwrap();
    let path = file.path().to_str().unwrap();
    let (_, lines) = ask(&api, about_a, &[("SWEEPER__API__KEY", ""), ("SWEEPER__API__KEY_FILE", path)]).await;
    assert!(
        line(&lines, "key").contains(&format!("{path}, api.key_file (set by SWEEPER__API__KEY_FILE)")),
        "{lines:#?}"
    );

    let (code, lines) = ask(&api, &["--agent", "NOPE", "--try-write"], &[]).await;
    assert_eq!((code, states(&lines)), (1, "connection ok, key ok, region -, agent NOT, read -, write -".to_owned()));
    assert!(
        line(&lines, "agent")
            .contains("404: the API does not know NOPE (\"no such agent\"). Is the ID right, and is api.")
    );

    let connection_not = "connection NOT, key -, region -, agent -, read -, write -";
    let read_not = "connection ok, key -, region -, agent -, read NOT, write -";
    let gateway = r#"{"message":"no Route matched with those values"}"#;
    for (mood, states_of, said) in [
        (Mood::Garble("<html>log in</html>".to_owned()), connection_not, "the login page of a network, a proxy"),
        (Mood::Say { status: 302, headers: vec![], body: String::new() }, connection_not, "302: not what the API says"),
        (Mood::Say { status: 404, headers: vec![], body: gateway.to_owned() }, connection_not, "no Route matched"),
        (
            Mood::Reset { done: false },
            connection_not,
            "The connection was cut, or no answer came within api.request_timeout",
        ),
        (
            status_with(429, "retry-after", "90"),
            read_not,
            "429: the API is asked too often, and wants nothing for another 1m 30s",
        ),
        (status_with(503, "retry-after", "5"), read_not, "503: the API is asked too often"),
        (
            Mood::Say { status: 500, headers: vec![], body: String::new() },
            read_not,
            "500: the API has trouble of its own",
        ),
    ] {
        api.script([mood]);
        let (code, lines) = ask(&api, about_a, &[]).await;
        assert_eq!((code, states(&lines).as_str()), (1, states_of), "{lines:#?}");
        assert!(lines.iter().any(|line| line.contains(said)), "{said}: {lines:#?}");
    }
}

#[tokio::test]
async fn an_answer_that_is_not_the_api_s_is_not_taken_for_its_word_and_no_delete_follows() {
    let api = sandbox(Options { agents: vec![("A".to_owned(), 1)], ..Options::default() }).await;
    let no_route = r#"{"success":false,"error_code":"NOT_FOUND","message":"route not found"}"#;
    let foreign = |status, body: &str| Mood::Say { status, headers: vec![], body: body.to_owned() };
    let connection_not = "connection NOT, key -, region -, agent -, read -, write -";
    let read_not = "connection ok, key -, region -, agent -, read NOT, write -";
    for (mood, states_of, said) in [
        (
            foreign(401, "<html>login"),
            connection_not,
            "answered with 401, and not in the API's form (said: <html>login)",
        ),
        (foreign(403, "<html>WAF"), connection_not, "answered with 403, and not in the API's form (said: <html>WAF)"),
        (foreign(403, ""), connection_not, "answered with 403, and not in the API's form (said: nothing)"),
        (
            foreign(404, no_route),
            connection_not,
            "answered with 404, and not in the API's form (said: route not found)",
        ),
        (
            foreign(429, ""),
            read_not,
            "429: the API is asked too often, and does not say for how long it wants nothing. Try again in a minute.",
        ),
    ] {
        api.script([mood]);
        let (code, lines) = ask(&api, &["--agent", "A", "--try-write"], &[]).await;
        assert_eq!((code, states(&lines).as_str()), (1, states_of), "{lines:#?}");
        assert!(lines.iter().any(|line| line.contains(said)), "{said}: {lines:#?}");
    }
    assert!(api.requests().iter().all(|request| request.method == "GET"));
}

#[tokio::test]
async fn certificates_that_nothing_uses_are_named_as_such() {
    let api = sandbox(Options::default()).await;
    let dir = tempfile::tempdir().unwrap();
    let mut command = configured(dir.path(), &api);
    command.arg("check").env("SWEEPER__API__CA_FILE", "/nope");
    let (code, out, err) = finish(command).await;
    assert!(
        code == 0 && out.contains("\napi.ca_file is not used, and was not read: an http:// base_url"),
        "{out}{err}"
    );
}

#[tokio::test]
async fn without_a_connection_it_says_where_it_ends() {
    let api = sandbox(Options::default()).await;
    let tls = api.url().replace("http://", "https://");
    for (environment, said) in [
        (&[("SWEEPER__API__BASE_URL", tls.as_str())][..], "does not speak TLS"),
        (&[("SWEEPER__API__BASE_URL", "https://nowhere.invalid")], "its name cannot be resolved"),
        (&[("SWEEPER__API__BASE_URL", "http://127.0.0.1:1")], "no connection (failed: "),
        (
            &[("SWEEPER__API__BASE_URL", tls.as_str()), ("SWEEPER__API__PROXY", api.url().leak())],
            "api.proxy (set by SWEEPER__API__PROXY): no connection",
        ),
    ] {
        let (code, lines) = ask(&api, &["--agent", "A"], environment).await;
        assert_eq!((code, states(&lines).as_str()), (1, "connection NOT, key -, region -, agent -, read -, write -"));
        let connection = line(&lines, "connection");
        assert!(connection.contains(said) && connection.contains("BASE_URL) right"), "{said}: {connection}");
    }
    assert!(api.requests().iter().all(|request| request.headers.get("x-api-key").is_none()), "the key went nowhere");
}

#[tokio::test]
async fn tls_and_the_proxy_are_those_of_the_daemon_and_named() {
    let api = sandbox(Options::default()).await;
    let authority = Authority::new();
    let dir = tempfile::tempdir().unwrap();
    let ca = dir.path().join("ca.pem");
    fs::write(&ca, &authority.pem).unwrap();
    let port = authority.serve("localhost", false, &api).await.port();
    let arguments = ["--online", "--agent", "A"];
    let (code, lines) = run(over_tls(dir.path(), &api, port), &arguments).await;
    let said = line(&lines, "connection");
    assert!(code == 1 && said.contains("is not trusted (") && said.contains("api.ca_file"), "{said}");
    assert!(said.contains("TLS trusts the system's certificates."), "{said}");

    let (address, asked) = proxy().await;
    let mut command = over_tls(dir.path(), &api, port);
    command.env("SWEEPER__API__CA_FILE", "ca.pem").env("SWEEPER__API__PROXY", format!("http://{address}"));
    let (code, lines) = run(command, &arguments).await;
    let said = line(&lines, "connection");
    assert_eq!((code, asked.lock().unwrap().len()), (0, 1), "{lines:#?}");
    for part in [
        format!("https://localhost:{port} through the proxy http://{address}, api.proxy (set by SWEEPER__API__PROXY)"),
        format!(" at {address}, "),
        format!("the certificates in {}, api.ca_file (set by SWEEPER__API__CA_FILE)", ca.display()),
    ] {
        assert!(said.contains(&part), "{part}: {said}");
    }
    for (name, is_expired, part) in [("other.test", false, "not valid for name"), ("localhost", true, "expired")] {
        let port = authority.serve(name, is_expired, &api).await.port();
        let mut command = over_tls(dir.path(), &api, port);
        command.env("SWEEPER__API__CA_FILE", &ca);
        let (code, lines) = run(command, &arguments).await;
        assert!(code == 1 && line(&lines, "connection").contains(part), "{part}: {lines:#?}");
    }
}

#[tokio::test]
async fn without_an_agent_it_takes_one_of_the_queue_or_one_that_shows_only_whether_the_key_is_refused() {
    let api = sandbox(Options { agents: vec![("a".to_owned(), 1)], ..Options::default() }).await;
    let (code, lines) = ask(&api, &[], &[]).await;
    assert_eq!((code, states(&lines)), (0, "connection ok, key ok, region -, agent -, read -, write -".to_owned()));
    assert!(line(&lines, "key").ends_with("was not refused") && line(&lines, "agent").contains("give --agent"));
    let (code, lines) = ask(&api, &[], &[("SWEEPER__API__KEY", "another-key")]).await;
    assert!(code == 1 && line(&lines, "key").contains("401"), "{lines:#?}");

    let dir = tempfile::tempdir().unwrap();
    queue(dir.path(), 3).await;
    let (code, lines) = run(configured(dir.path(), &api), &["--online"]).await;
    assert!(
        code == 0 && line(&lines, "agent").contains("a, an agent of the queue: 1 entry in its cache"),
        "{lines:#?}"
    );
}

#[tokio::test]
async fn a_pause_that_the_api_has_asked_for_is_kept() {
    let api = sandbox(Options::default()).await;
    let dir = tempfile::tempdir().unwrap();
    queue(dir.path(), 3).await;
    let until = "(CAST(strftime('%s', 'now') AS INTEGER) + 600) * 1000";
    sql(dir.path(), &format!("INSERT INTO holds (scope, cause, until_at) VALUES ('*', 'throttled', {until})")).await;
    let (code, lines) = run(configured(dir.path(), &api), &["--online", "--agent", "a", "--try-write"]).await;
    assert!(code == 1 && line(&lines, "connection").contains("not asked: the API has asked the daemon"), "{lines:#?}");
    assert_eq!(api.requests().len(), 0);
    sql(dir.path(), "UPDATE holds SET cause = 'unauthorized'").await;
    assert_eq!(run(configured(dir.path(), &api), &["--online"]).await.0, 0, "that is what it is for");
}

/// Every file with its bytes.
fn files(dir: &Path) -> Vec<(String, Vec<u8>)> {
    let mut files: Vec<_> = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .map(|path| (path.display().to_string(), fs::read(&path).unwrap()))
        .collect();
    files.sort();
    files
}

#[tokio::test]
async fn it_shows_the_database_and_the_daemon_and_changes_no_file() {
    let api = sandbox(Options::default()).await;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("sweeper.db");
    let shown = path.display().to_string();
    let (code, lines) = run(configured(dir.path(), &api), &[]).await;
    assert_eq!((code, states(&lines).as_str()), (0, "database ok, daemon -"));
    assert!(
        lines[0].contains(&format!("{shown} is not there; `sweeper init` or the daemon creates it in ")),
        "{lines:#?}"
    );
    assert!(files(dir.path()).is_empty() && api.requests().is_empty());

    queue(dir.path(), 3).await;
    fs::set_permissions(&path, Permissions::from_mode(0o640)).unwrap();
    let before = files(dir.path());
    let (code, lines) = run(configured(dir.path(), &api), &[]).await;
    assert_eq!((code, states(&lines).as_str()), (0, "database ok, tables ok, daemon -"));
    assert!(
        lines[0].contains(&format!("{shown}, mode 0640, owner ")) && lines[0].ends_with("may write it"),
        "{lines:#?}"
    );
    assert!(before == files(dir.path()));

    let daemon = Daemon::start_calling(dir.path(), &api, Mood::Gate, "8s").await;
    let names: Vec<String> = files(dir.path()).into_iter().map(|(name, _)| name).collect();
    let (code, lines) = run(configured(dir.path(), &api), &[]).await;
    assert_eq!((code, states(&lines).as_str()), (0, "database ok, tables ok, daemon ok"));
    let said = format!("running as process {} since ", daemon.pid());
    let rate = format!("version {}, at 1000.00 requests/s", env!("CARGO_PKG_VERSION"));
    assert!(lines[2].contains(&said) && lines[2].ends_with(&rate), "{lines:#?}");
    assert_eq!(names, files(dir.path()).into_iter().map(|(name, _)| name).collect::<Vec<_>>());
    daemon.signal("KILL");
    daemon.ended().await;
    let before = files(dir.path());
    assert_eq!(run(configured(dir.path(), &api), &[]).await.0, 0);
    let changed: Vec<String> = before
        .iter()
        .zip(files(dir.path()))
        .filter(|(one, other)| *one != other)
        .map(|(one, _)| one.0.clone())
        .collect();
    assert!(changed.iter().all(|name| name.ends_with("-shm")), "{changed:?}: SQLite's locks alone");
}

#[tokio::test]
async fn a_database_that_cannot_be_used_is_said_with_what_to_do() {
    let api = sandbox(Options::default()).await;
    let dir = tempfile::tempdir().unwrap();
    queue(dir.path(), 1).await;
    fs::write(dir.path().join("text.db"), "this is no database\n".repeat(100)).unwrap();
    fs::create_dir(dir.path().join("dir.db")).unwrap();
    fs::write(dir.path().join("empty.db"), "").unwrap();
    for (name, said) in [
        ("text.db", "tables      NOT  "),
        ("dir.db", "is a directory; give database.path the file in it"),
        ("nowhere/queue.db", "nowhere; create it, or set database.path"),
        ("sweeper.db/queue.db", "NOT  "),
    ] {
        let before = files(&dir.path().join("dir.db"));
        let mut command = configured(dir.path(), &api);
        command.env("SWEEPER__DATABASE__PATH", name);
        let (code, lines) = run(command, &[]).await;
        assert!(code == 1 && lines.iter().any(|line| line.contains(said)), "{name}: {lines:#?}");
        assert!(lines[0].contains(dir.path().to_str().unwrap()), "{name}: {lines:#?}");
        assert!(before == files(&dir.path().join("dir.db")));
    }
    let mut command = configured(dir.path(), &api);
    command.env("SWEEPER__DATABASE__PATH", "empty.db");
    let (code, lines) = run(command, &[]).await;
    assert!(code == 0 && line(&lines, "tables").contains("not made yet"), "{lines:#?}");
    let mut conn = open(&dir.path().join("sweeper.db")).await;
    let trigger = "CREATE TRIGGER theirs AFTER UPDATE ON deletions BEGIN SELECT 1; END";
    sqlx::raw_sql(trigger).execute(&mut conn).await.unwrap();
    sqlx::Connection::close(conn).await.unwrap();
    let (code, lines) = run(configured(dir.path(), &api), &[]).await;
    assert!(code == 1 && line(&lines, "tables").contains("trigger theirs"), "{lines:#?}");
}

#[tokio::test]
async fn who_may_not_write_the_database_is_told_whose_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let Some(mut readonly) = unprivileged(dir.path()) else { return };
    queue(dir.path(), 1).await;
    fs::set_permissions(dir.path().join("sweeper.db"), Permissions::from_mode(0o444)).unwrap();
    let (code, lines) = run(
        {
            readonly.env("SWEEPER__API__KEY", KEY);
            readonly
        },
        &[],
    )
    .await;
    let said = &lines[0];
    assert!(code == 1 && said.starts_with("database    NOT  ") && said.contains(", mode 0444, owner "), "{said}");
    assert!(said.contains(" may not write it (Permission denied"), "{said}");
    let closed = dir.path().join("closed");
    fs::create_dir(&closed).unwrap();
    fs::set_permissions(&closed, Permissions::from_mode(0o000)).unwrap();
    let mut command = unprivileged(dir.path()).unwrap();
    command.env("SWEEPER__API__KEY", KEY).env("SWEEPER__DATABASE__PATH", "closed/queue.db");
    let (code, lines) = run(command, &[]).await;
    let closed_to = closed.display();
    for part in [
        format!("NOT  {closed_to}/queue.db: permission denied: the directory {closed_to} belongs to "),
        "has mode 0000".to_owned(),
        format!("may not enter it; its owner is this user: chmod u+x {closed_to}"),
    ] {
        assert!(code == 1 && lines[0].contains(&part), "{part}: {lines:#?}");
    }
    assert!(lines[1].starts_with("daemon "), "said once: {lines:#?}");
    fs::set_permissions(&closed, Permissions::from_mode(0o755)).unwrap();
}

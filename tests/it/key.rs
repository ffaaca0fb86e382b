//! The API key is found nowhere but in the header, whatever goes wrong and whoever sends it back.

use std::{
    fs,
    io::{self, Write as _},
    os::unix::fs::PermissionsExt as _,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use audio_cache_sweeper::{
    api::{self, Api, key::KeySource},
    config::Config,
};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use tokio::{io::AsyncWriteExt as _, net::TcpListener};

use crate::{
    daemon::{Daemon, finish, sql, sweeper},
    hostile::{Hostile, Say, answer},
};

/// With everything in it that somebody may escape.
const KEY: &str = r#"sk-HEAD7f3q"x\y&z<'%2B /TAIL9wZ"#;

/// Of the key's beginning and end; no way of escaping changes them.
const TRACES: [&str; 2] = ["HEAD7f3q", "TAIL9wZ"];

fn assert_clean(text: impl AsRef<[u8]>, place: &str) {
    let text = String::from_utf8_lossy(text.as_ref()).into_owned();
    for trace in TRACES {
        if let Some(at) = text.find(trace) {
            let around = String::from_utf8_lossy(&text.as_bytes()[at.saturating_sub(200)..]).into_owned();
            panic!("the key is in {place}: {}", around.chars().take(400).collect::<String>());
        }
    }
}

/// Every file that was written there, the database's own above all.
fn assert_clean_files(dir: &Path) {
    let names: Vec<String> =
        fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    assert!(names.iter().any(|name| name == "sweeper.db"), "{names:?}");
    for name in names.iter().filter(|name| name.starts_with("sweeper.db") || *name == "stderr") {
        assert_clean(fs::read(dir.join(name)).unwrap(), name);
    }
}

/// The daemon at its most talkative, with delays that no test waits for.
fn talkative(dir: &Path, url: &str) -> Command {
    let mut command = sweeper(dir);
    command.env("SWEEPER__API__BASE_URL", url).env("RUST_BACKTRACE", "full");
    for (name, value) in [
        ("API__CONNECT_TIMEOUT", "300ms"),
        ("API__REQUEST_TIMEOUT", "300ms"),
        ("DELIVERY__LINGER", "0s"),
        ("HOLD__AFTER_FAULTS", "1000"),
        ("HOLD__BASE_DELAY", "1ms"),
        ("HOLD__MAX_DELAY", "1ms"),
        ("HOLD__MAX_RETRY_AFTER", "1ms"),
        ("LOG__FILTER", "trace"),
        ("QUEUE__POLL_INTERVAL", "5ms"),
        ("RATE_LIMIT__BURST", "1000"),
        ("RATE_LIMIT__REQUESTS_PER_SECOND", "1000"),
        ("RETRY__BASE_DELAY", "1ms"),
        ("RETRY__MAX_DELAY", "1ms"),
        ("RETRY__MAX_ATTEMPTS", "1000"),
    ] {
        command.env(format!("SWEEPER__{name}"), value);
    }
    command
}

async fn queue(dir: &Path) {
    assert!(sweeper(dir).arg("init").stdout(Stdio::null()).status().unwrap().success());
    sql(dir, "INSERT INTO deletions (agent_id, entry_id) VALUES ('a', '7')").await;
}

/// Answers with the key in them, one for each way that it might be sent back.
fn echoes() -> Vec<Say> {
    let json = serde_json::to_string(KEY).unwrap();
    let twice = serde_json::to_string(&json).unwrap();
    let url = utf8_percent_encode(KEY, NON_ALPHANUMERIC).to_string();
    let html = KEY.replace('&', "&amp;").replace('<', "&lt;").replace('"', "&quot;").replace('\'', "&#39;");
    let bodies = [
        KEY.to_owned(),
        format!("bad key: {KEY}!"),
        format!(r#"{{"error_message":{json}}}"#),
        format!(r#"{{"error":{{"message":{json}}}}}"#),
        format!(r#"{{"success":false,"error":{json},"error_message":null}}"#),
        format!(r#"{{"what":{{"nobody":{json}}}}}"#),
        format!(r#"{{"message":{twice}}}"#),
        format!(r#"{{"what":{twice}}}"#),
        format!(r#"{{"message":"?key={url}"}}"#),
        format!("<p>{html}</p>"),
        json.clone(),
        format!(r#"{{"deleted":{json},"failed":[]}}"#),
        format!(r#"{{"deleted":[],"failed":{{{json}:1}}}}"#),
        format!(r#"{{"deleted":[],"failed":[],"deleted":{json}}}"#),
        format!(r#"{{"deleted":[{json}],"failed":[{json}]}}"#),
        // Cut in two by the longest detail that is kept, or by whoever sends it.
        format!("{}{KEY}", "x".repeat(285)),
        format!("{}{json}", "x".repeat(285)),
        format!("{}…", &KEY[..KEY.len() * 2 / 3]),
        format!("{}…", &json[1..json.len() * 2 / 3]),
    ];
    let statuses = ["200 OK", "201 x", "307 x", "401 x", "403 x", "404 x", "429 x", "500 x", "503 x"];
    let mut says: Vec<Say> =
        bodies.iter().flat_map(|body| statuses.map(|status| Say::Bytes(answer(status, "", body.as_bytes())))).collect();
    for name in ["x-polyai-correlation-id", "x-api-key", "retry-after", "location", "www-authenticate", "set-cookie"] {
        for (status, value) in [("200 OK", KEY), ("302 x", KEY), ("429 x", KEY), ("500 x", KEY), ("500 x", &url)] {
            says.push(Say::Bytes(answer(status, &format!("{name}: {value}\r\n"), b"")));
        }
    }
    says.push(Say::Bytes(answer(&format!("500 {KEY}"), "", b"")));
    // What cannot be read may be quoted in the error that says so.
    says.push(Say::Close(format!("{KEY}\r\n\r\n").into()));
    says.push(Say::Close(format!("HTTP/1.1 {KEY}\r\n\r\n").into()));
    says.push(Say::Close(format!("HTTP/1.1 200 OK\r\n{KEY}\r\n\r\n").into()));
    says.push(Say::Close(format!("HTTP/1.1 200 OK\r\ncontent-length: {KEY}\r\n\r\n").into()));
    says.push(Say::Close(format!("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n{KEY}\r\n").into()));
    says.push(Say::Bytes(format!("HTTP/1.1 500 x\r\ncontent-length: 9999\r\n\r\n{KEY}").into()));
    // Makes the row dead, which has a line of its own.
    says.push(Say::Bytes(answer("400 x", "", format!(r#"{{"message":{json}}}"#).as_bytes())));
    says
}

#[tokio::test]
async fn an_api_that_sends_the_key_back_gets_it_into_no_log_and_no_file() {
    let dir = tempfile::tempdir().unwrap();
    let hostile = Hostile::start().await;
    for format in ["json", "text"] {
        queue(dir.path()).await;
        let before = hostile.requests().len();
        let says = echoes();
        let sent = says.len();
        hostile.script(says);
        let mut command = talkative(dir.path(), &hostile.url);
        command.args(["run", "--until-empty"]).env("SWEEPER__API__KEY", KEY).env("SWEEPER__LOG__FORMAT", format);
        let (code, stdout, stderr) = finish(command).await;
        assert_eq!(code, 4, "{stdout}{stderr}");
        assert_clean(&stdout, "standard output");
        assert_clean(&stderr, "standard error");
        assert!(stdout.contains("[key]"), "it was there to be taken out");
        assert_clean_files(dir.path());
        let requests = hostile.requests().split_off(before);
        assert_eq!(requests.len(), sent);
        assert!(requests.iter().all(|request| request.matches(KEY).count() == 1), "it is in the header, once");
    }
    let kept = sql(dir.path(), "SELECT detail FROM requests WHERE detail LIKE '%[key]%'").await;
    assert!(kept.len() > 100, "only {} details tell of the key", kept.len());
}

#[tokio::test]
async fn no_connection_no_tls_no_answer_and_a_crash_show_no_key() {
    let dir = tempfile::tempdir().unwrap();
    queue(dir.path()).await;
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let refused = format!("http://{}", free.local_addr().unwrap());
    drop(free);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let no_tls = format!("https://{}", listener.local_addr().unwrap());
    let _serving = tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            // The client may have gone.
            let _ = stream.write_all(b"HTTP/1.1 400 this is no TLS\r\n\r\n").await;
        }
    });
    let hostile = Hostile::start().await;
    hostile.script(vec![Say::Bytes(Vec::new()); 3]);
    for (url, fault) in [(&refused, "unreachable"), (&no_tls, "untrusted"), (&hostile.url, "lost")] {
        let mut command = talkative(dir.path(), url);
        command
            .args(["run", "--max-requests", "1"])
            .env("SWEEPER__API__KEY", KEY)
            .env("SWEEPER__RETRY__MAX_ATTEMPTS", "1000");
        let (code, stdout, stderr) = finish(command).await;
        assert!(stdout.contains(&format!(r#""fault":"{fault}""#)), "{code}: {stdout}");
        assert_clean(stdout, "standard output");
        assert_clean(stderr, "standard error");
        assert_clean_files(dir.path());
    }

    // Killed in the middle of a call: what it leaves behind is read by whoever looks for the reason.
    hostile.script(vec![Say::Bytes(Vec::new()); 3]);
    sql(dir.path(), "INSERT INTO deletions (agent_id, entry_id) VALUES ('b', '8')").await;
    let mut command = talkative(dir.path(), &hostile.url);
    command.env("SWEEPER__API__KEY", KEY).stderr(fs::File::create(dir.path().join("stderr")).unwrap());
    let daemon = Daemon::start(command).until("request").await;
    match fs::read(format!("/proc/{}/cmdline", daemon.pid())) {
        Ok(line) => assert_clean(line, "the command line"),
        // Not by a macro, whose output a passing test would swallow.
        Err(error) => writeln!(io::stderr(), "skipped: /proc has no command lines: {error}").unwrap(),
    }
    daemon.signal("KILL");
    assert_clean(daemon.text(), "standard output");
    daemon.ended().await;
    assert!(dir.path().join("sweeper.db-wal").exists(), "the log of the database is left as it was");
    assert_clean_files(dir.path());
}

#[test]
fn check_and_configuration_errors_show_no_key() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("sweeper.toml");
    let checked = |text: &str, variables: &[(&str, &str)], code: i32| {
        fs::write(&file, text).unwrap();
        for command in ["check", "run"].into_iter().filter(|command| code != 0 || *command == "check") {
            let mut sweeper = sweeper(dir.path());
            sweeper.args([command, "--config", "sweeper.toml"]).envs(variables.iter().copied());
            let output = sweeper.output().unwrap();
            assert_eq!(output.status.code(), Some(code), "{text} {variables:?} {output:?}");
            assert_clean(&output.stdout, &format!("{command}'s output about {text} {variables:?}"));
            assert_clean(&output.stderr, &format!("{command}'s errors about {text} {variables:?}"));
        }
    };
    let quoted = format!("'''{KEY}'''");
    let given = ("SWEEPER__API__KEY", KEY);
    checked("", &[given], 0);
    checked(&format!("[api]\nkey = {quoted}"), &[], 0);
    for text in [
        format!("[api]\nkey = {quoted}\nregion = 'mars'"),
        format!("[api]\nkey = {quoted}\nkey = {quoted}"),
        format!("[api]\nkey = {quoted} and more"),
        format!("[api]\nkey = {KEY}"),
        format!("[api]\nkey = '{KEY}"),
        format!("[api]\n{KEY}"),
        format!("[api]\nkey = [{quoted}]"),
        format!("[api]\nkey = {{ value = {quoted} }}"),
        format!("[api.key]\nvalue = {quoted}"),
        format!("[api]\nkeys = {quoted}"),
        format!("api = {quoted}"),
        format!("[api]\nkey = {quoted}\nkey_file = 'nowhere'"),
        "[api]\nkey = \"HEAD7f3q\\u0001TAIL9wZ\"".to_owned(),
        "[api]\nkey = 'HEAD7f3q é TAIL9wZ'".to_owned(),
    ] {
        checked(&text, &[], 2);
    }
    for url in ["https://u:HEAD7f3q@example.com", "https://HEAD7f3q@example.com", "https://example.com?k=HEAD7f3q"] {
        checked("", &[given, ("SWEEPER__API__BASE_URL", url)], 2);
    }
    checked("", &[given, ("SWEEPER__RATE_LIMIT__BURST", "0")], 2);
    checked("", &[("SWEEPER__API__KEY__X", KEY)], 2);
    checked("", &[("SWEEPER__API", KEY)], 2);
}

#[test]
fn a_panic_that_prints_everything_prints_no_key() {
    let source = KeySource::from(KEY);
    let options = api::Options {
        base_url: "http://127.0.0.1:9".parse().unwrap(),
        key: source.clone(),
        proxy: None,
        ca_file: None,
        connect_timeout: std::time::Duration::from_secs(1),
        request_timeout: std::time::Duration::from_secs(1),
    };
    let environment = [("SWEEPER__API__KEY".to_owned(), KEY.to_owned())].into();
    let config = Config::load(None, &environment).unwrap();
    let key = source.read().unwrap();
    let header = key.header().unwrap();
    let api = Api::new(options.clone()).unwrap();
    let everything = || -> () { panic!("{api:#?} {options:#?} {source:?} {key:?} {header:?} {config:#?}") };
    let panicked = catch_unwind(AssertUnwindSafe(everything));
    let text = panicked.unwrap_err().downcast::<String>().unwrap();
    assert!(text.contains("127.0.0.1"), "{text}");
    assert_clean(text.as_str(), "the panic's text");
}

fn key_file(dir: &Path, key: &str, mode: u32) -> PathBuf {
    let file = dir.join("key");
    fs::write(&file, format!("{key}\n")).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
    file
}

#[tokio::test]
async fn the_daemon_takes_up_a_rotated_key_and_tells_of_neither_when_the_api_does_later() {
    for refusal in ["401 x", "403 x"] {
        take_up_a_rotated_key(refusal).await;
    }
}

async fn take_up_a_rotated_key(refusal: &str) {
    let dir = tempfile::tempdir().unwrap();
    let hostile = Hostile::start().await;
    let (old, new) = ("old-HEAD7f3q", "new-TAIL9wZ");
    hostile.script([
        Say::Bytes(answer(refusal, "", format!("{old} is no more").as_bytes())),
        Say::Bytes(answer("500 x", "", format!("not {old} but {new}").as_bytes())),
        Say::Bytes(answer("500 x", &format!("x-polyai-correlation-id: {old}\r\n"), b"")),
    ]);
    let file = key_file(dir.path(), old, 0o600);
    let mut command = talkative(dir.path(), &hostile.url);
    command.env("SWEEPER__API__KEY_FILE", &file).stderr(fs::File::create(dir.path().join("stderr")).unwrap());
    let daemon = Daemon::start(command).until("started").await;
    key_file(dir.path(), new, 0o600);
    sql(dir.path(), "INSERT INTO deletions (agent_id, entry_id) VALUES ('a', '7')").await;
    let daemon = daemon.until("key_changed").await.until("request").await.until("request").await.until("request").await;
    daemon.signal("TERM");
    let daemon = daemon.until("stopped").await;
    assert_clean(daemon.text(), "standard output");
    assert!(daemon.text().contains("not [key] but [key]"), "{}", daemon.text());
    assert_eq!(daemon.ended().await.0, 0);
    assert_clean_files(dir.path());
    let sent: Vec<bool> =
        hostile.requests().iter().map(|request| request.contains(&format!("x-api-key: {new}\r\n"))).collect();
    assert_eq!(sent, [false, true, true, true], "the new key from the second request on");
    assert_eq!(sql(dir.path(), "SELECT state FROM deletions").await, [("deleted".to_owned(),)]);
}

#[tokio::test]
async fn a_file_with_the_key_that_others_may_read_or_write_is_warned_of() {
    let dir = tempfile::tempdir().unwrap();
    let (read, write, both) = (
        "everyone may read it",
        "others may write it, and so change the key",
        "everyone may read it, and others may write it",
    );
    let modes = [
        (0o600, None),
        (0o640, None),
        (0o644, Some(read)),
        (0o604, Some(read)),
        (0o620, Some(write)),
        (0o666, Some(both)),
    ];
    for (mode, may) in modes {
        for (name, setting) in [("key", "api.key_file"), ("sweeper.toml", "the configuration file with api.key")] {
            let file = key_file(dir.path(), KEY, 0o600);
            let file = if name == "key" { file } else { dir.path().join(name) };
            if name != "key" {
                fs::write(&file, format!("[api]\nkey = \'\'\'{KEY}\'\'\'\n")).unwrap();
            }
            fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
            let command = |arguments: &str| {
                let mut command = talkative(dir.path(), "http://127.0.0.1:9");
                command.args(arguments.split(' '));
                let variable = if name == "key" { "SWEEPER__API__KEY_FILE" } else { "SWEEPER_CONFIG" };
                finish({
                    command.env(variable, name);
                    command
                })
            };
            let (code, stdout, stderr) = command("check").await;
            assert_eq!((code, stderr.as_str()), (0, ""));
            let path = file.display();
            let said = may.map(|may| format!("{setting} {path} has mode {mode:04o}: {may}; chmod 600 {path}"));
            assert_eq!(said.as_ref().is_some_and(|said| stdout.contains(said)), may.is_some(), "{mode:o}: {stdout}");
            assert!(may.is_some() || !stdout.contains("chmod"), "{stdout}");
            let (code, stdout, _) = command("run --until-empty").await;
            assert_eq!(code, 0, "{stdout}");
            let warned: Vec<serde_json::Value> = stdout
                .lines()
                .map(|line| serde_json::from_str(line).unwrap())
                .filter(|entry: &serde_json::Value| entry["event"] == "key_exposed")
                .collect();
            assert_eq!(warned.len(), usize::from(may.is_some()), "{mode:o}: {stdout}");
            for entry in warned {
                let (path, shown) = (file.to_str().unwrap(), format!("{mode:04o}"));
                assert_eq!(
                    (&entry["level"], &entry["path"], &entry["mode"], &entry["setting"]),
                    (&"WARN".into(), &path.into(), &shown.into(), &setting.into())
                );
            }
        }
    }
}

#[tokio::test]
async fn a_key_from_the_environment_is_not_one_of_the_file() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("sweeper.toml"), "[api]\nkey = 'another-one'\n").unwrap();
    fs::set_permissions(dir.path().join("sweeper.toml"), fs::Permissions::from_mode(0o644)).unwrap();
    let mut command = sweeper(dir.path());
    command.args(["check", "--config", "sweeper.toml"]).env("SWEEPER__API__KEY", KEY);
    let (code, stdout, stderr) = finish(command).await;
    assert!(code == 0 && !stdout.contains("chmod"), "{stdout}{stderr}");
}

#[tokio::test]
async fn a_rotated_key_that_cannot_be_one_is_named_and_the_old_one_stays() {
    let dir = tempfile::tempdir().unwrap();
    let hostile = Hostile::start().await;
    hostile.script([
        Say::Bytes(answer("401 x", "", b"")),
        Say::Bytes(answer("401 x", "", b"")),
        Say::Bytes(answer("401 x", "", b"")),
    ]);
    let file = key_file(dir.path(), "old-HEAD7f3q", 0o600);
    let mut command = talkative(dir.path(), &hostile.url);
    command.env("SWEEPER__API__KEY_FILE", &file).env("SWEEPER__LOG__FILTER", "info");
    let daemon = Daemon::start(command).until("started").await;
    key_file(dir.path(), "\"new-TAIL9wZ\"", 0o600);
    sql(dir.path(), "INSERT INTO deletions (agent_id, entry_id) VALUES ('a', '7')").await;
    let daemon = daemon.until("hold_placed").await;
    assert_clean(daemon.text(), "standard output");
    daemon.signal("TERM");
    let (code, log) = daemon.ended().await;
    assert_eq!((code, log.count("key_unusable", "WARN"), log.count("key_changed", "INFO")), (0, 1, 0), "{log:#?}");
    let error = log.last("key_unusable", "error");
    assert!(error.contains(file.to_str().unwrap()) && error.contains("is in quotes"), "{error}");
    assert!(hostile.requests().iter().all(|request| request.contains("x-api-key: old-HEAD7f3q\r\n")));
}

#[tokio::test]
async fn check_names_what_is_wrong_with_a_key_and_shows_none_that_is_in_the_wrong_place() {
    let dir = tempfile::tempdir().unwrap();
    let pasted = "sk-HEAD7f3qTAIL9wZ";
    let file = dir.path().join("key");
    let check = |variables: &[(&str, &str)]| {
        let mut command = sweeper(dir.path());
        command.arg("check").envs(variables.iter().copied());
        finish(command)
    };
    for (text, said) in [
        (format!("'{pasted}'"), "is in quotes"),
        (format!("\u{feff}{pasted}"), "byte order mark"),
        (format!("{pasted}\n{pasted}"), "several lines"),
        (String::new(), "is empty"),
        ("x".repeat(3 << 20), "longer than 16384 bytes"),
    ] {
        fs::write(&file, text).unwrap();
        let (code, stdout, stderr) = check(&[("SWEEPER__API__KEY_FILE", file.to_str().unwrap())]).await;
        assert!(code == 2 && stderr.contains(said) && stderr.contains(file.to_str().unwrap()), "{said}: {stderr}");
        assert_clean(stdout + &stderr, said);
    }
    for path in ["/dev/null", dir.path().to_str().unwrap()] {
        let (code, _, stderr) = check(&[("SWEEPER__API__KEY_FILE", path)]).await;
        assert!(code == 2 && stderr.contains("must be a regular file"), "{stderr}");
    }
    let colon = format!("{pasted}:x");
    for variables in [
        &[("SWEEPER__API__KEY_FILE", pasted)][..],
        &[("SWEEPER__API__REGION", pasted), ("SWEEPER__API__KEY", "x")],
        &[("SWEEPER__API__KEY_FILE", pasted), ("SWEEPER__API__KEY", "x")],
        &[("SWEEPER__API__BASE_URL", pasted), ("SWEEPER__API__KEY", "x")],
        &[("SWEEPER__API__BASE_URL", &colon), ("SWEEPER__API__KEY", "x")],
        &[("SWEEPER__API__PROXY", &colon), ("SWEEPER__API__KEY", "x")],
        &[("SWEEPER__RATE_LIMIT__BURST", pasted), ("SWEEPER__API__KEY", "x")],
        &[("SWEEPER__LOG__FORMAT", pasted), ("SWEEPER__API__KEY", "x")],
    ] {
        let (code, stdout, stderr) = check(variables).await;
        assert_eq!(code, 2, "{variables:?} {stdout}");
        let said = (stdout + &stderr).to_lowercase();
        assert!(!said.contains("head7f3q"), "{variables:?}: {said}");
    }
    let short = "the API key is too short to be told";
    let (_, stdout, _) = check(&[("SWEEPER__API__KEY", "s3cret")]).await;
    assert!(stdout.contains(short), "{stdout}");
    let (_, stdout, _) =
        check(&[("SWEEPER__API__KEY", "s3cret"), ("SWEEPER__API__BASE_URL", "http://127.0.0.1:1")]).await;
    assert!(!stdout.contains(short), "{stdout}");
    let (_, stdout, _) = check(&[("SWEEPER__API__KEY", pasted)]).await;
    assert!(!stdout.contains(short), "{stdout}");
}

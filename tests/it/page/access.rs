//! The token: in the configuration, in a header, in a form, in a cookie.

use std::{fs, os::unix::fs::PermissionsExt as _, time::Duration};

use assert_cmd::assert::OutputAssertExt as _;
use audio_cache_sweeper::sandbox::Options;

use super::{TOKEN, ask, get, get_known, post, scene, until};
use crate::daemon::{KEY, sweeper};

const ROW: &str = "INSERT INTO deletions (agent_id, entry_id, due_at) VALUES ('PROJECT-1', 1, 4000000000000)";

#[tokio::test]
async fn a_token_that_is_wrong_is_refused_and_the_next_one_that_comes_so_has_to_wait() {
    let scene = scene(Options::default(), ROW, "started", |_| {}).await;
    let address = scene.address;
    let stranger = get(address, "/entry?agent=PROJECT-1&id=1").await;
    assert_eq!((stranger.status, stranger.header("www-authenticate")), (401, Some("Bearer")));
    stranger.has(&["This needs the token.", "Token"]);
    stranger.has_not(&["PROJECT-1"]);
    for nothing in ["", "x=1", "token="] {
        assert_eq!(post(address, nothing, "").await.status, 401, "{nothing}: no guess, so no pause");
    }
    let wrong = post(address, "token=a-token-of-the-testz", "").await;
    assert_eq!((wrong.status, wrong.header("set-cookie")), (401, None));
    wrong.has(&["This is not the token."]);
    let soon = post(address, &format!("token={TOKEN}"), "").await;
    assert_eq!((soon.status, soon.header("retry-after"), soon.header("set-cookie")), (429, Some("1"), None));
    assert_eq!(get(address, "/").await.status, 200, "numbers need no token");
    assert_eq!(get_known(address, "/entry?agent=PROJECT-1&id=1").await.status, 200, "a script does not pay for a form");
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    assert_eq!(ask(address, "GET /entry", "Cookie: sweeper_1=99999999999999.1.00\r\n").await.status, 401);
    // In the query, it is nothing: URLs are logged and shared.
    assert_eq!(get(address, &format!("/entry?token={TOKEN}")).await.status, 401);
}

#[tokio::test]
async fn a_script_with_a_wrong_token_gets_the_numbers_and_keeps_nobody_from_the_form() {
    let scene = scene(Options::default(), ROW, "started", |_| {}).await;
    let address = scene.address;
    until(address, "PROJECT-1").await;
    let wrong = "Authorization: Bearer something-else-again\r\n";
    let probe = ask(address, "GET /", wrong).await;
    assert_eq!((probe.status, probe.header("www-authenticate")), (401, Some("Bearer")));
    probe.has(&["The token of this request is not the daemon’s, so names are left out.", "Pending\n1\n", "Log in"]);
    probe.has_not(&["PROJECT-1"]);
    // Nobody guesses faster by asking for numbers.
    assert_eq!(ask(address, "GET /", wrong).await.status, 401, "the same again is no guess");
    for authorization in ["Authorization: Bearer another-guess\r\n", &format!("Authorization: Bearer {TOKEN}\r\n")] {
        let soon = ask(address, "GET /", authorization).await;
        assert_eq!((soon.status, soon.header("retry-after")), (429, Some("1")), "{authorization}");
        soon.has(&["Wait a second, and try again.", "Pending\n1\n"]);
        soon.has_not(&["PROJECT-1"]);
        assert_eq!(ask(address, "GET /entry?agent=PROJECT-1&id=1", authorization).await.status, 429);
    }
    assert_eq!(ask(address, "GET /login", wrong).await.status, 200);
    assert_eq!(post(address, &format!("token={TOKEN}"), "").await.status, 303);
}

#[tokio::test]
async fn a_form_is_taken_from_the_page_itself_or_from_who_is_no_browser() {
    let scene = scene(Options::default(), ROW, "started", |command| {
        command.env("SWEEPER__HTTP__HOSTS", "sweeper.example.org");
    })
    .await;
    let address = scene.address;
    let cookie = post(address, &format!("token={TOKEN}"), "").await.header("set-cookie").unwrap().to_owned();
    let cookie = format!("Cookie: {}\r\n", cookie.split(';').next().unwrap());
    for foreign in [
        "Sec-Fetch-Site: cross-site\r\n".to_owned(),
        "Sec-Fetch-Site: same-site\r\n".to_owned(),
        "Origin: null\r\n".to_owned(),
        "Origin: https://evil.example\r\n".to_owned(),
        format!("Origin: http://127.0.0.1:{}\r\n", address.port().wrapping_add(1)),
        format!("Origin: http://{address}\r\nSec-Fetch-Site: cross-site\r\n"),
    ] {
        for form in ["logout=1".to_owned(), "token=wrong".to_owned(), format!("token={TOKEN}")] {
            let refused = post(address, &form, &format!("{cookie}{foreign}")).await;
            assert_eq!((refused.status, refused.header("set-cookie")), (403, None), "{foreign} {form}");
            assert!(refused.body.contains("the form is that of another page") && refused.body.contains("http.hosts"));
        }
    }
    assert_eq!(ask(address, "GET /entry", &cookie).await.status, 200, "nobody else's page has ended it");
    for own in [
        format!("Origin: http://{address}\r\n"),
        format!("Origin: http://{address}\r\nSec-Fetch-Site: same-origin\r\n"),
        "Origin: https://sweeper.example.org\r\n".to_owned(),
        "Sec-Fetch-Site: none\r\n".to_owned(),
        String::new(),
    ] {
        assert_eq!(post(address, &format!("token={TOKEN}"), &own).await.status, 303, "{own}");
    }
}

#[tokio::test]
async fn the_form_gives_a_cookie_that_shows_names_until_it_is_taken_away() {
    let scene = scene(Options::default(), ROW, "started", |_| {}).await;
    let address = scene.address;
    let right = post(address, &format!("x=1&token=+{TOKEN}+"), "").await;
    assert_eq!((right.status, right.header("location"), right.body.as_str()), (303, Some("/"), ""));
    let cookie = right.header("set-cookie").unwrap();
    let name = format!("sweeper_{}=", address.port());
    assert!(cookie.starts_with(&name), "{cookie}");
    assert!(cookie.ends_with("; Path=/; Max-Age=43200; HttpOnly; SameSite=Strict"), "{cookie}");
    assert!(!cookie.contains(TOKEN), "{cookie}");
    let cookie = format!("Cookie: other=1; {}\r\n", cookie.split(';').next().unwrap());
    let known = ask(address, "GET /entry?agent=PROJECT-1&id=1", &cookie).await;
    assert_eq!(known.status, 200);
    known.has(&["PROJECT-1 1", "Log out"]);
    let other = post(address, &format!("token={TOKEN}"), "").await.header("set-cookie").unwrap().to_owned();
    let other = format!("Cookie: {}\r\n", other.split(';').next().unwrap());
    let out = post(address, "logout=1", &format!("{cookie}Sec-Fetch-Site: same-origin\r\n")).await;
    assert_eq!(out.status, 303);
    assert_eq!(out.header("set-cookie").unwrap(), format!("{name}; Path=/; Max-Age=0; HttpOnly; SameSite=Strict"));
    assert_eq!(ask(address, "GET /entry", &cookie).await.status, 401, "a copy of it has ended, too");
    assert_eq!(ask(address, "GET /entry", &other).await.status, 200, "another browser stays logged in");
    scene.daemon.signal("TERM");
    let (_, log) = scene.daemon.ended().await;
    let log = format!("{log:?}");
    assert!(!log.contains(TOKEN) && !log.contains("99999") && log.contains("listening"), "{log}");
}

#[tokio::test]
async fn a_token_can_be_in_a_file() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("token");
    fs::write(&file, format!("{TOKEN}\n")).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    let named = file.clone();
    let scene = scene(Options::default(), ROW, "started", move |command| {
        command.env_remove("SWEEPER__HTTP__TOKEN").env("SWEEPER__HTTP__TOKEN_FILE", named);
    })
    .await;
    assert_eq!(get_known(scene.address, "/entry?agent=PROJECT-1&id=1").await.status, 200);
}

#[test]
fn a_token_that_cannot_be_used_is_named_without_a_part_of_it() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("short"), "too-short-7").unwrap();
    let run = |command: &str, set: &[(&str, &str)]| {
        let mut sweeper = sweeper(dir.path());
        sweeper.arg(command).env("SWEEPER__API__KEY", KEY).env("SWEEPER__HTTP__LISTEN", "127.0.0.1:0");
        let assert = sweeper.envs(set.iter().copied()).assert();
        let output = assert.get_output();
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_owned()).unwrap();
        (output.status.code().unwrap(), text(&output.stdout) + &text(&output.stderr))
    };
    for command in ["run", "check"] {
        for (set, said) in [
            (&[("SWEEPER__HTTP__TOKEN", "too-short-7")][..], "http.token: must be one line of 16 to 256"),
            (&[("SWEEPER__HTTP__TOKEN", "with a space in it-7")], "`openssl rand -hex 16` makes one"),
            (&[("SWEEPER__HTTP__TOKEN_FILE", "short")], "http.token_file"),
            (&[("SWEEPER__HTTP__TOKEN_FILE", "nowhere-7")], "nowhere-7"),
            (&[("SWEEPER__HTTP__TOKEN_FILE", "short"), ("SWEEPER__HTTP__TOKEN", TOKEN)], "give one of them, not both"),
            (&[("SWEEPER__HTTP__HOSTS", "http://sweeper.example.org")], "is no host name; give names alone"),
        ] {
            let (code, output) = run(command, set);
            assert_eq!(code, 2, "{command} {set:?}: {output}");
            assert!(output.contains(said), "{command} {set:?}: {output}");
            assert!(!output.contains("short-7") && !output.contains("it-7") && !output.contains(TOKEN), "{output}");
        }
    }
    let (_, shown) = run("check", &[("SWEEPER__HTTP__TOKEN", TOKEN)]);
    assert!(shown.contains("http.token = [redacted]") && !shown.contains(TOKEN), "{shown}");
}

#[test]
fn check_warns_of_a_token_that_everybody_may_read() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("token");
    fs::write(&file, TOKEN).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
    let mut check = sweeper(dir.path());
    check.arg("check").env("SWEEPER__API__KEY", KEY).env("SWEEPER__HTTP__TOKEN_FILE", &file);
    let output = String::from_utf8(check.assert().get_output().stdout.clone()).unwrap();
    assert!(output.contains("http.token_file") && output.contains("has mode 0644: everyone may read it"), "{output}");
    let config = dir.path().join("sweeper.toml");
    fs::write(&config, format!("[http]\ntoken = \"{TOKEN}\"\n")).unwrap();
    fs::set_permissions(&config, fs::Permissions::from_mode(0o644)).unwrap();
    let mut check = sweeper(dir.path());
    check.args(["check", "--config", "sweeper.toml"]).env("SWEEPER__API__KEY", KEY);
    let output = String::from_utf8(check.assert().get_output().stdout.clone()).unwrap();
    assert!(
        output.contains("the configuration file with http.token") && output.contains("everyone may read it"),
        "{output}"
    );
}

//! What the page refuses, and the headers of everything that it answers.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    time::Duration,
};

use audio_cache_sweeper::{model::clock::Clock, sandbox::Options};

use super::{Scene, ask, get, get_known, post, scene, send};
use crate::daemon::blocking;

async fn quiet() -> Scene {
    scene(
        Options::default(),
        "INSERT INTO deletions (agent_id, entry_id, due_at) VALUES ('a', 1, 4000000000000)",
        "started",
        |command| {
            command.env("SWEEPER__HTTP__HOSTS", "sweeper.example.org,other");
        },
    )
    .await
}

#[tokio::test]
async fn every_answer_of_the_page_forbids_scripts_frames_and_caches() {
    let scene = quiet().await;
    let address = scene.address;
    let answers = [
        get(address, "/").await,
        get_known(address, "/").await,
        get(address, "/login").await,
        get(address, "/entry").await,
        get_known(address, "/entry?agent=a&id=1").await,
        get(address, "/page.css").await,
        ask(address, "POST /", "").await,
        post(address, "token=wrong", "").await,
        post(address, "logout=1", "").await,
        blocking(move || send(address, "GET / HTTP/1.1\r\nHost: evil.example\r\n\r\n")).await,
    ];
    for answer in answers {
        let policy = answer.header("content-security-policy").unwrap_or_else(|| panic!("{answer:?}"));
        assert!(
            policy.starts_with("default-src 'none'; style-src 'self';") && policy.ends_with("frame-ancestors 'none'")
        );
        assert!(!policy.contains("unsafe") && !policy.contains("script"), "{policy}");
        for (name, value) in [
            ("cache-control", "no-store"),
            ("x-content-type-options", "nosniff"),
            ("referrer-policy", "same-origin"),
            ("x-frame-options", "DENY"),
        ] {
            assert_eq!(answer.header(name), Some(value), "{answer:?}");
        }
        answer.has_not(&["<script", "style=\"", "http://", "https://"]);
    }
}

#[tokio::test]
async fn nothing_but_reading_and_logging_in_is_allowed() {
    let scene = quiet().await;
    let address = scene.address;
    for method in ["POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND"] {
        for (path, allowed) in
            [("/", "GET,HEAD"), ("/entry", "GET,HEAD"), ("/page.css", "GET,HEAD"), ("/login", "GET,HEAD,POST")]
        {
            if (method, path) == ("POST", "/login") {
                continue;
            }
            let answer = ask(address, &format!("{method} {path}"), "Content-Length: 0\r\n").await;
            assert_eq!((answer.status, answer.header("allow")), (405, Some(allowed)), "{method} {path}");
        }
    }
    for path in ["/", "/login", "/page.css"] {
        let (head, body) = (ask(address, &format!("HEAD {path}"), "").await, get(address, path).await);
        assert_eq!((head.status, head.body.as_str()), (200, ""), "{path}");
        assert_eq!(head.header("content-type"), body.header("content-type"));
    }
}

#[tokio::test]
async fn a_name_that_is_not_ours_is_refused_on_the_page_alone() {
    let scene = quiet().await;
    let address = scene.address;
    let asked = |path: &str, host: &str| {
        let request = format!("GET {path} HTTP/1.1\r\n{host}\r\n");
        blocking(move || send(address, &request))
    };
    for path in ["/", "/entry", "/login"] {
        for host in ["Host: evil.example\r\n", "Host: localhost.evil.example:80\r\n", "Host: a\r\nHost: localhost\r\n"]
        {
            let answer = asked(path, host).await;
            // hyper itself refuses two of them in later versions.
            assert!([421, 400].contains(&answer.status), "{path} {host}: {answer:?}");
        }
        let evil = asked(path, "Host: <b>evil\r\n").await;
        assert!(evil.status == 421 && evil.header("content-type").unwrap().starts_with("text/plain"), "{evil:?}");
        assert!(evil.body.contains("http.hosts"), "{evil:?}");
        for host in
            ["localhost", "LOCALHOST:1", "127.0.0.1", "[::1]:9464", "10.1.2.3", "sweeper.example.org", "Other:443"]
        {
            assert_ne!(asked(path, &format!("Host: {host}\r\n")).await.status, 421, "{path} {host}");
        }
    }
    for path in ["/metrics", "/livez", "/readyz"] {
        assert_eq!(asked(path, "Host: evil.example\r\n").await.status, 200, "{path}");
    }
}

#[tokio::test]
async fn a_form_that_is_too_long_or_too_slow_is_refused_and_nobody_waits_for_it() {
    let scene = quiet().await;
    let address = scene.address;
    let long = format!("token={}", "x".repeat(3_000));
    assert_eq!(post(address, &long, "").await.status, 413);
    let endless = format!("POST /login HTTP/1.1\r\nHost: {address}\r\nContent-Length: 99999999\r\n\r\ntoken=");
    let clock = Clock::system();
    let slow: Vec<_> = (0..150)
        .map(|_| {
            let mut stream = TcpStream::connect(address).unwrap();
            stream.write_all(endless.as_bytes()).unwrap();
            stream
        })
        .collect();
    assert_eq!(get(address, "/livez").await.status, 200);
    assert!(clock.elapsed() < Duration::from_secs(8), "{:?}", clock.elapsed());
    let mut last = slow.into_iter().next_back().unwrap();
    last.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let answer = blocking(move || {
        let mut text = String::new();
        let _ = last.read_to_string(&mut text);
        text
    })
    .await;
    assert!(answer.starts_with("HTTP/1.1 408"), "{answer}");
    let huge = format!("GET / HTTP/1.1\r\nHost: {address}\r\nX-Huge: {}\r\n\r\n", "x".repeat(40_000));
    assert_eq!(blocking(move || send(address, &huge)).await.status, 431);
    let query = format!("/entry?agent={}&id=1", "x".repeat(4_000));
    assert_eq!(get_known(address, &query).await.status, 400);
}

//! The page for people: what it tells whom, and what it refuses.

mod access;
mod browser;
mod engines;
mod refused;
mod scale;
mod told;

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    path::Path,
    process::Command,
    time::Duration,
};

use assert_cmd::assert::OutputAssertExt as _;
use audio_cache_sweeper::sandbox::{Options, Sandbox};

use crate::{
    daemon::{Daemon, blocking, configured, sandbox, sql, sweeper},
    health::{address, listening},
};

pub const TOKEN: &str = "a-token-of-the-tests";

/// An answer.
#[derive(Clone, Debug)]
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: String,
}

impl Answer {
    /// The value of a header.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head
            .lines()
            .filter_map(|line| line.split_once(": "))
            .find(|(known, _)| *known == name)
            .map(|(_, value)| value)
    }

    /// What a reader sees: the text without its marks, each element's on a line.
    pub fn text(&self) -> String {
        let body = self.body.split_once("<body>").map_or(&*self.body, |(_, body)| body);
        let mut text = String::new();
        for piece in body.split('<') {
            let (mark, words) = piece.split_once('>').unwrap_or(("", piece));
            let is_inline =
                ["b", "/b", "code", "/code", "span", "/span", "a", "/a"].contains(&mark.split(' ').next().unwrap());
            if !is_inline && !text.ends_with('\n') {
                text.push('\n');
            }
            text.push_str(words);
        }
        text.replace("&lt;", "<").replace("&gt;", ">").replace("&quot;", "\"").replace("&amp;", "&")
    }

    pub fn has(&self, said: &[&str]) {
        let text = self.text();
        for said in said {
            assert!(text.contains(said), "{said:?} is missing in\n{text}");
        }
    }

    pub fn has_not(&self, said: &[&str]) {
        for said in said {
            assert!(!self.body.contains(said), "{said:?} is in\n{}", self.body);
        }
    }
}

/// What an address answers to these bytes.
pub fn send(address: SocketAddr, request: &str) -> Answer {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut bytes = Vec::new();
    // A connection that is reset ends here, too.
    let _ = stream.read_to_end(&mut bytes);
    let text = String::from_utf8(bytes).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer: {text:?}"));
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    Answer { status, head: head.to_owned(), body: body.to_owned() }
}

/// What an address answers to a request with these headers, each of which ends with a line break.
pub async fn ask(address: SocketAddr, line: &str, headers: &str) -> Answer {
    let request = format!("{line} HTTP/1.1\r\nHost: {address}\r\n{headers}\r\n");
    blocking(move || send(address, &request)).await
}

pub async fn get(address: SocketAddr, path: &str) -> Answer {
    ask(address, &format!("GET {path}"), "").await
}

/// The same for who knows the token.
pub async fn get_known(address: SocketAddr, path: &str) -> Answer {
    ask(address, &format!("GET {path}"), &format!("Authorization: Bearer {TOKEN}\r\n")).await
}

pub async fn post(address: SocketAddr, form: &str, headers: &str) -> Answer {
    let request = format!(
        "POST /login HTTP/1.1\r\nHost: {address}\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Length: {}\r\n{headers}\r\n{form}",
        form.len()
    );
    blocking(move || send(address, &request)).await
}

/// The page, once it shows what `said` names: what is read is kept for some seconds.
pub async fn until(address: SocketAddr, said: &str) -> Answer {
    for _ in 0..300 {
        let page = get_known(address, "/").await;
        if page.text().contains(said) {
            return page;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("{said:?} is not shown: {}", get_known(address, "/").await.text());
}

/// A daemon with a page, its address, and what it needs.
pub struct Scene {
    pub dir: tempfile::TempDir,
    pub daemon: Daemon,
    pub address: SocketAddr,
    _sandbox: Sandbox,
}

/// A queue with these rows, and a daemon that serves a page of it, once it has logged `event`.
pub async fn scene(options: Options, rows: &str, event: &'static str, change: impl FnOnce(&mut Command)) -> Scene {
    let dir = tempfile::tempdir().unwrap();
    sweeper(dir.path()).arg("init").assert().code(0);
    sql(dir.path(), rows).await;
    let sandbox = sandbox(options).await;
    let mut command = paged(configured(dir.path(), &sandbox));
    change(&mut command);
    let daemon = Daemon::start(command).until(event).await;
    let address = address(&daemon);
    Scene { dir, daemon, address, _sandbox: sandbox }
}

/// With a page and a token.
pub fn paged(command: Command) -> Command {
    let mut command = listening(command);
    command.env("SWEEPER__HTTP__TOKEN", TOKEN);
    command
}

/// What a command says on standard output.
pub async fn said_by(dir: &Path, arguments: &[&str]) -> String {
    let mut command = sweeper(dir);
    command.args(arguments);
    crate::daemon::finish(command).await.1
}

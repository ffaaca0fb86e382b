//! The HTTP endpoint alone, on a clock that stands still: who waits for whom.

use std::{
    future::pending,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use audio_cache_sweeper::{
    model::{
        clock::{Clock, Timestamp},
        remedy::Names,
    },
    queue::{
        Census, Counter, either,
        sqlite::{self, StoreError, Synchronous},
    },
    watch::{
        health::{Health, State},
        http::{Endpoint, Sources},
        metrics::Metrics,
        page::{self, Token},
    },
};

use crate::{
    daemon::{blocking, finish, queue, sql, sweeper},
    health::{ask, get, scrape},
    scrape::parse,
};

/// An endpoint on a clock that stands still, for the file in this directory, which is or is not there.
pub fn still(dir: &Path, token: Option<&str>) -> (Endpoint, Health, Clock) {
    start(dir, token, sqlite::Counter::new(file(dir)))
}

fn file(dir: &Path) -> sqlite::Options {
    sqlite::Options {
        path: dir.join("sweeper.db"),
        busy_timeout: Duration::from_secs(1),
        synchronous: Synchronous::Full,
    }
}

fn start<C: Counter>(dir: &Path, token: Option<&str>, counter: C) -> (Endpoint, Health, Clock) {
    let (clock, health) = (Clock::manual(Timestamp(4_000_000_000_000)), Health::new(Duration::from_secs(1)));
    let sources = Sources { metrics: Metrics::new(clock.now()), health: health.clone(), counter, clock: clock.clone() };
    let page = page::Settings {
        queue: either::Options::Sqlite(file(dir)),
        hosts: page::Hosts::default(),
        token: token.map(|token| Token::parse(token).unwrap()),
        names: Names::default(),
        version: "1.2.3",
    };
    (Endpoint::start(SocketAddr::from(([127, 0, 0, 1], 0)), sources, page).unwrap(), health, clock)
}

/// The rows as the metrics have them: pending ones, due ones, and dead ones together.
async fn depth(endpoint: &Endpoint) -> f64 {
    let families = scrape(endpoint.address()).await;
    let samples = families.into_iter().filter(|family| family.name == "sweeper_queue_depth");
    samples.flat_map(|family| family.samples).map(|(_, value)| value).sum::<f64>()
}

/// Connections that have sent these bytes, and nothing else.
fn connections(address: SocketAddr, count: usize, said: &str) -> Vec<TcpStream> {
    let connect = |_| {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.write_all(said.as_bytes()).unwrap();
        stream
    };
    (0..count).map(connect).collect()
}

/// How many of these connections were closed without an answer.
fn unanswered(connections: Vec<TcpStream>) -> usize {
    let is_unanswered = |mut stream: &TcpStream| {
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        let mut first = [0];
        // A connection that was reset ends with an error.
        !matches!(stream.read(&mut first), Ok(1))
    };
    connections.iter().filter(|stream| is_unanswered(stream)).count()
}

#[tokio::test]
async fn a_loop_that_is_stuck_is_told_of_by_another_thread() {
    let dir = tempfile::tempdir().unwrap();
    let (endpoint, health, clock) = still(dir.path(), None);
    let address = endpoint.address();
    assert_eq!(ask(address, "/livez").await.0, 200);
    assert_eq!(ask(address, "/readyz").await, (503, "starting: the database is being opened\n".to_owned()));
    health.set(State::Working);
    health.beat(clock.elapsed());
    assert_eq!(ask(address, "/readyz").await.0, 200);
    health.set(State::DatabaseDown);
    assert_eq!((ask(address, "/livez").await.0, ask(address, "/readyz").await.0), (200, 503));
    health.set(State::Working);
    clock.advance(Duration::from_secs(35));
    for path in ["/livez", "/readyz"] {
        assert_eq!(ask(address, path).await, (503, "the daemon's loop has hung for 35 s\n".to_owned()));
    }
    health.beat(clock.elapsed());
    assert_eq!((ask(address, "/livez").await.0, ask(address, "/readyz").await.0), (200, 200));
}

#[tokio::test]
async fn the_rows_are_counted_every_few_seconds_at_the_most_and_left_out_while_they_cannot_be() {
    let dir = tempfile::tempdir().unwrap();
    let (endpoint, _, clock) = still(dir.path(), None);
    assert_eq!(depth(&endpoint).await, 0.0);
    let families = scrape(endpoint.address()).await;
    assert!(families.iter().all(|family| family.name != "sweeper_holds" || family.samples.is_empty()));
    queue(dir.path(), 3).await;
    assert_eq!(depth(&endpoint).await, 0.0, "it was tried a moment ago");
    clock.advance(Duration::from_secs(5));
    assert_eq!(depth(&endpoint).await, 6.0, "pending, and due");
    sql(dir.path(), "INSERT INTO deletions (agent_id, entry_id) VALUES ('b', 1)").await;
    assert_eq!(depth(&endpoint).await, 6.0);
    clock.advance(Duration::from_secs(5));
    assert_eq!(depth(&endpoint).await, 8.0);
    std::fs::write(dir.path().join("sweeper.db"), "this is no database, however long you look at it".repeat(100))
        .unwrap();
    std::fs::remove_file(dir.path().join("sweeper.db-wal")).unwrap_or_default();
    clock.advance(Duration::from_secs(5));
    assert_eq!(depth(&endpoint).await, 0.0);
}

#[tokio::test]
async fn clients_that_hang_give_way_to_others() {
    let dir = tempfile::tempdir().unwrap();
    let (endpoint, ..) = still(dir.path(), None);
    let address = endpoint.address();
    let check = || {
        let mut command = sweeper(dir.path());
        command.arg("healthcheck").env("SWEEPER__HTTP__LISTEN", address.to_string());
        finish(command)
    };
    // Silent ones, slow ones, and ones that do not take their answer.
    let hanging: Vec<TcpStream> = (0..200)
        .map(|number| {
            let mut stream = TcpStream::connect(address).unwrap();
            let said = ["", "GET /livez HTTP/1.1\r\nHo", "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"][number % 3];
            stream.write_all(said.as_bytes()).unwrap();
            stream
        })
        .collect();
    let clock = Clock::system();
    assert_eq!(check().await.0, 0);
    assert!(clock.elapsed() < Duration::from_secs(1), "nobody's patience had to end: {:?}", clock.elapsed());
    // More come all the time.
    let more = std::thread::spawn(move || {
        let flood: Vec<TcpStream> = (0..250).map_while(|_| TcpStream::connect(address).ok()).collect();
        flood.len()
    });
    for _ in 0..3 {
        assert_eq!(check().await.0, 0);
    }
    assert_eq!(more.join().unwrap(), 250);
    drop(hanging);
}

#[tokio::test]
async fn metrics_are_told_in_the_format_that_is_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let (endpoint, ..) = still(dir.path(), None);
    let address = endpoint.address();
    let accepting = |accept: &'static str| {
        blocking(move || get(address, &format!("/metrics HTTP/1.1\r\nAccept: {accept}\r\nX-Rest:")).unwrap())
    };
    let (status, content_type, body) = accepting("text/plain;version=0.0.4;q=0.5,*/*;q=0.1").await;
    assert_eq!((status, content_type.as_str()), (200, "text/plain; version=0.0.4; charset=utf-8"));
    assert!(body.contains("# TYPE sweeper_requests_total counter\n") && !body.contains("# EOF"), "{body}");
    let (_, content_type, body) = accepting("application/openmetrics-text;version=1.0.0,text/plain;q=0.5").await;
    assert_eq!(content_type, "application/openmetrics-text; version=1.0.0; charset=utf-8");
    parse(&body);
}

#[tokio::test]
async fn forms_that_come_slowly_give_way_to_a_health_check() {
    let dir = tempfile::tempdir().unwrap();
    let (endpoint, ..) = still(dir.path(), Some("a-token-of-the-tests"));
    let address = endpoint.address();
    let form = format!("POST /login HTTP/1.1\r\nHost: {address}\r\nContent-Length: 999\r\n\r\ntoken=");
    let slow = blocking(move || connections(address, 250, &form)).await;
    assert_eq!(ask(address, "/livez").await.0, 200);
    // Otherwise each would be answered, after the second that a form may take, and whoever comes next would wait for that.
    let closed = blocking(move || unanswered(slow)).await;
    assert!(closed > 0, "nobody has given way");
}

/// A database that never answers.
#[derive(Clone, Debug)]
struct Silent;

impl Counter for Silent {
    type Error = StoreError;

    async fn census(&self, _: Timestamp) -> Result<Census, StoreError> {
        pending().await
    }
}

#[tokio::test]
async fn scrapes_that_wait_for_a_count_give_way_to_a_health_check() {
    let dir = tempfile::tempdir().unwrap();
    let (endpoint, ..) = start(dir.path(), None, Silent);
    let address = endpoint.address();
    let waiting = blocking(move || connections(address, 140, "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")).await;
    assert_eq!(ask(address, "/livez").await.0, 200);
    let closed = blocking(move || unanswered(waiting)).await;
    assert!((13..140).contains(&closed), "{closed} of 140 have given way, and the others have an answer");
}

/// An empty queue, and how often it was counted.
#[derive(Clone, Debug, Default)]
struct Counted(Arc<AtomicUsize>);

impl Counter for Counted {
    type Error = StoreError;

    async fn census(&self, _: Timestamp) -> Result<Census, StoreError> {
        self.0.fetch_add(1, Ordering::SeqCst);
        Ok(Census::default())
    }
}

#[tokio::test]
async fn the_samples_of_the_page_and_the_scrapes_share_their_counts() {
    let dir = tempfile::tempdir().unwrap();
    let counted = Counted::default();
    let (endpoint, health, clock) = start(dir.path(), None, counted.clone());
    health.set(State::Working);
    while counted.0.load(Ordering::SeqCst) == 0 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    for _ in 0..3 {
        scrape(endpoint.address()).await;
    }
    assert_eq!(counted.0.load(Ordering::SeqCst), 1, "the sample has counted a moment ago");
    clock.advance(Duration::from_secs(5));
    scrape(endpoint.address()).await;
    assert_eq!(counted.0.load(Ordering::SeqCst), 2);
}

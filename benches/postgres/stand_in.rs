//! A stand-in for the API that counts: this program again, in a process of its own. It deletes every entry that it is asked to.

use std::{
    cell::RefCell,
    collections::HashMap,
    convert::Infallible,
    env,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::TcpStream,
    process::{Command, Stdio},
    rc::Rc,
    time::Duration,
};

use audio_cache_sweeper::model::clock::Clock;
use axum::body::{Body, to_bytes};
use hyper::{Request, Response, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use serde::{Deserialize, Serialize};
use tokio::{
    net::TcpListener,
    task::{LocalSet, spawn_local},
    time::sleep,
};

use crate::process::Killed;

/// The first argument of the process.
pub const STAND_IN: &str = "stand-in";

/// The most that a bulk delete carries, in bytes.
const LONGEST: usize = 1 << 16;

/// What has arrived.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize)]
pub struct Counts {
    /// Requests.
    pub requests: u64,
    /// IDs in them.
    pub ids: u64,
    /// Different IDs.
    pub distinct: u64,
    /// Different IDs that came more than once.
    pub twice: u64,
    /// The shortest time between two arrivals of one ID, in milliseconds.
    pub soonest_ms: Option<u64>,
}

#[derive(Default)]
struct World {
    counts: Counts,
    /// By ID: when it came last, and whether it had come before.
    seen: HashMap<u64, (Duration, bool)>,
}

#[derive(Deserialize)]
struct Bulk<'b> {
    #[serde(borrow)]
    ids: Vec<&'b str>,
}

#[derive(Serialize)]
struct Answer<'b> {
    deleted: Vec<&'b str>,
    failed: [&'b str; 0],
}

impl World {
    fn note(&mut self, ids: &[&str], now: Duration) {
        self.counts.requests += 1;
        for id in ids {
            self.counts.ids += 1;
            let id = id.parse().unwrap();
            let Some((last, again)) = self.seen.insert(id, (now, true)) else {
                self.seen.insert(id, (now, false));
                self.counts.distinct += 1;
                continue;
            };
            self.counts.twice += u64::from(!again);
            let since = u64::try_from(now.saturating_sub(last).as_millis()).unwrap();
            self.counts.soonest_ms = Some(self.counts.soonest_ms.map_or(since, |soonest| soonest.min(since)));
        }
    }
}

/// The process: answers after `latency`, until it is killed.
pub async fn serve(latency: Duration) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    println!("{}", listener.local_addr().unwrap());
    let (world, clock) = (Rc::new(RefCell::new(World::default())), Clock::system());
    let connections = async {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            stream.set_nodelay(true).unwrap();
            let (world, clock) = (Rc::clone(&world), clock.clone());
            let answer = service_fn(move |request| answer(request, Rc::clone(&world), clock.clone(), latency));
            // Whoever is killed breaks connections off.
            spawn_local(
                async move { drop(http1::Builder::new().serve_connection(TokioIo::new(stream), answer).await) },
            );
        }
    };
    LocalSet::new().run_until(connections).await;
}

async fn answer(
    request: Request<Incoming>,
    world: Rc<RefCell<World>>,
    clock: Clock,
    latency: Duration,
) -> Result<Response<Body>, Infallible> {
    if request.uri().path() == "/counts" {
        let counts = serde_json::to_string(&world.borrow().counts).unwrap();
        return Ok(Response::new(Body::from(counts)));
    }
    // If the sender is killed in the middle of a request, it has not arrived.
    let Ok(body) = to_bytes(Body::new(request.into_body()), LONGEST).await else {
        return Ok(Response::new(Body::empty()));
    };
    let Bulk { ids } = serde_json::from_slice(&body).unwrap();
    world.borrow_mut().note(&ids, clock.elapsed());
    if !latency.is_zero() {
        sleep(latency).await;
    }
    let answer = serde_json::to_vec(&Answer { deleted: ids, failed: [] }).unwrap();
    let response = Response::builder().header("content-type", "application/json").body(Body::from(answer));
    Ok(response.unwrap())
}

/// The running process. It ends when this is dropped.
#[derive(Debug)]
pub struct StandIn {
    _process: Killed,
    address: String,
}

impl StandIn {
    /// Starts it, and waits until it listens.
    pub fn start(latency: Duration) -> Self {
        let mut command = Command::new(env::current_exe().unwrap());
        command.args([STAND_IN, &latency.as_millis().to_string()]).stdout(Stdio::piped());
        let mut process = Killed(command.spawn().unwrap());
        let mut said = String::new();
        BufReader::new(process.0.stdout.take().unwrap()).read_line(&mut said).unwrap();
        Self { _process: process, address: said.trim().to_owned() }
    }

    /// Where it answers.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// What has arrived until now.
    pub fn counts(&self) -> Counts {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        stream.write_all(b"GET /counts HTTP/1.1\r\nhost: stand-in\r\nconnection: close\r\n\r\n").unwrap();
        let mut said = String::new();
        stream.read_to_string(&mut said).unwrap();
        serde_json::from_str(said.split_once("\r\n\r\n").unwrap().1).unwrap()
    }
}

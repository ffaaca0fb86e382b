//! A stand-in for the API that keeps the truth: which request came when, from whom, and whether it was answered.

use std::{
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};

use audio_cache_sweeper::model::clock::Clock;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::{oneshot, watch},
    time::sleep,
};
use uuid::Uuid;

use crate::hostile::server::ok;

/// A request that has come in.
#[derive(Clone, Debug)]
pub struct Arrival {
    /// When, by the scene's clock.
    pub at: Duration,
    /// Who sent it: the daemon's API key.
    pub node: String,
    pub correlation_id: Uuid,
    pub agent: String,
    pub entries: Vec<String>,
    /// Its answer was written.
    pub is_answered: bool,
}

/// How requests are answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mood {
    /// At once.
    Prompt,
    /// Most of them at once, some late, and a few never.
    Mixed,
    /// Not before the mood changes.
    Silent,
}

#[derive(Debug)]
struct State {
    arrivals: Vec<Arrival>,
    rng: fastrand::Rng,
}

/// The stand-in. It serves on a thread of its own, so a test that waits for something else does not delay it.
#[derive(Debug)]
pub struct Truth {
    pub url: String,
    mood: watch::Sender<Mood>,
    state: Arc<Mutex<State>>,
    /// Ends the thread when it is dropped.
    _end: oneshot::Sender<()>,
}

impl Truth {
    pub fn start(clock: Clock, seed: u64) -> Self {
        let (mood, moods) = watch::channel(Mood::Prompt);
        let (_end, ended) = oneshot::channel::<()>();
        let rng = fastrand::Rng::with_seed(seed);
        let state = Arc::new(Mutex::new(State { arrivals: Vec::new(), rng }));
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let shared = Arc::clone(&state);
        thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let listener = TcpListener::from_std(listener).unwrap();
                tokio::select! {
                    () = serve(listener, clock, moods, shared) => {}
                    _ = ended => {}
                }
            });
        });
        Self { url, mood, state, _end }
    }

    pub fn set(&self, mood: Mood) {
        self.mood.send_replace(mood);
    }

    /// The requests so far, as they came.
    pub fn arrivals(&self) -> Vec<Arrival> {
        self.state.lock().unwrap().arrivals.clone()
    }

    /// The number of requests so far.
    pub fn count(&self) -> usize {
        self.state.lock().unwrap().arrivals.len()
    }

    pub fn has_seen(&self, correlation_id: Uuid) -> bool {
        self.state.lock().unwrap().arrivals.iter().any(|arrival| arrival.correlation_id == correlation_id)
    }
}

async fn serve(listener: TcpListener, clock: Clock, moods: watch::Receiver<Mood>, state: Arc<Mutex<State>>) {
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let (clock, moods, state) = (clock.clone(), moods.clone(), Arc::clone(&state));
        // An error is the client's hanging up.
        tokio::spawn(async move { drop(converse(stream, &clock, moods, &state).await) });
    }
}

async fn converse(
    mut stream: TcpStream,
    clock: &Clock,
    mut moods: watch::Receiver<Mood>,
    state: &Mutex<State>,
) -> std::io::Result<()> {
    let mut bytes = Vec::new();
    loop {
        let arrival = loop {
            if let Some(arrival) = parse(&bytes, clock.elapsed()) {
                break arrival;
            }
            if stream.read_buf(&mut bytes).await? == 0 {
                return Ok(());
            }
        };
        bytes.clear();
        let body = serde_json::json!({ "deleted": arrival.entries, "failed": [], "success": true }).to_string();
        let mood = *moods.borrow();
        let (at, fate) = {
            let mut state = state.lock().unwrap();
            state.arrivals.push(arrival);
            (state.arrivals.len() - 1, state.rng.u32(0..60))
        };
        match (mood, fate) {
            (Mood::Prompt, _) | (Mood::Mixed, 8..) => {}
            (Mood::Mixed, 0) => std::future::pending().await,
            (Mood::Mixed, late) => sleep(Duration::from_millis(u64::from(late) * 200)).await,
            (Mood::Silent, _) => drop(moods.wait_for(|mood| *mood != Mood::Silent).await),
        }
        stream.write_all(&ok(body.as_bytes())).await?;
        state.lock().unwrap().arrivals[at].is_answered = true;
    }
}

/// The request, once it is here as a whole.
fn parse(bytes: &[u8], at: Duration) -> Option<Arrival> {
    let text = std::str::from_utf8(bytes).ok()?;
    let (head, body) = text.split_once("\r\n\r\n")?;
    let header = |name: &str| {
        let lines = head.lines().filter_map(|line| line.split_once(": "));
        lines.filter(|(found, _)| found.eq_ignore_ascii_case(name)).map(|(_, value)| value.to_owned()).next()
    };
    let length: usize = header("content-length").map_or(0, |length| length.parse().unwrap());
    if body.len() < length {
        return None;
    }
    // POST /v1/agents/AGENT/audio-cache/bulk-delete, or DELETE …/audio-cache/ENTRY
    let path: Vec<&str> = head.split(' ').nth(1).unwrap().split('/').collect();
    let entries = match path[5] {
        "bulk-delete" => serde_json::from_str::<serde_json::Value>(body).unwrap()["ids"].clone(),
        entry => serde_json::json!([entry]),
    };
    Some(Arrival {
        at,
        node: header("x-api-key").unwrap(),
        correlation_id: header("x-polyai-correlation-id").unwrap().parse().unwrap(),
        agent: path[3].to_owned(),
        entries: serde_json::from_value(entries).unwrap(),
        is_answered: false,
    })
}

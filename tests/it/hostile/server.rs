//! A server that answers with raw bytes.

use std::{
    collections::VecDeque,
    io,
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::sleep,
};

/// What is said to one request.
#[derive(Clone, Debug)]
pub enum Say {
    /// These bytes; the connection stays open.
    Bytes(Vec<u8>),
    /// These bytes, and the end of the connection.
    Close(Vec<u8>),
    /// The first once, then the second over and over, for as long as anybody reads.
    Endless(Vec<u8>, Vec<u8>),
    /// The first at once, then the second byte by byte.
    Drip(Vec<u8>, Vec<u8>),
}

#[derive(Debug, Default)]
struct State {
    script: VecDeque<Say>,
    requests: Vec<String>,
}

/// A server that says to each request what the script has next; when that is over, it deletes what it is asked to.
#[derive(Debug)]
pub struct Hostile {
    pub url: String,
    state: Arc<Mutex<State>>,
    _serving: JoinSet<()>,
}

impl Hostile {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let state = Arc::new(Mutex::new(State::default()));
        let mut serving = JoinSet::new();
        let shared = Arc::clone(&state);
        serving.spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let state = Arc::clone(&shared);
                // An error is the client's hanging up.
                connections.spawn(async move { drop(serve(stream, &state).await) });
            }
        });
        Self { url, state, _serving: serving }
    }

    pub fn script(&self, says: impl IntoIterator<Item = Say>) {
        self.state.lock().unwrap().script.extend(says);
    }

    /// The requests so far, as they came.
    pub fn requests(&self) -> Vec<String> {
        self.state.lock().unwrap().requests.clone()
    }
}

async fn serve(mut stream: TcpStream, state: &Mutex<State>) -> io::Result<()> {
    let mut bytes = Vec::new();
    loop {
        let (request, ids) = loop {
            let text = String::from_utf8_lossy(&bytes);
            if let Some((head, body)) = text.split_once("\r\n\r\n") {
                let length = head.to_ascii_lowercase().lines().find_map(|line| {
                    line.strip_prefix("content-length:").map(|length| length.trim().parse::<usize>().unwrap())
                });
                // A request about one entry has no body.
                if body.len() >= length.unwrap_or(0) {
                    let sent: serde_json::Value = serde_json::from_str(body).unwrap_or_default();
                    break (text.clone().into_owned(), sent["ids"].clone());
                }
            }
            if stream.read_buf(&mut bytes).await? == 0 {
                return Ok(());
            }
        };
        bytes.clear();
        let say = {
            let mut state = state.lock().unwrap();
            state.requests.push(request);
            state.script.pop_front()
        };
        match say {
            None => {
                let body = serde_json::json!({ "deleted": ids, "failed": [], "success": true }).to_string();
                stream.write_all(&ok(body.as_bytes())).await?;
            }
            Some(Say::Bytes(bytes)) => stream.write_all(&bytes).await?,
            Some(Say::Close(bytes)) => {
                stream.write_all(&bytes).await?;
                return stream.shutdown().await;
            }
            Some(Say::Endless(first, again)) => {
                stream.write_all(&first).await?;
                loop {
                    stream.write_all(&again).await?;
                }
            }
            Some(Say::Drip(first, slowly)) => {
                stream.write_all(&first).await?;
                for byte in slowly {
                    // The slowness that is being tested.
                    sleep(Duration::from_millis(50)).await;
                    stream.write_all(&[byte]).await?;
                }
            }
        }
    }
}

/// An answer with this status line, these header lines, and this body with its length.
pub fn answer(status: &str, headers: &str, body: &[u8]) -> Vec<u8> {
    let head = format!("HTTP/1.1 {status}\r\n{headers}content-length: {}\r\n\r\n", body.len());
    [head.as_bytes(), body].concat()
}

pub fn ok(body: &[u8]) -> Vec<u8> {
    answer("200 OK", "content-type: application/json\r\n", body)
}

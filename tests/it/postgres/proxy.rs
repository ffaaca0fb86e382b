//! A way to the server that breaks when a test says so.

use std::{
    path::PathBuf,
    sync::{Arc, Mutex},
};

use audio_cache_sweeper::queue::postgres::Address;
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{UnixListener, UnixStream},
};

use crate::cluster::{OWNER, cluster};

/// Where the server's socket is, in its directory.
const SOCKET: &str = ".s.PGSQL.5432";

/// When the way breaks.
#[derive(Debug, Default)]
pub enum Break {
    #[default]
    Never,
    /// The server gets the message with these bytes, and its answer gets lost.
    AnswerTo(Vec<u8>),
    /// The same, and the answer is on its way.
    NextAnswer,
    /// After this number of answers. Then again after as many as the generator says.
    After(usize, fastrand::Rng),
}

/// A socket that leads to the server. It is gone when this is dropped, and open connections stay.
#[derive(Debug)]
pub struct Proxy {
    dir: TempDir,
    breaks: Arc<Mutex<Break>>,
    listening: tokio::task::JoinHandle<()>,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.listening.abort();
    }
}

impl Proxy {
    pub fn new() -> Self {
        let dir = TempDir::with_prefix("sweeper-pg-way-").unwrap();
        let (server, breaks) = (cluster().unwrap().dir().join(SOCKET), Arc::default());
        let listener = UnixListener::bind(dir.path().join(SOCKET)).unwrap();
        let listening = tokio::spawn(listen(listener, server, Arc::clone(&breaks)));
        Self { dir, breaks, listening }
    }

    /// The address of a database, by this way.
    pub fn address(&self, database: &str) -> Address {
        let url = format!("postgres://{OWNER}@localhost/{database}?host={}", self.dir.path().display());
        Address::parse(&[&url]).unwrap()
    }

    pub fn set(&self, breaks: Break) {
        *self.breaks.lock().unwrap() = breaks;
    }
}

async fn listen(listener: UnixListener, server: PathBuf, breaks: Arc<Mutex<Break>>) {
    while let Ok((client, _)) = listener.accept().await {
        let (server, breaks) = (server.clone(), Arc::clone(&breaks));
        tokio::spawn(async move {
            if let Ok(server) = UnixStream::connect(server).await {
                forward(client, server, &breaks).await;
            }
        });
    }
}

/// Until one side is closed, or the way breaks. Then both are closed.
async fn forward(mut client: UnixStream, mut server: UnixStream, breaks: &Mutex<Break>) {
    let (mut up, mut down) = (vec![0; 1 << 16], vec![0; 1 << 16]);
    loop {
        tokio::select! {
            read = client.read(&mut up) => {
                let Ok(read @ 1..) = read else { return };
                note(&mut breaks.lock().unwrap(), &up[..read]);
                if server.write_all(&up[..read]).await.is_err() {
                    return;
                }
            }
            read = server.read(&mut down) => {
                let Ok(read @ 1..) = read else { return };
                if is_lost(&mut breaks.lock().unwrap()) || client.write_all(&down[..read]).await.is_err() {
                    return;
                }
            }
        }
    }
}

/// Notes a message to the server.
fn note(breaks: &mut Break, message: &[u8]) {
    if let Break::AnswerTo(bytes) = breaks
        && message.windows(bytes.len()).any(|window| window == bytes)
    {
        *breaks = Break::NextAnswer;
    }
}

/// Whether this answer gets lost.
fn is_lost(breaks: &mut Break) -> bool {
    match breaks {
        Break::Never | Break::AnswerTo(_) => false,
        Break::NextAnswer => {
            *breaks = Break::Never;
            true
        }
        Break::After(left, rng) => {
            let is_lost = *left == 0;
            *left = if is_lost { rng.usize(5..60) } else { *left - 1 };
            is_lost
        }
    }
}

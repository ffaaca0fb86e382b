//! A daemon's way to its server, which a test can cut without closing anything, as a network does; and on which it can stop an answer.

use std::{
    path::{Path, PathBuf},
    thread,
};

use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{
        UnixListener, UnixStream,
        unix::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::{mpsc, oneshot, watch},
};

/// Where a server's socket is, in its directory.
const SOCKET: &str = ".s.PGSQL.5432";

/// What gets through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Passes {
    Both,
    /// What the daemon sends. The answers do not.
    Up,
    Nothing,
}

/// An answer of the server that waits to be let through.
pub type Held = oneshot::Sender<()>;

/// A socket that leads to a server. It works on a thread of its own, and is gone when this is dropped.
#[derive(Debug)]
pub struct Way {
    dir: TempDir,
    passes: watch::Sender<Passes>,
    /// Each answer is shown here before it is let through, while there is somebody who looks.
    shown: watch::Sender<Option<mpsc::UnboundedSender<Held>>>,
    _end: oneshot::Sender<()>,
}

impl Way {
    /// A way to the server with its socket in this directory.
    pub fn to(server: &Path) -> Self {
        let dir = TempDir::with_prefix("sweeper-pg-way-").unwrap();
        let listener = std::os::unix::net::UnixListener::bind(dir.path().join(SOCKET)).unwrap();
        listener.set_nonblocking(true).unwrap();
        let (passes, gate) = watch::channel(Passes::Both);
        let (shown, show) = watch::channel(None);
        let (_end, ended) = oneshot::channel::<()>();
        let server = server.join(SOCKET);
        thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let listener = UnixListener::from_std(listener).unwrap();
                tokio::select! {
                    () = listen(listener, server, gate, show) => {}
                    _ = ended => {}
                }
            });
        });
        Self { dir, passes, shown, _end }
    }

    /// The directory with the socket.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub fn set(&self, passes: Passes) {
        self.passes.send_replace(passes);
    }

    /// From now on, each answer waits until the receiver has let it through, or is dropped.
    pub fn hold_answers(&self) -> mpsc::UnboundedReceiver<Held> {
        let (held, answers) = mpsc::unbounded_channel();
        self.shown.send_replace(Some(held));
        answers
    }
}

type Show = watch::Receiver<Option<mpsc::UnboundedSender<Held>>>;

async fn listen(listener: UnixListener, server: PathBuf, gate: watch::Receiver<Passes>, show: Show) {
    while let Ok((client, _)) = listener.accept().await {
        let (server, gate, show) = (server.clone(), gate.clone(), show.clone());
        tokio::spawn(async move {
            let mut opened = gate.clone();
            if opened.wait_for(|passes| *passes == Passes::Both).await.is_err() {
                return;
            }
            if let Ok(server) = UnixStream::connect(server).await {
                let ((from_client, to_client), (from_server, to_server)) = (client.into_split(), server.into_split());
                tokio::spawn(up(from_client, to_server, gate.clone()));
                down(from_server, to_client, gate, show).await;
            }
        });
    }
}

/// Until the daemon closes its side. A way that is cut does not tell that.
async fn up(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut gate: watch::Receiver<Passes>) {
    let mut bytes = vec![0; 1 << 16];
    loop {
        let read = from.read(&mut bytes).await.unwrap_or(0);
        if gate.wait_for(|passes| *passes != Passes::Nothing).await.is_err()
            || read == 0
            || to.write_all(&bytes[..read]).await.is_err()
        {
            return;
        }
    }
}

/// Until the server closes its side.
async fn down(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut gate: watch::Receiver<Passes>, show: Show) {
    let mut bytes = vec![0; 1 << 16];
    loop {
        let read = from.read(&mut bytes).await.unwrap_or(0);
        if gate.wait_for(|passes| *passes == Passes::Both).await.is_err() {
            return;
        }
        let shown = show.borrow().clone();
        if let Some(shown) = shown {
            let (held, let_through) = oneshot::channel();
            if shown.send(held).is_ok() {
                let _ = let_through.await;
            }
        }
        if read == 0 || to.write_all(&bytes[..read]).await.is_err() {
            return;
        }
    }
}

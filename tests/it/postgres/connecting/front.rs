//! What listens on a port: the tests' server behind TLS, or something else.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, copy_bidirectional},
    net::{TcpListener, TcpStream, UnixStream},
    time::sleep,
};
use tokio_rustls::TlsAcceptor;

use crate::cluster::cluster;

/// What it does with a connection.
#[derive(Clone)]
pub enum Act {
    /// Leads to the server.
    Forward,
    /// Leads to the server, inside of TLS.
    Tls(TlsAcceptor),
    /// Says this to whatever it is told.
    Say(&'static [u8]),
    /// Closes it without a word.
    Close,
    /// Says nothing.
    BeSilent,
}

/// A listener whose act can be changed.
pub struct Front {
    address: SocketAddr,
    act: Arc<Mutex<Act>>,
    listening: tokio::task::JoinHandle<()>,
}

impl Drop for Front {
    fn drop(&mut self) {
        self.listening.abort();
    }
}

impl Front {
    pub async fn new(act: Act) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, act) = (listener.local_addr().unwrap(), Arc::new(Mutex::new(act)));
        let shared = Arc::clone(&act);
        let listening = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (now, shared) = (shared.lock().unwrap().clone(), Arc::clone(&shared));
                tokio::spawn(async move {
                    tokio::select! {
                        _ = serve(client, now) => {}
                        () = changed(&shared) => {}
                    }
                });
            }
        });
        Self { address, act, listening }
    }

    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// From now on it does this. Connections that led to the server are cut.
    pub fn set(&self, act: Act) {
        *self.act.lock().unwrap() = act;
    }
}

/// Completes when the listener does not lead to the server any more.
async fn changed(act: &Mutex<Act>) {
    let is_way = |act: &Act| matches!(act, Act::Forward | Act::Tls(_));
    let was_way = is_way(&act.lock().unwrap());
    loop {
        sleep(Duration::from_millis(10)).await;
        if was_way && !is_way(&act.lock().unwrap()) {
            return;
        }
    }
}

async fn serve(mut client: TcpStream, act: Act) -> std::io::Result<()> {
    let behind = async || UnixStream::connect(cluster().unwrap().dir().join(".s.PGSQL.5432")).await;
    match act {
        Act::Forward => {
            copy_bidirectional(&mut client, &mut behind().await?).await?;
        }
        Act::Tls(acceptor) => {
            // The request for TLS.
            client.read_exact(&mut [0; 8]).await?;
            client.write_all(b"S").await?;
            let mut inside = acceptor.accept(client).await?;
            copy_bidirectional(&mut inside, &mut behind().await?).await?;
        }
        Act::Say(bytes) => {
            client.read_u8().await?;
            client.write_all(bytes).await?;
            // Whoever asked goes away first.
            client.read_to_end(&mut Vec::new()).await?;
        }
        Act::Close => {}
        Act::BeSilent => {
            client.read_to_end(&mut Vec::new()).await?;
        }
    }
    Ok(())
}

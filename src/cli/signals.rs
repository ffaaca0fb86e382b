//! The signals that end a command. A thread of its own receives them, so that a second signal ends the process even if the
//! loop is stuck.

use std::{
    future::{Future, pending, ready},
    io,
    pin::Pin,
    process::ExitCode,
    thread,
    time::Duration,
};

use anyhow::Context as _;
use rustix::process::Signal as Number;
use tokio::{
    runtime,
    signal::unix::{Signal as Signals, SignalKind, signal},
    sync::{mpsc::UnboundedSender, oneshot},
    time::sleep,
};

use super::Failure;

/// A second signal within this time belongs to the first one. coreutils' `timeout` sends SIGTERM to the process and to its
/// group, and a terminal that is closed sends SIGHUP to both.
const SAME_SIGNAL: Duration = Duration::from_secs(1);

/// A signal that ends a command.
#[derive(Clone, Copy, Debug)]
pub(super) enum Signal {
    Hangup,
    Interrupt,
    Terminate,
}

impl Signal {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Hangup => "SIGHUP",
            Self::Interrupt => "SIGINT",
            Self::Terminate => "SIGTERM",
        }
    }

    /// The exit code that a shell shows for a program ended by this signal: 128 + its number.
    fn code(self) -> u8 {
        match self {
            Self::Hangup => 129,
            Self::Interrupt => 130,
            Self::Terminate => 143,
        }
    }

    pub(super) fn exit_code(self) -> ExitCode {
        ExitCode::from(self.code())
    }
}

/// Turns SIGXFSZ into a write error (`File too large`), which is treated like a full disk. Without a handler, the signal
/// would end the process when a file grows beyond `ulimit -f`.
///
/// # Errors
/// If the handler cannot be installed.
pub(super) fn survive_file_size_limit() -> Result<(), Failure> {
    // The handler stays when the stream is dropped.
    signal(SignalKind::from_raw(Number::XFSZ.as_raw())).map(drop).context("listen to signals").map_err(Failure::from)
}

/// Completes at the first SIGTERM, SIGINT or SIGHUP. Another one, a second later or more, ends the process at once with
/// exit code 1.
pub(super) fn shutdown() -> Result<impl Future<Output = ()>, Failure> {
    let signalled = signalled(|_| 1, None)?;
    Ok(async {
        signalled.await;
    })
}

/// The same for the daemon. `last_words` is called before a second signal ends the process. With `reload`, SIGHUP ends nothing
/// and is passed on.
pub(super) fn daemon(
    reload: Option<UnboundedSender<()>>,
    last_words: impl FnOnce(Signal) + Send + 'static,
) -> Result<impl Future<Output = ()>, Failure> {
    let second = |signal| {
        last_words(signal);
        1
    };
    let signalled = signalled(second, reload)?;
    Ok(async {
        signalled.await;
    })
}

/// Completes at the first SIGTERM, SIGINT or SIGHUP. Another one, a second later or more, ends the process at once with the
/// exit code of that signal.
pub(super) fn stopped() -> Result<impl Future<Output = Signal>, Failure> {
    signalled(Signal::code, None)
}

/// The signal, if it has come.
pub(super) async fn already(stop: Pin<&mut impl Future<Output = Signal>>) -> Option<Signal> {
    tokio::select! {
        biased;
        signal = stop => Some(signal),
        () = ready(()) => None,
    }
}

/// `second` gives the exit code that a second signal ends the process with.
fn signalled(
    second: impl FnOnce(Signal) -> u8 + Send + 'static,
    reload: Option<UnboundedSender<()>>,
) -> Result<impl Future<Output = Signal>, Failure> {
    let (tell, told) = oneshot::channel();
    let (ready, is_ready) = std::sync::mpsc::channel();
    let listen = move || {
        let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async move {
            let mut listener = match Listener::new(reload) {
                Ok(listener) => listener,
                Err(error) => {
                    let _ = ready.send(Err(error));
                    return;
                }
            };
            let _ = ready.send(Ok(()));
            // If the receiver is gone, the command has ended.
            let _ = tell.send(listener.next().await);
            let over = sleep(SAME_SIGNAL);
            tokio::pin!(over);
            loop {
                tokio::select! {
                    () = &mut over => break,
                    _ = listener.next() => {}
                }
            }
            std::process::exit(second(listener.next().await).into());
        });
        Ok::<_, io::Error>(())
    };
    // The thread is detached and ends with the process.
    let spawned = thread::Builder::new().name("sweeper-signals".to_owned()).spawn(listen);
    spawned.context("start the thread that listens to signals")?;
    // The thread ends without a message only if its runtime cannot be built.
    let heard = is_ready.recv().unwrap_or_else(|_| Err(io::Error::other("its thread has no runtime")));
    heard.context("listen to signals")?;
    Ok(async {
        // An error means that the thread is gone: stop, because no signal would be received any more.
        told.await.unwrap_or(Signal::Terminate)
    })
}

struct Listener {
    terminate: Signals,
    interrupt: Signals,
    hangup: Option<Signals>,
    /// Gets each SIGHUP, which then ends nothing.
    reload: Option<UnboundedSender<()>>,
}

impl Listener {
    fn new(reload: Option<UnboundedSender<()>>) -> io::Result<Self> {
        // `nohup` makes a command ignore SIGHUP, so that the command outlives its terminal: keep it so.
        let hangup = if is_hangup_ignored() { None } else { Some(signal(SignalKind::hangup())?) };
        let (terminate, interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        Ok(Self { terminate, interrupt, hangup, reload })
    }

    /// The next signal that ends a command.
    async fn next(&mut self) -> Signal {
        loop {
            match (self.any().await, &self.reload) {
                (Signal::Hangup, Some(reload)) => {
                    // If the receiver is gone, the daemon is about to end.
                    let _ = reload.send(());
                }
                (signal, _) => return signal,
            }
        }
    }

    async fn any(&mut self) -> Signal {
        let Self { terminate, interrupt, hangup, .. } = self;
        let hung_up = async {
            match hangup {
                Some(hangup) => hangup.recv().await,
                None => pending().await,
            }
        };
        tokio::select! {
            _ = terminate.recv() => Signal::Terminate,
            _ = interrupt.recv() => Signal::Interrupt,
            _ = hung_up => Signal::Hangup,
        }
    }
}

/// Whether SIGHUP was ignored when the process started. Without /proc, this is false.
fn is_hangup_ignored() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = ignored.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0);
    let number = u32::try_from(Number::HUP.as_raw()).unwrap_or(1);
    mask & (1 << (number - 1)) != 0
}

//! Messages to the service manager (systemd): ready, alive, stopping. They go to [`Health`] as well.
//!
//! sd-notify formats the messages. They are sent here, because sd-notify blocks for ever on a socket that nobody reads, and the
//! loop must not.

#[cfg(target_os = "linux")]
use std::os::{linux::net::SocketAddrExt as _, unix::ffi::OsStrExt as _, unix::net::SocketAddr};
use std::{io, os::unix::net::UnixDatagram, path::PathBuf, time::Duration};

use sd_notify::NotifyState;
use tracing::warn;

use crate::{
    event,
    watch::health::{Health, State},
};

/// The longest time that the loop waits for the service manager to take a message.
const SEND_TIMEOUT: Duration = Duration::from_millis(100);
/// How often the watchdog is notified in its interval. Twice would be enough if a turn took no time.
const FEEDS: u32 = 4;
/// The longest time between two beats for [`Health`].
const BEAT_INTERVAL: Duration = Duration::from_secs(5);

/// The service manager, if there is one, and the health.
#[derive(Clone, Debug, Default)]
pub struct Supervisor {
    socket: Option<PathBuf>,
    health: Option<Health>,
    feed_every: Option<Duration>,
    /// When the watchdog was last notified, in elapsed time.
    fed_at: Option<Duration>,
    /// The last message could not be sent, which was logged.
    unreachable: bool,
}

impl Supervisor {
    /// The service manager that listens on `socket`, and kills the process when it hears nothing for `watchdog`.
    #[must_use]
    pub fn new(socket: Option<PathBuf>, watchdog: Option<Duration>) -> Self {
        let feed_every = watchdog.filter(|time| socket.is_some() && !time.is_zero()).map(|time| time / FEEDS);
        Self { socket, feed_every, ..Self::default() }
    }

    /// Sends the state to `health`, too.
    #[must_use]
    pub fn telling(self, health: Health) -> Self {
        Self { health: Some(health), ..self }
    }

    /// Tells that the loop begins.
    pub fn ready(&mut self) {
        self.is(State::Working);
        self.tell(&[NotifyState::Ready, NotifyState::Status("working")]);
    }

    /// Tells that this daemon stands by, and is ready to lead.
    pub fn standing_by(&mut self) {
        self.is(State::StandingBy);
        self.tell(&[NotifyState::Ready, NotifyState::Status("standing by")]);
    }

    /// Tells that the start waits for the database, and asks for `more` time.
    pub fn waiting(&mut self, more: Duration) {
        self.is(State::DatabaseDown);
        let more = u32::try_from(more.as_micros()).unwrap_or(u32::MAX);
        self.tell(&[NotifyState::ExtendTimeoutUsec(more), NotifyState::Status("waiting for the database")]);
    }

    /// Tells that a migration, or settling the requests that a crash left, takes time. Asks for `more` time.
    pub fn starting(&mut self, more: Duration) {
        let more = u32::try_from(more.as_micros()).unwrap_or(u32::MAX);
        self.tell(&[NotifyState::ExtendTimeoutUsec(more), NotifyState::Status("starting")]);
    }

    /// Tells that the loop is alive. The watchdog is notified only if the last time is long enough ago.
    pub fn feed(&mut self, now: Duration) {
        self.health.iter().for_each(|health| health.beat(now));
        let Some(every) = self.feed_every else { return };
        if self.fed_at.is_none_or(|at| now.saturating_sub(at) >= every) {
            self.fed_at = Some(now);
            self.tell(&[NotifyState::Watchdog]);
        }
    }

    /// Shortens `wait` so that the watchdog is notified in time.
    #[must_use]
    pub fn at_most(&self, wait: Duration) -> Duration {
        let beat = self.health.as_ref().map(|_| BEAT_INTERVAL);
        self.feed_every.into_iter().chain(beat).fold(wait, Duration::min)
    }

    /// Tells that the settings are being replaced. [`Self::reloaded`] must follow.
    pub fn reloading(&mut self) {
        let mut states = vec![NotifyState::Reloading, NotifyState::Status("reloading")];
        // systemd ignores the message of a `notify-reload` service without the time.
        states.extend(NotifyState::monotonic_usec_now());
        self.tell(&states);
    }

    /// Tells that the loop goes on after [`Self::reloading`].
    pub fn reloaded(&mut self) {
        self.tell(&[NotifyState::Ready, NotifyState::Status("working")]);
    }

    /// Tells that the daemon shuts down.
    pub fn stopping(&mut self) {
        self.is(State::Stopping);
        self.tell(&[NotifyState::Stopping, NotifyState::Status("stopping")]);
    }

    /// Tells whether the database can be used. Only for a loop that has begun.
    pub fn database(&mut self, can_be_used: bool) {
        self.is(if can_be_used { State::Working } else { State::DatabaseDown });
    }

    fn is(&self, state: State) {
        self.health.iter().for_each(|health| health.set(state));
    }

    fn tell(&mut self, states: &[NotifyState<'_>]) {
        let Some(path) = &self.socket else { return };
        let message: String = states.iter().map(|state| format!("{state}\n")).collect();
        let send = || -> io::Result<()> {
            let socket = UnixDatagram::unbound()?;
            socket.set_write_timeout(Some(SEND_TIMEOUT))?;
            // A leading @ means an abstract socket, which has no file.
            #[cfg(target_os = "linux")]
            if let Some(name) = path.as_os_str().as_bytes().strip_prefix(b"@") {
                let address = SocketAddr::from_abstract_name(name)?;
                return socket.send_to_addr(message.as_bytes(), &address).map(drop);
            }
            socket.send_to(message.as_bytes(), path).map(drop)
        };
        match send() {
            Ok(()) => self.unreachable = false,
            // The daemon works on without a service manager.
            Err(error) if !self.unreachable => {
                self.unreachable = true;
                let socket = path.display();
                warn!(event = event::SD_NOTIFY_FAILED, %socket, %error, "a message to the service manager cannot be sent; the daemon works on without it");
            }
            Err(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_that_nobody_reads_does_not_stop_us_and_is_told_again_when_there_is_room() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        let mut supervisor = Supervisor::new(Some(path), Some(Duration::from_secs(4)));
        for second in 0..10_000 {
            supervisor.feed(Duration::from_secs(second));
            if supervisor.unreachable {
                break;
            }
        }
        assert!(supervisor.unreachable, "it was full at some time");
        let mut message = [0; 64];
        let length = socket.recv(&mut message).unwrap();
        assert_eq!(&message[..length], b"WATCHDOG=1\n");
        supervisor.ready();
        assert!(!supervisor.unreachable, "there is room again");
    }

    #[test]
    fn a_watchdog_is_fed_a_few_times_in_its_time_and_only_if_there_is_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        socket.set_nonblocking(true).unwrap();
        let fed = |watchdog| {
            let mut supervisor = Supervisor::new(Some(path.clone()), watchdog);
            // Each message is read at once, because the socket holds few.
            (0..=100)
                .filter(|ms| {
                    supervisor.feed(Duration::from_millis(*ms));
                    socket.recv(&mut [0; 64]).is_ok()
                })
                .count()
        };
        assert_eq!(fed(Some(Duration::from_millis(100))), 5);
        assert_eq!(fed(Some(Duration::ZERO)), 0);
        assert_eq!(fed(None), 0);
        let hour = Duration::from_secs(3_600);
        assert_eq!(Supervisor::default().at_most(hour), hour);
        assert_eq!(Supervisor::new(Some(path), Some(Duration::from_secs(8))).at_most(hour), Duration::from_secs(2));
        assert_eq!(Supervisor::new(None, Some(Duration::from_secs(8))).at_most(hour), hour);
    }
}

//! A daemon that would lead: it stands by, tries to take the lock, and then brings the tables up to date and begins an epoch.

use std::time::Duration;

use sqlx::PgConnection;
use tokio::time::sleep;

use super::{
    Store,
    codes::is_denied,
    codes::is_of_a_pooler,
    command::{TABLES, newest},
    cursors::Cursors,
    errors::{OpenError, StoreError},
    inbox::{self, Inbox},
    leadership::{begin_epoch, put_back, watched},
    open::{OPEN, Options, migrate},
    schema::{OLDEST_SERVER, make_schema, server_version},
    session::{Session, sends_for},
};
use crate::{
    model::clock::Clock,
    queue::{label_walk::LabelWalk, lease::Lease, prune_walk::PruneWalk},
};

/// `init` waits for another one that makes the tables: so many tries, with this pause.
const TRIES: u32 = 50;
const PAUSE: Duration = Duration::from_millis(100);

/// The newest migration, if there are tables.
const VERSION: &str = "SELECT coalesce(max(version), 0) FROM _sqlx_migrations";

/// A daemon that stands by.
#[derive(Debug)]
pub struct Candidate {
    session: Session,
    options: Options,
    lease: Lease,
    clock: Clock,
    /// The newest migration of the tables; 0: there are none.
    version: i64,
}

/// What was in the database before the tables were made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Made {
    /// No tables.
    Created,
    /// Tables, which are up to date now.
    Existing,
    /// Tables that are up to date, because a daemon leads: its session, in words, if it can be seen.
    InUse(Option<String>),
}

/// What became of an attempt to lead.
#[derive(Debug)]
pub enum Attempt {
    /// It leads.
    Leads(Box<Store>),
    /// Somebody else does.
    StandsBy(Candidate),
}

impl Candidate {
    /// Connects, and makes sure that this program can lead on this server. Makes the schema, without tables, if there is none, because
    /// the lock is the schema's.
    ///
    /// # Errors
    /// If the server cannot be reached or is too old, if a pooler is in between, if the tables are of a newer version, or if this role
    /// may not make the schema.
    pub async fn connect(options: Options, clock: &Clock) -> Result<Self, OpenError> {
        let address = options.address.clone();
        let error = |source| match is_of_a_pooler(&source) {
            true => OpenError::Pooled { address: address.clone() },
            false => OpenError::from(StoreError::new(&address, OPEN, source)),
        };
        let lease = Lease::new(clock.clone(), sends_for(options.lease));
        let mut session = Session::connect(&options, &lease).await.map_err(error)?;
        let version = session.run(server_version).await.map_err(error)?;
        if version < OLDEST_SERVER {
            return Err(OpenError::OldServer { address, version });
        }
        if session.is_pooled(&address).await.map_err(error)? {
            return Err(OpenError::Pooled { address });
        }
        session.run(make_schema).await.map_err(|source| match is_denied(&source) {
            true => OpenError::MayNotCreate { address: address.clone() },
            false => error(source),
        })?;
        let mut candidate = Self { session, options, lease, clock: clock.clone(), version: 0 };
        candidate.check_version().await?;
        Ok(candidate)
    }

    /// Makes the tables, or brings them up to date, without leading.
    ///
    /// # Errors
    /// As [`Candidate::connect`]; or if the tables are of an older version and a daemon leads.
    pub async fn make(options: Options, clock: &Clock) -> Result<Made, OpenError> {
        let mut candidate = Self::connect(options, clock).await?;
        let address = candidate.options.address.clone();
        let error = |source| OpenError::from(StoreError::new(&address, OPEN, source));
        let before = candidate.version;
        let mut tries = 0;
        while !candidate.session.try_lock().await.map_err(error)? {
            candidate.check_version().await?;
            if candidate.version == newest() {
                return Ok(Made::InUse(candidate.leader().await?));
            }
            // Somebody else may be making the tables just now.
            tries += 1;
            if tries == TRIES {
                return Err(candidate.taken().await?);
            }
            sleep(PAUSE).await;
        }
        migrate(&mut candidate.session, &address).await?;
        let watch = watched(&mut candidate.session, &address).await?;
        put_back(&mut candidate.session).await.map_err(error)?;
        if before != 0 && before != newest() {
            // A daemon of the older version that has lost its session for a moment must not go on.
            begin_epoch(&mut candidate.session, &watch, &address).await?;
        }
        candidate.session.close().await.map_err(error)?;
        Ok(if before == 0 { Made::Created } else { Made::Existing })
    }

    /// An older program must not work on newer tables, nor keep a newer program from that.
    async fn check_version(&mut self) -> Result<(), OpenError> {
        let address = &self.options.address;
        let read = async |conn: &mut PgConnection| match sqlx::query_as(TABLES).fetch_optional(&mut *conn).await? {
            Some((_, true)) => sqlx::query_scalar(VERSION).fetch_one(conn).await.map(Some),
            Some((true, false)) => Ok(None),
            Some((false, false)) | None => Ok(Some(0)),
        };
        let version: Option<i64> =
            self.session.run(read).await.map_err(|source| StoreError::new(address, OPEN, source))?;
        let Some(version) = version else { return Err(OpenError::without_migrations(address)) };
        self.version = version;
        if version > newest() { Err(OpenError::Newer { address: address.clone(), version }) } else { Ok(()) }
    }

    /// Whether there were tables when they were looked at last.
    #[must_use]
    pub fn has_tables(&self) -> bool {
        self.version > 0
    }

    /// Tries to take the lock, and leads if it was free. Whoever waited in the lock's queue instead would keep the server from
    /// removing old rows.
    ///
    /// # Errors
    /// If the server fails, or the tables cannot be brought up to date.
    pub async fn try_to_lead(mut self) -> Result<Attempt, OpenError> {
        let address = self.options.address.clone();
        let error = |source| OpenError::from(StoreError::new(&address, OPEN, source));
        if !self.session.try_lock().await.map_err(error)? {
            return Ok(Attempt::StandsBy(self));
        }
        // Somebody else may have made the tables since.
        self.check_version().await?;
        let is_new = !self.has_tables();
        let Self { mut session, options, lease, clock, .. } = self;
        migrate(&mut session, &address).await?;
        let mut watch = watched(&mut session, &address).await?;
        watch.log_news();
        session.run(inbox::put_ids_right).await.map_err(error)?;
        let epoch = begin_epoch(&mut session, &watch, &address).await?;
        session.lead();
        Ok(Attempt::Leads(Box::new(Store {
            session,
            options,
            lease,
            clock,
            watch,
            epoch: epoch.number,
            is_new,
            orphaned: u64::try_from(epoch.orphaned).unwrap_or(0),
            next_request: epoch.last_request.saturating_add(1),
            news: false,
            has_news: false,
            inbox: Inbox::default(),
            cursors: Cursors::default(),
            is_writing: false,
            refusals: 0,
            doubtful: Vec::new(),
            is_deposed: false,
            pruning: PruneWalk::default(),
            is_at_labels: false,
            labels: LabelWalk::default(),
            sweep_from: i64::MIN,
        })))
    }

    /// The session that leads, in words; `None` if it cannot be seen.
    ///
    /// # Errors
    /// If the server fails.
    pub async fn leader(&mut self) -> Result<Option<String>, OpenError> {
        let address = &self.options.address;
        Ok(self.session.holder().await.map_err(|source| StoreError::new(address, OPEN, source))?)
    }

    /// The error that another daemon leads.
    ///
    /// # Errors
    /// If the server fails.
    pub async fn taken(mut self) -> Result<OpenError, OpenError> {
        let holder = self.leader().await?;
        Ok(OpenError::Taken { address: self.options.address, holder })
    }
}

//! Daemons, producers and the stand-in around one queue.

use std::{process::Command, time::Duration};

use audio_cache_sweeper::model::clock::Clock;
use tempfile::TempDir;

use super::{
    checks::{Findings, Said},
    deadline::{until, wait_until},
    node::Node,
    place::Place,
    producers::Producers,
    server::{DATABASE, Server},
    truth::Truth,
    way::Way,
};
use crate::{
    cluster::cluster,
    daemon::sweeper,
    engines::postgres::Postgres,
    suite::engine::{Engine as _, Setup},
};

/// The daemons' settings.
pub const LEASE: Duration = Duration::from_secs(2);
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(2);
pub const RATE: u32 = 40;
pub const BURST: u32 = 40;

/// Machines that run tests are loaded: by this much, something may come later than it should.
pub const SLACK: Duration = Duration::from_secs(5);
/// Nothing takes longer, unless it never comes.
const FOR_EVER: Duration = Duration::from_secs(60);

/// Rows that are not deleted, and requests without an answer.
const OPEN: &str = "
SELECT (SELECT count(*) FROM deletions WHERE state <> 'deleted') + (SELECT count(*) FROM requests WHERE answered_at IS NULL)";

/// A daemon that has begun to lead.
#[derive(Clone, Copy, Debug)]
pub struct Leading {
    /// Its place among the nodes.
    pub node: usize,
    pub epoch: i64,
    pub at: Duration,
}

#[derive(Debug)]
pub struct Scene {
    // Fields are dropped in order: the daemons end first.
    pub nodes: Vec<Node>,
    producers: Option<Producers>,
    pub truth: Truth,
    pub clock: Clock,
    pub place: Place,
    dir: TempDir,
    /// The queue is on the server that all tests share.
    _engine: Option<Postgres>,
}

impl Scene {
    /// Some daemons on the server that all tests share; `None` without PostgreSQL, which was said then.
    pub async fn new(nodes: usize) -> Option<Self> {
        let server = cluster()?;
        let engine = Postgres::create(Setup { busy_timeout: LEASE, in_memory: false }).await;
        let database = engine.database.name().to_owned();
        let place = Place { servers: vec![server.dir().to_owned()], database };
        Some(Self { _engine: Some(engine), ..Self::on(place, nodes, 7) })
    }

    /// The same on servers of its own.
    pub fn of(servers: &[&Server], nodes: usize, seed: u64) -> Self {
        let servers = servers.iter().map(|server| server.dir().to_owned()).collect();
        Self::on(Place { servers, database: DATABASE.to_owned() }, nodes, seed)
    }

    /// One of the daemons leads, and producers have begun.
    fn on(place: Place, nodes: usize, seed: u64) -> Self {
        let (clock, dir) = (Clock::system(), tempfile::tempdir().unwrap());
        let truth = Truth::start(clock.clone(), seed);
        let mut scene = Self { nodes: Vec::new(), producers: None, truth, clock, place, dir, _engine: None };
        for _ in 0..nodes {
            scene.start_node();
        }
        scene.next_leader(0);
        scene.producers = Some(Producers::start(&scene.place, seed));
        scene.served(1);
        scene
    }

    /// Starts another daemon.
    pub fn start_node(&mut self) {
        let name = format!("daemon-{}", self.nodes.len());
        let ways: Vec<Way> = self.place.servers.iter().map(|server| Way::to(server)).collect();
        let urls: Vec<String> = ways.iter().map(|way| self.place.url(way.dir())).collect();
        let mut command = sweeper(self.dir.path());
        for (setting, value) in [
            ("DATABASE__URL", urls.join(",").as_str()),
            ("DATABASE__LEASE", "2s"),
            ("API__BASE_URL", &self.truth.url),
            ("API__KEY", &name),
            ("API__CONNECT_TIMEOUT", "1s"),
            ("API__REQUEST_TIMEOUT", "2s"),
            ("RATE_LIMIT__REQUESTS_PER_SECOND", &RATE.to_string()),
            ("RATE_LIMIT__BURST", &BURST.to_string()),
            ("DELIVERY__LINGER", "20ms"),
            ("RETRY__BASE_DELAY", "100ms"),
            ("RETRY__MAX_DELAY", "1s"),
            ("RETRY__MAX_ATTEMPTS", "100"),
            ("HOLD__MAX_DELAY", "1s"),
            ("QUEUE__POLL_INTERVAL", "20ms"),
            ("LOG__FORMAT", "json"),
        ] {
            set(&mut command, setting, value);
        }
        self.nodes.push(Node::start(name, ways, command, self.clock.clone()));
    }

    /// Who leads now, or has led last.
    pub fn leader(&self) -> Leading {
        let leading = self.nodes.iter().enumerate().flat_map(|(node, process)| {
            process.lines("leading").into_iter().map(move |(at, line)| Leading {
                node,
                epoch: line["epoch"].as_i64().unwrap(),
                at,
            })
        });
        leading.max_by_key(|leading| leading.epoch).unwrap_or(Leading { node: 0, epoch: 0, at: Duration::ZERO })
    }

    /// Waits for a leader after the one of this epoch.
    pub fn next_leader(&self, epoch: i64) -> Leading {
        wait_until(
            FOR_EVER,
            || format!("a leader after epoch {epoch}:\n{}", self.logs()),
            || Some(self.leader()).filter(|leader| leader.epoch > epoch),
        )
    }

    /// Waits until this number of further requests have come in: when the first one of them came.
    pub fn served(&self, further: usize) -> Duration {
        let before = self.truth.count();
        wait_until(
            FOR_EVER,
            || format!("a request at the stand-in:\n{}", self.logs()),
            || (self.truth.count() >= before + further).then(|| self.truth.arrivals()[before].at),
        )
    }

    /// Ends the producers, lets the daemons finish all rows, and looks at what was done.
    pub async fn finish(mut self) -> Findings {
        let inserted = self.producers.take().unwrap().stop();
        assert!(!inserted.is_empty());
        until(
            FOR_EVER,
            || format!("the end of all rows:\n{}", self.logs()),
            async || {
                let mut conn = self.place.try_connect().await?;
                let open: i64 = sqlx::query_scalar(OPEN).fetch_one(&mut conn).await.ok()?;
                (open == 0).then_some(())
            },
        )
        .await;
        let leader = self.leader();
        for node in self.nodes.iter_mut().filter(|node| node.is_alive) {
            node.signal("TERM");
            let code = node.ended(FOR_EVER);
            assert_eq!(code, 0, "{}", node.text());
        }
        let said = Said::read(&mut self.place.connect().await).await;
        let leaders = self.nodes.iter().flat_map(|node| {
            let led = node.lines("leading");
            led.into_iter().map(|(_, line)| (line["epoch"].as_i64().unwrap(), node.name.clone()))
        });
        Findings::of(&self.truth.arrivals(), &said, &inserted, leaders.collect(), leader.epoch)
    }

    /// What all daemons have logged, for a failed test.
    pub fn logs(&self) -> String {
        self.nodes.iter().map(Node::text).collect()
    }
}

fn set(command: &mut Command, setting: &str, value: &str) {
    command.env(format!("SWEEPER__{setting}"), value);
}

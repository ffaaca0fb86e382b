//! A seeded simulator: the real worker on an engine's real queue. Producers, operators, the API and the clock do what the seed
//! draws. After every turn, everything that must hold is checked.
//!
//! `cargo test simulator` runs some hundreds of seeds. `SIMULATOR_SEEDS=10000` runs more of them, `SIMULATOR_SEED=17` runs that
//! one, and `-- --nocapture` shows the figures.
//!
//! The simulator does not cover these, and other tests do:
//! * HTTP: a model takes the place of the API client (`contract`, `verdicts` and `hostile` use HTTP);
//! * a death inside a turn: here the daemon dies between turns (`crash` cuts turns short at every poll, and kills processes);
//! * a full or failing disk (`storage`): here other processes only keep the worker from writing;
//! * real time: poll intervals, gaps between transactions, timeouts, signals (`binary`, `shutdown`).
//!
//! No test covers these: a power cut or a disk that lies, and two processes that write at the very same moment. Large queues are
//! in the benchmarks: a seed has a few hundred rows.

mod api;
mod bounds;
mod checks;
mod laws;
mod live;
mod model;
mod simulation;
mod worlds;

use std::{
    future::Future,
    io::Write as _,
    panic,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use super::{
    engine::{Engine, Setup},
    tests,
};
use live::Live;
use simulation::Simulation;
use worlds::{KINDS, Kind, World};

/// Seeds that `cargo test` tries.
const SEEDS: u64 = 200;
const STEPS: usize = 100;

/// No write waits for another. Commits need not reach the disk, because nothing here cuts the power.
const SETUP: Setup = Setup { busy_timeout: Duration::ZERO, in_memory: true };

/// What happened in one run, or in all of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Figures {
    seeds: u64,
    turns: u64,
    calls: u64,
    faults: u64,
    crashes: u64,
    locks: u64,
    jumps: u64,
    rows_in: u64,
    deleted: u64,
    absent: u64,
    dead: u64,
    taken_out: u64,
    pruned: u64,
}

impl Figures {
    fn add(&mut self, other: Self) {
        let Self {
            seeds,
            turns,
            calls,
            faults,
            crashes,
            locks,
            jumps,
            rows_in,
            deleted,
            absent,
            dead,
            taken_out,
            pruned,
        } = other;
        self.seeds += seeds;
        self.turns += turns;
        self.calls += calls;
        self.faults += faults;
        self.crashes += crashes;
        self.locks += locks;
        self.jumps += jumps;
        self.rows_in += rows_in;
        self.deleted += deleted;
        self.absent += absent;
        self.dead += dead;
        self.taken_out += taken_out;
        self.pruned += pruned;
    }
}

/// Runs a seed to its end. Returns what happened, and all tables.
fn simulate<E: Engine>(seed: u64) -> (Figures, impl PartialEq) {
    let _reproduce = Reproduce(seed, "simulator::whatever");
    on_a_runtime(async {
        let mut simulation = Simulation::<E>::new(seed).await;
        for _ in 0..STEPS {
            simulation.step().await;
        }
        simulation.end().await;
        let engine = &mut simulation.engine;
        let dump = (engine.rows().await, engine.requests().await, engine.outcomes().await);
        (simulation.figures, dump)
    })
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap())
}

/// Prints how to reproduce a failure.
struct Reproduce(u64, &'static str);

impl Drop for Reproduce {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let Self(seed, test) = self;
            // Not with `eprintln!`, which the test harness would capture.
            let _ = writeln!(std::io::stderr(), "to reproduce: SIMULATOR_SEED={seed} cargo test {test}");
        }
    }
}

/// Runs `one` for each seed: the one in SIMULATOR_SEED, or as many as SIMULATOR_SEEDS says, or `seeds`.
fn for_seeds<T: Send>(seeds: u64, one: impl Fn(u64) -> T + Sync) -> Vec<T> {
    let only = number("SIMULATOR_SEED");
    let first = only.or_else(|| number("SIMULATOR_FIRST")).unwrap_or(0);
    let count = if only.is_some() { 1 } else { number("SIMULATOR_SEEDS").unwrap_or(seeds) };
    let next = AtomicU64::new(first);
    let threads = std::thread::available_parallelism().map_or(2, usize::from);
    std::thread::scope(|scope| {
        let run = || {
            let seeds =
                std::iter::from_fn(|| Some(next.fetch_add(1, Ordering::SeqCst)).filter(|seed| *seed < first + count));
            seeds.map(&one).collect::<Vec<T>>()
        };
        let running: Vec<_> = (0..threads).map(|_| scope.spawn(run)).collect();
        let done = running.into_iter().flat_map(|done| done.join().unwrap_or_else(|cause| panic::resume_unwind(cause)));
        done.collect()
    })
}

fn on_a_runtime<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

#[expect(clippy::print_stdout, reason = "figures, for whoever asks with --nocapture")]
pub fn whatever_happens_every_row_is_accounted_for<E: Engine>() {
    let (mut total, runs) = (Figures::default(), E::runs(SEEDS));
    for_seeds(runs, |seed| simulate::<E>(seed).0).into_iter().for_each(|figures| total.add(figures));
    println!("{total:#?}");
    let count = total.seeds;
    if count < runs {
        return;
    }
    assert!(total.absent > count, "{total:?}");
    assert!(total.faults > 5 * count && total.crashes > count / 2 && total.locks > count / 2, "{total:?}");
}

pub fn a_seed_is_enough_to_reproduce_a_run<E: Engine>() {
    for seed in [3, 17] {
        assert!(simulate::<E>(seed) == simulate::<E>(seed), "seed {seed} went two ways");
    }
}

/// Worlds of laws that `cargo test` tries.
const WORLDS: u64 = 88;

/// Draws a world of laws and runs it to its end.
fn live<E: Engine>(seed: u64) -> (Kind, live::Figures) {
    let _reproduce = Reproduce(seed, "simulator::under_laws");
    let mut rng = fastrand::Rng::with_seed(seed);
    let world = World::draw(seed, &mut rng);
    let kind = world.kind;
    on_a_runtime(async {
        let (mut figures, mut live) = Live::<E>::new(world, rng).await.run().await;
        live.check(&mut figures).await;
        (kind, figures)
    })
}

#[expect(clippy::print_stdout, reason = "figures, for whoever asks with --nocapture")]
pub fn under_laws_every_row_ends_in_time_and_no_good_one_is_condemned<E: Engine>() {
    let all = for_seeds(E::runs(WORLDS), live::<E>);
    for kind in KINDS {
        let of_kind = all.iter().filter(|(of, _)| *of == kind).map(|(_, figures)| figures);
        let most = |what: fn(&live::Figures) -> f64| of_kind.clone().map(what).fold(0.0, f64::max);
        let (good, all) = (most(|figures| figures.good), most(|figures| figures.all));
        let (requests, turns) = (most(|figures| figures.requests as f64), most(|figures| figures.turns as f64));
        let count = of_kind.clone().count();
        println!(
            "{kind:?}: {count} worlds; of the bounds {good:.2} and {all:.2}; most requests {requests}, turns {turns}"
        );
    }
}

tests!(blocking $ simulator:
    whatever_happens_every_row_is_accounted_for,
    a_seed_is_enough_to_reproduce_a_run,
    under_laws_every_row_ends_in_time_and_no_good_one_is_condemned,
);

//! The pace against limits that nobody told it, in virtual time: the gateways of `cargo bench --bench gateways`, and a scenario for
//! each number of the search that fails without it.

#[path = "pace/simulation.rs"]
mod simulation;

use std::time::Duration;

use audio_cache_sweeper::pace::{ConcurrencyChange, Tuning, concurrency::ConcurrencyWhy};
use simulation::{Kind, LOOPBACK, Limit, RECORDED, Run, Scene, Terrain, Told, simulate};

const SEEDS: u64 = 4;

fn seconds(s: f64) -> Duration {
    Duration::from_secs_f64(s)
}

/// A limit of `rate` requests per second below a ceiling of `times` as many.
fn scene(kind: Kind, rate: f64, times: f64, terrain: Terrain) -> Scene {
    let is_loopback = terrain.jitter > 0.0;
    Scene {
        kind,
        rate,
        told: Told::Nothing,
        terrain,
        ceiling: rate * times,
        concurrency: if is_loopback && rate < 20.0 { 8 } else { 16 },
        length: Duration::ZERO,
        change: None,
        lead: if is_loopback { Duration::from_millis(20) } else { Duration::ZERO },
        tuning: Tuning::DEFAULT,
    }
}

/// nginx's `limit_req`, whose burst is not delayed.
fn nginx(rate: f64, burst: u32, times: f64) -> Scene {
    scene(Kind::Spaced { burst, is_delayed: false }, rate, times, LOOPBACK)
}

/// HAProxy's sliding window, of ten requests per second.
fn haproxy(length: f64) -> Scene {
    scene(Kind::Sliding { length }, 10.0, 10.0, LOOPBACK)
}

/// nginx's `limit_conn`.
fn concurrent(most: u32) -> Scene {
    // A place is free again when the answer is judged, which waits for a commit now and then.
    let kind = Kind::Concurrent { most };
    scene(kind, f64::from(most) / (LOOPBACK.mean_latency() + 0.003), 10.0, LOOPBACK)
}

fn bucket(rate: f64) -> Scene {
    scene(Kind::Bucket, rate, 10.0, RECORDED)
}

fn window(rate: f64, length: f64) -> Scene {
    scene(Kind::Window { length, offset: 3.0 }, rate, 10.0, RECORDED)
}

fn worst<const N: usize>(scene: Scene, of: impl Fn(&Run) -> [f64; N]) -> [f64; N] {
    (0..SEEDS)
        .map(|seed| of(&simulate(scene, seed)))
        .fold([0.0; N], |worst, run| std::array::from_fn(|figure| worst[figure].max(run[figure])))
}

/// From second 60 to `until`: the lowest share of the limit that was delivered, and the highest share of answers that were throttled.
fn goodput_and_throttled(scene: Scene, until: f64) -> (f64, f64) {
    let scene = Scene { length: seconds(until), ..scene };
    let allowance =
        |run: &Run| Limit::new(scene.kind, scene.rate).allowance(|from, to| run.delivered(from, to), 60.0, until);
    let [missed, throttled] =
        worst(scene, |run| [1.0 - run.delivered(60.0, until) / allowance(run), run.share(60.0, until)]);
    (1.0 - missed, throttled)
}

fn goodput(scene: Scene, until: f64) -> f64 {
    goodput_and_throttled(scene, until).0
}

fn throttled(scene: Scene, until: f64) -> f64 {
    goodput_and_throttled(scene, until).1
}

/// The limit changes by `factor` after `at` seconds: how many seconds later it is so for the first time.
fn after(scene: Scene, (at, factor): (f64, f64), is_so: impl Fn(&Run, f64) -> bool) -> f64 {
    let changed = Scene { length: seconds(at * 2.0 + 60.0), change: Some((seconds(at), factor)), ..scene };
    let first = |run: &Run| (0..at as u32).map(f64::from).find(|after| is_so(run, at + after)).unwrap_or(f64::INFINITY);
    let [after] = worst(changed, |run| [first(run)]);
    after
}

/// How long until a minute's goodput is 90 % of a limit that was doubled after `at` seconds.
fn used(scene: Scene, at: f64) -> f64 {
    after(scene, (at, 2.0), |run, from| run.delivered(from, from + 60.0) >= 0.9 * 2.0 * scene.rate * 60.0)
}

/// How long until a minute begins in which at most 1 % of answers are throttled, if the limit is halved.
fn calm(scene: Scene) -> f64 {
    after(scene, (300.0, 0.5), |run, from| run.share(from, from + 60.0) <= 0.01)
}

#[test]
fn the_limits_of_gateways_are_used_and_seldom_exceeded() {
    for (name, scene, until, least) in [
        ("nginx, evenly spaced", nginx(10.0, 0, 10.0), 300.0, 0.94),
        ("nginx, evenly spaced, twice", nginx(10.0, 0, 2.0), 300.0, 0.94),
        ("nginx, evenly spaced, fifty times", nginx(10.0, 0, 50.0), 300.0, 0.94),
        ("nginx, one a second", nginx(1.0, 0, 50.0), 600.0, 0.95),
        ("nginx, a small burst", nginx(10.0, 5, 10.0), 300.0, 0.95),
        ("nginx, a burst", nginx(10.0, 20, 10.0), 300.0, 0.97),
        ("HAProxy, 10 s", haproxy(10.0), 300.0, 0.94),
        ("HAProxy, 1 s", haproxy(1.0), 300.0, 0.94),
        ("HAProxy, 60 s", haproxy(60.0), 300.0, 0.92),
        ("a fixed window", window(10.0, 60.0), 1_200.0, 0.94),
        ("a fixed window whose end is told", Scene { told: Told::Exactly, ..window(10.0, 60.0) }, 1_200.0, 0.97),
    ] {
        let (good, bad) = goodput_and_throttled(scene, until);
        assert!(good >= least && bad <= 0.01, "{name}: {good:.4} delivered, {bad:.4} throttled");
    }
}

#[test]
fn a_limit_on_concurrency_is_told_from_one_on_the_rate() {
    for most in [2, 4] {
        let scene = Scene { length: seconds(300.0), ..concurrent(most) };
        let (good, bad) = goodput_and_throttled(scene, 300.0);
        assert!(good >= 0.9 && bad <= 0.01, "{most}: {good:.4}");
        let is_found =
            |change: ConcurrencyChange| change.to == most as usize && change.why == ConcurrencyWhy::Throttled;
        for seed in 0..SEEDS {
            let run = simulate(scene, seed);
            assert!(
                run.changes.iter().any(|(_, changes)| changes.concurrency.is_some_and(is_found)),
                "{most}, seed {seed}"
            );
        }
    }
    // A limit with a window refuses for long, also if it says for how long: it is on the rate.
    let told = Scene { told: Told::Exactly, length: seconds(300.0), ..window(10.0, 60.0) };
    let last = |run: Run| run.changes.iter().rev().find_map(|(_, changes)| changes.concurrency);
    for seed in 0..SEEDS {
        assert!(last(simulate(told, seed)).is_none_or(|change| change.to == 16), "seed {seed}");
    }
    // No limit on the rate is taken for one on concurrency that costs anything.
    for scene in [nginx(10.0, 0, 10.0), nginx(10.0, 5, 10.0), haproxy(10.0), bucket(50.0)] {
        assert!(used(scene, 300.0) <= 180.0, "{scene:?}");
    }
}

#[test]
fn a_limit_that_was_halved_is_calm_within_a_minute_and_one_that_was_doubled_is_used_within_three() {
    for scene in [nginx(10.0, 0, 10.0), nginx(10.0, 5, 10.0), nginx(10.0, 20, 10.0), haproxy(10.0), haproxy(1.0)] {
        assert!(calm(scene) <= 60.0 && used(scene, 300.0) <= 180.0, "{scene:?}");
    }
    let (calm, used) = (calm(concurrent(4)), used(concurrent(4), 300.0));
    assert!(calm <= 60.0 && used <= 180.0, "{calm} {used}");
}

/// A scenario: the scene, the figure to look at, and the most that it may be.
type Scenario = (&'static str, Scene, fn(Scene) -> f64, f64, fn(&mut Tuning));

#[test]
#[expect(clippy::too_many_lines, reason = "one scenario after the other")]
fn without_each_number_of_the_search_a_scenario_fails() {
    fn missed(scene: Scene) -> f64 {
        1.0 - goodput(scene, 600.0)
    }
    fn refused(scene: Scene) -> f64 {
        throttled(scene, 1_200.0)
    }
    fn until_used(scene: Scene) -> f64 {
        used(scene, 300.0)
    }
    // Each refusal is much longer than necessary.
    let slow = Scene { told: Told::Always(10), ..bucket(10.0) };
    let scenarios: [Scenario; 18] = [
        ("margin", nginx(1.0, 0, 10.0), refused, 0.01, |tuning| tuning.margin = 1.0),
        ("credible", nginx(1.0, 0, 50.0), missed, 0.05, |tuning| tuning.credible = 1),
        ("leap", nginx(10.0, 0, 10.0), missed, 0.1, |tuning| tuning.leap = 1e9),
        ("apart", haproxy(60.0), until_used, 120.0, |tuning| tuning.apart = 1e9),
        ("own_hold", nginx(1.0, 0, 10.0), calm, 60.0, |tuning| tuning.own_hold = Duration::ZERO),
        ("plateau_requests", nginx(1.0, 0, 50.0), refused, 0.008, |tuning| tuning.plateau_requests = 0.0),
        ("min_plateau", nginx(10.0, 0, 2.0), until_used, 180.0, |tuning| tuning.min_plateau = Duration::ZERO),
        (
            "max_plateau",
            nginx(0.2, 0, 10.0),
            |scene| used(scene, 3_000.0),
            1_000.0,
            |tuning| tuning.max_plateau = Duration::from_secs(1_000_000),
        ),
        ("step", bucket(2.0), until_used, 250.0, |tuning| tuning.step = 1e-6),
        (
            "searching_step",
            slow,
            |scene| 1.0 - goodput(scene, 1_200.0),
            0.22,
            |tuning| {
                tuning.searching_step = tuning.step;
            },
        ),
        ("step_growth", nginx(10.0, 5, 10.0), until_used, 180.0, |tuning| tuning.step_growth = 1.0),
        ("searched_at_once", slow, |scene| 1.0 - goodput(scene, 1_200.0), 0.22, |tuning| tuning.searched_at_once = 1.0),
        ("min_step_time", nginx(10.0, 5, 10.0), until_used, 60.0, |tuning| {
            tuning.min_step_time = Duration::from_millis(1);
        }),
        ("max_step_time", window(2.0, 60.0), refused, 0.015, |tuning| tuning.max_step_time = tuning.min_step_time),
        ("plateau_steps", nginx(10.0, 5, 10.0), until_used, 60.0, |tuning| tuning.plateau_steps = 1_000_000),
        (
            "least_time",
            haproxy(1.0),
            |scene| 1.0 - goodput(scene, 200.0),
            0.1,
            |tuning| {
                tuning.least_time = Duration::from_millis(1);
            },
        ),
        ("window", window(10.0, 10.0), refused, 0.01, |tuning| tuning.window = Duration::from_millis(10)),
        ("late", bucket(10.0), until_used, 150.0, |tuning| tuning.late = Duration::from_secs(100_000)),
    ];
    let mut wrong = Vec::new();
    for (name, scene, figure, most, change) in scenarios {
        let mut without = scene;
        change(&mut without.tuning);
        let (with, without) = (figure(scene), figure(without));
        if with > most || without <= most {
            wrong.push(format!("{name}: {with} with it, {without} without it, at most {most}"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn slow_commits_cost_no_goodput() {
    for (rate, commit) in [(10.0, 0.06), (50.0, 0.03)] {
        let slow = Terrain { commit: (commit, 0.005, 0), ..LOOPBACK };
        let scene = Scene { terrain: slow, concurrency: 16, ..nginx(rate, 20, 10.0) };
        let good = goodput(scene, 300.0);
        assert!(good >= 0.85, "{rate}/s, {commit} s: {good:.3}");
    }
}

#[path = "told_tests/gateway.rs"]
mod gateway;

use std::num::NonZeroU32;

use gateway::{Fixed, Style, World};
use proptest::prelude::*;

use super::*;
use crate::{
    model::{backoff::Backoff, deletion::RequestId},
    pace::{Departure, Heard, Pace, RateChange, RateLimit, Settings, rate::Why},
};

const fn seconds(s: u64) -> Duration {
    Duration::from_secs(s)
}

const fn millis(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn limit(requests_per_second: f64) -> RateLimit {
    RateLimit { requests_per_second, burst: NonZeroU32::new(5).unwrap() }
}

fn growth() -> Backoff {
    Backoff::new(seconds(1), seconds(600)).unwrap()
}

/// An adaptive pace with this ceiling.
fn pace(ceiling: f64) -> Pace {
    Pace::new(limit(ceiling), growth()).adaptive(8, Duration::ZERO)
}

/// A world without a fault, whose answers take up to 60 ms.
fn client(ceiling: f64, windows: Vec<Fixed>) -> World {
    World::new(ceiling, windows, fastrand::Rng::with_seed(7))
}

/// The share of what the windows allowed from `from` to `until`.
fn goodput(mut world: World, from: Duration, until: Duration) -> f64 {
    world.run(from);
    let before = world.accepted;
    world.run(until);
    assert_eq!(world.overrun, 0);
    let rates = world.windows.iter().map(|window| f64::from(window.limit) / window.length as f64);
    let rate = rates.reduce(f64::min).unwrap();
    f64::from(world.accepted - before) / rate / (until - from).as_secs_f64()
}

#[test]
fn nearly_all_that_is_allowed_is_sent() {
    for (limit, length, style, least) in [
        (600, 60, Style::All, 0.97),
        (60, 60, Style::All, 0.96),
        (60, 60, Style::NoReset, 0.96),
        (60, 60, Style::PolicyOnly, 0.96),
        (60, 60, Style::NoLength, 0.93),
        (10, 60, Style::All, 0.96),
        (1, 60, Style::All, 0.96),
        (100, 10, Style::All, 0.96),
        (100, 10, Style::NoLength, 0.85),
        (5, 1, Style::All, 0.90),
        (50, 1, Style::All, 0.90),
        (3_600, 3_600, Style::All, 0.97),
        // More than are remembered.
        (6_000, 60, Style::All, 0.93),
    ] {
        for rounds_up in [true, false] {
            let windows = vec![Fixed::new(limit, length, millis(13_700), 0)];
            let world = World { style, rounds_up, ..client(500.0, windows) };
            let share = goodput(world, seconds(2 * length), seconds(2 * length + 600));
            assert!(share >= least, "{limit} in {length} s, {style:?}: {share}");
        }
    }
    let windows = vec![Fixed::new(5, 1, millis(300), 0), Fixed::new(120, 60, millis(13_700), 0)];
    assert!(goodput(client(500.0, windows), seconds(120), seconds(720)) >= 0.96, "several windows");
    let world = client(500.0, vec![Fixed::new(120, 60, Duration::ZERO, 0)]);
    let share = goodput(World { style: Style::NoReset, ..world }, Duration::ZERO, seconds(60));
    assert!(share >= 0.96, "the first window, whose end is not told: {share}");
}

#[test]
fn requests_are_spread_over_the_window_and_not_sent_at_its_beginning() {
    let mut world = client(100.0, vec![Fixed::new(120, 60, Duration::ZERO, 0)]);
    world.run(seconds(60));
    let begun = world.accepted;
    world.run(seconds(90));
    let half = world.accepted - begun;
    assert!((55..=61).contains(&half), "{half} of 120 in the first half");
    // Somebody else has used up most of the present window.
    let mut world = client(100.0, vec![Fixed::new(120, 60, Duration::ZERO, 100)]);
    world.run(seconds(30));
    assert!((8..=14).contains(&world.accepted), "{} of the 20 that are left, a burst of 5 included", world.accepted);
}

#[test]
fn others_use_of_the_limit_leaves_us_what_remains() {
    let mut world = client(100.0, vec![Fixed::new(120, 60, Duration::ZERO, 0)]);
    world.concurrency = 1;
    world.run(seconds(120));
    for second in 120..600 {
        world.run(seconds(second));
        let window = &mut world.windows[0];
        window.roll(seconds(second));
        window.count = (window.count + 1).min(window.limit);
    }
    assert!(world.refused <= 8, "{} refused in eight windows", world.refused);
    assert!(world.accepted > 600, "{}", world.accepted);
}

/// A window that says all.
fn window(limit: u32, length: u64, remaining: u32, reset: u64) -> Window {
    Window {
        limit: Some(limit),
        length: Some(seconds(length)),
        remaining: Some(remaining),
        reset: Some(seconds(reset)),
    }
}

/// A rate of 100 a second that has sent one request, which was answered so after 100 ms.
fn told(windows: &[Window]) -> (Pace, Option<RateChange>) {
    let mut pace = pace(100.0);
    assert!(pace.take(Duration::ZERO));
    pace.leave(Duration::ZERO);
    let change = pace.ended(Duration::ZERO, millis(100), Some(windows));
    (pace, change)
}

/// Sends a request at `at` that is answered 100 ms later.
fn answered(pace: &mut Pace, at: Duration, windows: &[Window]) -> Option<RateChange> {
    pace.leave(at);
    assert!(pace.take(at.max(pace.next())));
    pace.leave(at);
    pace.ended(at, at + millis(100), Some(windows))
}

#[test]
fn a_told_limit_caps_the_rate_and_never_raises_it() {
    let (pace, change) = told(&[window(600, 60, 599, 60)]);
    assert_eq!(pace.rate(), 9.8);
    assert_eq!(change, Some(RateChange { from: 100.0, to: 9.8, why: Why::Told }));
    let (pace, change) = told(&[window(60_000, 60, 59_999, 60)]);
    assert_eq!((pace.rate(), change), (100.0, None), "more than the ceiling");
    let (pace, _) = told(&[window(600, 60, 599, 60), window(5, 1, 4, 1), window(7_200, 3_600, 7_199, 60)]);
    assert_eq!(pace.rate(), 1.96, "the lowest of all");
    let (pace, change) = told(&[window(1, 3_601, 1, 60), window(10, 86_400, 0, 60)]);
    assert_eq!((pace.rate(), change), (100.0, None), "less than one an hour is no limit");
    assert!(pace.next() <= millis(100), "and stops nothing");
}

#[test]
fn steps_of_the_rate_above_what_is_told_are_no_changes() {
    let (mut pace, _) = told(&[window(600, 60, 599, 60)]);
    let departure = Departure { at: seconds(1), gap: Duration::MAX };
    let (request, newest) = (RequestId(2), RequestId(2));
    let heard = Heard { request, newest, departure, in_flight: 1, is_throttled: true };
    assert_eq!(pace.heard(heard, seconds(1)).rate, None, "95 is above 9.8");
    assert_eq!(pace.rate(), 9.8);
}

#[test]
fn a_burst_stays_if_the_headers_tell_more_than_the_ceiling() {
    let (mut pace, _) = told(&[window(60_000, 60, 59_999, 60)]);
    let now = seconds(9);
    assert_eq!((0..9).filter(|_| pace.take(now)).count(), 5);
    pace.leave(now);
}

#[test]
fn old_news_raises_nothing_and_a_higher_limit_counts_once_the_lower_one_is_not_repeated() {
    let (mut pace, _) = told(&[window(60, 60, 59, 60)]);
    let low = pace.rate();
    answered(&mut pace, seconds(50), &[window(600, 60, 500, 60)]);
    assert_eq!(pace.rate(), low);
    // It was sent before the lower limit was told.
    pace.leave(seconds(50));
    pace.ended(Duration::ZERO, seconds(200), Some(&[window(600, 60, 500, 60)]));
    assert_eq!(pace.rate(), low);
    let change = answered(&mut pace, seconds(201), &[window(600, 60, 500, 60)]);
    assert_eq!(change, Some(RateChange { from: low, to: 9.8, why: Why::Told }));
    let change = answered(&mut pace, seconds(202), &[window(60, 60, 50, 60)]);
    assert_eq!(change.map(|change| change.to), Some(low), "a lower one counts at once");
}

#[test]
fn a_limit_that_is_not_repeated_is_forgotten() {
    let (mut pace, _) = told(&[window(60, 60, 59, 60)]);
    for n in 1..SILENT {
        assert_eq!(answered(&mut pace, seconds(100 + u64::from(n) * 2), &[]), None);
    }
    let change = answered(&mut pace, seconds(160), &[]);
    assert_eq!(change.map(|change| (change.to, change.why)), Some((100.0, Why::Told)));
    // Lost answers say nothing.
    let (mut pace, _) = told(&[window(60, 60, 59, 60)]);
    for n in 0..100 {
        pace.leave(seconds(100 + n));
        assert_eq!(pace.ended(seconds(100 + n), seconds(101 + n), None), None);
    }
}

#[test]
fn one_odd_reset_lowers_the_rate_for_no_longer_than_twice_its_time() {
    let (mut pace, _) = told(&[unknown(100, 99, 60)]);
    let usual = pace.rate();
    let change = answered(&mut pace, seconds(60), &[unknown(100, 99, 3_000)]);
    let odd = change.map(|change| change.to).unwrap();
    assert!(odd < usual / 49.0, "{odd}");
    for minute in 2..=100 {
        assert_eq!(answered(&mut pace, seconds(minute * 60), &[unknown(100, 99, 60)]), None, "{minute}");
        assert_eq!(answered(&mut pace, seconds(minute * 60 + 35), &[unknown(100, 50, 25)]), None, "{minute}");
    }
    let change = answered(&mut pace, seconds(6_061), &[unknown(100, 70, 25)]);
    assert_eq!(change, Some(RateChange { from: odd, to: usual, why: Why::Told }));
    // What is nearly told in each window stays.
    for half in 203..400 {
        let reset = if half % 2 == 0 { 55 } else { 25 };
        assert_eq!(answered(&mut pace, seconds(half * 30), &[unknown(100, 99, reset)]), None, "{half}");
    }
}

/// A window of unknown length.
fn unknown(limit: u32, remaining: u32, reset: u64) -> Window {
    Window { length: None, ..window(limit, 0, remaining, reset) }
}

#[test]
fn lost_and_silent_answers_stop_nothing_for_longer_than_a_window() {
    for (window, most) in [(unknown(10, 9, 1), millis(2_100)), (window(10, 60, 9, 1), millis(60_100))] {
        for answer in [None, Some(&[][..])] {
            let (mut pace, _) = told(&[window]);
            let mut sent = Duration::ZERO;
            for _ in 0..19 {
                assert!(pace.next() <= sent + most, "{:?} after {sent:?}", pace.next());
                sent = pace.next();
                assert!(pace.take(sent));
                pace.leave(sent);
                pace.ended(sent, sent + millis(100), answer);
            }
        }
    }
}

#[test]
fn one_request_at_a_time_asks_after_lost_answers_however_many_they_are() {
    let (mut pace, _) = told(&[unknown(10, 9, 1)]);
    for n in 0..2_000 {
        let sent = pace.next();
        assert!(pace.take(sent));
        pace.leave(sent);
        assert!(n < 10 || pace.next() == Duration::MAX, "another goes after {n}");
        pace.ended(sent, sent + millis(100), None);
        assert!(n < 9 || pace.next() == sent + millis(2_100), "{:?} after {n}, sent at {sent:?}", pace.next());
    }
}

#[test]
fn nothing_goes_before_the_reset_and_after_an_hour_one_request_asks() {
    let (mut pace, _) = told(&[window(60, 60, 0, 20)]);
    assert_eq!(pace.next(), millis(21_100), "the reset may be a second later than told");
    assert!(!pace.take(millis(21_099)) && pace.take(millis(21_100)));
    // A day's limit is used up for hours.
    let (mut pace, _) = told(&[window(1_000, 86_400, 0, 40_000)]);
    assert_eq!(pace.next(), millis(3_600_100));
    assert!(pace.take(millis(3_600_100)), "one request asks");
    assert!(!pace.take(millis(3_600_200)), "no other does");
}

#[test]
fn without_adapting_nothing_that_is_told_counts() {
    let tuning = |is_adaptive| Settings { rate: limit(100.0), is_adaptive, concurrency: 8, growth: growth() };
    let mut pace = Pace::new(limit(100.0), growth());
    let none = [window(60, 60, 0, 60)];
    assert!(pace.take(Duration::ZERO));
    pace.leave(Duration::ZERO);
    assert_eq!(pace.ended(Duration::ZERO, millis(100), Some(&none)), None);
    assert!((0..4).all(|_| pace.take(millis(100))));
    pace.leave(millis(100));
    pace.retune(tuning(true), None, seconds(1));
    assert_eq!(pace.ended(millis(100), seconds(1), Some(&none)).map(|change| change.why), Some(Why::Told));
    assert!(!pace.take(seconds(2)));
    pace.retune(tuning(false), None, seconds(2));
    assert!(pace.take(seconds(2)) && pace.rate() == 100.0);
}

/// Limit, length, when the first window began before the start, and how much of it is used up.
fn any_window() -> impl Strategy<Value = (u32, u64, u64, u32)> {
    let short = (1_u32..30, 1_u64..4, 0_u64..4_000);
    let long = (1_u32..300, prop::sample::select(vec![10_u64, 30, 60]), 0_u64..60_000);
    (prop_oneof![short, long], 0_u32..300).prop_map(|((limit, length, offset), used)| (limit, length, offset, used))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    #[test]
    fn no_fixed_window_is_overrun_after_the_first_answer(
        windows in prop::collection::vec(any_window(), 1..4), ceiling in 1.0..500.0_f64,
        style in prop::sample::select(vec![Style::All, Style::NoReset]),
        (rounds_up, counts_refused) in any::<(bool, bool)>(),
        concurrency in 1_usize..17, up in 0_u64..400, down in 0_u64..400, commit in 0_u64..20,
        lost in prop::sample::select(vec![0.0, 0.0, 0.1, 0.5]), rest in 0_u64..9_000, seed: u64,
    ) {
        let mut fixed: Vec<Fixed> = Vec::new();
        for (limit, length, offset, used) in windows {
            if fixed.iter().all(|known| known.length != length) {
                fixed.push(Fixed::new(limit, length, millis(offset % (length * 1_000)), used));
            }
        }
        let world = client(ceiling, fixed);
        let latency = (millis(up), millis(down));
        let rng = fastrand::Rng::with_seed(seed);
        let mut world = World {
            style, rounds_up, counts_refused, concurrency, latency, commit: millis(commit), lost, rng, ..world
        };
        world.run(seconds(130));
        world.rest(seconds(130) + millis(if rest > 8_900 { 9_000_000 } else { rest }));
        world.run(world.now + seconds(70));
        prop_assert_eq!(world.overrun, 0, "{:?}", world.windows);
        let longest = world.windows.iter().map(|window| window.length).max().unwrap();
        prop_assert!(world.longest_pause <= seconds(longest + 4), "{:?}", world.longest_pause);
    }

    #[test]
    fn a_window_of_unknown_length_is_not_overrun_either(
        (limit, length, offset, used) in any_window(), ceiling in 1.0..500.0_f64, rounds_up: bool, counts_refused: bool,
        concurrency in 1_usize..17, up in 0_u64..400, down in 0_u64..400,
        lost in prop::sample::select(vec![0.0, 0.2, 0.5]), seed: u64,
    ) {
        let fixed = Fixed::new(limit, length, millis(offset % (length * 1_000)), used);
        let rng = fastrand::Rng::with_seed(seed);
        let latency = (millis(up), millis(down));
        let world = client(ceiling, vec![fixed]);
        let mut world =
            World { style: Style::NoLength, rounds_up, counts_refused, concurrency, latency, lost, rng, ..world };
        world.run(seconds(200));
        prop_assert_eq!(world.overrun, 0, "{:?}", world.windows);
        prop_assert!(world.longest_pause <= seconds(length + 4), "{:?}", world.longest_pause);
    }

    #[test]
    fn a_limit_without_the_number_of_remaining_requests_is_kept_by_counting_our_own(
        (limit, length, offset, _) in any_window(), ceiling in 1.0..500.0_f64, concurrency in 1_usize..17,
        up in 0_u64..400, down in 0_u64..400, seed: u64,
    ) {
        let fixed = Fixed::new(limit, length, millis(offset % (length * 1_000)), 0);
        let rng = fastrand::Rng::with_seed(seed);
        let world = client(ceiling, vec![fixed]);
        let mut world =
            World { style: Style::PolicyOnly, concurrency, latency: (millis(up), millis(down)), rng, ..world };
        world.run(seconds(200));
        prop_assert_eq!(world.overrun, 0, "{:?}", world.windows);
    }

    #[test]
    fn whatever_is_told_something_may_go_within_an_hour_of_the_last_answer_and_never_faster_than_the_ceiling(
        answers in prop::collection::vec(
            (
                0_u64..20_000, 0_u64..3_000,
                prop::option::of((
                    prop::option::of(0_u32..2_000), prop::option::of(0_u64..100_000), prop::option::of(0_u32..2_000),
                    prop::option::of(0_u64..100_000),
                )),
            ),
            1..40,
        ),
    ) {
        let (mut pace, mut plain) = (pace(20.0), pace(20.0));
        let mut now = Duration::ZERO;
        for (pause, took, told) in answers {
            now += millis(pause);
            let (may, might) = (pace.take(now), plain.take(now));
            prop_assert!(might || !may, "faster than without headers");
            pace.leave(now);
            plain.leave(now);
            if may {
                let windows: Option<Vec<Window>> = told.map(|(limit, length, remaining, reset)| {
                    let (length, reset) = (length.map(seconds), reset.map(seconds));
                    vec![Window { limit, length, remaining, reset }]
                });
                let sensible = windows.map(|told| told.into_iter().filter(Window::is_sensible).collect::<Vec<_>>());
                pace.ended(now, now + millis(took), sensible.as_deref());
                now += millis(took);
                prop_assert!(pace.next() <= now + seconds(3_601), "{:?} at {now:?}", pace.next());
                prop_assert!(pace.rate() <= 20.0);
            }
        }
    }
}

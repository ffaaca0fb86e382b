use proptest::prelude::*;

use super::*;

const fn millis(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn limit(requests_per_second: f64, burst: u32) -> RateLimit {
    RateLimit { requests_per_second, burst: NonZeroU32::new(burst).unwrap() }
}

/// Takes all permits that are available at `elapsed`, and lets their requests leave.
fn send_all(permits: &mut Permits, elapsed: Duration) -> u32 {
    let taken = (0..1_000).take_while(|_| permits.take(elapsed)).count();
    permits.leave(elapsed);
    u32::try_from(taken).unwrap()
}

#[test]
fn a_period_is_rounded_up_so_that_it_is_never_faster_than_configured() {
    assert_eq!(limit(3.0, 1).period(), Duration::from_nanos(333_333_334));
    assert_eq!(limit(0.5, 1).period(), millis(2_000));
    assert_eq!(limit(1e12, 1).period(), Duration::from_nanos(1));
    assert_eq!(limit(2.0, 3).memory(), millis(1_500));
}

#[test]
fn no_window_has_more_permits_than_rate_times_its_length_plus_burst() {
    let mut permits = Permits::new(limit(2.0, 3));
    let times = (0..10_000).step_by(10);
    let sent: Vec<u64> = times.flat_map(|ms| vec![ms; send_all(&mut permits, millis(ms)) as usize]).collect();
    // Tried every 10 ms, there are three at once, and then one every half second.
    assert_eq!(sent[..6], [0, 0, 0, 500, 1_000, 1_500]);
    assert_eq!(sent.len(), 3 + 19);
}

#[test]
fn permits_count_from_when_their_requests_leave() {
    // The rate is 5/s with a burst of 5, and a commit takes 1.5 s.
    let mut permits = Permits::new(limit(5.0, 5));
    assert!((0..5).all(|_| permits.take(Duration::ZERO)) && !permits.take(Duration::ZERO));
    permits.leave(millis(1_500));
    assert_eq!(send_all(&mut permits, millis(1_553)), 0, "what was refilled during the commit is taken back");
    assert_eq!(send_all(&mut permits, millis(1_700)), 1);
    assert_eq!(send_all(&mut permits, millis(2_700)), 5);
}

#[test]
fn permits_that_are_taken_in_several_turns_leave_together() {
    let mut permits = Permits::new(limit(1.0, 2));
    assert!(permits.take(Duration::ZERO) && permits.take(millis(500)) && !permits.take(millis(900)));
    assert!(permits.take(millis(1_000)), "one was refilled");
    permits.leave(millis(1_000));
    // Three requests left where two were allowed, so the next one waits longer.
    assert_eq!(send_all(&mut permits, millis(2_999)), 0);
    assert_eq!(send_all(&mut permits, millis(3_000)), 1);
}

#[test]
fn permits_for_which_nothing_leaves_are_had_again_at_once() {
    let mut permits = Permits::new(limit(0.1, 3));
    assert_eq!(send_all(&mut permits, Duration::ZERO), 3);
    assert_eq!(permits.next(), millis(10_000));
    assert!(permits.take(millis(20_000)) && permits.take(millis(20_000)) && !permits.take(millis(20_000)));
    permits.give_back();
    assert!(permits.next() <= millis(20_000), "{:?}", permits.next());
    assert_eq!(permits.most(millis(20_000)), 3);
    assert_eq!(send_all(&mut permits, millis(20_000)), 2);
    permits.give_back();
    permits.leave(millis(30_000));
    assert_eq!(send_all(&mut permits, millis(30_000)), 1, "nothing was taken, so nothing is given or leaves");
}

#[test]
fn the_time_of_the_next_permit_is_known_when_one_is_refused() {
    let mut permits = Permits::new(limit(2.0, 2));
    assert_eq!((permits.next(), permits.most(Duration::ZERO)), (Duration::ZERO, 2));
    assert_eq!(send_all(&mut permits, millis(100)), 2);
    assert_eq!((permits.next(), permits.most(millis(599)), permits.most(millis(600))), (millis(600), 0, 2));
    assert!(!permits.take(millis(599)) && permits.take(millis(600)));
}

#[test]
fn a_clock_that_is_read_late_gives_no_permit_twice() {
    let mut permits = Permits::new(limit(1.0, 1));
    assert_eq!(send_all(&mut permits, millis(5_000)), 1);
    assert_eq!(send_all(&mut permits, millis(4_000)), 0, "a reading from before");
    assert_eq!(send_all(&mut permits, millis(6_000)), 1);
}

#[test]
fn a_restart_goes_on_from_what_was_sent_last() {
    // Six times 5 s at 1/s with a burst of 5: the first time uses the burst, and the others the refilled permits.
    let mut sent: Vec<Duration> = Vec::new();
    for start in (0..6).map(|n| millis(n * 30)) {
        let mut permits = Permits::new(limit(1.0, 5));
        let ago: Vec<_> = sent.iter().map(|at| start - *at).collect();
        permits.sent_before(&ago, Duration::ZERO);
        sent.extend(vec![start; send_all(&mut permits, Duration::ZERO) as usize]);
    }
    assert_eq!(sent.len(), 5);
    let mut permits = Permits::new(limit(1.0, 5));
    permits.sent_before(&[millis(900); 5], millis(100));
    assert_eq!(send_all(&mut permits, millis(199)), 0);
    assert_eq!(send_all(&mut permits, millis(200)), 1);
}

#[test]
fn what_was_sent_long_ago_leaves_the_burst_full() {
    for ago in [&[][..], &[millis(5_000); 5], &[millis(60_000); 9]] {
        let mut permits = Permits::new(limit(1.0, 5));
        permits.sent_before(ago, millis(7));
        assert_eq!(send_all(&mut permits, millis(7)), 5, "{ago:?}");
    }
    for (ago, left) in [(4_000, 4), (2_500, 2), (999, 0)] {
        let mut permits = Permits::new(limit(1.0, 5));
        permits.sent_before(&[millis(ago); 5], Duration::ZERO);
        assert_eq!(send_all(&mut permits, Duration::ZERO), left, "{ago}");
    }
    let mut permits = Permits::new(limit(1.0, 5));
    permits.sent_before(&[millis(9_000), millis(8_000), millis(7_000), millis(1_000)], Duration::ZERO);
    assert_eq!(send_all(&mut permits, Duration::ZERO), 5, "a whole burst before them has come back since");
}

#[test]
fn a_limit_that_is_changed_goes_on_from_what_was_sent() {
    let change = |to: RateLimit, ago: Option<&[Duration]>| {
        let mut permits = Permits::new(limit(10.0, 5));
        assert_eq!(send_all(&mut permits, Duration::ZERO), 5);
        permits.relimit(to, ago, millis(100));
        (0..60).map(|second| send_all(&mut permits, millis(100 + second * 1_000))).take(4).collect::<Vec<_>>()
    };
    let ago = [millis(100); 5];
    assert_eq!(change(limit(1.0, 5), Some(&ago)), [0, 1, 1, 1], "the burst is used up");
    assert_eq!(change(limit(1.0, 8), Some(&ago)), [3, 1, 1, 1], "three more");
    assert_eq!(change(limit(1.0, 8), None), [0, 1, 1, 1], "nobody knows what was sent");
    assert_eq!(change(limit(100.0, 5), Some(&ago)), [1, 5, 5, 5], "the old limit had four to refill");
    assert_eq!(change(limit(1.0, 1), Some(&ago)), [0, 1, 1, 1], "more than a burst delays nothing further");
}

#[test]
fn only_some_outcomes_say_something_about_the_rate() {
    for (cause, is_429, has_settled, expected) in [
        (Some(Cause::Throttled), true, false, Some(true)),
        (Some(Cause::Throttled), false, false, None),
        (Some(Cause::ServerError), true, false, None),
        (Some(Cause::Rejected), false, false, Some(false)),
        (Some(Cause::Lost), false, false, None),
        (Some(Cause::Lost), false, true, None),
        (None, false, true, Some(false)),
        (None, false, false, None),
    ] {
        assert_eq!(is_too_much(cause, is_429, has_settled), expected, "{cause:?} {is_429} {has_settled}");
    }
}

fn departures(permits: &mut Permits, elapsed: Duration) -> Vec<Duration> {
    while permits.take(elapsed) {}
    permits.leave(elapsed).into_iter().map(|departure| departure.at).collect()
}

#[test]
fn evenly_spaced_requests_never_catch_up() {
    let mut permits = Permits::new(limit(10.0, 5));
    permits.space_evenly(Some(8.0));
    assert_eq!(departures(&mut permits, millis(1_000)), [millis(1_000)], "one at a time");
    assert_eq!((permits.next(), permits.most(millis(1_124)), permits.most(millis(1_125))), (millis(1_125), 0, 5));
    assert!(departures(&mut permits, millis(1_124)).is_empty());
    assert_eq!(departures(&mut permits, millis(1_165)), [millis(1_165)], "40 ms late");
    assert_eq!(permits.next(), millis(1_290), "which delays all that follow");
    permits.space_evenly(Some(5.0));
    assert_eq!(permits.next(), millis(1_365), "a lower rate counts from the last departure on");
    permits.space_evenly(None);
    assert_eq!(departures(&mut permits, millis(2_000)).len(), 5, "a burst again");
}

#[test]
fn a_request_that_is_claimed_ahead_departs_at_its_time() {
    let mut permits = Permits::new(limit(1_000.0, 5));
    permits.lead_by(millis(20));
    permits.space_evenly(Some(125.0));
    // Every 8 ms one departs. Those of the next 20 ms are claimed now, and the commit takes 3 ms.
    assert!((0..3).all(|_| permits.take(millis(1_000))) && !permits.take(millis(1_000)));
    let left = permits.leave(millis(1_003));
    assert_eq!(left.iter().map(|left| left.at).collect::<Vec<_>>(), [1_003, 1_011, 1_019].map(millis));
    assert!(left.iter().all(|left| left.gap == millis(8)));
    assert_eq!(permits.next(), millis(1_007), "20 ms before the next departure");
    assert_eq!(departures(&mut permits, millis(1_007)), [millis(1_027)]);
    // The limit itself counts departures, too, and without even spacing nothing is claimed ahead.
    let mut permits = Permits::new(limit(10.0, 1));
    permits.lead_by(millis(20));
    permits.space_evenly(Some(9.5));
    assert_eq!(departures(&mut permits, millis(1_000)), [millis(1_000)]);
    let next = departures(&mut permits, millis(1_090));
    assert_eq!(next, [millis(1_000) + Duration::from_secs_f64(1.0 / 9.5)]);
    permits.space_evenly(None);
    assert!(!permits.take(millis(1_199)), "the last departure was at 1,105 ms");
}

#[test]
fn even_spacing_counts_from_when_requests_leave_and_not_at_all_if_none_does() {
    let mut permits = Permits::new(limit(10.0, 5));
    permits.space_evenly(Some(8.0));
    assert!(permits.take(millis(1_000)));
    permits.give_back();
    assert!(permits.take(millis(1_000)), "nothing left for it");
    permits.leave(millis(3_000));
    assert_eq!(permits.next(), millis(3_125));
}

/// A step of a process: wait, take permits, and let the requests leave some time later, or fail to claim them.
type Step = (u64, u32, u64, bool);

fn any_step() -> impl Strategy<Value = Step> {
    let short = prop_oneof![2 => Just(0_u64), 3 => 0_u64..300, 1 => 0_u64..8_000];
    let delay = prop_oneof![3 => Just(0_u64), 2 => 0_u64..200, 1 => 0_u64..3_000];
    (short, 1_u32..8, delay, prop::bool::weighted(0.9))
}

fn assert_within_quota(sent: &[Duration], limit: RateLimit) -> Result<(), TestCaseError> {
    for (first, from) in sent.iter().enumerate() {
        for (count, to) in (1..).zip(&sent[first..]) {
            let refilled = (*to - *from).as_nanos() / limit.period().as_nanos();
            prop_assert!(
                count <= u128::from(limit.burst.get()) + refilled,
                "{count} in {:?} from {from:?}",
                *to - *from
            );
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_000, ..ProptestConfig::default() })]

    #[test]
    fn in_any_window_across_restarts_no_more_leave_than_the_rate_allows_and_a_burst(
        lives in prop::collection::vec((0_u64..4_000, prop::collection::vec(any_step(), 0..15)), 1..6),
        per_second in prop::sample::select(vec![0.5, 1.0, 3.0, 5.0, 20.0]), burst in 1_u32..7,
    ) {
        let limit = limit(per_second, burst);
        let (mut sent, mut start) = (Vec::<Duration>::new(), Duration::ZERO);
        for (pause, steps) in lives {
            start += millis(pause);
            let mut permits = Permits::new(limit);
            // All requests that matter, and some that do not.
            let recent = sent.iter().filter(|at| start - **at <= limit.memory() * 2);
            let ago: Vec<_> = recent.map(|at| start - *at).collect();
            permits.sent_before(&ago, Duration::ZERO);
            let mut elapsed = Duration::ZERO;
            for (wait, wanted, delay, leaves) in steps {
                elapsed += millis(wait);
                let taken = (0..wanted).take_while(|_| permits.take(elapsed)).count();
                elapsed += millis(delay);
                if leaves {
                    permits.leave(elapsed);
                    sent.extend(vec![start + elapsed; taken]);
                } else {
                    permits.give_back();
                }
            }
            start += elapsed;
        }
        assert_within_quota(&sent, limit)?;
    }

    #[test]
    fn after_a_change_of_the_limit_no_window_has_more_than_the_new_one_allows(
        before in prop::collection::vec(any_step(), 0..15), after in prop::collection::vec(any_step(), 0..15),
        old in (prop::sample::select(vec![0.5, 1.0, 3.0, 20.0]), 1_u32..7),
        new in (prop::sample::select(vec![0.5, 1.0, 3.0, 20.0]), 1_u32..7), is_known: bool,
    ) {
        let (old, new) = (limit(old.0, old.1), limit(new.0, new.1));
        let (mut permits, mut elapsed) = (Permits::new(old), millis(1));
        let mut send = |permits: &mut Permits, steps: Vec<Step>| {
            let mut sent = Vec::new();
            for (wait, wanted, delay, leaves) in steps {
                elapsed += millis(wait);
                let taken = (0..wanted).take_while(|_| permits.take(elapsed)).count();
                elapsed += millis(delay);
                if leaves {
                    permits.leave(elapsed);
                    sent.extend(vec![elapsed; taken]);
                } else {
                    permits.give_back();
                }
            }
            (sent, elapsed)
        };
        let (earlier, changed) = send(&mut permits, before);
        // The database knows when they were claimed, which may have been earlier.
        let ago: Vec<_> = earlier.iter().map(|at| changed - *at + millis(1)).collect();
        permits.relimit(new, is_known.then_some(&ago), changed);
        let (later, _) = send(&mut permits, after);
        assert_within_quota(&later, new)?;
        // Where the new limit allows all that the old one did, so it is across the change.
        if new.period() <= old.period() && new.burst >= old.burst {
            assert_within_quota(&[earlier, later].concat(), new)?;
        }
    }

    #[test]
    fn what_may_leave_does_at_the_time_that_was_said(
        steps in prop::collection::vec(any_step(), 1..40), per_second in prop::sample::select(vec![0.5, 3.0, 20.0]), burst in 1_u32..7,
    ) {
        // The reference is a bucket that is emptied when requests leave. Its level is in nanoseconds of refilling.
        let limit = limit(per_second, burst);
        let (period, most) = (limit.period(), limit.memory());
        let (mut owed, mut seen, mut elapsed) = (Duration::ZERO, Duration::ZERO, millis(1));
        let mut permits = Permits::new(limit);
        for (wait, wanted, delay, leaves) in steps {
            elapsed += millis(wait);
            owed = owed.saturating_sub(elapsed - seen);
            let there_are = ((most - owed).as_nanos() / period.as_nanos()).min(u128::from(wanted));
            let due = permits.next();
            let taken = (0..wanted).take_while(|_| permits.take(elapsed)).count();
            prop_assert_eq!(taken as u128, there_are);
            prop_assert!(taken == 0 || due <= elapsed, "{:?} was said, and it was had at {:?}", due, elapsed);
            seen = elapsed;
            elapsed += millis(delay);
            owed = owed.saturating_sub(elapsed - seen);
            if leaves {
                permits.leave(elapsed);
                owed += period * u32::try_from(taken).unwrap();
            } else {
                permits.give_back();
            }
            seen = elapsed;
        }
    }
}

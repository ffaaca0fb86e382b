use super::*;

const NOW: Timestamp = Timestamp(1_000_000);

fn pace(requests_per_second: f64, burst: u32) -> Pace {
    let rate = RateLimit { requests_per_second, burst: NonZeroU32::new(burst).unwrap() };
    Pace::new(rate, Backoff::new(Duration::from_secs(4), Duration::from_secs(60)).unwrap(), 3)
}

fn agent(name: &str) -> AgentId {
    AgentId::parse(name).unwrap()
}

fn answer(
    pace: &mut Pace,
    request: i64,
    hold: Option<(Scope, Cause, HoldEnd)>,
    newest: i64,
    now: Timestamp,
) -> Vec<HoldChange> {
    let hold = hold.map(|(scope, cause, end)| Hold { scope, cause, end });
    let was_200 = hold.is_none();
    pace.answered(RequestId(request), hold, was_200, RequestId(newest), now, &mut fastrand::Rng::with_seed(1))
}

const LOST: (Scope, Cause, HoldEnd) = (Scope::All, Cause::Lost, HoldEnd::ByStreak);

#[test]
fn no_window_has_more_permits_than_rate_times_its_length_plus_burst() {
    let mut pace = pace(2.0, 3);
    let taken: Vec<u64> = (0..10_000)
        .step_by(10)
        .flat_map(|ms| [ms; 3])
        .filter(|ms| pace.take_permit(Duration::from_millis(*ms)))
        .collect();
    // Tried every 10 ms, three times over: three at once, and then one each half second.
    assert_eq!(taken[..6], [0, 0, 0, 500, 1_000, 1_500]);
    assert_eq!(taken.len(), 3 + 19);
}

#[test]
fn a_streak_holds_everything_once_and_one_probe_decides() {
    let mut pace = pace(100.0, 10);
    assert!(answer(&mut pace, 1, Some(LOST), 8, NOW).is_empty());
    assert!(answer(&mut pace, 2, Some(LOST), 8, NOW).is_empty());
    assert_eq!(answer(&mut pace, 3, Some(LOST), 8, NOW).len(), 1, "the third in a row");
    assert!(answer(&mut pace, 4, Some(LOST), 8, NOW).is_empty(), "sent before the hold: the same news again");
    let Admission::Held(Some(end)) = pace.admit_any(NOW) else { panic!("{:?}", pace.admit_any(NOW)) };
    assert!(end >= NOW.plus(Duration::from_secs(4)) && end <= NOW.plus(Duration::from_secs(5)));

    assert_eq!(pace.admit(&agent("a"), end), Admission::Probe);
    pace.sent(RequestId(9), &agent("a"), end);
    assert_eq!(pace.admit(&agent("b"), end), Admission::Probing);
    let again = answer(&mut pace, 9, Some(LOST), 9, end);
    assert!(
        matches!(&again[..], [HoldChange::Placed(row)] if row.repeats == 1 && row.until_at >= Some(end.plus(Duration::from_secs(8))))
    );

    let Admission::Held(Some(end)) = pace.admit_any(end) else { panic!("held again") };
    pace.sent(RequestId(10), &agent("a"), end);
    assert_eq!(
        answer(&mut pace, 10, None, 10, end),
        [HoldChange::Lifted { scope: Scope::All, cause: Cause::Lost, until_at: Some(end) }]
    );
    assert_eq!(pace.admit_any(end), Admission::Free);
    assert!(answer(&mut pace, 11, Some(LOST), 11, end).is_empty(), "a 200 ended the streak");
}

#[test]
fn one_agent_s_hold_leaves_the_others_free_and_outlives_a_throttled_probe() {
    let mut pace = pace(100.0, 10);
    let forbidden = (Scope::Agent(agent("a")), Cause::Forbidden, HoldEnd::Growing);
    answer(&mut pace, 1, Some(forbidden), 1, NOW);
    let Admission::Held(Some(end)) = pace.admit(&agent("a"), NOW) else { panic!("held") };
    assert_eq!(pace.admit(&agent("b"), NOW), Admission::Free);
    pace.sent(RequestId(2), &agent("a"), end);
    let until = end.plus(Duration::from_secs(1));
    answer(&mut pace, 2, Some((Scope::All, Cause::Throttled, HoldEnd::At(until))), 2, end);
    assert_eq!(pace.admit(&agent("b"), end), Admission::Held(Some(until)));
    assert_eq!(pace.held(), 2, "a 429 says nothing about the agent");
}

#[test]
fn an_operator_s_hold_without_an_end_lasts_until_its_row_is_gone() {
    let mut pace = pace(100.0, 10);
    let row = HoldRow { scope: Scope::All, cause: Cause::Operator, since_at: NOW, until_at: None, repeats: 0 };
    pace.load(vec![row]);
    assert_eq!(pace.admit(&agent("a"), Timestamp::MAX), Admission::Held(None));
    pace.load(Vec::new());
    assert_eq!(pace.admit(&agent("a"), NOW), Admission::Free);
}

#[test]
fn an_operator_s_hold_is_over_at_its_end_without_a_probe() {
    let mut pace = pace(100.0, 10);
    let row = HoldRow { scope: Scope::All, cause: Cause::Operator, since_at: NOW, until_at: Some(NOW), repeats: 0 };
    pace.load(vec![row]);
    let before = Timestamp(NOW.0 - 1);
    assert_eq!((pace.admit_any(before), pace.any_over(before)), (Admission::Held(Some(NOW)), false));
    assert_eq!((pace.admit_any(NOW), pace.any_over(NOW)), (Admission::Free, true));
    assert_eq!(pace.sent(RequestId(1), &agent("a"), NOW), [], "nothing is probed");
    assert_eq!(
        pace.forget_over(NOW),
        [HoldChange::Lifted { scope: Scope::All, cause: Cause::Operator, until_at: Some(NOW) }]
    );
    assert_eq!((pace.held(), pace.any_over(NOW)), (0, false));
}

#[test]
fn what_others_changed_in_the_holds_is_told_once() {
    let mut pace = pace(100.0, 10);
    let row = |scope, until_at| HoldRow { scope, cause: Cause::Operator, since_at: NOW, until_at, repeats: 0 };
    let (all, one) = (row(Scope::All, None), row(Scope::Agent(agent("a")), Some(NOW)));
    let lifted = HoldChange::Lifted { scope: Scope::All, cause: Cause::Operator, until_at: None };
    assert_eq!(pace.load(vec![all.clone()]), [HoldChange::Placed(all.clone())]);
    assert_eq!(pace.load(vec![one.clone(), all.clone()]), [HoldChange::Placed(one.clone())]);
    assert_eq!(pace.load(vec![one.clone()]), [lifted]);
    let longer = row(one.scope.clone(), None);
    assert_eq!(pace.load(vec![longer.clone()]), [HoldChange::Placed(longer.clone())]);
    // Two rows that are taken for the same hold: one of them has a cause that is none.
    for rows in [vec![one.clone(), longer.clone()], vec![longer, one]] {
        assert_eq!(pace.load(rows), []);
    }
    // What it placed itself is no news.
    answer(&mut pace, 1, Some((Scope::All, Cause::Contract, HoldEnd::Growing)), 1, NOW);
    let rows: Vec<HoldRow> = pace.holds.values().map(|held| held.row.clone()).collect();
    assert_eq!(pace.load(rows), []);
}

#[test]
fn a_probe_that_nothing_will_be_heard_of_makes_room_for_another() {
    let mut pace = pace(100.0, 10);
    let until_at = Some(NOW);
    pace.load(vec![HoldRow { scope: Scope::All, cause: Cause::Lost, since_at: NOW, until_at, repeats: 0 }]);
    let probed = pace.sent(RequestId(1), &agent("a"), NOW);
    assert_eq!((probed, pace.admit_any(NOW)), (vec![(Scope::All, Cause::Lost)], Admission::Probing));
    pace.forget(RequestId(1));
    assert_eq!(pace.admit_any(NOW), Admission::Probe);
}

#[test]
fn reading_the_holds_again_forgets_a_probe_only_if_its_hold_was_changed() {
    let mut pace = pace(100.0, 10);
    let row = HoldRow { scope: Scope::All, cause: Cause::Lost, since_at: NOW, until_at: Some(NOW), repeats: 0 };
    pace.load(vec![row.clone()]);
    pace.sent(RequestId(1), &agent("a"), NOW);
    pace.load(vec![row.clone()]);
    assert_eq!(pace.admit_any(NOW), Admission::Probing);
    pace.load(vec![HoldRow { since_at: NOW.plus(Duration::from_secs(1)), ..row }]);
    assert_eq!(pace.admit_any(NOW), Admission::Probe);
}

#[test]
fn a_probe_that_fails_for_another_reason_puts_that_hold_in_the_place_of_the_first() {
    let mut pace = pace(100.0, 10);
    let row = HoldRow { scope: Scope::All, cause: Cause::ServerError, since_at: NOW, until_at: Some(NOW), repeats: 3 };
    pace.load(vec![row]);
    pace.sent(RequestId(1), &agent("a"), NOW);
    let changes = answer(&mut pace, 1, Some((Scope::All, Cause::Unauthorized, HoldEnd::Growing)), 1, NOW);
    let lifted = HoldChange::Lifted { scope: Scope::All, cause: Cause::ServerError, until_at: Some(NOW) };
    assert!(
        matches!(&changes[..], [first, HoldChange::Placed(row)] if *first == lifted && row.cause == Cause::Unauthorized && row.repeats == 4),
        "{changes:?}"
    );
    assert_eq!(pace.held(), 1);
}

#[test]
fn what_was_sent_before_a_hold_places_no_second_one_by_streak() {
    let mut pace = pace(100.0, 10);
    for request in 1..=3 {
        answer(&mut pace, request, Some(LOST), 8, NOW);
    }
    assert!(answer(&mut pace, 4, Some((Scope::All, Cause::ServerError, HoldEnd::ByStreak)), 8, NOW).is_empty());
    assert_eq!(pace.held(), 1);
}

#[test]
fn of_several_retry_afters_the_latest_counts() {
    let mut pace = pace(100.0, 10);
    let asked = |seconds| {
        let end = HoldEnd::At(NOW.plus(Duration::from_secs(seconds)));
        Some((Scope::All, Cause::Throttled, end))
    };
    answer(&mut pace, 1, asked(20), 4, NOW);
    let changes = answer(&mut pace, 2, asked(30), 4, NOW.plus(Duration::from_secs(1)));
    let until_at = Some(NOW.plus(Duration::from_secs(30)));
    let row = HoldRow { scope: Scope::All, cause: Cause::Throttled, since_at: NOW, until_at, repeats: 0 };
    assert_eq!(changes, [HoldChange::Placed(row)]);
    for seconds in [30, 10] {
        assert_eq!(answer(&mut pace, 3, asked(seconds), 4, NOW), []);
    }
    // One that grows says nothing of an end.
    assert_eq!(answer(&mut pace, 4, Some((Scope::All, Cause::Throttled, HoldEnd::Growing)), 4, NOW), []);
    assert_eq!(pace.admit_any(NOW), Admission::Held(until_at));
}

#[test]
fn an_api_that_becomes_slow_gets_fewer_requests_at_a_time_if_that_is_wanted() {
    let timed = |pace: &mut Pace| {
        pace.timed(Duration::from_millis(50), 8);
        (0..40).for_each(|_| {
            pace.timed(Duration::from_secs(3), 8);
        });
        pace.concurrency(8)
    };
    assert!(timed(&mut pace(100.0, 10).adaptive(8, Duration::ZERO)) < 8);
    assert_eq!(timed(&mut pace(100.0, 10)), 8);
}

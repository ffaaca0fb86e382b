//! No agent pays for another agent's faults. The rate is kept exactly, however slow a turn is and however often the daemon
//! starts.

use std::{
    future::{Future, poll_fn},
    pin::pin,
    time::Duration,
};

use audio_cache_sweeper::{
    model::{
        backoff::Backoff,
        clock::Clock,
        deletion::State,
        outcome::{Cause, Scope},
    },
    pace::RateLimit,
    sandbox::{Mood, Options, Outage},
};

use super::{
    bed::{Bed, Plan, START, listing},
    engine::{Engine, Row, Wish},
    evidence::{defaults, run_for},
    tests,
};

const MINUTE: Duration = Duration::from_secs(60);

/// Works. One turn more than [`Bed::work`], because a daemon's first turn may do nothing but write its changes of the holds.
async fn work<E: Engine>(bed: &mut Bed<E>) {
    bed.worker.turn().await.unwrap();
    bed.work().await;
}

/// Two agents get nothing but 500s. Because of them, everything is held.
async fn held_by_two<E: Engine>() -> Bed<E> {
    let mut plan = Plan::default();
    plan.settings.concurrency = 1;
    let mut bed = Bed::<E>::new(plan).await;
    for agent in ["bad-1", "bad-2"] {
        bed.sandbox.set_agent_outage(agent, Some(Outage::Status(500)));
        bed.insert_many(agent, 60).await;
    }
    bed.work().await;
    let held = bed.held().await;
    assert!(held.contains(&("*".to_owned(), Cause::ServerError)), "{held:?}");
    bed
}

pub async fn an_agent_that_took_no_part_in_a_streak_probes_at_once_and_its_success_lifts_the_hold_on_everything<
    E: Engine,
>() {
    let mut bed = held_by_two::<E>().await;
    let before = bed.sizes().len();
    bed.insert_many("good", 60).await;
    bed.work().await;
    let deleted = bed.count_where(|row| row.agent == "good" && row.is(State::Deleted)).await;
    assert_eq!(deleted, 60, "{:?}", bed.agents());
    assert_eq!(bed.agents()[before], "good");
    assert!(bed.held().await.iter().all(|(scope, _)| scope != "*"), "{:?}", bed.held().await);
}

pub async fn agents_that_took_no_part_probe_once_in_each_base_delay<E: Engine>() {
    let mut bed = held_by_two::<E>().await;
    let before = bed.sizes().len();
    // The hold's base delay is 5 s. It lasts at least that long, and is probed once before its end.
    let until = START.plus(60 * MINUTE);
    bed.change_holds_where(|hold| hold.scope != Scope::All, |hold| hold.until_at = Some(until)).await;
    for n in 0..20 {
        let agent = format!("other-{n}");
        bed.sandbox.set_agent_outage(&agent, Some(Outage::Status(500)));
        bed.insert_many(&agent, 1).await;
    }
    for _ in 0..49 {
        bed.work().await;
        bed.clock.advance(Duration::from_millis(100));
    }
    assert_eq!(bed.sizes().len() - before, 1, "{:?}", bed.agents());
    // One probe in each base delay of the next minute, and the hold's own probes after some 5, 15 and 35 s.
    for _ in 0..600 {
        bed.work().await;
        bed.clock.advance(Duration::from_millis(100));
    }
    let probes = bed.sizes().len() - before - 1;
    assert!(probes <= 60 / 5 + 1 + 3, "{probes} in a minute: {:?}", bed.agents());
    assert_eq!(bed.count_in(State::Dead).await, 0);
}

pub async fn a_hold_that_needs_a_person_begins_at_a_minute_or_at_the_longest_hold_if_that_is_shorter<E: Engine>() {
    for (longest, least) in [(600, 60), (60, 60), (20, 20)] {
        let least = Duration::from_secs(least);
        for status in [401, 403, 404, 405] {
            let mut plan = defaults(Options { outage: Some(Outage::Status(status)), ..Options::default() });
            plan.growth = Backoff::new(Duration::from_secs(1), Duration::from_secs(longest)).unwrap();
            let mut bed = Bed::<E>::new(plan).await;
            bed.insert_many("a", 1).await;
            bed.work().await;
            let [hold] = &bed.holds().await[..] else { panic!("one hold: {status}") };
            let lasts = hold.until_at.unwrap().since(hold.since_at);
            assert!((least..=least + least / 4).contains(&lasts), "{status}, longest {longest} s: {lasts:?}");
        }
    }
}

pub async fn a_start_probes_what_needs_a_person_at_once_and_not_within_a_minute_of_the_last_probe<E: Engine>() {
    for status in [401, 403, 405] {
        let mut bed =
            Bed::<E>::new(defaults(Options { outage: Some(Outage::Status(status)), ..Options::default() })).await;
        bed.insert_many("a", 100).await;
        run_for(&mut bed, 2_000).await;
        let now = bed.clock.now();
        let hold = bed.holds().await.remove(0);
        assert!(hold.until_at.unwrap() > now.plus(2 * MINUTE), "{status}: a long one");
        bed.clock.advance(MINUTE.saturating_sub(now.since(hold.probed_at.unwrap())));
        let sent = bed.sizes().len();
        let mut bed = bed.restart().await;
        work(&mut bed).await;
        assert_eq!(bed.sizes().len(), sent + 1, "{status}: at once");
        // A crash loop: one probe a minute, however often the daemon starts.
        for restart in 1..=30 {
            bed.clock.advance(Duration::from_secs(10));
            bed = bed.restart().await;
            work(&mut bed).await;
            assert_eq!(bed.sizes().len(), sent + 1 + restart / 6, "{status}, restart {restart}");
        }
        // The outage is over, and the next start finds that out.
        bed.sandbox.set_outage(None);
        bed.clock.advance(MINUTE);
        let mut bed = bed.restart().await;
        work(&mut bed).await;
        assert_eq!(bed.count_in(State::Deleted).await, 100, "{status}");
    }
}

/// A wish for an entry of one agent, this many seconds after the start.
fn wish(entry: &str, seconds: u64) -> Wish {
    Wish { created_at: Some(START.plus(Duration::from_secs(seconds))), ..Wish::of("a", entry) }
}

/// One row in each request, and one request at a time.
fn one_by_one() -> Plan {
    let mut plan = Plan::default();
    plan.settings.batch_size = 1;
    plan.settings.concurrency = 1;
    plan.settings.linger = Duration::ZERO;
    plan
}

pub async fn inside_an_agent_the_row_goes_first_that_has_been_due_for_longest_whether_tried_or_not<E: Engine>() {
    let mut bed = Bed::<E>::new(one_by_one()).await;
    bed.sandbox.script([listing(&[], &["tried"]), Mood::Plain]);
    bed.enqueue(&[wish("tried", 0), wish("other", 0)]).await;
    bed.work().await;
    let due = bed.rows_where(|row| row.is(State::Pending)).await[0].due_at.0 - START.0;
    assert!((10_000..=12_500).contains(&due), "{due}");
    bed.pause("*").await;
    // Created before and after the retry is due; one has a due time of its own.
    let planned = Wish { due_at: START.plus(Duration::from_secs(20)), ..wish("planned", 0) };
    bed.enqueue(&[wish("before", 5), wish("after", 15), planned, wish("last", 25)]).await;
    bed.clock.advance(Duration::from_secs(40));
    bed.work().await;
    bed.lift_all().await;
    bed.work().await;
    let sent: Vec<String> = bed.sent().concat();
    assert_eq!(sent[..2], ["tried", "other"]);
    assert_eq!(sent[2..], ["before", "tried", "after", "planned", "last"]);
}

pub async fn rows_that_are_due_at_once_go_in_the_order_in_which_they_were_enqueued_reopened_ones_too<E: Engine>() {
    let mut bed = Bed::<E>::new(one_by_one()).await;
    bed.insert_many("a", 1).await;
    bed.work().await;
    bed.pause("*").await;
    // Entry 1 was deleted before, so its row is reopened, and has the lowest id.
    bed.enqueue(&[wish("2", 1), wish("3", 2), wish("1", 3), wish("4", 4)]).await;
    bed.clock.advance(MINUTE);
    bed.lift_all().await;
    bed.work().await;
    assert_eq!(bed.sent().concat(), ["1", "2", "3", "1", "4"]);
}

pub async fn delete_it_now_after_delete_it_in_a_week_goes_now_and_cancels_no_delay_of_a_row_that_failed<E: Engine>() {
    let mut bed = Bed::<E>::new(Plan::default()).await;
    bed.sandbox.script([listing(&["2"], &["1"])]);
    bed.insert_many("a", 2).await;
    bed.work().await;
    let due_at = START.plus(7 * 24 * 60 * MINUTE);
    bed.enqueue(&[Wish { due_at, ..Wish::of("a", "3") }]).await;
    bed.work().await;
    assert_eq!(bed.sizes(), [2]);
    bed.insert(&[("a", "3"), ("a", "1")]).await;
    bed.work().await;
    assert_eq!(bed.sent()[1..], [["3"]]);
    bed.clock.advance(Duration::from_secs(13));
    bed.work().await;
    assert_eq!(bed.sent()[2..], [["1"]]);
}

/// Asserts that no window of these times, which are in order, has more requests than its length times the rate, and a burst.
fn assert_within(rate: RateLimit, sent: &[Duration], what: &str) {
    let burst = f64::from(rate.burst.get());
    for (first, from) in sent.iter().enumerate() {
        for (count, until) in sent[first..].iter().enumerate().map(|(n, until)| (n + 1, until)) {
            let allowed = rate.requests_per_second * (*until - *from).as_secs_f64() + burst;
            // The clock has a resolution of a microsecond.
            assert!(count as f64 <= allowed + 1e-4, "{what}: {count} from {from:?} to {until:?}: {sent:?}");
        }
    }
}

/// Takes a turn in which `pause` passes after `polls` polls. False if the turn was done before that.
async fn pausing_after<F: Future>(turn: F, polls: usize, clock: &Clock, pause: Duration) -> (F::Output, bool) {
    let mut turn = pin!(turn);
    let mut polled = 0;
    let output = poll_fn(|context| {
        let poll = turn.as_mut().poll(context);
        polled += 1;
        if polled == polls && poll.is_pending() {
            clock.advance(pause);
        }
        poll
    })
    .await;
    (output, polled > polls)
}

/// Requests with one row each, and when each of them arrived. The clock stands still unless the test moves it.
struct Paced<E: Engine> {
    bed: Bed<E>,
    arrived: Vec<Duration>,
}

impl<E: Engine> Paced<E> {
    async fn new(rate: RateLimit) -> Self {
        let mut plan = one_by_one();
        plan.settings.concurrency = 64;
        plan.rate = rate;
        plan.sandbox.record = true;
        Self { bed: Bed::new(plan).await, arrived: Vec::new() }
    }

    /// Waits until all requests that were sent have arrived, and notes the time.
    async fn arrive(&mut self) {
        let sent = self.bed.requests().await.len();
        self.bed.sandbox.arrived(sent).await;
        self.arrived.resize(sent, self.bed.clock.elapsed());
    }

    async fn turn(&mut self) {
        self.bed.worker.turn().await.unwrap();
        self.arrive().await;
    }

    async fn go_on_for(&mut self, time: Duration) {
        let end = self.bed.clock.elapsed() + time;
        while self.bed.clock.elapsed() < end {
            self.turn().await;
            self.bed.clock.advance(Duration::from_millis(53));
        }
    }
}

pub async fn wherever_a_turn_takes_its_time_no_window_has_more_requests_than_the_rate_allows<E: Engine>() {
    // How many polls a turn takes depends on how soon the database answers: on a busy machine it may be one or two.
    let mut most = 0;
    for _ in 0..20 {
        most = most.max(pause_after_each_poll_of_a_turn::<E>().await);
        if most > 3 {
            return;
        }
    }
    panic!("a turn never took more than {most} polls");
}

/// Returns the number of polls that the longest turn took.
async fn pause_after_each_poll_of_a_turn<E: Engine>() -> usize {
    let rate = RateLimit { requests_per_second: 5.0, burst: 5.try_into().unwrap() };
    for polls in 1.. {
        let mut paced = Paced::<E>::new(rate).await;
        paced.bed.insert_many("a", 60).await;
        let pause = Duration::from_millis(1_500);
        let clock = paced.bed.clock.clone();
        let (turn, was_paused) = pausing_after(paced.bed.worker.turn(), polls, &clock, pause).await;
        assert_eq!(turn.unwrap().sent, 5);
        paced.arrive().await;
        paced.go_on_for(Duration::from_secs(3)).await;
        let what = format!("a pause after {polls} polls");
        assert_within(rate, &paced.arrived, &what);
        // Nor are there fewer than the rate allows: a burst, and 3 s at 5/s.
        assert!(paced.arrived.len() >= 5 + 13, "{what}: {:?}", paced.arrived);
        if !was_paused {
            return polls;
        }
    }
    unreachable!("a turn ends")
}

pub async fn wherever_a_turn_takes_its_time_a_daemon_that_starts_after_it_keeps_the_rate_of_both<E: Engine>() {
    let rate = RateLimit { requests_per_second: 1.0, burst: 5.try_into().unwrap() };
    for answered in [true, false] {
        let mut polls = 1;
        loop {
            let mut paced = Paced::<E>::new(rate).await;
            paced.bed.insert_many("a", 30).await;
            let (pause, clock) = (Duration::from_millis(4_500), paced.bed.clock.clone());
            let (turn, was_paused) = pausing_after(paced.bed.worker.turn(), polls, &clock, pause).await;
            assert_eq!(turn.unwrap().sent, 5);
            paced.arrive().await;
            if answered {
                paced.bed.work().await;
                paced.arrive().await;
            }
            paced.bed = paced.bed.restart().await;
            paced.go_on_for(Duration::from_secs(3)).await;
            let what = format!("a pause after {polls} polls, answered: {answered}");
            assert_within(rate, &paced.arrived, &what);
            if !was_paused {
                break;
            }
            polls += 1;
        }
    }
}

pub async fn however_often_the_daemon_starts_no_window_has_more_requests_than_the_rate_allows<E: Engine>() {
    let rate = RateLimit { requests_per_second: 1.0, burst: 5.try_into().unwrap() };
    for between in [0, 100, 900, 2_500, 7_000] {
        let mut paced = Paced::<E>::new(rate).await;
        for life in 0..6 {
            let rows: Vec<String> = (0..5).map(|row| format!("{life}-{row}")).collect();
            paced.bed.insert(&rows.iter().map(|row| ("a", row.as_str())).collect::<Vec<_>>()).await;
            // As `run --until-empty` from cron, or as after a crash, which does not wait for requests in flight.
            let untried = |row: &Row| row.is(State::Pending) && row.request.is_none();
            while paced.bed.count_where(untried).await > 0 && life % 2 == 0 {
                paced.turn().await;
                if paced.bed.worker.turn().await.unwrap().in_flight > 0 {
                    paced.bed.worker.wait_for_a_call().await;
                }
                paced.arrive().await;
                paced.bed.clock.advance(Duration::from_millis(100));
            }
            paced.turn().await;
            paced.bed.clock.advance(Duration::from_millis(between));
            paced.bed = paced.bed.restart().await;
        }
        paced.go_on_for(Duration::from_secs(30)).await;
        assert!(paced.arrived.len() >= 30, "{between} ms: {}", paced.arrived.len());
        assert_within(rate, &paced.arrived, &format!("{between} ms between them"));
    }
}

pub async fn a_queue_that_others_kept_to_themselves_gives_no_burst_when_it_is_free<E: Engine>() {
    // In real time: a turn waits for its write, and its requests leave after that.
    let rate = RateLimit { requests_per_second: 5.0, burst: 5.try_into().unwrap() };
    let mut paced = Paced::<E>::new(rate).await;
    paced.bed.insert_many("a", 60).await;
    for _ in 0..3 {
        paced.bed.shut_out().await;
        let clock = paced.bed.clock.clone();
        let let_in = async {
            tokio::time::sleep(Duration::from_millis(50)).await;
            clock.advance(Duration::from_millis(1_500));
            paced.bed.engine.let_in().await;
        };
        let (turn, ()) = tokio::join!(paced.bed.worker.turn(), let_in);
        turn.unwrap();
        paced.arrive().await;
        paced.go_on_for(Duration::from_millis(200)).await;
    }
    assert_within(rate, &paced.arrived, "writes that were waited for");
}

tests!($ crowds:
    an_agent_that_took_no_part_in_a_streak_probes_at_once_and_its_success_lifts_the_hold_on_everything,
    agents_that_took_no_part_probe_once_in_each_base_delay,
    a_hold_that_needs_a_person_begins_at_a_minute_or_at_the_longest_hold_if_that_is_shorter,
    a_start_probes_what_needs_a_person_at_once_and_not_within_a_minute_of_the_last_probe,
    inside_an_agent_the_row_goes_first_that_has_been_due_for_longest_whether_tried_or_not,
    rows_that_are_due_at_once_go_in_the_order_in_which_they_were_enqueued_reopened_ones_too,
    delete_it_now_after_delete_it_in_a_week_goes_now_and_cancels_no_delay_of_a_row_that_failed,
    wherever_a_turn_takes_its_time_no_window_has_more_requests_than_the_rate_allows,
    wherever_a_turn_takes_its_time_a_daemon_that_starts_after_it_keeps_the_rate_of_both,
    however_often_the_daemon_starts_no_window_has_more_requests_than_the_rate_allows,
    a_queue_that_others_kept_to_themselves_gives_no_burst_when_it_is_free,
);

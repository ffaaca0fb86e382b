//! What the correlation ID that comes back with an answer proves about whose answer it is.
//!
//! We send a new one with each request, and the API echoes it. A proxy that hands answers to the wrong connection hands
//! over the echo, too. Its own correlation plugin may as well answer with an ID of its own: so an ID that we never sent
//! is a proof only where ours have come back before.

use std::collections::{HashSet, VecDeque};

use uuid::Uuid;

/// How many of the IDs that we sent are remembered. More than twice as many requests as can be in flight at the same
/// time (1,024): the answer to one of them may come when the next ones are on their way already.
const REMEMBERED: usize = 4_096;

/// A new correlation ID: a random UUID of version 4.
pub fn new_uuid(rng: &mut fastrand::Rng) -> Uuid {
    uuid::Builder::from_random_bytes(rng.u128(..).to_be_bytes()).into_uuid()
}

/// What the IDs that came back with an answer say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Echo {
    /// Ours is among them.
    Ours,
    /// There are none.
    None,
    /// They are somebody else's, and this origin has never echoed ours.
    Foreign {
        /// For the first time.
        first: bool,
    },
    /// The answer is to another request.
    MixedUp,
}

/// The correlation IDs that were sent in this life, the newest ones, and what this origin has done with them so far.
#[derive(Clone, Debug, Default)]
pub struct Echoes {
    /// The oldest first.
    order: VecDeque<Uuid>,
    /// The same ones.
    sent: HashSet<Uuid>,
    has_echoed: bool,
    has_been_foreign: bool,
}

impl Echoes {
    /// Remembers that a request with this ID goes out.
    pub fn sent(&mut self, id: Uuid) {
        if !self.sent.insert(id) {
            return;
        }
        self.order.push_back(id);
        if self.order.len() > REMEMBERED
            && let Some(oldest) = self.order.pop_front()
        {
            self.sent.remove(&oldest);
        }
    }

    /// Judges the values of the header that came back with the answer to the request `ours`. A value may hold several
    /// IDs, separated by commas, in upper or lower case.
    pub fn judge(&mut self, ours: Uuid, came_back: &[String]) -> Echo {
        let values = || came_back.iter().flat_map(|value| value.split(',')).map(str::trim).filter(|id| !id.is_empty());
        let ids = || values().filter_map(|id| Uuid::try_parse(id).ok());
        if values().next().is_none() {
            Echo::None
        } else if ids().any(|id| id == ours) {
            self.has_echoed = true;
            Echo::Ours
        } else if self.has_echoed || ids().any(|id| self.sent.contains(&id)) {
            Echo::MixedUp
        } else {
            Echo::Foreign { first: !std::mem::replace(&mut self.has_been_foreign, true) }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(number: u128) -> Uuid {
        Uuid::from_u128(number)
    }

    /// 1 to 3 were sent.
    fn echoes() -> Echoes {
        let mut echoes = Echoes::default();
        (1..=3).for_each(|number| echoes.sent(id(number)));
        echoes
    }

    fn values<const N: usize>(values: [&str; N]) -> Vec<String> {
        values.map(str::to_owned).into()
    }

    #[test]
    fn no_value_at_all_is_no_echo() {
        let mut echoes = echoes();
        for none in [values([]), values([""]), values([" , ", ","])] {
            assert_eq!(echoes.judge(id(1), &none), Echo::None, "{none:?}");
        }
        assert_eq!(echoes.judge(id(1), &[id(1).to_string()]), Echo::Ours);
        assert_eq!(echoes.judge(id(1), &[]), Echo::None, "also from an origin that has echoed");
    }

    #[test]
    fn of_several_values_one_must_be_ours_in_whatever_case() {
        let ours = Uuid::from_u128(0xabcd_ef00_1234_4567_89ab_cdef_0123_4567);
        let (lower, upper) = (ours.to_string(), ours.to_string().to_uppercase());
        assert_ne!(lower, upper);
        let other = id(2).to_string();
        for several in [
            vec![lower.clone()],
            vec![format!("  {upper}\t")],
            vec!["kong#1".to_owned(), upper.clone()],
            vec![format!("{other}, {lower}")],
            vec![other.clone(), format!("x,{lower},y")],
        ] {
            let mut echoes = echoes();
            assert_eq!(echoes.judge(ours, &several), Echo::Ours, "{several:?}");
        }
        let longer = format!("{lower}0");
        assert_eq!(echoes().judge(ours, &[longer]), Echo::Foreign { first: true }, "that is another value");
    }

    #[test]
    fn the_id_of_another_of_our_requests_proves_a_mix_up_from_the_first_answer_on() {
        for several in [vec![id(2).to_string()], vec!["kong#1".to_owned(), format!("y, {}", id(3))]] {
            assert_eq!(echoes().judge(id(1), &several), Echo::MixedUp, "{several:?}");
        }
    }

    #[test]
    fn a_value_that_we_never_sent_is_accepted_until_this_origin_has_echoed_ours() {
        let mut echoes = echoes();
        let foreign = values(["kong#1"]);
        assert_eq!(echoes.judge(id(1), &foreign), Echo::Foreign { first: true });
        assert_eq!(echoes.judge(id(2), &[id(77).to_string()]), Echo::Foreign { first: false });
        assert_eq!(echoes.judge(id(1), &[id(2).to_string()]), Echo::MixedUp, "and that is no echo of ours");
        assert_eq!(echoes.judge(id(2), &foreign), Echo::Foreign { first: false });
        assert_eq!(echoes.judge(id(3), &[id(3).to_string()]), Echo::Ours);
        assert_eq!(echoes.judge(id(2), &foreign), Echo::MixedUp);
        assert_eq!(echoes.judge(id(2), &[id(2).to_string()]), Echo::Ours, "which ends nothing");
    }

    #[test]
    fn memory_is_bounded_and_holds_twice_what_can_be_in_flight() {
        let mut echoes = Echoes::default();
        for number in 0..10_000 {
            echoes.sent(id(number));
            echoes.sent(id(number));
        }
        assert_eq!((echoes.order.len(), echoes.sent.len()), (REMEMBERED, REMEMBERED));
        const { assert!(REMEMBERED > 2 * 1_024) };
        let ours = id(9_999);
        assert_eq!(echoes.judge(ours, &[id(10_000 - REMEMBERED as u128).to_string()]), Echo::MixedUp);
        let forgotten = id(9_999 - REMEMBERED as u128).to_string();
        assert_eq!(echoes.judge(ours, &[forgotten]), Echo::Foreign { first: true });
    }
}

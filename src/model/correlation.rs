//! Correlation IDs: whether a response is the answer to our own request.
//!
//! Each request has a new ID, and the API sends the ID back. A proxy that delivers a response to the wrong connection delivers
//! the wrong ID with it. But a gateway may also put IDs of its own into responses. So an ID that we never sent proves a mix-up
//! only if this origin has sent ours back before.

use std::collections::{HashSet, VecDeque};

use uuid::Uuid;

/// How many sent IDs are remembered: more than twice the requests that can be in flight (1,024), because a late response may
/// come after the next requests have left.
const REMEMBERED: usize = 4_096;

/// A new correlation ID: a random UUID of version 4.
pub fn new_uuid(rng: &mut fastrand::Rng) -> Uuid {
    uuid::Builder::from_random_bytes(rng.u128(..).to_be_bytes()).into_uuid()
}

/// What the correlation IDs of a response prove.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Echo {
    /// Our ID is among them.
    Ours,
    /// The response has no ID.
    None,
    /// The IDs are not ours, and this origin has never sent ours back.
    Foreign {
        /// This is the first such response.
        first: bool,
    },
    /// The response is the answer to another request.
    MixedUp,
}

/// The newest correlation IDs that this process has sent, and what the origin has done with them so far.
#[derive(Clone, Debug, Default)]
pub struct Echoes {
    /// The remembered IDs, oldest first.
    order: VecDeque<Uuid>,
    /// The same IDs.
    sent: HashSet<Uuid>,
    has_echoed: bool,
    has_been_foreign: bool,
}

impl Echoes {
    /// Takes in that a request with this ID is sent.
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

    /// Judges the header's values in the response to the request `ours`. A value may have several IDs, separated by commas, in
    /// upper or lower case.
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

    /// The IDs 1 to 3 were sent.
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

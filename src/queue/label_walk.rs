//! A walk through the labels, to remove those whose last wish was closed long ago.
//!
//! The wishes of a label go together, so that its numbers are true until then. First, a walk through all of them shows that none
//! is open or young; it ends at the first one that is. Then the fulfilled ones go, and the dead and cancelled ones last: a
//! label that is half removed never looks better than it was. Each step reads a bounded number of wishes, however many there are.

/// A walk through the labels, one step at a time.
#[derive(Debug, Default)]
pub(super) struct LabelWalk {
    pub(super) label: String,
    /// The agent and the entry after which the label's wishes go on.
    pub(super) after: (String, String),
    pub(super) stage: Stage,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Stage {
    /// The label is done, or is the empty one at the start.
    #[default]
    Done,
    /// Nothing open or young was found so far.
    Check,
    /// All of it is old: the fulfilled wishes go.
    Fulfilled,
    /// The other ones go.
    Rest,
}

impl LabelWalk {
    /// Goes on behind this stretch, which ends the stage if it has fewer wishes than were asked for.
    pub(super) fn pass(&mut self, count: i64, most: u32, last: (String, String)) {
        if count >= i64::from(most) {
            self.after = last;
            return;
        }
        self.after = (String::new(), String::new());
        self.stage = match self.stage {
            Stage::Check => Stage::Fulfilled,
            Stage::Fulfilled => Stage::Rest,
            Stage::Rest | Stage::Done => Stage::Done,
        };
    }
}

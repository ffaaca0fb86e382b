//! The log lines about holds, each with its reason and its remedy.

use std::collections::HashSet;

use tracing::{error, info, warn};

use crate::{
    event,
    model::{
        deletion::RequestId,
        hold::{HoldChange, HoldRow},
        outcome::{Cause, Scope},
        remedy::{Names, reason, remedy},
    },
};

/// Logs holds. A hold that needs a person is an error once, when it is placed, and once more after each start that finds it
/// in force.
#[derive(Debug)]
pub struct HoldLog {
    names: Names,
    /// The start reads the holds that an earlier daemon left.
    is_start: bool,
    /// Holds that need a person, found at the start. The first probe that fails is an error.
    found: HashSet<(Scope, Cause)>,
}

impl HoldLog {
    /// A log for a start. `names` go into the remedies.
    pub fn new(names: Names) -> Self {
        Self { names, is_start: true, found: HashSet::new() }
    }

    /// Replaces the settings that remedies name.
    pub fn rename(&mut self, names: Names) {
        self.names = names;
    }

    /// The start has read the holds of the earlier daemon. From now on, a hold that others place is a new one.
    pub fn started(&mut self) {
        self.is_start = false;
    }

    /// Logs a hold that others placed or lifted, that is over, or that the start has found.
    pub fn changed(&mut self, change: &HoldChange) {
        self.answered(change, None, false);
    }

    /// Logs a hold, with the detail of the answer that placed or lifted it. `is_foreign`: the answer is an error that is not in
    /// the API's form.
    pub fn answered(&mut self, change: &HoldChange, detail: Option<&str>, is_foreign: bool) {
        match change {
            HoldChange::Placed { row, is_longest } => self.placed(row, *is_longest, detail, is_foreign),
            HoldChange::Lifted { scope, cause, .. } => {
                self.found.remove(&(scope.clone(), *cause));
                info!(event = event::HOLD_LIFTED, scope = scope.as_str(), cause = cause.as_str(), "hold lifted");
            }
        }
    }

    fn placed(&mut self, row: &HoldRow, is_longest: bool, detail: Option<&str>, is_foreign: bool) {
        let HoldRow { scope, cause, until_at, repeats, why, .. } = row;
        let mut remedy = remedy(*cause, scope, is_longest, &self.names);
        if is_foreign && matches!(cause, Cause::Unauthorized | Cause::Forbidden | Cause::UnknownAgent) {
            remedy += if remedy.ends_with('?') { " The" } else { "; the" };
            remedy += " answer is not in the API's form: a gateway may have answered";
        }
        let (name, until_at, reason) = (cause.as_str(), until_at.map(|at| at.0), reason(*cause));
        let key = (scope.clone(), *cause);
        let scope = scope.as_str();
        macro_rules! say {
            ($level:ident, $text:literal) => {
                $level!(
                    event = event::HOLD_PLACED,
                    scope,
                    cause = name,
                    until_at,
                    repeats,
                    detail,
                    why,
                    reason,
                    remedy,
                    $text
                )
            };
        }
        if self.is_start {
            if cause.needs_a_person() {
                self.found.insert(key);
            }
            say!(warn, "held since before the start");
        } else if cause.needs_a_person() && (self.found.remove(&key) || *repeats == 0) {
            say!(error, "held; a person must act");
        } else if is_longest {
            say!(error, "held for the longest time: the fault has not gone away by itself, and a person must act");
        } else {
            say!(warn, "held");
        }
    }
}

/// Logs the holds that this request probes.
pub fn probes(request: RequestId, probed: &[(Scope, Cause)]) {
    for (scope, cause) in probed {
        let (scope, cause, request) = (scope.as_str(), cause.as_str(), request.0);
        info!(event = event::HOLD_PROBED, scope, cause, request, "the hold is over; one request probes");
    }
}

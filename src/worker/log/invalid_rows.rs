//! The log lines about invalid rows.

use tracing::{error, warn};

use crate::{event, queue::Swept};

/// Logs that invalid rows were made dead. This is an error once in a process for each thing that is wrong with them: a program
/// that goes on writing such rows does not call a person with each.
#[derive(Debug, Default)]
pub struct InvalidRows {
    /// The column that was wrong in the rows of the last error.
    told: Option<String>,
}

impl InvalidRows {
    /// Logs the rows of one step of a sweep.
    pub fn tell(&mut self, swept: &Swept) {
        let Swept { dead: rows, first, problem, .. } = swept;
        let ids = first.iter().map(|id| id.0.to_string()).collect::<Vec<_>>().join(", ");
        macro_rules! say {
            ($level:ident) => {
                $level!(
                    event = event::INVALID_ROWS,
                    rows,
                    ids,
                    problem,
                    "pending rows with values that the schema does not allow were made dead; find the program that wrote them with \
                     the checks switched off, and enqueue the right IDs"
                )
            };
        }
        // The value differs from row to row, and its column is the same.
        let column = problem.split(':').next().unwrap_or_default();
        if self.told.as_deref() == Some(column) {
            say!(warn);
        } else {
            self.told = Some(column.to_owned());
            say!(error);
        }
    }
}

//! IDs that the API is unlikely to know.

use crate::{
    cli::times::{plural, show_text},
    model::deletion::EntryId,
};

/// Entry IDs that are not numbers. They are enqueued all the same: nothing but the API knows its IDs.
#[derive(Debug, Default)]
pub(super) struct OddIds {
    count: u64,
    /// The place and the text of the first.
    first: Option<(String, String)>,
}

impl OddIds {
    /// Counts the ID if it is not a number. `place`: for the message, such as `ids.txt, line 3: `.
    pub(super) fn look_at(&mut self, id: &EntryId, place: impl FnOnce() -> String) {
        if !id.as_str().bytes().all(|byte| byte.is_ascii_digit()) {
            self.count += 1;
            self.first.get_or_insert_with(|| (place(), show_text(id.as_str(), 60)));
        }
    }

    /// The warning, if there was such an ID. After a `dry_run`, nothing is in the queue.
    pub(super) fn warning(&self, dry_run: bool) -> Option<String> {
        let (place, id) = self.first.as_ref()?;
        let others = match self.count {
            0 | 1 => String::new(),
            count => format!(" (the first of {})", plural(count, "such ID", "such IDs")),
        };
        let remedy = if dry_run { "" } else { "; `sweeper cancel` takes it out of the queue" };
        Some(format!(
            "{place}{id:?} is not a number{others}, and the API's entry IDs are numbers: check the input, because a wrong ID \
             costs up to 11 requests{remedy}"
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_is_shown_and_all_are_counted() {
        let mut odd = OddIds::default();
        let look_at = |odd: &mut OddIds, id: &str| {
            odd.look_at(&EntryId::parse(id).unwrap(), || format!("at {id}: "));
        };
        for number in ["4711", "0", "00", "123456789012345678901234567890"] {
            look_at(&mut odd, number);
        }
        assert_eq!(odd.warning(false), None);
        look_at(&mut odd, "4711x");
        let warning = odd.warning(false).unwrap();
        assert!(warning.starts_with("at 4711x: \"4711x\" is not a number, and the API's"), "{warning}");
        for other in ["-1", "4711,4712"] {
            look_at(&mut odd, other);
        }
        let warning = odd.warning(false).unwrap();
        assert!(warning.starts_with("at 4711x: \"4711x\" is not a number (the first of 3 such IDs), and"), "{warning}");
    }
}

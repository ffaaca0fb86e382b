//! The label of a wish: a ticket, or a request for erasure.

use std::{fmt, sync::Arc};

/// The most bytes in a label.
const MAX_BYTES: usize = 255;

/// Why a text cannot be a label. The table's CHECKs refuse the same texts.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a label: it must be 1 to 255 printable ASCII characters, with spaces only inside")]
pub struct LabelError(String);

/// The name under which deletions are wished for, so that they can be followed together. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Label(Arc<str>);

impl Label {
    /// Parses a label.
    ///
    /// # Errors
    /// If the text is empty, longer than 255 bytes, not printable ASCII, or begins or ends with a space.
    pub fn parse(text: &str) -> Result<Self, LabelError> {
        let fits = (1..=MAX_BYTES).contains(&text.len()) && text.bytes().all(|byte| matches!(byte, b' '..=b'~'));
        if fits && text.trim() == text { Ok(Self(text.into())) } else { Err(LabelError(text.to_owned())) }
    }

    /// The label as it is in the database.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_is_what_the_table_takes() {
        let long = "x".repeat(255);
        for text in ["T", "erasure 17 (b)", "4711", "ä".escape_unicode().to_string().as_str(), "\"'", &long] {
            assert_eq!(Label::parse(text).unwrap().as_str(), text);
        }
        for text in ["", " ", " T", "T ", "T\t1", "T\n", "\u{7f}", "ä", &format!("{long}x")] {
            assert!(Label::parse(text).is_err(), "{text:?}");
        }
    }
}

//! The sections of the page, and how many rows of each are shown.

/// A part of the page: lines that are always shown, and rows below them, of which some may be left out.
pub(super) struct Section {
    pub(super) head: Vec<String>,
    /// The first rows, as many as can be needed.
    pub(super) rows: Vec<String>,
    /// The number of all rows.
    pub(super) all: usize,
    /// The most rows that are shown where the height does not decide.
    pub(super) most: usize,
    /// The line that stands for the rows that are left out, made from the number of rows that are shown.
    pub(super) more: Box<dyn Fn(usize) -> String>,
}

impl Section {
    /// A section whose lines are always shown.
    pub(super) fn of(head: Vec<String>) -> Self {
        Self { head, rows: Vec::new(), all: 0, most: 0, more: Box::new(|_| String::new()) }
    }

    fn height(&self, shown: usize) -> usize {
        self.head.len() + shown + usize::from(shown < self.all)
    }
}

/// The lines of the page, with an empty line between sections. With a `height`, the longest lists give up rows until the page
/// fits; the first rows of a list are the most important ones.
pub(super) fn lay_out(sections: &[Section], height: Option<usize>) -> Vec<String> {
    let mut shown: Vec<usize> = match height {
        Some(_) => sections.iter().map(|section| section.rows.len()).collect(),
        None => sections.iter().map(|section| section.rows.len().min(section.most)).collect(),
    };
    let total = |shown: &[usize]| -> usize {
        let heights = sections.iter().zip(shown).map(|(section, shown)| section.height(*shown) + 1);
        heights.sum::<usize>().saturating_sub(1)
    };
    if let Some(height) = height {
        while total(&shown) > height {
            let Some(longest) = shown.iter_mut().max().filter(|shown| **shown > 0) else { break };
            *longest -= 1;
        }
    }
    let mut lines = Vec::new();
    for (section, shown) in sections.iter().zip(shown) {
        if !lines.is_empty() {
            lines.push(String::new());
        }
        lines.extend(section.head.iter().cloned());
        lines.extend(section.rows.iter().take(shown).cloned());
        if shown < section.all {
            lines.push((section.more)(shown));
        }
    }
    if let Some(height) = height.filter(|height| lines.len() > *height) {
        lines.truncate(height.max(1));
        if let Some(last) = lines.last_mut() {
            *last = "… the terminal has too few lines for the rest".to_owned();
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    fn section(name: &str, rows: usize) -> Section {
        Section {
            head: vec![name.to_owned()],
            rows: (0..rows).map(|row| format!("{name}{row}")).collect(),
            all: rows,
            most: 3,
            more: Box::new(move |shown| format!("{} more", rows - shown)),
        }
    }

    #[test]
    fn long_lists_give_up_rows_until_the_page_fits() {
        let sections = [Section::of(vec!["facts".to_owned()]), section("a", 300), section("b", 2)];
        for height in 1..40 {
            let page = lay_out(&sections, Some(height));
            assert!(page.len() <= height, "{height}: {page:?}");
        }
        let page = lay_out(&sections, Some(12));
        assert_eq!(page, ["facts", "", "a", "a0", "a1", "a2", "a3", "296 more", "", "b", "b0", "b1"]);
        assert_eq!(lay_out(&sections, None)[2..7], ["a", "a0", "a1", "a2", "297 more"]);
        assert_eq!(lay_out(&sections, Some(400)).len(), 307, "all of them, if there is room");
    }
}

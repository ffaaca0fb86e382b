//! The sections of the page, and how many rows of each are shown.

/// A part of the page: its heading, and rows below it, of which some may be left out.
pub(super) struct Section {
    pub(super) head: Vec<String>,
    /// The first rows, as many as can be needed.
    pub(super) rows: Vec<String>,
    /// The number of all rows.
    pub(super) all: usize,
    /// Rows that are shown before another section has more than that. With 0, the section has no rows, and always stands.
    pub(super) least: usize,
    /// The line that stands for the rows that are left out, made from the number of rows that are shown.
    pub(super) more: Box<dyn Fn(usize) -> String>,
}

impl Section {
    /// A section whose lines are always shown.
    pub(super) fn of(head: Vec<String>) -> Self {
        Self { head, rows: Vec::new(), all: 0, least: 0, more: Box::new(|_| String::new()) }
    }

    /// A section of a heading and rows, of which `least` are worth to be shown. The others are left out silently.
    pub(super) fn list(mut lines: Vec<String>, least: usize) -> Self {
        let head = lines.drain(..lines.len().min(1)).collect();
        let all = lines.len();
        let more = move |shown: usize| format!("… and {} more; --json has all of them", all - shown);
        Self { head, rows: lines, all, least, more: Box::new(more) }
    }

    /// The lines with that number of rows, and the empty line before them. A heading without rows is left out.
    fn height(&self, shown: usize) -> usize {
        if shown == 0 && self.all > 0 {
            return 0;
        }
        1 + self.head.len() + shown + usize::from(shown < self.all)
    }
}

/// The lines of the page, with an empty line between sections. The most important sections come first, and so do the most
/// important rows of each. With a `height`, the longest lists give up rows until the page fits; then whole sections are left out,
/// the last ones first.
pub(super) fn lay_out(sections: &[Section], height: Option<usize>) -> Vec<String> {
    let mut shown: Vec<usize> = sections.iter().map(|section| section.rows.len()).collect();
    let total = |shown: &[usize]| -> usize {
        let heights = sections.iter().zip(shown).map(|(section, shown)| section.height(*shown));
        heights.sum::<usize>().saturating_sub(1)
    };
    if let Some(height) = height {
        while total(&shown) > height {
            let spare = shown.iter_mut().zip(sections).filter(|(shown, section)| **shown > section.least);
            let Some((longest, _)) = spare.max_by_key(|(shown, _)| **shown) else { break };
            *longest -= 1;
        }
        for at in (0..sections.len()).rev() {
            if total(&shown) > height {
                // A section with one row still says that there is something.
                shown[at] = if at == first_list(sections) { shown[at].min(1) } else { 0 };
            }
        }
    }
    let mut lines = Vec::new();
    for (section, shown) in sections.iter().zip(shown).filter(|(section, shown)| section.height(*shown) > 0) {
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

/// The lines that the page needs so that no list falls below its least.
pub(super) fn least_height(sections: &[Section]) -> usize {
    let heights = sections.iter().map(|section| section.height(section.least.min(section.rows.len())));
    heights.sum::<usize>().saturating_sub(1)
}

/// The most important list, which keeps a row.
fn first_list(sections: &[Section]) -> usize {
    sections.iter().position(|section| section.all > 0).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn section(name: &str, rows: usize) -> Section {
        Section {
            head: vec![name.to_owned()],
            rows: (0..rows).map(|row| format!("{name}{row}")).collect(),
            all: rows,
            least: 2,
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
        assert_eq!(lay_out(&sections, None).len(), 307, "all of them, if nothing limits the height");
    }

    #[test]
    fn no_heading_stands_without_a_row_and_the_last_sections_go_first() {
        let sections = [Section::of(vec!["facts".to_owned()]), section("a", 9), section("b", 9), section("c", 9)];
        assert_eq!(
            lay_out(&sections, Some(12)),
            ["facts", "", "a", "a0", "a1", "7 more", "", "b", "b0", "b1", "7 more"]
        );
        assert_eq!(lay_out(&sections, Some(5)), ["facts", "", "a", "a0", "8 more"]);
        for height in 5..40 {
            let page = lay_out(&sections, Some(height));
            for (at, line) in page.iter().enumerate() {
                let is_heading = ["a", "b", "c"].contains(&line.as_str());
                assert!(!is_heading || page[at + 1].starts_with(line.as_str()), "{page:?}");
            }
        }
    }
}

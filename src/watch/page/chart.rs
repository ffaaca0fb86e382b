//! The charts of the last hours, drawn as SVG. The picture has only lines: its words are text beside it, so that they can be read at
//! every width, and by who does not see the picture.

use std::{fmt::Write as _, time::Duration};

use maud::{Markup, html};

use super::samples::Point;
use crate::{durations, watch::report::figures::show_count};

/// The size of a drawing, in its own units. It is stretched to the width of the page.
const WIDTH: f64 = 600.0;
const HEIGHT: f64 = 120.0;

/// A chart: its name, and a value for each point; `None` is a gap.
pub(super) struct Chart<'c> {
    pub(super) id: &'c str,
    pub(super) name: &'c str,
    pub(super) values: Vec<(Duration, Option<f64>)>,
}

/// The two charts.
pub(super) fn charts(points: &[Point]) -> [Chart<'static>; 2] {
    let pending = |point: &Point| (point.ago, point.pending.map(|rows| rows as f64));
    let deleted = |point: &Point| (point.ago, point.deleted_per_minute);
    [
        Chart { id: "backlog", name: "Pending rows", values: points.iter().map(pending).collect() },
        Chart { id: "pace", name: "Deleted per minute", values: points.iter().map(deleted).collect() },
    ]
}

impl Chart<'_> {
    /// The picture and its words.
    pub(super) fn figure(&self) -> Markup {
        let known: Vec<f64> = self.values.iter().filter_map(|(_, value)| *value).collect();
        let span = self.values.first().map_or(Duration::ZERO, |(ago, _)| *ago);
        let (Some(first), Some(last), true) = (known.first(), known.last(), known.len() > 1) else {
            return html! {
                figure {
                    figcaption { h3 { (self.name) } }
                    p.note { "The chart begins with the second sample. A sample is taken every half minute." }
                }
            };
        };
        let most = known.iter().copied().fold(0.0, f64::max);
        let [first, last, highest] = [*first, *last, most].map(|value| show_count(value.round() as u64));
        let since = durations::show_roughly(span);
        let (title, words) = (format!("{}-title", self.id), format!("{}-words", self.id));
        html! {
            figure {
                figcaption {
                    h3 { (self.name) }
                    p.note id=(words) { "now " (last) "; " (since) " ago " (first) "; at most " (highest) }
                }
                svg viewBox={ "0 0 " (WIDTH) " " (HEIGHT) } preserveAspectRatio="none" role="img"
                    aria-labelledby=(title) aria-describedby=(words) {
                    title id=(title) { (self.name) ", the last " (since) }
                    line.axis x1="0" x2=(WIDTH) y1=(HEIGHT - 1.0) y2=(HEIGHT - 1.0) {}
                    @for path in self.paths(span, most) {
                        path.area d=(path.area) {}
                        path.line d=(path.line) {}
                    }
                }
                p.scale aria-hidden="true" { span { (since) " ago" } span { "now" } }
            }
        }
    }

    /// A path for each stretch without a gap.
    fn paths(&self, span: Duration, most: f64) -> Vec<Path> {
        let (span, most) = (span.as_secs_f64().max(1.0), most.max(1.0));
        let place = |ago: Duration, value: f64| {
            let x = WIDTH * (1.0 - ago.as_secs_f64() / span).clamp(0.0, 1.0);
            (x, (HEIGHT - 2.0) - (HEIGHT - 8.0) * (value / most).clamp(0.0, 1.0))
        };
        let stretches = self.values.split(|(_, value)| value.is_none()).filter(|stretch| !stretch.is_empty());
        let path = |stretch: &[(Duration, Option<f64>)]| {
            let mut places = stretch.iter().map(|(ago, value)| place(*ago, value.unwrap_or(0.0)));
            let mut line = String::new();
            for (at, (x, y)) in places.clone().enumerate() {
                // Writing to a string does not fail.
                let _ = write!(line, "{}{x:.1} {y:.1}", if at == 0 { "M" } else { "L" });
            }
            let (from, to) = (places.clone().next(), places.next_back());
            let ends = from.zip(to).map_or((0.0, 0.0), |((from, _), (to, _))| (from, to));
            Path { area: format!("{line}L{:.1} {HEIGHT}L{:.1} {HEIGHT}Z", ends.1, ends.0), line }
        };
        stretches.map(path).collect()
    }
}

struct Path {
    line: String,
    area: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chart(values: &[Option<f64>]) -> Chart<'static> {
        let count = u32::try_from(values.len()).unwrap();
        let values = values.iter().zip(0..).map(|(value, at)| (Duration::from_secs(60) * (count - 1 - at), *value));
        Chart { id: "x", name: "Rows", values: values.collect() }
    }

    #[test]
    fn the_words_tell_what_the_picture_shows() {
        let text = chart(&[Some(5.0), Some(1_234.0), Some(7.0)]).figure().into_string();
        assert!(text.contains("now 7; 2m ago 5; at most 1,234"), "{text}");
        assert!(
            text.contains("<title id=\"x-title\">Rows, the last 2m</title>")
                && text.contains("aria-labelledby=\"x-title\"")
        );
        assert_eq!(text.matches("class=\"line\"").count(), 1);
        assert!(text.contains("M0.0 117.5L300.0 6.0L600.0 117.4"), "{text}");
    }

    #[test]
    fn a_gap_parts_the_line_and_one_sample_is_no_chart() {
        let text = chart(&[Some(0.0), None, Some(2.0), Some(3.0)]).figure().into_string();
        assert_eq!(text.matches("class=\"line\"").count(), 2);
        for values in [&[][..], &[Some(3.0)], &[None, Some(3.0), None]] {
            let text = chart(values).figure().into_string();
            assert!(text.contains("begins with the second sample") && !text.contains("<svg"), "{text}");
        }
        assert!(!chart(&[Some(0.0), Some(0.0)]).figure().into_string().contains("NaN"));
    }
}

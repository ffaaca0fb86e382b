//! The parts that all pages are made of. maud escapes every text for HTML; [`text`] escapes what would reorder a line.

use std::borrow::Cow;

use maud::{DOCTYPE, Markup, html};

use super::access::Visitor;
use crate::{printable, watch::report::empty::Tone};

/// A text of the database or of the API, on one line.
pub(super) fn text(text: &str) -> Cow<'_, str> {
    printable::line(text)
}

/// The class of a tone. The text says the same: colour is never the only sign.
pub(super) const fn class(tone: Tone) -> &'static str {
    match tone {
        Tone::Plain => "plain",
        Tone::Warning => "warning",
        Tone::Alarm => "alarm",
    }
}

/// A whole page.
pub(super) fn document(title: &str, visitor: Visitor, links: &Markup, content: &Markup) -> Markup {
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                title { (title) " – sweeper" }
                link rel="stylesheet" href="/page.css";
            }
            body {
                a.skip href="#main" { "Skip to the content" }
                header {
                    p.brand { a href="/" { "sweeper" } }
                    nav aria-label="Page" {
                        ul {
                            (links)
                            @match visitor {
                                Visitor::Off => {}
                                Visitor::Stranger => { li { a href="/login" { "Log in" } } }
                                Visitor::Known => {
                                    li { a href="/entry" { "Look up an entry" } }
                                    li {
                                        form method="post" action="/login" {
                                            input type="hidden" name="logout" value="1";
                                            button.link type="submit" { "Log out" }
                                        }
                                    }
                                }
                            }
                        }
                    }
                }
                main #main { (content) }
            }
        }
    }
}

/// A column of a table: its name, and the class of its cells.
pub(super) type Column = (&'static str, &'static str);

/// A column of names from outside, which may be long.
pub(super) const fn name(name: &'static str) -> Column {
    (name, "name")
}

/// A column of a few words.
pub(super) const fn words(name: &'static str) -> Column {
    (name, "words")
}

/// A column of sentences.
pub(super) const fn prose(name: &'static str) -> Column {
    (name, "prose")
}

/// A column of numbers.
pub(super) const fn number(name: &'static str) -> Column {
    (name, "number")
}

/// A column of times and the like, which are not broken.
pub(super) const fn time(name: &'static str) -> Column {
    (name, "time")
}

/// A table with its heading. The first cell of each row is the row's name. It scrolls in itself where it does not fit.
pub(super) fn table<const N: usize>(
    id: &str,
    title: &str,
    columns: [Column; N],
    rows: impl IntoIterator<Item = (Tone, [Markup; N])>,
) -> Markup {
    html! {
        div.scroll tabindex="0" role="region" aria-labelledby=(id) {
            table {
                caption.unseen { (title) }
                thead { tr { @for (name, kind) in &columns { th scope="col" class=(kind) { (name) } } } }
                tbody {
                    @for (tone, cells) in rows {
                        tr class=(class(tone)) {
                            @for ((at, cell), (_, kind)) in cells.iter().enumerate().zip(&columns) {
                                @if at == 0 { th scope="row" class=(kind) { (cell) } }
                                @else { td class=(kind) { (cell) } }
                            }
                        }
                    }
                }
            }
        }
    }
}

/// A section with its heading.
pub(super) fn section(id: &str, title: &str, content: &Markup) -> Markup {
    html! {
        section {
            h2 id=(id) { (title) }
            (content)
        }
    }
}

/// A text as a cell.
pub(super) fn cell(said: &str) -> Markup {
    html! { (text(said)) }
}

/// A sentence of ours in which commands stand between backticks.
pub(super) fn sentence(said: &str) -> Markup {
    let said = text(said);
    html! {
        @for (at, part) in said.split('`').enumerate() {
            @if at % 2 == 1 { code { (part) } } @else { (part) }
        }
    }
}

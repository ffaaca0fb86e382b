//! The report as a page of HTML that needs nothing else: no script, no file from elsewhere. It follows the reader's light or dark colours,
//! and prints in black on white.

use super::{
    facts::{Facts, States},
    seal::{claim_line, sealed_html},
    sections,
};
use crate::{
    cli::{
        Failure,
        times::{show_count, show_text},
    },
    printable,
};

const STYLE: &str = "\
:root { color-scheme: light dark; --line: #8888; }
body { font: 16px/1.5 system-ui, sans-serif; margin: 0; }
main { max-width: 60rem; margin: 0 auto; padding: 1.5rem 1rem; }
h1 { font-size: 1.5rem; overflow-wrap: anywhere; }
h2 { font-size: 1.1rem; margin: 1.5rem 0 .5rem; }
table { border-collapse: collapse; width: 100%; }
.wide { overflow-x: auto; }
th, td { text-align: left; vertical-align: top; padding: .25rem .75rem .25rem 0; border-bottom: 1px solid var(--line); }
th { font-weight: 600; }
.n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
td, code { overflow-wrap: anywhere; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; font-size: .75rem; border-top: 1px solid var(--line); padding-top: .5rem; }
@media print { :root { color-scheme: light; } main { max-width: none; padding: 0; } tr { break-inside: avoid; } }";

/// The page.
///
/// # Errors
/// If what is checked cannot be written as JSON.
pub(super) fn page(facts: &Facts) -> Result<String, Failure> {
    let label = escaped(&facts.label);
    let mut html = format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<title>Report: {label}</title>\n\
         <style>\n{STYLE}\n</style>\n</head>\n<body>\n<main>\n<h1>What became of the deletions with the label {label}</h1>\n"
    );
    html.push_str("<h2>What was asked</h2>\n<table>\n");
    for (name, said) in sections::asked(facts) {
        html.push_str(&format!("<tr><th scope=\"row\">{name}</th><td>{}</td></tr>\n", escaped(&said)));
    }
    html.push_str("</table>\n<h2>What became of it</h2>\n<table>\n");
    for (state, count, said) in sections::states(facts) {
        let (count, said) = (show_count(count), escaped(&said));
        html.push_str(&format!("<tr><th scope=\"row\">{state}</th><td class=\"n\">{count}</td><td>{said}</td></tr>\n"));
    }
    html.push_str(&format!("</table>\n<h2>How it was verified</h2>\n<p>{}</p>\n", prose(&sections::verified(facts))));
    html.push_str(&agents(facts));
    html.push_str(&format!(
        "<h2>How to check this page</h2>\n<p><code>{}</code></p>\n<p>{}</p>\n<pre>\n{}",
        escaped(&sections::hashed(facts)),
        prose(sections::CHECKED),
        escaped(&claim_line(facts)?)
    ));
    Ok(sealed_html(&html))
}

fn agents(facts: &Facts) -> String {
    let (agents, more) = sections::agents(facts);
    let mut html =
        "<h2>Agents</h2>\n<div class=\"wide\" tabindex=\"0\" role=\"region\" aria-label=\"Agents\">\n<table>\n<tr>\
                    <th scope=\"col\">agent</th>"
            .to_owned();
    for state in ["deleted", "absent", "dead", "cancelled", "open"] {
        html.push_str(&format!("<th scope=\"col\" class=\"n\">{state}</th>"));
    }
    html.push_str("</tr>\n");
    for (agent, States { deleted, absent, dead, cancelled, open }) in agents {
        html.push_str(&format!("<tr><th scope=\"row\">{}</th>", escaped(&show_text(agent, 255))));
        for count in [deleted, absent, dead, cancelled, open] {
            html.push_str(&format!("<td class=\"n\">{}</td>", show_count(count)));
        }
        html.push_str("</tr>\n");
    }
    html.push_str("</table>\n</div>\n");
    if more > 0 {
        html.push_str(&format!("<p>and {} more agents: <code>--json</code> names all</p>\n", show_count(more as u64)));
    }
    html
}

/// Text on one line, as text of the page.
fn escaped(text: &str) -> String {
    let text = printable::line(text).replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    text.replace('"', "&quot;").replace('\'', "&#39;")
}

/// The same with a command between backticks.
fn prose(text: &str) -> String {
    escaped(text).replacen('`', "<code>", 1).replacen('`', "</code>", 1)
}

/// The text that was escaped.
pub(super) fn unescaped(html: &str) -> String {
    let text = html.replace("&lt;", "<").replace("&gt;", ">").replace("&quot;", "\"").replace("&#39;", "'");
    text.replace("&amp;", "&")
}

//! `sweeper report`: a page that says what became of the entries with a label, and the check of such a page.

mod canonical;
mod check;
mod facts;
mod html;
mod json;
mod seal;
mod sections;
mod text;

use std::{path::PathBuf, process::ExitCode};

use clap::Args;

use super::{
    Failure,
    arguments::label,
    fresh::FreshReader,
    names::unknown_label,
    output::OutputArgs,
    terminal::{report as say_done, warn_person},
};
use crate::{
    config::Config,
    model::{clock::Clock, label::Label},
    queue::report::{RecordChoice, Records},
};
use facts::Facts;

const EXAMPLES: &str = "\
Examples:
  sweeper report --label ERASURE-17
  sweeper report --label ERASURE-17 --html --output erasure-17.html
  sweeper report --label ERASURE-17 --json --rows --output erasure-17.json
  sweeper report --check erasure-17.json
  gpg --decrypt erasure-17.json.gpg | sweeper report --check -

The page has a SHA-256 over the wishes that it speaks of, and a seal over its own text. --check recomputes both: the file is what \
was written, and the queue says today what it said then. A check shows that something has changed, and not who has changed it. \
docs/proof.md has the exact form of the lines that are hashed.

Exit codes: 0 written, or unchanged; 1 there is no such label, it cannot be written, or something has changed; 2 usage or \
configuration, or the file is no report or cannot be read; 3 database unusable.";

/// Whose page, and in which form.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct ReportArgs {
    /// The label.
    #[arg(long, value_name = "LABEL", value_parser = label, required_unless_present = "check")]
    label: Option<Label>,
    /// Write a JSON object.
    #[arg(long, conflicts_with = "html")]
    json: bool,
    /// Write a page of HTML that needs nothing else.
    #[arg(long)]
    html: bool,
    /// With --json: also write the lines that are hashed, so that --check can name those that differ. They are kept in memory.
    #[arg(long)]
    rows: bool,
    /// Check this report, in any of the forms: whether it is as it was written, and whether the queue still says the same. With -,
    /// standard input is read.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["label", "json", "html", "rows", "output", "force"])]
    check: Option<PathBuf>,
    #[command(flatten)]
    output: OutputArgs,
}

/// Writes the page, or checks one.
///
/// # Errors
/// If the database or the file cannot be read, the file is no report, or the page cannot be written.
pub(super) async fn report(args: ReportArgs, config: &Config, clock: Clock) -> Result<ExitCode, Failure> {
    if let Some(file) = &args.check {
        return check::check(file, config, &clock).await;
    }
    let Some(label) = args.label else {
        return Err(Failure::Usage("give --label or --check".to_owned()));
    };
    if args.rows && !args.json {
        let said = "--rows goes with --json: text and HTML have no place for the lines that are hashed. Add --json, or leave --rows out";
        return Err(Failure::Usage(said.to_owned()));
    }
    let mut output = args.output.open(config)?;
    let facts = gather(&label, args.rows, config, &clock).await?;
    if facts.is_empty() {
        let none = || format!("there is no wish with the label {label}");
        warn_person(&unknown_label(&label, config).await?.unwrap_or_else(none));
        return Ok(ExitCode::from(1));
    }
    let page = match (args.json, args.html) {
        (true, _) => json::page(&facts)?,
        (false, true) => html::page(&facts)?,
        (false, false) => text::page(&facts)?,
    };
    let file = output.file().map(|file| file.display().to_string());
    output.write(&page)?;
    output.finish()?;
    if let Some(file) = file {
        say_done(&format!("{file}: written"));
    }
    Ok(ExitCode::SUCCESS)
}

/// Reads everything that the queue says about a label. `keeps`: with the lines that are hashed.
async fn gather(label: &Label, keeps: bool, config: &Config, clock: &Clock) -> Result<Facts, Failure> {
    let mut reader = FreshReader::new(config, clock);
    let enqueuers = reader.look(async |reader| reader.enqueuers(Some(label)).await).await?;
    let holds = reader.look(async |reader| reader.holds().await).await?;
    let mut facts = Facts::new(label.as_str(), config.store.name(), holds, keeps, clock.now());
    let mut records = Records::new(RecordChoice { label: Some(label.clone()), ..RecordChoice::default() });
    while let Some(page) = reader.look(async |reader| reader.records(&mut records).await).await? {
        for record in &page {
            facts.add(record, enqueuers.of(record));
        }
    }
    facts.end(clock.now());
    Ok(facts)
}

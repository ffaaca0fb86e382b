//! What is generated from the definitions of the command line: completions and manual pages.

use std::{io::Write as _, process::ExitCode};

use anyhow::Context as _;
use clap::{Args, CommandFactory as _};
use clap_complete::Shell;
use clap_mangen::Man;

use super::{Cli, Failure};

const COMPLETIONS_EXAMPLES: &str = "\
Examples:
  sweeper completions bash > /usr/share/bash-completion/completions/sweeper
  sweeper completions fish > ~/.config/fish/completions/sweeper.fish";

const MAN_EXAMPLES: &str = "\
Examples:
  sweeper man > /usr/local/share/man/man1/sweeper.1
  sweeper man run | man -l -";

/// What `completions` is given.
#[derive(Debug, Args)]
#[command(after_help = COMPLETIONS_EXAMPLES)]
pub struct CompletionsArgs {
    /// The shell.
    #[arg(value_name = "SHELL")]
    shell: Shell,
}

/// What `man` is given.
#[derive(Debug, Args)]
#[command(after_help = MAN_EXAMPLES)]
pub struct ManArgs {
    /// The command whose page it is to be; without one, the page of the program.
    #[arg(value_name = "COMMAND")]
    command: Option<String>,
}

/// Prints what completes our arguments.
///
/// # Errors
/// If it cannot be written.
pub fn completions(args: CompletionsArgs) -> Result<ExitCode, Failure> {
    let mut text = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "sweeper", &mut text);
    print(&text)
}

/// Prints a manual page.
///
/// # Errors
/// If there is no such command, or it cannot be written.
pub fn man(args: &ManArgs) -> Result<ExitCode, Failure> {
    let mut program = Cli::command();
    // Gives the subcommands their full names, and the options that all of them have.
    program.build();
    let command = match &args.command {
        None => program,
        Some(name) => {
            let names: Vec<&str> = program.get_subcommands().map(clap::Command::get_name).collect();
            let known = names.join(", ");
            let Some(command) = program.find_subcommand(name) else {
                return Err(Failure::Usage(format!("man: there is no command {name:?}; there are {known}")));
            };
            command.clone().version(env!("CARGO_PKG_VERSION")).display_name(format!("sweeper-{name}"))
        }
    };
    let mut text = Vec::new();
    let source = concat!("sweeper ", env!("CARGO_PKG_VERSION"));
    Man::new(command).source(source).render(&mut text).context("write the manual page")?;
    print(&text)
}

/// All at once, so that a reader that has seen enough ends it with an error and not with a panic.
fn print(text: &[u8]) -> Result<ExitCode, Failure> {
    std::io::stdout().write_all(text).context("write to standard output")?;
    Ok(ExitCode::SUCCESS)
}

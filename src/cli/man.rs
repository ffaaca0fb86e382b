//! `sweeper completions` and `sweeper man`: text generated from the definitions of the arguments.

use std::{
    io::{self, Write as _},
    process::ExitCode,
};

use anyhow::Context as _;
use clap::Args;
use clap_complete::Shell;
use clap_mangen::Man;

use super::{Failure, command_line, terminal::is_read, version};

const COMPLETIONS_EXAMPLES: &str = "\
Examples:
  sweeper completions bash > /usr/share/bash-completion/completions/sweeper
  sweeper completions fish > ~/.config/fish/completions/sweeper.fish";

const MAN_EXAMPLES: &str = "\
Examples:
  sweeper man > /usr/local/share/man/man1/sweeper.1
  sweeper man run | man -l -";

/// Whose completions to print.
#[derive(Debug, Args)]
#[command(after_help = COMPLETIONS_EXAMPLES)]
pub(super) struct CompletionsArgs {
    /// The shell.
    #[arg(value_name = "SHELL")]
    shell: Shell,
}

/// Which manual page to print.
#[derive(Debug, Args)]
#[command(after_help = MAN_EXAMPLES)]
pub(super) struct ManArgs {
    /// The command to describe. Without it, the page describes the program.
    #[arg(value_name = "COMMAND")]
    command: Option<String>,
}

/// Prints a completion script.
///
/// # Errors
/// If standard output cannot be written.
pub(super) fn completions(args: CompletionsArgs) -> Result<ExitCode, Failure> {
    let mut text = Vec::new();
    clap_complete::generate(args.shell, &mut command_line(), "sweeper", &mut text);
    print(&text)
}

/// Prints a manual page.
///
/// # Errors
/// If there is no such command, or standard output cannot be written.
pub(super) fn man(args: &ManArgs) -> Result<ExitCode, Failure> {
    // The build is of no interest to a page that many builds share.
    let mut program = command_line().long_version(version::SHORT);
    // Adds full names to the subcommands.
    program.build();
    let command = match &args.command {
        None => program,
        Some(name) => {
            let names: Vec<&str> = program.get_subcommands().map(clap::Command::get_name).collect();
            let known = names.join(", ");
            let Some(command) = program.find_subcommand(name) else {
                return Err(Failure::Usage(format!("man: there is no command {name:?}; there are {known}")));
            };
            command.clone().version(version::SHORT).display_name(format!("sweeper-{name}"))
        }
    };
    let mut text = Vec::new();
    let source = format!("sweeper {}", version::SHORT);
    Man::new(command).source(source).render(&mut text).context("write the manual page")?;
    print(&text)
}

/// Writes all of it at once. Printing as it is generated would panic when a reader such as `head` closes the pipe.
fn print(text: &[u8]) -> Result<ExitCode, Failure> {
    is_read(io::stdout().write_all(text))?;
    Ok(ExitCode::SUCCESS)
}

//! `sweeper grant`: the rights that a role of the server needs, and no others.

use std::process::ExitCode;

use clap::{ArgGroup, Args};

use super::{
    Failure,
    terminal::{report, say},
};
use crate::{
    config::Config,
    printable::is_harmful,
    queue::{
        either::Options,
        postgres::{Grant, GrantError},
    },
};

/// PostgreSQL cuts longer names off, in bytes.
const LONGEST: usize = 63;

const EXAMPLES: &str = "\
Examples:
  sweeper grant --producer app
  sweeper grant --producer app --operator ann --operator bob --apply
  sweeper grant --producer app | psql --single-transaction \"$DATABASE_URL\"

A producer may enqueue and read the rows. An operator may run every command except run, init and grant. A role of whoever only \
runs the daemon needs no grant: the daemon's role owns the tables. Run it again after an update of sweeper.

Exit codes: 0 printed or granted, 2 usage or configuration, 3 database unusable.";

/// Who gets rights.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES, group(ArgGroup::new("whom").required(true).multiple(true).args(["producer", "operator"])))]
pub(super) struct GrantArgs {
    /// This role of the server enqueues. Can be given several times.
    #[arg(long, value_name = "ROLE", value_parser = role)]
    producer: Vec<String>,
    /// This role of the server runs commands, such as status, hold and cancel. Can be given several times.
    #[arg(long, value_name = "ROLE", value_parser = role)]
    operator: Vec<String>,
    /// Grant the rights, in one transaction. Without this, the statements are printed.
    #[arg(long)]
    apply: bool,
}

fn role(text: &str) -> Result<String, String> {
    if text.is_empty() {
        Err("is empty".to_owned())
    } else if text.chars().any(|c| is_harmful(c) || c.is_control()) {
        Err("must be text on one line, without control characters".to_owned())
    } else if text.len() > LONGEST {
        Err(format!("has {} bytes: the name of a role has at most {LONGEST}", text.len()))
    } else {
        Ok(text.to_owned())
    }
}

/// Prints the statements, or executes them.
///
/// # Errors
/// If the queue is in a file, a role does not exist, or the database cannot be used.
pub(super) async fn grant(args: GrantArgs, config: &Config) -> Result<ExitCode, Failure> {
    let options = match &config.store {
        Options::Postgres(options) => options,
        Options::Sqlite(_) => {
            return Err(Failure::Usage(format!(
                "{}: the queue is in this file, whose permissions say who may use it; grant is for a queue on a PostgreSQL server \
                 (database.url)",
                config.store
            )));
        }
    };
    let producers = args.producer.iter().map(|role| (Grant::Producer, role.as_str()));
    let grants: Vec<(Grant, &str)> =
        producers.chain(args.operator.iter().map(|role| (Grant::Operator, role.as_str()))).collect();
    if args.apply {
        Grant::apply(&grants, options).await?;
        for (grant, role) in &grants {
            report(&format!("{}: granted: {}", config.store, purpose(*grant, role)));
        }
        return Ok(ExitCode::SUCCESS);
    }
    for (grant, role) in &grants {
        let mut lines = vec![format!("-- {}", purpose(*grant, role))];
        lines.extend(grant.statements(role).into_iter().map(|statement| format!("{statement};")));
        lines.push("-- To find the tables without the name of their schema, if nothing else is in the way:".to_owned());
        lines.push(format!("-- {};", Grant::search_path(role, options)));
        say(&lines.join("\n"))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn purpose(grant: Grant, role: &str) -> String {
    match grant {
        Grant::Producer => format!("{role} may enqueue, and read the rows"),
        Grant::Operator => format!("{role} may run every command except run, init and grant"),
    }
}

impl From<GrantError> for Failure {
    fn from(error: GrantError) -> Self {
        match error {
            GrantError::Open(error) => error.into(),
            error @ (GrantError::NoRole { .. } | GrantError::NotOwner { .. }) => Self::Usage(error.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_role_is_a_name_of_the_server_on_one_line() {
        assert_eq!(role("an \"app\""), Ok("an \"app\"".to_owned()));
        for (bad, said) in [("", "is empty"), ("a\nDROP", "on one line"), (&"ä".repeat(32), "has 64 bytes")] {
            assert!(role(bad).unwrap_err().contains(said), "{bad:?}");
        }
    }
}

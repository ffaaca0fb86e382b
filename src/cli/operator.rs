//! Who runs a command, for the table `acts`. A statement, and no proof: whoever may write the database can write any name.

use std::collections::HashMap;

use clap::Args;
use nix::unistd::getuid;

use crate::{
    model::{
        act::{ActKind, Draft, MAX_DETAIL, MAX_OPERATOR},
        outcome::Scope,
    },
    permission::user_name,
    printable::is_harmful,
};

/// The name for somebody whose name cannot be found out.
const UNKNOWN: &str = "unknown";

/// The option that names the operator.
#[derive(Debug, Args)]
pub(super) struct As {
    /// Your name in the table of acts, in the log and in status. Without this: the user who called sudo, or the login
    /// name. It is not checked.
    #[arg(long = "as", value_name = "NAME", value_parser = name)]
    operator: Option<String>,
}

/// Who runs this process.
#[derive(Debug)]
pub(super) struct Login {
    /// Who called sudo.
    sudo_user: Option<String>,
}

impl Login {
    pub(super) fn new(environment: &HashMap<String, String>) -> Self {
        Self { sudo_user: environment.get("SUDO_USER").cloned() }
    }

    /// An act of the operator.
    pub(super) fn act(&self, given: &As, kind: ActKind, scope: Option<Scope>, detail: Option<&str>) -> Draft {
        let sudo_user = || self.sudo_user.as_deref().and_then(harmless);
        let operator = given.operator.clone().or_else(sudo_user).or_else(login_name);
        let operator = operator.unwrap_or_else(|| UNKNOWN.to_owned());
        Draft { kind, operator, scope, detail: detail.map(|detail| clean(detail, MAX_DETAIL)) }
    }
}

/// The name of the user who started this process; without a name, the user's number.
fn login_name() -> Option<String> {
    let uid = getuid();
    let name = user_name(uid.as_raw()).as_deref().and_then(harmless);
    Some(name.unwrap_or_else(|| format!("uid {uid}")))
}

/// The name as the table takes it; `None` if there is none.
fn harmless(name: &str) -> Option<String> {
    Some(clean(name.trim(), MAX_OPERATOR)).filter(|name| !name.is_empty())
}

/// `text` without characters that act on a terminal or a line, cut to `most` characters.
fn clean(text: &str, most: usize) -> String {
    text.chars().map(|c| if is_harmful(c) { ' ' } else { c }).take(most).collect()
}

fn name(text: &str) -> Result<String, String> {
    one_line(text, MAX_OPERATOR)
}

/// Text that a person gives, on one line.
///
/// # Errors
/// A message, if it is empty, too long, or not on one line.
pub(super) fn one_line(text: &str, most: usize) -> Result<String, String> {
    let text = text.trim();
    let length = text.chars().count();
    if text.is_empty() {
        Err("is empty: leave the option out".to_owned())
    } else if text.chars().any(is_harmful) {
        Err("must be text on one line, without control characters".to_owned())
    } else if length > most {
        Err(format!("has {length} characters: at most {most} are kept"))
    } else {
        Ok(text.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whose_act_it_is_is_told_by_the_option_or_by_sudo_or_by_the_login() {
        let draft = |operator: Option<&str>, sudo_user: Option<&str>| {
            let login = Login { sudo_user: sudo_user.map(str::to_owned) };
            login.act(&As { operator: operator.map(str::to_owned) }, ActKind::Hold, None, Some("a\nb")).operator
        };
        let login = login_name().unwrap();
        assert_eq!(draft(Some("Ann"), Some("bob")), "Ann");
        assert_eq!(draft(None, Some("bob")), "bob");
        for odd in [None, Some(""), Some(" \n")] {
            assert_eq!(draft(None, odd), login, "{odd:?}");
        }
        assert_eq!(draft(None, Some("b\u{1b}[2Job")), "b [2Job");
        assert_eq!(draft(None, Some(&"ä".repeat(300))), "ä".repeat(MAX_OPERATOR));
    }

    #[test]
    fn a_name_is_one_line_of_text() {
        assert_eq!(name(" Ann Müller "), Ok("Ann Müller".to_owned()));
        for (bad, said) in [
            ("", "is empty"),
            (" ", "is empty"),
            ("a\nb", "on one line"),
            ("a\u{202e}b", "on one line"),
            (&"a".repeat(101), "has 101 characters: at most 100"),
        ] {
            assert!(name(bad).unwrap_err().contains(said), "{bad:?}");
        }
    }
}

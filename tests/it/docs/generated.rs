//! Pages that are made of what the program says of itself. `UPDATE_DOCS=1 cargo test --test it docs::generated` writes them anew.

use std::{env, fmt::Write as _, fs};

use super::root;
use crate::daemon::sweeper;

/// Compares the page with what it must be, or writes it.
fn is_current(path: &str, expected: &str) {
    let file = root().join(path);
    if env::var_os("UPDATE_DOCS").is_some() {
        fs::write(&file, expected).unwrap();
    }
    let found = fs::read_to_string(&file).unwrap_or_default();
    assert!(found == expected, "{path} is stale: UPDATE_DOCS=1 cargo test --test it docs::generated writes it anew");
}

/// A line `key = value` or `# key = value` of a TOML file.
fn setting(line: &str) -> Option<(&str, &str, bool)> {
    let (is_set, text) = line.strip_prefix("# ").map_or((true, line), |text| (false, text));
    let (key, value) = text.split_once(" = ")?;
    let is_key = !key.is_empty() && key.chars().all(|c| c.is_ascii_lowercase() || c == '_');
    is_key.then_some((key, value, is_set))
}

/// The page made of config/default.toml: its sections, keys, defaults and comments.
fn configuration(toml: &str) -> String {
    let mut page = String::from(
        "# Configuration\n\nWhich settings are there, what is their default, and what do they mean? This page is made of\n\
         [`config/default.toml`](../config/default.toml), which is compiled in. `sweeper check` prints the settings in effect and \
         what is wrong with them.\n\n",
    );
    let (mut section, mut comment) = (String::new(), String::new());
    for line in toml.lines() {
        if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            section = name.to_owned();
            let heading = format!("## [{section}]\n\n");
            page.push_str(&heading);
        } else if let Some((key, value, is_set)) = setting(line) {
            let variable = format!("SWEEPER__{}__{}", section.to_uppercase(), key.to_uppercase());
            let default = if is_set { format!("`{value}`") } else { format!("none; for example `{value}`") };
            writeln!(page, "### `{section}.{key}`\n\nDefault: {default}. Variable: `{variable}`.\n\n{comment}")
                .unwrap();
            comment.clear();
        } else if let Some(text) = line.strip_prefix("# ") {
            comment.push_str(text);
            comment.push('\n');
        } else if line.is_empty() && section.is_empty() {
            // The comment at the head of the file.
            writeln!(page, "{comment}").unwrap();
            comment.clear();
        } else {
            assert!(line.is_empty(), "config/default.toml: {line:?} is neither a key nor a comment");
        }
    }
    assert_eq!(comment, "", "a comment without a key");
    page.truncate(page.trim_end().len());
    page + "\n"
}

#[test]
fn the_page_on_configuration_is_what_default_toml_says() {
    let toml = fs::read_to_string(root().join("config/default.toml")).unwrap();
    is_current("docs/configuration.md", &configuration(&toml));
}

/// The help text of a command, for a terminal of 100 columns.
fn help(arguments: &[&str]) -> String {
    let dir = tempfile::tempdir().unwrap();
    let output = sweeper(dir.path()).args(arguments).arg("--help").env("COLUMNS", "100").output().unwrap();
    assert!(output.status.success(), "{arguments:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().map(str::trim_end).collect::<Vec<_>>().join("\n")
}

#[test]
fn the_page_on_the_commands_is_what_their_help_says() {
    let top = help(&[]);
    let commands: Vec<&str> = top
        .split("Commands:\n")
        .nth(1)
        .unwrap()
        .lines()
        .take_while(|line| !line.is_empty())
        .filter_map(|line| line.strip_prefix("  ")?.split(' ').next())
        .filter(|name| !name.is_empty() && *name != "help")
        .collect();
    assert!(commands.len() >= 12, "{commands:?}");
    let mut page = String::from(
        "# Commands\n\nWhich commands and options are there? This page has what `sweeper COMMAND --help` prints.\n",
    );
    for command in std::iter::once("").chain(commands) {
        let name = format!("sweeper {command}");
        let text = if command.is_empty() { top.clone() } else { help(&[command]) };
        write!(page, "\n## `{}`\n\n```text\n{text}\n```\n", name.trim_end()).unwrap();
    }
    is_current("docs/reference-cli.md", &page);
}

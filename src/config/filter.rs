//! `log.filter`: directives of `EnvFilter`, without the slips that would silence the log.

use tracing_subscriber::EnvFilter;

use super::nearest::nearest;

const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];

/// Checks the directives. Returns them without the white space around each, which `EnvFilter` would take for a part of a name.
///
/// # Errors
/// A message that names the directive that is wrong, and what is allowed.
pub(super) fn parse(written: &str) -> Result<String, String> {
    let directives: Vec<&str> = written.split(',').map(str::trim).filter(|directive| !directive.is_empty()).collect();
    if directives.is_empty() {
        return Err(format!("names no level. {}", allowed()));
    }
    for directive in &directives {
        check(directive).map_err(|problem| {
            // The caller names the whole text. So a directive is named only if there are others.
            if *directive == written { problem } else { format!("{directive:?}: {problem}") }
        })?;
    }
    let filter = directives.join(",");
    EnvFilter::try_new(&filter).map_err(|problem| format!("{problem}. {}", allowed()))?;
    Ok(filter)
}

/// Refuses a word that is no level. `EnvFilter` would take the word for a target, and log nothing else.
fn check(directive: &str) -> Result<(), String> {
    let level = match directive.rsplit_once(['=', ']']) {
        // `target=` and `[span]` stand for all levels.
        Some((_, "")) => return Ok(()),
        Some((_, level)) => level,
        None if directive.contains('[') => return Ok(()),
        None => directive,
    };
    // `EnvFilter` takes numbers, too, whose order nobody knows by heart.
    if LEVELS.iter().any(|known| known.eq_ignore_ascii_case(level)) {
        return Ok(());
    }
    let named = if level == directive { String::new() } else { format!("{level:?} is ") };
    let meant = nearest(level, LEVELS).map(|meant| format!("; did you mean {meant}?"));
    Err(format!("{named}not a level{} {}", meant.as_deref().unwrap_or("."), allowed()))
}

fn allowed() -> String {
    format!("Allowed: {}, or directives such as info,sqlx=warn", LEVELS.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_that_is_no_level_is_refused_alone_in_a_list_and_behind_a_target() {
        let cases = [
            ("warning", "not a level; did you mean warn?"),
            ("WARNING", "not a level; did you mean warn?"),
            (" warning", "\"warning\": not a level; did you mean warn?"),
            ("verbose", "not a level. Allowed: off, error, warn, info, debug, trace"),
            ("eror", "not a level; did you mean error?"),
            ("info,warnign", "\"warnign\": not a level; did you mean warn?"),
            ("info, dbug", "\"dbug\": not a level; did you mean debug?"),
            ("hyper", "or directives such as info,sqlx=warn"),
            ("6", "not a level"),
            ("5", "not a level. Allowed: off, error"),
            ("info,hyper=0", "\"hyper=0\": \"0\" is not a level"),
            ("worker=loud", "\"loud\" is not a level"),
            ("info,hyper=warning", "\"hyper=warning\": \"warning\" is not a level; did you mean warn?"),
            ("", "names no level"),
            (" , ", "names no level"),
            ("in fo", "not a level"),
            ("[a", "invalid filter directive"),
            ("?", "not a level"),
        ];
        for (written, said) in cases {
            let problem = parse(written).unwrap_err();
            assert!(problem.contains(said), "{written:?}: {problem}");
        }
    }

    #[test]
    fn levels_and_directives_are_taken_without_the_white_space_around_them() {
        let cases = [
            ("info", "info"),
            ("WARN", "WARN"),
            ("off", "off"),
            ("info\r", "info"),
            ("info, hyper=warn ,", "info,hyper=warn"),
            ("anything::at_all=debug", "anything::at_all=debug"),
            ("hyper=", "hyper="),
            ("info,[request]", "info,[request]"),
            ("info,hyper[request]=trace", "info,hyper[request]=trace"),
            ("info,[request{agent=a}]=debug", "info,[request{agent=a}]=debug"),
        ];
        for (written, filter) in cases {
            assert_eq!(parse(written).as_deref(), Ok(filter), "{written:?}");
        }
    }
}

//! How the program is called: without a command, for its version, with `--config`, and with a reader that goes away.

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
};

use audio_cache_sweeper::queue::sqlite;

use crate::{
    daemon::{clean, queue, skipped, sweeper},
    enqueue::fed,
};

fn run(dir: &Path, arguments: &[&str]) -> (i32, String, String) {
    let mut command = sweeper(dir);
    command.args(arguments);
    fed(command, "")
}

#[test]
fn without_a_command_it_prints_its_help_and_touches_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (_, help, _) = run(dir.path(), &["--help"]);
    let mut bare = sweeper(dir.path());
    bare.env("SWEEPER__API__KEY", "s3cret-key");
    assert_eq!(fed(bare, ""), (2, String::new(), help.clone()));
    assert_eq!(run(dir.path(), &["help"]), (0, help, String::new()));
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn the_version_is_short_or_with_sqlite_and_the_target() {
    let dir = tempfile::tempdir().unwrap();
    let version = env!("CARGO_PKG_VERSION");
    assert_eq!(run(dir.path(), &["-V"]), (0, format!("sweeper {version}\n"), String::new()));
    let (_, page, _) = run(dir.path(), &["man"]);
    assert!(page.contains(&format!("v{version}\n")) && !page.contains("SQLite 3"), "{page}");
    let (code, long, _) = run(dir.path(), &["--version"]);
    assert!(code == 0 && long.starts_with(&format!("sweeper {version}\n")), "{long}");
    assert!(long.contains(&format!("\nSQLite {}\ntarget ", sqlite::version())), "{long}");
    let target = long.lines().find_map(|line| line.strip_prefix("target ")).unwrap();
    assert!(target.starts_with(std::env::consts::ARCH) && target.contains(std::env::consts::OS), "{target}");
}

#[test]
fn the_version_of_sqlite_is_that_of_the_library_in_use() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let in_use = runtime.block_on(async {
        queue(dir.path(), 1).await;
        crate::daemon::sql(dir.path(), "SELECT sqlite_version()").await
    });
    assert_eq!(in_use, [(sqlite::version().to_owned(),)]);
}

/// The build script, compiled into this directory; `None` if there is no compiler.
fn build_script(dir: &Path) -> Option<std::path::PathBuf> {
    let script = dir.join("build-script");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("build.rs");
    let compiled = Command::new("rustc").args(["--edition", "2024", "-o"]).arg(&script).arg(source).output();
    match compiled {
        Ok(output) => assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr)),
        Err(error) => {
            skipped(&format!("rustc cannot be started: {error}"));
            return None;
        }
    }
    Some(script)
}

/// What the script tells of the commit, and the files after whose change cargo runs it again.
fn told(script: &Path, dir: &Path, profile: &str, given: &str) -> (String, Vec<String>) {
    let mut command = clean(script.to_str().unwrap(), dir);
    command.env("PROFILE", profile).env("TARGET", "here").env("SWEEPER_BUILD_COMMIT", given);
    let (code, out, err) = fed(command, "");
    assert_eq!(code, 0, "{err}");
    let all = |key: &str| {
        let of_it = out.lines().filter_map(|line| line.strip_prefix(key).map(str::to_owned));
        of_it.collect::<Vec<_>>()
    };
    assert_eq!(all("cargo:rustc-env=SWEEPER_TARGET="), ["here"]);
    (all("cargo:rustc-env=SWEEPER_COMMIT=").concat(), all("cargo:rerun-if-changed="))
}

#[test]
fn a_build_knows_its_commit_from_git_or_from_a_variable_and_goes_on_without() {
    let dir = tempfile::tempdir().unwrap();
    let Some(script) = build_script(dir.path()) else { return };
    let archive = dir.path().join("archive");
    fs::create_dir(&archive).unwrap();
    assert_eq!(told(&script, &archive, "release", ""), (String::new(), vec!["build.rs".to_owned()]));
    assert_eq!(told(&script, &archive, "release", "abc1234\n").0, "abc1234");
    let git = |arguments: &[&str]| {
        let mut command = clean("git", dir.path());
        command.args(["-c", "user.name=n", "-c", "user.email=e@localhost"]).args(arguments);
        command.stdout(Stdio::null()).stderr(Stdio::null()).status()
    };
    if !git(&["init"]).is_ok_and(|status| status.success()) {
        return skipped("git cannot be started");
    }
    assert_eq!(told(&script, dir.path(), "release", "given").0, "given", "no commit yet");
    git(&["commit", "--allow-empty", "-m", "one"]).unwrap();
    let (commit, files) = told(&script, dir.path(), "release", "given");
    assert!(commit.len() >= 7 && commit.bytes().all(|byte| byte.is_ascii_hexdigit()), "{commit}");
    assert!(files.len() >= 3 && files[1..].iter().all(|file| dir.path().join(file).exists()), "{files:?}");
    git(&["commit", "--allow-empty", "-m", "two"]).unwrap();
    assert_ne!(told(&script, dir.path(), "release", "").0, commit);
    assert_eq!(told(&script, dir.path(), "debug", "").0, "", "a commit does not compile a debug build anew");
    assert_eq!(told(&script, &archive, "release", "").0, "", "the commit of a repository around it is another's");
}

#[test]
fn a_configuration_file_is_offered_where_one_is_read_and_nowhere_else() {
    let dir = tempfile::tempdir().unwrap();
    let (_, help, _) = run(dir.path(), &["--help"]);
    let commands = help.split("\nCommands:\n").nth(1).unwrap().split("\n\n").next().unwrap();
    let commands = commands.lines().filter_map(|line| line.strip_prefix("  ")).filter(|line| !line.starts_with(' '));
    let commands: Vec<&str> = commands.map(|line| line.split(' ').next().unwrap()).collect();
    assert!(commands.len() >= 14, "{commands:?}");
    assert!(!help.contains("--config <FILE>"));
    let without = ["demo", "sandbox", "completions", "man"];
    let (_, fish, _) = run(dir.path(), &["completions", "fish"]);
    for command in commands.into_iter().filter(|command| *command != "help") {
        let reads = !without.contains(&command);
        let (_, help, _) = run(dir.path(), &[command, "--help"]);
        assert_eq!(help.contains("--config <FILE>"), reads, "{command}");
        let (_, page, _) = run(dir.path(), &["man", command]);
        assert_eq!(page.contains("\\-\\-config"), reads, "{command}");
        let completed = fish.lines().any(|line| {
            line.contains(&format!("__fish_sweeper_using_subcommand {command}\"")) && line.contains("-l config")
        });
        assert_eq!(completed, reads, "{command}");
    }
}

#[test]
fn a_configuration_file_where_none_is_read_is_an_error_that_says_where_it_goes() {
    let dir = tempfile::tempdir().unwrap();
    let said = "sweeper: --config follows the command that reads the file, as in `sweeper run --config FILE`; demo, sandbox, \
                completions, man read none\n";
    for arguments in [
        &["--config", "x.toml", "status"][..],
        &["--config=x.toml", "run"],
        &["demo", "--config", "x.toml"],
        &["sandbox", "--config=x.toml"],
        &["man", "--config", "x.toml"],
        &["completions", "bash", "--config", "x.toml"],
    ] {
        assert_eq!(run(dir.path(), arguments), (2, String::new(), said.to_owned()), "{arguments:?}");
    }
}

#[tokio::test]
async fn a_reader_that_goes_away_is_no_error() {
    let dir = tempfile::tempdir().unwrap();
    queue(dir.path(), 3).await;
    for arguments in [
        &["status", "--watch=10ms", "--json"][..],
        &["status", "--watch=10ms"],
        &["status"],
        &["show", "a", "1"],
        &["retry", "--all", "--dry-run"],
        &["cancel", "--all", "--dry-run"],
        &["init"],
        &["completions", "bash"],
        &["man"],
        &["help"],
        &["--version"],
    ] {
        let mut command = sweeper(dir.path());
        command.args(arguments);
        let (closed, out) = std::io::pipe().unwrap();
        drop(closed);
        let ended = command.stdout(out).stderr(Stdio::piped()).output().unwrap();
        assert_eq!(
            (ended.status.code(), String::from_utf8(ended.stderr).unwrap()),
            (Some(0), String::new()),
            "{arguments:?}"
        );
    }
    let mut check = sweeper(dir.path());
    let (closed, out) = std::io::pipe().unwrap();
    drop(closed);
    let ended = check.arg("check").stdout(out).stderr(Stdio::piped()).output().unwrap();
    assert_eq!(ended.status.code(), Some(2), "what is wrong is wrong whether or not anybody reads on");
    let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let ended = sweeper(dir.path()).arg("status").stdout(full).stderr(Stdio::piped()).output().unwrap();
    let said = String::from_utf8(ended.stderr).unwrap();
    assert!(ended.status.code() == Some(1) && said.contains("write to standard output: No space left"), "{said}");
}

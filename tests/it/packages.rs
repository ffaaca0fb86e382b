//! The Debian package, made of the binary at hand: its content, and a start from a directory into which it was unpacked.

use std::{
    env, fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

use audio_cache_sweeper::{config::DEFAULT_FILE, sandbox::Options};
use tempfile::TempDir;

use crate::{
    daemon::{BINARY, KEY, clean, configure, finish, sandbox, skipped},
    deploy::{all, text},
};

const NAME: &str = "audio-cache-sweeper";
const VERSION: &str = env!("CARGO_PKG_VERSION");
const UNITS: &str = "usr/lib/systemd/system";

const HAS: [&str; 14] = [
    "usr/bin/sweeper",
    "etc/sweeper/sweeper.toml",
    "usr/lib/systemd/system/sweeper.service",
    "usr/lib/systemd/system/sweeper@.service",
    "usr/lib/sysusers.d/audio-cache-sweeper.conf",
    "usr/lib/tmpfiles.d/audio-cache-sweeper.conf",
    "usr/share/bash-completion/completions/sweeper",
    "usr/share/zsh/vendor-completions/_sweeper",
    "usr/share/fish/vendor_completions.d/sweeper.fish",
    "usr/share/doc/audio-cache-sweeper/copyright",
    "usr/share/doc/audio-cache-sweeper/changelog.gz",
    "usr/share/doc/audio-cache-sweeper/changelog.Debian.gz",
    "usr/share/doc/audio-cache-sweeper/docs/deploy-systemd.md",
    "usr/share/doc/audio-cache-sweeper/config/default.toml",
];

/// Whether a program is there and succeeds.
fn succeeds(program: &str, arguments: &[&str]) -> bool {
    Command::new(program).args(arguments).output().is_ok_and(|output| output.status.success())
}

/// Standard output of a command that must succeed.
fn said(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// What dpkg-deb prints about a package.
fn dpkg_deb(option: &str, package: &Path) -> String {
    said(Command::new("dpkg-deb").arg(option).arg(package))
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

/// Packages the binary of this build.
fn made_in(name: &str) -> PathBuf {
    made_by(name, &[]).0
}

/// The same, with these variables: the package, and what is said of it.
fn made_by(name: &str, variables: &[(&str, &str)]) -> (PathBuf, String) {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let _ = fs::remove_dir_all(&dir);
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging/deb");
    let mut command = Command::new(script);
    command.arg(BINARY).arg(&dir).arg("--fast").env("SOURCE_DATE_EPOCH", "1700000000");
    let output = command.env_remove("DEBEMAIL").env_remove("DEBFULLNAME").envs(variables.iter().copied()).output();
    let output = output.unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{stderr}");
    let made = files(&dir);
    assert_eq!(made.len(), 1, "{made:?}");
    (made[0].clone(), stderr)
}

/// Who is named as the maintainer of a package, and in its changelog.
fn maintainers(package: &Path) -> [String; 2] {
    let dir = tempfile::tempdir().unwrap();
    said(Command::new("dpkg-deb").arg("--extract").arg(package).arg(dir.path()));
    let changelog = dir.path().join("usr/share/doc/audio-cache-sweeper/changelog.Debian.gz");
    let changelog = said(Command::new("gzip").args(["--decompress", "--stdout"]).arg(changelog));
    let signed = all(r"(?m)^ -- (.*)  \w{3}, .*$", &changelog).concat().remove(0);
    let field = said(Command::new("dpkg-deb").arg("--field").arg(package).arg("Maintainer"));
    [field.trim().to_owned(), signed]
}

/// The package; `None` if it cannot be made here, which is said aloud.
fn package() -> Option<&'static Path> {
    static PACKAGE: OnceLock<Option<PathBuf>> = OnceLock::new();
    let made = PACKAGE.get_or_init(|| {
        if !succeeds("cargo", &["deb", "--version"]) {
            skipped("there is no cargo-deb that makes a package: cargo install cargo-deb --locked");
        } else if !succeeds("dpkg-deb", &["--version"]) {
            skipped("there is no dpkg-deb that unpacks a package");
        } else {
            return Some(made_in("package"));
        }
        None
    });
    made.as_deref()
}

/// The package in a directory of its own.
fn unpacked() -> Option<TempDir> {
    let dir = tempfile::tempdir().unwrap();
    said(Command::new("dpkg-deb").arg("--extract").arg(package()?).arg(dir.path()));
    Some(dir)
}

#[test]
fn the_package_has_what_debian_expects_where_debian_expects_it() {
    let Some(package) = package() else { return };
    let content = dpkg_deb("--contents", package);
    for line in content.lines() {
        let (mode, path) = (line.split(' ').next().unwrap(), line.rsplit(' ').next().unwrap());
        let expected = match path {
            "./usr/bin/sweeper" => "-rwxr-xr-x",
            _ if path.ends_with('/') => "drwxr-xr-x",
            _ => "-rw-r--r--",
        };
        assert_eq!(mode, expected, "{path}");
        assert!(line.contains(" 0/0 "), "{path} is not root's");
    }
    for path in HAS {
        assert!(content.contains(&format!(" ./{path}\n")), "{path} is not in\n{content}");
    }
    let field = |name: &str| said(Command::new("dpkg-deb").arg("--field").arg(package).arg(name)).trim().to_owned();
    assert_eq!((field("Package").as_str(), field("Version")), (NAME, format!("{VERSION}-1")));
    assert!(field("Depends").contains("ca-certificates"), "the API's certificate is checked against the system's");
    assert_eq!(field("Conflicts"), "sweeper", "KDE's package of this name has /usr/bin/sweeper, too");
    let conffiles = said(Command::new("dpkg-deb").arg("--info").arg(package).arg("conffiles"));
    assert_eq!(conffiles, format!("{DEFAULT_FILE}\n"));
}

#[test]
fn every_command_has_its_page_and_the_shells_know_them() {
    let Some(dir) = unpacked() else { return };
    let binary = dir.path().join("usr/bin/sweeper");
    let help = said(clean(binary.to_str().unwrap(), dir.path()).arg("--help"));
    let commands = all(r"(?m)^  ([a-z]+)  ", help.split("Commands:").nth(1).unwrap().split("Options:").next().unwrap());
    assert!(commands.len() > 15, "{commands:?}");
    let man = dir.path().join("usr/share/man/man1");
    let completions = ["bash-completion/completions/sweeper", "zsh/vendor-completions/_sweeper"]
        .map(|file| fs::read_to_string(dir.path().join("usr/share").join(file)).unwrap());
    for name in commands.concat() {
        let page = man.join(format!("sweeper-{name}.1.gz"));
        let page = said(Command::new("gzip").args(["--decompress", "--stdout"]).arg(&page));
        assert!(page.contains(&format!(".TH sweeper-{name} 1")), "{page}");
        assert!(completions.iter().all(|shell| shell.contains(&name)), "{name}");
    }
    assert_eq!(files(&man).len(), commands.len() + 1, "and the page of the program");
    let licences = dir.path().join("usr/share/doc/audio-cache-sweeper/THIRD-PARTY-LICENSES.gz");
    let licences = said(Command::new("gzip").args(["--decompress", "--stdout"]).arg(licences));
    assert!(licences.contains("\ntokio 1") && licences.contains("MIT License"));
    assert!(!licences.contains("\nproptest "), "the binary does not have what the tests use");
}

#[test]
fn the_units_start_what_the_package_has() {
    let Some(dir) = unpacked() else { return };
    for name in ["sweeper.service", "sweeper@.service"] {
        let unit = fs::read_to_string(dir.path().join(UNITS).join(name)).unwrap();
        assert!(unit.starts_with("[Unit]\n"), "nobody installs it by hand");
        let started = all(r"(?m)^ExecStart=/(\S+) run --config /(\S+)$", &unit).concat();
        let mode = fs::metadata(dir.path().join(&started[0])).unwrap().permissions().mode();
        assert_eq!(mode & 0o111, 0o111);
        assert!(name.contains('@') || dir.path().join(&started[1]).is_file(), "{}", started[1]);
        let user = all(r"(?m)^User=(\S+)$", &unit).concat();
        let users = fs::read_to_string(dir.path().join("usr/lib/sysusers.d/audio-cache-sweeper.conf")).unwrap();
        assert!(users.contains(&format!("\nu {} - ", user[0])), "{users}");
        if !succeeds("systemd-analyze", &["--version"]) {
            skipped("there is no systemd-analyze that reads the packaged units");
            continue;
        }
        let here = dir.path().join(name);
        fs::write(&here, unit.replace("=/usr/", &format!("={}/usr/", dir.path().display()))).unwrap();
        let output = Command::new("systemd-analyze").args(["verify", "--man=no"]).arg(&here).output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        // Other units of this machine may have their own faults.
        assert_eq!(stderr.lines().filter(|line| line.contains("sweeper")).collect::<Vec<_>>(), [""; 0], "{name}");
    }
}

#[tokio::test]
async fn the_packaged_program_empties_a_queue_with_the_packaged_configuration() {
    let Some(dir) = unpacked() else { return };
    let sandbox = sandbox(Options::default()).await;
    let at = |path: &str| dir.path().join(path.trim_start_matches('/')).display().to_string();
    let packaged = fs::read_to_string(at(DEFAULT_FILE)).unwrap();
    let (database, key) = ("\"/var/lib/sweeper/sweeper.db\"", "\"/etc/sweeper/key\"");
    assert!(packaged.contains(database) && packaged.contains(key), "{packaged}");
    fs::create_dir_all(at("/var/lib/sweeper")).unwrap();
    fs::write(at("/etc/sweeper/key"), KEY).unwrap();
    let queue = at("/var/lib/sweeper/sweeper.db");
    let redirected =
        packaged.replace(database, &format!("{queue:?}")).replace(key, &format!("{:?}", at("/etc/sweeper/key")));
    fs::write(at(DEFAULT_FILE), redirected).unwrap();
    let sweeper = |arguments: &[&str]| {
        let mut command = configure(clean(&at("/usr/bin/sweeper"), dir.path()), &sandbox);
        // The file names the key.
        command.env_remove("SWEEPER__API__KEY").env("SWEEPER_CONFIG", at(DEFAULT_FILE)).args(arguments);
        finish(command)
    };
    assert!(sweeper(&["--version"]).await.1.starts_with(&format!("sweeper {VERSION}\n")));
    let (code, stdout, stderr) = sweeper(&["check"]).await;
    assert_eq!(code, 0, "{stderr}");
    assert!(stdout.contains(&format!("database.path = {queue}\n")), "{stdout}");
    assert_eq!(sweeper(&["enqueue", "--create", "--agent", "a", "1", "2"]).await.0, 0);
    let (code, _, stderr) = sweeper(&["run", "--until-empty"]).await;
    assert_eq!(code, 0, "{stderr}");
    let status: serde_json::Value = serde_json::from_str(&sweeper(&["status", "--json"]).await.1).unwrap();
    assert_eq!(status["rows"]["deleted"], 2, "{status}");
}

#[test]
fn whoever_makes_the_package_is_its_maintainer_and_nobody_is_made_up() {
    let Some(package) = package() else { return };
    assert_eq!(maintainers(package), ["The audio-cache-sweeper authors <root@localhost>"; 2]);
    let named = [("DEBFULLNAME", "Ann Example"), ("DEBEMAIL", "ann@example.org")];
    let (package, stderr) = made_by("package-of-ann", &named);
    assert_eq!(maintainers(&package), ["Ann Example <ann@example.org>"; 2]);
    assert!(!stderr.contains("DEBEMAIL"), "{stderr}");
}

#[test]
fn the_maintainer_is_told_as_to_debians_own_tools() {
    let maintainer = |variables: &[(&str, &str)]| {
        let mut command = Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging/maintainer"));
        command.env_remove("DEBEMAIL").env_remove("DEBFULLNAME").envs(variables.iter().copied());
        let output = command.output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        (output.status.code(), text(output.stdout), text(output.stderr))
    };
    let authors = "The audio-cache-sweeper authors";
    for (variables, named) in [
        (&[("DEBEMAIL", "ann@example.org")][..], format!("{authors} <ann@example.org>\n")),
        (&[("DEBEMAIL", "Ann Example <ann@example.org>")], "Ann Example <ann@example.org>\n".to_owned()),
        (&[("DEBFULLNAME", "Ann"), ("DEBEMAIL", "Bob <ann@example.org>")], "Ann <ann@example.org>\n".to_owned()),
    ] {
        assert_eq!(maintainer(variables), (Some(0), named, String::new()));
    }
    for (variables, named) in [(&[][..], authors), (&[("DEBFULLNAME", "Ann"), ("DEBEMAIL", "")], "Ann")] {
        let (code, out, err) = maintainer(variables);
        assert_eq!((code, out), (Some(0), format!("{named} <root@localhost>\n")));
        assert!(err.contains("note: DEBEMAIL is not set") && err.contains("<root@localhost>"), "{err}");
    }
    for address in ["ann", "ann@", "@example.org", "ann@example.org, bob@example.org", "a@b@c", "<ann@example.org"] {
        let (code, out, err) = maintainer(&[("DEBEMAIL", address)]);
        assert_eq!((code, out.as_str()), (Some(1), ""), "{address}");
        assert!(err.contains(&format!("DEBEMAIL: \"{address}\" is no address")), "{err}");
    }
}

#[test]
fn a_package_made_again_is_the_same_package() {
    let Some(package) = package() else { return };
    assert!(fs::read(package).unwrap() == fs::read(made_in("package-again")).unwrap());
}

/// dpkg, on this directory in place of /: as on a machine on which nothing was installed.
fn dpkg(root: &Path, arguments: &[&str]) -> String {
    let mut command = Command::new("dpkg");
    command.arg(format!("--root={}", root.display())).args(["--force-script-chrootless", "--force-depends"]);
    said(command.args(arguments))
}

#[test]
fn dpkg_installs_and_purges_it_and_the_queue_stays() {
    let Some(package) = package() else { return };
    if !nix::unistd::geteuid().is_root() || !succeeds("systemd-sysusers", &["--version"]) {
        return skipped("only root can install into a directory, by dpkg and systemd-sysusers");
    }
    let dir = tempfile::tempdir().unwrap();
    for state in ["updates", "info"] {
        fs::create_dir_all(dir.path().join("var/lib/dpkg").join(state)).unwrap();
    }
    fs::write(dir.path().join("var/lib/dpkg/status"), "").unwrap();
    let install = ["--install", package.to_str().unwrap()];
    let first = dpkg(dir.path(), &install);
    assert!(first.contains("systemctl enable --now sweeper"), "{first}");
    let passwd = fs::read_to_string(dir.path().join("etc/passwd")).unwrap();
    assert!(passwd.starts_with("sweeper:") && passwd.contains(":/var/lib/sweeper:/usr/sbin/nologin\n"), "{passwd}");
    assert!(fs::read_to_string(dir.path().join("etc/group")).unwrap().starts_with("sweeper:"));
    let state = dir.path().join("var/lib/sweeper");
    assert_eq!(fs::metadata(&state).unwrap().permissions().mode() & 0o7777, 0o2770, "the group enqueues");
    // What an administrator and the daemon have made since.
    let configuration = dir.path().join("etc/sweeper/sweeper.toml");
    fs::write(&configuration, "[api]\nregion = \"eu\"\n").unwrap();
    let wants = dir.path().join("etc/systemd/system/multi-user.target.wants");
    fs::create_dir_all(&wants).unwrap();
    for unit in ["sweeper.service", "sweeper@bakery.service"] {
        std::os::unix::fs::symlink("/usr/lib/systemd/system/sweeper.service", wants.join(unit)).unwrap();
    }
    let kept = ["var/lib/sweeper/sweeper.db", "etc/sweeper/key"].map(|path| dir.path().join(path));
    kept.iter().for_each(|path| fs::write(path, "precious").unwrap());

    let again = dpkg(dir.path(), &install);
    assert!(!again.contains("systemctl"), "an upgrade needs no instructions: {again}");
    assert!(fs::read_to_string(&configuration).unwrap().contains("eu"), "dpkg keeps what was changed");
    dpkg(dir.path(), &["--remove", NAME]);
    assert!(configuration.exists() && !dir.path().join("usr/bin/sweeper").exists());
    let purged = dpkg(dir.path(), &["--purge", NAME]);
    assert!(!configuration.exists() && files(&wants).is_empty());
    assert!(kept.iter().all(|path| path.exists()), "{purged}");
    assert!(purged.contains("/var/lib/sweeper is kept") && purged.contains("/etc/sweeper is kept"), "{purged}");
}

/// Changes this machine: with `SWEEPER_PACKAGES=install` only.
#[test]
fn it_can_be_installed_on_this_machine() {
    if env::var("SWEEPER_PACKAGES").map_or(true, |asked| asked != "install") {
        return skipped("SWEEPER_PACKAGES=install cargo test packages installs the package on this machine, as root");
    }
    let Some(package) = package() else { return };
    let dir = tempfile::tempdir().unwrap();
    said(Command::new("dpkg").arg("--install").arg(package));
    let sweeper = |arguments: &[&str]| {
        let mut command = clean("/usr/bin/sweeper", dir.path());
        // The file in /etc is the one that counts.
        command.env_remove("SWEEPER_CONFIG").args(arguments).output().unwrap()
    };
    assert!(sweeper(&["--version"]).status.success());
    let keyless = sweeper(&["check"]);
    assert_eq!(keyless.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&keyless.stderr).contains("/etc/sweeper/key"), "{keyless:?}");
    said(Command::new("getent").args(["passwd", "sweeper"]));
    let key = dir.path().join("key");
    fs::write(&key, KEY).unwrap();
    let install = ["-m", "400", "-o", "sweeper", "-g", "sweeper"];
    said(Command::new("install").args(install).arg(&key).arg("/etc/sweeper/key"));
    let checked = sweeper(&["check"]);
    assert!(checked.status.success(), "{checked:?}");
    if Path::new("/run/systemd/system").is_dir() {
        said(Command::new("systemctl").args(["start", "sweeper"]));
        said(Command::new("systemctl").args(["is-active", "sweeper"]));
    } else {
        skipped("systemd does not run here, and starts no unit");
    }
    fs::remove_file("/etc/sweeper/key").unwrap();
    said(Command::new("dpkg").args(["--purge", NAME]));
    assert!(!Path::new("/usr/bin/sweeper").exists() && !Path::new("/etc/sweeper").exists());
    assert!(!Path::new("/var/lib/sweeper").exists(), "there was nothing in it");
}

#[test]
fn the_scripts_are_clean() {
    if !succeeds("shellcheck", &["--version"]) {
        return skipped("there is no shellcheck");
    }
    let folder = |path: &str| files(&Path::new(env!("CARGO_MANIFEST_DIR")).join(path));
    let scripts = [folder("packaging"), folder("packaging/debian"), folder(".ci")].concat();
    let is_script = |path: &PathBuf| path.is_file() && fs::read_to_string(path).unwrap().starts_with("#!");
    let scripts: Vec<PathBuf> = scripts.into_iter().filter(is_script).collect();
    assert!(scripts.len() > 7, "{scripts:?}");
    said(Command::new("shellcheck").args(scripts));
}

#[test]
fn changelog_and_docs_name_this_version() {
    assert!(text("CHANGELOG.md").contains(&format!("\n## {VERSION} - ")));
    let install = format!("apt install ./{NAME}_{VERSION}-1_");
    assert!(text("docs/deploy-systemd.md").contains(&install), "{install}");
}

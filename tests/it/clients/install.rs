//! The libraries: those that are there, or those of these versions, installed below `target/tmp`.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

use crate::daemon::clean;

const PYTHON: &[&str] = &["sqlalchemy==2.1.9", "django==5.2.19", "pandas==3.1.1"];

const NODE: &[&str] = &[
    "better-sqlite3@12.11.1",
    "@libsql/client@0.18.0",
    "prisma@7.10.0",
    "@prisma/client@7.10.0",
    "@prisma/adapter-better-sqlite3@7.10.0",
    "drizzle-orm@0.45.4",
    "kysely@0.28.19",
    "knex@3.3.0",
    "typeorm@1.1.1",
    "sequelize@6.37.8",
    "sqlite3@6.0.1",
];

/// For `node:sqlite`. In a folder of its own: the modules above are compiled for the Node that is there.
const NEWER_NODE: &[&str] = &["node@24.21.0"];

/// Whether what is missing is to be installed, from the network.
pub fn wanted() -> bool {
    std::env::var_os("SWEEPER_CLIENTS").is_some_and(|value| value == "install")
}

fn scripts() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/clients")
}

/// What runs a script on the queue in `dir`.
pub fn command(script: &str, dir: &Path) -> Result<Command, String> {
    let python = script.ends_with(".py");
    let (program, folder) = if wanted() {
        static INSTALLED: OnceLock<PathBuf> = OnceLock::new();
        let installed = INSTALLED.get_or_init(install);
        match script {
            _ if python => (installed.join("python/bin/python"), scripts()),
            "driver_node_sqlite.mjs" => (installed.join("newer/node_modules/node/bin/node"), installed.join("node")),
            _ => ("node".into(), installed.join("node")),
        }
    } else {
        (if python { "python3" } else { "node" }.into(), scripts())
    };
    let program = program.to_str().ok_or_else(|| format!("{} as UTF-8", program.display()))?;
    let mut command = clean(program, dir);
    // No __pycache__ beside the sources.
    command.env("PYTHONDONTWRITEBYTECODE", "1").arg(folder.join(script));
    Ok(command)
}

/// Installs what is not installed yet.
fn install() -> PathBuf {
    let root = Path::new(env!("CARGO_TARGET_TMPDIR")).join("clients");
    fs::create_dir_all(&root).unwrap();
    // Another process may be installing.
    let lock = File::create(root.join("lock")).unwrap();
    lock.lock().unwrap();
    let schema = fs::read_to_string(scripts().join("schema.prisma")).unwrap();
    let wanted = format!("{PYTHON:?} {NODE:?} {NEWER_NODE:?} {schema}");
    if fs::read_to_string(root.join("installed")).is_ok_and(|installed| installed == wanted) {
        copy_scripts(&root.join("node"));
        return root;
    }
    for part in ["python", "node", "newer"] {
        let _ = fs::remove_dir_all(root.join(part));
        fs::create_dir(root.join(part)).unwrap();
    }
    run(Command::new("python3").args(["-m", "venv"]).arg(root.join("python")));
    run(Command::new(root.join("python/bin/python")).args(["-m", "pip", "install", "--quiet"]).args(PYTHON));
    for (part, packages) in [("node", NODE), ("newer", NEWER_NODE)] {
        fs::write(root.join(part).join("package.json"), r#"{ "private": true }"#).unwrap();
        run(Command::new("npm").current_dir(root.join(part)).args(["install", "--save-exact"]).args(packages));
    }
    copy_scripts(&root.join("node"));
    let mut generate = Command::new("node");
    generate.args(["node_modules/prisma/build/index.js", "generate", "--schema", "schema.prisma"]);
    // It needs no engine, but looks for one, and would fetch it: any file does.
    generate.env("PRISMA_SCHEMA_ENGINE_BINARY", std::env::current_exe().unwrap());
    run(generate.current_dir(root.join("node")));
    fs::write(root.join("installed"), wanted).unwrap();
    root
}

/// Beside the modules, where Node looks for them.
fn copy_scripts(folder: &Path) {
    for file in fs::read_dir(scripts()).unwrap() {
        let file = file.unwrap().path();
        if file.extension().is_some_and(|extension| extension == "mjs" || extension == "prisma") {
            fs::copy(&file, folder.join(file.file_name().unwrap())).unwrap();
        }
    }
}

fn run(command: &mut Command) {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let said = [output.stdout, output.stderr].concat();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&said));
}

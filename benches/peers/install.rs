//! Installs what the peers need, below `target`.

use std::{
    path::{Path, PathBuf},
    process::{Command, Output},
};

/// A Python of its own in `venv` with what `requirements` names. The first time, that takes the network.
pub fn python(venv: &Path, requirements: &Path) -> Result<PathBuf, String> {
    let python = venv.join("bin/python");
    if !python.exists() {
        text(Command::new("python3").args(["-m", "venv"]).arg(venv))?;
    }
    let pip = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--requirement"];
    text(Command::new(&python).args(pip).arg(requirements))?;
    Ok(python)
}

/// What a command prints, or why it failed.
pub fn text(command: &mut Command) -> Result<String, String> {
    let named = Path::new(command.get_program()).display().to_string();
    let Output { status, stdout, stderr } = command.output().map_err(|error| format!("{named}: {error}"))?;
    if !status.success() {
        let said = String::from_utf8_lossy(&stderr);
        return Err(format!("{named}: {status}: {}", said.trim().lines().last().unwrap_or_default()));
    }
    Ok(String::from_utf8_lossy(&stdout).trim().to_owned())
}

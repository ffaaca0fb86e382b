//! README and docs: what stands in them was run as it stands there, links lead somewhere, and generated pages are not stale.

mod blocks;
mod generated;
mod links;

use std::{fs, path::Path};

/// A page: its path from the top of the repository, and its text.
pub struct Page {
    pub path: String,
    pub text: String,
}

pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// README.md and the other pages at the top, and all of docs/, in the order of their names.
pub fn pages() -> Vec<Page> {
    let mut paths: Vec<String> = [".", "docs"]
        .iter()
        .flat_map(|folder| fs::read_dir(root().join(folder)).unwrap())
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "md"))
        .map(|path| path.strip_prefix(root()).unwrap().to_str().unwrap().trim_start_matches("./").to_owned())
        .collect();
    paths.sort_unstable();
    let page = |path: String| Page { text: fs::read_to_string(root().join(&path)).unwrap(), path };
    paths.into_iter().map(page).collect()
}

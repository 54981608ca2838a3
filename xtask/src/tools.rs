//! Programs that `./run setup` puts into the cache for tests.

use std::path::PathBuf;

use anyhow::{Context, Result};

/// A file of the cache.
fn cached(name: &str) -> Result<PathBuf> {
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let home = || Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache"));
    let cache = cache.or_else(home).map(|cache| cache.join("portcullis"));
    let path = cache.map(|cache| cache.join(name));
    path.filter(|path| path.is_file())
        .with_context(|| format!("{name} is not in ~/.cache/portcullis: `./run setup` installs it"))
}

/// schemathesis, which asks an API everything that its document describes.
///
/// # Errors
/// It is not installed.
pub fn schemathesis() -> Result<PathBuf> {
    cached("schemathesis/bin/schemathesis")
}

/// A real Prometheus.
///
/// # Errors
/// It is not installed.
pub fn prometheus() -> Result<PathBuf> {
    cached("prometheus/usr/bin/prometheus")
}

/// What checks Prometheus' metrics and rules.
///
/// # Errors
/// It is not installed.
pub fn promtool() -> Result<PathBuf> {
    cached("prometheus/usr/bin/promtool")
}

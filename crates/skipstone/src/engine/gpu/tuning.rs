//! Tiles that were measured on this machine's devices, kept in a file of the user's cache folder.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use skipstone_gpu::{Gpu, Tile, Tuning};

use crate::error::{Error, Kind, Result};
use crate::io::files;

/// Whether tiles are measured (`on`), or not even those in the file used (`off`).
const VARIABLE: &str = "SKIPSTONE_GPU_TUNE";

/// Products by device.
type Measured = BTreeMap<String, BTreeMap<String, Tile>>;

/// The largest file that is read: a device has some hundred products.
const LARGEST: u64 = 16 << 20;

/// Gives a device the tiles that the file has for it, and lets it measure others if that is wanted.
///
/// # Errors
/// [`VARIABLE`] has another value.
pub(super) fn prepare(gpu: &Gpu) -> Result<()> {
    let measure = match std::env::var(VARIABLE).as_deref() {
        Err(_) | Ok("") => false,
        Ok("on") => true,
        Ok("off") => {
            gpu.tune(Tuning::default());
            return Ok(());
        }
        Ok(other) => return Err(Error::argument(format!("{VARIABLE}: expected on or off, found \"{other}\""))),
    };
    let mut file = file(|key| std::env::var_os(key));
    let properties = gpu.properties();
    let device = format!("{}, {}, skipstone {}", properties.name, properties.compiler, env!("CARGO_PKG_VERSION"));
    let known = file.as_deref().and_then(|file| read_or_warn(file)?.remove(&device)).unwrap_or_default();
    let mut told = false;
    let keep = move |product: &str, tile: Tile| {
        if !std::mem::replace(&mut told, true) {
            let place = file.as_deref().map_or("for this run only".into(), |file| format!("in {}", file.display()));
            tracing::warn!(
                "measuring the fastest tiles of this device, which takes a while once; they are kept {place}"
            );
        }
        if let Some(path) = &file
            && let Err(error) = add(path, &device, product, tile)
        {
            tracing::warn!("{error}; measured tiles are kept for this run only");
            file = None;
        }
    };
    gpu.tune(Tuning { known, keep: measure.then(|| Box::new(keep) as skipstone_gpu::Keep) });
    Ok(())
}

/// The file of measured tiles; `None` for a user without a home.
fn file(variable: impl Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    let set = |key| variable(key).filter(|value| !value.is_empty()).map(PathBuf::from);
    let cache = set("XDG_CACHE_HOME").or_else(|| set("LOCALAPPDATA")).or_else(|| Some(set("HOME")?.join(".cache")));
    Some(cache?.join("skipstone/gpu-tiles.json"))
}

/// The file's content; empty where there is none.
fn read(path: &Path) -> Result<Measured> {
    let bytes = match files::read(path, LARGEST) {
        Err(error) if error.kind() == Kind::NotFound => return Ok(Measured::new()),
        other => other?,
    };
    serde_json::from_slice(&bytes).map_err(|error| Error::data(format!("{error}; delete the file")).in_file(path))
}

fn read_or_warn(path: &Path) -> Option<Measured> {
    read(path).inspect_err(|error| tracing::warn!("{error} (measured tiles of graphics processors)")).ok()
}

/// Adds a tile to the file. Another process may have added its own since it was read.
fn add(path: &Path, device: &str, product: &str, tile: Tile) -> Result<()> {
    let mut all = read(path).unwrap_or_default();
    all.entry(device.to_owned()).or_default().insert(product.to_owned(), tile);
    if let Some(folder) = path.parent() {
        files::create_dir(folder)?;
    }
    files::write_bytes(path, &serde_json::to_vec_pretty(&all).expect("names and numbers"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_is_in_the_cache_folder() {
        let of = |variables: &'static [(&str, &str)]| {
            file(|key| Some(variables.iter().find(|(name, _)| *name == key)?.1.into()))
        };
        assert_eq!(of(&[]), None);
        assert_eq!(of(&[("HOME", "/h")]).unwrap(), Path::new("/h/.cache/skipstone/gpu-tiles.json"));
        assert_eq!(of(&[("HOME", "/h"), ("XDG_CACHE_HOME", "/c")]).unwrap(), Path::new("/c/skipstone/gpu-tiles.json"));
        assert_eq!(
            of(&[("LOCALAPPDATA", "/l"), ("XDG_CACHE_HOME", "")]).unwrap(),
            Path::new("/l/skipstone/gpu-tiles.json")
        );
    }

    #[test]
    fn tiles_of_two_devices_are_added_up_and_a_broken_file_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("new/tiles.json");
        assert!(read(&path).unwrap().is_empty());
        add(&path, "a", "one", [1, 2]).unwrap();
        add(&path, "b", "one", [4, 4]).unwrap();
        add(&path, "a", "two", [2, 2]).unwrap();
        let all = read(&path).unwrap();
        assert_eq!(all["a"], BTreeMap::from([("one".to_owned(), [1, 2]), ("two".to_owned(), [2, 2])]));
        assert_eq!(all["b"]["one"], [4, 4]);
        std::fs::write(&path, "{\"a\": [1, 2").unwrap();
        let error = read(&path).unwrap_err().to_string();
        assert!(error.contains("tiles.json") && error.contains("delete the file"), "{error}");
    }
}

//! Sets of images that several processes made, each its shard: `sample --shard K/N`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::folder::list_images;
use super::tar;
use crate::error::{Error, Kind, Result};
use crate::io::Shard;

/// The shards of `NAME.npz` or `NAME.npy`, in order: `NAME-00001-of-00003.npz` and so on. Empty if there are none.
///
/// # Errors
/// A shard is missing.
pub(super) fn of_file(path: &Path) -> Result<Vec<PathBuf>> {
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    complete(
        path,
        entries(folder_of(path), |entry| {
            let same = entry.extension() == path.extension();
            let name = entry.file_stem()?.to_string_lossy();
            Shard::split_name(&name).filter(|(of, _)| same && *of == stem).map(|(_, shard)| shard)
        }),
    )
}

/// The sub-folders `shard-00001-of-00003` and so on of a folder, in order. Empty if there are none.
///
/// # Errors
/// A shard is missing, or lacks images.
pub(super) fn of_folder(path: &Path) -> Result<Vec<PathBuf>> {
    let found = complete(
        path,
        entries(path, |entry| {
            let name = entry.file_name()?.to_string_lossy();
            Shard::split_name(&name).filter(|(stem, _)| *stem == "shard").map(|(_, shard)| shard)
        }),
    )?;
    let mut manifests = Vec::with_capacity(found.len());
    for folder in &found {
        let file = folder.join("manifest.json");
        let text = std::fs::read_to_string(&file).map_err(|e| Error::io(&file, e))?;
        let manifest = manifest(&text).ok_or_else(|| Error::data("not a manifest").in_file(&file))?;
        let expected = manifest.get("n").and_then(serde_json::Value::as_u64);
        let expected = expected.ok_or_else(|| Error::data("not a manifest: no n").in_file(&file))?;
        manifests.push((file, manifest));
        let held = list_images(folder)?.len() as u64;
        if held < expected {
            let message = format!("the shard holds {held} of {expected} images; {}", remedy(folder));
            return Err(Error::data(message).in_file(folder));
        }
    }
    of_one_run(&manifests)?;
    Ok(found)
}

/// Checks that manifests of shards, in order, are of one run: the same options, and images that follow one another.
fn of_one_run(manifests: &[(PathBuf, serde_json::Value)]) -> Result<()> {
    let range = |manifest: &serde_json::Value| Some((manifest.get("first")?.as_u64()?, manifest.get("n")?.as_u64()?));
    for pair in manifests.windows(2) {
        let [(_, before), (file, manifest)] = pair else { continue };
        let other = |name: &&String| {
            !["first", "n", "shard"].contains(&name.as_str()) && before.get(*name) != manifest.get(*name)
        };
        let all =
            [before, manifest].into_iter().filter_map(serde_json::Value::as_object).flat_map(serde_json::Map::keys);
        let wrong = match (all.into_iter().find(other), range(before), range(manifest)) {
            (Some(name), ..) => format!("{name} is not that of the shard before"),
            (None, Some((first, n)), Some((next, _))) if first.checked_add(n) != Some(next) => {
                format!("its images begin at {next}, those of the shard before end at {first} + {n}")
            }
            _ => continue,
        };
        return Err(Error::data(format!("shards of two runs: {wrong}; draw one of them again")).in_file(file));
    }
    Ok(())
}

/// The files that a name with `%05d` stands for, in order.
///
/// # Errors
/// There is none, or a shard is missing.
pub(super) fn of_pattern(path: &Path) -> Result<Vec<PathBuf>> {
    let pattern = path.file_name().unwrap_or_default().to_string_lossy();
    let Some((before, after)) = pattern.split_once("%05d") else { return Ok(vec![path.to_path_buf()]) };
    let mut files = BTreeMap::new();
    for entry in std::fs::read_dir(folder_of(path)).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let digits = name.strip_prefix(before).and_then(|rest| rest.strip_suffix(after));
        if let Some(number) = digits.filter(|d| d.len() == 5).and_then(|d| d.parse::<u64>().ok()) {
            files.insert(number, entry.path());
        }
    }
    let Some((_, first)) = files.first_key_value() else {
        return Err(Error::new(Kind::NotFound, "no file has such a name").in_file(path));
    };
    // The manifest of each archive names its shard, if this program wrote it.
    let Some(shard) = shard_in(first)? else { return Ok(files.into_values().collect()) };
    let found = files.into_iter().filter_map(|(k, file)| Some((Shard::new(k, shard.count()).ok()?, file)));
    let found = complete(path, found.collect())?;
    let manifests = found.iter().filter_map(|file| {
        let manifest = tar::manifest(file).transpose()?.map(|text| manifest(&text).unwrap_or_default());
        Some(manifest.map(|manifest| (file.clone(), manifest)))
    });
    of_one_run(&manifests.collect::<Result<Vec<_>>>()?)?;
    Ok(found)
}

/// The shard that the manifest in an archive (`.tar`) of `sample` names, if there is one.
///
/// # Errors
/// The archive cannot be read, or its manifest names no valid shard.
pub fn shard_in(archive: &Path) -> Result<Option<Shard>> {
    let manifest = tar::manifest(archive)?.and_then(|text| manifest(&text));
    let shard = manifest.as_ref().and_then(|manifest| manifest.get("shard")?.as_str());
    shard.map(|shard| shard.parse::<Shard>().map_err(|e| e.in_file(archive))).transpose()
}

/// The manifest that `sample` writes: a JSON object with the images' range, the run's options and the shard.
fn manifest(text: &str) -> Option<serde_json::Value> {
    serde_json::from_str(text).ok()
}

fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// The entries of a folder that are shards.
fn entries(folder: &Path, shard: impl Fn(&Path) -> Option<Shard>) -> Vec<(Shard, PathBuf)> {
    let paths = std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    paths.filter_map(|path| Some((shard(&path)?, path))).collect()
}

/// Checks that all shards of one set are there, and puts them in order.
fn complete(set: &Path, found: Vec<(Shard, PathBuf)>) -> Result<Vec<PathBuf>> {
    let Some((first, _)) = found.first() else { return Ok(Vec::new()) };
    let count = first.count();
    if let Some((other, path)) = found.iter().find(|(shard, _)| shard.count() != count) {
        let message = format!("shards of two sets: of {count} and of {}; remove those of one", other.count());
        return Err(Error::data(message).in_file(path));
    }
    let mut paths: BTreeMap<u64, PathBuf> = found.into_iter().map(|(shard, path)| (shard.index(), path)).collect();
    if let Some(k) = (1..=count).find(|k| !paths.contains_key(k)) {
        let message =
            format!("shard {k} of {count} is missing; run the command that made the others with --shard {k}/{count}");
        return Err(Error::new(Kind::NotFound, message).in_file(set));
    }
    Ok((1..=count).filter_map(|k| paths.remove(&k)).collect())
}

/// How to make a shard's folder whole.
fn remedy(folder: &Path) -> String {
    let name = folder.file_name().unwrap_or_default().to_string_lossy();
    let shard = Shard::split_name(&name).map_or(String::new(), |(_, shard)| format!(" with --shard {shard}"));
    format!("run the command that made it again{shard}")
}

//! The features of a reference on disk: `train.npz` (statistics), `train.npy` and `test.npy` (vectors), and
//! `reference.json`, which records their origin and the digests of the files.

use std::path::{Path, PathBuf};

use ndarray::{Array2, Ix2};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use skipstone::error::Result;
use skipstone::io::files;
use skipstone::io::hex::hex;
use skipstone::io::image::npy;

use super::{MOST_VECTORS, RealImages};
use crate::{FeatureNetwork, Statistics};

const FILES: [&str; 3] = ["train.npz", "train.npy", "test.npy"];
/// Enough for ten thousand vectors of 8192 numbers, and for their covariance.
const MOST_BYTES: u64 = 1 << 30;

/// Statistics of the training images, vectors of training images, vectors of test images.
pub(super) type Kept = (Statistics, Array2<f32>, Array2<f32>);

/// The folder for the features of these images by this network.
pub(super) fn folder(cache: &Path, images: &RealImages, network: &dyn FeatureNetwork) -> PathBuf {
    let plain = |c: char| if c.is_ascii_alphanumeric() || "-._".contains(c) { c } else { '_' };
    let name: String = network.name().chars().map(plain).collect();
    cache.join(format!("{name}-{}", &images.digest[..12]))
}

/// Writes the features. `reference.json` comes last, so that unfinished files are never used.
pub(super) fn write(folder: &Path, images: &RealImages, (train, some, test): &Kept) -> Result<()> {
    files::create_dir(folder)?;
    train.write(&folder.join(FILES[0]))?;
    npy::write(&folder.join(FILES[1]), some.view())?;
    npy::write(&folder.join(FILES[2]), test.view())?;
    let mut value = json!({
        "format": 1, "data": images.name, "images": images.digest, "features": train.network(),
        "train": images.train, "test": images.test.dim().0, "halves": images.halves, "files": {},
    });
    for name in FILES {
        value["files"][name] = json!(digest(&folder.join(name))?);
    }
    files::write_bytes(&folder.join("reference.json"), format!("{value:#}\n").as_bytes())
}

/// Reads the features, if they are whole and belong to these images and this network.
pub(super) fn read(folder: &Path, images: &RealImages, network: &dyn FeatureNetwork) -> Option<Kept> {
    let file = folder.join("reference.json");
    let bytes = files::read(&file, 1 << 20).ok()?;
    match verified(folder, &bytes, images, network) {
        Ok(kept) => Some(kept),
        Err(why) => {
            tracing::warn!("{}: {why}; made again", folder.display());
            None
        }
    }
}

fn verified(
    folder: &Path,
    bytes: &[u8],
    images: &RealImages,
    network: &dyn FeatureNetwork,
) -> std::result::Result<Kept, String> {
    let value: Value = serde_json::from_slice(bytes).map_err(|e| format!("reference.json: {e}"))?;
    let wanted = [("images", images.digest.as_str()), ("features", network.name())];
    if let Some((name, _)) = wanted.iter().find(|(name, text)| value[*name].as_str() != Some(text)) {
        return Err(format!("reference.json: {name}: belongs to something else"));
    }
    for name in FILES {
        let found = digest(&folder.join(name)).map_err(|e| e.to_string())?;
        if value["files"][name].as_str() != Some(&found) {
            return Err(format!("{name}: differs from what was written"));
        }
    }
    let text = |e: skipstone::Error| e.to_string();
    let train = Statistics::read(&folder.join(FILES[0])).map_err(text)?;
    let [some, test] = [1, 2].map(|i| npy::read::<Ix2>(&folder.join(FILES[i])));
    let (some, test) = (some.map_err(text)?, test.map_err(text)?);
    let vectors = |n: usize| (n.min(MOST_VECTORS), network.dimensions());
    let whole = train.count() == images.train as u64 && train.dimensions() == network.dimensions();
    if !whole || some.dim() != vectors(images.train) || test.dim() != vectors(images.test.dim().0) {
        return Err("not of this many images".to_owned());
    }
    Ok((train, some, test))
}

fn digest(path: &Path) -> Result<String> {
    let bytes = files::read(path, MOST_BYTES)?;
    Ok(hex(&Sha256::digest(&bytes)))
}

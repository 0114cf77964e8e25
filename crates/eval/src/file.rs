//! Statistics on disk: the `.npz` archive of pytorch-fid with additional information.
//!
//! | entry | what |
//! |---|---|
//! | `mu.npy` | μ, float64, `[d]` |
//! | `sigma.npy` | the unbiased covariance, float64, `[d, d]`; zeros for fewer than two images |
//! | `skipstone.json` | `format` (1), `network`, `count`, and `about`: notes on where the features come from |
//!
//! NumPy reads `mu` and `sigma` of such a file, and pytorch-fid accepts it as one of its own.

use std::collections::BTreeMap;
use std::path::Path;

use ndarray::{Array, Array1, Array2, Dimension};
use serde_json::{Value, json};
use skipstone::error::{Error, Result};
use skipstone::io::checkpoint::zip::{self, Archive};
use skipstone::io::files;
use skipstone::io::image::npy;

use super::frechet::Gaussian;
use super::statistics::Statistics;

/// The layout of the file.
const FORMAT: u64 = 1;
/// Most bytes of an entry: enough for the covariance of 8192 features.
const MAX_BYTES: u64 = (8 * 8192 * 8192) + (1 << 16);
const ABOUT: &str = "skipstone.json";

impl Statistics {
    /// Writes the file at `path` (`.npz`), whole or not at all. The same statistics give the same bytes.
    ///
    /// # Errors
    /// As [`files::write_bytes`].
    pub fn write(&self, path: &Path) -> Result<()> {
        let about = json!({
            "format": FORMAT, "network": self.network(), "count": self.count(), "about": self.about(),
        });
        // The scatter of one image is zero, whatever the divisor.
        let covariance = &self.scatter() / self.count().saturating_sub(1).max(1) as f64;
        let (mut mu, mut sigma) = (Vec::new(), Vec::new());
        npy::encode(&mut mu, self.mean()).map_err(|e| Error::io(path, e))?;
        npy::encode(&mut sigma, covariance.view()).map_err(|e| Error::io(path, e))?;
        let about = format!("{about:#}\n");
        let entries: [(&str, &[u8]); 3] = [("mu.npy", &mu), ("sigma.npy", &sigma), (ABOUT, about.as_bytes())];
        files::write_bytes(path, &zip::archive(&entries)?)
    }

    /// Reads a file that [`write`](Self::write) wrote.
    ///
    /// # Errors
    /// The file is missing or damaged, or comes from pytorch-fid: such files record neither the number of images nor the
    /// network ([`Gaussian::read`] takes them).
    pub fn read(path: &Path) -> Result<Self> {
        Entries::open(path).and_then(|entries| entries.statistics()).map_err(|e| e.in_file(path))
    }
}

impl Gaussian {
    /// Reads μ and Σ of a file that [`Statistics::write`] or pytorch-fid wrote. `network` is the name of the feature network:
    /// files of pytorch-fid do not record it, and other files must agree with it.
    ///
    /// # Errors
    /// The file is missing or damaged, or has the statistics of another network or of fewer than two images.
    pub fn read(path: &Path, network: &str) -> Result<Self> {
        let read = || {
            let entries = Entries::open(path)?;
            if entries.has(ABOUT) {
                let statistics = entries.statistics()?;
                if statistics.network() != network {
                    let found = statistics.network();
                    return Err(Error::argument(format!("statistics of {found}; expected those of {network}")));
                }
                return statistics.gaussian();
            }
            let (mean, covariance) = entries.moments()?;
            Ok(Self { network: network.to_owned(), mean, covariance })
        };
        read().map_err(|e| e.in_file(path))
    }
}

/// An archive with the entries of statistics.
struct Entries(Archive);

impl Entries {
    fn open(path: &Path) -> Result<Self> {
        Archive::open(path).map(Self)
    }

    fn has(&self, name: &str) -> bool {
        self.0.names().any(|found| found == name)
    }

    fn bytes(&self, name: &str) -> Result<Vec<u8>> {
        let read = self.0.read(name, MAX_BYTES).map_err(|e| Error::data(format!("{name}: {}", e.message())))?;
        read.ok_or_else(|| {
            let found = self.0.names().collect::<Vec<_>>().join(", ");
            Error::data(format!("not a file of statistics: {name} is missing among its entries ({found})"))
        })
    }

    fn array<D: Dimension>(&self, name: &str) -> Result<Array<f64, D>> {
        let bytes = self.bytes(name)?;
        npy::decode(&bytes[..], bytes.len() as u64)
            .map_err(|e| Error::new(e.kind(), format!("{name}: {}", e.message())))
    }

    fn moments(&self) -> Result<(Array1<f64>, Array2<f64>)> {
        let (mean, covariance): (Array1<f64>, Array2<f64>) = (self.array("mu.npy")?, self.array("sigma.npy")?);
        let d = mean.len();
        if covariance.dim() != (d, d) || d == 0 {
            let found = covariance.shape();
            return Err(Error::data(format!(
                "sigma.npy: expected [{d}, {d}] as mu.npy has {d} numbers, found {found:?}"
            )));
        }
        Ok((mean, covariance))
    }

    fn statistics(&self) -> Result<Statistics> {
        let wrong = |what: String| Error::data(format!("{ABOUT}: {what}"));
        if !self.has(ABOUT) && self.has("mu.npy") {
            return Err(Error::data(format!(
                "{ABOUT} is missing; without it, the number of images and the feature network are unknown"
            )));
        }
        let value: Value = serde_json::from_slice(&self.bytes(ABOUT)?).map_err(|e| wrong(e.to_string()))?;
        match value["format"].as_u64() {
            Some(FORMAT) => {}
            Some(other) => return Err(Error::unsupported(format!("statistics of format {other}; {FORMAT} is read"))),
            None => return Err(wrong("format: expected a number".to_owned())),
        }
        let network = value["network"].as_str().ok_or_else(|| wrong("network: expected a text".to_owned()))?;
        let count = value["count"].as_u64().ok_or_else(|| wrong("count: expected a number".to_owned()))?;
        let mut about = BTreeMap::new();
        for (key, said) in value["about"].as_object().into_iter().flatten() {
            let said = said.as_str().ok_or_else(|| wrong(format!("about.{key}: expected a text")))?;
            about.insert(key.clone(), said.to_owned());
        }
        let (mean, covariance) = self.moments()?;
        let scatter = covariance * count.saturating_sub(1) as f64;
        Ok(Statistics::from_parts(network.to_owned(), count, mean, scatter, about))
    }
}

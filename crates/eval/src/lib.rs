//! Scores of generated images against real ones, and the feature networks behind them.
//!
//! A [`FeatureNetwork`] turns images into vectors. Two sets of vectors have a Fréchet distance ([`Statistics`],
//! [`frechet`]), a kernel distance ([`kid`], [`kid_full`]) and a [`precision_recall`]; vectors and plain pixels have
//! [`nearest`] neighbours. [`feature_distance`] compares two images of each latent. [`table`] draws and scores the cells
//! of the paper's Table 1.
//!
//! A Fréchet distance is an FID only if the Inception network of FID made the vectors. Numbers from different networks
//! cannot be compared, and [`Statistics`] of different networks are never mixed.

pub mod classifier;
mod feature_distance;
mod features;
mod file;
mod frechet;
mod kid;
mod nearest;
mod neighbours;
#[cfg(feature = "onnx")]
mod onnx;
mod precision_recall;
#[cfg(feature = "onnx")]
mod resize;
mod statistics;
pub mod table;

pub use classifier::FashionCnn;
pub use feature_distance::feature_distance;
pub use features::{FeatureNetwork, FeatureSpec, as_pictures, check_takes, features, pixels};
pub use frechet::{Gaussian, frechet};
pub use kid::{Estimate, Subsets, kid, kid_full};
pub use nearest::{Nearest, nearest};
#[cfg(feature = "onnx")]
pub use onnx::OnnxFeatures;
pub use precision_recall::{DEFAULT_NEIGHBOURS, PrecisionRecall, precision_recall};
pub use statistics::Statistics;

#[cfg(test)]
mod tests;

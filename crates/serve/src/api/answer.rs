use serde::Serialize;
use utoipa::ToSchema;

use super::compare::Comparison;
use super::encode::Encoded;
use super::interpolate::Interpolation;
use super::reconstruct::Reconstruction;
use super::sample::Sample;

/// The result of a request.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[serde(untagged)]
pub enum Answer {
    /// Sampled images.
    Sample(Sample),
    /// An image's latent.
    Encoded(Encoded),
    /// An image encoded and decoded.
    Reconstruction(Reconstruction),
    /// Interpolated images.
    Interpolation(Interpolation),
    /// The cells of a comparison.
    Comparison(Comparison),
}

impl Answer {
    /// Approximate size in bytes.
    pub fn bytes(&self) -> usize {
        match self {
            Self::Sample(answer) => answer.png.0.len() + 4 * answer.times.len(),
            Self::Encoded(answer) => answer.png.0.len() + answer.latent.len(),
            Self::Reconstruction(answer) => {
                answer.original.0.len()
                    + answer.rows.iter().map(|r| r.png.0.len() + r.latent_png.0.len()).sum::<usize>()
            }
            Self::Interpolation(answer) => {
                answer.png.0.len() + answer.tiles.iter().map(|tile| tile.0.len()).sum::<usize>()
            }
            Self::Comparison(answer) => answer.cells.iter().map(|cell| cell.png.0.len()).sum(),
        }
    }
}

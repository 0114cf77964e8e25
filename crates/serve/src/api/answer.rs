use serde::Serialize;
use utoipa::ToSchema;

use super::compare::Comparison;
use super::encode::Encoded;
use super::interpolate::Interpolation;
use super::reconstruct::Reconstruction;
use super::sample::Sample;

/// What came of it.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[serde(untagged)]
pub enum Answer {
    /// Images.
    Sample(Sample),
    /// A latent.
    Encoded(Encoded),
    /// Images encoded and decoded.
    Reconstruction(Reconstruction),
    /// Images between images.
    Interpolation(Interpolation),
    /// The same latents under several options.
    Comparison(Comparison),
}

impl Answer {
    /// The bytes it holds, approximately.
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

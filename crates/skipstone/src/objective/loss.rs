use crate::math::schedule::NoiseLevel;
use crate::sampling::denoiser::Prediction;

/// How the training loss weights noise levels.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum LossWeighting {
    /// Equal weights: L_simple.
    Uniform,
    /// min(SNR, γ) on the error of x̂₀ (Hang et al., arXiv 2303.09556).
    MinSnr(f64),
    /// max(SNR, 1) on the error of x̂₀, the "truncated SNR" of Salimans & Ho (arXiv 2202.00512, Eq. 9).
    TruncatedSnr,
    /// SNR + 1 on the error of x̂₀, which is equal weights for v (Salimans & Ho, Eq. 10).
    SnrPlusOne,
}

impl LossWeighting {
    /// The weight of the squared error of a network with this prediction type at this noise level.
    pub fn at(self, prediction: Prediction, level: NoiseLevel) -> f64 {
        match self {
            Self::Uniform => 1.0,
            // min(SNR, γ)·‖x₀ − x̂₀‖², with ‖x₀ − x̂₀‖² expressed by the error of the prediction itself.
            Self::MinSnr(gamma) => {
                let snr = level.snr();
                match prediction {
                    Prediction::Sample => snr.min(gamma),
                    Prediction::Epsilon => (gamma / snr).min(1.0),
                    Prediction::Velocity => snr.min(gamma) / (snr + 1.0),
                }
            }
            Self::TruncatedSnr => {
                let snr = level.snr();
                match prediction {
                    Prediction::Sample => snr.max(1.0),
                    Prediction::Epsilon => snr.recip().max(1.0),
                    Prediction::Velocity => snr.max(1.0) / (snr + 1.0),
                }
            }
            Self::SnrPlusOne => match prediction {
                Prediction::Sample => level.one_minus.recip(),
                Prediction::Epsilon => level.alpha_bar.recip(),
                Prediction::Velocity => 1.0,
            },
        }
    }
}

/// The training loss of one image of d values, `weight`·‖y − target‖²/d. Writes `scale` times its derivative by the output
/// `y` to `dy`.
pub(crate) fn training_loss(y: &[f32], target: &[f32], weight: f64, scale: f64, dy: &mut [f32]) -> f64 {
    let dims = y.len() as f64;
    let factor = (2.0 * weight * scale / dims) as f32;
    let mut sum = 0.0;
    for ((dy, y), target) in dy.iter_mut().zip(y).zip(target) {
        let difference = y - target;
        sum += f64::from(difference) * f64::from(difference);
        *dy = factor * difference;
    }
    weight * sum / dims
}

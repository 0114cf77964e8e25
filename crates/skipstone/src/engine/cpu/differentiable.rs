use std::sync::Mutex;

use ndarray::Array4;

use super::{Backprop, UNet};
use crate::engine::{Batch, EngineOptions, Network};
use crate::error::{Error, Result};
use crate::math::schedule::Time;
use crate::sampling::denoiser::{Condition, Denoiser, DifferentiableDenoiser, Prediction, Pullback};
use crate::unet::{Config, Parameters};

/// A U-Net with its vector-Jacobian product, computed by the backward pass of training.
///
/// The parameters' gradients are computed as a by-product and discarded. Each image's result depends on it alone.
#[derive(Debug)]
pub struct DifferentiableUNet {
    unet: UNet,
    /// The parameters unpacked; the network keeps its own packed copy for the forward pass.
    parameters: Parameters,
    backward: Mutex<Backward>,
}

#[derive(Debug)]
struct Backward {
    backprop: Backprop,
    /// The gradient of the parameters, which nothing reads.
    gradient: Vec<f32>,
}

impl DifferentiableUNet {
    /// The network with this architecture, these parameters and this prediction type, and its backward pass on
    /// `threads` threads.
    ///
    /// # Errors
    /// As [`UNet::new`]; also if `threads` is 0 or the architecture is too large for the memory of a backward pass.
    pub fn new(config: Config, parameters: Parameters, prediction: Prediction, threads: usize) -> Result<Self> {
        // One image per shard, so that no image's result depends on its neighbours.
        let backprop = Backprop::new(config.clone(), threads, 1)?;
        let options = (&EngineOptions::on_threads(threads)).into();
        let unet = UNet::with_options(config, parameters.clone(), prediction, options)?;
        let gradient = vec![0.0; parameters.data().len()];
        Ok(Self { unet, parameters, backward: Mutex::new(Backward { backprop, gradient }) })
    }
}

impl Denoiser for DifferentiableUNet {
    fn shape(&self) -> [usize; 3] {
        self.unet.shape()
    }

    fn prediction(&self) -> Prediction {
        self.unet.prediction()
    }

    fn output_channels(&self) -> usize {
        self.unet.output_channels()
    }

    fn predict(&self, x_t: &Array4<f32>, times: &[Time], conditions: &[Condition]) -> Result<Array4<f32>> {
        self.unet.predict(x_t, times, conditions)
    }

    fn takes_fractional_times(&self) -> bool {
        self.unet.takes_fractional_times()
    }

    fn prepare(&self, times: &[Time], conditions: &[Condition]) {
        self.unet.prepare(times, conditions);
    }
}

impl DifferentiableDenoiser for DifferentiableUNet {
    fn pullback(
        &self,
        x_t: &Array4<f32>,
        times: &[Time],
        conditions: &[Condition],
        cotangent: &Array4<f32>,
    ) -> Result<Pullback> {
        let n = x_t.dim().0;
        let [_, h, w] = self.unet.shape();
        let shape = (n, self.unet.config().image_channels(), h, w);
        if cotangent.dim() != shape {
            let found = cotangent.shape();
            return Err(Error::argument(format!("cotangent: expected the output's shape {shape:?}, found {found:?}")));
        }
        let cotangent = cotangent.as_standard_layout();
        let v = cotangent.as_slice().expect("standard layout");
        let mut out = vec![0.0f32; v.len()];
        let per_image = v.len() / n.max(1);
        let mut gradient = Array4::zeros(x_t.dim());
        let batch = Batch { x_t, times, conditions, dropout: None };
        let mut backward = self.backward.lock().unwrap_or_else(|poison| poison.into_inner());
        let backward = &mut *backward;
        let keep = |images: std::ops::Range<usize>, y: &[f32], dy: &mut [f32]| {
            // A learned variance follows each image's own output, and has the cotangent 0.
            let each = y.len() / images.len().max(1);
            dy.fill(0.0);
            for ((image, y), dy) in images.zip(y.chunks_exact(each)).zip(dy.chunks_exact_mut(each)) {
                let values = image * per_image..(image + 1) * per_image;
                dy[..per_image].copy_from_slice(&v[values.clone()]);
                out[values].copy_from_slice(&y[..per_image]);
            }
        };
        let parameters = self.parameters.data();
        backward.backprop.add_gradient(parameters, batch, keep, &mut backward.gradient, Some(&mut gradient))?;
        backward.gradient.fill(0.0);
        let out = Array4::from_shape_vec(shape, out).map_err(|e| Error::data(e.to_string()))?;
        Ok(Pullback { out, gradient })
    }
}

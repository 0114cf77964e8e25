use std::sync::{Mutex, PoisonError};

use ndarray::Array4;
use skipstone_gpu::{Buffer, Element, Gpu};

use super::UNet;
use super::backprop::{Backprop, Slope};
use crate::engine::{Batch, Network, Precision, Sharding};
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
    parameters: Buffer,
    backward: Mutex<Backward>,
}

#[derive(Debug)]
struct Backward {
    backprop: Backprop,
    /// The gradient of the parameters, which nothing reads.
    gradient: Buffer,
}

impl DifferentiableUNet {
    /// The network with this architecture, these parameters and this prediction type, and its backward pass.
    ///
    /// # Errors
    /// As [`UNet::new`].
    pub fn new(gpu: Gpu, config: Config, parameters: Parameters, prediction: Prediction) -> Result<Self> {
        // One image per shard, so that no image's result depends on its neighbours.
        let sharding = Sharding { images: 1, recompute: false };
        let backprop = Backprop::new(gpu.clone(), config.clone(), sharding, Element::F32)?;
        let (raw, gradient) = (gpu.upload(parameters.data())?, gpu.reserve(parameters.data().len())?);
        let unet = UNet::new(gpu, config, parameters, prediction, Precision::F32)?;
        Ok(Self { unet, parameters: raw, backward: Mutex::new(Backward { backprop, gradient }) })
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
        let (image, all) = (self.unet.config().image_channels() * h * w, self.unet.output_channels() * h * w);
        let shape = (n, self.unet.config().image_channels(), h, w);
        if cotangent.dim() != shape {
            let found = cotangent.shape();
            return Err(Error::argument(format!("cotangent: expected the output's shape {shape:?}, found {found:?}")));
        }
        // A learned variance follows each image's own output, and has the cotangent 0.
        let mut slope = vec![0.0f32; n * all];
        let cotangent = cotangent.as_standard_layout();
        let values = cotangent.as_slice().expect("standard layout");
        for (slope, values) in slope.chunks_exact_mut(all).zip(values.chunks_exact(image)) {
            slope[..image].copy_from_slice(values);
        }
        let (mut outputs, mut gradient) = (vec![0.0f32; n * all], Array4::zeros(x_t.dim()));
        let batch = Batch { x_t, times, conditions, dropout: None };
        let mut backward = self.backward.lock().unwrap_or_else(PoisonError::into_inner);
        let Backward { backprop, gradient: unread } = &mut *backward;
        let wanted = Some((&mut outputs[..], &mut gradient));
        backprop.add_gradient(&self.parameters, batch, Slope::Given(&slope), unread, wanted)?;
        let out = outputs.chunks_exact(all).flat_map(|output| output[..image].iter().copied()).collect();
        let out = Array4::from_shape_vec(shape, out).map_err(|e| Error::data(e.to_string()))?;
        Ok(Pullback { out, gradient })
    }
}

//! The gradient of the cross-entropy.

use skipstone::unet::Parameters;
use skipstone_kernels::conv::{self, Layer};
use skipstone_kernels::norm::{self, Gradients};
use skipstone_kernels::{View, ViewMut, elementwise};

use super::architecture::{Before, CLASSES, Places, Stage};
use super::forward::{Activation, Activations, Network, affine, pair, source};

/// −log p(label) of each image, and `scale` times its gradient with respect to the scores: p − 1 at the label, p elsewhere.
pub(super) fn cross_entropy(scores: &[f32], labels: &[u32], scale: f64) -> (Vec<f64>, Vec<f32>) {
    let mut losses = Vec::with_capacity(labels.len());
    let mut gradient = Vec::with_capacity(scores.len());
    for (scores, &label) in scores.chunks_exact(CLASSES).zip(labels) {
        let top = scores.iter().fold(f64::NEG_INFINITY, |m, &s| m.max(f64::from(s)));
        let powers: Vec<f64> = scores.iter().map(|&s| libm::exp(f64::from(s) - top)).collect();
        let sum: f64 = powers.iter().sum();
        losses.push(top + libm::log(sum) - f64::from(scores[label as usize]));
        let target = |class| if class == label as usize { 1.0 } else { 0.0 };
        gradient.extend(powers.iter().enumerate().map(|(class, p)| (scale * (p / sum - target(class))) as f32));
    }
    (losses, gradient)
}

/// The gradient of two parameters.
fn apart<'g>(gradient: &'g mut [f32], places: &Places) -> [&'g mut [f32]; 2] {
    gradient.get_disjoint_mut(places.clone()).expect("parameters lie apart")
}

impl Network {
    /// Adds the gradient with respect to all parameters to `into`, given the gradient with respect to the scores.
    pub fn add_gradient(
        &self,
        parameters: &Parameters,
        activations: &Activations,
        dscores: Vec<f32>,
        into: &mut [f32],
    ) {
        let (isa, team, n) = (self.isa, &self.team, activations.n);
        let mut dy = dscores;
        for (stage, activation) in self.stages.iter().zip(&activations.stages).rev() {
            dy = self.unpool(stage, n, dy);
            let [dw, db] = apart(into, &stage.weights);
            let (algorithm, from) = (stage.conv.training_algorithm(), View::dense(&dy, stage.conv.c_out));
            let source = source(stage, activation);
            conv::backward_weights(
                &stage.conv,
                algorithm,
                conv::Precision::Single,
                isa,
                team,
                n,
                source,
                from,
                &mut [(dw, db)],
            );
            if stage.before != Before::Nothing {
                dy = self.by_input(parameters, stage, activation, n, &dy, into);
            }
        }
    }

    /// The gradient before pooling.
    fn unpool(&self, stage: &Stage, n: usize, dy: Vec<f32>) -> Vec<f32> {
        if !stage.pool {
            return dy;
        }
        let channels = stage.conv.c_out;
        let mut dx = vec![0.0; n * stage.sizes().0];
        let (from, mut to) = (View::dense(&dy, channels), ViewMut::dense(&mut dx, channels));
        elementwise::average_pool_backward(&self.team, self.isa, n, stage.output(), channels, from, &mut to, false);
        dx
    }

    /// The gradient with respect to a stage's input. Adds that of its normalisation's parameters to `into`.
    fn by_input(
        &self,
        parameters: &Parameters,
        stage: &Stage,
        activation: &Activation,
        n: usize,
        dy: &[f32],
        into: &mut [f32],
    ) -> Vec<f32> {
        let (isa, team) = (self.isa, &self.team);
        let channels = stage.conv.c_in;
        let mut layer = Layer::transpose(isa, stage.conv, conv::Shape::training_algorithm);
        layer.repack_transposed(team, &pair(parameters, &stage.weights)[..1]);
        let mut dz = vec![0.0; activation.input.len()];
        let from = View::dense(dy, stage.conv.c_out);
        conv::backward_data(&layer, &stage.conv, team, n, from, &mut ViewMut::dense(&mut dz, channels), false);
        let Before::Norm(shape, places) = &stage.before else {
            elementwise::silu_backward(isa, &activation.input, &mut dz);
            return dz;
        };
        let [dgamma, dbeta] = apart(into, places);
        let mut dx = vec![0.0; activation.input.len()];
        let mut to = ViewMut::dense(&mut dx, channels);
        let gradients = Gradients { dx: &mut to, accumulate: false, dgamma, dbeta, dscale_shift: None };
        let x = View::dense(&activation.input, channels);
        let (ab, statistics) = (&activation.coefficients, &activation.statistics);
        norm::backward(shape, isa, team, n, x, affine(parameters, places), ab, statistics, &mut dz, gradients);
        dx
    }
}

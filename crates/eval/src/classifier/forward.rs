//! From images to scores, keeping the values that the gradient needs.

use skipstone::unet::Parameters;
use skipstone_kernels::conv::{self, Epilogue, Layer, Source};
use skipstone_kernels::norm::{self, Affine};
use skipstone_kernels::{Isa, Team, View, ViewMut, elementwise};

use super::architecture::{Before, CLASSES, Places, Stage, stages};

/// The layers with their packed weights.
pub(super) struct Network {
    pub isa: Isa,
    pub team: Team,
    pub stages: Vec<Stage>,
    layers: Vec<Layer>,
}

/// The values of a batch in every stage.
pub(super) struct Activations {
    pub n: usize,
    pub stages: Vec<Activation>,
    features: Vec<f32>,
}

/// The values of a batch in one stage, pixel after pixel.
pub(super) struct Activation {
    /// The input of the stage.
    pub input: Vec<f32>,
    /// a and b of the operation before the convolution, and the statistics of its groups.
    pub coefficients: Vec<f32>,
    pub statistics: Vec<f32>,
}

impl Activations {
    /// The features, `[n, 128]`.
    pub fn features(&self) -> &[f32] {
        &self.features
    }

    /// The scores of the classes, `[n, 10]`.
    pub fn scores(&self) -> &[f32] {
        &self.stages.last().expect("the scores").input
    }
}

/// γ and β in these ranges.
pub(super) fn affine<'p>(parameters: &'p Parameters, places: &Places) -> Affine<'p> {
    let [gamma, beta] = pair(parameters, places);
    Affine { gamma, beta, scale_shift: None }
}

/// Two parameters.
pub(super) fn pair<'p>(parameters: &'p Parameters, places: &Places) -> [&'p [f32]; 2] {
    places.clone().map(|place| &parameters.data()[place])
}

/// The input of a stage for its convolution.
pub(super) fn source<'a>(stage: &Stage, activation: &'a Activation) -> Source<'a> {
    let x = View::dense(&activation.input, stage.conv.c_in);
    match &stage.before {
        Before::Nothing => Source::plain(x),
        // SiLU alone is a = 1, b = 0.
        Before::Norm(..) | Before::Silu => {
            Source { x, norm: Some(conv::Norm { ab: &activation.coefficients, silu: true }) }
        }
    }
}

impl Network {
    pub fn new(isa: Isa, team: Team) -> Self {
        let stages = stages();
        let layer = |stage: &Stage| Layer::empty(isa, stage.conv, stage.conv.training_algorithm());
        Self { isa, team, layers: stages.iter().map(layer).collect(), stages }
    }

    /// Packs the weights.
    pub fn pack(&mut self, parameters: &Parameters) {
        for (stage, layer) in self.stages.iter().zip(&mut self.layers) {
            let [weights, bias] = pair(parameters, &stage.weights);
            layer.repack(&self.team, &[(weights, bias)]);
        }
    }

    /// The activations of images `[n, 28, 28]`. The parameters must have been [packed](Self::pack).
    pub fn forward(&self, parameters: &Parameters, images: &[f32]) -> Activations {
        let (isa, team) = (self.isa, &self.team);
        let n = images.len() / self.stages[0].conv.input_pixels();
        let mut kept = Vec::with_capacity(self.stages.len() + 1);
        let mut input = images.to_vec();
        let mut features = Vec::new();
        for (stage, layer) in self.stages.iter().zip(&self.layers) {
            let (coefficients, statistics) = self.before(parameters, stage, n, &input);
            if stage.before == Before::Silu {
                features = vec![0.0; input.len()];
                elementwise::silu(isa, &input, &mut features);
            }
            let activation = Activation { input, coefficients, statistics };
            let c_out = stage.conv.c_out;
            let (full, halved) = stage.sizes();
            let mut y = vec![0.0; n * full];
            let source = source(stage, &activation);
            layer.forward(team, n, source, Epilogue::default(), &mut ViewMut::dense(&mut y, c_out));
            kept.push(activation);
            input = if stage.pool {
                let mut mean = vec![0.0; n * halved];
                let (y, mut to) = (View::dense(&y, c_out), ViewMut::dense(&mut mean, c_out));
                elementwise::average_pool(team, isa, n, stage.output(), c_out, y, &mut to);
                mean
            } else {
                y
            };
        }
        debug_assert_eq!(input.len(), n * CLASSES);
        kept.push(Activation { input, coefficients: Vec::new(), statistics: Vec::new() });
        Activations { n, stages: kept, features }
    }

    /// a and b of the operation before a stage's convolution, and the statistics behind them.
    fn before(&self, parameters: &Parameters, stage: &Stage, n: usize, input: &[f32]) -> (Vec<f32>, Vec<f32>) {
        let channels = stage.conv.c_in;
        match &stage.before {
            Before::Nothing => (Vec::new(), Vec::new()),
            Before::Silu => ([vec![1.0; channels], vec![0.0; channels]].concat().repeat(n), Vec::new()),
            Before::Norm(shape, places) => {
                let (mut ab, mut statistics) = (vec![0.0; n * 2 * channels], vec![0.0; n * shape.groups * 2]);
                let (x, affine) = (View::dense(input, channels), affine(parameters, places));
                norm::coefficients(shape, self.isa, &self.team, n, x, affine, &mut ab, &mut statistics);
                (ab, statistics)
            }
        }
    }
}

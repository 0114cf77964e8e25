//! Counting the network evaluations of a run before it is made.

use std::ops::ControlFlow;
use std::sync::atomic::{AtomicUsize, Ordering};

use ndarray::{Array2, Array3, Array4};

use super::Generator;
use crate::error::Result;
use crate::math::noise::Seeded;
use crate::math::schedule::Time;
use crate::sampling::denoiser::{Condition, Denoiser, Prediction};
use crate::sampling::inpaint::{Noises, Region, inpaint};
use crate::sampling::sampler::{Plan, Progress, sample};

/// A network of images of one pixel, which answers with zeros and counts how often another one would have been asked.
struct Stand<'a> {
    network: &'a dyn Denoiser,
    evaluations: AtomicUsize,
}

impl Denoiser for Stand<'_> {
    fn shape(&self) -> [usize; 3] {
        [self.network.shape()[0], 1, 1]
    }

    fn prediction(&self) -> Prediction {
        self.network.prediction()
    }

    fn output_channels(&self) -> usize {
        self.network.output_channels()
    }

    fn predict(&self, x_t: &Array4<f32>, times: &[Time], _: &[Condition]) -> Result<Array4<f32>> {
        let asked = times.iter().map(|time| self.network.evaluations(*time)).sum();
        self.evaluations.fetch_add(asked, Ordering::Relaxed);
        Ok(Array4::zeros((x_t.dim().0, self.output_channels(), 1, 1)))
    }

    fn takes_fractional_times(&self) -> bool {
        self.network.takes_fractional_times()
    }
}

impl Generator {
    /// Network evaluations of an image when each observer call is made; `None` where every call has as many. Only a run through
    /// the steps tells at which noise levels a solver asks.
    pub(super) fn rehearse(&self, plan: &Plan) -> Result<Option<Vec<usize>>> {
        if self.settings.guidance_interval.is_none() {
            return Ok(None);
        }
        let stand = Stand { network: &*self.network, evaluations: AtomicUsize::new(0) };
        let [c, h, w] = stand.shape();
        let x_t = Array4::zeros((1, c, h, w));
        let mut after = Vec::new();
        let mut observer = |_: &Progress<'_>| {
            after.push(stand.evaluations.load(Ordering::Relaxed));
            ControlFlow::Continue(())
        };
        let (mut noise, mut around) = (Seeded::new(0, 0), Seeded::new(0, 0));
        match &self.inputs.region {
            None => sample(&stand, plan, x_t, &mut noise, &[], &mut observer)?,
            Some((_, by)) => {
                let region = Region::new(Array3::zeros((c, h, w)), Array2::from_elem((h, w), true))?;
                let noises = Noises { step: &mut noise, around: &mut around };
                inpaint(&stand, plan, x_t, &region, *by, noises, &[], &mut observer)?
            }
        };
        Ok(Some(after))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::engine::Cost;
    use crate::io::checkpoint::{Model, SchedulerConfig};
    use crate::sampling::denoiser::Interval;
    use crate::sampling::generate::Inputs;
    use crate::sampling::inpaint::Resampling;
    use crate::sampling::inversion::{self, Method};
    use crate::sampling::options::Request;
    use crate::sampling::sampler::Restart;
    use crate::unet::{Config, Parameters, layout};

    /// A conditional network whose prediction is a tenth of its input, which counts the rows that it is asked for.
    struct Rows(Arc<AtomicUsize>);

    impl Denoiser for Rows {
        fn shape(&self) -> [usize; 3] {
            [3, 8, 8]
        }

        fn prediction(&self) -> Prediction {
            Prediction::Epsilon
        }

        fn predict(&self, x_t: &Array4<f32>, _: &[Time], _: &[Condition]) -> Result<Array4<f32>> {
            self.0.fetch_add(x_t.dim().0, Ordering::Relaxed);
            Ok(x_t * 0.1)
        }
    }

    fn model() -> Model {
        let config = Config { num_class_embeds: Some(3), ..Config::smallest() };
        let weights = Parameters::zeros(Arc::new(layout(&config).unwrap()));
        let mut model = Model::new(config, weights, SchedulerConfig::default());
        model.null_class = Some(2);
        model
    }

    /// Runs two images and compares what is asked with what is foretold, after every step. Returns the latter at the end.
    fn counted(request: Request, inputs: Inputs) -> usize {
        let asked = Arc::new(AtomicUsize::new(0));
        let request = Request { guidance: Some(2.0), class: vec![0], ..request };
        let cost = Cost { flops: 10, activation_bytes: 1, weight_bytes: 1, batch: None };
        let generator = Generator::over(Rows(asked.clone()), cost, &model(), &request, inputs, (0, 2)).unwrap();
        let mut moves = 0;
        let observer = &mut |_: &Progress<'_>| {
            moves += 1;
            assert_eq!(2 * generator.evaluations_after(moves), asked.load(Ordering::Relaxed), "{request:?}, {moves}");
            ControlFlow::Continue(())
        };
        generator.generate(0..2, observer).unwrap();
        assert_eq!(2 * generator.evaluations(), asked.load(Ordering::Relaxed), "{request:?}");
        let (calls, evaluations) =
            (generator.calls_of(generator.plan()), generator.evaluations_of(generator.plan()).unwrap());
        assert_eq!(evaluations, generator.evaluations());
        assert_eq!(generator.flops_for(calls, evaluations), generator.flops_per_image());
        assert_eq!(generator.flops_per_image(), 10 * generator.evaluations() as u64);
        generator.evaluations()
    }

    #[test]
    fn evaluations_of_encoding_are_those_that_it_makes() {
        for guidance_interval in [None, Some(Interval::new(0.3, 5.0).unwrap())] {
            let asked = Arc::new(AtomicUsize::new(0));
            let cost = Cost { flops: 10, activation_bytes: 1, weight_bytes: 1, batch: None };
            let request = Request {
                steps: Some(10),
                guidance: Some(2.0),
                guidance_interval,
                class: vec![0],
                ..Request::default()
            };
            let generator =
                Generator::over(Rows(asked.clone()), cost, &model(), &request, Inputs::default(), (0, 1)).unwrap();
            let observer = &mut |done: inversion::Calls| {
                assert_eq!(generator.encoding_evaluations_after(done.calls), asked.load(Ordering::Relaxed));
                ControlFlow::Continue(())
            };
            let encoded = generator.encode(&Array4::zeros((1, 3, 8, 8)), 0..1, &Method::Ddim, observer).unwrap();
            assert_eq!(generator.encoding_evaluations() as u64, encoded.evaluations);
            assert_eq!(generator.encoding_evaluations() < 20, guidance_interval.is_some());
        }
    }

    #[test]
    fn evaluations_are_those_that_a_run_makes() {
        let within = Some(Interval::new(0.3, 5.0).unwrap());
        let request = || Request { steps: Some(10), ..Request::default() };
        assert_eq!(counted(request(), Inputs::default()), 20);
        // Timesteps 100 to 600 of a linear schedule have sigma_ve between 0.34 and 5.
        let few = counted(Request { guidance_interval: within, ..request() }, Inputs::default());
        assert!((14..=17).contains(&few), "{few}");
        // These ask between the steps, too.
        for solver in ["heun", "dpm2", "deis", "sa"] {
            let solver = Some(solver.parse().unwrap());
            let all = counted(Request { solver, ..request() }, Inputs::default());
            let few = counted(Request { solver, guidance_interval: within, ..request() }, Inputs::default());
            assert!(few < all && 2 * few > all, "{solver:?}: {few} of {all}");
        }
        let restart = Some(Restart::new(199, 499, 2).unwrap());
        counted(Request { restart, guidance_interval: within, ..request() }, Inputs::default());
        let fill = Array2::from_shape_fn((8, 8), |(i, _)| i < 3);
        let region = Some((Region::new(Array3::zeros((3, 8, 8)), fill).unwrap(), Resampling { jump: 3, resamples: 2 }));
        let inputs = Inputs { region, ..Inputs::default() };
        let all = counted(request(), inputs.clone());
        let few = counted(Request { guidance_interval: within, ..request() }, inputs);
        assert!(few < all && all > 20, "{few} of {all}");
    }
}

//! Closed-form optimal denoisers: E[ε | x_t] is exact for data drawn from a Gaussian, a mixture of Gaussians or a
//! finite set of points. They test every sampler without a trained network.

use ndarray::{Array3, Array4, ArrayView3, Zip};

use crate::error::{Error, Result};
use crate::math::schedule::{NoiseLevel, Schedule, Time};
use crate::sampling::denoiser::{self, Condition, Denoiser, DifferentiableDenoiser, Prediction, Pullback, check_shape};

/// One Gaussian component of the data distribution.
#[derive(Clone, Debug, PartialEq)]
pub struct Component {
    /// Probability, up to a common factor.
    pub weight: f64,
    /// Mean, `[c, h, w]`.
    pub mean: Array3<f64>,
    /// Variance of each element, `[c, h, w]`. A variance of 0 makes the component a point.
    pub variance: Array3<f64>,
}

/// The optimal denoiser for data from a mixture of diagonal Gaussians.
///
/// ```
/// use ndarray::{Array3, Array4};
/// use skipstone::sampling::denoiser::Denoiser;
/// use skipstone::{sampling::oracle::Oracle, math::schedule::{Schedule, Time}};
/// let schedule = Schedule::from_betas(&[0.5])?;
/// // If the data are N(0, I), so is x_t, and ε̂ = √(1−a)·x_t.
/// let oracle = Oracle::gaussian(&schedule, Array3::zeros((1, 2, 2)), Array3::ones((1, 2, 2)))?;
/// let eps = oracle.predict(&Array4::ones((1, 1, 2, 2)), &[Time::new(1)], &[])?;
/// assert!((eps[[0, 0, 0, 0]] - 0.5f32.sqrt()).abs() < 1e-6);
/// # Ok::<(), skipstone::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Oracle {
    schedule: Schedule,
    components: Vec<Component>,
    prediction: Prediction,
}

impl Oracle {
    /// The denoiser of data from N(mean, diag(variance)), both `[c, h, w]`.
    ///
    /// # Errors
    /// As [`mixture`](Self::mixture).
    pub fn gaussian(schedule: &Schedule, mean: Array3<f64>, variance: Array3<f64>) -> Result<Self> {
        Self::mixture(schedule, vec![Component { weight: 1.0, mean, variance }])
    }

    /// The denoiser of data drawn uniformly from a finite set of points, `[c, h, w]` each.
    ///
    /// # Errors
    /// As [`mixture`](Self::mixture).
    pub fn points(schedule: &Schedule, points: Vec<Array3<f64>>) -> Result<Self> {
        let component = |mean: Array3<f64>| Component { weight: 1.0, variance: Array3::zeros(mean.dim()), mean };
        Self::mixture(schedule, points.into_iter().map(component).collect())
    }

    /// The denoiser of data from a mixture of Gaussians.
    ///
    /// # Errors
    /// There is no component, the shapes differ or are empty, a weight is not positive, a variance is negative, or a value
    /// is not finite.
    pub fn mixture(schedule: &Schedule, components: Vec<Component>) -> Result<Self> {
        let Some(first) = components.first() else {
            return Err(Error::argument("oracle: expected at least one component, found none"));
        };
        let shape = first.mean.dim();
        for (k, component) in components.iter().enumerate() {
            let fits = component.mean.dim() == shape && component.variance.dim() == shape && !component.mean.is_empty();
            let weight_fits = component.weight.is_finite() && component.weight > 0.0;
            let values_fit = component.mean.iter().all(|mean| mean.is_finite())
                && component.variance.iter().all(|variance| variance.is_finite() && *variance >= 0.0);
            if !(fits && weight_fits && values_fit) {
                return Err(Error::argument(format!(
                    "oracle: component {k}: expected a positive weight, finite means, and finite variances of at least 0, \
                     both of the non-empty shape {shape:?}"
                )));
            }
        }
        Ok(Self { schedule: schedule.clone(), components, prediction: Prediction::Epsilon })
    }

    /// Sets the prediction type. The default is ε.
    #[must_use]
    pub fn predicting(mut self, prediction: Prediction) -> Self {
        self.prediction = prediction;
        self
    }

    /// Checks the arguments of a call and returns the noise level of each row.
    fn levels(&self, x_t: &Array4<f32>, times: &[Time], conditions: &[Condition]) -> Result<Vec<NoiseLevel>> {
        check_shape("x_t", x_t, self.shape())?;
        let n = x_t.dim().0;
        if times.len() != n {
            return Err(Error::argument(format!("times: expected one per image, {n}, found {}", times.len())));
        }
        denoiser::classes(conditions, n, None)?;
        let level = |&t: &Time| {
            if t == Time::CLEAN {
                return Err(Error::argument("times: expected t >= 1, found clean data (t = 0)"));
            }
            self.schedule.level(t)
        };
        times.iter().map(level).collect()
    }

    /// The prediction if all data came from component `k`.
    fn answer(&self, k: &Component, x: ArrayView3<'_, f32>, level: NoiseLevel) -> Array3<f64> {
        Zip::from(x).and(&k.mean).and(&k.variance).map_collect(|&x, &mean, &variance| {
            // Posterior of one Gaussian: x_t has mean √a·mean and variance a·v + (1−a).
            let per_total = (f64::from(x) - level.signal() * mean) / (level.alpha_bar * variance + level.one_minus);
            let x0 = mean + level.signal() * variance * per_total;
            let eps = level.noise() * per_total;
            self.prediction.target(level, x0, eps)
        })
    }

    /// p(component | x_t) for each component, computed from log-densities to avoid underflow.
    fn responsibilities(&self, x: ArrayView3<'_, f32>, level: NoiseLevel) -> Vec<f64> {
        let logs: Vec<f64> = self
            .components
            .iter()
            .map(|k| {
                let mut log = k.weight.ln();
                Zip::from(x).and(&k.mean).and(&k.variance).for_each(|&x, mean, variance| {
                    let total = level.alpha_bar * variance + level.one_minus;
                    let deviation = f64::from(x) - level.signal() * mean;
                    log -= 0.5 * (deviation * deviation / total + total.ln());
                });
                log
            })
            .collect();
        let max = logs.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let sum: f64 = logs.iter().map(|log| (log - max).exp()).sum();
        logs.iter().map(|log| (log - max).exp() / sum).collect()
    }
}

impl Denoiser for Oracle {
    fn shape(&self) -> [usize; 3] {
        let (c, h, w) = self.components[0].mean.dim();
        [c, h, w]
    }

    fn prediction(&self) -> Prediction {
        self.prediction
    }

    fn predict(&self, x_t: &Array4<f32>, times: &[Time], conditions: &[Condition]) -> Result<Array4<f32>> {
        let levels = self.levels(x_t, times, conditions)?;
        let mut out = Array4::zeros(x_t.dim());
        for ((mut out, x), &level) in out.outer_iter_mut().zip(x_t.outer_iter()).zip(&levels) {
            let mut sum = Array3::<f64>::zeros(x.raw_dim());
            for (k, r) in self.components.iter().zip(self.responsibilities(x, level)) {
                sum.scaled_add(r, &self.answer(k, x, level));
            }
            Zip::from(&mut out).and(&sum).for_each(|out, &sum| *out = sum as f32);
        }
        Ok(out)
    }
}

/// In closed form: let r_k be the responsibilities and m_k the predictions of the components, with diagonal derivatives
/// m_k'. Then Jᵀv = Σ r_k·m_k'·v + Σ (m_k·v)·∇r_k, where ∇r_k = r_k·(∇log p_k − Σ r_j·∇log p_j).
impl DifferentiableDenoiser for Oracle {
    fn pullback(
        &self,
        x_t: &Array4<f32>,
        times: &[Time],
        conditions: &[Condition],
        cotangent: &Array4<f32>,
    ) -> Result<Pullback> {
        let levels = self.levels(x_t, times, conditions)?;
        let out = self.predict(x_t, times, conditions)?;
        check_shape("cotangent", cotangent, self.shape())?;
        if cotangent.dim() != x_t.dim() {
            let (n, found) = (x_t.dim().0, cotangent.dim().0);
            return Err(Error::argument(format!("cotangent: expected {n} images, as in x_t, found {found}")));
        }
        let mut gradient = Array4::zeros(x_t.dim());
        let rows = x_t.outer_iter().zip(cotangent.outer_iter()).zip(&levels);
        for (mut gradient, ((x, v), &level)) in gradient.outer_iter_mut().zip(rows) {
            let v = v.mapv(f64::from);
            let weights = self.responsibilities(x, level);
            let mut sum = Array3::<f64>::zeros(x.raw_dim());
            let mut mean_score = Array3::<f64>::zeros(x.raw_dim());
            let scores: Vec<Array3<f64>> = self.components.iter().map(|k| score(k, x, level)).collect();
            for (score, &r) in scores.iter().zip(&weights) {
                mean_score.scaled_add(r, score);
            }
            for ((k, score), r) in self.components.iter().zip(&scores).zip(weights) {
                Zip::from(&mut sum).and(&v).and(&k.variance).for_each(|sum, v, &variance| {
                    let slope = 1.0 / (level.alpha_bar * variance + level.one_minus);
                    let (x0, eps) = (level.signal() * variance * slope, level.noise() * slope);
                    *sum += r * self.prediction.target(level, x0, eps) * v;
                });
                let along = r * (&self.answer(k, x, level) * &v).sum();
                sum.scaled_add(along, &(score - &mean_score));
            }
            Zip::from(&mut gradient).and(&sum).for_each(|gradient, &sum| *gradient = sum as f32);
        }
        Ok(Pullback { out, gradient })
    }
}

/// ∇log p(x_t) of component `k`: −(x_t − √a·μ)/(a·v + 1 − a).
fn score(k: &Component, x: ArrayView3<'_, f32>, level: NoiseLevel) -> Array3<f64> {
    Zip::from(x).and(&k.mean).and(&k.variance).map_collect(|&x, mean, variance| {
        -(f64::from(x) - level.signal() * mean) / (level.alpha_bar * variance + level.one_minus)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schedule() -> Schedule {
        Schedule::from_betas(&[0.19, 0.6]).unwrap()
    }

    fn value(v: f64) -> Array3<f64> {
        Array3::from_elem((1, 1, 1), v)
    }

    fn x(v: f32) -> Array4<f32> {
        Array4::from_elem((1, 1, 1, 1), v)
    }

    #[test]
    fn one_point_gives_the_exact_noise() {
        // a = 0.81: x = 0.9·2 + √0.19·ε.
        let oracle = Oracle::points(&schedule(), vec![value(2.0)]).unwrap();
        let eps = oracle.predict(&x(1.8 + 0.19f32.sqrt() * 1.5), &[Time::new(1)], &[]).unwrap();
        assert!((eps[[0, 0, 0, 0]] - 1.5).abs() < 1e-6);
    }

    #[test]
    fn two_points_give_the_hyperbolic_tangent() {
        // E[x₀|x] for ±1 is tanh(√a·x/(1−a)), ε̂ = (x − √a·E[x₀|x])/√(1−a).
        let oracle = Oracle::points(&schedule(), vec![value(1.0), value(-1.0)]).unwrap();
        for v in [0.05f32, -0.3, 2.0] {
            let x0 = (0.9 * f64::from(v) / 0.19).tanh();
            let expected = (f64::from(v) - 0.9 * x0) / 0.19f64.sqrt();
            let found = oracle.predict(&x(v), &[Time::new(1)], &[]).unwrap()[[0, 0, 0, 0]];
            assert!((f64::from(found) - expected).abs() < 1e-6);
            let v_out = oracle.clone().predicting(Prediction::Sample).predict(&x(v), &[Time::new(1)], &[]).unwrap();
            assert!((f64::from(v_out[[0, 0, 0, 0]]) - x0).abs() < 1e-6);
        }
    }

    #[test]
    fn distant_components_neither_underflow_nor_blend() {
        let component = |mean| Component { weight: 1.0, mean: value(mean), variance: value(0.5) };
        let oracle = Oracle::mixture(&schedule(), vec![component(1e4), component(-1e4)]).unwrap();
        let eps = oracle.predict(&x(9_001.0), &[Time::new(1)], &[]).unwrap()[[0, 0, 0, 0]];
        // √(1−a)·(x − √a·μ)/(a·v + 1 − a) with x − √a·μ = 1.
        assert!((f64::from(eps) - 0.19f64.sqrt() / (0.405 + 0.19)).abs() < 1e-6);
    }

    #[test]
    fn pullback_matches_finite_differences() {
        let part = |weight, mean: [f64; 3], variance: [f64; 3]| Component {
            weight,
            mean: Array3::from_shape_vec((1, 1, 3), mean.to_vec()).unwrap(),
            variance: Array3::from_shape_vec((1, 1, 3), variance.to_vec()).unwrap(),
        };
        let parts = vec![part(1.0, [0.5, -0.5, 0.2], [0.2, 0.4, 0.1]), part(2.0, [-0.6, 0.3, 0.0], [0.1, 0.3, 0.5])];
        for prediction in [Prediction::Epsilon, Prediction::Sample, Prediction::Velocity] {
            let oracle = Oracle::mixture(&schedule(), parts.clone()).unwrap().predicting(prediction);
            let at = Array4::from_shape_vec((1, 1, 1, 3), vec![0.1f32, -0.2, 0.3]).unwrap();
            let v = Array4::from_shape_vec((1, 1, 1, 3), vec![0.7f32, -1.1, 0.4]).unwrap();
            let found = oracle.pullback(&at, &[Time::new(2)], &[], &v).unwrap();
            assert_eq!(found.out, oracle.predict(&at, &[Time::new(2)], &[]).unwrap());
            for i in 0..3 {
                let h = 0.01f32;
                let moved = |h: f32| {
                    let mut x = at.clone();
                    x[[0, 0, 0, i]] += h;
                    (oracle.predict(&x, &[Time::new(2)], &[]).unwrap() * &v).sum()
                };
                let slope = (moved(h) - moved(-h)) / (2.0 * h);
                let gradient = found.gradient[[0, 0, 0, i]];
                assert!((gradient - slope).abs() < 1e-4, "{prediction} {i}: {gradient} {slope}");
            }
            assert!(oracle.pullback(&at, &[Time::new(2)], &[], &Array4::zeros((2, 1, 1, 3))).is_err());
        }
    }

    #[test]
    fn invalid_distributions_and_calls_are_refused() {
        assert!(Oracle::points(&schedule(), vec![]).is_err());
        assert!(Oracle::points(&schedule(), vec![value(0.0), Array3::zeros((1, 1, 2))]).is_err());
        assert!(Oracle::gaussian(&schedule(), value(0.0), value(-1.0)).is_err());
        let oracle = Oracle::points(&schedule(), vec![value(0.0)]).unwrap();
        assert!(oracle.predict(&x(0.0), &[Time::CLEAN], &[]).is_err());
        assert!(oracle.predict(&x(0.0), &[Time::new(3)], &[]).is_err());
        assert!(oracle.predict(&x(0.0), &[Time::new(1)], &[Condition::Class(0)]).is_err());
    }
}

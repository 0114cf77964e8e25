use ndarray::Array3;

use super::*;
use crate::engine::cpu::UNet;
use crate::io::checkpoint::{config_from_json, read_tensors};
use crate::math::noise::{Forbidden, initial_latent};
use crate::sampling::oracle::Oracle;
use crate::sampling::sampler::{Plan, sample, unobserved};
use crate::sampling::solver::Solver;

const MEAN: f64 = 0.3;
const VARIANCE: f64 = 0.25;

/// A round of a student with this output, taught by the closed-form denoiser of N(`MEAN`, `VARIANCE`).
fn distillation(own: Prediction, learnt: Prediction, round: Round) -> Distillation {
    let schedule = SchedulerConfig::default().schedule().unwrap();
    let of = |value| Array3::from_elem((1, 4, 4), value);
    let teacher = Oracle::gaussian(&schedule, of(MEAN), of(VARIANCE)).unwrap().predicting(own);
    taught_by(Box::new(teacher), learnt, round)
}

fn taught_by(teacher: Box<dyn Denoiser + Send + Sync>, learnt: Prediction, round: Round) -> Distillation {
    let scheduler = SchedulerConfig { prediction_type: learnt, ..SchedulerConfig::default() };
    let mut distillation = not_laid_out(teacher, scheduler, round);
    distillation.lay_out().unwrap();
    distillation
}

fn not_laid_out(teacher: Box<dyn Denoiser + Send + Sync>, scheduler: SchedulerConfig, round: Round) -> Distillation {
    let schedule = scheduler.schedule().unwrap();
    Distillation {
        rounds: vec![round],
        index: 0,
        scheduler,
        schedule,
        weighting: LossWeighting::TruncatedSnr,
        student: Config::smallest(),
        solver: TeacherSolver::Ddim,
        teacher,
        bytes: (0, 0),
        rows: 1,
        first: 1,
        weights: None,
        times: Vec::new(),
        leaps: Vec::new(),
    }
}

/// One step of DDIM for the data of the oracle: x̂₀ and ε̂ from the posterior, then √a_s·x̂₀ + √(1−a_s)·ε̂.
fn exact_step(t: NoiseLevel, s: NoiseLevel, x: f64) -> f64 {
    let x0 = MEAN + t.signal() * VARIANCE * (x - t.signal() * MEAN) / (t.alpha_bar * VARIANCE + t.one_minus);
    let eps = (x - t.signal() * x0) / t.noise();
    s.signal() * x0 + s.noise() * eps
}

const STUDENTS: [Prediction; 2] = [Prediction::Sample, Prediction::Velocity];
const TEACHERS: [Prediction; 3] = [Prediction::Epsilon, Prediction::Sample, Prediction::Velocity];

#[test]
fn a_step_of_the_student_lands_where_two_steps_of_the_teacher_land() {
    for learnt in STUDENTS {
        for (teacher, student) in [(32, 16), (8, 4), (2, 1), (8, 8)] {
            let distillation = distillation(Prediction::Epsilon, learnt, Round { teacher, student });
            assert_eq!(distillation.leaps.len(), student);
            for leap in &distillation.leaps {
                assert_eq!(leap.path.len(), teacher / student);
                for x_t in [-2.5, -0.3, 0.0, 1.0, 3.0] {
                    let x_s = leap.path.iter().fold(x_t, |x, step| exact_step(step.from, step.to, x));
                    let out = leap.target(learnt, x_t, x_s);
                    let of = |kind| learnt.as_type(kind, leap.from).map(|(of_x, of_out)| of_x * x_t + of_out * out);
                    let [x0, eps] = [Prediction::Sample, Prediction::Epsilon].map(|kind| of(kind).unwrap());
                    let landed = leap.to.signal() * x0 + leap.to.noise() * eps;
                    assert!((landed - x_s).abs() < 1e-12, "{learnt:?} {teacher} → {student}: {landed} for {x_s}");
                }
            }
        }
    }
}

#[test]
fn targets_are_those_of_the_closed_form_for_every_output_of_the_teacher() {
    for learnt in STUDENTS {
        for own in TEACHERS {
            let distillation = distillation(own, learnt, Round { teacher: 8, student: 4 });
            let times = distillation.times().to_vec();
            let (x0, eps) = (initial_latent(1, 0, 4, [1, 4, 4]), initial_latent(2, 0, 4, [1, 4, 4]));
            let draws = Draws { x0: &x0, eps: &eps, times: &times, conditions: &[] };
            let Examples { x_t, target, weights } = distillation.examples(&draws).unwrap();
            for (i, leap) in distillation.leaps.iter().enumerate() {
                let expected = |&x: &f32| {
                    let x = f64::from(x);
                    leap.target(learnt, x, leap.path.iter().fold(x, |x, step| exact_step(step.from, step.to, x)))
                };
                let (x, found) = (x_t.index_axis(Axis(0), i), target.index_axis(Axis(0), i));
                for (x, found) in x.iter().zip(found) {
                    let wanted = expected(x);
                    assert!((f64::from(*found) - wanted).abs() < 2e-5, "{own:?} to {learnt:?}: {found} for {wanted}");
                }
                assert_eq!(weights[i], LossWeighting::TruncatedSnr.at(learnt, leap.from));
            }
        }
    }
}

/// A student that has learnt all its targets.
struct Perfect(Distillation);

impl Denoiser for Perfect {
    fn shape(&self) -> [usize; 3] {
        self.0.teacher.shape()
    }

    fn prediction(&self) -> Prediction {
        self.0.scheduler.prediction_type
    }

    fn predict(&self, x_t: &Array4<f32>, times: &[Time], conditions: &[Condition]) -> Result<Array4<f32>> {
        self.0.teach(x_t, &self.0.leaps_from(times)?, conditions)
    }
}

/// What a denoiser samples in trailing steps of a solver.
fn sampled(denoiser: &dyn Denoiser, solver: Solver, steps: usize) -> Array4<f32> {
    let schedule = SchedulerConfig::default().schedule().unwrap();
    let plan = Plan::ddim(&schedule, &trajectory(steps, 1000).unwrap()).unwrap().with_solver(solver).unwrap();
    sample(denoiser, &plan, initial_latent(7, 0, 3, [1, 4, 4]), &mut Forbidden, &[], &mut unobserved).unwrap()
}

fn worst(found: &Array4<f32>, expected: &Array4<f32>) -> f32 {
    found.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

#[test]
fn a_perfect_student_samples_what_its_teacher_samples_in_twice_the_steps() {
    for (teachers, solver) in [(TeacherSolver::Ddim, Solver::DDIM), (TeacherSolver::Heun, Solver::HEUN)] {
        for learnt in STUDENTS {
            for own in TEACHERS {
                for (teacher, student) in [(16, 8), (4, 4), (8, 1)] {
                    let mut distillation = distillation(own, learnt, Round { teacher, student });
                    distillation.solver = teachers;
                    let expected = sampled(&*distillation.teacher, solver, teacher);
                    let found = sampled(&Perfect(distillation), Solver::DDIM, student);
                    let off = worst(&found, &expected);
                    assert!(off < 1e-5, "{solver} {own:?} to {learnt:?}, {teacher} → {student}: {off}");
                }
            }
        }
    }
}

#[test]
fn a_student_of_heun_is_nearer_to_the_exact_images_than_one_of_as_many_steps_of_ddim() {
    // The flow of N(m, v) scales the distance from the mean: x̄ → m + (x̄ − m)·√(v/(v + σ_ve²)).
    let schedule = SchedulerConfig::default().schedule().unwrap();
    let start = schedule.level(Time::new(1000)).unwrap();
    let scale = (VARIANCE / (VARIANCE + start.sigma_ve().powi(2))).sqrt();
    let exact =
        initial_latent(7, 0, 3, [1, 4, 4]).mapv(|x| (MEAN + (f64::from(x) / start.signal() - MEAN) * scale) as f32);
    let off = |solver, teacher| {
        let mut distillation = distillation(Prediction::Velocity, Prediction::Velocity, Round { teacher, student: 4 });
        distillation.solver = solver;
        worst(&sampled(&Perfect(distillation), Solver::DDIM, 4), &exact)
    };
    for steps in [8, 16, 32, 64] {
        let [heun, ddim] = [TeacherSolver::Heun, TeacherSolver::Ddim].map(|solver| off(solver, steps));
        println!("{steps} steps: off by {heun:.4} with heun, {ddim:.4} with ddim");
        assert!(heun < 0.8 * ddim, "{steps} steps: {heun} {ddim}");
    }
}

#[test]
fn heun_cannot_begin_where_sigma_ve_is_infinite() {
    let scheduler = SchedulerConfig { rescale_betas_zero_snr: true, ..SchedulerConfig::default() };
    let scheduler = SchedulerConfig { prediction_type: Prediction::Velocity, ..scheduler };
    let of = |value| Array3::from_elem((1, 4, 4), value);
    let oracle = Oracle::gaussian(&scheduler.schedule().unwrap(), of(MEAN), of(VARIANCE)).unwrap();
    let mut distillation = not_laid_out(Box::new(oracle), scheduler, Round { teacher: 8, student: 4 });
    distillation.lay_out().unwrap();
    distillation.solver = TeacherSolver::Heun;
    let e = distillation.lay_out().unwrap_err().to_string();
    assert!(e.contains("distill.solver") && e.contains("zero terminal SNR") && e.contains("choose ddim"), "{e}");
}

#[test]
fn the_times_of_every_round_are_among_those_of_the_round_before() {
    // Halving always ends at a divisor of T.
    for (trained, from) in [(1000, 32), (1000, 64), (1000, 1000), (999, 592), (100, 80)] {
        let mut steps = from;
        while steps % 2 == 0 {
            let [all, half] = [steps, steps / 2].map(|steps| trajectory(steps, trained).unwrap());
            let second: Vec<Time> = all.times().iter().copied().step_by(2).collect();
            assert_eq!(second, half.times(), "{steps} steps of {trained}");
            steps /= 2;
        }
    }
}

#[test]
fn a_step_that_leads_nowhere_is_refused() {
    let scheduler = SchedulerConfig { set_alpha_to_one: false, num_train_timesteps: 8, ..SchedulerConfig::default() };
    let schedule = scheduler.schedule().unwrap();
    let of = |value| Array3::from_elem((1, 4, 4), value);
    let lay_out = |teacher, student| {
        let oracle = Oracle::gaussian(&schedule, of(MEAN), of(VARIANCE)).unwrap();
        not_laid_out(Box::new(oracle), scheduler.clone(), Round { teacher, student }).lay_out()
    };
    // The first of eight steps begins and ends at the first of eight trained levels.
    let e = lay_out(8, 8).unwrap_err().to_string();
    assert!(e.contains("distill.from: 8 steps") && e.contains("set_alpha_to_one") && e.contains("fewer"), "{e}");
    // The student of half as many steps only takes longer ones.
    lay_out(8, 4).unwrap();
    lay_out(4, 4).unwrap();
}

#[test]
fn a_time_that_is_none_of_the_students_is_refused() {
    let distillation = distillation(Prediction::Epsilon, Prediction::Velocity, Round { teacher: 8, student: 4 });
    let times: Vec<f64> = distillation.times().iter().map(|t| t.get()).collect();
    assert_eq!(times, [250.0, 500.0, 750.0, 1000.0]);
    let e = distillation.leaps_from(&[Time::new(875)]).unwrap_err().to_string();
    assert!(e.contains("875") || e.contains("874"), "{e}");
}

/// A file of `golden/values`, which diffusers made (golden/README.md).
fn golden(name: &str) -> Vec<u8> {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../golden/values");
    std::fs::read(folder.join(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
}

#[test]
fn targets_are_those_of_two_steps_of_diffusers() {
    let file: serde_json::Value = serde_json::from_slice(&golden("distillation.json")).unwrap();
    let tensors = read_tensors(&golden("distillation.safetensors")).unwrap();
    let cases = file["cases"].as_array().unwrap();
    assert_eq!(cases.len(), 2);
    for case in cases {
        let [model, name] = ["model", "name"].map(|key| case[key].as_str().unwrap());
        let json = String::from_utf8(golden(&format!("{model}/config.json"))).unwrap();
        let config = config_from_json(&json, None).unwrap();
        // The file also holds whole numbers, which no model has.
        let weights = golden(&format!("{model}/tensors.safetensors"));
        let weights = safetensors::SafeTensors::deserialize(&weights).unwrap();
        let mut parameters = Parameters::zeros(Arc::new(unet::layout(&config).unwrap()));
        for spec in parameters.layout().clone().specs() {
            let tensor = weights.tensor(&format!("weight/{}", spec.name)).unwrap();
            assert_eq!((tensor.dtype(), tensor.shape()), (safetensors::Dtype::F32, &spec.shape[..]));
            let values: Vec<f32> = tensor.data().as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
            parameters.data_mut()[spec.range()].copy_from_slice(&values);
        }
        let own: Prediction = serde_json::from_value(case["prediction"].clone()).unwrap();
        let times: Vec<Time> = case["times"]
            .as_array()
            .unwrap()
            .iter()
            .map(|index| Time::from_index(index.as_u64().unwrap() as u32))
            .collect();
        let images = |what: &str| {
            let tensor = tensors.get(&format!("{name}/{what}")).unwrap();
            let shape: [usize; 4] = tensor.shape.clone().try_into().unwrap();
            Array4::from_shape_vec(shape, tensor.values.clone()).unwrap()
        };
        let x = images("x");
        for (learnt, what) in [(Prediction::Sample, "sample"), (Prediction::Velocity, "v")] {
            let network = UNet::new(config.clone(), parameters.clone(), own).unwrap();
            let distillation = taught_by(Box::new(network), learnt, Round { teacher: 8, student: 4 });
            let found = distillation.teach(&x, &distillation.leaps_from(&times).unwrap(), &[]).unwrap();
            let expected = images(what);
            let norm = |x: &Array4<f32>| x.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>().sqrt();
            let relative = norm(&(&found - &expected)) / norm(&expected);
            println!("{name} {what}: {relative:.1e}");
            assert!(relative < 1e-5, "{name} {what}: {relative:.1e}");
        }
    }
}

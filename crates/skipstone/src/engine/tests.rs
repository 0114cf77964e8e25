use super::*;
use crate::unet::initialise;

#[test]
fn what_no_engine_does_is_refused_and_named() {
    let config = Config::smallest();
    let weights = || initialise(&config, || 0.5, || 0.5).unwrap();
    let half = EngineOptions { precision: Precision::F16, ..EngineOptions::on_threads(1) };
    let sharding = Sharding { images: 1, recompute: false };
    let learn = |options| open_learner(config.clone(), weights(), sharding, &options).err().unwrap().to_string();
    let slope = open_differentiable(config.clone(), weights(), Prediction::Epsilon, &half).err().unwrap();
    assert!(learn(half).contains("f16") && slope.to_string().contains("f16"), "{slope}");
    assert!(learn(EngineOptions::on_threads(0)).contains("threads"));
    let asked = open(config.clone(), weights(), Prediction::Epsilon, &EngineOptions::on_threads(0));
    assert!(asked.unwrap_err().to_string().contains("threads"));
    assert!(open(config.clone(), weights(), Prediction::Epsilon, &half).is_ok());
    assert_eq!("tpu".parse::<Device>().unwrap_err().message(), "unknown device \"tpu\": this build supports cpu");
}

#[test]
fn a_learner_takes_only_targets_that_fit_its_batch() {
    use ndarray::Array4;
    let config = Config::smallest();
    let weights = initialise(&config, || 0.5, || 0.5).unwrap();
    let sharding = Sharding { images: 2, recompute: false };
    let mut learner = open_learner(config, weights, sharding, &EngineOptions::on_threads(1)).unwrap();
    let x = Array4::zeros((3, 1, 8, 8));
    let batch =
        Batch { x_t: &x, times: &[crate::math::schedule::Time::from_index(7); 3], conditions: &[], dropout: None };
    let mut losses =
        |target: &Array4<f32>, weights: &[f64]| learner.add_gradient(batch, Targets { target, weights, scale: 1.0 });
    // A fresh network outputs 0, so the loss is the weight times the mean square of the target.
    assert_eq!(losses(&Array4::from_elem((3, 1, 8, 8), 2.0), &[1.0, 0.5, 0.0]).unwrap(), [4.0, 2.0, 0.0]);
    assert!(losses(&Array4::zeros((2, 1, 8, 8)), &[1.0; 3]).is_err());
    assert!(losses(&Array4::zeros((3, 1, 8, 8)), &[1.0; 2]).is_err());
    assert!(losses(&Array4::zeros((3, 1, 8, 4)), &[1.0; 3]).is_err());
}

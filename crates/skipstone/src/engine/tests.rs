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
}

#[test]
fn a_network_with_derivatives_takes_the_times_that_it_takes_without() {
    use crate::unet::TimeEmbedding;
    let learned = TimeEmbedding::Learned { num_train_timesteps: 10 };
    for (time_embedding, fractional) in [(TimeEmbedding::Positional, true), (learned, false)] {
        let config = Config { time_embedding, ..Config::smallest() };
        let weights = || initialise(&config, || 0.5, || 0.5).unwrap();
        let options = EngineOptions::on_threads(1);
        let plain = open(config.clone(), weights(), Prediction::Epsilon, &options).unwrap();
        let slope = open_differentiable(config.clone(), weights(), Prediction::Epsilon, &options).unwrap();
        assert_eq!([plain.takes_fractional_times(), slope.takes_fractional_times()], [fractional; 2], "{config:?}");
    }
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

#[test]
fn devices_are_named_by_api_and_number() {
    for text in ["cpu", "gpu", "vulkan", "metal:1", "dx12:3", "auto"] {
        assert_eq!(text.parse::<Device>().unwrap().to_string(), text);
    }
    assert_eq!("vulkan:0".parse::<Device>().unwrap(), Device::Gpu(Api::Vulkan, 0));
    for (text, hint) in
        [("tpu", "expected cpu, gpu"), ("cpu:1", "cpu has no number"), ("gpu:one", "a number after the colon")]
    {
        let message = text.parse::<Device>().unwrap_err().message().to_owned();
        assert!(message.contains(hint), "{message}");
    }
    assert_eq!(devices()[0].device, "cpu");
}

#[cfg(not(feature = "gpu"))]
#[test]
fn a_build_without_the_engine_names_the_feature_and_auto_is_the_cpu() {
    let config = Config::smallest();
    let weights = || initialise(&config, || 0.5, || 0.5).unwrap();
    let on = |device| {
        let options = EngineOptions { device, ..EngineOptions::on_threads(1) };
        open(config.clone(), weights(), Prediction::Epsilon, &options)
    };
    let error = on(Device::Gpu(Api::Vulkan, 1)).unwrap_err();
    assert!(error.to_string().contains("device vulkan:1") && error.to_string().contains("--features gpu"), "{error}");
    assert_eq!(error.kind(), crate::Kind::Device);
    assert!(on(Device::Auto).is_ok());
}

//! U-Nets as ONNX files, compared with PyTorch's answers (`golden/values/unet_*`). That ONNX Runtime agrees is the subject
//! of `golden/check_onnx_export.py`.

#[path = "../../skipstone/tests/library/golden/mod.rs"]
mod golden;

use golden::unets::{NAMES, Network};
use ndarray::Array4;
use skipstone::engine::EngineOptions;
use skipstone::io::checkpoint::SchedulerConfig;
use skipstone::io::onnx::{OnnxModel, write_onnx};
use skipstone::sampling::denoiser::{Denoiser, Prediction};
use skipstone_onnx::{Options, load};

fn relative(found: &Array4<f32>, expected: &[f64]) -> f64 {
    let square = |values: &mut dyn Iterator<Item = f64>| values.map(|v| v * v).sum::<f64>();
    let difference = square(&mut found.iter().zip(expected).map(|(&f, &e)| f64::from(f) - e));
    (difference / square(&mut expected.iter().copied())).sqrt()
}

#[test]
fn every_architecture_predicts_as_an_onnx_file_what_it_predicts_in_pytorch() {
    let folder = tempfile::tempdir().unwrap();
    let scheduler = SchedulerConfig { prediction_type: Prediction::Velocity, ..SchedulerConfig::default() };
    for name in NAMES {
        let network = Network::read(name);
        let path = folder.path().join(format!("{name}.onnx"));
        let null_class = network.config.num_class_embeds.map(|classes| classes - 1);
        let model =
            OnnxModel { config: &network.config, parameters: &network.parameters, scheduler: &scheduler, null_class };
        assert_eq!(write_onnx(&path, model).unwrap(), None, "{name}");
        let mut loaded = load(&path, &Options::default()).unwrap();
        // The file alone is a model.
        assert_eq!((&loaded.scheduler, loaded.null_class), (&scheduler, null_class), "{name}");
        assert_eq!(loaded.config.num_class_embeds, network.config.num_class_embeds, "{name}");
        let onnx = loaded.open(&EngineOptions::on_threads(2)).unwrap();
        let found = onnx.predict(&network.images("x"), &network.times(), &network.conditions()).unwrap();
        let distance = relative(&found, &network.tensors["y"].values);
        assert!(distance < 2e-5, "{name}: {distance:.1e}");
        let ours = network.unet(Prediction::Velocity);
        assert_eq!(onnx.takes_fractional_times(), ours.takes_fractional_times(), "{name}");
        let ours = ours.predict(&network.images("x"), &network.times(), &network.conditions()).unwrap();
        let ours: Vec<f64> = ours.iter().map(|&v| f64::from(v)).collect();
        assert!(relative(&found, &ours) < 1e-5, "{name}: {:.1e}", relative(&found, &ours));
        // The same model gives the same bytes.
        let bytes = std::fs::read(&path).unwrap();
        write_onnx(&path, model).unwrap();
        assert!(std::fs::read(&path).unwrap() == bytes, "{name}");
    }
}

#[test]
fn parameters_of_another_architecture_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let (network, other) = (Network::read("heads"), Network::read("cifar"));
    let scheduler = &SchedulerConfig::default();
    let model = OnnxModel { config: &network.config, parameters: &other.parameters, scheduler, null_class: None };
    assert!(write_onnx(&folder.path().join("net.onnx"), model).unwrap_err().message().contains("another architecture"));
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

//! A checkpoint in the original code's format, against the network's output in PyTorch (golden/README.md).

use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};

use skipstone::Kind;
use skipstone::engine::cpu::UNet;
use skipstone::io::checkpoint::{
    FloatType, Format, LoadOptions, Model, ModelFiles, Weights, WeightsChoice, load, save,
};
use skipstone::math::schedule::Time;
use skipstone::sampling::denoiser::{Denoiser, Prediction};
use skipstone::unet::{DownBlock, UpBlock};

use crate::golden;

/// Unpacks the checkpoint into `dir`.
fn unpack(dir: &Path) -> PathBuf {
    let path = dir.join("model.ckpt");
    let packed = golden::bytes("official_list.ckpt.gz");
    let mut bytes = Vec::new();
    flate2::read::GzDecoder::new(&packed[..]).read_to_end(&mut bytes).unwrap();
    std::fs::write(&path, bytes).unwrap();
    path
}

/// The images are 8×8, which the file does not state.
fn options(weights: WeightsChoice) -> LoadOptions {
    LoadOptions { weights, size: Some([8, 8]), ..LoadOptions::default() }
}

#[track_caller]
fn assert_computes(model: &Model, expected: &str) {
    let tensors = golden::tensors("official.safetensors");
    let unet = UNet::new(model.config.clone(), model.parameters.clone(), Prediction::Epsilon).unwrap();
    let times: Vec<Time> = tensors["t"].values.iter().map(|&t| Time::from_index(t as u32)).collect();
    let y = unet.predict(&tensors["x"].images(), &times, &[]).unwrap();
    let difference = golden::relative(y.iter().map(|&v| f64::from(v)), &tensors[expected].values);
    assert!(difference < 1e-5, "{expected}: relative difference {difference:e}");
}

#[test]
fn the_average_is_taken_unless_the_raw_weights_are_asked_for_and_both_compute_what_pytorch_does() {
    let dir = tempfile::tempdir().unwrap();
    let path = unpack(dir.path());
    for (choice, weights, expected) in [
        (WeightsChoice::Auto, Weights::Ema, "y_ema"),
        (WeightsChoice::Ema, Weights::Ema, "y_ema"),
        (WeightsChoice::Raw, Weights::Raw, "y_raw"),
    ] {
        let model = load(&path, &options(choice)).unwrap();
        assert_eq!((model.weights, model.format), (weights, Format::Original), "{choice:?}");
        assert_computes(&model, expected);
    }
}

#[test]
fn the_architecture_is_inferred_from_the_tensors() {
    let dir = tempfile::tempdir().unwrap();
    let model = load(&unpack(dir.path()), &options(WeightsChoice::Auto)).unwrap();
    let expected = golden::json("official.json");
    let config = &model.config;
    assert_eq!(config.block_out_channels, [32, 64]);
    assert_eq!(config.layers_per_block, 1);
    // Attention at 4×4 of 8×8 images: the second level, which is the first on the way up.
    assert_eq!(config.down_blocks, [DownBlock::Plain, DownBlock::Attention]);
    assert_eq!(config.up_blocks, [UpBlock::Attention, UpBlock::Plain]);
    assert_eq!((config.in_channels, config.out_channels, config.sample_size), (3, 3, [8, 8]));
    assert_eq!((config.norm_num_groups, config.norm_eps, config.downsample_padding), (32, 1e-6, 0));
    assert_eq!((config.freq_shift, config.flip_sin_to_cos), (1.0, false));
    assert_eq!(model.parameters.data().len() as u64, expected["parameters"].as_u64().unwrap());
}

#[test]
fn a_converted_checkpoint_is_the_same_model() {
    let dir = tempfile::tempdir().unwrap();
    let (ema, raw) = {
        let path = unpack(dir.path());
        (load(&path, &options(WeightsChoice::Ema)).unwrap(), load(&path, &options(WeightsChoice::Raw)).unwrap())
    };
    assert_ne!(ema.hash, raw.hash);
    let folder = dir.path().join("converted");
    let files = ModelFiles {
        config: &ema.config,
        weights: &ema.parameters,
        kind: Weights::Ema,
        raw: Some(&raw.parameters),
        scheduler: &ema.scheduler,
        null_class: None,
        provenance: &BTreeMap::new(),
        float_type: FloatType::F32,
    };
    save(&folder, &files).unwrap();
    for (choice, original, expected) in [(WeightsChoice::Auto, &ema, "y_ema"), (WeightsChoice::Raw, &raw, "y_raw")] {
        let back = load(&folder, &LoadOptions { weights: choice, ..LoadOptions::default() }).unwrap();
        assert_eq!((back.hash.as_str(), back.format), (original.hash.as_str(), Format::Folder), "{choice:?}");
        assert_eq!(back.scheduler.num_train_timesteps, 1000);
        assert_computes(&back, expected);
    }
}

#[test]
fn a_checkpoint_cut_short_is_an_error_that_names_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = unpack(dir.path());
    let bytes = std::fs::read(&path).unwrap();
    for len in [0, 1, 100, bytes.len() / 2, bytes.len() - 1] {
        std::fs::write(&path, &bytes[..len]).unwrap();
        let error = load(&path, &options(WeightsChoice::Auto)).unwrap_err();
        assert!(matches!(error.kind(), Kind::InvalidData | Kind::Unsupported), "{len} bytes: {error:?}");
        assert_eq!(error.path(), Some(&*path), "{len} bytes: {error}");
    }
}

//! Malicious and damaged model files cause an error that names the problem, quickly and without large allocations.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use skipstone::Kind;
use skipstone::io::checkpoint::{FloatType, LoadOptions, Model, config_from_json, load, load_embedded, write_tensors};

use crate::golden;
use crate::golden::unets::Network;

const WEIGHTS: &str = "unet/diffusion_pytorch_model.safetensors";

/// The tensors of a model folder by name, to be corrupted.
type Tensors = BTreeMap<String, (Vec<usize>, Vec<f32>)>;

fn tensors(network: &Network) -> Tensors {
    let tensor = |(spec, values): (&skipstone::unet::ParameterSpec, &[f32])| {
        (spec.name.clone(), (spec.shape.clone(), values.to_vec()))
    };
    network.parameters.iter().map(tensor).collect()
}

fn weight_file(tensors: &Tensors) -> Vec<u8> {
    let mut bytes = Vec::new();
    let tensors = tensors.iter().map(|(name, (shape, values))| (&name[..], &shape[..], &values[..]));
    write_tensors(tensors, &BTreeMap::new(), FloatType::F32, &mut bytes).unwrap();
    bytes
}

fn config_file(name: &str) -> Vec<u8> {
    golden::bytes(&format!("unet_{name}/config.json"))
}

fn load_parts(config: &[u8], weights: &[u8]) -> skipstone::Result<Model> {
    let scheduler = br#"{"_class_name": "DDIMScheduler", "prediction_type": "epsilon"}"#;
    let files = [("unet/config.json", config), ("scheduler/scheduler_config.json", &scheduler[..]), (WEIGHTS, weights)];
    load_embedded(&files, &LoadOptions::default())
}

#[test]
fn the_parts_that_the_other_tests_spoil_do_load() {
    let network = Network::read("cifar");
    let model = load_parts(&config_file("cifar"), &weight_file(&tensors(&network))).unwrap();
    assert_eq!(model.config, network.config);
    assert_eq!(model.parameters.data(), network.parameters.data());
}

#[test]
fn a_config_that_asks_for_a_billion_of_anything_is_refused_by_field_at_once() {
    let config: Value = serde_json::from_slice(&config_file("cifar")).unwrap();
    let weights = weight_file(&tensors(&Network::read("cifar")));
    let billion = 1_000_000_000u64;
    let begun = Instant::now();
    for (field, value) in [
        ("sample_size", json!(billion)),
        ("sample_size", json!([billion, 16])),
        ("in_channels", json!(billion)),
        ("out_channels", json!(billion)),
        ("layers_per_block", json!(billion)),
        ("norm_num_groups", json!(billion)),
        ("block_out_channels", json!([4, 4, 8, billion])),
        ("block_out_channels", json!(vec![4; 1000])),
        ("block_out_channels", json!([u64::MAX, 4, 8, 8])),
        ("block_out_channels", json!([])),
        ("num_class_embeds", json!(billion)),
        ("downsample_padding", json!(billion)),
        ("attn_norm_num_groups", json!(billion)),
        ("layers_per_block", json!(0)),
        ("layers_per_block", json!(-1)),
        ("norm_num_groups", json!(0)),
        ("attention_head_dim", json!(0)),
        ("norm_eps", json!(-1.0)),
        ("dropout", json!(2.0)),
        ("mid_block_scale_factor", json!(0.0)),
    ] {
        let mut spoilt = config.clone();
        spoilt[field] = value.clone();
        let error = load_parts(spoilt.to_string().as_bytes(), &weights).unwrap_err();
        let known = matches!(error.kind(), Kind::InvalidData | Kind::Unsupported);
        assert!(known && error.message().contains(field), "{field} = {value}: {error:?}");
        assert!(error.path().is_some_and(|p| p.ends_with("config.json")), "{field} = {value}: {error}");
    }
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
}

#[test]
fn the_largest_network_a_config_may_ask_for_needs_a_file_as_large() {
    // Every field is within its bounds, but together they imply hundreds of terabytes of weights.
    let begun = Instant::now();
    let mut config: Value = serde_json::from_slice(&config_file("cifar")).unwrap();
    config["block_out_channels"] = json!([65536, 65536, 65536, 65536]);
    config["layers_per_block"] = json!(64);
    config["sample_size"] = json!(16384);
    let parsed = config_from_json(&config.to_string(), None).unwrap();
    // The count saturates instead of wrapping around to a small number.
    assert!(skipstone::unet::flops(&parsed).unwrap() > 1 << 60);
    let error = load_parts(config.to_string().as_bytes(), &weight_file(&tensors(&Network::read("cifar")))).unwrap_err();
    assert_eq!(error.kind(), Kind::InvalidData);
    assert!(error.message().contains("tensors do not fit the architecture"), "{error}");
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
}

#[test]
fn every_missing_extra_and_misshapen_tensor_is_listed_at_once() {
    let mut spoilt = tensors(&Network::read("cifar"));
    spoilt.remove("conv_in.bias").unwrap();
    spoilt.remove("mid_block.resnets.1.conv2.weight").unwrap();
    spoilt.insert("surprise".into(), (vec![2], vec![0.0; 2]));
    // The same number of elements in another shape is a different tensor.
    spoilt.get_mut("conv_out.weight").unwrap().0 = vec![4, 3, 3, 3];
    let error = load_parts(&config_file("cifar"), &weight_file(&spoilt)).unwrap_err();
    assert_eq!(error.kind(), Kind::InvalidData);
    assert!(error.path().is_some_and(|p| p.ends_with(WEIGHTS)), "{error}");
    for part in [
        "4 tensors",
        "missing (2):\n    conv_in.bias: expected [4]",
        "mid_block.resnets.1.conv2.weight: expected [8, 8, 3, 3]",
        "unexpected (1):\n    surprise: [2]",
        "conv_out.weight: expected [3, 4, 3, 3], found [4, 3, 3, 3]",
    ] {
        assert!(error.message().contains(part), "no {part:?} in: {error}");
    }
}

#[test]
fn weights_that_are_not_finite_are_refused_naming_the_tensor() {
    for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let mut spoilt = tensors(&Network::read("cifar"));
        spoilt.get_mut("down_blocks.1.attentions.0.to_k.weight").unwrap().1[5] = value;
        let error = load_parts(&config_file("cifar"), &weight_file(&spoilt)).unwrap_err();
        assert_eq!(error.kind(), Kind::NonFinite);
        assert!(error.message().contains("down_blocks.1.attentions.0.to_k.weight: element 5"), "{error}");
    }
}

#[test]
fn a_weight_file_cut_anywhere_is_an_error_that_names_it() {
    let whole = weight_file(&tensors(&Network::read("cifar")));
    let dir = tempfile::tempdir().unwrap();
    let (path, config) = (dir.path().join(WEIGHTS), dir.path().join("unet/config.json"));
    std::fs::create_dir(dir.path().join("unet")).unwrap();
    std::fs::write(config, config_file("cifar")).unwrap();
    for len in [0, 1, 7, 8, 9, 1000, whole.len() / 3, whole.len() - 4, whole.len() - 1] {
        std::fs::write(&path, &whole[..len]).unwrap();
        let error = load(dir.path(), &LoadOptions::default()).unwrap_err();
        assert_eq!(error.kind(), Kind::InvalidData, "{len} bytes: {error}");
        assert_eq!(error.path(), Some(&*path), "{len} bytes: {error}");
    }
    std::fs::write(&path, &whole).unwrap();
    load(dir.path(), &LoadOptions::default()).unwrap();
}

#[test]
fn a_header_that_promises_more_than_the_file_holds_is_refused_without_allocating_it() {
    let config = config_file("cifar");
    let header = |text: &str| [&(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat();
    let tensor = |shape: &str, end: u64| {
        header(&format!(r#"{{"conv_in.weight":{{"dtype":"F32","shape":{shape},"data_offsets":[0,{end}]}}}}"#))
    };
    for bytes in [
        u64::MAX.to_le_bytes().to_vec(),
        (1u64 << 40).to_le_bytes().to_vec(),
        tensor("[1099511627776]", 1 << 42),
        tensor("[1099511627776,1099511627776]", 4),
        tensor("[4,3,3,3]", 432),
        header("{"),
        header("[]"),
    ] {
        let error = load_parts(&config, &bytes).unwrap_err();
        assert_eq!(error.kind(), Kind::InvalidData, "{error}");
    }
}

#[test]
fn an_image_size_no_machine_would_hold_is_refused_before_memory_is_asked_for() {
    let network = Network::read("cifar");
    let config = skipstone::unet::Config { sample_size: [16384, 16384], ..network.config.clone() };
    let error = skipstone::engine::cpu::UNet::new(
        config,
        network.parameters.clone(),
        skipstone::sampling::denoiser::Prediction::Epsilon,
    )
    .unwrap_err();
    assert_eq!(error.kind(), Kind::Unsupported);
    assert!(error.to_string().contains("sample_size") && error.to_string().contains("GiB"), "{error}");
}

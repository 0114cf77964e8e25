//! Checkpoints of guided-diffusion's own code against what that code predicts and samples (golden/families/adm.py).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use skipstone::engine::{self, EngineOptions};
use skipstone::io::checkpoint::{AdmFlags, FloatType, LoadOptions, Model, ModelFiles, load, save, write_tensors};
use skipstone::math::schedule::{Index, Time};
use skipstone::sampling::denoiser::Condition;
use skipstone::sampling::generate::{Generator, Inputs};
use skipstone::sampling::options::Request;
use skipstone::sampling::sampler::unobserved;

use crate::golden::{self, cases, json, relative, tensors};

/// CRC-32 as in zlib.
fn crc32(text: &str) -> u32 {
    !text.bytes().fold(!0u32, |crc, byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| (crc >> 1) ^ (0xEDB8_8320 & (crc & 1).wrapping_neg()))
    })
}

/// The weights of golden/families/adm.py.
fn weights(name: &str, shape: &[usize]) -> Vec<f32> {
    let fan_in: usize = shape[1..].iter().product();
    let scale = 2f64.powf((1.7 / (fan_in as f64).sqrt()).log2().round_ties_even()) as f32;
    let seed = crc32(name);
    (0..shape.iter().product::<usize>() as u64)
        .map(|k| {
            let mut h = seed.wrapping_add((k.wrapping_mul(2_654_435_761)) as u32);
            h ^= h >> 16;
            h = h.wrapping_mul(0x045D_9F3B);
            h ^= h >> 16;
            let unit = ((h & 2047) as f32 - 1024.0) / 1024.0;
            match (name.ends_with("bias"), shape.len()) {
                (true, _) => unit / 8.0,
                (false, 1) => 1.0 + unit / 4.0,
                _ => unit * scale,
            }
        })
        .collect()
}

/// Writes a case's checkpoint.
fn checkpoint(case: &Value, folder: &Path) -> PathBuf {
    let path = folder.join("ema_0.9999_000007.safetensors");
    let all: Vec<(&String, Vec<usize>)> = case["weights"]
        .as_object()
        .unwrap()
        .iter()
        .map(|(name, shape)| (name, golden::numbers(shape).into_iter().map(|n| n as usize).collect()))
        .collect();
    let values: Vec<Vec<f32>> = all.iter().map(|(name, shape)| weights(name, shape)).collect();
    let tensors = all.iter().zip(&values).map(|((name, shape), values)| (name.as_str(), &shape[..], &values[..]));
    let mut bytes = Vec::new();
    write_tensors(tensors, &BTreeMap::new(), FloatType::F32, &mut bytes).unwrap();
    std::fs::write(&path, bytes).unwrap();
    path
}

/// The flags as on a command line.
fn flags(case: &Value) -> AdmFlags {
    let flag = |(name, value): (&String, &Value)| match value {
        Value::Bool(true) => format!("--{name} True"),
        Value::Bool(false) => format!("--{name} False"),
        Value::String(text) => format!("--{name} {text}"),
        other => format!("--{name} {other}"),
    };
    case["flags"].as_object().unwrap().iter().map(flag).collect::<Vec<_>>().join(" ").parse().unwrap()
}

/// The model as it is after conversion to a diffusers folder.
fn converted(case: &Value, folder: &Path) -> Model {
    let options = LoadOptions { flags: Some(flags(case)), ..LoadOptions::default() };
    let model = load(&checkpoint(case, folder), &options).unwrap();
    let to = folder.join("model");
    let files = ModelFiles {
        config: &model.config,
        weights: &model.parameters,
        kind: model.weights,
        raw: None,
        scheduler: &model.scheduler,
        null_class: None,
        provenance: &model.provenance,
        float_type: FloatType::F32,
    };
    save(&to, &files).unwrap();
    let back = load(&to, &LoadOptions::default()).unwrap();
    assert_eq!((&back.config, &back.scheduler, &back.hash), (&model.config, &model.scheduler, &model.hash));
    assert_eq!(back.weights, skipstone::io::checkpoint::Weights::Ema, "the file's name says so");
    back
}

#[test]
fn converted_checkpoints_predict_what_their_own_code_predicts() {
    let values = tensors("adm.safetensors");
    for case in cases("adm.json") {
        let name = case["name"].as_str().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let mut model = converted(&case, folder.path());
        // The expected values are the network's own, at the times it is given.
        model.config.time_scale = 1.0;
        let prediction = model.scheduler.prediction_type;
        let network = engine::open(model.config, model.parameters, prediction, &EngineOptions::default()).unwrap();
        let times: Vec<Time> =
            golden::numbers(&case["predict_times"]).into_iter().map(|t| Index::from(t as u32).time()).collect();
        let classes: Vec<Condition> = match &case["class"] {
            Value::Null => Vec::new(),
            list => golden::numbers(list).into_iter().map(|class| Condition::Class(class as usize)).collect(),
        };
        let found = network.predict(&values[&format!("{name}/x")].images(), &times, &classes).unwrap();
        let distance = relative(found.iter().map(|&v| f64::from(v)), &values[&format!("{name}/predict")].values);
        assert!(distance < 1e-5, "{name}: {distance:e}");
    }
}

#[test]
fn runs_of_converted_checkpoints_end_where_their_own_code_ends() {
    let values = tensors("adm.safetensors");
    let respacings = &json("adm.json")["respacings"];
    for case in cases("adm.json") {
        let name = case["name"].as_str().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let model = converted(&case, folder.path());
        let learned = case["flags"]["learn_sigma"] == json!(true);
        let variance = if learned { "learned" } else { "hat" };
        // Clipping is the model's own: ε̂ is derived again.
        let runs = [
            ("ddim", json!({"spacing": respacings["ddim"], "class": case["class"]})),
            ("ancestral", json!({"spacing": respacings["ancestral"], "sigma": variance, "class": case["class"]})),
        ];
        for (run, options) in runs {
            let request: Request = serde_json::from_value(options).unwrap();
            let z = &values[&format!("{name}/z")];
            let noise = ndarray::Array5::from_shape_vec([6, 2, 3, 8, 8], z.f32()).unwrap();
            let inputs = Inputs {
                latents: Some(values[&format!("{name}/x")].images()),
                noise: (run == "ancestral").then_some(noise),
                region: None,
            };
            let generator = Generator::new(model.clone(), &EngineOptions::default(), &request, inputs, 0, 2).unwrap();
            assert_eq!(json!(generator.settings().times), case[format!("{run}_times")], "{name} {run}");
            let found = generator.generate(0..2, &mut unobserved).unwrap();
            let distance = relative(found.iter().map(|&v| f64::from(v)), &values[&format!("{name}/{run}")].values);
            assert!(distance < 1e-4, "{name} {run}: {distance:e}");
        }
    }
}

#[test]
fn a_network_without_a_learned_variance_refuses_it_and_flags_are_needed() {
    let cases = cases("adm.json");
    let case = cases.iter().find(|case| case["name"] == "heads").unwrap();
    let folder = tempfile::tempdir().unwrap();
    let model = converted(case, folder.path());
    let request: Request = serde_json::from_value(json!({"sigma": "learned"})).unwrap();
    let error = Generator::new(model, &EngineOptions::default(), &request, Inputs::default(), 0, 1).unwrap_err();
    assert!(error.message().starts_with("sigma learned: the model has not learned its variance"), "{error}");

    let path = checkpoint(case, folder.path());
    let load = |flags: Option<&str>| {
        let flags = flags.map(|flags| flags.parse().unwrap());
        load(&path, &LoadOptions { flags, ..LoadOptions::default() }).unwrap_err().to_string()
    };
    assert!(load(None).contains("skipstone convert --from"), "{}", load(None));
    let missing = load(Some("--diffusion_steps 4000"));
    for flag in ["--image_size", "--num_heads or --num_head_channels", "--noise_schedule", "--rescale_timesteps"] {
        assert!(missing.contains(flag), "{flag}: {missing}");
    }
    let wrong = load(Some(
        "--image_size 8 --num_heads 2 --num_channels 64 --num_res_blocks 1 --learn_sigma True --class_cond True \
         --use_scale_shift_norm True --resblock_updown True --channel_mult 1,4 --attention_resolutions 4",
    ));
    for line in [
        "8 flags contradict the tensors",
        "--num_channels 64: the tensors say 32",
        "--num_res_blocks 1: the tensors say 2",
        "--learn_sigma True: the tensors say False",
        "--class_cond True: the tensors say False",
        "--use_scale_shift_norm True: the tensors say False",
        "--resblock_updown True: the tensors say False",
        "--channel_mult 1,4: the tensors say 1,2",
        "--attention_resolutions 4 --image_size 8: the tensors have attention at 8,4",
    ] {
        assert!(wrong.contains(line), "{line}: {wrong}");
    }
    let odd = load(Some("--image_size 8 --num_heads 7 --diffusion_steps 1000 --noise_schedule linear"));
    assert!(odd.contains("num_attention_heads: 7 does not divide"), "{odd}");
}

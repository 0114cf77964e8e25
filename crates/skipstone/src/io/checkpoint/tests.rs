use std::collections::BTreeMap;
use std::fs;
use std::io::Read as _;
use std::path::Path;
use std::sync::Arc;

use super::*;
use crate::unet::layout;

/// Element k of an original tensor in the fixtures, as defined by golden/make_checkpoint_fixtures.py.
fn formula(name: &str, k: usize, base: f32) -> f32 {
    let sum: u32 = name.bytes().map(u32::from).sum();
    base + (sum % 64) as f32 / 16.0 + (k % 32) as f32 / 128.0
}

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

fn groups_of_two() -> LoadOptions {
    LoadOptions { norm_num_groups: Some(2), ..LoadOptions::default() }
}

fn small() -> Config {
    Config { sample_size: [8, 8], block_out_channels: vec![4, 8], norm_num_groups: 2, ..Config::default() }
}

fn ramp(config: &Config, step: f32) -> Parameters {
    let layout = Arc::new(layout(config).unwrap());
    let data = (0..layout.len()).map(|i| (i % 1000) as f32 * step).collect();
    Parameters::new(layout, data).unwrap()
}

struct Saved {
    dir: tempfile::TempDir,
    config: Config,
    scheduler: SchedulerConfig,
    provenance: BTreeMap<String, String>,
}

impl Saved {
    fn new() -> Self {
        Self {
            dir: tempfile::tempdir().unwrap(),
            config: small(),
            scheduler: SchedulerConfig { beta_end: 0.01, ..SchedulerConfig::default() },
            provenance: BTreeMap::from([("data".to_owned(), "ramp".to_owned())]),
        }
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("model")
    }

    fn save(&self, weights: &Parameters, raw: Option<&Parameters>, float_type: FloatType) -> Result<()> {
        let (config, scheduler, provenance) = (&self.config, &self.scheduler, &self.provenance);
        let kind = Weights::Ema;
        let files = ModelFiles { config, weights, kind, raw, scheduler, null_class: None, provenance, float_type };
        save(&self.path(), &files)
    }

    fn bytes(&self) -> BTreeMap<String, Vec<u8>> {
        let names = [
            "model_index.json",
            "skipstone.json",
            "scheduler/scheduler_config.json",
            "unet/config.json",
            "unet/diffusion_pytorch_model.safetensors",
        ];
        names.iter().map(|n| ((*n).to_owned(), fs::read(self.path().join(n)).unwrap())).collect()
    }
}

fn choose(weights: WeightsChoice) -> LoadOptions {
    LoadOptions { weights, ..LoadOptions::default() }
}

#[test]
fn a_saved_folder_loads_as_it_was_from_disk_and_from_memory() {
    let saved = Saved::new();
    let (ema, raw) = (ramp(&saved.config, 0.25), ramp(&saved.config, -0.5));
    saved.save(&ema, Some(&raw), FloatType::F32).unwrap();
    let model = load(&saved.path(), &LoadOptions::default()).unwrap();
    assert_eq!(model.parameters.data(), ema.data());
    assert_eq!((&model.config, &model.scheduler), (&saved.config, &saved.scheduler));
    assert_eq!((model.weights, model.format, model.null_class), (Weights::Ema, Format::Folder, None));
    assert_eq!(model.provenance["data"], "ramp");
    let other = load(&saved.path(), &choose(WeightsChoice::Raw)).unwrap();
    assert_eq!((other.weights, other.parameters.data()), (Weights::Raw, raw.data()));
    assert_ne!(model.hash, other.hash);

    let files = saved.bytes();
    let slices: Vec<(&str, &[u8])> = files.iter().map(|(n, b)| (n.as_str(), b.as_slice())).collect();
    let embedded = load_embedded(&slices, &LoadOptions::default()).unwrap();
    assert_eq!((embedded.parameters.data(), &embedded.hash), (ema.data(), &model.hash));
    // No temporary files are left.
    assert_eq!(fs::read_dir(saved.dir.path()).unwrap().count(), 1);
    assert_eq!(fs::read_dir(saved.path().join("unet")).unwrap().count(), 3);
}

#[test]
fn the_same_model_gives_the_same_bytes_and_a_second_save_replaces_the_first() {
    let (a, b) = (Saved::new(), Saved::new());
    let (one, two) = (ramp(&a.config, 0.25), ramp(&a.config, 0.125));
    a.save(&one, Some(&one), FloatType::F32).unwrap();
    b.save(&two, None, FloatType::F32).unwrap();
    assert_ne!(a.bytes(), b.bytes());
    a.save(&two, None, FloatType::F32).unwrap();
    assert_eq!(a.bytes(), b.bytes());
    let e = load(&a.path(), &choose(WeightsChoice::Raw)).unwrap_err();
    assert_eq!(e.kind(), Kind::NotFound);
    assert!(e.message().contains("no raw weights"), "{e}");
}

#[test]
fn weights_can_be_stored_in_half_precision() {
    let saved = Saved::new();
    // Multiples of 1/4 below 250 are exact in half precision.
    let weights = ramp(&saved.config, 0.25);
    saved.save(&weights, None, FloatType::F16).unwrap();
    assert_eq!(load(&saved.path(), &LoadOptions::default()).unwrap().parameters.data(), weights.data());
    let bytes = &saved.bytes()["unet/diffusion_pytorch_model.safetensors"];
    let file = ::safetensors::SafeTensors::deserialize(bytes).unwrap();
    assert_eq!(file.tensor("conv_in.weight").unwrap().dtype(), ::safetensors::Dtype::F16);
}

#[test]
fn an_error_of_a_new_folder_has_its_name_and_not_the_temporary_one() {
    let saved = Saved::new();
    let e = saved.save(&ramp(&saved.config, 1000.0), None, FloatType::F16).unwrap_err();
    assert_eq!(e.path(), Some(&*saved.path().join("unet/diffusion_pytorch_model.safetensors")));
    assert!(e.message().contains("too large for half precision"), "{e}");
    assert_eq!(fs::read_dir(saved.dir.path()).unwrap().count(), 0);
}

#[test]
fn another_model_or_other_files_are_never_overwritten() {
    let mut saved = Saved::new();
    saved.save(&ramp(&saved.config, 0.25), None, FloatType::F32).unwrap();
    saved.config.block_out_channels = vec![8, 8];
    let e = saved.save(&ramp(&saved.config, 0.25), None, FloatType::F32).unwrap_err();
    assert!(e.message().contains("another architecture"), "{e}");
    let other = Saved::new();
    fs::create_dir(other.path()).unwrap();
    fs::write(other.path().join("thesis.txt"), "x").unwrap();
    let e = other.save(&ramp(&other.config, 0.25), None, FloatType::F32).unwrap_err();
    assert!(e.message().contains("not a model folder"), "{e}");
    assert_eq!(fs::read_dir(other.path()).unwrap().count(), 1);
}

#[test]
fn a_network_that_is_not_finite_is_not_saved() {
    let saved = Saved::new();
    let mut weights = ramp(&saved.config, 0.25);
    weights.data_mut()[5] = f32::INFINITY;
    let e = saved.save(&weights, None, FloatType::F32).unwrap_err();
    assert_eq!(e.kind(), Kind::NonFinite);
    assert!(!saved.path().exists());
}

#[test]
fn each_missing_file_is_named() {
    for (gone, what) in [
        ("unet/config.json", "unet/config.json"),
        ("unet/diffusion_pytorch_model.safetensors", "unet/diffusion_pytorch_model.safetensors"),
    ] {
        let saved = Saved::new();
        saved.save(&ramp(&saved.config, 0.25), None, FloatType::F32).unwrap();
        fs::remove_file(saved.path().join(gone)).unwrap();
        let e = load(&saved.path(), &LoadOptions::default()).unwrap_err();
        assert_eq!(e.kind(), Kind::NotFound);
        assert!(e.to_string().contains(what) && e.path() == Some(&saved.path()), "{e}");
    }
    // What skipstone always writes is missed, unless the caller brings it.
    let saved = Saved::new();
    saved.save(&ramp(&saved.config, 0.25), None, FloatType::F32).unwrap();
    let file = saved.path().join("scheduler/scheduler_config.json");
    fs::remove_file(&file).unwrap();
    for path in ["", "unet", "unet/diffusion_pytorch_model.safetensors"] {
        let e = load(&saved.path().join(path), &LoadOptions::default()).unwrap_err();
        assert_eq!((e.kind(), e.path()), (Kind::NotFound, Some(&*file)), "{path}: {e}");
        assert!(e.message().contains("--scheduler FILE"), "{e}");
    }
    let brought = LoadOptions { scheduler: Some(saved.scheduler.clone()), ..LoadOptions::default() };
    assert_eq!(load(&saved.path(), &brought).unwrap().scheduler, saved.scheduler);
    // Files of others with defaults may be missing.
    let saved = Saved::new();
    saved.save(&ramp(&saved.config, 0.25), None, FloatType::F32).unwrap();
    for gone in ["model_index.json", "skipstone.json", "scheduler/scheduler_config.json"] {
        fs::remove_file(saved.path().join(gone)).unwrap();
    }
    let model = load(&saved.path(), &LoadOptions::default()).unwrap();
    assert_eq!((model.weights, model.scheduler.beta_end), (Weights::Unspecified, 0.02));
}

#[test]
fn each_damaged_file_is_named_with_its_field() {
    for (file, text, what) in [
        ("model_index.json", "{", "not JSON"),
        ("model_index.json", "{\"vqvae\": [\"diffusers\", \"VQModel\"]}", "vqvae"),
        ("unet/config.json", "{\"sample_size\": 8, \"act_fn\": \"tanh\"}", "act_fn"),
        ("model_index.json", "", "the file is empty"),
        ("unet/config.json", "{\"sample_size\": 8, \"act_fn\"", "truncated"),
        ("scheduler/scheduler_config.json", "{\"beta_schedule\": \"exp\"}", "beta_schedule"),
        ("scheduler/scheduler_config.json", "{}", "not a scheduler's config"),
        ("scheduler/scheduler_config.json", "{\"beta_end\": 0.02}", "prediction_type: missing"),
        ("scheduler/scheduler_config.json", "{\"beta_end\": 2}", "beta_end 2"),
        ("skipstone.json", "{\"null_class\": 3}", "null_class: 3"),
        ("skipstone.json", "{\"format\": 2}", "format"),
        ("skipstone.json", "{\"weights\": \"best\"}", "weights"),
        ("unet/diffusion_pytorch_model.safetensors", "no tensors", "not a safetensors file"),
    ] {
        let saved = Saved::new();
        saved.save(&ramp(&saved.config, 0.25), None, FloatType::F32).unwrap();
        fs::write(saved.path().join(file), text).unwrap();
        let e = load(&saved.path(), &LoadOptions::default()).unwrap_err();
        assert_eq!(e.path(), Some(&*saved.path().join(file)), "{e}");
        assert!(e.message().contains(what) && e.kind() != Kind::InvalidArgument, "{e}");
    }
    // An old scheduler of another program may lack the prediction type.
    let saved = Saved::new();
    saved.save(&ramp(&saved.config, 0.25), None, FloatType::F32).unwrap();
    fs::remove_file(saved.path().join("skipstone.json")).unwrap();
    fs::write(saved.path().join("scheduler/scheduler_config.json"), "{\"beta_end\": 0.015}").unwrap();
    assert_eq!(load(&saved.path(), &LoadOptions::default()).unwrap().scheduler.beta_end, 0.015);
}

#[test]
fn a_damaged_calibration_does_not_keep_a_model_from_loading() {
    let saved = Saved::new();
    saved.save(&ramp(&saved.config, 0.25), None, FloatType::F32).unwrap();
    fs::write(saved.path().join(calibration::FILE), "").unwrap();
    assert_eq!(load(&saved.path(), &LoadOptions::default()).unwrap().calibration, None);
}

#[test]
fn a_folder_above_a_model_names_the_model() {
    for inside in ["model", "weights"] {
        let saved = Saved::new();
        saved.save(&ramp(&saved.config, 0.25), None, FloatType::F32).unwrap();
        let model = saved.dir.path().join(inside);
        fs::rename(saved.path(), &model).unwrap();
        let e = load(saved.dir.path(), &LoadOptions::default()).unwrap_err();
        assert_eq!((e.kind(), e.path()), (Kind::NotFound, Some(saved.dir.path())), "{e}");
        assert!(e.message().ends_with(&format!("the model in it is {}", model.display())), "{e}");
    }
    let empty = tempfile::tempdir().unwrap();
    let e = load(empty.path(), &LoadOptions::default()).unwrap_err();
    assert!(e.message().ends_with("neither unet/config.json nor config.json"), "{e}");
}

#[test]
fn a_file_of_another_kind_says_which_files_open() {
    let folder = tempfile::tempdir().unwrap();
    let files: [(&str, &[u8], &str); 6] = [
        ("e.ckpt", b"", "not a model: the file is empty"),
        (
            "README.md",
            b"# A network of a certain size",
            "not a model: neither a safetensors file nor one of torch.save",
        ),
        ("r.pt", b"random bytes", "not a model"),
        ("config.json", b"{\"sample_size\": 8}", "not a model"),
        // Under their own name, or with their own beginning, these are damaged files.
        ("e.safetensors", b"", "truncated: no safetensors header"),
        ("cut.bin", b"\xff\0\0\0\0\0\0\0{\"w\"", "not a safetensors file, or truncated"),
    ];
    for (name, bytes, what) in files {
        let path = folder.path().join(name);
        fs::write(&path, bytes).unwrap();
        let e = load(&path, &LoadOptions::default()).unwrap_err();
        assert_eq!((e.kind(), e.path()), (Kind::InvalidData, Some(&*path)), "{name}: {e}");
        assert!(e.message().starts_with(what), "{name}: {e}");
        assert_eq!(e.message().contains(".pth, .pt or .onnx file"), what.starts_with("not a model"), "{name}: {e}");
    }
}

#[test]
fn shards_are_joined_and_an_index_cannot_leave_its_folder() {
    let saved = Saved::new();
    let weights = ramp(&saved.config, 0.25);
    saved.save(&weights, None, FloatType::F32).unwrap();
    let unet = saved.path().join("unet");
    fs::remove_file(unet.join("diffusion_pytorch_model.safetensors")).unwrap();
    let tensors: Vec<_> = weights.iter().map(|(s, v)| (s.name.as_str(), s.shape.as_slice(), v)).collect();
    let mut map = serde_json::Map::new();
    for (i, part) in tensors.chunks(tensors.len() / 2 + 1).enumerate() {
        let name = format!("diffusion_pytorch_model-0000{i}-of-00002.safetensors");
        let mut bytes = Vec::new();
        write_tensors(part.iter().copied(), &BTreeMap::new(), FloatType::F32, &mut bytes).unwrap();
        fs::write(unet.join(&name), bytes).unwrap();
        map.extend(part.iter().map(|t| (t.0.to_owned(), name.clone().into())));
    }
    let index = unet.join("diffusion_pytorch_model.safetensors.index.json");
    fs::write(&index, serde_json::json!({"metadata": {}, "weight_map": map}).to_string()).unwrap();
    let model = load(&saved.path(), &LoadOptions::default()).unwrap();
    assert_eq!(model.parameters.data(), weights.data());
    for hostile in ["../config.json", "/etc/passwd", "..", ".", "", "a\\b", "C:x", "a/b"] {
        fs::write(&index, serde_json::json!({"weight_map": {"w": hostile}}).to_string()).unwrap();
        let e = load(&saved.path(), &LoadOptions::default()).unwrap_err();
        assert!(e.message().contains("plain file name") && e.path() == Some(&*index), "{hostile}: {e}");
    }
    fs::write(&index, "{\"weight_map\": {\"w\": \"gone.safetensors\"}}").unwrap();
    let e = load(&saved.path(), &LoadOptions::default()).unwrap_err();
    assert_eq!(e.path(), Some(&*unet.join("gone.safetensors")));
}

#[test]
fn older_names_of_attention_layers_are_understood() {
    let saved = Saved::new();
    let weights = ramp(&saved.config, 0.25);
    saved.save(&weights, None, FloatType::F32).unwrap();
    let old = |name: &str| {
        let name = name.replace("to_q", "query").replace("to_k", "key").replace("to_v", "value");
        name.replace("to_out.0", "proj_attn")
    };
    let names: Vec<String> = weights.iter().map(|(s, _)| old(&s.name)).collect();
    assert!(names.iter().any(|n| n.ends_with("attentions.0.proj_attn.bias")));
    let tensors: Vec<_> = weights.iter().zip(&names).map(|((s, v), n)| (n.as_str(), s.shape.as_slice(), v)).collect();
    let mut bytes = Vec::new();
    write_tensors(tensors.into_iter(), &BTreeMap::new(), FloatType::F32, &mut bytes).unwrap();
    fs::write(saved.path().join("unet/diffusion_pytorch_model.safetensors"), bytes).unwrap();
    assert_eq!(load(&saved.path(), &LoadOptions::default()).unwrap().parameters.data(), weights.data());
}

#[test]
fn a_flat_folder_and_a_loose_file_beside_its_config_are_read() {
    let saved = Saved::new();
    let weights = ramp(&saved.config, 0.25);
    saved.save(&weights, Some(&weights), FloatType::F32).unwrap();
    let flat = saved.path().join("unet");
    let model = load(&flat, &LoadOptions::default()).unwrap();
    assert_eq!((model.parameters.data(), model.weights), (weights.data(), Weights::Ema));
    // The rest of the model is above it.
    assert_eq!((model.scheduler.beta_end, &*model.provenance["data"]), (0.01, "ramp"));
    let file = flat.join("diffusion_pytorch_model.safetensors");
    let model = load(&file, &LoadOptions::default()).unwrap();
    assert_eq!((model.format, model.scheduler.beta_end), (Format::File, 0.01));
    load(&file, &choose(WeightsChoice::Ema)).unwrap_err();
    let raw = flat.join("diffusion_pytorch_model.raw.safetensors");
    assert_eq!(load(&raw, &choose(WeightsChoice::Raw)).unwrap().weights, Weights::Raw);
    load(&raw, &choose(WeightsChoice::Ema)).unwrap_err();
    fs::write(saved.path().join("skipstone.json"), "{\"null_class\": 3}").unwrap();
    for path in [&file, &flat] {
        let e = load(path, &LoadOptions::default()).unwrap_err();
        assert_eq!(e.path(), Some(&*saved.path().join("skipstone.json")), "{e}");
    }
    fs::remove_file(flat.join("config.json")).unwrap();
    let e = load(&file, &LoadOptions::default()).unwrap_err();
    assert_eq!(e.path(), Some(&*flat.join("config.json")));
}

/// Original names, the diffusers names that must have their values, and whether a 1×1 convolution became linear.
const NAMES: [(&str, &str); 14] = [
    ("temb.dense.0.weight", "time_embedding.linear_1.weight"),
    ("temb.dense.1.bias", "time_embedding.linear_2.bias"),
    ("conv_in.weight", "conv_in.weight"),
    ("down.0.block.0.temb_proj.weight", "down_blocks.0.resnets.0.time_emb_proj.weight"),
    ("down.0.downsample.conv.weight", "down_blocks.0.downsamplers.0.conv.weight"),
    ("down.1.block.0.nin_shortcut.weight", "down_blocks.1.resnets.0.conv_shortcut.weight"),
    ("down.1.attn.0.q.weight", "down_blocks.1.attentions.0.to_q.weight"),
    ("mid.block_2.conv2.weight", "mid_block.resnets.1.conv2.weight"),
    ("mid.attn_1.norm.weight", "mid_block.attentions.0.group_norm.weight"),
    ("mid.attn_1.v.bias", "mid_block.attentions.0.to_v.bias"),
    ("up.0.block.1.conv1.weight", "up_blocks.1.resnets.1.conv1.weight"),
    ("up.1.attn.1.proj_out.weight", "up_blocks.0.attentions.1.to_out.0.weight"),
    ("up.1.upsample.conv.weight", "up_blocks.0.upsamplers.0.conv.weight"),
    ("norm_out.bias", "conv_norm_out.bias"),
];

fn assert_formula(model: &Model, base: f32) {
    for (original, name) in NAMES {
        let values = model.parameters.get(name).unwrap();
        let expected: Vec<f32> = (0..values.len()).map(|k| formula(original, k, base)).collect();
        assert_eq!(values, expected, "{name}");
    }
}

#[test]
fn an_original_state_dict_gives_its_architecture_and_weights() {
    let model = load(&fixture("original.ckpt"), &groups_of_two()).unwrap();
    use crate::unet::{DownBlock, UpBlock};
    assert_eq!(model.config.block_out_channels, [2, 4]);
    assert_eq!(model.config.down_blocks, [DownBlock::Plain, DownBlock::Attention]);
    assert_eq!(model.config.up_blocks, [UpBlock::Attention, UpBlock::Plain]);
    // One level with attention, the second: 16·2.
    assert_eq!((model.config.sample_size, model.config.layers_per_block), ([32, 32], 1));
    assert_eq!((model.config.in_channels, model.config.downsample_padding, model.config.norm_eps), (1, 0, 1e-6));
    assert_eq!((model.scheduler.num_train_timesteps, model.scheduler.clip_sample), (1000, Some(false)));
    assert_eq!((model.weights, model.format), (Weights::Unspecified, Format::Original));
    assert_formula(&model, 0.0);
    for weights in [WeightsChoice::Ema, WeightsChoice::Raw] {
        let e = load(&fixture("original.ckpt"), &LoadOptions { weights, ..groups_of_two() }).unwrap_err();
        assert!(e.message().contains("does not say"), "{e}");
    }
    let e = load(&fixture("original.ckpt"), &LoadOptions::default()).unwrap_err();
    assert!(e.message().contains("norm_num_groups"), "{e}");
}

#[test]
fn of_a_training_checkpoint_the_moving_average_is_preferred() {
    for (weights, taken, base) in [
        (WeightsChoice::Auto, Weights::Ema, 8.0),
        (WeightsChoice::Ema, Weights::Ema, 8.0),
        (WeightsChoice::Raw, Weights::Raw, 0.0),
    ] {
        let model = load(&fixture("original_list.pth"), &LoadOptions { weights, ..groups_of_two() }).unwrap();
        assert_eq!(model.weights, taken);
        assert_formula(&model, base);
    }
}

/// Unpacks a gzipped fixture to `to`.
fn unpacked(name: &str, to: &Path) {
    let mut bytes = Vec::new();
    let file = fs::File::open(fixture(&format!("{name}.gz"))).unwrap();
    flate2::read::GzDecoder::new(file).read_to_end(&mut bytes).unwrap();
    fs::write(to, bytes).unwrap();
}

#[test]
fn a_dictionary_of_parts_is_searched_for_its_weights_even_beside_other_tensors() {
    // {"step": a tensor, "model": …, "optimizer": …, "ema": …}
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("parts.pth");
    unpacked("original_dict.pth", &path);
    for (weights, taken, base) in [
        (WeightsChoice::Auto, Weights::Ema, 8.0),
        (WeightsChoice::Ema, Weights::Ema, 8.0),
        (WeightsChoice::Raw, Weights::Raw, 0.0),
    ] {
        let model = load(&path, &LoadOptions { weights, ..groups_of_two() }).unwrap();
        assert_eq!(model.weights, taken);
        assert_formula(&model, base);
    }
}

#[test]
fn pickled_shards_of_diffusers_are_read_by_their_index() {
    let dir = tempfile::tempdir().unwrap();
    let index = "diffusion_pytorch_model.bin.index.json";
    let shard = |i: usize| format!("diffusion_pytorch_model-{i:05}-of-00004.bin");
    for name in ["config.json", index].map(str::to_owned).into_iter().chain((1..=4).map(shard)) {
        unpacked(&format!("sharded_{name}"), &dir.path().join(&name));
    }
    let model = load(dir.path(), &LoadOptions::default()).unwrap();
    assert_eq!((&model.config.block_out_channels[..], model.format), (&[2, 4][..], Format::Folder));
    for (spec, values) in model.parameters.iter() {
        let expected: Vec<f32> = (0..values.len()).map(|k| formula(&spec.name, k, 0.0)).collect();
        assert_eq!(values, expected, "{}", spec.name);
    }
    let refused = || load(dir.path(), &LoadOptions::default()).unwrap_err();
    fs::remove_file(dir.path().join(shard(3))).unwrap();
    assert!(refused().to_string().contains(&shard(3)), "{}", refused());
    // A copy of another shard lacks its tensors and repeats the other's names.
    fs::copy(dir.path().join(shard(2)), dir.path().join(shard(3))).unwrap();
    assert_eq!(refused().kind(), Kind::InvalidData);
    // An index must not point outside its folder.
    let text = fs::read_to_string(dir.path().join(index)).unwrap();
    fs::write(dir.path().join(index), text.replace(&shard(3), &format!("../{}", shard(3)))).unwrap();
    assert_eq!(refused().kind(), Kind::InvalidData);
}

#[test]
fn the_same_network_has_the_same_hash_in_every_format() {
    let original = load(&fixture("original.ckpt"), &groups_of_two()).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let files = ModelFiles {
        config: &original.config,
        weights: &original.parameters,
        kind: original.weights,
        raw: None,
        scheduler: &original.scheduler,
        null_class: None,
        provenance: &BTreeMap::new(),
        float_type: FloatType::F32,
    };
    save(&dir.path().join("m"), &files).unwrap();
    let folder = load(&dir.path().join("m"), &LoadOptions::default()).unwrap();
    assert_eq!((folder.hash, folder.weights), (original.hash, Weights::Unspecified));
}

#[test]
fn an_original_file_cut_at_many_places_is_an_error() {
    let bytes = fs::read(fixture("original_list.pth")).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("cut.pth");
    for end in (0..bytes.len()).step_by(997) {
        fs::write(&path, &bytes[..end]).unwrap();
        let e = load(&path, &groups_of_two()).unwrap_err();
        assert_eq!(e.path(), Some(&*path), "cut at {end}: {e}");
    }
}

/// A folder with the config of the fixtures' diffusers network and the named fixture beside it.
fn beside_config(name: &str) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    unpacked("sharded_config.json", &dir.path().join("config.json"));
    let path = dir.path().join(name);
    unpacked(name, &path);
    (dir, path)
}

#[test]
fn wrapped_networks_load_from_every_format_and_honour_the_choice_of_weights() {
    // Lightning with LitEma; DataParallel around torch.compile with diffusers' EMAModel; torch's AveragedModel; both
    // copies in one safetensors file. Each file is written by its own wrapper.
    for (name, has_raw) in [
        ("wrapped_lightning.ckpt", true),
        ("wrapped_shadow.pth", true),
        ("wrapped_averaged.safetensors", false),
        ("wrapped_both.safetensors", true),
    ] {
        let (_dir, path) = beside_config(name);
        let check = |choice, weights, base| {
            let model = load(&path, &choose(choice)).unwrap_or_else(|e| panic!("{name}: {e}"));
            assert_eq!((model.weights, model.format), (weights, Format::File), "{name}");
            for (spec, values) in model.parameters.iter() {
                // All values are exact in half precision.
                let expected: Vec<f32> = (0..values.len()).map(|k| formula(&spec.name, k, base)).collect();
                assert_eq!(values, expected, "{name}: {}", spec.name);
            }
        };
        check(WeightsChoice::Auto, Weights::Ema, 8.0);
        check(WeightsChoice::Ema, Weights::Ema, 8.0);
        if has_raw {
            check(WeightsChoice::Raw, Weights::Raw, 0.0);
        }
    }
}

#[test]
fn a_folder_of_accelerate_has_raw_weights_and_their_average() {
    let saved = Saved::new();
    let (ema, raw) = (ramp(&saved.config, 0.25), ramp(&saved.config, -0.5));
    saved.save(&raw, None, FloatType::F32).unwrap();
    fs::remove_file(saved.path().join("skipstone.json")).unwrap();
    let other = Saved::new();
    other.save(&ema, None, FloatType::F32).unwrap();
    fs::rename(other.path().join("unet"), saved.path().join("unet_ema")).unwrap();
    for (choice, weights, expected) in [
        (WeightsChoice::Auto, Weights::Ema, &ema),
        (WeightsChoice::Ema, Weights::Ema, &ema),
        (WeightsChoice::Raw, Weights::Raw, &raw),
    ] {
        let model = load(&saved.path(), &choose(choice)).unwrap();
        assert_eq!((model.weights, model.parameters.data()), (weights, expected.data()));
    }
}

#[test]
fn weights_in_8_bit_floats_are_refused_in_one_line() {
    let (_dir, path) = beside_config("wrapped_float8.pth");
    let e = load(&path, &LoadOptions::default()).unwrap_err();
    assert_eq!(e.kind(), Kind::Unsupported);
    assert!(e.message().contains("float8_e4m3fn: weights in 8 bits") && !e.message().contains('\n'), "{e}");
}

#[test]
fn a_safetensors_file_that_starts_like_a_pickle_is_recognised() {
    let saved = Saved::new();
    let weights = ramp(&saved.config, 0.25);
    saved.save(&weights, None, FloatType::F32).unwrap();
    let path = saved.path().join("unet/diffusion_pytorch_model.safetensors");
    let tensors: Vec<_> = weights.iter().map(|(s, v)| (s.name.as_str(), s.shape.as_slice(), v)).collect();
    // Text metadata of growing length, until the header has a length of 0x…80.
    let bytes = (0..32).find_map(|n| {
        let metadata = BTreeMap::from([("x".to_owned(), "y".repeat(8 * n))]);
        let mut bytes = Vec::new();
        write_tensors(tensors.iter().copied(), &metadata, FloatType::F32, &mut bytes).unwrap();
        (bytes[0] == 0x80).then_some(bytes)
    });
    fs::write(&path, bytes.unwrap()).unwrap();
    assert_eq!(load(&saved.path(), &LoadOptions::default()).unwrap().parameters.data(), weights.data());
}

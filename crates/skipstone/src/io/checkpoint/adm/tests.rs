use std::collections::BTreeMap;
use std::path::Path;

use super::super::tensors::{Dtype, Entry, Region};
use super::structure::Structure;
use super::*;

fn entries(names: &[(&str, &[usize])]) -> BTreeMap<String, Entry> {
    let entry = |shape: &[usize]| {
        let len = 2 * shape.iter().product::<usize>() as u64;
        Entry::new(Dtype::F16, shape.to_vec(), None, 0, Region { blob: 0, start: 0, len, crc32: None }).unwrap()
    };
    names.iter().map(|(name, shape)| ((*name).to_owned(), entry(shape))).collect()
}

/// The tensors that tell the structure of a network with one level.
const ONE_LEVEL: [(&str, &[usize]); 8] = [
    ("input_blocks.0.0.weight", &[32, 3, 3, 3]),
    ("input_blocks.1.0.out_layers.3.weight", &[32, 32, 3, 3]),
    ("input_blocks.1.0.emb_layers.1.weight", &[64, 128]),
    ("middle_block.1.qkv.weight", &[96, 32, 1]),
    ("output_blocks.0.0.in_layers.0.weight", &[64]),
    ("output_blocks.1.0.in_layers.0.weight", &[64]),
    ("out.2.weight", &[6, 32, 3, 3]),
    ("time_embed.0.weight", &[128, 32]),
];

#[test]
fn the_tensors_tell_the_structure() {
    let found = Structure::read(&entries(&ONE_LEVEL)).unwrap();
    assert_eq!((found.in_channels, found.out_channels, found.layers, found.classes), (3, 6, 1, None));
    assert!(found.scale_shift && found.middle_attention && !found.resample_resnet);
    assert_eq!((found.channels, found.attention), (vec![32], vec![false]));
}

#[test]
fn tensors_of_other_networks_are_refused_with_the_reason() {
    let changed = |changes: &[(&'static str, &'static [usize])]| {
        let mut all = entries(&ONE_LEVEL);
        all.extend(entries(changes));
        Structure::read(&all).unwrap_err().message().to_owned()
    };
    for (changes, reason) in [
        (&[("input_blocks.0.0.weight", &[32, 6, 3, 3][..])][..], "upsamplers"),
        (&[("out.2.weight", &[5, 32, 3, 3])], "3 input and 5 output"),
        (&[("time_embed.0.weight", &[256, 64])], "channel_mult begins with"),
        (&[("time_embed.0.weight", &[256])], "expected 2 dimensions"),
        (&[("input_blocks.1.0.emb_layers.1.weight", &[33, 128])], "expected 32 rows"),
        (&[("input_blocks.1.1.transformer_blocks.0.norm.weight", &[4])], "latent or text-conditional"),
        (&[("output_blocks.0.1.conv.weight", &[32, 32, 3, 3])], "each but the last with an upsampler"),
        (&[("output_blocks.2.0.in_layers.0.weight", &[64]), ("output_blocks.0.2.conv.weight", &[1])], "found 3 blocks"),
    ] {
        let found = changed(changes);
        assert!(found.contains(reason), "{reason}: {found}");
    }
    for (name, _) in ONE_LEVEL.iter().filter(|(name, _)| !name.starts_with("middle") && !name.starts_with("output")) {
        let mut all = entries(&ONE_LEVEL);
        all.remove(*name);
        assert!(Structure::read(&all).unwrap_err().message().starts_with(name), "{name}");
    }
    let mut classifier = entries(&ONE_LEVEL);
    classifier.retain(|name, _| !name.starts_with("output_blocks."));
    assert!(Structure::read(&classifier).unwrap_err().message().contains("classifier"));
}

#[test]
fn rows_of_queries_keys_and_values_are_found_in_both_orders() {
    let qkv = entries(&[("qkv", &[12, 5, 1])]).remove("qkv").unwrap();
    for (groups, parts, rows) in [(2, 3, 4), (1, 3, 4), (2, 6, 2)] {
        for part in 0..parts {
            assert_eq!(qkv.part_of_rows(groups, parts, part).unwrap().shape, [rows, 5, 1]);
        }
    }
    for (groups, parts) in [(0, 3), (5, 3), (usize::MAX, 3), (2, 0)] {
        assert!(qkv.part_of_rows(groups, parts, 0).is_err(), "{groups} {parts}");
    }
    let empty = entries(&[("qkv", &[12, 0])]).remove("qkv").unwrap();
    assert!(empty.part_of_rows(2, 3, 0).is_err());
}

#[test]
fn published_names_and_their_lines_in_the_readmes_are_the_same() {
    for published in Published::ALL {
        let flags: AdmFlags = published.name.parse().unwrap();
        assert!(flags.image_size.is_some() && flags.noise_schedule.is_some() && flags.diffusion_steps.is_some());
        assert!(flags.num_heads.is_some() || flags.num_head_channels.is_some(), "{}", published.name);
        assert_eq!(format!("{}.pt", published.name).parse::<AdmFlags>().unwrap(), flags);
    }
    let line = "--image_size 64 --num_channels 128 --num_res_blocks 3 --learn_sigma True --diffusion_steps 4000 \
                --noise_schedule cosine --lr 1e-4 --batch_size 128";
    let flags: AdmFlags = line.parse().unwrap();
    assert_eq!((flags.num_heads, flags.rescale_timesteps), (Some(4), Some(true)));
    assert_eq!(flags.ignored, ["lr", "batch_size"]);
    // Any other line leaves open what it does not say.
    let flags: AdmFlags = line.replace("128", "96").parse().unwrap();
    assert_eq!((flags.num_heads, flags.rescale_timesteps), (None, None));
    let cond: AdmFlags = "imagenet64_cond_270M_250K".parse().unwrap();
    assert_eq!((cond.class_cond, cond.rescale_timesteps), (Some(true), Some(false)));
    let short: AdmFlags = "--attention_resolutions 32,16,8 --class_cond True --image_size 128 --learn_sigma True \
                           --num_channels 256 --num_heads 4 --num_res_blocks 2 --resblock_updown True --use_fp16 True \
                           --use_scale_shift_norm True"
        .parse()
        .unwrap();
    assert_eq!(short.diffusion_steps, Some(1000));
}

#[test]
fn invalid_flags_are_refused_by_name() {
    for (text, reason) in [
        ("", "neither a list of flags"),
        ("256x256", "256x256_diffusion_uncond"),
        ("512x512_diffusion", "supported published model"),
        ("--image_sizes 64 --num_head 4", "--image_sizes (nearest: --image_size), --num_head (nearest: --num_heads)"),
        ("--image_size", "--image_size needs a value"),
        ("--image_size --num_heads 4", "--image_size needs a value"),
        ("--image_size x", "--image_size: expected a whole number"),
        ("--image_size -3", "--image_size: expected a whole number"),
        ("--num_heads 0", "--num_heads: expected a whole number"),
        ("--learn_sigma maybe", "--learn_sigma: expected True or False"),
        ("--noise_schedule sigmoid", "--noise_schedule: expected linear or cosine"),
        ("--channel_mult 1,x", "--channel_mult: expected positive numbers"),
        ("--dropout 1", "--dropout: expected a probability"),
        ("--image_size 64 stray", "found \"stray\""),
        ("--attention_resolutions 16,,8", "--attention_resolutions: expected a whole number"),
    ] {
        let found = text.parse::<AdmFlags>().unwrap_err();
        assert!(found.message().contains(reason), "{text}: {found}");
    }
    let flags: AdmFlags = "--image_size=32 --num_head_channels -1 --num_heads 4 --channel_mult \"\"".parse().unwrap();
    assert_eq!((flags.image_size, flags.num_head_channels, flags.channel_mult), (Some(32), None, None));
}

#[test]
fn an_optimiser_s_file_names_the_model_beside_it() {
    let message = optimiser_state(Path::new("runs/opt250000.pt")).to_string();
    assert!(message.contains("ema_0.9999_250000.pt") && message.contains("model250000.pt"), "{message}");
    assert_eq!(weights(Path::new("a/ema_0.9999_250000.pt")), Weights::Ema);
    assert_eq!(weights(Path::new("model250000.pt")), Weights::Raw);
    assert_eq!(weights(Path::new("model.pt")), Weights::Unspecified);
}

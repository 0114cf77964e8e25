//! Code shared by several fuzz targets.

use skipstone::io::checkpoint::{LoadOptions, WeightsChoice, load_embedded};

/// A small network, so that the fuzzer can find a fitting weight file.
const CONFIG: &[u8] = br#"{
    "_class_name": "UNet2DModel", "sample_size": 8, "in_channels": 1, "out_channels": 1, "layers_per_block": 1,
    "block_out_channels": [2, 4], "norm_num_groups": 2, "attention_head_dim": null,
    "down_block_types": ["DownBlock2D", "AttnDownBlock2D"], "up_block_types": ["AttnUpBlock2D", "UpBlock2D"]
}"#;

/// Loads a model with these bytes as its weight file.
pub fn load_weights(bytes: &[u8]) {
    let files = [("config.json", CONFIG), ("diffusion_pytorch_model.bin", bytes)];
    for weights in [WeightsChoice::Auto, WeightsChoice::Raw] {
        let _ = load_embedded(&files, &LoadOptions { weights, ..LoadOptions::default() });
    }
}

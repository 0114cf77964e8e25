//! The networks built into skipstone: the diffusion model (a diffusers folder as names and bytes) and the classifier
//! whose features are used for scores.
//!
//! The card, `README.md` next to this crate's manifest, describes the model, its training and its samples.
//!
//! ```
//! let (name, bytes) = skipstone_model::FILES[0];
//! assert_eq!(name, "model_index.json");
//! assert!(std::str::from_utf8(bytes).unwrap().contains("DDIMPipeline"));
//! ```
#![forbid(unsafe_code)]

/// The files of the folder: `("unet/config.json", …)` and so on. `skipstone::io::checkpoint::load_embedded` reads them.
pub const FILES: &[(&str, &[u8])] = &[
    ("model_index.json", include_bytes!("../weights/model_index.json")),
    ("calibration.json", include_bytes!("../weights/calibration.json")),
    ("skipstone.json", include_bytes!("../weights/skipstone.json")),
    ("scheduler/scheduler_config.json", include_bytes!("../weights/scheduler/scheduler_config.json")),
    ("unet/config.json", include_bytes!("../weights/unet/config.json")),
    ("unet/diffusion_pytorch_model.safetensors", include_bytes!("../weights/unet/diffusion_pytorch_model.safetensors")),
];

/// The Fashion-MNIST classifier in whose features `skipstone evaluate` compares images, as a safetensors file. Its card
/// is `fashion-cnn/README.md`. `skipstone_eval::classifier::FashionCnn` reads it.
pub const FASHION_CNN: &[u8] = include_bytes!("../fashion-cnn/fashion-cnn.safetensors");

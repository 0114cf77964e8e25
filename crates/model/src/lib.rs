//! The networks that skipstone carries: the diffusion model, a diffusers folder as names and bytes, and the classifier that
//! scores are taken in.
//!
//! What it is, how it was trained and what it makes is in the card, `README.md` beside this crate's manifest.
//!
//! ```
//! let (name, bytes) = skipstone_model::FILES[0];
//! assert_eq!(name, "model_index.json");
//! assert!(std::str::from_utf8(bytes).unwrap().contains("DDIMPipeline"));
//! ```
#![forbid(unsafe_code)]

/// The folder's files: `("unet/config.json", …)` and so on. `skipstone::io::checkpoint::load_embedded` reads them.
pub const FILES: &[(&str, &[u8])] = &[
    ("model_index.json", include_bytes!("../weights/model_index.json")),
    ("calibration.json", include_bytes!("../weights/calibration.json")),
    ("skipstone.json", include_bytes!("../weights/skipstone.json")),
    ("scheduler/scheduler_config.json", include_bytes!("../weights/scheduler/scheduler_config.json")),
    ("unet/config.json", include_bytes!("../weights/unet/config.json")),
    ("unet/diffusion_pytorch_model.safetensors", include_bytes!("../weights/unet/diffusion_pytorch_model.safetensors")),
];

/// The classifier of Fashion-MNIST whose features `skipstone evaluate` compares images in, as a safetensors file; its card
/// is `fashion-cnn/README.md`. `skipstone_eval::classifier::FashionCnn` reads it.
pub const FASHION_CNN: &[u8] = include_bytes!("../fashion-cnn/fashion-cnn.safetensors");

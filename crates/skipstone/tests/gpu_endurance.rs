//! A thousand calls on a graphics processor, in a process of their own: its memory is measured.

#![cfg(feature = "gpu")]

use skipstone::engine::gpu::{ApiName, Gpu, adapters};
use skipstone::engine::{Api, Batch, Device, EngineOptions, Sharding, Targets, open, open_learner};
use skipstone::math::noise::initial_latent;
use skipstone::math::schedule::Time;
use skipstone::sampling::denoiser::Prediction;
use skipstone::unet::{Config, DownBlock, UpBlock, initialise};

/// Bytes of the process's memory that are in RAM.
fn resident() -> Option<usize> {
    let pages = std::fs::read_to_string("/proc/self/statm").ok()?;
    Some(4096 * pages.split(' ').nth(1)?.parse::<usize>().ok()?)
}

#[test]
fn a_thousand_calls_and_a_hundred_gradients_leak_nothing() {
    let Some(adapter) = adapters(ApiName::Any).into_iter().next() else {
        assert!(std::env::var_os("SKIPSTONE_NEED_GPU").is_none(), "no graphics driver");
        eprintln!("skipped: no graphics driver (apt-get install mesa-vulkan-drivers)");
        return;
    };
    let gpu = Gpu::open(&adapter).unwrap();
    let options = EngineOptions { device: Device::Gpu(Api::Any, 0), ..EngineOptions::on_threads(1) };
    let config = Config {
        sample_size: [8, 8],
        block_out_channels: vec![8],
        down_blocks: vec![DownBlock::Plain],
        up_blocks: vec![UpBlock::Plain],
        layers_per_block: 1,
        norm_num_groups: 4,
        ..Config::default()
    };
    let weights = initialise(&config, || 0.4, || 0.5).unwrap();
    let unet = open(config.clone(), weights.clone(), Prediction::Epsilon, &options).unwrap();
    let mut learner = open_learner(config, weights, Sharding { images: 2, recompute: false }, &options).unwrap();
    let mut run = |calls: usize| {
        for i in 0..calls {
            let n = 1 + i % 3;
            let x = initial_latent(0, i as u64, n, [1, 8, 8]);
            // Times that come back and times that do not.
            let times = vec![Time::from_index((i % 50) as u32); n];
            unet.predict(&x, &times, &[]).unwrap();
            if i % 10 == 0 {
                let batch = Batch { x_t: &x, times: &times, conditions: &[], dropout: None };
                learner.add_gradient(batch, Targets { target: &x, weights: &vec![1.0; n], scale: 1.0 }).unwrap();
            }
        }
        (gpu.memory_use(), resident())
    };
    // The table of conditions has reached its size.
    let (device, host) = run(60);
    let (device_after, host_after) = run(1000);
    assert_eq!(device_after, device, "bytes of the device's memory: in buffers, held");
    if let (Some(before), Some(after)) = (host, host_after) {
        assert!(after < before + (24 << 20), "{before} bytes resident before, {after} after");
    }
}

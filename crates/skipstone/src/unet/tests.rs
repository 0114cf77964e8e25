use super::graph::Graph;
use super::plan::MemoryPlan;
use super::*;

/// google/ddpm-cifar10-32.
fn cifar() -> Config {
    use {DownBlock as D, UpBlock as U};
    Config {
        sample_size: [32, 32],
        in_channels: 3,
        out_channels: 3,
        down_blocks: vec![D::Plain, D::Attention, D::Plain, D::Plain],
        up_blocks: vec![U::Plain, U::Plain, U::Attention, U::Plain],
        block_out_channels: vec![128, 256, 256, 256],
        ..Config::default()
    }
}

#[test]
fn the_cifar_network_has_the_published_number_of_parameters() {
    let layout = layout(&cifar()).unwrap();
    assert_eq!(layout.len(), 35_746_307);
    // Parameters follow each other without gaps.
    let mut end = 0;
    for spec in layout.specs() {
        assert_eq!(spec.offset, end, "{}", spec.name);
        end += spec.len();
    }
    assert_eq!(end, layout.len());
    for (name, shape) in [
        ("time_embedding.linear_1.weight", &[512, 128][..]),
        ("down_blocks.1.attentions.1.to_out.0.weight", &[256, 256]),
        ("up_blocks.2.resnets.2.conv_shortcut.weight", &[256, 384, 1, 1]),
        ("up_blocks.3.resnets.0.conv1.weight", &[128, 384, 3, 3]),
    ] {
        assert_eq!(layout.get(name).unwrap_or_else(|| panic!("no {name}")).shape, shape, "{name}");
    }
}

#[test]
fn the_cifar_network_takes_the_operations_that_profilers_of_pytorch_count() {
    let giga = flops(&cifar()).unwrap() as f64 / 1e9;
    assert!((giga / 12.44 - 1.0).abs() < 0.01, "{giga} GFLOP");
}

#[test]
fn the_operations_of_one_layer_are_those_counted_by_hand() {
    // Attention at 4×4 adds, per layer, q, k, v and the output (2·c² per pixel each) and two products of 2·c·pixels².
    // The downsampling path has one layer, the upsampling path two (one block more).
    let of = |down, up| {
        let config = Config {
            sample_size: [4, 4],
            block_out_channels: vec![8],
            down_blocks: vec![down],
            up_blocks: vec![up],
            layers_per_block: 1,
            norm_num_groups: 4,
            ..Config::default()
        };
        flops(&config).unwrap()
    };
    let (c, pixels) = (8, 16);
    let layer = 4 * 2 * c * c * pixels + 2 * 2 * c * pixels * pixels;
    let plain = of(DownBlock::Plain, UpBlock::Plain);
    assert_eq!(of(DownBlock::Attention, UpBlock::Plain) - plain, layer);
    assert_eq!(of(DownBlock::Attention, UpBlock::Attention) - plain, 3 * layer);
}

#[test]
fn inference_takes_far_less_memory_than_training() {
    let graph = Graph::new(&cifar(), false).unwrap();
    let [inference, lean, training] = [
        MemoryPlan::inference(&graph, 16),
        MemoryPlan::training(&graph, true, 16),
        MemoryPlan::training(&graph, false, 16),
    ]
    .map(|plan| plan.len());
    assert!(3 * inference < training, "{inference} of {training} elements");
    assert!(3 * lean < 2 * training, "{lean} of {training} elements");
}

#[test]
fn fresh_weights_make_blocks_identities_and_the_last_layer_zero() {
    let config = Config { sample_size: [8, 8], ..Config::default() };
    let mut state = 0u32;
    let uniform = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        f64::from(state) / 4_294_967_296.0
    };
    let parameters = initialise(&config, uniform, || 0.5).unwrap();
    for (spec, values) in parameters.iter() {
        let expected = match spec.name.as_str() {
            name if name.contains("norm") => Some(if name.ends_with("weight") { 1.0 } else { 0.0 }),
            name if ["conv2.", "to_out.0.", "conv_out."].iter().any(|part| name.contains(part)) => Some(0.0),
            _ => None,
        };
        match expected {
            Some(expected) => assert!(values.iter().all(|v| *v == expected), "{}", spec.name),
            None => {
                // The variance of a uniform value in ±b is b²/3. b = 1/√(fan in), where a bias has the fan-in of its
                // weight.
                let weight = parameters.layout().get(&spec.name.replace(".bias", ".weight")).unwrap();
                let bound = 1.0 / (weight.shape[1..].iter().product::<usize>() as f64).sqrt();
                assert!(values.iter().all(|v| f64::from(v.abs()) <= bound * 1.000_001), "{}", spec.name);
                assert!(values.iter().any(|v| f64::from(v.abs()) > 0.5 * bound), "{}", spec.name);
            }
        }
    }
}

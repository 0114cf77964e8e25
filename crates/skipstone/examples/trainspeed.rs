use ndarray::Array4;
use skipstone::{schedule::Time, unet::*};
use std::time::Instant;
fn main() {
    let args: Vec<usize> = std::env::args().skip(1).map(|a| a.parse().unwrap()).collect();
    let (c1, c2, c3, layers, batch, shard, threads) = (args[0], args[1], args[2], args[3], args[4], args[5], args[6]);
    let config = Config {
        block_out_channels: vec![c1, c2, c3],
        layers_per_block: layers,
        norm_num_groups: 8,
        down_blocks: vec![DownBlock::Plain, DownBlock::Attention, DownBlock::Plain],
        up_blocks: vec![UpBlock::Plain, UpBlock::Attention, UpBlock::Plain],
        ..Default::default()
    };
    let mut s = 1u64;
    let mut u = move || {
        s = s.wrapping_mul(6364136223846793005).wrapping_add(1);
        (s >> 40) as f64 / (1u64 << 24) as f64
    };
    let p = initialise(&config, &mut u, || 0.1).unwrap();
    println!("params {} flops {:.3} G", p.data().len(), flops(&config).unwrap() as f64 / 1e9);
    let mut b = Backprop::new(config.clone(), threads, shard).unwrap();
    let x = Array4::<f32>::zeros((batch, 1, 28, 28));
    let times = vec![Time::from_index(5); batch];
    let mut g = vec![0.0; p.data().len()];
    for _ in 0..4 {
        let t = Instant::now();
        b.add_gradient(
            p.data(),
            Batch { x_t: &x, times: &times, classes: None, dropout: None },
            |_, _, dy| dy.fill(1e-3),
            &mut g,
            None,
        )
        .unwrap();
        let e = t.elapsed().as_secs_f64();
        println!(
            "train step {:.1} ms, {:.1} img/s, {:.1} GFLOP/s",
            e * 1e3,
            batch as f64 / e,
            3.0 * flops(&config).unwrap() as f64 * batch as f64 / e / 1e9
        );
    }
    let net = UNet::new(config.clone(), p, skipstone::denoiser::Prediction::Epsilon).unwrap();
    for n in [1, batch] {
        let x = Array4::<f32>::zeros((n, 1, 28, 28));
        for _ in 0..3 {
            let t = Instant::now();
            net.forward(&x, &vec![Time::from_index(5); n], None).unwrap();
            let e = t.elapsed().as_secs_f64();
            println!("fwd n={n} {:.2} ms {:.1} GFLOP/s", e * 1e3, flops(&config).unwrap() as f64 * n as f64 / e / 1e9);
        }
    }
}

use skipstone_kernels::conv::*;
use skipstone_kernels::*;
fn cpu() -> f64 {
    std::fs::read_to_string("/proc/self/schedstat").unwrap().split(' ').next().unwrap().parse::<f64>().unwrap() * 1e-9
}
fn main() {
    let team = Team::new(1).unwrap();
    let isa = Isa::best();
    println!("{isa:?} 1 thread, cpu time");
    for &(ci, co, h, norm) in &[
        (128usize, 128usize, 32usize, false),
        (128, 128, 32, true),
        (256, 256, 16, true),
        (256, 256, 8, true),
        (256, 256, 4, true),
        (512, 256, 16, true),
        (384, 128, 32, true),
        (32, 32, 32, true),
        (64, 64, 16, true),
        (96, 96, 7, true),
    ] {
        for n in [1usize, 8] {
            let shape = Shape {
                c_in: ci,
                c_out: co,
                input: [h, h],
                kernel: 3,
                stride: 1,
                pad_before: 1,
                pad_after: 1,
                upsample: false,
            };
            let x: Vec<f32> = (0..n * h * h * ci).map(|i| ((i * 7919) % 1000) as f32 / 500.0 - 1.0).collect();
            let w: Vec<f32> = (0..co * ci * 9).map(|i| (((i * 104729) % 1000) as f32 / 500.0 - 1.0) * 0.05).collect();
            let b = vec![0.1f32; co];
            let ab = vec![0.5f32; n * 2 * ci];
            let mut y = Buffer::zeros(n * h * h * co);
            print!("{ci:4}->{co:4} @{h:2} n{n:2} norm {norm:5}: ");
            for alg in [Algorithm::Direct, Algorithm::Winograd2, Algorithm::Winograd4] {
                let k = 4;
                let layers: Vec<Layer> = (0..k).map(|_| Layer::pack(&team, isa, shape, alg, &[(&w, &b)])).collect();
                let src = Source { x: View::dense(&x, ci), norm: norm.then_some(Norm { ab: &ab, silu: true }) };
                let mut best = f64::MAX;
                for _ in 0..5 {
                    let t = cpu();
                    for l in &layers {
                        l.forward(&team, n, src, Epilogue::default(), &mut ViewMut::dense(&mut y, co));
                    }
                    best = best.min((cpu() - t) / k as f64);
                }
                print!("{alg:?} {:.3} ms {:.0} GF/s | ", best * 1e3, shape.flops() as f64 * n as f64 / best / 1e9);
            }
            println!(" chosen {:?}", shape.algorithm());
        }
    }
}

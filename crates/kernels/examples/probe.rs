use skipstone_kernels::*;
use skipstone_kernels::conv::*;
fn main() {
    let threads: usize = std::env::args().nth(1).map_or(2, |s| s.parse().unwrap());
    let team = Team::new(threads).unwrap();
    let isa = Isa::best();
    println!("{isa:?} {threads} threads");
    for &(ci, co, h, norm) in &[(128usize,128usize,32usize,false),(128,128,32,true),(256,256,16,true),(256,256,8,true),(256,256,4,true),(512,256,16,true),(384,128,32,true),(32,32,32,true),(64,64,16,true),(96,96,7,true)] {
        for n in [1usize, 4, 16] {
            let shape = Shape { c_in: ci, c_out: co, input: [h, h], kernel: 3, stride: 1, pad_before: 1, pad_after: 1, upsample: false };
            let x: Vec<f32> = (0..n*h*h*ci).map(|i| ((i * 7919) % 1000) as f32 / 500.0 - 1.0).collect();
            let w: Vec<f32> = (0..co*ci*9).map(|i| (((i * 104729) % 1000) as f32 / 500.0 - 1.0) * 0.05).collect();
            let b = vec![0.1f32; co];
            let ab = vec![0.5f32; n*2*ci];
            let mut y = Buffer::zeros(n*h*h*co);
            print!("{ci:4}->{co:4} @{h:2} n{n:2} norm {norm:5}: ");
            for alg in [Algorithm::Direct, Algorithm::Winograd2, Algorithm::Winograd4] {
                let layers: Vec<Layer> = (0..8).map(|_| Layer::pack(&team, isa, shape, alg, &[(&w, &b)])).collect();
                let src = Source { x: View::dense(&x, ci), norm: norm.then_some(Norm { ab: &ab, silu: true }) };
                let mut ts = vec![];
                for i in 0..26 {
                    let t = std::time::Instant::now();
                    layers[i % 8].forward(&team, n, src, Epilogue::default(), &mut ViewMut::dense(&mut y, co));
                    if i > 3 { ts.push(t.elapsed().as_secs_f64()); }
                }
                ts.sort_by(f64::total_cmp);
                let m = ts[ts.len()/2];
                print!("{alg:?} {:.3} ms {:.0} GF/s | ", m*1e3, shape.flops() as f64 * n as f64 / m / 1e9);
            }
            println!(" chosen {:?}", shape.algorithm());
        }
    }
}

use skipstone::{checkpoint, denoiser::*, image::*, noise::*, sampler::*, sigma::NoiseScale, schedule::*, trajectory::*, unet::UNet};
fn main() {
    let dir = std::env::args().nth(1).unwrap();
    let m = checkpoint::load(dir.as_ref(), &Default::default()).unwrap();
    let net = UNet::new(m.config, m.parameters, m.scheduler.prediction_type).unwrap();
    let schedule = m.scheduler.schedule().unwrap();
    let mut all = vec![];
    for (s, clip) in [(20, "off"), (20, "keep-eps"), (20, "rederive-eps"), (50, "rederive-eps")] {
        let tr = Trajectory::named(Spacing::Linear, s, 1000, 0).unwrap();
        let plan = Plan::new(&schedule, &tr, &NoiseScale::Eta(0.0), FinalLevel::Clean, clip.parse().unwrap()).unwrap();
        let x = sample(&net, &plan, initial_latent(0, 0, 16, [1, 28, 28]), &mut Forbidden, None, &mut unobserved).unwrap().finished().unwrap();
        all.push(x);
    }
    let views: Vec<_> = all.iter().map(|a| a.view()).collect();
    let x = ndarray::concatenate(ndarray::Axis(0), &views).unwrap();
    write_png("/tmp/clips.png".as_ref(), &grid(&x, 16, &Layout::magnified(28, 28)).unwrap(), &[]).unwrap();
}

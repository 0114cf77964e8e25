use std::ops::ControlFlow;
use skipstone::{data::{DataSpec, LoadOptions, Split}, train::{Event, Recipe, Run}};
fn main() {
    let recipe = Recipe::parse(&std::fs::read_to_string("configs/fashion-mnist.toml").unwrap(), &[]).unwrap();
    let data = "fashion-mnist".parse::<DataSpec>().unwrap().load(Split::Train, &LoadOptions::default()).unwrap();
    println!("{} {:?}", data.len(), data.shape());
    let mut run = Run::open("/work/runs/fashion-mnist".as_ref(), recipe, data, None, 2, true).unwrap();
    let end = run.train(&mut |e| { if let Event::Logged{..} = e { println!("{e:?}"); } ControlFlow::Continue(()) });
    println!("{end:?}");
}

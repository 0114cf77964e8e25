//! `skipstone inspect`: a model's architecture and schedule, and the table of a run's steps.

use clap::Args;
use serde_json::{Value, json};
use skipstone::io::checkpoint::{Model, config_to_json};
use skipstone::math::schedule::{Schedule, Time};
use skipstone::sampling::generate::Settings;
use skipstone::sampling::options::{LAYOUT, Request};
use skipstone::unet::{self, Config, DownBlock};

use crate::common::{ModelArguments, Work};
use crate::failure::{Done, emit};
use crate::options::Flags;

/// Show a model's architecture and schedule, and the table of a run's steps
#[derive(Args, Debug)]
#[command(after_help = "\
With --steps or --times, a table of the run follows. It shows for each step: the index t of its network call, the index \
s where it ends, the noise levels a of both, sigma, and the coefficients of the predicted image (x0), the predicted noise \
(eps) and fresh noise (z).

Examples:
  The built-in model       skipstone inspect
  Another model, as JSON   skipstone inspect --model runs/a/model --json
  Ten steps of DDIM        skipstone inspect --steps 10
  Ten steps with eta 1     skipstone inspect --steps 10 --eta 1")]
pub struct InspectArguments {
    #[command(flatten)]
    model: ModelArguments,
    #[command(flatten)]
    run: Flags<LAYOUT>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub fn run(arguments: &InspectArguments) -> anyhow::Result<Done> {
    let model = arguments.model.load()?;
    let schedule = model.scheduler.schedule()?;
    // The steps of a run are asked for by any option of one.
    let request = arguments.run.request()?;
    let run = if request == Request::default() { None } else { Some(Settings::resolve(&model, &request)?) };
    let table = run.as_ref().map(|(_, plan)| plan.steps());
    if arguments.json {
        let mut value = describe(&model, &schedule)?;
        if let (Some((settings, _)), Some(steps)) = (&run, table) {
            value["run"] = settings.to_json().into();
            value["table"] = steps.iter().enumerate().map(|(i, step)| row(i, step)).collect();
        }
        emit(value)?;
        return Ok(Done::Finished);
    }
    print(&model, &schedule)?;
    if let Some(steps) = table {
        emit("")?;
        emit("step      t      s         a_t         a_s       sigma     c(x0)    c(eps)      c(z)")?;
        for (i, step) in steps.iter().enumerate() {
            let c = step.coefficients;
            emit(format_args!(
                "{:>4} {:>6} {:>6} {:>11.6} {:>11.6} {:>11.6} {:>9.6} {:>9.6} {:>9.6}",
                i + 1,
                index(step.t),
                index(step.s),
                step.from.alpha_bar,
                step.to.alpha_bar,
                step.sigma,
                c.x0,
                c.eps,
                c.z
            ))?;
        }
    }
    Ok(Done::Finished)
}

/// A timestep's network index, or "clean" for data, which has none.
fn index(time: Time) -> String {
    time.index().map_or("clean".to_owned(), |index| index.to_string())
}

fn row(i: usize, step: &skipstone::math::sigma::Step) -> Value {
    let c = step.coefficients;
    json!({
        "step": i + 1, "t": step.t.index(), "s": step.s.index(), "a_t": step.from.alpha_bar,
        "a_s": step.to.alpha_bar, "sigma": step.sigma, "x0": c.x0, "eps": c.eps, "z": c.z,
    })
}

/// a and SNR at the first and the last timestep.
fn ends(schedule: &Schedule) -> anyhow::Result<[(f64, f64); 2]> {
    let at = |t| -> anyhow::Result<(f64, f64)> {
        let level = schedule.level(Time::new(t))?;
        Ok((level.alpha_bar, level.snr()))
    };
    Ok([at(1)?, at(schedule.train_steps())?])
}

fn describe(model: &Model, schedule: &Schedule) -> anyhow::Result<Value> {
    let [first, last] = ends(schedule)?;
    let parse = |text: &str| serde_json::from_str::<Value>(text);
    let config = match &model.source {
        // An outline is no config of a U-Net.
        Some(_) => {
            let Config { sample_size, in_channels, num_class_embeds, .. } = model.config;
            json!({"sample_size": sample_size, "in_channels": in_channels, "num_class_embeds": num_class_embeds})
        }
        None => parse(&config_to_json(&model.config))?,
    };
    Ok(json!({
        "file": model.file.display().to_string(),
        "weights": model.weights.to_string(),
        "hash": model.hash,
        "parameters": model.parameter_count(),
        "gflop_per_image": Work::of(model.flops()? as f64).json(),
        "config": config,
        "scheduler": parse(&model.scheduler.to_json())?,
        "schedule": {
            "T": schedule.train_steps(), "a_1": first.0, "a_T": last.0, "snr_1": first.1, "snr_T": last.1,
        },
        "null_class": model.null_class,
        "provenance": model.provenance,
    }))
}

fn print(model: &Model, schedule: &Schedule) -> anyhow::Result<()> {
    let config = &model.config;
    let [height, width] = config.sample_size;
    emit(format_args!("model       {}", model.file.display()))?;
    emit(format_args!("hash        {}", model.hash))?;
    emit(format_args!("weights     {}", model.weights))?;
    emit(format_args!("images      {} channel(s), {height} × {width}", config.in_channels))?;
    emit(format_args!("parameters  {}", model.parameter_count()))?;
    if let Some(source) = &model.source {
        emit(format_args!("network     {}", source.kind()))?;
    } else {
        levels(config)?;
    }
    if let Some(classes) = config.num_class_embeds {
        let null = model.null_class.map_or(String::new(), |class| format!(", null class {class}"));
        emit(format_args!("classes     {classes}{null}"))?;
    }
    let scheduler = &model.scheduler;
    let family = match &scheduler.trained_betas {
        Some(betas) => format!("{} listed betas", betas.len()),
        None => format!("{} from {} to {}", scheduler.beta_schedule, scheduler.beta_start, scheduler.beta_end),
    };
    let [first, last] = ends(schedule)?;
    emit(format_args!("schedule    T = {}, beta {family}", schedule.train_steps()))?;
    emit(format_args!(
        "signal      a_1 = {:.6}, a_T = {:.3e}; SNR {:.3e} to {:.3e}",
        first.0, last.0, first.1, last.1
    ))?;
    let variance = if config.learns_variance() { ", and its variance (--sigma learned)" } else { "" };
    emit(format_args!("predicts    {}{variance}", scheduler.prediction_type))?;
    if config.time_scale != 1.0 {
        emit(format_args!("times       are multiplied by {} for the network", config.time_scale))?;
    }
    let spacing = scheduler.timestep_spacing.map_or("not set".to_owned(), |spacing| spacing.to_string());
    let clip = scheduler.clip().map_or("not set".to_owned(), |clip| clip.to_string());
    emit(format_args!("sampling    spacing {spacing}, clip {clip} (flags override)"))?;
    for (key, text) in &model.provenance {
        // The first line of a recipe is enough here; --json prints all of it.
        let line = text.lines().next().unwrap_or_default();
        let more = if text.lines().count() > 1 { " …" } else { "" };
        emit(format_args!("{key:<11} {line}{more}"))?;
    }
    Ok(())
}

/// The levels of a U-Net.
fn levels(config: &Config) -> anyhow::Result<()> {
    let [height, width] = config.sample_size;
    emit(format_args!("work        {:.3} GFLOP per network call and image", unet::flops(config)? as f64 / 1e9))?;
    for (i, (block, channels)) in config.down_blocks.iter().zip(&config.block_out_channels).enumerate() {
        // The config was checked: sizes are divisible.
        let side = |size: usize| size >> i;
        let attention = if *block == DownBlock::Attention { ", attention" } else { "" };
        emit(format_args!(
            "level {i}     {} × {}, {channels} channels, {} residual block(s) down and {} up{attention}",
            side(height),
            side(width),
            config.layers_per_block,
            config.layers_per_block + 1
        ))?;
    }
    let middle = match (config.mid_block, config.add_attention) {
        (false, _) => "none",
        (true, true) => "with attention",
        (true, false) => "without attention",
    };
    emit(format_args!("middle      {middle}"))?;
    Ok(())
}

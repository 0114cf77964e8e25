//! `skipstone devices`: what this build can compute on, on this machine.

use clap::Args;
use serde_json::json;
use skipstone::engine::{DeviceInfo, devices};

use crate::common::bytes;
use crate::failure::{Done, emit, say};

/// List the devices that networks can be computed on
#[derive(Args, Debug)]
#[command(after_help = "\
A graphics processor appears once under each graphics API that reaches it. The name in the first column is a value of --device \
and of the environment variable SKIPSTONE_DEVICE. `--device auto` takes the first graphics processor that is not software.

Examples:
  List the devices             skipstone devices
  Sample on the second card    skipstone sample --device vulkan:1")]
pub struct DevicesArguments {
    /// Print one JSON object per device
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub fn run(arguments: &DevicesArguments) -> anyhow::Result<Done> {
    let found = devices();
    if arguments.json {
        found.iter().try_for_each(|info| {
            let DeviceInfo { device, name, memory, precisions, engine, software, trouble } = info;
            emit(json!({
                "device": device,
                "name": name,
                "memory_bytes": memory,
                "precisions": precisions,
                "engine": engine,
                "software": software,
                "trouble": trouble,
            }))
        })?;
    } else {
        emit("device       memory      precision       engine                   name")?;
        for info in &found {
            let memory = info.memory.map_or("-".to_owned(), |memory| bytes(memory as usize));
            let software = if info.software { " (software)" } else { "" };
            let (precisions, name) = (info.precisions.join(", "), &info.name);
            emit(format_args!(
                "{:<12} {memory:<11} {precisions:<15} {:<24} {name}{software}",
                info.device, info.engine
            ))?;
            if let Some(trouble) = &info.trouble {
                emit(format_args!("             {trouble}"))?;
            }
        }
    }
    if cfg!(not(feature = "gpu")) {
        say("this build computes on the CPU only; build with --features gpu for graphics processors");
    } else if found.len() == 1 {
        say("no graphics driver was found; install the card's driver (on Linux, its Vulkan driver and libvulkan1)");
    }
    Ok(Done::Finished)
}

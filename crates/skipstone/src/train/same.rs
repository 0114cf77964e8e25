//! Whether two runs are the same: the one of a state and the one that continues it, or those of several ranks.

use std::collections::BTreeSet;

use sha2::{Digest, Sha256};

use super::state::Identity;
use crate::engine::Ranks;
use crate::engine::cpu::Isa;
use crate::engine::ranks::gather_messages;
use crate::error::{Error, Result};
use crate::io::hex::hex;

/// Keys that may change when a run is resumed. They affect its length and output, not the result of a step, with two exceptions:
/// the precision, which changes as little as the device, so that a run can go on where its precision is missing; and the number
/// of steps, by which a cosine decay sets the learning rate, so that a run whose loss still falls can be made longer.
const CHANGEABLE: [&str; 8] = [
    "steps",
    "precision",
    "recompute",
    "checkpoint_every",
    "log_every",
    "preview_every",
    "preview_images",
    "preview_steps",
];

/// Checks that a state belongs to the requested run.
pub(super) fn same_run(was: &Identity, now: &Identity) -> Result<()> {
    let table = |text: &str| text.parse::<toml::Table>().map_err(|e| Error::data(format!("stored recipe: {e}")));
    // States used to store this alias of the schedule as it was typed.
    let old = was.recipe.replace("schedule = \"quad\"", "schedule = \"scaled_linear\"");
    let (old, new) = (table(&old)?, table(&now.recipe)?);
    let distils = [&old, &new].map(|recipe| recipe.contains_key("distill"));
    if distils[0] != distils[1] {
        let name = |distils| if distils { "a distillation" } else { "a training" };
        return Err(Error::argument(format!(
            "the folder holds {}, not {}; choose another folder",
            name(distils[0]),
            name(distils[1])
        )));
    }
    let other = if distils[0] { "choose another folder" } else { "start another run with --init" };
    let differs = |what: &str, was: &str, now: &str| {
        Err(Error::argument(format!(
            "the run was started with {what} {was}, but now it is {now}; resume with the same value, or {other}"
        )))
    };
    // The same images under another name are the same data.
    let of = |data: &str| data.rsplit_once(" (").map_or(data.to_owned(), |(_, contents)| contents.to_owned());
    if of(&was.data) != of(&now.data) {
        return differs("data", &was.data, &now.data);
    }
    // A resumed run may omit the initial model, but a different one is a mistake.
    if !now.init.is_empty() && was.init != now.init {
        let name = if distils[0] { "the teacher" } else { "the initial model" };
        return differs(name, if was.init.is_empty() { "none (random weights)" } else { &was.init }, &now.init);
    }
    let keys = |table: &toml::Table| -> BTreeSet<(String, String)> {
        let of = |(section, entries): (&String, &toml::Value)| {
            let keys = entries.as_table().into_iter().flatten().map(|(key, _)| (section.clone(), key.clone()));
            keys.collect::<Vec<_>>()
        };
        table.iter().flat_map(of).collect()
    };
    for (section, key) in keys(&old).union(&keys(&new)) {
        let [before, now] = [&old, &new].map(|table| table.get(section).and_then(|entries| entries.get(key)));
        // The length of a round decides where the next one begins.
        let changeable = CHANGEABLE.contains(&key.as_str()) && !(distils[0] && key == "steps");
        if before != now && !(section == "train" && changeable) {
            let [before, now] = [before, now].map(|v| v.map_or("unset".to_string(), ToString::to_string));
            return differs(&format!("{section}.{key} ="), &before, &now);
        }
        if before != now
            && key == "steps"
            && new.get("optimizer").and_then(|o| o.get("decay")?.as_str()) == Some("cosine")
        {
            let [before, now] = [before, now].map(|v| v.map_or_else(String::new, ToString::to_string));
            tracing::warn!(
                "train.steps was {before}; from here on the learning rate falls towards step {now}, so the run ends in other \
                 bytes than one that had {now} steps from the start"
            );
        }
        if before != now && key == "precision" {
            let [before, now] = [before, now].map(|v| v.map_or("\"f32\"".to_string(), ToString::to_string));
            tracing::warn!(
                "train.precision was {before}; the rest of the run is computed in {now} and ends in other bytes"
            );
        }
    }
    Ok(())
}

/// Checks that all ranks train the same run with the same program.
pub(super) fn same_everywhere(ranks: &dyn Ranks, mine: &Identity) -> Result<()> {
    if ranks.size() == 1 {
        return Ok(());
    }
    let mine = [
        ("recipe", mine.recipe.clone()),
        ("data", mine.data.clone()),
        ("initial model", mine.init.clone()),
        ("program", program()),
        ("instruction set", Isa::best().name().to_owned()),
    ];
    let text = mine.each_ref().map(|(_, value)| value.as_str()).join("\0");
    let all = gather_messages(ranks, text.as_bytes()).inspect_err(|_| ranks.fail())?;
    let all: Vec<String> = all.into_iter().map(|text| String::from_utf8_lossy(&text).into_owned()).collect();
    let first: Vec<&str> = all[0].split('\0').collect();
    for (rank, other) in all.iter().enumerate() {
        for (((what, _), first), other) in mine.iter().zip(&first).zip(other.split('\0')) {
            if *first != other {
                // Of a recipe, the first line that differs.
                let lines = first.lines().zip(other.lines()).find(|(a, b)| a != b).unwrap_or((first, other));
                return Err(Error::argument(format!(
                    "ranks disagree on the {what}: rank 0 has {}, rank {rank} has {}; all ranks need the same",
                    lines.0, lines.1
                )));
            }
        }
    }
    Ok(())
}

/// The version of this program and the digest of its file.
fn program() -> String {
    let file = std::env::current_exe().and_then(std::fs::read);
    let digest = file.map_or_else(|e| e.to_string(), |bytes| hex(&Sha256::digest(bytes)[..8]));
    format!("{} (sha256 {digest})", env!("CARGO_PKG_VERSION"))
}

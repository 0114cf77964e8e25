//! Finds the network among the tensors of a file, whatever wrapped it when it was saved.
//!
//! Wrappers prepend names: `module.` (DataParallel), `_orig_mod.` (torch.compile), `model.` or `unet.` (an attribute of a
//! training class), `state_dict` (Lightning), `ema_model.` (a moving average). Every network has one tensor whose name
//! says where it begins: the first layer of the time embedding. What precedes that name is the wrapper's, and its last
//! telling word says whether the copy is a moving average.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};

use super::{Weights, WeightsChoice};
use crate::error::{Error, Kind, Result};

/// The first layer of the time embedding, by which each known family of networks is recognised.
pub(super) const DIFFUSERS: &str = "time_embedding.linear_1.weight";
/// As [`DIFFUSERS`], in the code of the paper's authors.
pub(super) const ORIGINAL: &str = "temb.dense.0.weight";
/// As [`DIFFUSERS`], in guided-diffusion and improved-diffusion.
pub(super) const GUIDED: &str = "time_embed.0.weight";
const ANCHORS: [&str; 3] = [DIFFUSERS, ORIGINAL, GUIDED];

/// Components that wrappers insert anywhere in a name.
const TRANSPARENT: [&str; 6] = [
    "module",                     // DataParallel, AveragedModel
    "_orig_mod",                  // torch.compile
    "_forward_module",            // Lightning Fabric
    "_fsdp_wrapped_module",       // FullyShardedDataParallel
    "_checkpoint_wrapped_module", // activation checkpointing
    "_module",                    // Opacus
];
/// Components under which training programs keep a network. Others are accepted too, but these are preferred.
const HOLDERS: [&str; 16] = [
    "model",
    "unet",
    "net",
    "network",
    "state_dict",
    "model_state_dict",
    "diffusion_model",
    "denoiser",
    "denoise_fn",
    "eps_model",
    "backbone",
    "online_model",
    "raw_model",
    "weights",
    "params",
    "student",
];
/// What moving averages and training classes keep beside the parameters.
const BOOKKEEPING: [&str; 16] = [
    "decay",
    "ema_decay",
    "min_decay",
    "optimization_step",
    "num_updates",
    "n_averaged",
    "update_after_step",
    "use_ema_warmup",
    "inv_gamma",
    "power",
    "initted",
    "step",
    "global_step",
    "num_batches_tracked",
    "cur_decay_value",
    "logvar",
];

/// The tensors of the chosen copy of the network, as places in the list of all names.
#[derive(Debug, PartialEq)]
pub(super) struct Chosen {
    pub weights: Weights,
    /// The name within the network, and the place of the tensor.
    pub tensors: Vec<(String, usize)>,
}

/// One copy of a network in a file.
struct Replica {
    prefix: String,
    tensors: Vec<(String, usize)>,
}

impl Replica {
    fn is_average(&self) -> bool {
        self.prefix.split('.').rev().find_map(averages).unwrap_or(false)
    }

    /// The most usual place comes first.
    fn rank(&self) -> (usize, usize) {
        let parts = || self.prefix.split('.').filter(|part| !part.is_empty());
        let known = |part: &&str| HOLDERS.contains(part) || averages(part).is_some();
        (parts().filter(|part| !known(part)).count(), parts().count())
    }
}

/// Whether a component says that what it holds is a moving average; `None` if it says nothing.
fn averages(component: &str) -> Option<bool> {
    if matches!(component, "online_model" | "raw_model") {
        return Some(false);
    }
    let word = |word| matches!(word, "ema" | "shadow" | "averaged" | "average");
    component.split('_').any(word).then_some(true)
}

/// A name without the components that wrappers insert anywhere.
fn without_wrappers(name: &str) -> Cow<'_, str> {
    if !name.split('.').any(|part| TRANSPARENT.contains(&part)) {
        return Cow::Borrowed(name);
    }
    let parts: Vec<&str> = name.split('.').filter(|part| !TRANSPARENT.contains(part)).collect();
    Cow::Owned(parts.join("."))
}

/// The start of `name`, if the rest is `end` and begins at a component. Without the dot between the two.
fn before<'n>(name: &'n str, end: &str) -> Option<&'n str> {
    let start = name.strip_suffix(end)?;
    if start.is_empty() { Some(start) } else { start.strip_suffix('.') }
}

/// Finds the networks among the tensors called `names` and chooses one. `labelled` says that a network outside any
/// moving average is known to be raw. Returns `None` if no known network is there.
///
/// # Errors
/// The file has no such weights, does not say which it has, or has several networks.
pub(super) fn choose(names: &[String], choice: WeightsChoice, labelled: bool) -> Result<Option<Chosen>> {
    let plain: Vec<Cow<'_, str>> = names.iter().map(|name| without_wrappers(name)).collect();
    let mut copies: BTreeMap<&str, Vec<(String, usize)>> = BTreeMap::new();
    for name in &plain {
        for prefix in ANCHORS.iter().filter_map(|anchor| before(name, anchor)) {
            copies.entry(prefix).or_default();
        }
    }
    if copies.is_empty() {
        return Ok(None);
    }
    // Each tensor belongs to the innermost copy around it.
    let mut beside = Vec::new();
    for (place, name) in plain.iter().enumerate() {
        let mut prefix = name.as_ref();
        let home = loop {
            prefix = prefix.rsplit_once('.').map_or("", |(prefix, _)| prefix);
            match copies.get_mut(prefix) {
                Some(tensors) => break Some(tensors),
                None if prefix.is_empty() => break None,
                None => {}
            }
        };
        let within = if prefix.is_empty() { name } else { &name[prefix.len() + 1..] };
        match home {
            Some(tensors) if !BOOKKEEPING.contains(&within) => tensors.push((within.to_owned(), place)),
            _ => beside.push(place),
        }
    }
    let averaged = beside.iter().any(|&place| plain[place].rsplit('.').next() == Some("n_averaged"));
    let copies = copies.into_iter().map(|(prefix, tensors)| Replica { prefix: prefix.to_owned(), tensors });
    let (averages, raws): (Vec<Replica>, Vec<Replica>) = copies.partition(Replica::is_average);
    let raw = one(raws)?;
    let average = match one(averages)? {
        None => raw.as_ref().and_then(|raw| undotted(raw, &plain)),
        found => found,
    };
    let labelled = labelled || average.is_some();
    let chosen = match choice {
        // torch's AveragedModel counts what it has averaged.
        WeightsChoice::Auto | WeightsChoice::Ema if average.is_none() && averaged && !labelled => (Weights::Ema, raw),
        WeightsChoice::Ema | WeightsChoice::Raw if !labelled => return Err(super::unlabelled()),
        WeightsChoice::Ema => (Weights::Ema, average),
        WeightsChoice::Raw => (Weights::Raw, raw),
        WeightsChoice::Auto => match (average, raw) {
            (Some(average), _) => (Weights::Ema, Some(average)),
            (None, raw) => (if labelled { Weights::Raw } else { Weights::Unspecified }, raw),
        },
    };
    let (weights, Some(Replica { prefix, tensors })) = chosen else {
        let what = if choice == WeightsChoice::Ema { "ema" } else { "raw" };
        return Err(Error::new(Kind::NotFound, format!("the checkpoint has no {what} weights")));
    };
    if !beside.is_empty() {
        let some: Vec<&str> = beside.iter().take(5).map(|&place| names[place].as_str()).collect();
        tracing::info!(count = beside.len(), first = some.join(", "), "ignoring tensors beside the network");
    }
    if !prefix.is_empty() {
        tracing::info!(prefix, "the network's tensors have a prefix");
    }
    Ok(Some(Chosen { weights, tensors }))
}

/// The copy in the most usual place.
fn one(mut copies: Vec<Replica>) -> Result<Option<Replica>> {
    copies.sort_by_cached_key(Replica::rank);
    if let [first, second, ..] = &copies[..]
        && first.rank() == second.rank()
    {
        let prefixes: Vec<&str> = copies.iter().take(5).map(|copy| copy.prefix.as_str()).collect();
        return Err(Error::unsupported(format!(
            "the file holds several networks ({}); save the one you want in a file of its own",
            prefixes.join(", ")
        )));
    }
    Ok(copies.into_iter().next())
}

/// The moving average of `raw` whose names have lost their dots, as latent-diffusion's `LitEma` stores it:
/// `model_ema.diffusion_modelconv_inweight` for `model.diffusion_model.conv_in.weight`.
fn undotted(raw: &Replica, names: &[Cow<'_, str>]) -> Option<Replica> {
    let places: HashMap<&str, usize> = names.iter().enumerate().map(|(place, name)| (name.as_ref(), place)).collect();
    let flat = |name: &str| name.replace('.', "");
    let anchor = ANCHORS.iter().find(|anchor| raw.tensors.iter().any(|(name, _)| name == *anchor))?;
    let prefix = names.iter().find_map(|name| {
        let (holder, rest) = name.rsplit_once('.')?;
        (averages(holder.rsplit('.').next()?) == Some(true) && rest.ends_with(&flat(anchor)))
            .then(|| &name[..name.len() - flat(anchor).len()])
    })?;
    let find =
        |(name, _): &(String, usize)| Some((name.clone(), *places.get(format!("{prefix}{}", flat(name)).as_str())?));
    let tensors = raw.tensors.iter().map(find).collect::<Option<_>>()?;
    Some(Replica { prefix: prefix.to_owned(), tensors })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(prefix: &str) -> Vec<String> {
        ["conv_in.weight", DIFFUSERS, "down_blocks.0.resnets.0.conv1.weight"].map(|n| format!("{prefix}{n}")).into()
    }

    fn chosen(names: &[String], choice: WeightsChoice) -> Result<(Weights, Vec<String>)> {
        let found = choose(names, choice, false)?.expect("a network");
        for (name, place) in &found.tensors {
            let flat = |name: &str| without_wrappers(name).replace('.', "");
            assert!(flat(&names[*place]).ends_with(&flat(name)), "{name} is not {}", names[*place]);
        }
        Ok((found.weights, found.tensors.into_iter().map(|(name, _)| name).collect()))
    }

    #[test]
    fn every_wrapper_comes_off_in_any_nesting() {
        for prefix in [
            "",
            "module.",
            "_orig_mod.",
            "model.",
            "unet.",
            "net.",
            "module._orig_mod.",
            "_orig_mod.module.",
            "state_dict.model._orig_mod.unet.",
            "model_state_dict.module.",
            "some_class_of_ours.model.",
        ] {
            let found = chosen(&names(prefix), WeightsChoice::Auto).unwrap();
            assert_eq!(found, (Weights::Unspecified, names("")), "{prefix}");
        }
        // Compiled block by block.
        let inner = ["conv_in.weight", DIFFUSERS, "down_blocks.0._orig_mod.resnets.0.conv1.weight"].map(str::to_owned);
        assert_eq!(chosen(&inner, WeightsChoice::Auto).unwrap().1, names(""));
    }

    #[test]
    fn the_authors_and_guided_networks_are_found_the_same_way() {
        for anchor in [ORIGINAL, GUIDED] {
            let names = [format!("module.model.{anchor}"), "module.model.conv_in.bias".into()];
            let found = chosen(&names, WeightsChoice::Auto).unwrap();
            assert_eq!(found.1, [anchor, "conv_in.bias"]);
        }
    }

    #[test]
    fn averages_are_told_from_raw_weights_by_their_wrapper() {
        for (raw, ema) in [
            ("model.", "ema_model."),
            ("model.", "ema.module."),
            ("module.", "ema.module."),
            ("state_dict.unet.", "state_dict.ema_unet."),
            ("state_dict.model.", "state_dict.model_ema.module."),
            ("", "ema."),
            ("model.model.", "ema.ema_model.model."),
            ("ema.online_model.model.", "ema.ema_model.model."),
        ] {
            let both: Vec<String> = [names(raw), names(ema)].concat();
            for (choice, weights, at) in [
                (WeightsChoice::Auto, Weights::Ema, 3),
                (WeightsChoice::Ema, Weights::Ema, 3),
                (WeightsChoice::Raw, Weights::Raw, 0),
            ] {
                let found = choose(&both, choice, false).unwrap().unwrap();
                assert_eq!(found.weights, weights, "{raw} {ema}");
                assert_eq!(found.tensors.iter().map(|t| t.1).collect::<Vec<_>>(), [at, at + 1, at + 2], "{raw} {ema}");
            }
            // A file with one of the two.
            assert_eq!(chosen(&names(ema), WeightsChoice::Auto).unwrap().0, Weights::Ema);
            let e = chosen(&names(ema), WeightsChoice::Raw).unwrap_err();
            assert_eq!(e.message(), "the checkpoint has no raw weights", "{ema}");
        }
    }

    #[test]
    fn a_wrapper_that_trains_both_copies_is_preferred_in_its_plain_place() {
        // denoising-diffusion-pytorch: {model: …, ema: {online_model: …, ema_model: …}}.
        let all = [names("model.model."), names("ema.online_model.model."), names("ema.ema_model.model.")].concat();
        let found = choose(&all, WeightsChoice::Raw, false).unwrap().unwrap();
        assert_eq!(found.tensors[0].1, 0);
        assert_eq!(choose(&all, WeightsChoice::Auto, false).unwrap().unwrap().tensors[0].1, 6);
    }

    #[test]
    fn what_averages_keep_beside_the_network_is_ignored() {
        let beside = ["decay", "ema.num_updates", "ema.optimization_step", "model.step", "betas", "ema.other.thing"];
        let all = [names("model."), names("ema."), beside.map(str::to_owned).to_vec()].concat();
        let found = choose(&all, WeightsChoice::Raw, false).unwrap().unwrap();
        assert_eq!(found.tensors.len(), 3);
        // What is no wrapper's stays, to be reported as unexpected.
        let found = choose(&all, WeightsChoice::Ema, false).unwrap().unwrap();
        assert_eq!(found.tensors.last().unwrap().0, "other.thing");
        // torch.optim.swa_utils.AveragedModel.
        let averaged = [names("module."), vec!["n_averaged".to_owned()]].concat();
        assert_eq!(chosen(&averaged, WeightsChoice::Ema).unwrap(), (Weights::Ema, names("")));
    }

    #[test]
    fn an_average_whose_names_lost_their_dots_finds_them_in_the_raw_copy() {
        let raw = names("model.diffusion_model.");
        let ema = raw.iter().map(|n| format!("model_ema.{}", n["model.".len()..].replace('.', "")));
        let all: Vec<String> =
            raw.iter().cloned().chain(ema).chain(["model_ema.decay".to_owned(), "betas".to_owned()]).collect();
        let found = choose(&all, WeightsChoice::Auto, false).unwrap().unwrap();
        let places: Vec<usize> = found.tensors.iter().map(|t| t.1).collect();
        assert_eq!((found.weights, &places[..]), (Weights::Ema, &[3, 4, 5][..]));
        // If one is missing, the average is not used.
        let fewer: Vec<String> =
            all.iter().filter(|n| *n != "model_ema.diffusion_modelconv_inweight").cloned().collect();
        assert_eq!(chosen(&fewer, WeightsChoice::Auto).unwrap().0, Weights::Unspecified);
    }

    #[test]
    fn several_networks_are_refused_by_name() {
        let two = [names("unet_a."), names("unet_b.")].concat();
        let e = chosen(&two, WeightsChoice::Auto).unwrap_err();
        assert!(e.message().starts_with("the file holds several networks (unet_a, unet_b)"), "{e}");
        assert_eq!(choose(&["weight".to_owned(), String::new()], WeightsChoice::Auto, false).unwrap(), None);
        let e = chosen(&names("model."), WeightsChoice::Ema).unwrap_err();
        assert!(e.message().contains("does not say"), "{e}");
    }
}

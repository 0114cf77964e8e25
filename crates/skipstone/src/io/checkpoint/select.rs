//! Takes the network's tensors out of a file, under their own names; see [`names`](super::names).

use std::collections::BTreeMap;
use std::path::Path;

use super::names::{Chosen, choose};
use super::tensors::{Entry, TensorFile};
use super::torch::{Saved, TorchFile};
use super::{Weights, WeightsChoice, unlabelled};
use crate::error::{Error, Kind, Result};

/// The requested weights of a saved object. If it holds no known network, all its tensors.
pub(super) fn from_torch<'a>(
    file: TorchFile<'a>,
    label: &Path,
    choice: WeightsChoice,
) -> Result<(Weights, TensorFile<'a>)> {
    if file.is_optimiser_state() {
        return Err(super::adm::optimiser_state(label));
    }
    let (weights, entries) = find(&file, choice).map_err(|e| e.in_file(label))?;
    if weights == Weights::Raw && choice == WeightsChoice::Auto {
        tracing::warn!("{}: no moving average in this file; taking the raw weights", label.display());
    }
    Ok((weights, file.into_tensors(label, entries)))
}

fn find(file: &TorchFile<'_>, choice: WeightsChoice) -> Result<(Weights, BTreeMap<String, Entry>)> {
    let saved = file.saved()?;
    if saved.names.is_empty() {
        let what = if saved.lists.is_empty() {
            "no state dict: expected a dictionary of tensors or a list of them; of a whole pickled model, save \
             model.state_dict()"
        } else {
            "the moving average has no names; save it together with the model's state dict, or as a model"
        };
        return Err(Error::new(Kind::NotFound, what));
    }
    let entries = |tensors: Vec<(String, usize)>| -> Result<BTreeMap<String, Entry>> {
        let mut entries = BTreeMap::new();
        for (name, place) in tensors {
            let entry = file.entry(saved.tensors[place]).map_err(|e| e.within(&saved.names[place]))?;
            if entries.insert(name.clone(), entry).is_some() {
                return Err(Error::data(format!("{}: there is already a tensor for {name}", saved.names[place])));
            }
        }
        Ok(entries)
    };
    if choice != WeightsChoice::Raw
        && !saved.lists.is_empty()
        && let Some(average) = unnamed_average(file, &saved)?
    {
        return Ok((Weights::Ema, average));
    }
    // An average that does not fit still says that the other copy is none.
    match choose(&saved.names, choice, saved.is_list || !saved.lists.is_empty())? {
        Some(Chosen { weights, tensors }) => Ok((weights, entries(tensors)?)),
        None if choice != WeightsChoice::Auto => Err(unlabelled()),
        None => {
            let all = saved.names.iter().cloned().zip(0..).collect();
            Ok((Weights::Unspecified, entries(all)?))
        }
    }
}

/// The moving average that torch_ema and diffusers' `EMAModel` save as a list, `shadow_params`: the parameters in the
/// order of the model's state dict, without names. `None` if the list does not fit the model beside it.
fn unnamed_average(file: &TorchFile<'_>, saved: &Saved<'_>) -> Result<Option<BTreeMap<String, Entry>>> {
    let Ok(Some(Chosen { tensors, .. })) = choose(&saved.names, WeightsChoice::Auto, false) else { return Ok(None) };
    let fits = |list: &&Vec<_>| {
        let shapes = list.iter().map(|tensor: &&super::pickle::Tensor| &tensor.shape);
        shapes.eq(tensors.iter().map(|&(_, place)| &saved.tensors[place].shape))
    };
    let Some(list) = saved.lists.iter().find(fits) else {
        tracing::warn!("shadow_params does not fit the model beside it; ignoring this moving average");
        return Ok(None);
    };
    let mut entries = BTreeMap::new();
    for ((name, _), tensor) in tensors.into_iter().zip(list) {
        let entry = file.entry(tensor).map_err(|e| e.within(format!("shadow_params, {name}")))?;
        entries.insert(name, entry);
    }
    Ok(Some(entries))
}

/// All tensors of a saved object, under the names in the file.
pub(super) fn all_from_torch<'a>(file: TorchFile<'a>, label: &Path) -> Result<TensorFile<'a>> {
    let all = || -> Result<BTreeMap<String, Entry>> {
        let saved = file.saved()?;
        let named = saved.names.iter().zip(&saved.tensors);
        named.map(|(name, tensor)| Ok((name.clone(), file.entry(tensor).map_err(|e| e.within(name))?))).collect()
    };
    let entries = all().map_err(|e| e.in_file(label))?;
    Ok(file.into_tensors(label, entries))
}

/// As [`from_torch`], of tensors that any other format yielded.
pub(super) fn from_tensors(tensors: TensorFile<'_>, choice: WeightsChoice) -> Result<(Weights, TensorFile<'_>)> {
    let names: Vec<String> = tensors.entries().keys().cloned().collect();
    match choose(&names, choice, false).map_err(|e| e.in_file(&tensors.label))? {
        Some(Chosen { weights, tensors: chosen }) => {
            let chosen = chosen.into_iter().map(|(to, place)| (names[place].clone(), to));
            Ok((weights, tensors.subset(chosen)?))
        }
        None if choice == WeightsChoice::Auto => Ok((Weights::Unspecified, tensors)),
        None => Err(unlabelled().in_file(&tensors.label)),
    }
}

//! Says how the tensors of a file differ from those of an architecture, and why that is likely so.

use std::collections::BTreeMap;

use super::tensors::{Dtype, Entry};
use crate::error::{Error, Result};
use crate::unet::Layout;

/// Names of each kind that are shown.
const SHOWN: usize = 5;

/// What differs: names, and what is to be said of each.
#[derive(Default)]
struct Misfit<'a> {
    missing: Vec<(&'a str, String)>,
    unexpected: Vec<(&'a str, String)>,
    /// Expected and found shape, for tensors that exist.
    shapes: Vec<(&'a str, &'a [usize], &'a [usize])>,
    types: Vec<(&'a str, String)>,
    /// Tensors of the file that fit.
    fitting: usize,
}

/// Checks that `entries` are exactly the tensors of `layout`.
///
/// # Errors
/// Names the first missing, unexpected and mis-shaped tensors, and the likeliest cause.
pub(super) fn check(layout: &Layout, entries: &BTreeMap<String, Entry>) -> Result<()> {
    let mut misfit = Misfit::default();
    for spec in layout.specs() {
        match entries.get(&spec.name) {
            None => misfit.missing.push((&spec.name, format!("expected {:?}", spec.shape))),
            Some(Entry { dtype: Dtype::Other(dtype), .. }) => {
                if is_quantised(dtype) {
                    return Err(Error::unsupported(format!(
                        "{}: {dtype}: weights in 8 bits are not supported; save the model in f16, bf16 or f32",
                        spec.name
                    )));
                }
                misfit.types.push((&spec.name, format!("expected floating-point numbers, found {dtype}")));
            }
            Some(entry) if entry.shape != spec.shape => misfit.shapes.push((&spec.name, &spec.shape, &entry.shape)),
            Some(_) => misfit.fitting += 1,
        }
    }
    for (name, entry) in entries.iter().filter(|(name, _)| layout.get(name).is_none()) {
        misfit.unexpected.push((name, format!("{:?}", entry.shape)));
    }
    misfit.report().map_or(Ok(()), |text| Err(Error::data(text)))
}

/// Whether a type is that of weights in 8 bits.
fn is_quantised(dtype: &str) -> bool {
    let dtype = dtype.to_ascii_lowercase();
    ["f8_", "float8", "i8", "u8", "qint8", "quint8", "charstorage", "bytestorage"]
        .iter()
        .any(|kind| dtype.starts_with(kind))
}

impl Misfit<'_> {
    /// `None` if nothing differs.
    fn report(&self) -> Option<String> {
        let shapes =
            self.shapes.iter().map(|(n, expected, found)| (*n, format!("expected {expected:?}, found {found:?}")));
        let kinds = [
            ("missing", self.missing.clone()),
            ("unexpected", self.unexpected.clone()),
            ("wrong shape", shapes.collect()),
            ("wrong type", self.types.clone()),
        ];
        let count: usize = kinds.iter().map(|(_, tensors)| tensors.len()).sum();
        if count == 0 {
            return None;
        }
        let mut text = match count {
            1 => "a tensor does not fit the architecture".to_owned(),
            n => format!("{n} tensors do not fit the architecture"),
        };
        for (kind, tensors) in kinds.iter().filter(|(_, tensors)| !tensors.is_empty()) {
            text.push_str(&format!("\n  {kind} ({}):", tensors.len()));
            for (name, what) in tensors.iter().take(SHOWN) {
                text.push_str(&format!("\n    {name}: {what}"));
            }
            if tensors.len() > SHOWN {
                text.push_str("\n    …");
            }
        }
        text.push_str("\n  likely cause: ");
        text.push_str(&self.cause());
        Some(text)
    }

    /// The likeliest reason for what differs.
    fn cause(&self) -> String {
        let missing = |part: &str| self.missing.iter().any(|(name, _)| name.contains(part));
        let unexpected = |part: &str| self.unexpected.iter().any(|(name, _)| name.contains(part));
        let shape = |name: &str| self.shapes.iter().find(|shape| shape.0 == name);
        let all_missing = |part: &str| self.missing.iter().all(|(name, _)| name.contains(part));
        let all_unexpected = |part: &str| self.unexpected.iter().all(|(name, _)| name.contains(part));
        if self.fitting == 0 && self.shapes.is_empty() {
            return "the file holds another kind of network, or names that no known wrapper gives".into();
        }
        if let Some((_, expected, found)) = shape("conv_in.weight")
            && expected.len() == 4
            && found.len() == 4
        {
            return if expected[0] != found[0] {
                format!("block_out_channels begins with {}, not {}", found[0], expected[0])
            } else {
                format!("in_channels is {}, not {}", found[1], expected[1])
            };
        }
        if let Some((_, expected, found)) = shape("conv_out.weight")
            && let ([expected, ..], [found, ..]) = (expected, found)
        {
            let learned = if *found == 2 * expected { " (the network also predicts its variance)" } else { "" };
            return format!("out_channels is {found}, not {expected}{learned}");
        }
        if let Some((_, expected, found)) = shape("class_embedding.weight") {
            return format!("num_class_embeds is {:?}, not {:?}", found.first(), expected.first()).replace("Some", "");
        }
        if let Some((_, expected, found)) = self.shapes.iter().find(|(name, ..)| name.contains("time_emb_proj"))
            && let ([expected, ..], [found, ..]) = (expected, found)
            && (*found == 2 * expected || *expected == 2 * found)
        {
            let kind = if found > expected { "scale_shift" } else { "default" };
            return format!("resnet_time_scale_shift is {kind:?}");
        }
        // The range of residual blocks that one side has beyond the other's.
        let layers = |tensors: &[(&str, String)]| {
            let index =
                |name: &str| name.strip_prefix("down_blocks.0.resnets.")?.split('.').next()?.parse::<usize>().ok();
            let indices = || tensors.iter().filter_map(|(name, _)| index(name));
            indices().min().filter(|&first| first > 0).zip(indices().max())
        };
        if let Some((first, last)) = layers(&self.missing) {
            return format!("layers_per_block is {first}, not {}", last + 1);
        }
        if let Some((first, last)) = layers(&self.unexpected) {
            return format!("layers_per_block is {}, not {first}", last + 1);
        }
        if missing("attentions.") || unexpected("attentions.") {
            let (missing, only) = (missing("attentions."), self.shapes.is_empty());
            if only && all_missing("attentions.") && all_unexpected("attentions.") {
                return if missing {
                    "levels that the config gives attention have none (down_block_types, up_block_types, add_attention)"
                } else {
                    "attention at levels where the config has none (down_block_types, up_block_types, add_attention)"
                }
                .into();
            }
        }
        if missing("class_embedding") && self.missing.len() <= 4 && self.unexpected.is_empty() {
            return "the network has no classes, but the config gives it some (num_class_embeds, class_embed_type)"
                .into();
        }
        if unexpected("class_embedding") && self.unexpected.len() <= 4 && self.missing.is_empty() {
            return "the network has classes that the config does not mention (num_class_embeds, class_embed_type)"
                .into();
        }
        if self.unexpected.is_empty() && self.shapes.is_empty() && !self.missing.is_empty() {
            return if self.missing.len() > self.fitting {
                "the file holds only a part of the network, such as one shard or an adapter".into()
            } else {
                "the file is incomplete, or the config has more layers (layers_per_block, block types)".into()
            };
        }
        if self.missing.is_empty() && self.shapes.is_empty() && !self.unexpected.is_empty() {
            return "the file holds more than the network, or the config has fewer layers (layers_per_block, block types)"
                .into();
        }
        if !self.types.is_empty() && self.shapes.is_empty() && self.missing.is_empty() {
            return "the tensors are no weights, or quantised ones".into();
        }
        "the weights belong to another architecture than the config (block_out_channels, block types)".into()
    }
}

#[cfg(test)]
mod tests {
    use super::super::tensors::Region;
    use super::*;

    fn layout(tensors: &[(&str, &[usize])]) -> Layout {
        let mut layout = Layout::default();
        for (name, shape) in tensors {
            layout.push((*name).to_owned(), shape.to_vec()).unwrap();
        }
        layout
    }

    fn entry(dtype: Dtype, shape: &[usize]) -> Entry {
        Entry::new(dtype, shape.to_vec(), None, 0, Region { blob: 0, start: 0, len: 1 << 20, crc32: None }).unwrap()
    }

    fn found(tensors: &[(&str, &[usize])]) -> BTreeMap<String, Entry> {
        tensors.iter().map(|(name, shape)| ((*name).to_owned(), entry(Dtype::F32, shape))).collect()
    }

    #[test]
    fn the_first_of_each_kind_are_named_with_the_likely_cause() {
        let wanted: &[(&str, &[usize])] =
            &[("conv_in.weight", &[2, 3, 3, 3]), ("conv_in.bias", &[2]), ("count", &[1]), ("norm.bias", &[4])];
        let mut file = found(&[("conv_in.weight", &[2, 1, 3, 3]), ("extra", &[3]), ("norm.bias", &[4])]);
        file.insert("count".into(), entry(Dtype::Other("I64".into()), &[1]));
        assert_eq!(
            check(&layout(wanted), &file).unwrap_err().to_string(),
            "4 tensors do not fit the architecture\n  missing (1):\n    conv_in.bias: expected [2]\n  unexpected (1):\n    \
             extra: [3]\n  wrong shape (1):\n    conv_in.weight: expected [2, 3, 3, 3], found [2, 1, 3, 3]\n  wrong type \
             (1):\n    count: expected floating-point numbers, found I64\n  likely cause: in_channels is 1, not 3"
        );
        check(&layout(wanted), &found(wanted)).unwrap();
    }

    #[test]
    fn a_long_list_is_cut_and_counted() {
        let names: Vec<String> = (0..33).map(|i| format!("t{i:02}")).collect();
        let wanted: Vec<(&str, &[usize])> = names.iter().map(|name| (name.as_str(), &[1][..])).collect();
        let text = check(&layout(&wanted), &BTreeMap::new()).unwrap_err().to_string();
        assert!(text.starts_with("33 tensors do not fit the architecture\n  missing (33):\n    t00: expected [1]\n"));
        assert!(text.contains("t04: expected [1]\n    …\n  likely cause: the file holds another kind"), "{text}");
    }

    #[test]
    fn each_likely_cause_is_recognised() {
        let base: &[(&str, &[usize])] = &[("conv_in.weight", &[4, 3, 3, 3]), ("conv_out.weight", &[3, 4, 3, 3])];
        let with = |more: &[(&'static str, &'static [usize])]| [base, more].concat();
        let attention: &[(&str, &[usize])] = &[("mid_block.attentions.0.to_q.weight", &[4, 4])];
        let classes: &[(&str, &[usize])] = &[("class_embedding.weight", &[10, 16])];
        let second: &[(&str, &[usize])] = &[("down_blocks.0.resnets.1.conv1.bias", &[4])];
        let resnet: &[(&str, &[usize])] = &[("down_blocks.0.resnets.0.time_emb_proj.weight", &[4, 16])];
        for (wanted, file, cause) in [
            (with(&[]), vec![("conv_in.weight", &[4, 3, 3, 3][..]), ("conv_out.weight", &[6, 4, 3, 3])], "variance"),
            (
                with(&[]),
                vec![("conv_in.weight", &[8, 3, 3, 3][..]), ("conv_out.weight", &[3, 8, 3, 3])],
                "begins with 8",
            ),
            (with(attention), with(&[]), "levels that the config gives attention have none"),
            (with(&[]), with(attention), "attention at levels where the config has none"),
            (with(classes), with(&[]), "no classes"),
            (with(&[]), with(classes), "classes that the config does not mention"),
            (with(classes), with(&[("class_embedding.weight", &[11, 16])]), "num_class_embeds is (11), not (10)"),
            (with(resnet), with(&[("down_blocks.0.resnets.0.time_emb_proj.weight", &[8, 16])]), "\"scale_shift\""),
            (with(second), with(&[]), "layers_per_block is 1, not 2"),
            (with(&[]), with(second), "layers_per_block is 2, not 1"),
            (with(resnet), with(&[]), "incomplete"),
            (with(&[]), with(resnet), "more than the network"),
            (with(resnet), with(&[("up_blocks.0.upsamplers.0.conv.weight", &[4, 4, 3, 3])]), "another architecture"),
        ] {
            let e = check(&layout(&wanted), &found(&file)).unwrap_err();
            assert!(e.message().rsplit_once("likely cause: ").unwrap().1.contains(cause), "{cause}: {e}");
        }
    }

    #[test]
    fn weights_in_8_bits_are_refused_in_one_line() {
        for dtype in ["F8_E4M3", "F8_E5M2", "float8_e4m3fn", "I8", "QInt8Storage", "CharStorage"] {
            let file = BTreeMap::from([("w".to_owned(), entry(Dtype::Other(dtype.into()), &[1]))]);
            let e = check(&layout(&[("w", &[1]), ("x", &[1])]), &file).unwrap_err();
            assert_eq!(
                e.message(),
                format!("w: {dtype}: weights in 8 bits are not supported; save the model in f16, bf16 or f32")
            );
        }
    }
}

//! The flags of the two projects' scripts, which hold what a checkpoint does not.

use std::str::FromStr;

use super::structure::Structure;
use crate::error::{Error, Result};
use crate::math::schedule::BetaSchedule;

/// The flags of a model and of its diffusion process, as the scripts of guided-diffusion and improved-diffusion take
/// them. `None` where a flag is not given.
///
/// ```
/// use skipstone::io::checkpoint::AdmFlags;
/// let flags: AdmFlags = "--image_size 64 --num_heads 4 --learn_sigma True --batch_size 4".parse()?;
/// assert_eq!((flags.image_size, flags.learn_sigma), (Some(64), Some(true)));
/// assert_eq!(flags.ignored, ["batch_size"]);
/// let flags: AdmFlags = "256x256_diffusion_uncond".parse()?;
/// assert_eq!((flags.image_size, flags.num_head_channels), (Some(256), Some(64)));
/// # Ok::<(), skipstone::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
pub struct AdmFlags {
    /// Height and width of the images.
    pub image_size: Option<usize>,
    /// Channels of the first level.
    pub num_channels: Option<usize>,
    /// Residual blocks per level.
    pub num_res_blocks: Option<usize>,
    /// Heads of each attention layer, where `num_head_channels` is not given.
    pub num_heads: Option<usize>,
    /// Heads of each attention layer on the way up.
    pub num_heads_upsample: Option<usize>,
    /// Channels of a head.
    pub num_head_channels: Option<usize>,
    /// Image sizes at which there is attention.
    pub attention_resolutions: Option<Vec<usize>>,
    /// Channels of each level as multiples of `num_channels`.
    pub channel_mult: Option<Vec<f64>>,
    /// Dropout in training.
    pub dropout: Option<f64>,
    /// Whether the network learns its variance.
    pub learn_sigma: Option<bool>,
    /// Whether the network takes a class.
    pub class_cond: Option<bool>,
    /// Whether the time embedding scales and shifts.
    pub use_scale_shift_norm: Option<bool>,
    /// Whether residual blocks resample.
    pub resblock_updown: Option<bool>,
    /// Whether the queries of all heads come first in the attention's weights.
    pub use_new_attention_order: Option<bool>,
    /// Whether the network predicts x₀.
    pub predict_xstart: Option<bool>,
    /// Whether the network is asked at times of 0 to 1000, whatever T is.
    pub rescale_timesteps: Option<bool>,
    /// Whether the variance that is not learned is the posterior's.
    pub sigma_small: Option<bool>,
    /// T.
    pub diffusion_steps: Option<usize>,
    /// The noise schedule.
    pub noise_schedule: Option<BetaSchedule>,
    /// The names of flags that do not concern the conversion.
    pub ignored: Vec<String>,
}

/// A published checkpoint and the flags that its project's README gives for it.
#[derive(Clone, Copy, Debug)]
pub struct Published {
    /// The file's name without `.pt`.
    pub name: &'static str,
    flags: &'static str,
}

const IMAGENET_256: &str = "--attention_resolutions 32,16,8 --class_cond True --diffusion_steps 1000 --image_size 256 \
    --learn_sigma True --noise_schedule linear --num_channels 256 --num_head_channels 64 --num_res_blocks 2 \
    --resblock_updown True --use_fp16 True --use_scale_shift_norm True";
const LSUN_256: &str = "--attention_resolutions 32,16,8 --class_cond False --diffusion_steps 1000 --dropout 0.1 \
    --image_size 256 --learn_sigma True --noise_schedule linear --num_channels 256 --num_head_channels 64 \
    --num_res_blocks 2 --resblock_updown True --use_fp16 True --use_scale_shift_norm True";
const IMPROVED_IMAGENET_64: &str = "--image_size 64 --num_channels 128 --num_res_blocks 3 --learn_sigma True \
    --diffusion_steps 4000 --noise_schedule cosine";
const IMPROVED_CIFAR10: &str = "--image_size 32 --num_channels 128 --num_res_blocks 3 --learn_sigma True --dropout 0.3 \
    --diffusion_steps 4000 --noise_schedule cosine";
const IMPROVED_LSUN: &str = "--image_size 256 --num_channels 128 --num_res_blocks 2 --num_heads 1 --learn_sigma True \
    --use_scale_shift_norm False --attention_resolutions 16 --diffusion_steps 1000 --noise_schedule linear \
    --rescale_learned_sigmas False --rescale_timesteps False";
/// What the READMEs of improved-diffusion leave to its scripts' defaults.
const IMPROVED_DEFAULTS: &str = "--num_heads 4 --rescale_timesteps True";
/// The README of guided-diffusion also shows the 128×128 model without its schedule.
const SHORT_128: &str = "--attention_resolutions 32,16,8 --class_cond True --image_size 128 --learn_sigma True \
    --num_channels 256 --num_heads 4 --num_res_blocks 2 --resblock_updown True --use_fp16 True --use_scale_shift_norm True";
/// What that line leaves to the scripts' defaults.
const GUIDED_DEFAULTS: &str = "--diffusion_steps 1000 --noise_schedule linear --rescale_timesteps False";

impl Published {
    /// Every published diffusion model, from the READMEs of guided-diffusion and improved-diffusion. Upsamplers and
    /// classifiers are other networks.
    pub const ALL: [Self; 15] = [
        Self::new(
            "64x64_diffusion",
            "--attention_resolutions 32,16,8 --class_cond True --diffusion_steps 1000 --dropout 0.1 --image_size 64 \
             --learn_sigma True --noise_schedule cosine --num_channels 192 --num_head_channels 64 --num_res_blocks 3 \
             --resblock_updown True --use_new_attention_order True --use_fp16 True --use_scale_shift_norm True",
        ),
        Self::new(
            "128x128_diffusion",
            "--attention_resolutions 32,16,8 --class_cond True --diffusion_steps 1000 --image_size 128 --learn_sigma True \
             --noise_schedule linear --num_channels 256 --num_heads 4 --num_res_blocks 2 --resblock_updown True \
             --use_fp16 True --use_scale_shift_norm True",
        ),
        Self::new("256x256_diffusion", IMAGENET_256),
        Self::new(
            "256x256_diffusion_uncond",
            "--attention_resolutions 32,16,8 --class_cond False --diffusion_steps 1000 --image_size 256 \
             --learn_sigma True --noise_schedule linear --num_channels 256 --num_head_channels 64 --num_res_blocks 2 \
             --resblock_updown True --use_fp16 True --use_scale_shift_norm True",
        ),
        Self::new("lsun_bedroom", LSUN_256),
        Self::new("lsun_cat", LSUN_256),
        Self::new("lsun_horse", LSUN_256),
        Self::new(
            "lsun_horse_nodropout",
            "--attention_resolutions 32,16,8 --class_cond False --diffusion_steps 1000 --dropout 0.0 --image_size 256 \
             --learn_sigma True --noise_schedule linear --num_channels 256 --num_head_channels 64 --num_res_blocks 2 \
             --resblock_updown True --use_fp16 True --use_scale_shift_norm True",
        ),
        Self::new("imagenet64_uncond_100M_1500K", IMPROVED_IMAGENET_64),
        Self::new("imagenet64_uncond_vlb_100M_1500K", IMPROVED_IMAGENET_64),
        Self::new(
            "imagenet64_cond_270M_250K",
            "--image_size 64 --num_channels 192 --num_res_blocks 3 --learn_sigma True --class_cond True \
             --diffusion_steps 4000 --noise_schedule cosine --rescale_learned_sigmas False --rescale_timesteps False",
        ),
        Self::new("cifar10_uncond_50M_500K", IMPROVED_CIFAR10),
        Self::new("cifar10_uncond_vlb_50M_500K", IMPROVED_CIFAR10),
        Self::new("lsun_uncond_100M_1200K_bs128", IMPROVED_LSUN),
        Self::new("lsun_uncond_100M_2400K_bs64", IMPROVED_LSUN),
    ];

    const fn new(name: &'static str, flags: &'static str) -> Self {
        Self { name, flags }
    }

    /// The flags, completed by the defaults of the project's scripts where its README relies on them.
    fn resolve(self) -> Result<AdmFlags> {
        let given = AdmFlags::read(self.flags)?;
        let improved = given.diffusion_steps == Some(4000) || given.num_heads == Some(1);
        // Later flags win, as in the scripts.
        AdmFlags::read(&format!("{} {}", if improved { IMPROVED_DEFAULTS } else { GUIDED_DEFAULTS }, self.flags))
    }
}

/// Flags that do not change what a checkpoint computes.
const HARMLESS: [&str; 42] = [
    "anneal_lr",
    "base_name",
    "base_samples",
    "batch_size",
    "classifier_attention_resolutions",
    "classifier_depth",
    "classifier_path",
    "classifier_pool",
    "classifier_resblock_updown",
    "classifier_scale",
    "classifier_use_fp16",
    "classifier_use_scale_shift_norm",
    "classifier_width",
    "clip_denoised",
    "data_dir",
    "ema_rate",
    "eval_interval",
    "fp16_scale_growth",
    "iterations",
    "log_interval",
    "lr",
    "lr_anneal_steps",
    "microbatch",
    "model_path",
    "noised",
    "num_samples",
    "num_workers",
    "random_crop",
    "random_flip",
    "resume_checkpoint",
    "rescale_learned_sigmas",
    "save_interval",
    "schedule_sampler",
    "seed",
    "timestep_respacing",
    "use_checkpoint",
    "use_ddim",
    "use_fp16",
    "use_kl",
    "val_data_dir",
    "verbose",
    "weight_decay",
];

/// The flags that are read.
const KNOWN: [&str; 19] = [
    "image_size",
    "num_channels",
    "num_res_blocks",
    "num_heads",
    "num_heads_upsample",
    "num_head_channels",
    "attention_resolutions",
    "channel_mult",
    "dropout",
    "learn_sigma",
    "class_cond",
    "use_scale_shift_norm",
    "resblock_updown",
    "use_new_attention_order",
    "predict_xstart",
    "rescale_timesteps",
    "sigma_small",
    "diffusion_steps",
    "noise_schedule",
];

impl FromStr for AdmFlags {
    type Err = Error;

    /// Flags as on the scripts' command line, `--key value` or `--key=value`, or the name of a published file.
    fn from_str(text: &str) -> Result<Self> {
        let text = text.trim();
        if !text.starts_with("--") {
            let name = text.strip_suffix(".pt").unwrap_or(text);
            if let Some(published) = Published::ALL.into_iter().find(|published| published.name == name) {
                return published.resolve();
            }
            let names = Published::ALL.map(|published| published.name).join(", ");
            return Err(Error::argument(format!(
                "flags: \"{text}\" is neither a list of flags such as \"--image_size 256 --num_heads 4\" nor the name of a \
                 supported published model: {names}"
            )));
        }
        let given = Self::read(text)?;
        // The lines of the READMEs leave values to the scripts' defaults, which differ between the projects.
        for published in Published::ALL.into_iter().chain([Published::new("128x128_diffusion", SHORT_128)]) {
            let known = Self::read(published.flags)?;
            if (Self { ignored: Vec::new(), ..known }) == (Self { ignored: Vec::new(), ..given.clone() }) {
                return Ok(Self { ignored: given.ignored, ..published.resolve()? });
            }
        }
        Ok(given)
    }
}

impl AdmFlags {
    fn read(text: &str) -> Result<Self> {
        let mut flags = Self::default();
        let mut unknown = Vec::new();
        let mut words = text.split_whitespace().peekable();
        while let Some(word) = words.next() {
            let Some(flag) = word.strip_prefix("--") else {
                return Err(Error::argument(format!("flags: expected a flag such as --image_size, found \"{word}\"")));
            };
            let (name, value) = match flag.split_once('=') {
                Some((name, value)) => (name, Some(value)),
                None => (flag, words.next_if(|next| !next.starts_with("--"))),
            };
            if HARMLESS.contains(&name) {
                if !flags.ignored.iter().any(|ignored| ignored == name) {
                    flags.ignored.push(name.to_owned());
                }
            } else if KNOWN.contains(&name) {
                let value = value.ok_or_else(|| Error::argument(format!("flags: --{name} needs a value")))?;
                flags.set(name, value).map_err(|expected| {
                    Error::argument(format!("flags: --{name}: expected {expected}, found \"{value}\""))
                })?;
            } else {
                let nearest = KNOWN.into_iter().min_by_key(|known| strsim::damerau_levenshtein(known, name));
                unknown.push(format!("--{name} (nearest: --{})", nearest.unwrap_or_default()));
            }
        }
        if !unknown.is_empty() {
            return Err(Error::argument(format!("flags: unknown: {}", unknown.join(", "))));
        }
        Ok(flags)
    }

    /// Sets one of [`KNOWN`]. The error says what its value should be.
    fn set(&mut self, name: &str, value: &str) -> Result<(), &'static str> {
        match name {
            "image_size" => self.image_size = Some(whole(value)?),
            "num_channels" => self.num_channels = Some(whole(value)?),
            "num_res_blocks" => self.num_res_blocks = Some(whole(value)?),
            // −1 is their "not given".
            "num_heads" => self.num_heads = Some(whole(value)?),
            "num_heads_upsample" => self.num_heads_upsample = or_unset(value)?,
            "num_head_channels" => self.num_head_channels = or_unset(value)?,
            "attention_resolutions" => {
                self.attention_resolutions = Some(value.split(',').map(whole).collect::<Result<_, _>>()?)
            }
            "channel_mult" => self.channel_mult = multiples(value)?,
            "dropout" => {
                let dropout = value.parse().ok().filter(|p| (0.0..1.0).contains(p));
                self.dropout = Some(dropout.ok_or("a probability below 1")?);
            }
            "learn_sigma" => self.learn_sigma = Some(truth(value)?),
            "class_cond" => self.class_cond = Some(truth(value)?),
            "use_scale_shift_norm" => self.use_scale_shift_norm = Some(truth(value)?),
            "resblock_updown" => self.resblock_updown = Some(truth(value)?),
            "use_new_attention_order" => self.use_new_attention_order = Some(truth(value)?),
            "predict_xstart" => self.predict_xstart = Some(truth(value)?),
            "rescale_timesteps" => self.rescale_timesteps = Some(truth(value)?),
            "sigma_small" => self.sigma_small = Some(truth(value)?),
            "diffusion_steps" => self.diffusion_steps = Some(whole(value)?),
            "noise_schedule" => {
                self.noise_schedule = Some(match value {
                    "linear" => BetaSchedule::Linear,
                    "cosine" => BetaSchedule::SquaredCosCapV2,
                    _ => return Err("linear or cosine"),
                });
            }
            _ => unreachable!("{name} is in the list of known flags"),
        }
        Ok(())
    }

    /// Every flag that says something else than the tensors.
    pub(super) fn contradictions(&self, found: &Structure) -> Vec<String> {
        let mut problems = Vec::new();
        let mut compare = |name: &str, given: Option<String>, found: String| {
            if let Some(given) = given.filter(|given| *given != found) {
                problems.push(format!("--{name} {given}: the tensors say {found}"));
            }
        };
        let python = |truth: bool| if truth { "True" } else { "False" }.to_owned();
        let number = |number: Option<usize>| number.map(|n| n.to_string());
        compare("num_channels", number(self.num_channels), found.model_channels.to_string());
        compare("num_res_blocks", number(self.num_res_blocks), found.layers.to_string());
        compare("learn_sigma", self.learn_sigma.map(python), python(found.out_channels == 2 * found.in_channels));
        compare("class_cond", self.class_cond.map(python), python(found.classes.is_some()));
        compare("use_scale_shift_norm", self.use_scale_shift_norm.map(python), python(found.scale_shift));
        if found.channels.len() > 1 {
            compare("resblock_updown", self.resblock_updown.map(python), python(found.resample_resnet));
        }
        let list = |list: &[f64]| list.iter().map(f64::to_string).collect::<Vec<_>>().join(",");
        let multiples: Vec<f64> =
            found.channels.iter().map(|&channels| channels as f64 / found.model_channels as f64).collect();
        compare("channel_mult", self.channel_mult.as_deref().map(list), list(&multiples));
        if let (Some(size), Some(resolutions)) = (self.image_size, &self.attention_resolutions) {
            let factors: Vec<usize> = resolutions.iter().filter_map(|&side| size.checked_div(side)).collect();
            let attends: Vec<bool> = (0..found.attention.len()).map(|level| factors.contains(&(1 << level))).collect();
            if attends != found.attention {
                let sides = (0..found.attention.len()).filter(|&level| found.attention[level]);
                let sides: Vec<String> = sides.map(|level| (size >> level).to_string()).collect();
                let given: Vec<String> = resolutions.iter().map(usize::to_string).collect();
                problems.push(format!(
                    "--attention_resolutions {} --image_size {size}: the tensors have attention at {}",
                    given.join(","),
                    if sides.is_empty() { "no size".to_owned() } else { sides.join(",") }
                ));
            }
        }
        if let Some(up) = self.num_heads_upsample.filter(|&up| self.num_heads.is_some_and(|heads| heads != up)) {
            problems.push(format!("--num_heads_upsample {up}: other than --num_heads; this is not supported"));
        }
        problems
    }

    /// Every flag that is needed and not given.
    pub(super) fn missing(&self, found: &Structure, size: Option<[usize; 2]>) -> Vec<String> {
        let attends = found.middle_attention || found.attention.contains(&true);
        let heads = self.num_heads.is_some() || self.num_head_channels.is_some();
        let rescales = self.rescale_timesteps.is_some() || matches!(self.diffusion_steps, None | Some(1000));
        [
            (size.is_some(), "--image_size"),
            (heads || !attends, "--num_heads or --num_head_channels (the scripts' default: --num_heads 4)"),
            (self.diffusion_steps.is_some(), "--diffusion_steps (the scripts' default: 1000)"),
            (self.noise_schedule.is_some(), "--noise_schedule (the scripts' default: linear)"),
            (rescales, "--rescale_timesteps (the default is True in improved-diffusion and False in guided-diffusion)"),
        ]
        .into_iter()
        .filter(|(known, _)| !known)
        .map(|(_, flag)| flag.to_owned())
        .collect()
    }
}

fn whole(text: &str) -> Result<usize, &'static str> {
    text.trim().parse().ok().filter(|n| (1..=1_000_000).contains(n)).ok_or("a whole number of 1 to 1000000")
}

fn or_unset(text: &str) -> Result<Option<usize>, &'static str> {
    if text == "-1" { Ok(None) } else { whole(text).map(Some) }
}

/// The values that their `str2bool` takes.
fn truth(text: &str) -> Result<bool, &'static str> {
    match text.to_ascii_lowercase().as_str() {
        "yes" | "true" | "t" | "y" | "1" => Ok(true),
        "no" | "false" | "f" | "n" | "0" => Ok(false),
        _ => Err("True or False"),
    }
}

fn multiples(text: &str) -> Result<Option<Vec<f64>>, &'static str> {
    // An empty text, perhaps in quotes, is their "not given".
    let text = text.trim_matches(['"', '\'']);
    if text.is_empty() {
        return Ok(None);
    }
    let number = |text: &str| text.trim().parse().ok().filter(|n: &f64| n.is_finite() && *n > 0.0);
    text.split(',').map(number).collect::<Option<Vec<_>>>().map(Some).ok_or("positive numbers between commas")
}

//! The networks `golden/values/unet_*` as the library's types.

#![allow(dead_code)]

use std::collections::HashMap;
use std::sync::Arc;

use ndarray::{Array4, Axis};
use skipstone::engine::cpu::UNet;
use skipstone::io::checkpoint::config_from_json;
use skipstone::math::schedule::Time;
use skipstone::sampling::denoiser::{Condition, Denoiser, Prediction};
use skipstone::unet::{Config, Layout, Parameters, layout};

use super::Tensor;

/// All networks; `golden/README.md` states the purpose of each.
pub const NAMES: [&str; 15] = [
    "cifar",
    "rectangular",
    "heads",
    "scale_shift",
    "attn_groups",
    "no_attention",
    "mid_scale",
    "classes",
    "resnet_sampling",
    "resnet_scale_shift",
    "learned_time",
    "no_middle",
    "mish",
    "relu",
    "gray28",
];

/// A network with its inputs and PyTorch's outputs.
pub struct Network {
    pub name: &'static str,
    pub config: Config,
    pub layout: Arc<Layout>,
    pub parameters: Parameters,
    pub tensors: HashMap<String, Tensor>,
}

impl Network {
    /// Reads `unet_<name>`. Panics unless its weights are exactly those of the layout.
    pub fn read(name: &'static str) -> Self {
        let json = String::from_utf8(super::bytes(&format!("unet_{name}/config.json"))).expect("UTF-8");
        let config = config_from_json(&json, None).unwrap_or_else(|error| panic!("{name}: {error}"));
        let layout = Arc::new(layout(&config).unwrap_or_else(|error| panic!("{name}: {error}")));
        let mut tensors = super::tensors(&format!("unet_{name}/tensors.safetensors"));
        let mut data = Vec::with_capacity(layout.len());
        for spec in layout.specs() {
            let tensor = tensors
                .remove(&format!("weight/{}", spec.name))
                .unwrap_or_else(|| panic!("{name}: PyTorch's network has no {}", spec.name));
            assert_eq!(tensor.shape, spec.shape, "{name}: {}", spec.name);
            data.extend(tensor.f32());
        }
        let left: Vec<&String> = tensors.keys().filter(|key| key.starts_with("weight/")).collect();
        assert!(left.is_empty(), "{name}: our network lacks {left:?}");
        let parameters = Parameters::new(layout.clone(), data).expect("as long as the layout");
        Self { name, config, layout, parameters, tensors }
    }

    pub fn unet(&self, prediction: Prediction) -> UNet {
        UNet::new(self.config.clone(), self.parameters.clone(), prediction).expect("its own parameters")
    }

    pub fn images(&self, key: &str) -> Array4<f32> {
        self.tensors[key].images()
    }

    /// The time of each image.
    pub fn times(&self) -> Vec<Time> {
        self.tensors["t"].values.iter().map(|&t| Time::from_index(t as u32)).collect()
    }

    /// The condition of each image; none for an unconditional network.
    pub fn conditions(&self) -> Vec<Condition> {
        let labels = self.tensors.get("labels").map_or(&[][..], |labels| &labels.values);
        labels.iter().map(|&label| Condition::Class(label as usize)).collect()
    }

    /// Whatever its neighbours, an image gives the same bytes: `unet`, which computes this network, is asked for both images
    /// together, apart, and in every position of an odd batch.
    pub fn assert_images_do_not_depend_on_the_batch<D: Denoiser + ?Sized>(&self, unet: &D) {
        let (x, times, conditions) = (self.images("x"), self.times(), self.conditions());
        let predict = |order: &[usize]| {
            let times: Vec<Time> = order.iter().map(|&i| times[i]).collect();
            let conditions: Vec<Condition> = order.iter().filter_map(|&i| conditions.get(i).copied()).collect();
            unet.predict(&x.select(Axis(0), order), &times, &conditions).expect("its own images")
        };
        let together = predict(&[0, 1]);
        for order in [&[0][..], &[1], &[0, 1, 1, 0, 1]] {
            let found = predict(order);
            for (place, &i) in order.iter().enumerate() {
                let [found, expected] = [(&found, place), (&together, i)].map(|(y, i)| bits(y.index_axis(Axis(0), i)));
                assert_eq!(found, expected, "{}: image {i} at place {place} of {order:?}", self.name);
            }
        }
    }
}

/// The bits of the values, so that equality is exact (also for NaN).
pub fn bits<'a>(values: impl IntoIterator<Item = &'a f32>) -> Vec<u32> {
    values.into_iter().map(|v| v.to_bits()).collect()
}

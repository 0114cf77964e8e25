use std::fmt;
use std::sync::Arc;

use super::{Model, process_hash};
use crate::engine::{Cost, EngineOptions};
use crate::error::{Error, Result};
use crate::sampling::denoiser::Denoiser;
use crate::unet::{Config, TimeEmbedding};

/// A network that several owners share.
type Shared = Arc<dyn Denoiser + Send + Sync>;

/// A weaker model that guides another one: [`Autoguided`](crate::sampling::denoiser::Autoguided).
#[derive(Clone)]
pub struct Guide {
    /// The model, without a guide of its own.
    model: Box<Model>,
    /// Its network, once it is open, with its cost.
    network: Option<(Shared, Cost)>,
}

impl Guide {
    /// A guide whose network opens with the model that it guides.
    pub fn new(model: Model) -> Self {
        Self { model: Box::new(Model { guide: None, ..model }), network: None }
    }

    /// A guide over an open network of `model`, for example a shared one.
    pub fn over(model: &Model, network: Shared, cost: Cost) -> Self {
        Self { network: Some((network, cost)), ..Self::new(model.clone()) }
    }

    /// SHA-256 of the guide: [`Model::hash`].
    pub fn hash(&self) -> &str {
        &self.model.hash
    }

    /// SHA-256 of the process that it was trained on: [`process_hash`].
    ///
    /// # Errors
    /// Its schedule is invalid.
    pub fn process(&self) -> Result<String> {
        let scheduler = &self.model.scheduler;
        Ok(process_hash(scheduler.prediction_type, &scheduler.schedule()?))
    }

    /// Whether it knows its trained timesteps only, and none between them.
    pub(crate) fn needs_whole_times(&self) -> bool {
        matches!(self.model.config.time_embedding, TimeEmbedding::Learned { .. })
    }

    pub(super) fn open(&mut self, options: &EngineOptions) -> Result<()> {
        if self.network.is_none() {
            let network = self.model.open(options).map_err(|error| error.within("guide"))?;
            let cost = network.cost();
            self.network = Some((Arc::from(network as Box<dyn Denoiser + Send + Sync>), cost));
        }
        Ok(())
    }

    /// The open network and its cost.
    ///
    /// # Errors
    /// Nobody has opened it.
    pub(crate) fn network(&self) -> Result<(Shared, Cost)> {
        self.network.clone().ok_or_else(|| Error::argument("guide: its network is not open; call Model::open"))
    }

    /// Refuses a guide that cannot be asked about the same noisy images as `model`.
    fn check(&self, model: &Model) -> Result<()> {
        let wrong = |what: &str, expected: String, found: String| {
            Err(Error::argument(format!("guide: expected {what} {expected}, as of the model, found {found}")))
        };
        let images = |config: &Config| {
            let [height, width] = config.sample_size;
            format!("[{}, {height}, {width}]", config.in_channels)
        };
        let (own, other) = (&self.model.config, &model.config);
        if images(own) != images(other) {
            return wrong("images of the shape", images(other), images(own));
        }
        let classes = |model: &Model| match (model.config.num_class_embeds, model.null_class) {
            (None, _) => "none".to_owned(),
            (Some(all), None) => all.to_string(),
            (Some(all), Some(null)) => format!("{all}, where {null} is no class"),
        };
        if classes(&self.model) != classes(model) {
            return wrong("the classes", classes(model), classes(&self.model));
        }
        let (own, other) = (self.model.scheduler.schedule()?, model.scheduler.schedule()?);
        if own.betas() != other.betas() {
            return Err(Error::argument(format!(
                "guide: its noise schedule is another one than the model's ({} and {} timesteps); both must have learnt the \
                 same noise at the same timestep",
                own.train_steps(),
                other.train_steps()
            )));
        }
        own.check_prediction(self.model.scheduler.prediction_type).map_err(|error| error.within("guide"))
    }
}

impl fmt::Debug for Guide {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Guide").field("model", &self.model).finish_non_exhaustive()
    }
}

impl Model {
    /// This model with a weaker one that guides it. Sampling with a guidance weight then extrapolates away from the guide's
    /// prediction: [`Autoguided`](crate::sampling::denoiser::Autoguided).
    ///
    /// The two may differ in architecture and prediction type.
    ///
    /// # Errors
    /// The guide has images of another shape, other classes, or another noise schedule.
    pub fn guided_by(self, guide: Guide) -> Result<Self> {
        guide.check(&self)?;
        Ok(Self { guide: Some(guide), ..self })
    }
}

//! From a request to work that can be queued.

use ndarray::{Array4, Axis, concatenate};

use super::context::Context;
use crate::api::{ApiRequest, RequestKind};
use crate::core::{Cancel, Failure, ServedModel, Work};
use crate::service::Service;

/// A kind of request that becomes work.
pub trait WorkKind: RequestKind {
    /// Checks a request. `images` are the uploaded images or the test image.
    ///
    /// # Errors
    /// The request is beyond the limits, or not valid for the model.
    fn check(request: ApiRequest<Self>, context: Context, images: Option<SourceImages>) -> Result<Work, Failure>;
}

/// The images that a request is about.
#[derive(Clone, Debug)]
pub struct SourceImages {
    /// `[n, c, h, w]`, at the model's size.
    pub x0: Array4<f32>,
    /// The names of their files in a command.
    pub files: Vec<String>,
}

impl SourceImages {
    /// The images of a request that needs them.
    pub(super) fn required(images: Option<Self>) -> Result<Self, Failure> {
        images.ok_or_else(|| Failure::Internal("a request about an image came without one".to_owned()))
    }

    /// Decodes uploaded files or a test image; `None` if there is neither.
    async fn load(
        service: &Service,
        model: &ServedModel,
        uploads: Vec<Vec<u8>>,
        test_image: Option<usize>,
    ) -> Result<Option<Self>, Failure> {
        let files = match (uploads.len(), test_image) {
            (0, None) => return Ok(None),
            (0, Some(k)) => {
                let x0 = service.images.test_image(k, model).await?;
                return Ok(Some(Self { x0, files: vec![format!("test-{k}.png")] }));
            }
            (1, _) => vec!["image.png".to_owned()],
            (_, _) => ('a'..='z').zip(&uploads).map(|(letter, _)| format!("{letter}.png")).collect(),
        };
        let mut images = Vec::with_capacity(uploads.len());
        for upload in uploads {
            images.push(service.images.decode(upload, model).await?);
        }
        let views: Vec<_> = images.iter().map(|image| image.view()).collect();
        let x0 = concatenate(Axis(0), &views).map_err(|e| Failure::Internal(e.to_string()))?;
        Ok(Some(Self { x0, files }))
    }
}

/// Checks a request and the image files that it uploads.
///
/// # Errors
/// The model or test image is unknown, a file is not an image, [`WorkKind::check`] refuses the request, or too many
/// requests wait to be checked.
pub async fn prepare<K: WorkKind>(
    service: &Service,
    mut request: ApiRequest<K>,
    uploads: Vec<Vec<u8>>,
) -> Result<Work, Failure> {
    let model = service.model(request.model.as_deref())?;
    let images = SourceImages::load(service, &model, uploads, request.test_image).await?;
    let guide = request.options.guide.as_deref().map(|id| service.named("guide", id)).transpose()?;
    request.options.precision = model.check_precision(request.precision)?;
    let context = Context { model, guide, limits: service.limits, cancel: Cancel::new() };
    service.check(move || K::check(request, context, images)).await
}

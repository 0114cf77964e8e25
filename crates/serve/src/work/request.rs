//! From a request to work that can be queued.

use std::sync::Arc;

use ndarray::{Array4, Axis, concatenate};

use super::context::Context;
use crate::api::Asked;
use crate::core::{Cancel, Failure, ServedModel, Work};
use crate::service::Service;

/// A kind of request. Every route that takes it goes through [`prepare`].
pub trait WorkRequest: Asked {
    /// The work that it asks for.
    type Work: Work + 'static;

    /// The model's id, where the request names one.
    fn model(&self) -> Option<&str>;

    /// The test image that the request is about, unless it brings images.
    fn test_image(&self) -> Option<usize> {
        None
    }

    /// Checks the request; `images` are those it brings, or the test image.
    ///
    /// # Errors
    /// What is beyond the limits, or not valid for the model.
    fn check(self, context: Context, images: Option<SourceImages>) -> Result<Self::Work, Failure>;
}

/// Images that a request is about.
#[derive(Clone, Debug)]
pub struct SourceImages {
    /// `[n, c, h, w]`, as the model sees them.
    pub x0: Array4<f32>,
    /// The names of their files in a command.
    pub files: Vec<String>,
}

impl SourceImages {
    /// The images of a request that cannot do without.
    pub(super) fn required(images: Option<Self>) -> Result<Self, Failure> {
        images.ok_or_else(|| Failure::Internal("a request about an image came without one".to_owned()))
    }

    /// Decodes uploaded files, or a test image; `None` where there is neither.
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

/// Work that has been checked, and what it takes to queue it.
pub struct Prepared<W> {
    /// The model that does it.
    pub model: Arc<ServedModel>,
    /// The work.
    pub work: W,
    /// Ends the work.
    pub cancel: Cancel,
}

impl<W: Work + 'static> Prepared<W> {
    /// The same, whatever the kind of work.
    pub fn boxed(self) -> Prepared<Box<dyn Work>> {
        Prepared { model: self.model, work: Box::new(self.work), cancel: self.cancel }
    }
}

/// Checks a request and the image files it brings.
///
/// # Errors
/// An unknown model or test image; a file that is no image; what [`WorkRequest::check`] refuses; too many such requests.
pub async fn prepare<R: WorkRequest>(
    service: &Service,
    request: R,
    uploads: Vec<Vec<u8>>,
) -> Result<Prepared<R::Work>, Failure> {
    let (model, cancel) = (service.model(request.model())?, Cancel::new());
    let images = SourceImages::load(service, &model, uploads, request.test_image()).await?;
    let context = Context { model: model.clone(), limits: service.limits, cancel: cancel.clone() };
    let work = service.check(move || request.check(context, images)).await?;
    Ok(Prepared { model, work, cancel })
}

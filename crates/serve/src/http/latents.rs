//! `/v1/encode`, `/v1/reconstruct`, `/v1/interpolate`: images and the latents they come from.

use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use ndarray::{Array4, Axis, concatenate};

use super::answer::{Accepted, Way, respond};
use super::error::{ApiError, ErrorBody};
use super::upload::{Brought, Form};
use crate::api::{
    Asked, EncodeForm, EncodeRequest, Encoded, InterpolateForm, InterpolateRequest, Interpolation, ReconstructForm,
    ReconstructRequest, Reconstruction,
};
use crate::core::{Cancel, Failure, Served};
use crate::limits::Limits;
use crate::service::{App, Service};
use crate::work::{EncodeWork, Ends, InterpolateWork, ReconstructWork, Work};

/// What commands call an uploaded picture.
const FILE: &str = "image.png";
/// What commands call several.
const FILES: &[&str] = &["a.png", "b.png", "c.png", "d.png"];

/// What a command calls the file of a test image.
pub fn test_file(k: usize) -> String {
    format!("test-{k}.png")
}

/// A request about one image: a test image, or the picture of a form.
pub(super) trait AboutImage: Asked {
    /// What becomes of it.
    type Work: Work + 'static;

    /// The model's name, where one is given, and the test image.
    fn names(&self) -> (Option<&str>, usize);

    /// Checks the request about the image `x0`; `file` is what commands call it.
    fn work(
        &self,
        served: Arc<Served>,
        image: (Array4<f32>, &str),
        limits: &Limits,
        cancel: &Cancel,
    ) -> Result<Self::Work, Failure>;
}

impl AboutImage for EncodeRequest {
    type Work = EncodeWork;

    fn names(&self) -> (Option<&str>, usize) {
        (self.model.as_deref(), self.test_image)
    }

    fn work(
        &self,
        served: Arc<Served>,
        image: (Array4<f32>, &str),
        limits: &Limits,
        cancel: &Cancel,
    ) -> Result<EncodeWork, Failure> {
        EncodeWork::new(served, self, image, limits, cancel)
    }
}

impl AboutImage for ReconstructRequest {
    type Work = ReconstructWork;

    fn names(&self) -> (Option<&str>, usize) {
        (self.model.as_deref(), self.test_image)
    }

    fn work(
        &self,
        served: Arc<Served>,
        image: (Array4<f32>, &str),
        limits: &Limits,
        cancel: &Cancel,
    ) -> Result<ReconstructWork, Failure> {
        ReconstructWork::new(served, self, image, limits, cancel)
    }
}

/// The work that a request about a test image asks for.
///
/// # Errors
/// What means nothing.
pub(super) async fn of_test<R: AboutImage>(
    request: R,
    service: &Service,
    cancel: &Cancel,
) -> Result<(Arc<Served>, Box<dyn Work>), ApiError> {
    let (model, k) = request.names();
    let served = service.model(model)?;
    let (x0, file) = (service.pictures.test(k, &served).await?, test_file(k));
    let work = service.prepare(&served, cancel, move |s, l, c| request.work(s, (x0, &file), l, c)).await?;
    Ok((served, Box::new(work)))
}

/// The work that a form with a picture asks for.
async fn of_picture<R: AboutImage>(
    mut form: Form,
    service: &Service,
    cancel: &Cancel,
) -> Result<(Arc<Served>, Box<dyn Work>), ApiError> {
    let (image, request) = (form.image()?, form.read::<R>()?);
    let served = service.model(request.names().0)?;
    let x0 = service.pictures.decode(image, &served).await?;
    let work = service.prepare(&served, cancel, move |s, l, c| request.work(s, (x0, FILE), l, c)).await?;
    Ok((served, Box::new(work)))
}

async fn about_image<R: AboutImage>(app: &App, way: Way, asked: Brought<R>) -> Result<Response, ApiError> {
    let cancel = Cancel::new();
    let (served, work) = match asked {
        Brought::Json(request) => of_test(request, app, &cancel).await?,
        Brought::Form(form) => of_picture::<R>(form, app, &cancel).await?,
    };
    respond(app, way, served, work, cancel).await
}

/// Encode an image
///
/// The latent that the deterministic process makes this image from.
#[utoipa::path(
    post,
    path = "/v1/encode",
    request_body(content((EncodeForm = "multipart/form-data"), (EncodeRequest = "application/json"))),
    responses(
        (status = 200, description = "The latent", body = Encoded),
        (status = 202, description = "A job: there is more to do than is done at once", body = Accepted),
        (status = 400, description = "The request means nothing, or the file is no picture", body = ErrorBody),
        (status = 404, description = "No such test image", body = ErrorBody),
        (status = 413, description = "The upload is too long", body = ErrorBody),
        (status = 415, description = "Neither a form nor JSON", body = ErrorBody),
        (status = 422, description = "The network's numbers were not finite", body = ErrorBody),
        (status = 429, description = "The queue is full; see Retry-After", body = ErrorBody),
        (status = 503, description = "The service is shutting down", body = ErrorBody),
    )
)]
pub async fn encode(State(app): State<App>, way: Way, asked: Brought<EncodeRequest>) -> Result<Response, ApiError> {
    about_image(&app, way, asked).await
}

/// Encode an image and decode it again
///
/// With each number of steps: the more, the nearer to the original.
#[utoipa::path(
    post,
    path = "/v1/reconstruct",
    request_body(content((ReconstructForm = "multipart/form-data"), (ReconstructRequest = "application/json"))),
    responses(
        (status = 200, description = "What came back; or events", content((Reconstruction = "application/json"), (String = "text/event-stream"))),
        (status = 202, description = "A job: there is more to do than is done at once", body = Accepted),
        (status = 400, description = "The request means nothing, or the file is no picture", body = ErrorBody),
        (status = 404, description = "No such test image", body = ErrorBody),
        (status = 413, description = "The upload is too long", body = ErrorBody),
        (status = 415, description = "Neither a form nor JSON", body = ErrorBody),
        (status = 422, description = "The network's numbers were not finite", body = ErrorBody),
        (status = 429, description = "The queue is full; see Retry-After", body = ErrorBody),
        (status = 503, description = "The service is shutting down", body = ErrorBody),
    )
)]
pub async fn reconstruct(
    State(app): State<App>,
    way: Way,
    asked: Brought<ReconstructRequest>,
) -> Result<Response, ApiError> {
    about_image(&app, way, asked).await
}

impl InterpolateRequest {
    /// The work it asks for.
    ///
    /// # Errors
    /// What means nothing.
    pub(super) async fn of_seeds(
        self,
        service: &Service,
        cancel: &Cancel,
    ) -> Result<(Arc<Served>, InterpolateWork), ApiError> {
        let served = service.model(self.model.as_deref())?;
        let ends = Ends::Seeds(self.seeds.clone());
        let work = self.between(service, &served, (ends, &[]), cancel).await?;
        Ok((served, work))
    }

    async fn between(
        self,
        service: &Service,
        served: &Arc<Served>,
        ends: (Ends, &'static [&'static str]),
        cancel: &Cancel,
    ) -> Result<InterpolateWork, Failure> {
        service.prepare(served, cancel, move |s, l, c| InterpolateWork::new(s, &self, ends, l, c)).await
    }
}

/// Interpolate
///
/// From one image to another through their latents; a line between two, a square among four.
#[utoipa::path(
    post,
    path = "/v1/interpolate",
    request_body(content((InterpolateRequest = "application/json"), (InterpolateForm = "multipart/form-data"))),
    responses(
        (status = 200, description = "The images; or events", content((Interpolation = "application/json"), (String = "text/event-stream"))),
        (status = 202, description = "A job: there is more to do than is done at once", body = Accepted),
        (status = 400, description = "The request means nothing, or a file is no picture", body = ErrorBody),
        (status = 413, description = "The upload is too long", body = ErrorBody),
        (status = 415, description = "Neither a form nor JSON", body = ErrorBody),
        (status = 422, description = "The network's numbers were not finite", body = ErrorBody),
        (status = 429, description = "The queue is full; see Retry-After", body = ErrorBody),
        (status = 503, description = "The service is shutting down", body = ErrorBody),
    )
)]
pub async fn interpolate(
    State(app): State<App>,
    way: Way,
    asked: Brought<InterpolateRequest>,
) -> Result<Response, ApiError> {
    let cancel = Cancel::new();
    let (served, work) = match asked {
        Brought::Json(request) => request.of_seeds(&app, &cancel).await?,
        Brought::Form(mut form) => {
            let (images, request) = (std::mem::take(&mut form.images), form.read::<InterpolateRequest>()?);
            if !matches!(images.len(), 2 | 4) {
                let message = format!("image: expected two files (a line) or four (a square), found {}", images.len());
                return Err(ApiError::bad(message));
            }
            let served = app.model(request.model.as_deref())?;
            let mut ends: Vec<Array4<f32>> = Vec::with_capacity(images.len());
            for image in images {
                ends.push(app.pictures.decode(image, &served).await?);
            }
            let views: Vec<_> = ends.iter().map(|x0| x0.view()).collect();
            let ends = concatenate(Axis(0), &views).map_err(|e| ApiError::internal(e.to_string()))?;
            let files = &FILES[..ends.dim().0];
            let work = request.between(&app, &served, (Ends::Images(ends), files), &cancel).await?;
            (served, work)
        }
    };
    respond(&app, way, served, Box::new(work), cancel).await
}

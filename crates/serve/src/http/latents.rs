//! `/v1/encode`, `/v1/reconstruct`, `/v1/interpolate`: images and the latents they come from.

use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use ndarray::{Array4, Axis, concatenate};

use super::answer::{Accepted, Way, respond};
use super::error::{ApiError, ErrorBody};
use super::upload::{Asked, Form};
use crate::api::{
    EncodeForm, EncodeRequest, Encoded, InterpolateForm, InterpolateRequest, Interpolation, ReconstructForm,
    ReconstructRequest, Reconstruction,
};
use crate::core::{Cancel, Failure, Served};
use crate::service::{App, Service};
use crate::work::{EncodeWork, Ends, InterpolateWork, ReconstructWork};

/// What commands call an uploaded picture.
const FILE: &str = "image.png";
/// What commands call several.
const FILES: &[&str] = &["a.png", "b.png", "c.png", "d.png"];

/// What a command calls the file of a test image.
pub fn test_file(k: usize) -> String {
    format!("test-{k}.png")
}

impl EncodeRequest {
    fn of_form(form: &mut Form) -> Result<Self, ApiError> {
        Ok(Self {
            model: form.text("model"),
            test_image: 0,
            steps: form.number("steps")?,
            spacing: form.text("spacing"),
            class: form.number("class")?,
        })
    }

    /// The work it asks for about a test image.
    ///
    /// # Errors
    /// What means nothing.
    pub(super) async fn of_test(
        self,
        service: &Service,
        cancel: &Cancel,
    ) -> Result<(Arc<Served>, EncodeWork), ApiError> {
        let served = service.model(self.model.as_deref())?;
        let image = (service.pictures.test(self.test_image, &served).await?, test_file(self.test_image));
        let work = self.about(service, &served, image, cancel).await?;
        Ok((served, work))
    }

    async fn about(
        self,
        service: &Service,
        served: &Arc<Served>,
        (x0, file): (Array4<f32>, String),
        cancel: &Cancel,
    ) -> Result<EncodeWork, Failure> {
        service.prepare(served, cancel, move |s, l, c| EncodeWork::new(s, &self, (x0, &file), l, c)).await
    }
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
pub async fn encode(State(app): State<App>, way: Way, asked: Asked<EncodeRequest>) -> Result<Response, ApiError> {
    let cancel = Cancel::new();
    let (served, work) = match asked {
        Asked::Json(request) => request.of_test(&app, &cancel).await?,
        Asked::Form(mut form) => {
            let (image, request) = (form.image()?, EncodeRequest::of_form(&mut form)?);
            form.end(&["image", "model", "steps", "spacing", "class"])?;
            let served = app.model(request.model.as_deref())?;
            let x0 = app.pictures.decode(image, &served).await?;
            let work = request.about(&app, &served, (x0, FILE.to_owned()), &cancel).await?;
            (served, work)
        }
    };
    respond(&app, way, served, Box::new(work), cancel).await
}

impl ReconstructRequest {
    fn of_form(form: &mut Form) -> Result<Self, ApiError> {
        Ok(Self {
            model: form.text("model"),
            test_image: 0,
            steps: form.numbers("steps")?,
            spacing: form.text("spacing"),
            class: form.number("class")?,
        })
    }

    /// The work it asks for about a test image.
    ///
    /// # Errors
    /// What means nothing.
    pub(super) async fn of_test(
        self,
        service: &Service,
        cancel: &Cancel,
    ) -> Result<(Arc<Served>, ReconstructWork), ApiError> {
        let served = service.model(self.model.as_deref())?;
        let image = (service.pictures.test(self.test_image, &served).await?, test_file(self.test_image));
        let work = self.about(service, &served, image, cancel).await?;
        Ok((served, work))
    }

    async fn about(
        self,
        service: &Service,
        served: &Arc<Served>,
        (x0, file): (Array4<f32>, String),
        cancel: &Cancel,
    ) -> Result<ReconstructWork, Failure> {
        service.prepare(served, cancel, move |s, l, c| ReconstructWork::new(s, &self, (x0, &file), l, c)).await
    }
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
    asked: Asked<ReconstructRequest>,
) -> Result<Response, ApiError> {
    let cancel = Cancel::new();
    let (served, work) = match asked {
        Asked::Json(request) => request.of_test(&app, &cancel).await?,
        Asked::Form(mut form) => {
            let (image, request) = (form.image()?, ReconstructRequest::of_form(&mut form)?);
            form.end(&["image", "model", "steps", "spacing", "class"])?;
            let served = app.model(request.model.as_deref())?;
            let x0 = app.pictures.decode(image, &served).await?;
            let work = request.about(&app, &served, (x0, FILE.to_owned()), &cancel).await?;
            (served, work)
        }
    };
    respond(&app, way, served, Box::new(work), cancel).await
}

impl InterpolateRequest {
    fn of_form(form: &mut Form) -> Result<Self, ApiError> {
        Ok(Self {
            model: form.text("model"),
            seeds: Vec::new(),
            points: form.number("points")?,
            at: form.numbers("at")?,
            steps: form.number("steps")?,
            spacing: form.text("spacing"),
            class: form.number("class")?,
            guidance: None,
        })
    }

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
    asked: Asked<InterpolateRequest>,
) -> Result<Response, ApiError> {
    let cancel = Cancel::new();
    let (served, work) = match asked {
        Asked::Json(request) => request.of_seeds(&app, &cancel).await?,
        Asked::Form(mut form) => {
            let (images, request) = (std::mem::take(&mut form.images), InterpolateRequest::of_form(&mut form)?);
            form.end(&["image", "model", "points", "at", "steps", "spacing", "class"])?;
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

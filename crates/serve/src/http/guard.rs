//! Turns away requests that the service's guard does not let in.

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::error::ApiError;
use crate::service::App;

/// Lets a request pass if the guard lets it in.
pub async fn guard(State(app): State<App>, request: Request, next: Next) -> Response {
    match app.guard.check(request.uri().path(), request.headers()) {
        Ok(()) => next.run(request).await,
        Err((status, message)) => ApiError::new(status, message).into_response(),
    }
}

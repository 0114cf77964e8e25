//! Turns away requests that the service's guard does not let in.

use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::error::ApiError;
use crate::guard::Denied;
use crate::service::App;

/// Lets a request pass, or not.
pub async fn guard(State(app): State<App>, request: Request, next: Next) -> Response {
    match app.guard.check(request.uri().path(), request.headers()) {
        Ok(()) => next.run(request).await,
        Err(denied) => ApiError::from(denied).into_response(),
    }
}

impl From<Denied> for ApiError {
    fn from(denied: Denied) -> Self {
        let (status, message) = match denied {
            Denied::UnknownHost => (
                StatusCode::MISDIRECTED_REQUEST,
                "this service does not go by the name in the Host header; allow it with --allow-host",
            ),
            Denied::ForeignPage => (StatusCode::FORBIDDEN, "pages of other sites may not ask here"),
            Denied::NoToken => (StatusCode::UNAUTHORIZED, "this service asks for a bearer token"),
            Denied::WrongToken => (StatusCode::UNAUTHORIZED, "the token is not the right one"),
        };
        Self::new(status, message)
    }
}

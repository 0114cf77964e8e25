//! The middleware around every request: the request id, the log, the counters, bodies of errors, and security headers.

use std::time::Instant;

use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderName, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::Response;
use tracing::Instrument;

use super::error::ApiError;
use crate::service::App;

/// The header of a request's id.
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Allows scripts, styles and data only from this service, and images also from `data:` and `blob:` addresses, which the
/// page creates.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; \
                      connect-src 'self'; font-src 'self'; manifest-src 'self'; base-uri 'none'; form-action 'none'; \
                      frame-ancestors 'none'";

/// The request's id, for handlers.
#[derive(Clone, Debug)]
pub struct RequestId(pub String);

/// Wraps a request.
pub async fn observe(State(app): State<App>, mut request: Request, next: Next) -> Response {
    let id = request.headers().get(&REQUEST_ID).and_then(|value| value.to_str().ok()).filter(|id| fits_log(id));
    let id = id.map_or_else(|| app.ids.next()[..16].to_owned(), str::to_owned);
    request.extensions_mut().insert(RequestId(id.clone()));
    let method = request.method().clone();
    let route = request.extensions().get::<MatchedPath>().map(|path| path.as_str().to_owned());
    // A path without a route is the caller's invention and must not become a label.
    let route = route.unwrap_or_else(|| "none".to_owned());
    let span = tracing::info_span!("request", id = %id, %method, path = request.uri().path());
    let begun = Instant::now();
    let response = next.run(request).instrument(span.clone()).await;
    let _in_span = span.enter();
    let mut response = finish(response, &id);
    let (status, took) = (response.status().as_u16(), begun.elapsed());
    app.metrics.request(label(&method), &route, status, took);
    tracing::info!(status, ms = took.as_secs_f64() * 1e3, "answered");
    if let Ok(value) = HeaderValue::from_str(&id) {
        response.headers_mut().insert(REQUEST_ID, value);
    }
    response
}

/// A method as a label. Callers may invent methods, so all unknown ones become `other`.
fn label(method: &Method) -> &'static str {
    let known = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"];
    known.into_iter().find(|known| method == known).unwrap_or("other")
}

/// Writes the body of an error, and the headers of every response.
fn finish(mut response: Response, id: &str) -> Response {
    let status = response.status();
    if let Some(error) = response.extensions_mut().remove::<ApiError>() {
        if let Some(internal) = &error.internal {
            tracing::error!(request_id = %id, "{internal}");
        }
        response = error.render(id);
    } else if (status.is_client_error() || status.is_server_error())
        && response.headers().get(header::CONTENT_TYPE).is_none_or(|kind| kind != "application/json")
    {
        let allow = response.headers_mut().remove(header::ALLOW);
        response = plain(status).render(id);
        if let Some(allow) = allow {
            response.headers_mut().insert(header::ALLOW, allow);
        }
    }
    let headers = response.headers_mut();
    for (name, value) in [
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::X_FRAME_OPTIONS, "DENY"),
        (header::REFERRER_POLICY, "no-referrer"),
        (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
        (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    // Caches must not keep answers that do not allow it.
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    response
}

/// The error for a status set by the router itself.
fn plain(status: StatusCode) -> ApiError {
    match status {
        StatusCode::NOT_FOUND => ApiError::not_found("there is nothing at this address"),
        StatusCode::METHOD_NOT_ALLOWED => {
            ApiError::new(status, "this address takes other methods; see the header Allow")
        }
        StatusCode::PAYLOAD_TOO_LARGE => ApiError::new(status, "the body is too long"),
        StatusCode::REQUEST_TIMEOUT => ApiError::new(status, "the body arrived too slowly"),
        StatusCode::INTERNAL_SERVER_ERROR => ApiError::internal("a handler panicked"),
        _ => ApiError::new(status, status.canonical_reason().unwrap_or("error").to_ascii_lowercase()),
    }
}

/// Whether a caller's id is fit for a log.
fn fits_log(id: &str) -> bool {
    (1..=64).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
}

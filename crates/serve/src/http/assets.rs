//! The page's files, inside the binary.

use axum::extract::Path;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use rust_embed::{Embed, EmbeddedFile};
use skipstone::io::hex::hex;

use super::error::ApiError;

/// `page/index.html` is the page; every other file of the folder lies under `/assets/`.
#[derive(Embed)]
#[folder = "page"]
struct Files;

/// The page.
pub async fn index(headers: HeaderMap) -> Response {
    file("index.html", &headers).await
}

/// A file of the page.
pub async fn asset(Path(path): Path<String>, headers: HeaderMap) -> Response {
    file(&path, &headers).await
}

async fn file(path: &str, headers: &HeaderMap) -> Response {
    // The path is looked up among embedded names, never in the file system.
    let Some(EmbeddedFile { data, metadata }) = Files::get(path) else {
        return StatusCode::NOT_FOUND.into_response();
    };
    let content = async { Ok(([(header::CONTENT_TYPE, kind(path))], data).into_response()) };
    tagged(&hex(&metadata.sha256_hash()[..8]), "no-cache", headers, content).await.into_response()
}

/// The content with an ETag, or 304 without content if the caller already has it.
pub async fn tagged(
    tag: &str,
    caching: &str,
    headers: &HeaderMap,
    content: impl Future<Output = Result<Response, ApiError>>,
) -> Result<Response, ApiError> {
    let tag = format!("\"{tag}\"");
    let is_known = headers.get(header::IF_NONE_MATCH).is_some_and(|known| known.as_bytes() == tag.as_bytes());
    let content = if is_known { StatusCode::NOT_MODIFIED.into_response() } else { content.await? };
    Ok(([(header::ETAG, tag), (header::CACHE_CONTROL, caching.to_owned())], content).into_response())
}

fn kind(path: &str) -> &'static str {
    match path.rsplit_once('.').map(|(_, extension)| extension) {
        Some("html") => "text/html; charset=utf-8",
        Some("js") => "text/javascript; charset=utf-8",
        Some("css") => "text/css; charset=utf-8",
        Some("svg") => "image/svg+xml",
        _ => "application/octet-stream",
    }
}

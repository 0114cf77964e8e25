//! Who may ask: the token, and pages of other sites.

use std::net::Ipv6Addr;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use sha2::{Digest, Sha256};

use super::error::ApiError;
use crate::service::App;

/// Who may ask.
#[derive(Clone, Default)]
pub struct Guard {
    token: Option<[u8; 32]>,
    hosts: Option<Vec<String>>,
}

impl std::fmt::Debug for Guard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Guard").field("token", &self.token.is_some()).field("hosts", &self.hosts).finish()
    }
}

impl Guard {
    /// Everybody who reaches the socket.
    pub fn open() -> Self {
        Self::default()
    }

    /// Only who knows `token`.
    #[must_use]
    pub fn with_token(self, token: &str) -> Self {
        Self { token: Some(hash(token)), ..self }
    }

    /// Only under these names; a port beside one means nothing. A name server of somebody else's can point any name at 127.0.0.1, and
    /// then that name's pages could read what is served here.
    #[must_use]
    pub fn with_hosts(self, hosts: impl IntoIterator<Item = String>) -> Self {
        Self { hosts: Some(hosts.into_iter().map(|host| name(&host)).collect()), ..self }
    }

    /// Whether there is a token.
    pub fn has_token(&self) -> bool {
        self.token.is_some()
    }

    fn check(&self, path: &str, headers: &HeaderMap) -> Result<(), ApiError> {
        let text = |name| headers.get(name).and_then(|value: &axum::http::HeaderValue| value.to_str().ok());
        let host = text(header::HOST);
        if let (Some(known), Some(host)) = (&self.hosts, host)
            && !known.contains(&name(host))
        {
            let message = "this service does not go by the name in the Host header; allow it with --allow-host";
            return Err(ApiError::new(StatusCode::MISDIRECTED_REQUEST, message));
        }
        if !is_api(path) {
            return Ok(());
        }
        let own = |origin: &str| {
            origin
                .split_once("://")
                .is_some_and(|(_, origin)| host.is_some_and(|host| origin.eq_ignore_ascii_case(host)))
        };
        let foreign = headers.contains_key(header::ORIGIN) && !text(header::ORIGIN).is_some_and(own);
        let site = headers.get("sec-fetch-site").is_some_and(|site| site == "cross-site" || site == "same-site");
        // Somebody follows a link; a frame inside another page navigates too.
        let says = |name: &str, word: &str| headers.get(name).is_some_and(|value| value == word);
        let visited = says("sec-fetch-mode", "navigate") && says("sec-fetch-dest", "document");
        if foreign || (site && !visited) {
            return Err(ApiError::new(StatusCode::FORBIDDEN, "pages of other sites may not ask here"));
        }
        let Some(expected) = &self.token else { return Ok(()) };
        let bearer = text(header::AUTHORIZATION).and_then(|value| {
            let (scheme, token) = value.split_once(' ')?;
            scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
        });
        // Hashes are compared, so the time it takes tells nothing of the token.
        match bearer {
            Some(token) if hash(token) == *expected => Ok(()),
            Some(_) => Err(ApiError::new(StatusCode::UNAUTHORIZED, "the token is not the right one")),
            None => Err(ApiError::new(StatusCode::UNAUTHORIZED, "this service asks for a bearer token")),
        }
    }
}

/// What the token protects; the page's files and the two probes are for everybody.
pub fn is_api(path: &str) -> bool {
    path.starts_with("/v1/") || path == "/metrics"
}

/// The host without its port, in lower case.
fn name(host: &str) -> String {
    if let Ok(bare) = host.parse::<Ipv6Addr>() {
        return bare.to_string();
    }
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    };
    name.to_ascii_lowercase()
}

fn hash(token: &str) -> [u8; 32] {
    Sha256::digest(token.as_bytes()).into()
}

/// Lets a request pass, or not.
pub async fn guard(State(app): State<App>, request: Request, next: Next) -> Response {
    match app.guard.check(request.uri().path(), request.headers()) {
        Ok(()) => next.run(request).await,
        Err(error) => error.into_response(),
    }
}

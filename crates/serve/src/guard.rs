//! Who may use the service: tokens, host names, and pages of other sites.

use std::net::Ipv6Addr;

use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use sha2::{Digest, Sha256};

/// Who may use the service.
#[derive(Clone, Default)]
pub struct Guard {
    token: Option<[u8; 32]>,
    hosts: Option<Vec<String>>,
}

/// Why a request is turned away: the status and the message.
pub type Denied = (StatusCode, &'static str);

impl std::fmt::Debug for Guard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Guard").field("token", &self.token.is_some()).field("hosts", &self.hosts).finish()
    }
}

impl Guard {
    /// Lets in everybody who reaches the socket.
    pub fn open() -> Self {
        Self::default()
    }

    /// Lets in only requests with this token.
    #[must_use]
    pub fn with_token(self, token: &str) -> Self {
        Self { token: Some(hash(token)), ..self }
    }

    /// Answers only under these names, whatever the port. Otherwise a foreign name server could point a name at 127.0.0.1,
    /// and the pages of that name could read the answers of this service.
    #[must_use]
    pub fn with_hosts(self, hosts: impl IntoIterator<Item = String>) -> Self {
        Self { hosts: Some(hosts.into_iter().map(|host| name(&host)).collect()), ..self }
    }

    /// Whether there is a token.
    pub fn has_token(&self) -> bool {
        self.token.is_some()
    }

    /// Checks a request to this path with these headers.
    ///
    /// # Errors
    /// The request is turned away.
    pub fn check(&self, path: &str, headers: &HeaderMap) -> Result<(), Denied> {
        let text = |name: HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
        let host = text(header::HOST);
        if let (Some(known), Some(host)) = (&self.hosts, host)
            && !known.contains(&name(host))
        {
            let message = "this service does not answer to the name in the Host header; allow it with --allow-host";
            return Err((StatusCode::MISDIRECTED_REQUEST, message));
        }
        if !is_api(path) {
            return Ok(());
        }
        if is_foreign(headers, host) {
            return Err((StatusCode::FORBIDDEN, "pages of other sites may not send requests here"));
        }
        let Some(expected) = &self.token else { return Ok(()) };
        let bearer = text(header::AUTHORIZATION).and_then(|value| {
            let (scheme, token) = value.split_once(' ')?;
            scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
        });
        // Comparing hashes takes a time that reveals nothing about the token.
        match bearer {
            Some(token) if hash(token) == *expected => Ok(()),
            Some(_) => Err((StatusCode::UNAUTHORIZED, "the token is wrong")),
            None => Err((StatusCode::UNAUTHORIZED, "this service requires a bearer token")),
        }
    }
}

/// Whether this is the name of a host, with or without a port.
pub fn is_host(text: &str) -> bool {
    let fits = |c: char| c.is_ascii_alphanumeric() || "-._:[]".contains(c);
    text.chars().all(fits) && !name(text).is_empty()
}

/// Whether the token protects this path. The page's files and the two probes are open to everybody.
pub fn is_api(path: &str) -> bool {
    path.starts_with("/v1/") || path == "/metrics"
}

/// Whether a page of another site sent the request.
fn is_foreign(headers: &HeaderMap, host: Option<&str>) -> bool {
    let is_own = |origin: &HeaderValue| {
        let origin = origin.to_str().ok().and_then(|origin| origin.split_once("://"));
        origin.is_some_and(|(_, origin)| host.is_some_and(|host| origin.eq_ignore_ascii_case(host)))
    };
    let says = |name: &str, word: &str| headers.get(name).is_some_and(|value| value == word);
    let other_site = says("sec-fetch-site", "cross-site") || says("sec-fetch-site", "same-site");
    // Following a link is allowed. A frame inside another page navigates too, but its destination is not a document.
    let follows_link = says("sec-fetch-mode", "navigate") && says("sec-fetch-dest", "document");
    headers.get(header::ORIGIN).is_some_and(|origin| !is_own(origin)) || (other_site && !follows_link)
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

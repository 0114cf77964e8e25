//! Who may ask, and what browsers are told.

use axum::body::Body;
use axum::http::{Request, StatusCode};
use skipstone_serve::guard::is_host;
use skipstone_serve::{Guard, Setup, app};

use crate::support::{Reply, get, send, service, shared};

const TOKEN: &str = "correct-horse-battery";

async fn with(router: &axum::Router, path: &str, headers: &[(&str, &str)]) -> Reply {
    let mut request = Request::get(path);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    send(router, request.body(Body::empty()).unwrap()).await
}

#[tokio::test]
async fn without_the_token_only_the_page_and_the_probes_answer() {
    let guard = Guard::open().with_token(TOKEN);
    let router = app(service(Setup { guard, ..Setup::default() }));
    for path in ["/", "/health", "/ready"] {
        assert_eq!(get(&router, path).await.status, StatusCode::OK, "{path}");
    }
    let bearer = format!("Bearer {TOKEN}");
    for path in ["/v1/models", "/v1/openapi.json", "/metrics", "/v1/sample.png?n=1&steps=1"] {
        let reply = get(&router, path).await;
        assert_eq!(reply.status, StatusCode::UNAUTHORIZED, "{path}");
        assert_eq!(reply.header("www-authenticate"), Some("Bearer"));
        for wrong in ["Bearer correct-horse-batter", "Bearer ", "Basic correct-horse-battery", TOKEN] {
            let reply = with(&router, path, &[("authorization", wrong)]).await;
            assert_eq!(reply.status, StatusCode::UNAUTHORIZED, "{path} {wrong}");
        }
        assert_eq!(with(&router, path, &[("authorization", &bearer)]).await.status, StatusCode::OK, "{path}");
    }
    // A job cannot be told from none.
    assert_eq!(get(&router, "/v1/jobs/x").await.status, StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn a_name_that_somebody_pointed_here_is_not_answered() {
    let hosts = ["localhost", "127.0.0.1", "::1", "Named.example:8443"].map(str::to_owned);
    let guard = Guard::open().with_hosts(hosts);
    let router = app(service(Setup { guard, ..Setup::default() }));
    for host in ["localhost:8080", "127.0.0.1", "[::1]:8080", "LocalHost", "named.example", "named.example:8443"] {
        assert_eq!(with(&router, "/v1/models", &[("host", host)]).await.status, StatusCode::OK, "{host}");
    }
    for host in ["evil.example", "127.0.0.1.evil.example:8080", "localhost.evil.example"] {
        for path in ["/", "/v1/models"] {
            let reply = with(&router, path, &[("host", host)]).await;
            assert_eq!(reply.status, StatusCode::MISDIRECTED_REQUEST, "{host}");
        }
    }
}

#[test]
fn a_name_that_no_host_can_have_is_none() {
    for host in ["localhost", "named.example:8443", "under_scored.example", "10.0.0.1", "::1", "[::1]:8080"] {
        assert!(is_host(host), "{host}");
    }
    for text in ["", " ", "a b", ":8080", "[", "http://named.example", "named.example/path", "*"] {
        assert!(!is_host(text), "{text}");
    }
}

#[test]
fn pages_of_other_sites_may_not_ask() {
    shared(async |router| {
        let host = ("host", "127.0.0.1:8080");
        let ask = async |headers: &[(&str, &str)]| {
            let headers = [&[host], headers].concat();
            with(&router, "/v1/sample.png?n=1&steps=1", &headers).await.status
        };
        assert_eq!(ask(&[]).await, StatusCode::OK);
        assert_eq!(
            ask(&[("origin", "http://127.0.0.1:8080"), ("sec-fetch-site", "same-origin")]).await,
            StatusCode::OK
        );
        // Somebody follows a link; or another site's page has a frame here.
        let navigates = [("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "navigate")];
        let into = async |dest| ask(&[&navigates[..], &[("sec-fetch-dest", dest)]].concat()).await;
        assert_eq!(into("document").await, StatusCode::OK);
        assert_eq!(into("iframe").await, StatusCode::FORBIDDEN);
        assert_eq!(into("object").await, StatusCode::FORBIDDEN);
        assert_eq!(
            ask(&[("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "no-cors")]).await,
            StatusCode::FORBIDDEN
        );
        assert_eq!(ask(&[("origin", "http://evil.example")]).await, StatusCode::FORBIDDEN);
        assert_eq!(ask(&[("origin", "null")]).await, StatusCode::FORBIDDEN);
        assert_eq!(ask(&[("origin", "http://127.0.0.1:9090")]).await, StatusCode::FORBIDDEN);
    });
}

#[test]
fn browsers_are_told_to_be_careful() {
    shared(async |router| {
        for path in ["/", "/v1/models", "/v1/nothing"] {
            let reply = get(&router, path).await;
            let policy = reply.header("content-security-policy").unwrap();
            assert!(policy.starts_with("default-src 'none'; script-src 'self';"), "{policy}");
            assert!(!policy.contains("unsafe"), "{policy}");
            assert_eq!(reply.header("x-content-type-options"), Some("nosniff"));
            assert_eq!(reply.header("x-frame-options"), Some("DENY"));
            assert_eq!(reply.header("referrer-policy"), Some("no-referrer"));
        }
        let page = get(&router, "/").await;
        assert!(page.header("content-type").unwrap().starts_with("text/html"));
        let tag = page.header("etag").unwrap().to_owned();
        let again = with(&router, "/", &[("if-none-match", &tag)]).await;
        assert_eq!((again.status, again.body.len()), (StatusCode::NOT_MODIFIED, 0));
        assert_eq!(get(&router, "/v1/models").await.header("cache-control"), Some("no-store"));
    });
}

#[test]
fn everything_the_page_loads_comes_from_here() {
    shared(async |router| {
        let page = String::from_utf8(get(&router, "/").await.body.to_vec()).unwrap();
        let quoted = page.split(['"', '\'']).filter(|text| text.starts_with("/assets/"));
        let mut count = 0;
        for path in quoted {
            assert_eq!(get(&router, path).await.status, StatusCode::OK, "{path}");
            count += 1;
        }
        assert!(count > 0, "the page has no assets");
        for foreign in ["src=\"http", "href=\"http", "src=\"//", "@import"] {
            assert!(!page.contains(foreign), "{foreign}");
        }
    });
}

#[tokio::test]
async fn a_method_that_somebody_made_up_is_no_label() {
    let router = app(service(Setup::default()));
    for method in ["BREW", "GETX", "LONGERTHANTHAT"] {
        let request = Request::builder().method(method).uri("/health").body(Body::empty()).unwrap();
        assert_eq!(send(&router, request).await.status, StatusCode::METHOD_NOT_ALLOWED);
    }
    let metrics = String::from_utf8(get(&router, "/metrics").await.body.to_vec()).unwrap();
    let methods = metrics.lines().filter(|line| line.contains("route=\"/health\"")).collect::<Vec<_>>();
    assert_eq!(methods, ["skipstone_http_requests_total{method=\"other\",route=\"/health\",status=\"405\"} 3"]);
}

//! Diffusion models over HTTP: an API described by OpenAPI, and a page.
//!
//! The modules are layers. Each uses only those above it in this list:
//!
//! 1. [`api`]: requests, answers and events as they go over the wire; [`guard`]: who may use the service.
//! 2. [`core`]: the service without HTTP. One thread per network batches the rows of all requests into shared calls;
//!    queues are bounded, tasks can be cancelled, and results are kept for a limited time.
//! 3. [`service`]: the state that all routes share.
//! 4. [`work`]: every kind of request, its checks and its work.
//! 5. [`http`]: the routes, errors and event streams. [`app`] combines them and needs no socket.
//! 6. [`server`]: listening, and shutting down.
#![forbid(unsafe_code)]

pub mod api;
pub mod core;
pub mod guard;
pub mod http;
pub mod server;
pub mod service;
pub mod work;

pub use api::Limits;
pub use core::CARRIED;
pub use guard::Guard;
pub use http::{app, document};
pub use service::{App, Service, Setup};

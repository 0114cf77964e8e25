//! Diffusion models over HTTP: an API described by OpenAPI, and a page.
//!
//! [`core`] is the service without HTTP: one thread per network that takes the images of all requests under way into
//! one call, a bounded queue, tasks that can be cancelled, results kept for a while. [`work`] is what can be asked for;
//! [`api`] the words in which it is asked; [`http`] the routes. [`app`] puts them together and needs no socket;
//! [`server`] listens.
#![forbid(unsafe_code)]

pub mod api;
pub mod core;
pub mod http;
mod limits;
mod metrics;
pub mod server;
mod service;
mod stall;
pub mod work;

pub use http::{Guard, app, document};
pub use limits::Limits;
pub use metrics::Metrics;
pub use service::{App, Service, Setup};

/// The id of the model that the program carries inside.
pub const CARRIED: &str = "carried";

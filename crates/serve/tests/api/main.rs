//! The service without a socket: requests go to the router as they are.

mod batching;
mod contract;
mod frozen;
mod guarding;
mod limits;
mod listening;
mod optimal;
mod options;
mod streams;
mod support;
mod uploads;
mod working;

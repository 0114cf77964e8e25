//! The `skipstone` command from outside: its files, its messages, its exit codes.

mod latents;
mod sampling;
mod scoring;
mod support;
mod tools;
mod training;

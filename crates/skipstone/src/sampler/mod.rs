//! The generative process.

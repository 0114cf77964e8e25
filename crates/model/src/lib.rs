//! The model that the `skipstone` binary carries.

//! What requests that encode images have in common.

use skipstone::Result;
use skipstone::generate::{ClipMode, Request};

/// The library's request for encoding an image, and for decoding it again, in so many steps. The predicted image is not
/// clipped, for clipping cannot be undone.
///
/// # Errors
/// `spacing` names none.
pub(super) fn unclipped(steps: usize, spacing: Option<&str>, class: Option<usize>) -> Result<Request> {
    let spacing = spacing.map(str::parse).transpose()?;
    Ok(Request { steps: Some(steps), spacing, clip: Some(ClipMode::Off), class, ..Request::default() })
}

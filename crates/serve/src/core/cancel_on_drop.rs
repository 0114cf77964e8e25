use std::sync::Arc;

use super::task::Task;

/// A task that is cancelled when this is dropped, because its caller has gone.
pub struct CancelOnDrop(pub Arc<Task>);

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        if !self.0.phase().is_finished() {
            self.0.cancel();
        }
    }
}

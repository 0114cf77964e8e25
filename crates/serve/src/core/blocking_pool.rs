//! A bounded pool for work that would block the threads of the connections.

use std::sync::Arc;

use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;

use super::failure::Failure;

/// Limits how many closures run at a time and how many wait. If a caller hangs up, its closure keeps its place until it
/// has ended.
#[derive(Clone, Debug)]
pub struct BlockingPool {
    /// Places for running closures.
    running: Arc<Semaphore>,
    /// Places for running and waiting closures.
    accepted: Arc<Semaphore>,
}

impl BlockingPool {
    /// A pool that runs `together` closures at a time; up to `waiting` more may wait.
    pub fn new(together: usize, waiting: usize) -> Self {
        Self { running: Arc::new(Semaphore::new(together)), accepted: Arc::new(Semaphore::new(together + waiting)) }
    }

    /// Runs `work` on a thread of its own once there is a place.
    ///
    /// # Errors
    /// Too many closures wait, or `work` panicked.
    pub async fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Result<T, Failure> {
        let accepted = self.accepted.clone().try_acquire_owned().map_err(|_| Failure::Busy { retry_after: 1 })?;
        // The semaphore is never closed.
        let running = self.running.clone().acquire_owned().await;
        let done = spawn_blocking(move || {
            let done = work();
            drop((running, accepted));
            done
        });
        done.await.map_err(|e| Failure::Internal(format!("blocking work: {e}")))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn a_caller_who_hangs_up_keeps_the_place_until_the_work_has_ended() {
        let pool = BlockingPool::new(1, 1);
        let ((begun, has_begun), (end, ends)) = (mpsc::channel(), mpsc::channel());
        let first = tokio::spawn({
            let pool = pool.clone();
            async move { pool.run(move || (begun.send(()), ends.recv())).await }
        });
        while has_begun.try_recv().is_err() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        first.abort();
        assert!(first.await.unwrap_err().is_cancelled());
        let mut second = tokio::spawn({
            let pool = pool.clone();
            async move { pool.run(|| 2).await }
        });
        assert!(tokio::time::timeout(Duration::from_millis(50), &mut second).await.is_err(), "two at a time");
        assert_eq!(pool.run(|| 3).await, Err(Failure::Busy { retry_after: 1 }));
        end.send(()).unwrap();
        assert_eq!(second.await.unwrap(), Ok(2));
        assert_eq!(pool.run(|| 4).await, Ok(4));
    }
}

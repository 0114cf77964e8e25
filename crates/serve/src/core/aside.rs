//! Work that would hold up connections: done beside them, so much at a time, so much waiting.

use std::sync::Arc;

use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;

use super::failure::Failure;

/// Places for such work. Whoever hangs up gives no place back before the work has ended.
#[derive(Clone, Debug)]
pub struct Aside {
    /// Those at work.
    places: Arc<Semaphore>,
    /// Those at work, and those that wait.
    room: Arc<Semaphore>,
}

impl Aside {
    /// `together` at work, and `waiting` that wait.
    pub fn new(together: usize, waiting: usize) -> Self {
        Self { places: Arc::new(Semaphore::new(together)), room: Arc::new(Semaphore::new(together + waiting)) }
    }

    /// Does `work` on a thread of its own, once there is a place.
    ///
    /// # Errors
    /// Too many wait; or it panicked.
    pub async fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Result<T, Failure> {
        let room = self.room.clone().try_acquire_owned().map_err(|_| Failure::Busy)?;
        // The semaphore is never closed.
        let place = self.places.clone().acquire_owned().await;
        let done = spawn_blocking(move || {
            let done = work();
            drop((place, room));
            done
        });
        done.await.map_err(|e| Failure::Internal(format!("work beside the connections: {e}")))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn who_hangs_up_keeps_the_place_until_the_work_has_ended() {
        let aside = Aside::new(1, 1);
        let ((begun, has_begun), (end, ends)) = (mpsc::channel(), mpsc::channel());
        let first = tokio::spawn({
            let aside = aside.clone();
            async move { aside.run(move || (begun.send(()), ends.recv())).await }
        });
        while has_begun.try_recv().is_err() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        first.abort();
        assert!(first.await.unwrap_err().is_cancelled());
        let mut second = tokio::spawn({
            let aside = aside.clone();
            async move { aside.run(|| 2).await }
        });
        assert!(tokio::time::timeout(Duration::from_millis(50), &mut second).await.is_err(), "two at a time");
        assert_eq!(aside.run(|| 3).await, Err(Failure::Busy));
        end.send(()).unwrap();
        assert_eq!(second.await.unwrap(), Ok(2));
        assert_eq!(aside.run(|| 4).await, Ok(4));
    }
}

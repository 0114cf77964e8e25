use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};

/// Makes ids that cannot be guessed: a counter, hashed by SipHash with keys from the system.
#[derive(Debug, Default)]
pub struct Ids {
    keys: [RandomState; 2],
    next: AtomicU64,
}

impl Ids {
    /// A new id of 32 hexadecimal digits.
    pub fn next(&self) -> String {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let [a, b] = &self.keys;
        format!("{:016x}{:016x}", a.hash_one(number), b.hash_one(number))
    }
}

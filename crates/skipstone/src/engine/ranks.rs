//! The processes that train one network together, each with the same program: how they exchange bytes.
//!
//! A [`Ranks`] knows this process's number, the number of processes, and two collective operations. Every rank must call
//! the same operations in the same order. [`Alone`] is a single process, [`in_process`] makes ranks out of threads; MPI
//! lives in a crate of its own.

use std::fmt;
use std::sync::{Arc, Barrier, Mutex, PoisonError};

use crate::error::{Error, Kind, Result};

/// The ranks of a training.
///
/// One thread of a rank calls at a time. An error means that the rank cannot continue; nothing is said about the others.
pub trait Ranks: fmt::Debug + Send + Sync {
    /// The number of this rank, from 0.
    fn rank(&self) -> usize;

    /// The number of ranks.
    fn size(&self) -> usize;

    /// Sends `sent[p]` bytes to each rank p and receives `received[p]` bytes from it. In both buffers the parts lie one
    /// after another, in the order of ranks.
    ///
    /// # Errors
    /// A rank or the network between them fails.
    fn exchange(&self, send: &[u8], sent: &[usize], receive: &mut [u8], received: &[usize]) -> Result<()>;

    /// Collects everybody's bytes at every rank, in the order of ranks; rank p has `lengths[p]`.
    ///
    /// # Errors
    /// A rank or the network between them fails.
    fn gather(&self, mine: &[u8], all: &mut [u8], lengths: &[usize]) -> Result<()>;

    /// Notes that this rank fails alone: the others wait for it, so whoever reports the error has to end them too.
    fn fail(&self) {}
}

/// A single process.
#[derive(Clone, Copy, Debug, Default)]
pub struct Alone;

impl Ranks for Alone {
    fn rank(&self) -> usize {
        0
    }

    fn size(&self) -> usize {
        1
    }

    fn exchange(&self, send: &[u8], _: &[usize], receive: &mut [u8], _: &[usize]) -> Result<()> {
        receive.copy_from_slice(send);
        Ok(())
    }

    fn gather(&self, mine: &[u8], all: &mut [u8], _: &[usize]) -> Result<()> {
        all.copy_from_slice(mine);
        Ok(())
    }
}

/// Ranks within this process, one for each thread that is to be one.
///
/// # Panics
/// `size` is 0.
pub fn in_process(size: usize) -> Vec<InProcess> {
    assert!(size > 0, "at least one rank");
    let boxes = (0..size).map(|_| Mutex::default()).collect();
    let meeting = Arc::new(Meeting { barrier: Barrier::new(size), boxes });
    (0..size).map(|rank| InProcess { rank, meeting: meeting.clone() }).collect()
}

/// A rank of [`in_process`]. A rank that is dropped early leaves the others waiting.
#[derive(Debug)]
pub struct InProcess {
    rank: usize,
    meeting: Arc<Meeting>,
}

#[derive(Debug)]
struct Meeting {
    barrier: Barrier,
    /// What each rank sends, and how many bytes to each rank.
    boxes: Vec<Mutex<(Vec<u8>, Vec<usize>)>>,
}

impl Ranks for InProcess {
    fn rank(&self) -> usize {
        self.rank
    }

    fn size(&self) -> usize {
        self.meeting.boxes.len()
    }

    fn exchange(&self, send: &[u8], sent: &[usize], receive: &mut [u8], received: &[usize]) -> Result<()> {
        let Meeting { barrier, boxes } = &*self.meeting;
        *boxes[self.rank].lock().unwrap_or_else(PoisonError::into_inner) = (send.to_vec(), sent.to_vec());
        barrier.wait();
        let mut rest = receive;
        for (other, &len) in boxes.iter().zip(received) {
            let other = other.lock().unwrap_or_else(PoisonError::into_inner);
            let begin: usize = other.1[..self.rank].iter().sum();
            let (part, tail) = rest.split_at_mut(len);
            part.copy_from_slice(&other.0[begin..begin + other.1[self.rank]]);
            rest = tail;
        }
        barrier.wait();
        Ok(())
    }

    fn gather(&self, mine: &[u8], all: &mut [u8], lengths: &[usize]) -> Result<()> {
        let copies = mine.repeat(self.size());
        self.exchange(&copies, &vec![mine.len(); self.size()], all, lengths)
    }
}

/// Collects a message of any length from every rank, in the order of ranks.
///
/// # Errors
/// As [`Ranks::gather`].
pub fn gather_messages(ranks: &dyn Ranks, mine: &[u8]) -> Result<Vec<Vec<u8>>> {
    let size = ranks.size();
    let mut lengths = vec![[0u8; 8]; size];
    ranks.gather(&(mine.len() as u64).to_le_bytes(), lengths.as_flattened_mut(), &vec![8; size])?;
    let lengths: Vec<usize> = lengths.into_iter().map(|length| u64::from_le_bytes(length) as usize).collect();
    let mut all = vec![0; lengths.iter().sum()];
    ranks.gather(mine, &mut all, &lengths)?;
    let mut rest = &all[..];
    Ok(lengths.iter().map(|&length| rest.split_off(..length).expect("the sum of all lengths").to_vec()).collect())
}

/// Collects numbers from every rank, in the order of ranks; rank p has `counts[p]`.
///
/// # Errors
/// As [`Ranks::gather`].
pub fn gather_numbers(ranks: &dyn Ranks, mine: &[f64], counts: &[usize]) -> Result<Vec<f64>> {
    let mut all = vec![0.0; counts.iter().sum()];
    let lengths: Vec<usize> = counts.iter().map(|count| 8 * count).collect();
    ranks.gather(bytemuck::cast_slice(mine), bytemuck::cast_slice_mut(&mut all), &lengths)?;
    Ok(all)
}

/// The kinds of failure, in the order of their numbers between ranks.
const KINDS: [Kind; 9] = [
    Kind::InvalidArgument,
    Kind::InvalidData,
    Kind::Unsupported,
    Kind::NotFound,
    Kind::NonFinite,
    Kind::Io,
    Kind::Stopped,
    Kind::Device,
    Kind::Caller,
];

/// This rank's result if all ranks succeeded; otherwise every rank returns the error of the first that failed, with that
/// rank's number if it is not 0.
///
/// # Errors
/// A rank has failed, or as [`Ranks::gather`].
pub fn agree<T>(ranks: &dyn Ranks, mine: Result<T>) -> Result<T> {
    if ranks.size() == 1 {
        return mine;
    }
    let message = mine.as_ref().err().map_or_else(Vec::new, |error| {
        let kind = KINDS.iter().position(|kind| *kind == error.kind()).unwrap_or(1);
        [&[kind as u8], error.to_string().as_bytes()].concat()
    });
    let all = gather_messages(ranks, &message).inspect_err(|_| ranks.fail())?;
    let Some((rank, message)) = all.iter().enumerate().find(|(_, message)| !message.is_empty()) else { return mine };
    let kind = KINDS.get(usize::from(message[0])).copied().unwrap_or(Kind::InvalidData);
    let text = String::from_utf8_lossy(&message[1..]).into_owned();
    Err(Error::new(kind, if rank == 0 { text } else { format!("rank {rank}: {text}") }))
}

/// Whether any rank says yes.
///
/// # Errors
/// As [`Ranks::gather`].
pub fn any(ranks: &dyn Ranks, mine: bool) -> Result<bool> {
    if ranks.size() == 1 {
        return Ok(mine);
    }
    let mut all = vec![0; ranks.size()];
    ranks.gather(&[u8::from(mine)], &mut all, &vec![1; ranks.size()]).inspect_err(|_| ranks.fail())?;
    Ok(all.contains(&1))
}

/// Copies rank 0's bytes to every rank. All ranks give a slice of the same length.
///
/// # Errors
/// As [`Ranks::gather`].
pub fn broadcast(ranks: &dyn Ranks, bytes: &mut [u8]) -> Result<()> {
    if ranks.size() == 1 {
        return Ok(());
    }
    // MPI counts bytes in 32 bits.
    for part in bytes.chunks_mut(1 << 28) {
        let mut lengths = vec![0; ranks.size()];
        lengths[0] = part.len();
        let mine = if ranks.rank() == 0 { part.to_vec() } else { Vec::new() };
        ranks.gather(&mine, part, &lengths).inspect_err(|_| ranks.fail())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs `f` on every rank and returns the results in the order of ranks.
    fn on<R: Send>(size: usize, f: impl Fn(&InProcess) -> R + Sync) -> Vec<R> {
        std::thread::scope(|scope| {
            let f = &f;
            let handles: Vec<_> = in_process(size).into_iter().map(|ranks| scope.spawn(move || f(&ranks))).collect();
            handles.into_iter().map(|handle| handle.join().unwrap()).collect()
        })
    }

    #[test]
    fn every_rank_receives_what_each_sent_to_it() {
        // Rank r sends r + p times the byte 10·r + p to rank p.
        let received = on(3, |ranks| {
            let r = ranks.rank();
            let send: Vec<u8> = (0..3).flat_map(|p| vec![(10 * r + p) as u8; r + p]).collect();
            let (sent, lengths): (Vec<_>, Vec<_>) = (0..3).map(|p| (r + p, p + r)).unzip();
            let mut receive = vec![0; lengths.iter().sum()];
            ranks.exchange(&send, &sent, &mut receive, &lengths).unwrap();
            receive
        });
        assert_eq!(received, [vec![10, 20, 20], vec![1, 11, 11, 21, 21, 21], vec![2, 2, 12, 12, 12, 22, 22, 22, 22]]);
    }

    #[test]
    fn one_rank_that_fails_gives_all_the_same_error() {
        let errors = on(3, |ranks| {
            let mine = if ranks.rank() == 1 { Err(Error::argument("no data").in_file("x")) } else { Ok(()) };
            agree(ranks, mine).unwrap_err()
        });
        for error in errors {
            assert_eq!((error.kind(), error.to_string().as_str()), (Kind::InvalidArgument, "rank 1: x: no data"));
        }
        assert_eq!(on(2, |ranks| agree(ranks, Ok(ranks.rank())).unwrap()), [0, 1]);
    }

    #[test]
    fn rank_0_tells_the_others() {
        let told = on(3, |ranks| {
            let mut bytes = [ranks.rank() as u8 + 7; 5];
            broadcast(ranks, &mut bytes).unwrap();
            (bytes, any(ranks, ranks.rank() == 2).unwrap(), any(ranks, false).unwrap())
        });
        assert_eq!(told, [([7; 5], true, false); 3]);
    }
}

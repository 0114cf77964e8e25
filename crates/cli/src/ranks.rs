//! Ranks that a launcher (mpirun, srun) started: who they are, and MPI between them.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use clap::Args;
use skipstone::engine::Ranks;
use skipstone::engine::ranks::Alone;
use skipstone::{Error, Kind};
use skipstone_mpi::Mpi;

use crate::failure::{self, Done, Usage, be_quiet, say};
use crate::interrupt;

/// Several processes as one training.
#[derive(Args, Debug)]
pub struct RanksArguments {
    /// Number of ranks that train together; auto joins those that mpirun or srun started
    #[arg(long, value_name = "auto|N", default_value_t = Count::Auto)]
    ranks: Count,
    /// MPI library [default: the one that the launcher belongs to]
    #[arg(long, value_name = "LIB")]
    mpi: Option<String>,
}

/// `--ranks`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Count {
    Auto,
    Exactly(usize),
}

impl fmt::Display for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Exactly(n) => n.fmt(f),
        }
    }
}

impl FromStr for Count {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.parse() {
            _ if text == "auto" => Ok(Self::Auto),
            Ok(n) if n > 0 => Ok(Self::Exactly(n)),
            _ => Err("expected auto or a number of at least 1".to_owned()),
        }
    }
}

/// What a launcher says in the environment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Launched {
    /// The number of this process.
    pub rank: usize,
    /// The number of processes.
    pub size: usize,
    launcher: Launcher,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Launcher {
    OpenMpi,
    /// MPICH's mpiexec, and srun with PMI.
    Pmi,
    /// srun without PMI, or with PMIx.
    Slurm,
}

impl Launched {
    /// From the environment of this process.
    pub fn read() -> Option<Self> {
        Self::from(&|name| std::env::var(name).ok()?.parse().ok())
    }

    /// From an environment of numbers.
    pub fn from(number: &dyn Fn(&str) -> Option<usize>) -> Option<Self> {
        let known = [
            (Launcher::OpenMpi, "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
            (Launcher::Pmi, "PMI_RANK", "PMI_SIZE"),
            // The script of a batch job has SLURM_NTASKS as well; only srun sets this one.
            (Launcher::Slurm, "SLURM_PROCID", "SLURM_STEP_NUM_TASKS"),
        ];
        known.into_iter().find_map(|(launcher, rank, size)| {
            let (rank, size) = (number(rank)?, number(size)?);
            (rank < size).then_some(Self { rank, size, launcher })
        })
    }

    /// MPI libraries, the likeliest first.
    fn libraries(self) -> [&'static str; 4] {
        const OPEN_MPI: &str = "libmpi.so.40";
        const STANDARD: &str = "libmpi_abi.so.0";
        // Debian's name, everybody's name.
        const MPICH: [&str; 2] = ["libmpich.so.12", "libmpi.so.12"];
        match self.launcher {
            Launcher::OpenMpi => [OPEN_MPI, STANDARD, MPICH[0], MPICH[1]],
            Launcher::Pmi => [MPICH[0], MPICH[1], STANDARD, OPEN_MPI],
            Launcher::Slurm => [OPEN_MPI, MPICH[0], MPICH[1], STANDARD],
        }
    }
}

impl fmt::Display for Launched {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self.launcher {
            Launcher::OpenMpi => "mpirun",
            Launcher::Pmi => "mpiexec or srun",
            Launcher::Slurm => "srun",
        };
        write!(f, "{name} started {} process(es)", self.size)
    }
}

/// The ranks of this run.
#[derive(Debug)]
pub enum World {
    /// One process.
    Alone,
    /// Those that a launcher started.
    Mpi(Arc<Joined>),
}

/// MPI as the library's ranks.
#[derive(Debug)]
pub struct Joined {
    mpi: Mpi,
    failed: AtomicBool,
}

impl Ranks for Joined {
    fn rank(&self) -> usize {
        self.mpi.rank()
    }

    fn size(&self) -> usize {
        self.mpi.size()
    }

    fn exchange(&self, send: &[u8], sent: &[usize], receive: &mut [u8], received: &[usize]) -> skipstone::Result<()> {
        self.mpi.exchange(send, sent, receive, received).map_err(|e| Error::new(Kind::Io, e.0))
    }

    fn gather(&self, mine: &[u8], all: &mut [u8], lengths: &[usize]) -> skipstone::Result<()> {
        self.mpi.gather(mine, all, lengths).map_err(|e| Error::new(Kind::Io, e.0))
    }

    fn fail(&self) {
        self.failed.store(true, Ordering::Relaxed);
    }
}

impl RanksArguments {
    /// Joins the other ranks, if there are any. Ranks other than 0 are quiet from then on.
    pub fn join(&self) -> anyhow::Result<World> {
        let launched = Launched::read();
        let size = launched.map_or(1, |launched| launched.size);
        // Should MPI refuse, each process thinks it is alone, but the launcher knows better.
        be_quiet(launched.is_some_and(|launched| launched.rank > 0));
        match (self.ranks, launched) {
            (Count::Exactly(n), Some(launched)) if n != size => {
                return Err(Usage(format!("--ranks {n}: {launched}; leave --ranks out, or start {n}")).into());
            }
            (Count::Exactly(n), None) if n > 1 => {
                return Err(Usage(format!(
                    "--ranks {n}: nothing has started {n} processes; use mpirun -n {n} skipstone train …, or srun"
                ))
                .into());
            }
            _ => {}
        }
        let Some(launched) = launched.filter(|_| size > 1) else {
            be_quiet(false);
            return Ok(World::Alone);
        };
        let named = self.mpi.as_deref();
        if launched.launcher == Launcher::Slurm && named.is_none() && std::env::var_os("PMIX_RANK").is_none() {
            return Err(Usage(format!(
                "{launched} without a way for MPI to connect them; use srun --mpi=pmi2 for MPICH and its kin or srun \
                 --mpi=pmix for Open MPI (srun --mpi=list shows what there is), or mpirun"
            ))
            .into());
        }
        let libraries = named.map_or_else(|| launched.libraries().to_vec(), |library| vec![library]);
        let mpi = Mpi::start(&libraries).map_err(|error| {
            Usage(format!("{launched}, which need MPI to train together: {error}; name the library with --mpi LIB"))
        })?;
        if mpi.size() != size {
            return Err(Usage(format!(
                "{launched}, but {} sees a world of {}: it does not belong to this launcher; use its own mpirun, srun \
                 --mpi=pmi2 for MPICH or srun --mpi=pmix for Open MPI, or name another library with --mpi LIB",
                mpi.version(),
                mpi.size()
            ))
            .into());
        }
        be_quiet(mpi.rank() > 0);
        interrupt::be_patient();
        Ok(World::Mpi(Arc::new(Joined { mpi, failed: AtomicBool::new(false) })))
    }
}

impl World {
    /// The ranks, for the library.
    pub fn ranks(&self) -> Arc<dyn Ranks> {
        match self {
            Self::Alone => Arc::new(Alone),
            Self::Mpi(joined) => joined.clone(),
        }
    }

    /// Says how many ranks there are, on which machines.
    pub fn announce(&self, threads: usize) -> anyhow::Result<()> {
        let Self::Mpi(joined) = self else { return Ok(()) };
        let hosts = skipstone::engine::ranks::gather_messages(&**joined, joined.mpi.host().as_bytes())?;
        let mut hosts: Vec<String> = hosts.iter().map(|host| String::from_utf8_lossy(host).into_owned()).collect();
        hosts.dedup();
        say(format_args!(
            "{} ranks with {threads} thread(s) each on {} ({})",
            joined.size(),
            hosts.join(", "),
            joined.mpi.version()
        ));
        Ok(())
    }

    /// Ends the run: if this rank failed alone, it ends the others too.
    pub fn end(self, result: anyhow::Result<Done>) -> anyhow::Result<Done> {
        let Self::Mpi(joined) = &self else { return result };
        match result {
            Err(error) if joined.failed.load(Ordering::Relaxed) => {
                be_quiet(false);
                let error = error.context(format!("rank {} on {}", joined.rank(), joined.mpi.host()));
                failure::report(&error);
                joined.mpi.abort(1)
            }
            result => result,
        }
    }
}

/// The library's error for a failure that all ranks have to know of.
pub fn shared(error: anyhow::Error) -> Error {
    match error.downcast::<Error>() {
        Ok(error) => error,
        Err(error) if error.is::<Usage>() => Error::argument(format!("{error:#}")),
        Err(error) => Error::data(format!("{error:#}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn launched(environment: &[(&str, usize)]) -> Option<Launched> {
        Launched::from(&|name| environment.iter().find(|(known, _)| *known == name).map(|(_, value)| *value))
    }

    #[test]
    fn launchers_are_told_apart_by_their_environment() {
        let slurm = [("SLURM_PROCID", 0), ("SLURM_NTASKS", 2)];
        assert_eq!(launched(&slurm), None, "the script of a batch job is not a rank");
        let step = [("SLURM_PROCID", 1), ("SLURM_STEP_NUM_TASKS", 2)];
        assert_eq!(launched(&step).unwrap(), Launched { rank: 1, size: 2, launcher: Launcher::Slurm });
        let open = [("OMPI_COMM_WORLD_RANK", 3), ("OMPI_COMM_WORLD_SIZE", 4), step[0], step[1]];
        assert_eq!(launched(&open).unwrap(), Launched { rank: 3, size: 4, launcher: Launcher::OpenMpi });
        assert_eq!(launched(&open).unwrap().libraries()[0], "libmpi.so.40");
        let pmi = [("PMI_RANK", 0), ("PMI_SIZE", 2)];
        assert_eq!(launched(&pmi).unwrap().libraries()[0], "libmpich.so.12");
        assert_eq!(launched(&[("PMI_RANK", 2), ("PMI_SIZE", 2)]), None);
        assert_eq!(launched(&[]), None);
    }

    #[test]
    fn a_number_of_ranks_is_auto_or_positive() {
        assert_eq!("auto".parse(), Ok(Count::Auto));
        assert_eq!("3".parse(), Ok(Count::Exactly(3)));
        assert!("0".parse::<Count>().is_err() && "all".parse::<Count>().is_err());
    }
}

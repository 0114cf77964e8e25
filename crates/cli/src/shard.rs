//! `--shard`: the part of the images that one of several processes makes.

use skipstone::sampling::generate::Shard;

use crate::ranks::Launched;

/// Reads `K/N`, or takes it from the scheduler that started this process.
pub fn shard(text: &str) -> Result<Shard, String> {
    match text {
        "auto" => from_environment(&|name| std::env::var(name).ok()?.parse().ok()),
        _ => text.parse().map_err(|e: skipstone::Error| e.message().to_owned()),
    }
}

/// The task of an array of jobs, and within it the rank of a step with several.
fn from_environment(number: &dyn Fn(&str) -> Option<u64>) -> Result<Shard, String> {
    let slurm = || {
        let [id, first, count] = ["ID", "MIN", "COUNT"].map(|name| number(&format!("SLURM_ARRAY_TASK_{name}")));
        let step = number("SLURM_ARRAY_TASK_STEP").filter(|&step| step > 0).unwrap_or(1);
        Some(((id?.checked_sub(first?)?) / step, count?))
    };
    let array = match (slurm(), number("JOB_COMPLETION_INDEX")) {
        (Some(task), _) => Some(task),
        // Kubernetes does not tell a pod how many there are.
        (None, Some(index)) => Some((index, number("SKIPSTONE_SHARDS").ok_or(
            "auto: Kubernetes gives the index of this pod, but not the number of pods; set SKIPSTONE_SHARDS to the job's \
             completions",
        )?)),
        (None, None) => None,
    };
    let ranks = Launched::from(&|name| number(name)?.try_into().ok()).map(|l| (l.rank as u64, l.size as u64));
    let (index, count) = match (array, ranks) {
        (Some((task, tasks)), Some((rank, ranks))) => (task * ranks + rank, tasks * ranks),
        (Some(one), None) | (None, Some(one)) => one,
        (None, None) => {
            return Err(
                "auto: expected the environment of a Slurm array (SLURM_ARRAY_TASK_ID), a Kubernetes indexed job \
                        (JOB_COMPLETION_INDEX), or ranks that srun or mpirun started; give K/N"
                    .to_owned(),
            );
        }
    };
    Shard::new(index + 1, count).map_err(|e| format!("auto: {}", e.message()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(environment: &[(&str, u64)]) -> Result<String, String> {
        let number = |name: &str| environment.iter().find(|(known, _)| *known == name).map(|(_, value)| *value);
        from_environment(&number).map(|shard| shard.to_string())
    }

    #[test]
    fn schedulers_number_their_parts_in_different_ways() {
        let array = [
            ("SLURM_ARRAY_TASK_ID", 14),
            ("SLURM_ARRAY_TASK_MIN", 10),
            ("SLURM_ARRAY_TASK_STEP", 2),
            ("SLURM_ARRAY_TASK_COUNT", 4),
        ];
        assert_eq!(found(&array).unwrap(), "3/4");
        assert_eq!(found(&[("JOB_COMPLETION_INDEX", 0), ("SKIPSTONE_SHARDS", 3)]).unwrap(), "1/3");
        assert_eq!(found(&[("OMPI_COMM_WORLD_RANK", 1), ("OMPI_COMM_WORLD_SIZE", 2)]).unwrap(), "2/2");
        let both = [array.as_slice(), &[("SLURM_PROCID", 1), ("SLURM_STEP_NUM_TASKS", 2)]].concat();
        assert_eq!(found(&both).unwrap(), "6/8");
    }

    #[test]
    fn what_is_missing_in_the_environment_is_named() {
        assert!(found(&[]).unwrap_err().contains("SLURM_ARRAY_TASK_ID"));
        assert!(found(&[("JOB_COMPLETION_INDEX", 1)]).unwrap_err().contains("SKIPSTONE_SHARDS"));
        assert!(found(&[("JOB_COMPLETION_INDEX", 3), ("SKIPSTONE_SHARDS", 3)]).unwrap_err().contains("4/3"));
    }
}

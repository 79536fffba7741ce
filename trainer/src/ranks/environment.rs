//! Reads this process's place among several from the variables of its launcher: torchrun, Slurm,
//! Open MPI, an indexed Kubernetes job, or `pretrain --ranks`.
//!
//! **Invariant:** a returned rendezvous is complete: a rank below the world's size, and an address
//! where all ranks meet.

use std::ops::ControlFlow;

/// The port where ranks meet by default; torchrun's default too.
const PORT: u16 = 29500;
/// Set by torchrun: whether its agent listens at the meeting point, ...
pub const AGENT_STORE: &str = "TORCHELASTIC_USE_AGENT_STORE";
/// ... and how often it has restarted the ranks.
pub const RESTART_COUNT: &str = "TORCHELASTIC_RESTART_COUNT";
/// Ports of Slurm's steps, below the ephemeral ports of systems.
const SLURM_PORTS: std::ops::Range<u64> = 20_000..32_000;

/// One process among several that train one model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rendezvous {
    /// The rank, from 0.
    pub rank: u64,
    /// The number of ranks.
    pub world_size: u64,
    /// The rank within its machine, from 0; it selects the GPU.
    pub local_rank: u64,
    /// The machine of rank 0.
    pub host: String,
    /// The port where rank 0 or its launcher listens.
    pub port: u16,
    /// Whether the launcher listens there.
    pub is_served: bool,
    /// How often the launcher has started all ranks anew; empty if it does not set this.
    pub attempt: String,
    /// The variables that gave the rank and the number of ranks.
    pub variables: [&'static str; 2],
}

/// The environment describes ranks incompletely or wrongly.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RanksError {
    /// A variable is set, but one that belongs to it is missing.
    #[error("{present} is set, so this is one of several ranks, but {missing} is not: {wanted}")]
    Missing {
        /// The variable that is set.
        present: &'static str,
        /// The missing variable.
        missing: &'static str,
        /// The expected content.
        wanted: &'static str,
    },
    /// A variable has an impossible value.
    #[error("{name} is {found:?}; expected {expected}")]
    Value {
        /// The variable.
        name: &'static str,
        /// Its value.
        found: String,
        /// The legal values.
        expected: String,
    },
    /// A rank was asked to start ranks.
    #[error(
        "--ranks starts all ranks of one machine, but by its environment this process is already \
         one of several: leave out --ranks, or unset WORLD_SIZE"
    )]
    Nested,
    /// Several ranks for a command that runs on one.
    #[error(
        "bench measures one rank, but by its environment this process is one of several: start it \
         by itself, with one rank's share of plan.step_tokens"
    )]
    Bench,
}

/// The rendezvous described by the variables `get` finds; `None` for a process that is alone.
pub fn from_environment(
    get: impl Fn(&str) -> Option<String>,
) -> Result<Option<Rendezvous>, RanksError> {
    let environment = Environment { get };
    for launcher in [Environment::torchrun, Environment::open_mpi, Environment::slurm] {
        if let ControlFlow::Break(found) = launcher(&environment)? {
            return Ok(found);
        }
    }
    Ok(None)
}

struct Environment<G> {
    get: G,
}

/// `Break` if a launcher's variables are set, with `None` for a process that is alone; `Continue`
/// if they are not.
type Found = Result<ControlFlow<Option<Rendezvous>>, RanksError>;

impl<G: Fn(&str) -> Option<String>> Environment<G> {
    fn text(&self, name: &'static str) -> Option<String> {
        (self.get)(name).filter(|text| !text.is_empty())
    }

    fn number(&self, name: &'static str) -> Result<Option<u64>, RanksError> {
        let Some(found) = self.text(name) else { return Ok(None) };
        match found.parse() {
            Ok(number) => Ok(Some(number)),
            Err(_) => Err(RanksError::Value { name, found, expected: "a number".to_owned() }),
        }
    }

    /// Reads WORLD_SIZE and RANK, or the index of a Kubernetes job's pod.
    fn torchrun(&self) -> Found {
        const WORLD_SIZE: &str = "WORLD_SIZE";
        let Some(world_size) = self.number(WORLD_SIZE)? else {
            return Ok(ControlFlow::Continue(()));
        };
        if world_size == 1 {
            return Ok(ControlFlow::Break(None));
        }
        let names = ["RANK", "JOB_COMPLETION_INDEX"];
        let name = names.into_iter().find(|name| self.text(name).is_some()).unwrap_or(names[0]);
        let missing =
            |missing, wanted| RanksError::Missing { present: WORLD_SIZE, missing, wanted };
        let rank = self
            .number(name)?
            .ok_or_else(|| missing(name, "the number of this process, from 0"))?;
        let host = self.host().ok_or_else(|| missing("MASTER_ADDR", "the machine of rank 0"))?;
        let local_rank = self.number("LOCAL_RANK")?.unwrap_or(0);
        self.rendezvous([name, WORLD_SIZE], [rank, world_size, local_rank], host, PORT)
    }

    /// Reads a task of a step started by `srun`, unless `srun` started `mpirun`. A batch script's
    /// own process has a task number too, and is alone.
    fn slurm(&self) -> Found {
        let counts = ["SLURM_STEP_NUM_TASKS", "SLURM_NTASKS"];
        let count = counts.into_iter().find(|name| self.text(name).is_some());
        let (Some(step), Some(count)) = (self.number("SLURM_STEP_ID")?, count) else {
            return Ok(ControlFlow::Continue(()));
        };
        let world_size = self.number(count)?.unwrap_or(1);
        if world_size == 1 {
            return Ok(ControlFlow::Break(None));
        }
        let missing = |missing, wanted| RanksError::Missing { present: count, missing, wanted };
        let rank = self.number("SLURM_PROCID")?;
        let rank = rank.ok_or_else(|| missing("SLURM_PROCID", "the number of this task"))?;
        let lists = ["SLURM_STEP_NODELIST", "SLURM_JOB_NODELIST"];
        let list = lists.into_iter().find_map(|name| self.text(name));
        let host = self.host().or_else(|| list.map(|list| first_host(&list)));
        let host = host.ok_or_else(|| missing("SLURM_JOB_NODELIST", "the job's machines"))?;
        let local_rank = self.number("SLURM_LOCALID")?.unwrap_or(0);
        let job = self.number("SLURM_JOB_ID")?.unwrap_or(0);
        let port = job.wrapping_add(step) % (SLURM_PORTS.end - SLURM_PORTS.start);
        let port = u16::try_from(SLURM_PORTS.start + port).expect("the range is one of ports");
        self.rendezvous(["SLURM_PROCID", count], [rank, world_size, local_rank], host, port)
    }

    /// Reads a process of `mpirun`.
    fn open_mpi(&self) -> Found {
        const COUNT: &str = "OMPI_COMM_WORLD_SIZE";
        const RANK: &str = "OMPI_COMM_WORLD_RANK";
        let Some(world_size) = self.number(COUNT)? else { return Ok(ControlFlow::Continue(())) };
        if world_size == 1 {
            return Ok(ControlFlow::Break(None));
        }
        let missing = |missing, wanted| RanksError::Missing { present: COUNT, missing, wanted };
        let rank = self.number(RANK)?;
        let rank = rank.ok_or_else(|| missing(RANK, "the number of this process"))?;
        let is_one_machine = self.number("OMPI_COMM_WORLD_LOCAL_SIZE")? == Some(world_size);
        let host = self.host().or_else(|| is_one_machine.then(|| "127.0.0.1".to_owned()));
        let host = host.ok_or_else(|| {
            missing("MASTER_ADDR", "the machine of rank 0 (`mpirun -x MASTER_ADDR=…`)")
        })?;
        let local_rank = self.number("OMPI_COMM_WORLD_LOCAL_RANK")?.unwrap_or(0);
        self.rendezvous([RANK, COUNT], [rank, world_size, local_rank], host, PORT)
    }

    fn host(&self) -> Option<String> {
        self.text("MASTER_ADDR")
    }

    /// Checks the numbers; `port` is the default if MASTER_PORT is unset.
    fn rendezvous(
        &self,
        variables: [&'static str; 2],
        numbers: [u64; 3],
        host: String,
        port: u16,
    ) -> Found {
        let [rank, world_size, local_rank] = numbers;
        let value = |name: &'static str, expected: String| {
            let found = self.text(name).unwrap_or_default();
            RanksError::Value { name, found, expected }
        };
        if world_size == 0 {
            return Err(value(variables[1], "1 or more".to_owned()));
        }
        if rank >= world_size {
            return Err(value(
                variables[0],
                format!("a number below {} = {world_size}", variables[1]),
            ));
        }
        let port = match self.number("MASTER_PORT")? {
            None => port,
            Some(port) => u16::try_from(port)
                .ok()
                .filter(|&port| port > 0)
                .ok_or_else(|| value("MASTER_PORT", "a port, from 1 to 65535".to_owned()))?,
        };
        let is_served = self.text(AGENT_STORE).as_deref() == Some("True");
        let attempt = self.text(RESTART_COUNT).unwrap_or_default();
        let rendezvous =
            Rendezvous { rank, world_size, local_rank, host, port, is_served, attempt, variables };
        Ok(ControlFlow::Break(Some(rendezvous)))
    }
}

/// The first host of a Slurm host list, such as `gpu003` of `gpu[003-005,007],x12`.
fn first_host(list: &str) -> String {
    let mut host = String::new();
    let mut rest = list;
    while let Some(end) = rest.find(['[', ',']) {
        host.push_str(&rest[..end]);
        if rest.as_bytes()[end] == b',' {
            return host;
        }
        let inside = &rest[end + 1..];
        host.push_str(&inside[..inside.find([',', '-', ']']).unwrap_or(inside.len())]);
        rest = inside.split_once(']').map_or("", |(_, rest)| rest);
    }
    host.push_str(rest);
    host
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find(variables: &[(&str, &str)]) -> Result<Option<Rendezvous>, RanksError> {
        from_environment(|name| {
            let found = variables.iter().find(|(other, _)| *other == name);
            found.map(|(_, value)| (*value).to_owned())
        })
    }

    fn rendezvous(
        rank: u64,
        world_size: u64,
        local_rank: u64,
        host: &str,
        port: u16,
    ) -> Option<Rendezvous> {
        let (host, attempt) = (host.to_owned(), String::new());
        let (is_served, variables) = (false, ["", ""]);
        Some(Rendezvous { rank, world_size, local_rank, host, port, is_served, attempt, variables })
    }

    /// The rendezvous without the names of its variables.
    fn place(variables: &[(&str, &str)]) -> Result<Option<Rendezvous>, RanksError> {
        let found = find(variables)?;
        Ok(found.map(|found| Rendezvous { variables: ["", ""], ..found }))
    }

    #[test]
    fn each_launcher_is_understood() {
        let torchrun = [
            ("RANK", "9"),
            ("LOCAL_RANK", "1"),
            ("WORLD_SIZE", "16"),
            ("MASTER_ADDR", "10.0.0.1"),
            ("MASTER_PORT", "4000"),
            // torchrun under srun: its own variables count
            ("SLURM_STEP_ID", "0"),
            ("SLURM_NTASKS", "2"),
        ];
        assert_eq!(place(&torchrun), Ok(rendezvous(9, 16, 1, "10.0.0.1", 4000)));
        let restarted =
            [("TORCHELASTIC_USE_AGENT_STORE", "True"), ("TORCHELASTIC_RESTART_COUNT", "2")];
        let restarted = find(&[&torchrun[..], &restarted].concat()).unwrap().unwrap();
        assert_eq!((restarted.is_served, restarted.attempt.as_str()), (true, "2"));
        let kubernetes =
            [("JOB_COMPLETION_INDEX", "3"), ("WORLD_SIZE", "4"), ("MASTER_ADDR", "job-0.job")];
        assert_eq!(place(&kubernetes), Ok(rendezvous(3, 4, 0, "job-0.job", PORT)));
        let slurm = [
            ("SLURM_JOB_ID", "123457"),
            ("SLURM_STEP_ID", "1"),
            ("SLURM_PROCID", "8"),
            ("SLURM_LOCALID", "0"),
            ("SLURM_STEP_NUM_TASKS", "16"),
            ("SLURM_NTASKS", "32"),
            ("SLURM_JOB_NODELIST", "gpu[003-005,007],x12"),
        ];
        assert_eq!(place(&slurm), Ok(rendezvous(8, 16, 0, "gpu003", 23_458)));
        let variables = find(&slurm).unwrap().unwrap().variables;
        assert_eq!(variables, ["SLURM_PROCID", "SLURM_STEP_NUM_TASKS"]);
        let open_mpi = [
            ("OMPI_COMM_WORLD_SIZE", "2"),
            ("OMPI_COMM_WORLD_RANK", "1"),
            ("OMPI_COMM_WORLD_LOCAL_RANK", "1"),
            ("OMPI_COMM_WORLD_LOCAL_SIZE", "2"),
            // mpirun starts its daemons by srun: one task per machine
            ("SLURM_STEP_ID", "0"),
            ("SLURM_STEP_NUM_TASKS", "1"),
            ("SLURM_PROCID", "0"),
        ];
        assert_eq!(place(&open_mpi), Ok(rendezvous(1, 2, 1, "127.0.0.1", PORT)));
    }

    #[test]
    fn a_process_by_itself_is_alone() {
        assert_eq!(find(&[]), Ok(None));
        assert_eq!(find(&[("WORLD_SIZE", "1")]), Ok(None));
        assert_eq!(find(&[("WORLD_SIZE", "")]), Ok(None));
        // A batch script of four tasks, outside of srun.
        assert_eq!(find(&[("SLURM_PROCID", "0"), ("SLURM_NTASKS", "4")]), Ok(None));
        assert_eq!(find(&[("SLURM_STEP_ID", "0"), ("SLURM_NTASKS", "1")]), Ok(None));
        assert_eq!(find(&[("JOB_COMPLETION_INDEX", "0")]), Ok(None)); // an array of runs
    }

    #[test]
    fn half_a_place_is_an_error_that_names_the_other_half() {
        let error = |variables: &[(&str, &str)]| find(variables).unwrap_err().to_string();
        assert_eq!(
            error(&[("WORLD_SIZE", "2")]),
            "WORLD_SIZE is set, so this is one of several ranks, but RANK is not: \
             the number of this process, from 0"
        );
        let two = [("WORLD_SIZE", "2"), ("RANK", "2"), ("MASTER_ADDR", "a")];
        assert!(error(&two[..2]).contains("MASTER_ADDR is not"));
        assert_eq!(error(&two), "RANK is \"2\"; expected a number below WORLD_SIZE = 2");
        assert!(error(&[("WORLD_SIZE", "two")]).contains("expected a number"));
        assert!(
            error(&[("WORLD_SIZE", "0"), ("RANK", "0"), ("MASTER_ADDR", "a")])
                .contains("1 or more")
        );
        let port = [("WORLD_SIZE", "2"), ("RANK", "1"), ("MASTER_ADDR", "a"), ("MASTER_PORT", "0")];
        assert!(error(&port).contains("a port"));
        let mpi = [("OMPI_COMM_WORLD_SIZE", "4"), ("OMPI_COMM_WORLD_RANK", "0")];
        assert!(error(&mpi).contains("mpirun -x MASTER_ADDR"));
    }

    #[test]
    fn the_first_host_of_a_list() {
        for (list, first) in [
            ("a", "a"),
            ("a,b", "a"),
            ("gpu[003-005,007],x12", "gpu003"),
            ("gpu[7],x", "gpu7"),
            ("rack[1-2]node[3-4].site", "rack1node3.site"),
        ] {
            assert_eq!(first_host(list), first);
        }
    }
}

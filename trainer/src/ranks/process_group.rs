//! The process group of ranks that train one model: sums, agreements and waits.
//!
//! Each rank reads its part of every step and holds the whole model. Gradients are summed over the
//! ranks before the update, so all ranks make the same update. Only the first rank writes.
//!
//! **Invariant:** all ranks make the same calls in the same order, and get the same bits from them.
//! A single rank gets its input back.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, TcpStream, ToSocketAddrs as _, UdpSocket};
use std::rc::Rc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use anyhow::Result;
use tch::{Kind, Tensor};

use crate::console::progress::progress_of_rank;
use crate::ranks::environment::Rendezvous;
use crate::shim::ShimError;
use crate::shim::group::{Group, GroupOptions, Reduction};

/// Default limits for all ranks to arrive. Ranks of a large job arrive over minutes, those of one
/// machine at once.
const MEET_LIMIT: Duration = Duration::from_secs(300);
const MEET_LIMIT_LOCAL: Duration = Duration::from_secs(60);
/// Default limit for all ranks to join a collective, such as the sum of a step's gradients.
const STEP_LIMIT: Duration = Duration::from_secs(600);
/// Names network interfaces, separated by commas, if the machine has several. The variable is
/// Gloo's, as in PyTorch.
const INTERFACES_VARIABLE: &str = "GLOO_SOCKET_IFNAME";

/// Time limit of one attempt to reach the first rank, and the pause before the next one.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const CONNECT_RETRY: Duration = Duration::from_millis(200);
const INIT_OPERATION: &str = "meet the other ranks";
/// How long a rank waits for the others before it prints for whom.
const NOTICE_AFTER: Duration = Duration::from_secs(1);

/// The first rank has failed for the same reason; it alone reports it.
#[derive(Debug, thiserror::Error)]
#[error("rank 0 reports the reason")]
pub struct ReportedByRankZero;

/// Another rank cannot continue.
#[derive(Debug, thiserror::Error)]
#[error("another rank cannot begin: its output gives the reason")]
pub struct OtherRankFailed;

/// See the module.
#[derive(Clone, Debug)]
pub struct ProcessGroup {
    rank: u64,
    world_size: u64,
    local_rank: Option<u64>,
    backend: Option<Rc<Group>>,
}

/// How long ranks wait for each other.
#[derive(Clone, Copy, Debug, Default)]
pub struct WaitLimits {
    /// For all ranks to arrive; by default 300 s, and 60 s on one machine.
    pub meet: Option<Duration>,
    /// For all ranks to join a collective; by default 600 s. A rank may come late because the first
    /// one is saving a checkpoint.
    pub step: Option<Duration>,
}

impl ProcessGroup {
    /// The group of a process that trains alone.
    pub fn single() -> ProcessGroup {
        ProcessGroup { rank: 0, world_size: 1, local_rank: None, backend: None }
    }

    /// Waits for all ranks to arrive. `listener`: a socket on the port where they meet, if this
    /// process already has one.
    pub fn init(
        rendezvous: &Rendezvous,
        listener: Option<i32>,
        limits: WaitLimits,
    ) -> Result<ProcessGroup, ShimError> {
        let Rendezvous { rank, world_size, local_rank, host, port, is_served, attempt, .. } =
            rendezvous;
        let _met = notice_while_waiting(rendezvous.clone());
        let interfaces = std::env::var(INTERFACES_VARIABLE).ok().filter(|names| !names.is_empty());
        let default = if is_local(host) { MEET_LIMIT_LOCAL } else { MEET_LIMIT };
        let timeout = limits.meet.unwrap_or(default);
        let step = limits.step.unwrap_or(STEP_LIMIT);
        let listens = *rank == 0 && !is_served;
        let own = if listens {
            // If the host name is invalid, the other ranks will report it.
            address_towards(host, *port).unwrap_or(Ipv4Addr::LOCALHOST.into())
        } else {
            wait_for(host, *port, timeout)?
        };
        let backend = Group::init(GroupOptions {
            host,
            port: *port,
            listens,
            listener,
            attempt,
            address: for_others(own, host),
            interfaces: interfaces.as_deref(),
            rank: *rank,
            world_size: *world_size,
            init_timeout: timeout,
            timeout: step,
            device_timeout: step,
        })
        .map_err(|ShimError { operation, message }| {
            let names =
                interfaces.as_deref().map(|names| format!(" ({INTERFACES_VARIABLE} is {names:?})"));
            ShimError { operation, message: message + &names.unwrap_or_default() }
        })?;
        Ok(ProcessGroup {
            rank: *rank,
            world_size: *world_size,
            local_rank: Some(*local_rank),
            backend: Some(Rc::new(backend)),
        })
    }

    /// The rank of this process, from 0.
    pub fn rank(&self) -> u64 {
        self.rank
    }

    /// The number of ranks.
    pub fn world_size(&self) -> u64 {
        self.world_size
    }

    /// The rank within the machine; `None` for a process that trains alone.
    pub fn local_rank(&self) -> Option<u64> {
        self.local_rank
    }

    /// Whether this is the first rank, which writes.
    pub fn is_rank_zero(&self) -> bool {
        self.rank == 0
    }

    /// All-reduce: replaces a flat tensor, on any device, by the sum over all ranks. On a GPU the
    /// host does not wait.
    pub fn all_reduce(&self, tensor: &mut Tensor) -> Result<(), ShimError> {
        self.collective(|backend| backend.all_reduce(tensor, Reduction::Sum))
    }

    /// Broadcast: replaces a flat tensor, on any device, by that of rank 0.
    pub fn broadcast(&self, tensor: &mut Tensor) -> Result<(), ShimError> {
        self.collective(|backend| backend.broadcast(tensor))
    }

    /// Whether `this_one` is true on any rank. The ranks wait for each other; GPUs keep working.
    pub fn any_rank(&self, this_one: bool) -> Result<bool, ShimError> {
        let mut flag = Tensor::from_slice(&[i64::from(this_one)]);
        self.collective(|backend| backend.all_reduce(&mut flag, Reduction::Max))?;
        Ok(flag.int64_value(&[0]) != 0)
    }

    /// Waits until every rank has called it; GPUs keep working.
    pub fn barrier(&self) -> Result<(), ShimError> {
        self.any_rank(false).map(drop)
    }

    /// `result`, if it is `Ok` on every rank.
    pub fn all_ranks_ok<T>(&self, result: Result<T>) -> Result<T> {
        let text = result.as_ref().err().map(|err| format!("{err:#}"));
        let agreed = || -> Result<(bool, String), ShimError> {
            let any_failed = self.any_rank(text.is_some())?;
            let said = if any_failed {
                self.broadcast_text(text.as_deref().unwrap_or(""))?
            } else {
                String::new()
            };
            Ok((any_failed, said))
        };
        match (result, agreed()) {
            (Err(err), Ok((_, said))) if !self.is_rank_zero() && text.as_ref() == Some(&said) => {
                Err(err.context(ReportedByRankZero))
            }
            (Err(err), _) => Err(err),
            (Ok(_), Ok((true, _))) => Err(OtherRankFailed.into()),
            (Ok(value), agreed) => agreed.map(|_| value).map_err(Into::into),
        }
    }

    /// The sum over all ranks of each of `numbers`.
    pub fn all_reduce_sums<const N: usize>(
        &self,
        numbers: [f64; N],
    ) -> Result<[f64; N], ShimError> {
        let mut sums = Tensor::from_slice(&numbers);
        self.collective(|backend| backend.all_reduce(&mut sums, Reduction::Sum))?;
        Ok(std::array::from_fn(|index| sums.double_value(&[index as i64])))
    }

    /// Returns the text passed by rank 0, on every rank.
    pub fn broadcast_text(&self, text: &str) -> Result<String, ShimError> {
        let mut length = Tensor::from_slice(&[text.len() as i64]);
        self.broadcast(&mut length)?;
        let length = usize::try_from(length.int64_value(&[0])).expect("a length");
        let mut bytes = if self.is_rank_zero() {
            Tensor::from_slice(text.as_bytes())
        } else {
            Tensor::zeros([length as i64], (Kind::Uint8, tch::Device::Cpu))
        };
        self.broadcast(&mut bytes)?;
        let bytes: Vec<u8> = bytes.try_into().expect("bytes of the host");
        Ok(String::from_utf8(bytes).expect("the first rank gave text"))
    }

    fn collective(
        &self,
        operation: impl FnOnce(&Group) -> Result<(), ShimError>,
    ) -> Result<(), ShimError> {
        let Some(backend) = &self.backend else { return Ok(()) };
        operation(backend).map_err(|ShimError { operation, message }| {
            // Otherwise a GPU would wait for the others, and the host for it. A failure of the
            // abort itself adds nothing.
            let _is_free = backend.abort();
            let message = message.split(". This is typically").next().unwrap_or_default(); // advice
            let (rank, world_size) = (self.rank, self.world_size);
            let message = format!(
                "rank {rank} of {world_size} lost the others: one of them has ended or hangs, and \
                 its output gives the reason ({message})"
            );
            ShimError { operation, message }
        })
    }
}

/// Prints, unless all ranks have met within a second, for whom this one waits, where, and by which
/// variables: a process may find itself one of several unawares. They have met when the returned
/// value is dropped.
fn notice_while_waiting(rendezvous: Rendezvous) -> mpsc::Sender<()> {
    let (sender, met) = mpsc::channel();
    let wait = move || {
        if met.recv_timeout(NOTICE_AFTER) == Err(RecvTimeoutError::Timeout) {
            let Rendezvous { rank, world_size, host, port, variables, .. } = rendezvous;
            progress_of_rank(&format!(
                "notice: waiting at {host}:{port} for all of {world_size} ranks, of which this is \
                 rank {rank} (by {} and {}); to train in one process alone, start it without its \
                 launcher or with WORLD_SIZE=1",
                variables[0], variables[1]
            ));
        }
    };
    // Without the thread only the notice is missing.
    let _ = std::thread::Builder::new().name("waiting".to_owned()).spawn(wait);
    sender
}

/// Whether a name means this machine only to itself.
fn is_local(host: &str) -> bool {
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// Waits until a listener is reachable at `host`, and returns this machine's address on the way
/// there.
fn wait_for(host: &str, port: u16, limit: Duration) -> Result<IpAddr, ShimError> {
    let started = Instant::now();
    loop {
        let tried = (host, port).to_socket_addrs().and_then(|mut found| {
            let to = found.next().ok_or_else(|| io::Error::other("it has no address"))?;
            TcpStream::connect_timeout(&to, CONNECT_TIMEOUT)?.local_addr()
        });
        match tried {
            Ok(own) => return Ok(own.ip()),
            Err(err) if limit <= started.elapsed() => {
                let seconds = limit.as_secs();
                let message = format!("waited {seconds} s for rank 0 at {host}:{port}: {err}");
                return Err(ShimError { operation: INIT_OPERATION, message });
            }
            Err(_) => std::thread::sleep(CONNECT_RETRY),
        }
    }
}

/// This machine's address on the way to `host`, which may be this machine.
fn address_towards(host: &str, port: u16) -> io::Result<IpAddr> {
    let to = (host, port).to_socket_addrs()?.next();
    let to = to.ok_or_else(|| io::Error::other("it has no address"))?;
    let from = if to.is_ipv4() {
        IpAddr::from(Ipv4Addr::UNSPECIFIED)
    } else {
        Ipv6Addr::UNSPECIFIED.into()
    };
    let socket = UdpSocket::bind((from, 0))?;
    socket.connect(to)?; // sends nothing
    Ok(socket.local_addr()?.ip())
}

/// Returns `own`. If other machines cannot use it although `host` is meant for them, returns the
/// address towards all other machines instead. Some machines map their own name to a local address.
fn for_others(own: IpAddr, host: &str) -> IpAddr {
    const ANYWHERE: &str = "192.0.2.1"; // RFC 5737: assigned to nobody
    if own.is_loopback() && !is_local(host) {
        return address_towards(ANYWHERE, 9).unwrap_or(own);
    }
    own
}

#[cfg(test)]
mod tests {
    use std::os::fd::IntoRawFd;

    use super::*;

    #[test]
    fn a_single_process_gets_its_own_input_back() {
        let group = ProcessGroup::single();
        let mut tensor = Tensor::from_slice(&[1.5f32, -2.0]);
        group.all_reduce(&mut tensor).unwrap();
        group.broadcast(&mut tensor).unwrap();
        assert_eq!(Vec::<f32>::try_from(tensor).unwrap(), [1.5, -2.0]);
        assert_eq!([true, false].map(|flag| group.any_rank(flag).unwrap()), [true, false]);
        assert_eq!(group.all_reduce_sums([0.1, -3.0]).unwrap(), [0.1, -3.0]);
        assert_eq!(group.broadcast_text("a text").unwrap(), "a text");
        assert_eq!(group.broadcast_text("").unwrap(), "");
    }

    #[test]
    fn an_address_is_one_that_the_other_side_sees() {
        let local = IpAddr::from(Ipv4Addr::LOCALHOST);
        assert_eq!(address_towards("127.0.0.1", 9).unwrap(), local);
        assert!(address_towards("no such host", 9).is_err());
        assert_eq!([for_others(local, "localhost"), for_others(local, "127.0.1.1")], [local; 2]);
        let other = IpAddr::from([10, 0, 0, 7]);
        assert_eq!(for_others(other, "a.name"), other);
    }

    #[test]
    fn nobody_at_the_meeting_is_an_error_after_the_limit() {
        for (host, expected) in [("127.0.0.1", "refused"), ("no.such.host.invalid", "waited 0 s")] {
            let err = wait_for(host, 9, Duration::ZERO).unwrap_err().to_string();
            assert!(err.contains(expected) && err.contains(host), "{err}");
        }
    }

    /// Ranks are normally processes; here they meet as threads.
    fn in_process_group<R: Send>(
        world_size: u64,
        work: impl Fn(ProcessGroup) -> R + Sync,
    ) -> Vec<R> {
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let listeners =
            (0..world_size).map(|rank| (rank == 0).then(|| listener.try_clone().unwrap()));
        let work = &work;
        std::thread::scope(|scope| {
            let join = |(rank, listener): (u64, Option<std::net::TcpListener>)| {
                scope.spawn(move || {
                    let host = "127.0.0.1".to_owned();
                    let (is_served, attempt) = (false, String::new());
                    let rendezvous = Rendezvous {
                        rank,
                        world_size,
                        local_rank: rank,
                        host,
                        port,
                        is_served,
                        attempt,
                        variables: ["RANK", "WORLD_SIZE"],
                    };
                    work(
                        ProcessGroup::init(
                            &rendezvous,
                            listener.map(IntoRawFd::into_raw_fd),
                            WaitLimits::default(),
                        )
                        .unwrap(),
                    )
                })
            };
            let threads: Vec<_> = (0..).zip(listeners).map(join).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        })
    }

    #[test]
    fn ranks_reduce_and_broadcast() {
        let found = in_process_group(3, |group| {
            let rank = group.rank();
            let mut tensor = Tensor::from_slice(&[rank as f32 + 0.1, 1e-3]);
            group.all_reduce(&mut tensor).unwrap();
            let sums: Vec<f32> = tensor.try_into().unwrap();
            let mut first = Tensor::from_slice(&[rank as f32 + 7.0]);
            group.broadcast(&mut first).unwrap();
            let flags = [rank == 1, false].map(|flag| group.any_rank(flag).unwrap());
            let [one, two] = group.all_reduce_sums([rank as f64, 0.5]).unwrap();
            let texts = ["", "größer"].map(|text| {
                group.broadcast_text(if group.is_rank_zero() { text } else { "?" }).unwrap()
            });
            (sums, first.double_value(&[0]), flags, one, two, texts)
        });
        let (sums, ..) = &found[0];
        assert!((sums[0] - 3.3).abs() < 1e-6 && (sums[1] - 3e-3).abs() < 1e-9);
        for other in &found {
            assert_eq!(
                &other.0.iter().map(|x| x.to_bits()).collect::<Vec<_>>(),
                &sums.iter().map(|x| x.to_bits()).collect::<Vec<_>>()
            );
            assert_eq!((other.1, other.2, other.3, other.4), (7.0, [true, false], 3.0, 1.5));
            assert_eq!(other.5, ["", "größer"]);
        }
    }

    #[test]
    fn no_rank_continues_if_one_has_failed() {
        for (failing, is_same) in [
            ([false, false], true),
            ([true, false], true),
            ([false, true], true),
            ([true, true], true),
            ([true, true], false),
        ] {
            let found = in_process_group(2, |group| {
                let fails = failing[group.rank() as usize];
                let reason = if is_same { "a reason".to_owned() } else { group.rank().to_string() };
                let result = if fails { Err(anyhow::anyhow!("{reason}")) } else { Ok(7) };
                group.all_ranks_ok(result).map_err(|err| {
                    (
                        err.is::<OtherRankFailed>(),
                        err.is::<ReportedByRankZero>(),
                        err.root_cause().to_string(),
                    )
                })
            });
            let other = || Err((true, false, OtherRankFailed.to_string()));
            let own = |is_said| Err((false, is_said, "a reason".to_owned()));
            let other_reason = |rank: &str| Err((false, false, rank.to_owned()));
            let expected = match failing {
                [false, false] => [Ok(7), Ok(7)],
                [true, false] => [own(false), other()],
                [false, true] => [other(), own(false)],
                [true, true] if is_same => [own(false), own(true)],
                [true, true] => ["0", "1"].map(other_reason),
            };
            assert_eq!(found, expected);
        }
    }

    #[test]
    fn a_rank_that_ends_fails_the_collectives_of_the_others() {
        let found = in_process_group(2, |group| {
            if group.is_rank_zero() {
                return None;
            }
            // The other rank may still take part in one more.
            (0..2).find_map(|_| group.any_rank(false).err().map(|err| err.to_string()))
        });
        let text = found[1].as_ref().expect("the other rank is gone");
        assert!(text.contains("rank 1 of 2 lost the others"), "{text}");
    }
}

//! `pretrain --ranks`: the ranks of one machine, each a process of this program.
//!
//! **Invariant:** the launcher ends when all ranks have. Its exit code is that of a rank that
//! failed by itself, if one did. A signal to the launcher reaches each rank once. If a rank fails,
//! the others are asked to stop, and killed if they do not. The launcher's own request never ends a
//! rank that is saving.

use std::env;
use std::ffi::OsString;
use std::net::{Ipv4Addr, TcpListener};
use std::os::fd::AsRawFd as _;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::process::{Child, Command, ExitCode};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rustix::io::{FdFlags, fcntl_setfd};
use rustix::process::{Pid, Signal, getppid, kill_process, set_parent_process_death_signal};
use signal_hook::consts::SIGKILL;

use crate::console::progress::progress;
use crate::console::stop::{self, EXIT_STOPPED};
use crate::ranks::environment;

/// Gives a rank its launcher's process id.
const LAUNCHER: &str = "PATCHMILL_LAUNCHER";
/// Gives the first rank the open socket to listen on.
const LISTENER: &str = "PATCHMILL_LISTENER";
/// libtorch's threads.
const THREADS: &str = "OMP_NUM_THREADS";
/// How often the launcher checks the ranks.
const POLL_INTERVAL: Duration = Duration::from_millis(20);
/// How long ranks may take to end after one has failed: the first may be saving a checkpoint. On a
/// GPU they may wait for the failed rank where no request reaches them.
const GRACE_PERIOD: Duration = Duration::from_secs(300);
/// The exit code of a rank that fails because another did. It may be the first to end.
const PEER_FAILURE: i32 = 1;

/// Runs this program with `arguments` as `count` ranks.
pub fn launch(count: u64, arguments: &[OsString]) -> Result<ExitCode> {
    let signals = stop::signals().into_iter();
    let requests = signals.map(|signal| (signal, Arc::new(AtomicBool::new(false))));
    let requests: Vec<_> = requests.collect();
    for (signal, requested) in &requests {
        signal_hook::flag::register(*signal, Arc::clone(requested))
            .with_context(|| format!("install the handler of signal {signal}"))?;
    }
    // Ranks are born with the signals held, so one that comes early waits for their handlers.
    let running = spawn_ranks(count, arguments);
    stop::release();
    let mut running = running?;
    let mut codes = Vec::new();
    let (mut is_signalled, mut failed, mut is_killed) = (false, None::<Instant>, false);
    while !running.is_empty() {
        for (signal, requested) in &requests {
            if requested.swap(false, Ordering::SeqCst) {
                is_signalled = true;
                signal_all(&running, *signal);
            }
        }
        let mut still = Vec::new();
        for (rank, mut child) in running {
            match child.try_wait().with_context(|| format!("wait for rank {rank}"))? {
                None => still.push((rank, child)),
                Some(status) => codes.push(status.code().unwrap_or_else(|| {
                    progress(&format!("rank {rank} ended by {status}"));
                    let signal = status.signal().unwrap_or(0);
                    let is_by_launcher = match signal {
                        // Ended before it could listen.
                        stop::REQUEST_SIGNAL => failed.is_some(),
                        SIGKILL => is_killed,
                        _ => false,
                    };
                    if is_by_launcher { PEER_FAILURE } else { 128 + signal }
                })),
            }
        }
        running = still;
        let has_failed = |&code: &i32| code != 0 && code != i32::from(EXIT_STOPPED);
        if failed.is_none() && codes.iter().any(has_failed) {
            failed = Some(Instant::now());
            if !is_signalled {
                signal_all(&running, stop::REQUEST_SIGNAL);
            }
        }
        if !is_killed && failed.is_some_and(|at| GRACE_PERIOD <= at.elapsed()) {
            is_killed = true;
            for (rank, child) in &mut running {
                progress(&format!(
                    "rank {rank} has not ended since another rank failed: killing it"
                ));
                let _has_ended = child.kill();
            }
        }
        std::thread::sleep(POLL_INTERVAL);
    }
    Ok(ExitCode::from(u8::try_from(combined_exit_code(&codes)).unwrap_or(1)))
}

/// The most informative exit code: of the first rank that failed by itself, or else of one that
/// failed or stopped.
fn combined_exit_code(codes: &[i32]) -> i32 {
    let stopped = i32::from(EXIT_STOPPED);
    let by_itself = codes.iter().find(|&code| ![0, PEER_FAILURE, stopped].contains(code));
    let code = by_itself.or(codes.iter().find(|&code| ![0, stopped].contains(code)));
    *code.or(codes.iter().find(|&&code| code != 0)).unwrap_or(&0)
}

fn signal_all(running: &[(u64, Child)], signal: i32) {
    let signal = Signal::from_named_raw(signal).expect("a request signal");
    for (_, child) in running {
        let _has_ended = kill_process(Pid::from_child(child), signal);
    }
}

/// Ranks and their processes. Each is in a process group of its own, so a terminal's signal reaches
/// it only through the launcher.
fn spawn_ranks(count: u64, arguments: &[OsString]) -> Result<Vec<(u64, Child)>> {
    let program = env::current_exe().context("find this program")?;
    let listener =
        TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("open a port for the ranks")?;
    let port = listener.local_addr().context("the port of the ranks")?.port();
    let mut listener = Some(listener);
    let cores = std::thread::available_parallelism().map_or(1, usize::from) as u64;
    let mut running: Vec<(u64, Child)> = Vec::new();
    for rank in 0..count {
        let mut command = Command::new(&program);
        command.args(arguments).process_group(0);
        for (name, number) in [("RANK", rank), ("LOCAL_RANK", rank), ("WORLD_SIZE", count)] {
            command.env(name, number.to_string());
        }
        command.env("MASTER_ADDR", Ipv4Addr::LOCALHOST.to_string());
        command.env("MASTER_PORT", port.to_string());
        command.env(LAUNCHER, std::process::id().to_string());
        // These ranks do not belong to a torchrun around this process.
        command.env_remove(environment::AGENT_STORE).env_remove(environment::RESTART_COUNT);
        if env::var_os(THREADS).is_none() {
            command.env(THREADS, (cores / count).max(1).to_string());
        }
        // For the first rank alone.
        let listener = listener.take();
        if let Some(listener) = &listener {
            fcntl_setfd(listener, FdFlags::empty()).context("hand on the port of the ranks")?;
            command.env(LISTENER, listener.as_raw_fd().to_string());
        }
        match command.spawn() {
            Ok(child) => running.push((rank, child)),
            Err(err) => {
                for (_, mut child) in running {
                    let _has_ended = child.kill();
                }
                return Err(err).with_context(|| format!("start rank {rank}"));
            }
        }
    }
    Ok(running)
}

/// A rank's first action: arrange to end when its launcher does, as if asked to stop.
pub fn exit_with_launcher() -> Result<()> {
    let Some(launcher) = number(LAUNCHER) else { return Ok(()) };
    let asking = Signal::from_named_raw(stop::REQUEST_SIGNAL).expect("it has a name");
    set_parent_process_death_signal(Some(asking)).context("follow the launcher")?;
    let parent = getppid().map(|pid| pid.as_raw_nonzero().get());
    anyhow::ensure!(parent == Some(launcher), "the launcher, process {launcher}, has ended");
    Ok(())
}

/// The socket the first rank listens on, if its launcher has opened one.
pub fn listener() -> Option<i32> {
    number(LISTENER)
}

fn number(name: &str) -> Option<i32> {
    env::var(name).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::combined_exit_code;

    #[test]
    fn who_failed_by_itself_says_how_all_ended() {
        for (codes, expected) in [
            (&[0, 0][..], 0),
            (&[0, 75], 75),
            (&[1, 137], 137),
            (&[75, 3], 3),
            (&[75, 1], 1),
            (&[1, 75, 134, 139], 134),
        ] {
            assert_eq!(combined_exit_code(codes), expected, "{codes:?}");
        }
    }
}

//! Collectives between ranks, by libtorch's c10d: Gloo for host tensors, NCCL for GPU tensors.
//!
//! **Invariant:** a collective gives every rank of the group the same bits.

use std::ffi::{CString, c_char, c_int};
use std::net::IpAddr;
use std::ptr::NonNull;
use std::time::Duration;

use tch::Tensor;
use torch_sys::C_tensor;

use super::{ShimError, check};

/// Opaque in Rust.
#[repr(C)]
#[derive(Debug)]
struct PmGroup([u8; 0]);

#[expect(unsafe_code, reason = "libtorch's C++ is reachable in no other way")]
// SAFETY: the signatures match shim/group.cpp.
unsafe extern "C" {
    fn pm_group(
        host: *const c_char,
        port: c_int,
        listens: c_int,
        listen_fd: c_int,
        attempt: *const c_char,
        address: *const c_char,
        interfaces: *const c_char,
        rank: c_int,
        world_size: c_int,
        meet_ms: i64,
        timeout_ms: i64,
        device_timeout_ms: i64,
        group: *mut *mut PmGroup,
    ) -> c_int;
    fn pm_group_abort(group: *mut PmGroup) -> c_int;
    fn pm_group_free(group: *mut PmGroup);
    fn pm_group_all_reduce(group: *mut PmGroup, tensor: *mut C_tensor, is_max: c_int) -> c_int;
    fn pm_group_broadcast(group: *mut PmGroup, tensor: *mut C_tensor) -> c_int;
}

/// Where ranks meet, and how long they wait for each other.
#[derive(Debug)]
pub struct GroupOptions<'a> {
    /// The machine of rank 0.
    pub host: &'a str,
    /// The port there.
    pub port: u16,
    /// Whether this process listens there.
    pub listens: bool,
    /// The socket on which it already listens; the group takes it over. With `None` the group opens
    /// one.
    pub listener: Option<c_int>,
    /// Separates these ranks from those of another start.
    pub attempt: &'a str,
    /// This machine's address, for the other ranks.
    pub address: IpAddr,
    /// The network interfaces to use instead of the one with that address, separated by commas.
    pub interfaces: Option<&'a str>,
    /// The rank of this process.
    pub rank: u64,
    /// The number of ranks.
    pub world_size: u64,
    /// Limit for all ranks to arrive.
    pub init_timeout: Duration,
    /// Limit for all ranks to join a collective.
    pub timeout: Duration,
    /// The same for GPU tensors; exceeding it ends the process.
    pub device_timeout: Duration,
}

/// How all-reduce combines the ranks' numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reduction {
    /// Their sum.
    Sum,
    /// Their maximum.
    Max,
}

/// Ranks that have met.
#[derive(Debug)]
pub struct Group(NonNull<PmGroup>);

impl Group {
    /// Waits for all ranks to arrive.
    pub fn init(options: GroupOptions<'_>) -> Result<Group, ShimError> {
        const OPERATION: &str = "meet the other ranks";
        let error = |message: String| ShimError { operation: OPERATION, message };
        let text = |text: &str| CString::new(text).map_err(|err| error(err.to_string()));
        let number = |number: u64| c_int::try_from(number).map_err(|err| error(err.to_string()));
        let (host, address) = (text(options.host)?, text(&options.address.to_string())?);
        let attempt = text(options.attempt)?;
        let interfaces = options.interfaces.map(text).transpose()?;
        let (rank, world_size) = (number(options.rank)?, number(options.world_size)?);
        let milliseconds = |time: Duration| i64::try_from(time.as_millis()).unwrap_or(i64::MAX);
        let mut group = std::ptr::null_mut();
        #[expect(unsafe_code, reason = "see the extern block")]
        // SAFETY: the texts live for the call; the socket is handed over; `group` is written on
        // success alone.
        let status = unsafe {
            pm_group(
                host.as_ptr(),
                c_int::from(options.port),
                c_int::from(options.listens),
                options.listener.unwrap_or(-1),
                attempt.as_ptr(),
                address.as_ptr(),
                interfaces.as_ref().map_or(std::ptr::null(), |text| text.as_ptr()),
                rank,
                world_size,
                milliseconds(options.init_timeout),
                milliseconds(options.timeout),
                milliseconds(options.device_timeout),
                &raw mut group,
            )
        };
        check(status, OPERATION)?;
        Ok(Group(NonNull::new(group).expect("a call that succeeds hands out a group")))
    }

    /// Replaces a contiguous tensor by the reduction over all ranks. A host tensor is complete on
    /// return; for a GPU tensor the current stream waits, and the host does not.
    pub fn all_reduce(&self, tensor: &mut Tensor, by: Reduction) -> Result<(), ShimError> {
        let is_max = c_int::from(by == Reduction::Max);
        #[expect(unsafe_code, reason = "see the extern block")]
        // SAFETY: both handles are alive for the call, and only the thread that has a group uses
        // it.
        let status = unsafe { pm_group_all_reduce(self.0.as_ptr(), tensor.as_mut_ptr(), is_max) };
        check(status, "all-reduce")
    }

    /// Replaces a contiguous tensor by that of rank 0; waits like [`Group::all_reduce`].
    pub fn broadcast(&self, tensor: &mut Tensor) -> Result<(), ShimError> {
        #[expect(unsafe_code, reason = "see the extern block")]
        // SAFETY: as in `all_reduce`.
        let status = unsafe { pm_group_broadcast(self.0.as_ptr(), tensor.as_mut_ptr()) };
        check(status, "broadcast")
    }

    /// Aborts the collectives a GPU still waits for.
    pub fn abort(&self) -> Result<(), ShimError> {
        #[expect(unsafe_code, reason = "see the extern block")]
        // SAFETY: as in `all_reduce`.
        let status = unsafe { pm_group_abort(self.0.as_ptr()) };
        check(status, "abort collectives")
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        #[expect(unsafe_code, reason = "see the extern block")]
        // SAFETY: this is the only handle, and it was not freed before.
        unsafe {
            pm_group_free(self.0.as_ptr());
        }
    }
}

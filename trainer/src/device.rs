//! The run file's devices and dtypes as libtorch's.
//!
//! fp32 is fp32. TF32 is off for products of fp32 matrices in every run: whoever asks for fp32
//! wants parity, and bf16 is there for speed.
//!
//! **Invariant:** a returned device exists.

use schemas::run;
use tch::{Cuda, Device, Kind};

use crate::ranks::process_group::ProcessGroup;

pub mod cuda;

pub mod attention;

pub mod timing;

pub mod memory;

/// Why a device cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// The requested CUDA device does not exist for libtorch.
    #[error(
        "device is cuda:{index}, but libtorch sees {found} CUDA devices: {why}; or use \"cpu\" or \
         \"auto\"; `patchmill-train doctor` prints more"
    )]
    Missing {
        /// The requested index.
        index: usize,
        /// The number of CUDA devices visible to libtorch.
        found: i64,
        /// The reason why there are so few, and the remedy.
        why: String,
    },
    /// Several ranks of a machine were given one GPU.
    #[error(
        "device is cuda:{index}, for rank {local_rank} of this machine as well as for the others; \
         \"auto\" gives each rank one of its own"
    )]
    Shared {
        /// The requested index.
        index: usize,
        /// This rank within its machine.
        local_rank: u64,
    },
}

/// Like [`resolve`], for a rank of a process group: `auto` is the CUDA device numbered by the rank
/// within its machine, or the only visible one.
pub fn resolve_for(group: &ProcessGroup, device: run::Device) -> Result<Device, DeviceError> {
    let Some(local_rank) = group.local_rank() else { return resolve(device) };
    match device {
        run::Device::Auto if Cuda::is_available() && Cuda::device_count() > 1 => {
            let index = usize::try_from(local_rank).unwrap_or(usize::MAX);
            resolve(run::Device::Cuda(index))
        }
        run::Device::Cuda(index) if local_rank > 0 => {
            Err(DeviceError::Shared { index, local_rank })
        }
        other => resolve(other),
    }
}

/// The run file's device, with `auto` resolved to the first CUDA device if there is one, else the
/// CPU.
pub fn resolve(device: run::Device) -> Result<Device, DeviceError> {
    match device {
        run::Device::Auto => Ok(Device::cuda_if_available()),
        run::Device::Cpu => Ok(Device::Cpu),
        run::Device::Cuda(index) => {
            let found = if Cuda::is_available() { Cuda::device_count() } else { 0 };
            if i64::try_from(index).is_ok_and(|index| index < found) {
                Ok(Device::Cuda(index))
            } else {
                Err(DeviceError::Missing { index, found, why: cuda::why_missing() })
            }
        }
    }
}

/// libtorch's dtype for the run file's compute dtype.
pub fn kind(dtype: run::Dtype) -> Kind {
    match dtype {
        run::Dtype::Fp32 => Kind::Float,
        run::Dtype::Bf16 => Kind::BFloat16,
    }
}

/// A checked size as a tensor extent.
pub(crate) fn extent(size: u64) -> i64 {
    i64::try_from(size).expect("sizes are checked to be small")
}

/// The device as a checkpoint records it.
pub fn name(device: Device) -> String {
    match device {
        Device::Cuda(index) => format!("cuda:{index}"),
        other => format!("{other:?}").to_lowercase(),
    }
}

/// The number of threads libtorch uses within an operation.
pub fn thread_count() -> u64 {
    u64::try_from(tch::get_num_threads()).unwrap_or(0)
}

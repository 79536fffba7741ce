//! From the run file's names of devices and kinds to libtorch's.
//!
//! **Invariant:** a device that is handed out exists.

use schemas::run;
use tch::{Cuda, Device, Kind};

use crate::cuda;

/// Why a device can't be used.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// A CUDA device was asked for and libtorch sees fewer.
    #[error(
        "device is cuda:{index}, but libtorch sees {found} CUDA devices: {why}; or use \"cpu\" or \"auto\"; \
         `patchmill-train doctor` says more"
    )]
    Missing {
        /// The index asked for.
        index: usize,
        /// CUDA devices that libtorch sees.
        found: i64,
        /// Why there are no more, and what to do.
        why: String,
    },
}

/// The device of the run file, `auto` resolved: the first CUDA device if there is one, else the CPU.
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

/// libtorch's kind of the run file's compute dtype.
pub fn kind(dtype: run::Dtype) -> Kind {
    match dtype {
        run::Dtype::Fp32 => Kind::Float,
        run::Dtype::Bf16 => Kind::BFloat16,
    }
}

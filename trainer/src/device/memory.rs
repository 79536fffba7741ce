//! The memory held by the process, measured.
//!
//! **Invariant:** a figure comes from the system or the allocator; one that neither provides is
//! `None`.

use tch::Device;

use crate::shim::ShimError;
use crate::shim::cuda;

/// The peak of the process's memory on `device`, in bytes: everything resident for the CPU, tensors
/// for a GPU.
pub fn peak_memory_bytes(device: Device) -> Result<Option<u64>, ShimError> {
    match device {
        Device::Cuda(index) => Ok(Some(cuda::memory(index)?.allocated_peak_bytes)),
        _ => Ok(resident_bytes("VmHWM:")),
    }
}

/// The process's resident memory now, in bytes.
pub fn resident_memory_bytes() -> Option<u64> {
    resident_bytes("VmRSS:")
}

fn resident_bytes(field: &str) -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with(field))?;
    Some(1024 * line.split_whitespace().nth(1)?.parse::<u64>().ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cpu_has_a_memory() {
        let resident = resident_memory_bytes().unwrap();
        assert!(peak_memory_bytes(Device::Cpu).unwrap().unwrap() >= resident);
    }
}

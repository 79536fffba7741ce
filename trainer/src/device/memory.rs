//! The memory that the process holds, measured.
//!
//! **Invariant:** a figure is the system's or the allocator's own; what neither gives is `None`.

use tch::Device;

use crate::shim::ShimError;
use crate::shim::cuda;

/// The most memory, in bytes, that the process held on `device`: of the CPU all that was resident,
/// of a GPU what tensors took.
pub fn peak_memory_bytes(device: Device) -> Result<Option<u64>, ShimError> {
    match device {
        Device::Cuda(index) => Ok(Some(cuda::memory(index)?.allocated_peak_bytes)),
        _ => Ok(resident_bytes("VmHWM:")),
    }
}

/// What is resident of the process now.
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

//! The allocator of a trainer's process. It is tested in a process of its own because it is chosen
//! before the first tensor is made.

use tch::{Device, Kind, Tensor};
use trainer::shim::keep_freed_memory;
use trainer::shim::memory::peak_bytes;

fn bytes(count: i64) -> Tensor {
    Tensor::zeros([count], (Kind::Uint8, Device::Cpu))
}

#[test]
fn memory_is_aligned_counted_and_fits_the_next_tensor_of_its_size() {
    keep_freed_memory().unwrap();
    for count in [1, 63, 64, 65, 4096, 1 << 20, (3 << 20) + 1, 80 << 20] {
        let (tensor, peak) = peak_bytes(|| bytes(count)).unwrap();
        let place = tensor.data_ptr() as usize;
        assert!(place.is_multiple_of(64), "{count} bytes at {place:#x}");
        assert_eq!(peak, count.cast_unsigned());
        if count >= 1 << 20 {
            // Keeps the freed block a hole of its size.
            let _fence = bytes(1 << 16);
            drop(tensor);
            assert_eq!(bytes(count).data_ptr() as usize, place, "{count} bytes");
        }
    }
    assert_eq!(bytes(0).numel(), 0);
    let mut grown = Tensor::from_slice(&[1.0f32, 2.0]);
    let _ = grown.resize_([1000]);
    assert_eq!(grown.double_value(&[1]), 2.0);
}

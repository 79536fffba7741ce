// Host memory a GPU copies from by itself.
#include "handles.h"
#include "error.h"

#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>

extern "C" {

int pm_cuda_pin(int device, void* memory, int64_t bytes) {
  return patchmill::guard([&] {
    // Otherwise this thread would use the context of device 0.
    c10::cuda::CUDAGuard guard{c10::DeviceIndex(device)};
    C10_CUDA_CHECK(cudaHostRegister(memory, size_t(bytes), cudaHostRegisterPortable));
  });
}

int pm_cuda_unpin(void* memory) {
  return patchmill::guard([&] { C10_CUDA_CHECK(cudaHostUnregister(memory)); });
}

int pm_cuda_upload(at::Tensor* to, const void* from, int64_t bytes, const PmStream* stream) {
  return patchmill::guard([&] {
    TORCH_CHECK(to->is_cuda() && to->is_contiguous() && int64_t(to->nbytes()) == bytes,
                "expected a contiguous tensor of ", bytes, " bytes on a GPU; found ", to->nbytes(),
                " bytes on ", to->device());
    c10::cuda::CUDAGuard guard(to->device());
    C10_CUDA_CHECK(cudaMemcpyAsync(to->mutable_data_ptr(), from, size_t(bytes),
                                   cudaMemcpyHostToDevice, stream->stream));
  });
}

}

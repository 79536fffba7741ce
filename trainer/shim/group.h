// Ranks that work together. c10d's Gloo moves tensors of the host; those of a GPU go by NCCL, which
// cuda_group.cpp makes, or cuda_absent.cpp refuses to.
#pragma once

#include <torch/csrc/distributed/c10d/Backend.hpp>
#include <torch/csrc/distributed/c10d/Store.hpp>

#include <chrono>

namespace patchmill {

// What moves the tensors of this process' GPU.
c10::intrusive_ptr<c10d::Backend> device_backend(const c10::intrusive_ptr<c10d::Store>& store,
                                                 int rank, int world_size,
                                                 std::chrono::milliseconds timeout);

}  // namespace patchmill

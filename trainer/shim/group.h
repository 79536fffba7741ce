// Collectives of ranks. c10d's Gloo moves host tensors. GPU tensors go by NCCL:
// cuda/group.cpp creates it, or cuda/absent.cpp refuses to.
#pragma once

#include <torch/csrc/distributed/c10d/Backend.hpp>
#include <torch/csrc/distributed/c10d/Store.hpp>

#include <chrono>

namespace patchmill {

// The backend for tensors of this process's GPU.
c10::intrusive_ptr<c10d::Backend> device_backend(const c10::intrusive_ptr<c10d::Store>& store,
                                                 int rank, int world_size,
                                                 std::chrono::milliseconds timeout);

}  // namespace patchmill

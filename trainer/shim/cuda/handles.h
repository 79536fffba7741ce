// Contents of the opaque handles of cuda.h.
#pragma once

#include "cuda.h"

#include <ATen/cuda/CUDAEvent.h>
#include <ATen/cuda/CUDAGraph.h>
#include <c10/cuda/CUDAStream.h>

struct PmStream {
  c10::cuda::CUDAStream stream;
};

struct PmEvent {
  explicit PmEvent(unsigned flags) : event(flags) {}
  at::cuda::CUDAEvent event;
};

struct PmGraph {
  at::cuda::CUDAGraph graph;
};

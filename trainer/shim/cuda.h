// The ABI of what only a GPU has. Either all of cuda_*.cpp define it, or cuda_absent.cpp does,
// whose functions fail with a text that says why: so Rust code is one. Which it is, build.rs
// decides by what lies in libtorch's folder.
//
// As everywhere in the shim: 0 is success, -1 failure with its text in `pm_last_error`;
// out-parameters are written on success alone. Handles are made by the functions that write them
// and freed by the `_free` of their kind, which takes none of them twice; `_free` never fails and
// waits for nothing.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

extern "C" {

// Opaque.
struct PmStream;
struct PmEvent;
struct PmGraph;

struct PmCudaProperties {
  char name[256];  // ends with a zero
  int64_t memory_bytes;
  int32_t multiprocessors;
  int32_t capability_major;
  int32_t capability_minor;
};

struct PmCudaMemory {
  int64_t allocated_bytes;       // in tensors
  int64_t allocated_peak_bytes;  // since the last reset
  int64_t reserved_bytes;        // taken from the driver
  int64_t reserved_peak_bytes;
};

// 1 if the shim was built against the CUDA flavour, else 0. Cannot fail.
int pm_cuda_built();

// cuda_device.cpp
int pm_cuda_properties(int device, PmCudaProperties* properties);
int pm_cuda_memory(int device, PmCudaMemory* memory);
int pm_cuda_reset_peaks(int device);
// Waits until the device has done all that it was given.
int pm_cuda_synchronize(int device);
// While 1: an operation of libtorch that makes the host wait for the device fails instead. For
// tests.
int pm_cuda_forbid_waits(int forbid);

// cuda_stream.cpp. A stream of the device's pool; one of high priority goes before others.
int pm_cuda_stream(int device, int is_high_priority, PmStream** stream);
void pm_cuda_stream_free(PmStream* stream);
// The stream of this thread on the device, and how to change it; the thread's device becomes that
// of the stream.
int pm_cuda_current_stream(int device, PmStream** stream);
int pm_cuda_set_current_stream(const PmStream* stream);
// Memory of `tensor` is not used again before what `stream` was given up to the tensor's end is
// done.
int pm_cuda_record_stream(const at::Tensor* tensor, const PmStream* stream);

// An event; `is_timed` ones can tell the time between them.
int pm_cuda_event(int is_timed, PmEvent** event);
void pm_cuda_event_free(PmEvent* event);
int pm_cuda_event_record(PmEvent* event, const PmStream* stream);
// The stream, not the host, waits for what the event has recorded.
int pm_cuda_event_block(PmEvent* event, const PmStream* stream);
int pm_cuda_event_is_done(const PmEvent* event, int* is_done);
// The host waits.
int pm_cuda_event_synchronize(const PmEvent* event);
// Both are recorded, timed and done.
int pm_cuda_event_elapsed(const PmEvent* start, const PmEvent* end, double* milliseconds);

// cuda_graph.cpp. What this thread's current stream is given between begin and end is captured and
// not run; it must not be the default stream. Other threads go on as ever. `shares_pool_of` may be
// null; graphs that share memory are replayed in the order of their capture.
int pm_cuda_graph(PmGraph** graph);
void pm_cuda_graph_free(PmGraph* graph);
int pm_cuda_graph_begin(PmGraph* graph, PmGraph* shares_pool_of);
int pm_cuda_graph_end(PmGraph* graph);
// Runs the captured work on the current stream.
int pm_cuda_graph_replay(PmGraph* graph);

// cuda_host.cpp. Pins memory that exists, for the copies of every device; it is unpinned before it
// goes.
int pm_cuda_pin(int device, void* memory, int64_t bytes);
int pm_cuda_unpin(void* memory);
// Copies `bytes`, which is all of `to`, from pinned memory on `stream`, and does not wait for it:
// the memory must stay as it is until an event behind the copy is done.
int pm_cuda_upload(at::Tensor* to, const void* from, int64_t bytes, const PmStream* stream);

}

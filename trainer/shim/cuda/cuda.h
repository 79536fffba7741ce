// The ABI of GPU-only features. It is defined either by all other sources of this folder, or by
// absent.cpp, whose functions fail with a reason: so the Rust code is the same. build.rs decides
// which by the contents of libtorch's folder.
//
// As everywhere in the shim, 0 is success, and -1 is failure with its text in `pm_last_error`;
// out-parameters are written on success alone. Each handle is made by the function that writes it
// and freed once by the `_free` of its kind; `_free` never fails and never waits.
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
// Waits until the device has finished everything it was given.
int pm_cuda_synchronize(int device);
// While 1, an operation of libtorch that makes the host wait for the device fails instead. For
// tests.
int pm_cuda_forbid_waits(int forbid);

// cuda_stream.cpp. A stream of the device's pool; one of high priority runs before others.
int pm_cuda_stream(int device, int is_high_priority, PmStream** stream);
void pm_cuda_stream_free(PmStream* stream);
// This thread's current stream on the device, and how to change it; the thread's device becomes
// that of the stream.
int pm_cuda_current_stream(int device, PmStream** stream);
int pm_cuda_set_current_stream(const PmStream* stream);
// Keeps the memory of `tensor` from being reused until `stream` has finished the work it was given
// before the tensor's end.
int pm_cuda_record_stream(const at::Tensor* tensor, const PmStream* stream);

// An event; the time between two `is_timed` ones can be read.
int pm_cuda_event(int is_timed, PmEvent** event);
void pm_cuda_event_free(PmEvent* event);
int pm_cuda_event_record(PmEvent* event, const PmStream* stream);
// The stream, not the host, waits for the work recorded by the event.
int pm_cuda_event_block(PmEvent* event, const PmStream* stream);
int pm_cuda_event_is_done(const PmEvent* event, int* is_done);
// The host waits.
int pm_cuda_event_synchronize(const PmEvent* event);
// Both must be recorded, timed and done.
int pm_cuda_event_elapsed(const PmEvent* start, const PmEvent* end, double* milliseconds);

// cuda_graph.cpp. Work given to this thread's current stream between begin and end is captured, not
// run; the stream must not be the default one. Other threads continue as usual. `shares_pool_of`
// may be null; graphs that share memory are replayed in the order of their capture.
int pm_cuda_graph(PmGraph** graph);
void pm_cuda_graph_free(PmGraph* graph);
int pm_cuda_graph_begin(PmGraph* graph, PmGraph* shares_pool_of);
int pm_cuda_graph_end(PmGraph* graph);
// Runs the captured work on the current stream.
int pm_cuda_graph_replay(PmGraph* graph);

// cuda_host.cpp. Pins existing memory, for copies to every device; it must be unpinned before it is
// freed.
int pm_cuda_pin(int device, void* memory, int64_t bytes);
int pm_cuda_unpin(void* memory);
// Copies `bytes`, the size of all of `to`, from pinned memory on `stream`, without waiting: the
// memory must stay unchanged until an event recorded after the copy is done.
int pm_cuda_upload(at::Tensor* to, const void* from, int64_t bytes, const PmStream* stream);

}

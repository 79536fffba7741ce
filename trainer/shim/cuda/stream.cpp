// Streams and events of a GPU.
#include "handles.h"
#include "error.h"

extern "C" {

int pm_cuda_stream(int device, int is_high_priority, PmStream** stream) {
  return patchmill::guard([&] {
    *stream =
        new PmStream{c10::cuda::getStreamFromPool(is_high_priority != 0, c10::DeviceIndex(device))};
  });
}

void pm_cuda_stream_free(PmStream* stream) { delete stream; }

int pm_cuda_current_stream(int device, PmStream** stream) {
  return patchmill::guard(
      [&] { *stream = new PmStream{c10::cuda::getCurrentCUDAStream(c10::DeviceIndex(device))}; });
}

int pm_cuda_set_current_stream(const PmStream* stream) {
  return patchmill::guard([&] {
    c10::cuda::set_device(stream->stream.device_index());
    c10::cuda::setCurrentCUDAStream(stream->stream);
  });
}

int pm_cuda_record_stream(const at::Tensor* tensor, const PmStream* stream) {
  return patchmill::guard([&] { tensor->record_stream(stream->stream); });
}

int pm_cuda_event(int is_timed, PmEvent** event) {
  return patchmill::guard(
      [&] { *event = new PmEvent(is_timed != 0 ? cudaEventDefault : cudaEventDisableTiming); });
}

void pm_cuda_event_free(PmEvent* event) { delete event; }

int pm_cuda_event_record(PmEvent* event, const PmStream* stream) {
  return patchmill::guard([&] { event->event.record(stream->stream); });
}

int pm_cuda_event_block(PmEvent* event, const PmStream* stream) {
  return patchmill::guard([&] { event->event.block(stream->stream); });
}

int pm_cuda_event_is_done(const PmEvent* event, int* is_done) {
  return patchmill::guard([&] { *is_done = event->event.query(); });
}

int pm_cuda_event_synchronize(const PmEvent* event) {
  return patchmill::guard([&] { event->event.synchronize(); });
}

int pm_cuda_event_elapsed(const PmEvent* start, const PmEvent* end, double* milliseconds) {
  return patchmill::guard([&] { *milliseconds = start->event.elapsed_time(end->event); });
}

}

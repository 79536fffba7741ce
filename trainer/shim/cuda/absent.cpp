// The functions of cuda.h for the CPU flavour of libtorch: each fails and gives the reason.
#include "cuda.h"
#include "error.h"
#include "group.h"

namespace {

constexpr const char* ABSENT =
    "this program was built against the CPU libtorch; build it with `./bootstrap.sh --cuda build`";

int absent() {
  return patchmill::guard([] { TORCH_CHECK(false, ABSENT); });
}

}  // namespace

namespace patchmill {

c10::intrusive_ptr<c10d::Backend> device_backend(const c10::intrusive_ptr<c10d::Store>&, int, int,
                                                 std::chrono::milliseconds) {
  TORCH_CHECK(false, ABSENT);
}

}  // namespace patchmill

extern "C" {

int pm_cuda_built() { return 0; }

int pm_cuda_properties(int, PmCudaProperties*) { return absent(); }
int pm_cuda_memory(int, PmCudaMemory*) { return absent(); }
int pm_cuda_reset_peaks(int) { return absent(); }
int pm_cuda_synchronize(int) { return absent(); }
int pm_cuda_forbid_waits(int) { return absent(); }

int pm_cuda_stream(int, int, PmStream**) { return absent(); }
void pm_cuda_stream_free(PmStream*) {}
int pm_cuda_current_stream(int, PmStream**) { return absent(); }
int pm_cuda_set_current_stream(const PmStream*) { return absent(); }
int pm_cuda_record_stream(const at::Tensor*, const PmStream*) { return absent(); }

int pm_cuda_event(int, PmEvent**) { return absent(); }
void pm_cuda_event_free(PmEvent*) {}
int pm_cuda_event_record(PmEvent*, const PmStream*) { return absent(); }
int pm_cuda_event_block(PmEvent*, const PmStream*) { return absent(); }
int pm_cuda_event_is_done(const PmEvent*, int*) { return absent(); }
int pm_cuda_event_synchronize(const PmEvent*) { return absent(); }
int pm_cuda_event_elapsed(const PmEvent*, const PmEvent*, double*) { return absent(); }

int pm_cuda_graph(PmGraph**) { return absent(); }
void pm_cuda_graph_free(PmGraph*) {}
int pm_cuda_graph_begin(PmGraph*, PmGraph*) { return absent(); }
int pm_cuda_graph_end(PmGraph*) { return absent(); }
int pm_cuda_graph_replay(PmGraph*) { return absent(); }

int pm_cuda_pin(int, void*, int64_t) { return absent(); }
int pm_cuda_unpin(void*) { return absent(); }
int pm_cuda_upload(at::Tensor*, const void*, int64_t, const PmStream*) { return absent(); }

}

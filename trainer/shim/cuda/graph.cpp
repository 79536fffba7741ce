// CUDA graphs: work captured once and replayed by one launch.
#include "handles.h"
#include "error.h"

extern "C" {

int pm_cuda_graph(PmGraph** graph) {
  return patchmill::guard([&] { *graph = new PmGraph(); });
}

void pm_cuda_graph_free(PmGraph* graph) { delete graph; }

int pm_cuda_graph_begin(PmGraph* graph, PmGraph* shares_pool_of) {
  return patchmill::guard([&] {
    const auto pool =
        shares_pool_of != nullptr ? shares_pool_of->graph.pool() : c10::MempoolId_t{0, 0};
    // Thread-local: the loader's threads may pin memory meanwhile, which a capture in global mode
    // would forbid.
    graph->graph.capture_begin(pool, cudaStreamCaptureModeThreadLocal);
  });
}

int pm_cuda_graph_end(PmGraph* graph) {
  return patchmill::guard([&] { graph->graph.capture_end(); });
}

int pm_cuda_graph_replay(PmGraph* graph) {
  return patchmill::guard([&] { graph->graph.replay(); });
}

}

// Collectives between ranks: all ranks of a group make the same calls in the same order.
#define USE_C10D_GLOO
#include "group.h"
#include "error.h"

#include <torch/csrc/distributed/c10d/PrefixStore.hpp>
#include <torch/csrc/distributed/c10d/ProcessGroupGloo.hpp>
#include <torch/csrc/distributed/c10d/TCPStore.hpp>

using at::Tensor;

struct PmGroup {
  int rank;
  int world_size;
  std::chrono::milliseconds timeout;
  c10::intrusive_ptr<c10d::Store> store;
  c10::intrusive_ptr<c10d::Backend> host;
  c10::intrusive_ptr<c10d::Backend> device;  // from its first use on

  c10d::Backend& backend_of(const Tensor& tensor) {
    TORCH_CHECK(tensor.is_contiguous(), "expected a contiguous tensor");
    if (!tensor.is_cuda()) {
      return *host;
    }
    if (!device) {
      device = patchmill::device_backend(c10::make_intrusive<c10d::PrefixStore>("device", store), rank, world_size, timeout);
    }
    return *device;
  }
};

extern "C" {

// Meets the other ranks at `host`:`port`. Who `listens` there does so on the socket `listen_fd`, which it takes over, or on one that
// it opens (-1). Ranks of another `attempt` are others. `address` is this machine's, under which the other ranks reach it;
// `interface` names a network interface instead, where it is not null. Waits `meet_ms` for the others at the beginning, and
// `timeout_ms` in each collective.
int pm_group(const char* host, int port, int listens, int listen_fd, const char* attempt, const char* address,
             const char* interface, int rank, int world_size, int64_t meet_ms, int64_t timeout_ms, PmGroup** group) {
  return patchmill::guard([&] {
    c10d::TCPStoreOptions options;
    options.port = uint16_t(port);
    options.isServer = listens != 0;
    options.numWorkers = size_t(world_size);
    options.timeout = std::chrono::milliseconds(meet_ms);
    if (listen_fd >= 0) {
      options.masterListenFd = listen_fd;
    }
    auto made = std::make_unique<PmGroup>();
    made->rank = rank;
    made->world_size = world_size;
    made->timeout = std::chrono::milliseconds(timeout_ms);
    auto store = c10::make_intrusive<c10d::TCPStore>(host, options);
    made->store = c10::make_intrusive<c10d::PrefixStore>("patchmill/" + std::string(attempt), store);
    const auto name = "rank " + std::to_string(rank);
    TORCH_CHECK(made->store->add(name, 1) == 1, "there is another ", name, ": each process needs a number of its own");
    auto gloo = c10d::ProcessGroupGloo::Options::create(options.timeout);
    gloo->devices.push_back(interface != nullptr ? c10d::ProcessGroupGloo::createDeviceForInterface(interface)
                                                 : c10d::ProcessGroupGloo::createDeviceForHostname(address));
    made->host = c10::make_intrusive<c10d::ProcessGroupGloo>(c10::make_intrusive<c10d::PrefixStore>("host", made->store),
                                                             rank, world_size, gloo);
    made->host->setTimeout(made->timeout);
    *group = made.release();
  });
}

void pm_group_free(PmGroup* group) { delete group; }

// Makes `tensor` the sum over the ranks of all their tensors, or the largest; bit for bit the same on every rank. On the host it is
// so when this returns; on a GPU the current stream waits for it, and the host does not.
int pm_group_all_reduce(PmGroup* group, Tensor* tensor, int is_max) {
  return patchmill::guard([&] {
    std::vector<Tensor> tensors{*tensor};
    c10d::AllreduceOptions options;
    options.reduceOp = is_max != 0 ? c10d::ReduceOp::MAX : c10d::ReduceOp::SUM;
    group->backend_of(*tensor).allreduce(tensors, options)->wait();
  });
}

// Makes `tensor` what it is on rank 0.
int pm_group_broadcast(PmGroup* group, Tensor* tensor) {
  return patchmill::guard([&] {
    std::vector<Tensor> tensors{*tensor};
    group->backend_of(*tensor).broadcast(tensors, c10d::BroadcastOptions())->wait();
  });
}

}

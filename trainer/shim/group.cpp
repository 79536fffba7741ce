// Collectives between ranks: all ranks of a group make the same calls in the same order.
//
// libtorch exports Gloo's process group, but its wheel omits Gloo's headers. `gloo/` declares the
// types needed by the process group's header.
#define USE_C10D_GLOO
#include "group.h"
#include "error.h"

#include <torch/csrc/distributed/c10d/PrefixStore.hpp>
#include <torch/csrc/distributed/c10d/ProcessGroupGloo.hpp>
#include <torch/csrc/distributed/c10d/TCPStore.hpp>

#include <sstream>
#include <thread>

using at::Tensor;

struct PmGroup {
  int rank;
  int world_size;
  std::chrono::milliseconds device_timeout;
  c10::intrusive_ptr<c10d::Store> store;
  c10::intrusive_ptr<c10d::Backend> host;
  c10::intrusive_ptr<c10d::Backend> device;  // from its first use on

  c10d::Backend& backend_of(const Tensor& tensor) {
    TORCH_CHECK(tensor.is_contiguous(), "expected a contiguous tensor");
    if (!tensor.is_cuda()) {
      return *host;
    }
    if (!device) {
      device = patchmill::device_backend(c10::make_intrusive<c10d::PrefixStore>("device", store),
                                         rank, world_size, device_timeout);
    }
    return *device;
  }
};

namespace {

std::string rank_name(int rank) { return "rank " + std::to_string(rank); }

// Waits until every rank has announced itself in the store. Fails at once if two processes have one
// number or another rank counts another number of ranks, and after the limit with the ranks that
// are missing.
void meet(c10d::Store& store, int rank, int world_size, std::chrono::milliseconds limit) {
  TORCH_CHECK(store.add(rank_name(rank), 1) == 1, "there is another ", rank_name(rank),
              ": each process needs a number of its own");
  const auto key = [](int of) { return "world size of " + rank_name(of); };
  const auto own = std::to_string(world_size);
  store.set(key(rank), std::vector<uint8_t>(own.begin(), own.end()));
  const auto end = std::chrono::steady_clock::now() + limit;
  for (int next = 0;;) {
    while (next < world_size && store.check({key(next)})) {
      const auto bytes = store.get(key(next));
      const std::string found(bytes.begin(), bytes.end());
      TORCH_CHECK(found == own, rank_name(next), " was started as one of ", found, " ranks, ",
                  rank_name(rank), " as one of ", own, ": start all ranks with the same number");
      ++next;
    }
    if (next == world_size) {
      return;
    }
    if (std::chrono::steady_clock::now() >= end) {
      std::string missing;
      for (int of = next; of < world_size; ++of) {
        if (!store.check({key(of)})) {
          missing += (missing.empty() ? "" : ", ") + std::to_string(of);
        }
      }
      TORCH_CHECK(false, "of ", world_size, " ranks these did not arrive within ",
                  limit.count() / 1000, " s: ", missing);
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  }
}

}  // namespace

extern "C" {

// Meets the other ranks at `host`:`port`. The rank that `listens` there does so on the socket
// `listen_fd`, which it takes over, or opens one itself (-1). Ranks with another `attempt` are
// separate. `address` is this machine's, reachable by the other ranks; `interfaces`, if not null,
// names network interfaces to use instead, separated by commas. Waits `meet_ms` for the others at
// the beginning, and in each collective `timeout_ms`, or `device_timeout_ms` for GPU tensors.
int pm_group(const char* host, int port, int listens, int listen_fd, const char* attempt,
             const char* address, const char* interfaces, int rank, int world_size, int64_t meet_ms,
             int64_t timeout_ms, int64_t device_timeout_ms, PmGroup** group) {
  return patchmill::guard([&] {
    c10d::TCPStoreOptions options;
    options.port = uint16_t(port);
    options.isServer = listens != 0;
    options.numWorkers = size_t(world_size);
    options.timeout = std::chrono::milliseconds(meet_ms);
    options.waitWorkers = false;  // `meet` names those that are missing
    if (listen_fd >= 0) {
      options.masterListenFd = listen_fd;
    }
    auto made = std::make_unique<PmGroup>();
    made->rank = rank;
    made->world_size = world_size;
    made->device_timeout = std::chrono::milliseconds(device_timeout_ms);
    auto store = c10::make_intrusive<c10d::TCPStore>(host, options);
    made->store =
        c10::make_intrusive<c10d::PrefixStore>("patchmill/" + std::string(attempt), store);
    try {
      meet(*made->store, rank, world_size, options.timeout);
    } catch (...) {
      // The others read the reason from the store of this process.
      std::this_thread::sleep_for(std::chrono::milliseconds(listens != 0 ? 1000 : 0));
      throw;
    }
    auto gloo = c10d::ProcessGroupGloo::Options::create(options.timeout);
    if (interfaces == nullptr) {
      gloo->devices.push_back(c10d::ProcessGroupGloo::createDeviceForHostname(address));
    } else {
      std::istringstream names(interfaces);
      for (std::string name; std::getline(names, name, ',');) {
        gloo->devices.push_back(c10d::ProcessGroupGloo::createDeviceForInterface(name));
      }
    }
    made->host = c10::make_intrusive<c10d::ProcessGroupGloo>(
        c10::make_intrusive<c10d::PrefixStore>("host", made->store), rank, world_size, gloo);
    made->host->setTimeout(std::chrono::milliseconds(timeout_ms));
    *group = made.release();
  });
}

// Aborts the collectives a GPU still waits for, so that its streams finish. The group is unusable
// after that.
int pm_group_abort(PmGroup* group) {
  return patchmill::guard([&] {
    if (group->device) {
      group->device->abort();
    }
  });
}

void pm_group_free(PmGroup* group) { delete group; }

// Replaces `tensor` by the sum over all ranks, or the maximum; bit for bit the same on every rank.
// A host tensor is complete on return. For a GPU tensor the current stream waits, and the host does
// not.
int pm_group_all_reduce(PmGroup* group, Tensor* tensor, int is_max) {
  return patchmill::guard([&] {
    std::vector<Tensor> tensors{*tensor};
    c10d::AllreduceOptions options;
    options.reduceOp = is_max != 0 ? c10d::ReduceOp::MAX : c10d::ReduceOp::SUM;
    group->backend_of(*tensor).allreduce(tensors, options)->wait();
  });
}

// Replaces `tensor` by that of rank 0.
int pm_group_broadcast(PmGroup* group, Tensor* tensor) {
  return patchmill::guard([&] {
    std::vector<Tensor> tensors{*tensor};
    group->backend_of(*tensor).broadcast(tensors, c10d::BroadcastOptions())->wait();
  });
}

}

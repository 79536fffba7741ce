// Counts the operations called by a piece of code, so a test can assert which ones it does not
// call.
#include "error.h"

#include <ATen/record_function.h>

#include <cstdint>
#include <map>
#include <mutex>
#include <string>
#include <utility>

namespace {

std::mutex counts_mutex;  // backward passes on a GPU run on threads of their own
// Keyed by the outermost operation and the operation itself.
std::map<std::pair<std::string, std::string>, int64_t> counts;
thread_local std::string outermost;
thread_local int64_t depth = 0;
thread_local at::CallbackHandle counting = at::INVALID_CALLBACK_HANDLE;
thread_local std::string listing;

// Whether this is a copy from a device to the host, which waits for the device.
bool is_copy_to_host(const at::RecordFunction& call) {
  if (std::string(call.name()) != "aten::copy_" || call.inputs().size() < 2) {
    return false;
  }
  const auto& to = call.inputs()[0];
  const auto& from = call.inputs()[1];
  const bool are_tensors =
      to.isTensor() && from.isTensor() && to.toTensor().defined() && from.toTensor().defined();
  return are_tensors && to.toTensor().is_cpu() && !from.toTensor().is_cpu();
}

std::unique_ptr<at::ObserverContext> enter(const at::RecordFunction& call) {
  if (depth++ == 0) {
    outermost = call.name();
  }
  std::lock_guard<std::mutex> lock(counts_mutex);
  ++counts[{outermost, call.name()}];
  if (is_copy_to_host(call)) {
    ++counts[{outermost, "copy to host"}];
  }
  return nullptr;
}

void leave(const at::RecordFunction&, at::ObserverContext*) { --depth; }

}  // namespace

extern "C" {

// Counts from now on every operation of this thread, and of the backward passes that it starts. One
// thread at a time.
int pm_count_begin() {
  return patchmill::guard([&] {
    TORCH_CHECK(counting == at::INVALID_CALLBACK_HANDLE, "this thread counts already");
    {
      std::lock_guard<std::mutex> lock(counts_mutex);
      counts.clear();
    }
    counting = at::addThreadLocalCallback(at::RecordFunctionCallback(&enter, &leave)
                                              .needsInputs(true)
                                              .scopes({at::RecordScope::FUNCTION}));
  });
}

// Stops counting. `listing_out` has one line for each operation within each outermost one: the
// outermost one's name, a tab, its own name, a tab, the number of calls. Besides the operations it
// lists "copy to host". It is valid until the next call on this thread.
int pm_count_end(const char** listing_out) {
  return patchmill::guard([&] {
    TORCH_CHECK(counting != at::INVALID_CALLBACK_HANDLE, "this thread does not count");
    at::removeCallback(counting);
    counting = at::INVALID_CALLBACK_HANDLE;
    std::lock_guard<std::mutex> lock(counts_mutex);
    listing.clear();
    for (const auto& [names, times] : counts) {
      listing += names.first + "\t" + names.second + "\t" + std::to_string(times) + "\n";
    }
    *listing_out = listing.c_str();
  });
}

}

// Where the time of libtorch's operations goes, on the calling thread: what each took itself, without those it called.
#include "error.h"

#include <ATen/record_function.h>

#include <chrono>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

namespace {

using Clock = std::chrono::steady_clock;

struct Row {
  int64_t calls = 0;
  double seconds = 0;
};

struct Frame {
  std::string name;
  Clock::time_point started;
  double inside = 0;  // seconds in operations that this one called
};

thread_local std::vector<Frame> frames;
thread_local std::map<std::string, Row> rows;
thread_local at::CallbackHandle callback = 0;
thread_local std::string text;

std::unique_ptr<at::ObserverContext> enter(const at::RecordFunction& function) {
  frames.push_back({function.name(), Clock::now()});
  return nullptr;
}

void leave(const at::RecordFunction&, at::ObserverContext*) {
  if (frames.empty()) {
    return;  // began before the profile did
  }
  const auto frame = frames.back();
  frames.pop_back();
  const double seconds = std::chrono::duration<double>(Clock::now() - frame.started).count();
  auto& row = rows[frame.name];
  row.calls += 1;
  row.seconds += seconds - frame.inside;
  if (!frames.empty()) {
    frames.back().inside += seconds;
  }
}

}  // namespace

extern "C" {

// Begins a profile of this thread.
int pm_profile_start() {
  return patchmill::guard([] {
    TORCH_CHECK(callback == 0, "a profile of this thread is under way");
    frames.clear();
    rows.clear();
    callback = at::addThreadLocalCallback(at::RecordFunctionCallback(enter, leave).scopes(
        {at::RecordScope::FUNCTION, at::RecordScope::BACKWARD_FUNCTION, at::RecordScope::USER_SCOPE}));
  });
}

// Ends it. *out: lines of "name<TAB>calls<TAB>seconds", valid until this thread's next call.
int pm_profile_stop(const char** out) {
  return patchmill::guard([&] {
    TORCH_CHECK(callback != 0, "no profile of this thread is under way");
    at::removeCallback(callback);
    callback = 0;
    text.clear();
    for (const auto& [name, row] : rows) {
      text += name + "\t" + std::to_string(row.calls) + "\t" + std::to_string(row.seconds) + "\n";
    }
    *out = text.c_str();
  });
}

}

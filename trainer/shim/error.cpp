#include "error.h"

#include <torch/version.h>

namespace {
thread_local std::string last_error;
}

namespace patchmill {
void set_last_error(std::string text) noexcept { last_error = std::move(text); }
}  // namespace patchmill

extern "C" {

// Text of the last failure on this thread. Valid until the next failure on it.
const char* pm_last_error() { return last_error.c_str(); }

// Version of the libtorch that the shim was compiled against. Static.
const char* pm_torch_version() { return TORCH_VERSION; }

}

#include "error.h"

#include <torch/version.h>

namespace {
thread_local std::string error_text;
}

namespace patchmill {
void set_last_error(std::string text) noexcept { error_text = std::move(text); }
const std::string& last_error() noexcept { return error_text; }
}  // namespace patchmill

extern "C" {

// Text of the last failure on this thread, valid until the next failure on it.
const char* pm_last_error() { return error_text.c_str(); }

// Reports the failure of a callback passed to the shim, also on this thread.
void pm_set_last_error(const char* text) { patchmill::set_last_error(text); }

// Version of the libtorch the shim was compiled against. Static.
const char* pm_torch_version() { return TORCH_VERSION; }

}

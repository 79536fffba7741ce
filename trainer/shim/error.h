// Error reporting of the shim: every function catches every exception, keeps its text for
// `pm_last_error` and returns -1; 0 is success. Out-parameters are written on success alone.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/util/Exception.h>

#include <exception>
#include <string>

namespace patchmill {

void set_last_error(std::string text) noexcept;
const std::string& last_error() noexcept;

template <class Body>
int guard(Body body) noexcept {
  try {
    body();
    return 0;
  } catch (const c10::Error& error) {
    set_last_error(error.what_without_backtrace());
  } catch (const std::exception& error) {
    set_last_error(error.what());
  } catch (...) {
    set_last_error("a C++ exception that is no std::exception");
  }
  return -1;
}

}  // namespace patchmill

// Which libtorch this was compiled against; torch-sys refuses to build against any other than it expects.
#include <torch/version.h>

extern "C" {

// A string that lives as long as the program.
const char* pm_torch_version() {
  return TORCH_VERSION;
}

}

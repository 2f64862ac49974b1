// What this copy of the library was built as. One generated source knows it, so that no path or version is on
// the command line of any other and a compiler cache serves every clone.
#pragma once

namespace glyptic {

/// "0.1.0".
const char* version();
/// The torch that it was built against, "2.11.0+cu130"; it needs one of the same minor version.
const char* built_for_torch();
/// The source tree of the build; an installed copy outlives it, so it may be gone.
const char* source_dir();
/// The Python interpreter that it was configured with; "" for a build without one. It may be gone.
const char* python_executable();
/// Whether the CUDA kernels are inside. Without them CUDA tensors use the composite operators.
bool has_cuda();

}  // namespace glyptic

// What `glyptic.report` takes from the library.
#pragma once

#include <pybind11/pybind11.h>

namespace glyptic {

void bind_report(pybind11::module_& m);

}  // namespace glyptic

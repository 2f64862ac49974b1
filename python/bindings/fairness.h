#pragma once

#include <pybind11/pybind11.h>

namespace glyptic {

void bind_fairness(pybind11::module_& m);

}  // namespace glyptic

// Options as Python sees them: keyword arguments in, a dict out.
#pragma once

#include <pybind11/stl.h>
#include <torch/csrc/utils/pybind.h>

#include <map>
#include <string>
#include <vector>

#include "glyptic/core/options.h"

namespace glyptic {

// A keyword argument as the value of an option.
inline Value to_value(const std::string& name, const pybind11::handle& object) {
  namespace py = pybind11;
  if (py::isinstance<py::bool_>(object)) return object.cast<bool>();
  if (py::isinstance<py::int_>(object)) return object.cast<int64_t>();
  if (py::isinstance<py::float_>(object)) return object.cast<double>();
  if (py::isinstance<py::str>(object)) return object.cast<std::string>();
  if (py::isinstance<py::dict>(object)) return object.cast<std::map<std::string, double>>();
  if (py::isinstance<py::list>(object) || py::isinstance<py::tuple>(object)) {
    const auto sequence = py::reinterpret_borrow<py::sequence>(object);
    bool words = py::len(sequence) > 0, whole = true;
    for (const auto& item : sequence) {
      words = words && py::isinstance<py::str>(item);
      whole = whole && py::isinstance<py::int_>(item);
    }
    if (words) return object.cast<std::vector<std::string>>();
    if (whole) return object.cast<std::vector<int64_t>>();
    return object.cast<std::vector<double>>();
  }
  // NumPy scalars and the like know how to be a number.
  if (py::hasattr(object, "__index__"))
    return static_cast<int64_t>(py::int_(py::reinterpret_borrow<py::object>(object)));
  if (py::hasattr(object, "__float__"))
    return static_cast<double>(py::float_(py::reinterpret_borrow<py::object>(object)));
  throw py::type_error(str("keyword ", name, ": a ", py::str(py::type::of(object)).cast<std::string>(),
                           " cannot be an option"));
}

template <class T>
T options_from(const pybind11::dict& keywords) {
  T options;
  Options declared;
  options.declare(declared);
  for (const auto& [key, value] : keywords) {
    const auto name = key.template cast<std::string>();
    declared.set(name, to_value(name, value), "keyword argument");
  }
  return options;
}

template <class T>
pybind11::dict options_dict(T options) {
  Options declared;
  options.declare(declared);
  pybind11::dict result;
  for (const auto& option : declared.list())
    result[pybind11::str(option.name)] = pybind11::cast(option.get());
  return result;
}

}  // namespace glyptic

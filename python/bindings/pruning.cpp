// Structured pruning for Python: the axis graph that the tracer fills, and plans over it.
#include <pybind11/stl.h>
#include <torch/csrc/utils/pybind.h>
#include <torch/torch.h>

#include "glyptic/core/error.h"
#include "glyptic/nn/axes.h"
#include "glyptic/pruning/plan.h"
#include "named.h"
#include "pruning.h"

namespace py = pybind11;
using namespace pybind11::literals;

namespace glyptic {
namespace {

void set_option(pruning::PruneOptions& options, const std::string& name, const py::handle& value) {
  if (name == "ratio")
    options.ratio = value.cast<double>();
  else if (name == "ratios")
    options.ratios = value.cast<std::map<std::string, double>>();
  else if (name == "importance")
    options.importance = pruning::importance_from_name(value.cast<std::string>());
  else if (name == "scope")
    options.scope = pruning::scope_from_name(value.cast<std::string>());
  else if (name == "round_to")
    options.round_to = value.cast<int64_t>();
  else if (name == "max_ratio")
    options.max_ratio = value.cast<double>();
  else if (name == "ignore")
    options.ignore = value.cast<std::vector<std::string>>();
  else if (name == "factor")
    options.factor = value.cast<std::string>();
  else if (name == "seed")
    options.seed = value.cast<uint64_t>();
  else
    throw ArgumentError(str("unknown option '", name, "'",
                            did_you_mean(name, {"ratio", "ratios", "importance", "scope", "round_to",
                                                "max_ratio", "ignore", "factor", "seed"})));
}

pruning::PruneOptions to_options(const py::dict& keywords) {
  pruning::PruneOptions options;
  for (const auto& [key, value] : keywords) {
    const auto name = key.cast<std::string>();
    try {
      set_option(options, name, value);
    } catch (const py::cast_error&) {
      throw ArgumentError(str("option '", name, "' cannot be ", py::repr(value).cast<std::string>()));
    }
  }
  return options;
}

}  // namespace

void bind_pruning(py::module_& m) {
  py::class_<nn::AxisMember>(m, "AxisMember", "A dimension of a tensor that loses entries with a group.")
      .def_readonly("tensor", &nn::AxisMember::tensor)
      .def_readonly("dim", &nn::AxisMember::dim)
      .def_readonly("entries", &nn::AxisMember::entries)
      .def("__repr__", [](const nn::AxisMember& member) { return str(member.tensor, "[", member.dim, "]"); });

  py::class_<nn::AxisGroup>(m, "AxisGroup", "Units that can be removed one by one.")
      .def_readonly("name", &nn::AxisGroup::name)
      .def_readonly("size", &nn::AxisGroup::size)
      .def_readonly("members", &nn::AxisGroup::members)
      .def_readonly("inexact_because", &nn::AxisGroup::inexact_because)
      .def_readonly("inner", &nn::AxisGroup::inner)
      .def("__repr__", [](const nn::AxisGroup& g) {
        return str("AxisGroup(", g.name, ", size=", g.size, ", members=", g.members.size(), ")");
      });

  py::class_<nn::AxisGraph>(m, "AxisGraph", "Which entries of which dimensions live and die together.")
      .def(py::init<>())
      .def(
          "add",
          [](nn::AxisGraph& self, std::string name, const std::string& rule, std::vector<int> inputs,
             std::vector<int64_t> shape, std::vector<int64_t> ints, std::string word) {
            return self.add({std::move(name), nn::rule_from_name(rule), std::move(inputs), std::move(shape),
                             std::move(ints), std::move(word)});
          },
          "name"_a, "rule"_a, "inputs"_a, "shape"_a, "ints"_a = std::vector<int64_t>{}, "word"_a = "")
      .def("groups", &nn::AxisGraph::groups)
      .def("tensors", &nn::AxisGraph::tensors)
      .def("all", &nn::AxisGraph::all)
      .def("units", &nn::AxisGraph::units, "tensor"_a, "dim"_a)
      .def("kept", py::overload_cast<const std::string&, int, const nn::Alive&>(&nn::AxisGraph::kept),
           "tensor"_a, "dim"_a, "alive"_a)
      .def("kept_of_node", py::overload_cast<int, int, const nn::Alive&>(&nn::AxisGraph::kept), "node"_a,
           "dim"_a, "alive"_a)
      .def("fixed_because", &nn::AxisGraph::fixed_because, "tensor"_a, "dim"_a)
      .def("nodes", [](const nn::AxisGraph& self) {
        py::list result;
        for (const auto& node : self.nodes())
          result.append(py::dict("name"_a = node.name, "rule"_a = nn::rule_name(node.rule),
                                 "inputs"_a = node.inputs, "shape"_a = node.shape, "ints"_a = node.ints,
                                 "word"_a = node.word));
        return result;
      });

  py::class_<pruning::GroupPlan>(m, "GroupPlan", "What stays of one group.")
      .def_readonly("name", &pruning::GroupPlan::name)
      .def_readonly("size", &pruning::GroupPlan::size)
      .def_readonly("kept", &pruning::GroupPlan::kept)
      .def_readonly("members", &pruning::GroupPlan::members)
      .def_readonly("note", &pruning::GroupPlan::note)
      .def("__repr__", [](const pruning::GroupPlan& g) {
        return str("GroupPlan(", g.name, ", ", g.kept.size(), " of ", g.size, ")");
      });

  py::class_<pruning::PrunePlan>(m, "PrunePlan", "Which units stay, as data.")
      .def_static("from_json", &pruning::PrunePlan::from_json, "text"_a)
      .def("to_json", &pruning::PrunePlan::to_json)
      .def("__str__", &pruning::PrunePlan::to_string)
      .def_readonly("groups", &pruning::PrunePlan::groups)
      .def_property_readonly(
          "dims",
          [](const pruning::PrunePlan& plan) {
            py::list result;
            for (const auto& dim : plan.dims)
              result.append(py::dict("tensor"_a = dim.tensor, "dim"_a = dim.dim, "original"_a = dim.original,
                                     "rank"_a = dim.rank, "kept"_a = dim.indices));
            return result;
          })
      .def("apply", &pruning::PrunePlan::apply, "name"_a, "tensor"_a)
      .def("mask", &pruning::PrunePlan::mask, "name"_a, "tensor"_a);

  m.def(
      "plan_pruning",
      [](nn::AxisGraph& graph, const NamedList& tensors, const NamedList& gradients,
         const py::dict& keywords) {
        const auto options = to_options(keywords);
        const auto weights = to_named(tensors), grads = to_named(gradients);
        const py::gil_scoped_release release;
        return pruning::plan_pruning(graph, weights, grads, options);
      },
      "graph"_a, "tensors"_a, "gradients"_a, "options"_a);
  m.def(
      "unit_importance",
      [](nn::AxisGraph& graph, const NamedList& tensors, const NamedList& gradients,
         const py::dict& keywords) {
        return pruning::unit_importance(graph, to_named(tensors), to_named(gradients), to_options(keywords));
      },
      "graph"_a, "tensors"_a, "gradients"_a, "options"_a);
  m.def("plan_from_alive", &pruning::plan_from_alive, "graph"_a, "alive"_a);
  m.def("alive_of", &pruning::alive_of, "graph"_a, "plan"_a);
}

}  // namespace glyptic

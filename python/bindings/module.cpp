// glyptic._C: the C++ library for Python, thin over the same names. Tensors are shared, never copied.
// Everything that takes long releases the GIL.
#include <pybind11/functional.h>
#include <pybind11/stl.h>
#include <torch/csrc/utils/pybind.h>
#include <torch/torch.h>

#include "corruptions.h"
#include "diagnostics.h"
#include "fairness.h"
#include "glyptic/cli/cli.h"
#include "glyptic/core/build_info.h"
#include "glyptic/core/distributed.h"
#include "glyptic/core/error.h"
#include "glyptic/core/options.h"
#include "glyptic/core/rng.h"
#include "glyptic/core/safetensors.h"
#include "glyptic/experiment/experiment.h"
#include "glyptic/nn/dependency.h"
#include "glyptic/nn/model.h"
#include "glyptic/sparsity/distribution.h"
#include "glyptic/sparsity/extract.h"
#include "glyptic/sparsity/sparsifier.h"
#include "named.h"
#include "options.h"
#include "pruning.h"
#include "report.h"
#include "sharpness.h"

namespace py = pybind11;
using namespace pybind11::literals;

namespace glyptic {
namespace {

py::dict stats_dict(const sparsity::Sparsifier& self) {
  sparsity::Sparsifier::Stats stats;
  {
    const py::gil_scoped_release release;
    stats = self.stats();
  }
  py::list layers;
  for (const auto& layer : stats.layers)
    layers.append(
        py::dict("name"_a = layer.name, "shape"_a = py::tuple(py::cast(layer.shape)),
                 "active"_a = layer.active, "size"_a = layer.size,
                 "density"_a = static_cast<double>(layer.active) / static_cast<double>(layer.size)));
  return py::dict("step"_a = stats.step, "active"_a = stats.active, "size"_a = stats.size,
                  "density"_a = stats.density(), "events"_a = stats.events, "parameters"_a = stats.parameters,
                  "parameters_active"_a = stats.parameters_active, "explored"_a = stats.explored,
                  "live_channels"_a = stats.live_channels, "channels"_a = stats.channels,
                  "layers"_a = layers);
}

void bind_errors(py::module_& m) {
  // Each class also derives from the built-in one that Python users catch.
  const auto make = [&](const char* name, const char* base, const char* doc) {
    const auto bases = py::make_tuple(m.attr("Error"), py::module_::import("builtins").attr(base));
    auto type = py::reinterpret_steal<py::object>(
        PyErr_NewExceptionWithDoc((std::string("glyptic.") + name).c_str(), doc, bases.ptr(), nullptr));
    m.attr(name) = type;
  };
  m.attr("Error") = py::reinterpret_steal<py::object>(PyErr_NewExceptionWithDoc(
      "glyptic.Error", "Base of all errors that Glyptic raises on purpose.", PyExc_Exception, nullptr));
  make("ArgumentError", "ValueError", "An argument has a value that it cannot take.");
  make("ConfigError", "ValueError", "An option is unknown, of the wrong type, or out of range.");
  make("DataError", "ValueError", "A file is damaged or of another kind.");
  make("MissingFileError", "FileNotFoundError", "A file or folder is not there or cannot be opened.");
  make("DivergenceError", "ArithmeticError", "The loss, a gradient or a weight is not finite.");
  py::register_exception_translator([](std::exception_ptr pointer) {
    const auto raise = [](const char* name, const char* what) {
      PyErr_SetString(py::module_::import("glyptic._C").attr(name).ptr(), what);
    };
    try {
      if (pointer) std::rethrow_exception(pointer);
    } catch (const ArgumentError& error) {
      raise("ArgumentError", error.what());
    } catch (const ConfigError& error) {
      raise("ConfigError", error.what());
    } catch (const DataError& error) {
      raise("DataError", error.what());
    } catch (const MissingFileError& error) {
      raise("MissingFileError", error.what());
    } catch (const DivergenceError& error) {
      raise("DivergenceError", error.what());
    } catch (const Interrupted& error) {
      PyErr_SetString(PyExc_KeyboardInterrupt, error.what());
    } catch (const Error& error) {
      raise("Error", error.what());
    }
  });
}

std::vector<std::tuple<std::string, int, int64_t, int64_t>> slice_tuples(
    const std::vector<nn::Slice>& slices) {
  std::vector<std::tuple<std::string, int, int64_t, int64_t>> result;
  for (const auto& slice : slices) result.emplace_back(slice.tensor, slice.dim, slice.offset, slice.repeat);
  return result;
}

void bind_nn(py::module_& m) {
  py::class_<nn::ChannelGroup>(m, "ChannelGroup",
                               "Rows of one weight that other weights read as input slices.")
      .def(py::init([](std::string active, int64_t channels,
                       const std::vector<std::tuple<std::string, int, int64_t, int64_t>>& passive,
                       const std::vector<std::tuple<std::string, int, int64_t, int64_t>>& companions) {
             const auto slices = [](const auto& list) {
               std::vector<nn::Slice> result;
               for (const auto& [tensor, dim, offset, repeat] : list)
                 result.push_back({-1, tensor, dim, offset, repeat});
               return result;
             };
             require(!passive.empty(), "ChannelGroup: '", active, "' has no reader");
             return nn::ChannelGroup{std::move(active), slices(passive), slices(companions), channels};
           }),
           "active"_a, "channels"_a, "passive"_a,
           "companions"_a = std::vector<std::tuple<std::string, int, int64_t, int64_t>>{})
      .def_readonly("active", &nn::ChannelGroup::active)
      .def_property_readonly("passive_slices",
                             [](const nn::ChannelGroup& g) { return slice_tuples(g.passive); })
      .def_property_readonly("companion_slices",
                             [](const nn::ChannelGroup& g) { return slice_tuples(g.companions); })
      .def_readonly("channels", &nn::ChannelGroup::channels)
      .def_property_readonly("passive",
                             [](const nn::ChannelGroup& g) {
                               std::vector<std::string> names;
                               for (const auto& slice : g.passive) names.push_back(slice.tensor);
                               return names;
                             })
      .def("__repr__", [](const nn::ChannelGroup& g) {
        return str("ChannelGroup(", g.active, ", channels=", g.channels, ", read by ",
                   g.passive.front().tensor, ")");
      });

  py::class_<nn::Graph>(m, "Graph", "A network as data: nodes in topological order and the tensors they use.")
      .def_static("from_json", &nn::Graph::from_json, "text"_a)
      .def("to_json", &nn::Graph::to_json)
      .def("validate", &nn::Graph::validate)
      .def("node_shapes", [](const nn::Graph& g) { return nn::node_shapes(g); })
      .def("tensor_shapes",
           [](const nn::Graph& g) {
             std::vector<std::pair<std::string, std::vector<int64_t>>> result;
             for (const auto& spec : g.tensors) result.emplace_back(spec.name, spec.shape);
             return result;
           })
      .def("trainable",
           [](const nn::Graph& g) {
             std::vector<std::string> names;
             for (const auto& spec : g.tensors)
               if (spec.trainable) names.push_back(spec.name);
             return names;
           })
      .def("groups",
           [](const nn::Graph& g) {  // groups of each convolution, by the name of its weight
             std::map<std::string, int64_t> result;
             for (const auto& node : g.nodes)
               if (node.op == nn::Op::conv2d) result[node.tensor("weight")] = node.integer("groups", 1);
             return result;
           })
      .def("cost",
           [](const nn::Graph& g) {
             const auto cost = nn::cost(g);
             py::list rows;
             for (const auto& row : cost.rows)
               rows.append(py::dict("node"_a = row.node, "weight"_a = row.weight, "macs"_a = row.macs,
                                    "parameters"_a = row.parameters));
             return py::dict("macs"_a = cost.macs, "parameters"_a = cost.parameters, "rows"_a = rows);
           })
      .def("prunable_groups", &nn::prunable_groups, "conv_to_linear"_a = false)
      .def(
          "initial_tensors",
          [](const nn::Graph& g, uint64_t seed) {
            const nn::Model model(g, RngStream(seed, "model/init"));
            NamedList result;
            for (const auto& entry : model.state()) result.emplace_back(entry.name, entry.tensor.detach());
            return result;
          },
          "seed"_a = 0);

  m.def("model_names", &nn::model_names);
  m.def("model_summary", &nn::model_summary, "name"_a);
  m.def(
      "build_graph",
      [](const std::string& name, int64_t num_classes, std::vector<int64_t> input_shape,
         std::vector<int64_t> widths, double width, double dropout) {
        nn::ModelOptions options;
        options.num_classes = num_classes;
        options.input_shape = std::move(input_shape);
        options.widths = std::move(widths);
        options.width = width;
        options.dropout = dropout;
        return nn::build_graph(name, options);
      },
      "name"_a, "num_classes"_a = 0, "input_shape"_a = std::vector<int64_t>{},
      "widths"_a = std::vector<int64_t>{}, "width"_a = 1.0, "dropout"_a = 0.0);

  py::class_<nn::Model>(m, "Model", "A graph bound to tensors, which are shared.")
      .def(py::init([](const nn::Graph& graph, const NamedList& tensors) {
             return std::make_unique<nn::Model>(graph, to_named(tensors));
           }),
           "graph"_a, "tensors"_a)
      .def("forward", &nn::Model::forward, "x"_a, py::call_guard<py::gil_scoped_release>())
      .def("train", &nn::Model::train, "on"_a = true);
}

void bind_sparsity(py::module_& m) {
  m.def("erk_densities", &sparsity::erk_densities, "shapes"_a, "density"_a, "power"_a = 1.0);
  m.def(
      "layer_densities",
      [](const std::vector<std::pair<std::string, std::vector<int64_t>>>& layers, double density,
         const std::string& distribution, double power, std::map<std::string, double> custom) {
        std::vector<sparsity::LayerShape> shapes;
        for (const auto& [name, shape] : layers) shapes.push_back({name, shape});
        return sparsity::layer_densities(shapes, density,
                                         {.kind = sparsity::distribution_from_name(distribution),
                                          .erk_power = power,
                                          .custom_density = std::move(custom)});
      },
      "layers"_a, "density"_a, "distribution"_a = "erk", "power"_a = 1.0,
      "custom"_a = std::map<std::string, double>{});
  m.def("layer_counts", &sparsity::layer_counts, "densities"_a, "sizes"_a, "total"_a = -1, "minimum"_a = 1);
  m.def("stream_id", &stream_id, "name"_a);
  m.def("sparsity_methods", [] {
    py::list result;
    for (const auto& info : sparsity::methods())
      result.append(py::dict("name"_a = info.name, "summary"_a = info.summary, "reference"_a = info.reference,
                             "source"_a = info.source, "needs_groups"_a = info.needs_groups));
    return result;
  });
  m.def(
      "sparsity_options",
      [](const py::dict& keywords) {
        auto options = options_from<sparsity::SparsityOptions>(keywords);
        return options_dict(options);
      },
      "The options of the sparsity family after presets and keywords.", "keywords"_a = py::dict());

  py::class_<sparsity::Sparsifier>(m, "Sparsifier")
      .def(py::init([](const NamedList& parameters, const std::vector<std::string>& prunable,
                       const py::dict& keywords, std::vector<nn::ChannelGroup> groups,
                       const NamedList& state) {
             auto options = options_from<sparsity::SparsityOptions>(keywords);
             const py::gil_scoped_release release;
             return std::make_unique<sparsity::Sparsifier>(to_named(parameters), prunable, std::move(options),
                                                           std::move(groups), to_named(state));
           }),
           "parameters"_a, "prunable"_a, "options"_a, "groups"_a = std::vector<nn::ChannelGroup>{},
           "state"_a = NamedList{})
      .def("begin_step",
           [](const sparsity::Sparsifier& self) {
             const auto plan = self.begin_step();
             return py::make_tuple(plan.step, plan.masks_change, plan.run_optimizer);
           })
      .def(
          "end_step",
          [](sparsity::Sparsifier& self, const std::vector<std::optional<at::Tensor>>& grads,
             const std::vector<std::vector<at::Tensor>>& states, bool masked, bool skipped) {
            require(grads.size() == states.size(), "end_step: ", grads.size(), " gradients and ",
                    states.size(), " states");
            std::vector<sparsity::ParameterState> list;
            for (std::size_t i = 0; i < grads.size(); ++i)
              list.push_back({grads[i].value_or(at::Tensor()), states[i]});
            const py::gil_scoped_release release;
            self.end_step(list, masked, skipped);
          },
          "grads"_a, "states"_a, "masked"_a = false, "skipped"_a = false)
      .def(
          "set_reduce_scores",
          [](sparsity::Sparsifier& self, py::function function) {
            self.reduce_scores = [function](ops::TensorList& scores) {
              const py::gil_scoped_acquire acquire;
              function(scores);
            };
          },
          "function"_a)
      .def("masks", [](const sparsity::Sparsifier& self) { return to_pairs(self.masks()); })
      .def("liveness", [](const sparsity::Sparsifier& self) { return to_pairs(self.liveness()); })
      .def("stats", &stats_dict)
      .def("events",
           [](const sparsity::Sparsifier& self) {
             py::list result;
             for (const auto& e : self.events())
               result.append(py::dict("step"_a = e.step, "dropped"_a = e.dropped, "grown"_a = e.grown,
                                      "active"_a = e.active, "live_channels"_a = e.live_channels));
             return result;
           })
      .def("state",
           [](const sparsity::Sparsifier& self) {
             const py::gil_scoped_release release;
             return to_pairs(self.state());
           })
      .def(
          "load_state",
          [](sparsity::Sparsifier& self, const NamedList& state, bool strict) {
            const py::gil_scoped_release release;
            self.load_state(to_named(state), strict);
          },
          "state"_a, "strict"_a = true)
      .def("apply_masks", &sparsity::Sparsifier::apply_masks, py::call_guard<py::gil_scoped_release>())
      .def("remove", &sparsity::Sparsifier::remove);

  py::class_<sparsity::ExtractionPlan>(m, "ExtractionPlan", "Which channels stay, as data.")
      .def_static("from_json", &sparsity::ExtractionPlan::from_json, "text"_a)
      .def("to_json", &sparsity::ExtractionPlan::to_json)
      .def("__str__", &sparsity::ExtractionPlan::to_string)
      .def_readonly("graph", &sparsity::ExtractionPlan::graph)
      .def_readonly("notes", &sparsity::ExtractionPlan::notes)
      .def_property_readonly("dims",
                             [](const sparsity::ExtractionPlan& plan) {
                               py::list result;
                               for (const auto& dim : plan.dims)
                                 result.append(py::dict("tensor"_a = dim.tensor, "dim"_a = dim.dim,
                                                        "original"_a = dim.original, "kept"_a = dim.kept));
                               return result;
                             })
      .def("apply", &sparsity::ExtractionPlan::apply, "name"_a, "tensor"_a)
      .def(
          "apply_all",
          [](const sparsity::ExtractionPlan& plan, const NamedList& tensors) {
            return to_pairs(plan.apply_all(to_named(tensors)));
          },
          "tensors"_a)
      .def("expand", &sparsity::ExtractionPlan::expand, "name"_a, "small"_a, "fill"_a = 0.0);

  m.def(
      "plan_extraction",
      [](const nn::Graph& graph, const NamedList& tensors, const NamedList& liveness,
         const std::string& residual, int64_t round_to, bool absorb, bool allow_inexact) {
        std::vector<sparsity::Liveness> alive;
        for (const auto& [name, tensor] : liveness) alive.push_back({name, tensor});
        sparsity::ExtractOptions options;
        require(residual == "exempt" || residual == "all_dead" || residual == "index_add", "residual is '",
                residual, "', expected one of exempt, all_dead, index_add",
                did_you_mean(residual, {"exempt", "all_dead", "index_add"}));
        options.residual = residual == "all_dead"    ? sparsity::Residual::all_dead
                           : residual == "index_add" ? sparsity::Residual::index_add
                                                     : sparsity::Residual::exempt;
        require(round_to >= 1, "round_to is ", round_to, ", expected at least 1");
        options.round_to = round_to;
        options.absorb = absorb;
        options.allow_inexact = allow_inexact;
        return sparsity::plan_extraction(graph, to_named(tensors), alive, options);
      },
      "graph"_a, "tensors"_a, "liveness"_a = NamedList{}, "residual"_a = "exempt", "round_to"_a = 1,
      "absorb"_a = true, "allow_inexact"_a = false);
}

}  // namespace
}  // namespace glyptic

PYBIND11_MODULE(_C, m) {
  using namespace glyptic;
  m.attr("__version__") = version();
  m.attr("torch_version") = built_for_torch();
  m.attr("with_cuda") = has_cuda();
  bind_errors(m);
  bind_nn(m);
  bind_sparsity(m);
  bind_pruning(m);
  bind_sharpness(m);
  bind_corruptions(m);
  bind_fairness(m);
  bind_report(m);
  bind_diagnostics(m);
  m.def(
      "save_safetensors",
      [](const std::string& path, const NamedList& tensors,
         const std::map<std::string, std::string>& metadata) {
        save_safetensors(path, to_named(tensors), metadata);
      },
      "path"_a, "tensors"_a, "metadata"_a = std::map<std::string, std::string>{});
  m.def(
      "load_safetensors",
      [](const std::string& path) {
        const SafeTensors file(path);
        return py::make_tuple(to_pairs(file.tensors()), file.metadata());
      },
      "path"_a);
  m.def("cli", &cli::run, "The command line; returns the exit code.", "arguments"_a,
        py::call_guard<py::gil_scoped_release>());
  m.def(
      "set_ranks",
      [](const std::string& group, int rank, int size) {
        set_ranks({group, rank, size});
      },
      "The processes that the command line's runs are made of.", "group"_a, "rank"_a, "size"_a);
  m.def("describe", &experiment::describe, "name"_a);
}

#include "report.h"

#include <pybind11/stl.h>

#include "glyptic/experiment/experiment.h"

namespace py = pybind11;
using namespace pybind11::literals;

namespace glyptic {

void bind_report(py::module_& m) {
  m.def(
      "tabulate_results",
      [](const std::vector<std::string>& paths, bool raw) {
        auto table = experiment::tabulate_results(paths, raw);
        return py::make_tuple(table.titles, table.rows, table.notes);
      },
      "paths"_a, "raw"_a = false,
      "Titles, rows and notes of the table of results.json files, as `glyptic table` prints it.");
  m.def(
      "seed_groups",
      [](const std::vector<std::string>& runs) {
        py::list result;
        for (const auto& group : experiment::seed_groups(runs))
          result.append(py::make_tuple(group.label, group.runs, group.seeds));
        return result;
      },
      "runs"_a, "Label, positions and seeds of the runs that differ in nothing but the seed.");
  m.def(
      "read_config",
      [](const std::string& path) {
        const auto loaded = experiment::load_experiment(path, {});
        py::dict result;
        for (const auto& option : loaded.options->list())
          result[py::str(option.name)] = to_text(option.get());
        return result;
      },
      "path"_a, "Every option of a config file, as text.");
  m.def("runs_in", &experiment::runs_in, "path"_a, "The run folders that a path stands for.");
}

}  // namespace glyptic

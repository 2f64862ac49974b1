// Corruptions, sets of corrupted images, and their metrics, for Python.
#include "corruptions.h"

#include <pybind11/stl.h>
#include <torch/csrc/utils/pybind.h>
#include <torch/torch.h>

#include "glyptic/core/error.h"
#include "glyptic/data/corruptions.h"
#include "glyptic/metrics/corruption.h"

namespace py = pybind11;
using namespace pybind11::literals;

namespace glyptic {
namespace {

data::CorruptOptions to_options(const py::dict& keywords) {
  data::CorruptOptions options;
  for (const auto& [key, value] : keywords) {
    const auto name = key.cast<std::string>();
    try {
      if (name == "seed")
        options.seed = value.cast<uint64_t>();
      else if (name == "first_index")
        options.first_index = value.cast<int64_t>();
      else if (name == "indices")
        options.indices = value.cast<std::vector<int64_t>>();
      else if (name == "table")
        options.table = value.cast<int64_t>();
      else if (name == "quantize")
        options.quantize = data::quantize_from_name(value.cast<std::string>());
      else if (name == "param")
        options.param = value.cast<std::vector<double>>();
      else if (name == "glass_exchange")
        options.glass_exchange = data::glass_exchange_from_name(value.cast<std::string>());
      else if (name == "frost_folder")
        options.frost_folder = value.cast<std::string>();
      else if (name == "threads")
        options.threads = value.cast<int>();
      else
        throw ArgumentError(str("unknown option '", name, "'"));
    } catch (const py::cast_error&) {
      throw ArgumentError(str(name, " cannot be ", py::repr(value).cast<std::string>()));
    }
  }
  return options;
}

}  // namespace

void bind_corruptions(py::module_& m) {
  m.def("corruption_names", &data::corruption_names, "subset"_a = "all");
  m.def("corruption_subsets", &data::corruption_subsets);
  m.def("corruption_table", &data::corruption_table, "height"_a, "width"_a);
  m.def(
      "corruption_parameters",
      [](const std::string& name, int severity, int64_t table) {
        py::dict result;
        for (const auto& parameter : data::corruption_parameters(name, severity, table))
          result[py::str(parameter.name)] = parameter.value;
        return result;
      },
      "name"_a, "severity"_a, "table"_a);
  m.def(
      "corrupt",
      [](const at::Tensor& images, const std::string& name, int severity, const py::dict& keywords) {
        const auto options = to_options(keywords);
        const py::gil_scoped_release release;
        return data::corrupt(images, name, severity, options);
      },
      "images"_a, "name"_a, "severity"_a, "options"_a);
  m.def(
      "write_cifar_c",
      [](const std::string& folder, const at::Tensor& images, const at::Tensor& labels, int64_t classes,
         const std::vector<std::string>& names, const py::dict& keywords) {
        const auto options = to_options(keywords);
        const py::gil_scoped_release release;
        const data::MemoryDataset base(images, labels, classes, "images");
        data::write_cifar_c_labels(folder, base);
        for (const auto& name : names) data::write_cifar_c(folder, base, name, options);
      },
      "folder"_a, "images"_a, "labels"_a, "classes"_a, "names"_a, "options"_a);
  m.def(
      "read_cifar_c",
      [](const std::string& folder, const std::string& name, int severity, int64_t classes) {
        const py::gil_scoped_release release;
        const auto set = data::read_cifar_c(folder, name, severity, classes);
        return std::make_pair(set->images(), set->labels());
      },
      "folder"_a, "name"_a, "severity"_a, "classes"_a);

  py::class_<data::Dataset, std::shared_ptr<data::Dataset>>(m, "ImageSet",
                                                            "8-bit images that are read on demand.")
      .def("__len__", &data::Dataset::size)
      .def("num_classes", &data::Dataset::num_classes)
      .def("description", &data::Dataset::description)
      .def(
          "read",
          [](const data::Dataset& set, int64_t index) {
            const py::gil_scoped_release release;
            auto image = at::empty(set.image_shape(), at::kByte);
            const int64_t label = set.read(index, image.data_ptr<uint8_t>(), 0);
            return std::make_pair(image, label);
          },
          "index"_a);
  m.def("read_imagenet_c", &data::read_imagenet_c, "folder"_a, "name"_a, "severity"_a, "size"_a = 224);

  m.def("alexnet_errors", &metrics::alexnet_errors);
  m.def("corruption_error", &metrics::corruption_error, "errors"_a, "baseline"_a);
  m.def("relative_corruption_error", &metrics::relative_corruption_error, "errors"_a, "clean"_a, "baseline"_a,
        "baseline_clean"_a);
  m.def(
      "summarize_corruptions",
      [](const metrics::CorruptionErrors& errors, double clean) {
        const auto summary = metrics::summarize_corruptions(errors, clean);
        return py::dict("mean"_a = summary.mean, "families"_a = summary.families, "drops"_a = summary.drops,
                        "worst"_a = summary.worst, "worst_error"_a = summary.worst_error);
      },
      "errors"_a, "clean"_a);
}

}  // namespace glyptic

// Curvature, sharpness measures and landscapes for Python. The passes call back into a closure; in between
// the GIL is released, which autograd demands.
#include "diagnostics.h"

#include <pybind11/functional.h>
#include <pybind11/stl.h>
#include <torch/csrc/autograd/python_variable.h>
#include <torch/csrc/utils/pybind.h>

#include "glyptic/core/error.h"
#include "glyptic/sharpness/landscape.h"
#include "named.h"

namespace py = pybind11;
using namespace pybind11::literals;

namespace glyptic {
namespace {

using sharpness::Landscape;
using sharpness::LossSurface;
using sharpness::Measure;
using sharpness::ProductOptions;
using sharpness::TensorList;
using Released = py::call_guard<py::gil_scoped_release>;

std::unique_ptr<LossSurface> make_surface(const NamedList& parameters, const py::function& loss,
                                          std::vector<int64_t> samples,
                                          const std::vector<std::optional<at::Tensor>>& masks,
                                          const NamedList& buffers) {
  sharpness::LossOverData data;
  data.batches = static_cast<int64_t>(samples.size());
  // Owned through a pointer whose last copy takes the GIL: the closure is copied where it is not held.
  const std::shared_ptr<py::function> call(new py::function(loss), [](py::function* function) {
    const py::gil_scoped_acquire acquire;
    delete function;
  });
  data.loss = [call](int64_t batch) {
    const py::gil_scoped_acquire acquire;
    const py::object value = (*call)(batch);
    require(THPVariable_Check(value.ptr()), "the loss closure returned a ",
            py::str(py::type::of(value).attr("__name__")).cast<std::string>(),
            "; it must return the loss, a tensor");
    return value.cast<at::Tensor>();
  };
  data.samples = [samples = std::move(samples)](int64_t batch) {
    return samples[static_cast<std::size_t>(batch)];
  };
  TensorList list;
  for (const auto& mask : masks) list.push_back(mask.value_or(at::Tensor()));
  return std::make_unique<LossSurface>(to_named(parameters), std::move(data), list, to_named(buffers));
}

sharpness::EigenOptions eigen_options(int64_t n, const std::string& which, const std::string& method,
                                      int64_t max_iter, const std::string& stop, double tol, uint64_t seed,
                                      const ProductOptions& product) {
  sharpness::EigenOptions o;
  o.n = n;
  o.which = sharpness::which_from_name(which);
  o.method = sharpness::method_from_name(method, o.which);
  o.max_iter = max_iter;
  o.stop = sharpness::stop_from_name(stop);
  o.tol = tol;
  o.seed = seed;
  o.product = product;
  return o;
}

py::dict eigen_dict(const sharpness::EigenResult& r, LossSurface& surface) {
  py::list vectors;
  for (int64_t j = 0; j < r.vectors.size(0); ++j) {
    py::dict named;
    const auto parts = surface.split(r.vectors[j]);
    for (std::size_t i = 0; i < parts.size(); ++i) named[py::str(surface.parameters()[i].name)] = parts[i];
    vectors.append(named);
  }
  return py::dict("values"_a = r.values, "vectors"_a = vectors, "residuals"_a = r.residuals,
                  "converged"_a = r.converged, "products"_a = r.products, "history"_a = r.history);
}

py::tuple measure_tuple(const Measure& m) {
  return py::make_tuple(m.value, m.loss, m.standard_error);
}

py::dict landscape_dict(const Landscape& l) {
  return py::dict("a"_a = l.a, "b"_a = l.b, "loss"_a = l.loss, "center"_a = l.center, "cosine"_a = l.cosine,
                  "not_finite"_a = l.not_finite, "settings"_a = l.settings);
}

Landscape landscape_of(const LossSurface& s, const std::vector<sharpness::Direction>& directions,
                       const std::vector<std::tuple<double, double, int64_t>>& axes,
                       std::map<std::string, std::string> settings) {
  std::vector<sharpness::Axis> a;
  for (const auto& [low, high, points] : axes) a.push_back({low, high, points});
  require(directions.size() == a.size() && (a.size() == 1 || a.size() == 2), "landscape: ", directions.size(),
          " directions and ", a.size(), " axes, expected one or two of both");
  auto result = a.size() == 1 ? sharpness::landscape(s, directions[0], a[0])
                              : sharpness::landscape(s, directions[0], directions[1], a[0], a[1]);
  result.settings = std::move(settings);
  return result;
}

}  // namespace

void bind_diagnostics(py::module_& m) {
  py::class_<LossSurface>(m, "LossSurface", "The mean loss over fixed data as a function of the weights.")
      .def(py::init(&make_surface), "parameters"_a, "loss"_a, "samples"_a,
           "masks"_a = std::vector<std::optional<at::Tensor>>{}, "buffers"_a = NamedList{})
      .def_property_readonly("size", &LossSurface::size)
      .def_property_readonly("active", &LossSurface::active)
      .def_property_readonly("products", &LossSurface::products)
      .def("names",
           [](const LossSurface& s) {
             std::vector<std::string> names;
             for (const auto& p : s.parameters()) names.push_back(p.name);
             return names;
           })
      .def("flatten", &LossSurface::flatten, "tensors"_a)
      .def("split", &LossSurface::split, "vector"_a)
      .def(
          "loss", [](const LossSurface& s) { return s.loss(); }, Released())
      .def(
          "gradient", [](const LossSurface& s) { return s.gradient(); }, Released())
      .def(
          "product",
          [](LossSurface& s, const at::Tensor& vectors, bool differences, double step) {
            return s.product(vectors, {differences, step});
          },
          "vectors"_a, "differences"_a = false, "step"_a = 1e-2, Released())
      .def(
          "top_eigenvalues",
          [](LossSurface& s, int64_t n, const std::string& which, const std::string& method, int64_t max_iter,
             const std::string& stop, double tol, uint64_t seed, bool differences, double step) {
            const auto o = eigen_options(n, which, method, max_iter, stop, tol, seed, {differences, step});
            sharpness::EigenResult result;
            {
              const py::gil_scoped_release release;
              result = sharpness::top_eigenvalues(s, o);
            }
            return eigen_dict(result, s);
          },
          "n"_a, "which"_a, "method"_a, "max_iter"_a, "stop"_a, "tol"_a, "seed"_a, "differences"_a, "step"_a)
      .def(
          "block_eigenvalues",
          [](LossSurface& s, int64_t n, const std::string& which, const std::string& method, int64_t max_iter,
             const std::string& stop, double tol, uint64_t seed, bool differences, double step,
             const std::vector<std::string>& names) {
            const auto o = eigen_options(n, which, method, max_iter, stop, tol, seed, {differences, step});
            std::vector<std::pair<std::string, sharpness::EigenResult>> results;
            {
              const py::gil_scoped_release release;
              results = sharpness::block_eigenvalues(s, o, names);
            }
            py::dict blocks;
            for (const auto& [name, result] : results) {
              auto block = s.block(name);
              blocks[py::str(name)] = eigen_dict(result, block);
            }
            return blocks;
          },
          "n"_a, "which"_a, "method"_a, "max_iter"_a, "stop"_a, "tol"_a, "seed"_a, "differences"_a, "step"_a,
          "names"_a)
      .def(
          "trace",
          [](LossSurface& s, int64_t max_samples, double tol, uint64_t seed, bool differences, double step) {
            sharpness::TraceResult r;
            {
              const py::gil_scoped_release release;
              r = sharpness::hessian_trace(s, {max_samples, tol, seed, {differences, step}});
            }
            return py::dict("mean"_a = r.mean, "standard_error"_a = r.standard_error, "samples"_a = r.samples,
                            "converged"_a = r.converged, "products"_a = r.products);
          },
          "max_samples"_a, "tol"_a, "seed"_a, "differences"_a, "step"_a)
      .def(
          "spectral_density",
          [](LossSurface& s, int64_t runs, int64_t steps, int64_t points, uint64_t seed, bool differences,
             double step) {
            sharpness::SpectralDensity r;
            {
              const py::gil_scoped_release release;
              r = sharpness::spectral_density(s, {runs, steps, points, seed, {differences, step}});
            }
            return py::dict("grid"_a = r.grid, "density"_a = r.density, "nodes"_a = r.nodes,
                            "weights"_a = r.weights, "sigma"_a = r.sigma, "products"_a = r.products);
          },
          "runs"_a, "steps"_a, "points"_a, "seed"_a, "differences"_a, "step"_a)
      .def(
          "measure",
          [](const LossSurface& s, const std::string& kind, double radius, int64_t count, bool linf,
             bool adaptive, int64_t restarts, uint64_t seed) {
            Measure result;
            {
              const py::gil_scoped_release release;
              if (kind == "one_step")
                result = sharpness::one_step(s, radius);
              else if (kind == "m_sharpness")
                result = sharpness::m_sharpness(s, radius);
              else if (kind == "average_case")
                result = sharpness::average_case(s, radius, count, adaptive, seed);
              else if (kind == "worst_case")
                result = sharpness::worst_case(s, {radius, linf, adaptive, count, restarts, seed});
              else if (kind == "keskar")
                result = sharpness::keskar(s, radius, count, seed);
              else if (kind == "probe")
                result = sharpness::probe(s, radius, count, seed);
              else
                throw ArgumentError(
                    str("measure: kind is '", kind,
                        "', expected one_step, m_sharpness, average_case, worst_case, keskar or "
                        "probe"));
            }
            return measure_tuple(result);
          },
          "kind"_a, "radius"_a, "count"_a = 1, "linf"_a = false, "adaptive"_a = false, "restarts"_a = 1,
          "seed"_a = 0)
      .def("gradient_variance", &sharpness::gradient_variance, Released())
      .def(
          "random_landscape",
          [](const LossSurface& s, const std::vector<std::tuple<double, double, int64_t>>& axes,
             uint64_t seed, const std::string& norm, const std::string& ignore, bool states) {
            require(ignore == "biasbn" || ignore == "none", "ignore is '", ignore,
                    "', expected biasbn or none");
            const sharpness::DirectionOptions o{seed, sharpness::direction_norm_from_name(norm),
                                                ignore == "biasbn", states};
            Landscape result;
            {
              const py::gil_scoped_release release;
              std::vector<sharpness::Direction> directions;
              for (std::size_t i = 0; i < axes.size(); ++i)
                directions.push_back(sharpness::random_direction(s, o, i));
              result = landscape_of(s, directions, axes, sharpness::settings_of(o));
            }
            return landscape_dict(result);
          },
          "axes"_a, "seed"_a, "norm"_a, "ignore"_a, "states"_a)
      .def(
          "given_landscape",
          [](const LossSurface& s, const std::vector<std::tuple<double, double, int64_t>>& axes,
             const std::vector<NamedList>& directions) {
            Landscape result;
            {
              const py::gil_scoped_release release;
              std::vector<sharpness::Direction> list;
              for (const auto& d : directions) list.push_back(sharpness::given_direction(s, to_named(d)));
              result = landscape_of(s, list, axes, {{"directions", "given"}});
            }
            return landscape_dict(result);
          },
          "axes"_a, "directions"_a)
      .def(
          "interpolation",
          [](const LossSurface& s, const std::tuple<double, double, int64_t>& axis, const NamedList& other,
             bool states) {
            Landscape result;
            {
              const py::gil_scoped_release release;
              result = landscape_of(s, {sharpness::direction_to(s, to_named(other), states)}, {axis},
                                    {{"directions", "interpolation"}, {"states", states ? "true" : "false"}});
            }
            return landscape_dict(result);
          },
          "axis"_a, "other"_a, "states"_a);

  m.def("normalized_overfitting_gap", &sharpness::normalized_overfitting_gap, "train"_a, "test"_a);
  m.def(
      "save_landscape",
      [](const std::string& path, std::vector<double> a, std::vector<double> b, std::vector<double> loss,
         double center, double cosine, int64_t not_finite, std::map<std::string, std::string> settings) {
        Landscape l{std::move(a), std::move(b), std::move(loss),    center,
                    cosine,       not_finite,   std::move(settings)};
        sharpness::save_landscape(path, l);
      },
      "path"_a, "a"_a, "b"_a, "loss"_a, "center"_a, "cosine"_a, "not_finite"_a, "settings"_a);
  m.def(
      "load_landscape",
      [](const std::string& path) { return landscape_dict(sharpness::load_landscape(path)); }, "path"_a);
}

}  // namespace glyptic

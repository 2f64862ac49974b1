// Sharpness-aware steps for Python: the engine of the C++ library, whose passes call back into a closure.
#include "sharpness.h"

#include <pybind11/functional.h>
#include <pybind11/stl.h>
#include <torch/csrc/utils/pybind.h>

#include "glyptic/sharpness/sharpness.h"
#include "named.h"
#include "options.h"

namespace py = pybind11;
using namespace pybind11::literals;

namespace glyptic {
namespace {

using sharpness::TensorList;

TensorList from_optional(const std::vector<std::optional<at::Tensor>>& list) {
  TensorList result;
  for (const auto& tensor : list) result.push_back(tensor.value_or(at::Tensor()));
  return result;
}

py::object to_optional(const at::Tensor& tensor) {
  return tensor.defined() ? py::cast(tensor) : py::none();
}

py::list to_list(const TensorList& tensors) {
  py::list result;
  for (const auto& tensor : tensors) result.append(to_optional(tensor));
  return result;
}

/// An object with `batches`, `selects_samples`, `distributed`, and the methods of sharpness::Objective.
class PyObjective final : public sharpness::Objective {
 public:
  explicit PyObjective(py::object object)
      : object_(std::move(object)),
        batches_(object_.attr("batches").cast<int64_t>()),
        selects_(object_.attr("selects_samples").cast<bool>()),
        distributed_(object_.attr("distributed").cast<bool>()),
        reduces_(object_.attr("reduces").cast<bool>()) {}

  int64_t batches() const override { return batches_; }
  bool selects_samples() const override { return selects_; }
  bool distributed() const override { return distributed_; }
  at::Tensor loss(int64_t batch) override { return object_.attr("loss")(batch).cast<at::Tensor>(); }
  at::Tensor loss_of(int64_t batch, const at::Tensor& rows) override {
    return selects_ ? object_.attr("loss_of")(batch, rows).cast<at::Tensor>()
                    : Objective::loss_of(batch, rows);
  }
  at::Tensor reduce(const at::Tensor& losses, int64_t batch, bool second) override {
    if (!reduces_) return Objective::reduce(losses, batch, second);
    return object_.attr("reduce")(losses, batch, second).cast<at::Tensor>();
  }
  void synchronize(bool on) override {
    if (distributed_) object_.attr("synchronize")(on);
  }
  void backward(const at::Tensor& loss) override { object_.attr("backward")(loss); }
  bool finish_pass() override { return object_.attr("finish_pass")().cast<bool>(); }
  void all_reduce_mean(const TensorList& tensors) override {
    if (distributed_) object_.attr("all_reduce_mean")(tensors);
  }

 private:
  py::object object_;
  int64_t batches_;
  bool selects_, distributed_, reduces_;
};

/// An object with `step()`, `step_from(origins)` and `momentum(i)`.
class PyBase final : public sharpness::BaseOptimizer {
 public:
  PyBase(py::object object, std::vector<double> lr) : object_(std::move(object)), lr_(std::move(lr)) {}
  void step() override { object_.attr("step")(); }
  bool step_from(const TensorList& origins) override {
    return object_.attr("step_from")(to_list(origins)).cast<bool>();
  }
  double lr(std::size_t i) const override { return lr_[i]; }
  at::Tensor momentum(std::size_t i) const override {
    return object_.attr("momentum")(i).cast<std::optional<at::Tensor>>().value_or(at::Tensor());
  }

 private:
  py::object object_;
  std::vector<double> lr_;
};

}  // namespace

void bind_sharpness(py::module_& m) {
  using sharpness::Sharpness;
  using sharpness::StepResult;
  py::class_<StepResult>(m, "SharpnessResult")
      .def_property_readonly("loss", [](const StepResult& r) { return to_optional(r.loss); })
      .def_property_readonly("losses", [](const StepResult& r) { return to_optional(r.losses); })
      .def_readonly("skipped", &StepResult::skipped)
      .def_readonly("ascended", &StepResult::ascended)
      .def_readonly("forwards", &StepResult::forwards)
      .def_readonly("backwards", &StepResult::backwards)
      .def_property_readonly("gradient_norm",
                             [](const StepResult& r) { return to_optional(r.gradient_norm); })
      .def_property_readonly("perturbed_norm",
                             [](const StepResult& r) { return to_optional(r.perturbed_norm); })
      .def_property_readonly("growth", [](const StepResult& r) { return to_list(r.growth); });

  py::class_<Sharpness>(m, "Sharpness")
      .def(py::init([](const std::vector<std::pair<std::string, at::Tensor>>& parameters,
                       const py::dict& keywords) {
             return std::make_unique<Sharpness>(to_named(parameters),
                                                options_from<sharpness::SharpnessOptions>(keywords));
           }),
           "parameters"_a, "keywords"_a)
      .def(
          "step",
          [](Sharpness& self, const py::object& objective, const py::object& base,
             const std::vector<double>& lr, const std::vector<std::optional<at::Tensor>>& masks,
             bool gradient_only, bool keep_growth) {
            PyObjective wrapped(objective);
            PyBase optimizer(base, lr);
            sharpness::StepOptions options;
            options.masks = from_optional(masks);
            options.gradient_only = gradient_only;
            options.keep_growth = keep_growth;
            return self.step(wrapped, optimizer, options);
          },
          "objective"_a, "base"_a, "lr"_a, "masks"_a, "gradient_only"_a = false, "keep_growth"_a = false)
      .def(
          "first_step",
          [](Sharpness& self, const py::object& base, const std::vector<double>& lr,
             const std::vector<std::optional<at::Tensor>>& masks) {
            self.first_step(PyBase(base, lr), from_optional(masks));
          },
          "base"_a, "lr"_a, "masks"_a)
      .def(
          "second_step",
          [](Sharpness& self, const py::object& base, const std::vector<double>& lr) {
            PyBase optimizer(base, lr);
            self.second_step(optimizer);
          },
          "base"_a, "lr"_a)
      .def("restore", &Sharpness::restore)
      .def("cancel", &Sharpness::cancel)
      .def("set_statistics", &Sharpness::set_statistics, "statistics"_a)
      .def("set_rho", &Sharpness::set_rho, "rho"_a)
      .def("rho", &Sharpness::rho, "index"_a, "lr"_a)
      .def_property_readonly("between", &Sharpness::between)
      .def_property_readonly("steps", &Sharpness::steps)
      .def_property_readonly("skipped_steps", &Sharpness::skipped_steps)
      .def("state", [](const Sharpness& self) { return to_pairs(self.state()); })
      .def("load_state", [](Sharpness& self, const std::vector<std::pair<std::string, at::Tensor>>& state) {
        self.load_state(to_named(state));
      });

  m.def("sharpness_options", [](const py::dict& keywords) {
    return options_dict(options_from<sharpness::SharpnessOptions>(keywords));
  });
  m.def("sharpness_methods", [] {
    py::list list;
    for (const auto& info : sharpness::methods())
      list.append(py::dict("name"_a = info.name, "summary"_a = info.summary, "reference"_a = info.reference,
                           "source"_a = info.source));
    return list;
  });
}

}  // namespace glyptic

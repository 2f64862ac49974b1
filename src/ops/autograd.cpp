// Gradients of the operators that have one. channel_gather copies rows and columns, so its gradient adds what
// arrives back where it was read from: once per reading, since an index may occur twice.
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>
#include <torch/torch.h>

namespace glyptic::ops {

namespace {

using Index = std::optional<at::Tensor>;

at::Tensor below_autograd(const at::Tensor& weight, const Index& rows, const Index& cols) {
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("glyptic::channel_gather", "")
                             .typed<at::Tensor(const at::Tensor&, const Index&, const Index&)>();
  const at::AutoDispatchBelowADInplaceOrView guard;
  return op.call(weight, rows, cols);
}

struct Gather : torch::autograd::Function<Gather> {
  static at::Tensor forward(torch::autograd::AutogradContext* context, const at::Tensor& weight,
                            const Index& rows, const Index& cols) {
    context->save_for_backward({rows.value_or(at::Tensor()), cols.value_or(at::Tensor())});
    context->saved_data["rows"] = weight.sym_size(0);
    context->saved_data["cols"] = weight.dim() > 1 ? weight.sym_size(1) : c10::SymInt(0);
    return below_autograd(weight, rows, cols);
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                 const torch::autograd::variable_list& gradients) {
    const auto saved = context->get_saved_variables();
    auto gradient = gradients[0];
    const char* const names[] = {"rows", "cols"};
    for (const int64_t dim : {1, 0}) {
      const auto& index = saved[static_cast<std::size_t>(dim)];
      if (!index.defined()) continue;
      auto shape = gradient.sym_sizes().vec();
      shape[static_cast<std::size_t>(dim)] = context->saved_data[names[dim]].toSymInt();
      gradient = at::zeros_symint(shape, gradient.options()).index_add(dim, index, gradient);
    }
    return {gradient, at::Tensor(), at::Tensor()};
  }
};

at::Tensor gather(const at::Tensor& weight, const Index& rows, const Index& cols) {
  const bool differentiate = at::GradMode::is_enabled() && weight.requires_grad();
  return differentiate ? Gather::apply(weight, rows, cols) : below_autograd(weight, rows, cols);
}

}  // namespace

TORCH_LIBRARY_IMPL(glyptic, Autograd, m) {
  m.impl("channel_gather", TORCH_FN(gather));
}

}  // namespace glyptic::ops

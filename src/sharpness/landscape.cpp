#include "glyptic/sharpness/landscape.h"

#include <torch/torch.h>

#include <cmath>
#include <iomanip>
#include <limits>
#include <sstream>

#include "glyptic/core/error.h"
#include "glyptic/core/rng.h"
#include "glyptic/core/safetensors.h"

namespace glyptic::sharpness {

namespace {

constexpr std::pair<const char*, DirectionNorm> kNorms[] = {
    {"filter", DirectionNorm::filter},   {"layer", DirectionNorm::layer},   {"weight", DirectionNorm::weight},
    {"dfilter", DirectionNorm::dfilter}, {"dlayer", DirectionNorm::dlayer}, {"none", DirectionNorm::none}};

at::Tensor row_norms(const at::Tensor& x) {
  auto shape = std::vector<int64_t>(static_cast<std::size_t>(x.dim()), 1);
  shape[0] = x.size(0);
  return x.reshape({x.size(0), -1}).norm(2, 1).view(shape);
}

/// d scaled to w by the rule; 1e-10 keeps the direction of an empty filter zero.
at::Tensor normalized(const at::Tensor& d, const at::Tensor& w, const DirectionOptions& options) {
  if (w.dim() <= 1) return options.ignore_biasbn ? at::zeros_like(w) : w.clone();
  switch (options.norm) {
    case DirectionNorm::filter:
      return d * (row_norms(w) / (row_norms(d) + 1e-10));
    case DirectionNorm::layer:
      return d * (w.norm() / (d.norm() + 1e-10));
    case DirectionNorm::weight:
      return d * w;
    case DirectionNorm::dfilter:
      return d / (row_norms(d) + 1e-10);
    case DirectionNorm::dlayer:
      return d / (d.norm() + 1e-10);
    case DirectionNorm::none:
      break;
  }
  return d;
}

bool moves(const at::Tensor& buffer) {
  return buffer.is_floating_point();
}

at::Tensor drawn(const NamedTensor& like, const DirectionOptions& options, uint64_t index) {
  const auto& w = like.tensor;
  auto noise =
      at::empty(w.sizes(), w.options().requires_grad(false).memory_format(at::MemoryFormat::Contiguous));
  const auto stream = RngStream(options.seed, "landscape/direction").child(index).child(stream_id(like.name));
  ops::philox_fill_(noise, options.seed, stream.stream(), 0, ops::Distribution::normal);
  return noise;
}

std::vector<double> values_of(const Axis& axis, const char* name) {
  require(axis.points >= 2, "landscape: axis ", name, " has ", axis.points, " points, expected at least 2");
  require(std::isfinite(axis.low) && std::isfinite(axis.high) && axis.low < axis.high, "landscape: axis ",
          name, " goes from ", axis.low, " to ", axis.high,
          ", expected two finite numbers, the lower one first");
  std::vector<double> values;
  for (int64_t i = 0; i < axis.points; ++i) {
    // Symmetric axes get an exact zero in the middle.
    const double t = static_cast<double>(i) / static_cast<double>(axis.points - 1);
    values.push_back(axis.low * (1 - t) + axis.high * t);
  }
  return values;
}

void check(const LossSurface& surface, const Direction& d) {
  require(d.parameters.size() == surface.parameters().size() &&
              (d.buffers.empty() || d.buffers.size() == surface.buffers().size()),
          "landscape: a direction has ", d.parameters.size(), " tensors for ", surface.parameters().size(),
          " parameters; it was made for another surface");
}

Landscape slice(const LossSurface& surface, const std::vector<const Direction*>& directions,
                const std::vector<double>& a, const std::vector<double>& b) {
  const at::NoGradGuard no_grad;
  bool states = false;
  for (const auto* d : directions) {
    check(surface, *d);
    states |= !d->buffers.empty();
  }
  Landscape result;
  result.a = a;
  result.b = b;
  result.center = surface.loss();
  Excursion excursion(surface, states);
  const auto at_point = [&](const std::vector<double>& scales) {
    const auto offset = [&](TensorList Direction::*part, std::size_t count) {
      TensorList sum(count);
      for (std::size_t k = 0; k < directions.size(); ++k) {
        const auto& list = directions[k]->*part;
        for (std::size_t i = 0; i < list.size(); ++i) {
          if (!list[i].defined()) continue;
          const auto term = list[i] * scales[k];
          sum[i] = sum[i].defined() ? sum[i] + term : term;
        }
      }
      return sum;
    };
    excursion.to(offset(&Direction::parameters, surface.parameters().size()),
                 states ? offset(&Direction::buffers, surface.buffers().size()) : TensorList{});
    const double loss = surface.loss();
    result.not_finite += !std::isfinite(loss);
    result.loss.push_back(std::isfinite(loss) ? loss : std::numeric_limits<double>::infinity());
  };
  for (const double x : a) {
    if (b.empty()) at_point({x});
    for (const double y : b) at_point({x, y});
  }
  return result;
}

std::string ending(const std::string& path) {
  const auto dot = path.find_last_of('.');
  return dot == std::string::npos ? "" : path.substr(dot);
}

std::string number(double x) {
  if (std::isinf(x)) return x > 0 ? "inf" : "-inf";
  if (std::isnan(x)) return "nan";
  std::ostringstream out;
  out << std::setprecision(17) << x;
  return out.str();
}

std::map<std::string, std::string> all_settings(const Landscape& l) {
  auto settings = l.settings;
  settings["center"] = number(l.center);
  if (!l.b.empty()) settings["cosine"] = number(l.cosine);
  settings["not_finite"] = std::to_string(l.not_finite);
  return settings;
}

}  // namespace

DirectionNorm direction_norm_from_name(const std::string& name) {
  std::vector<std::string> names;
  for (const auto& [known, norm] : kNorms) {
    if (name == known) return norm;
    names.emplace_back(known);
  }
  throw ArgumentError(str("norm is '", name,
                          "', expected one of filter, layer, weight, dfilter, dlayer, none",
                          did_you_mean(name, names)));
}

const char* name_of(DirectionNorm norm) {
  for (const auto& [known, value] : kNorms)
    if (norm == value) return known;
  return "?";
}

Direction random_direction(const LossSurface& surface, const DirectionOptions& options, uint64_t index) {
  const at::NoGradGuard no_grad;
  Direction result;
  const auto masks = surface.mask().defined() ? surface.split(surface.mask()) : TensorList{};
  for (std::size_t i = 0; i < surface.parameters().size(); ++i) {
    const auto& p = surface.parameters()[i];
    auto d = drawn(p, options, index);
    if (!masks.empty()) d.masked_fill_(masks[i].to(d.device()).logical_not(), 0);
    d = normalized(d, p.tensor, options);
    if (!masks.empty()) d = d.masked_fill(masks[i].to(d.device()).logical_not(), 0);
    result.parameters.push_back(d);
  }
  if (options.states)
    for (const auto& buffer : surface.buffers())
      result.buffers.push_back(moves(buffer.tensor)
                                   ? normalized(drawn(buffer, options, index), buffer.tensor, options)
                                   : at::Tensor());
  return result;
}

Direction direction_to(const LossSurface& surface, const NamedTensors& other, bool states) {
  const at::NoGradGuard no_grad;
  const auto difference = [&](const NamedTensor& here) {
    const auto& there = get(other, here.name);
    require(there.sizes() == here.tensor.sizes(), "interpolation: '", here.name, "' has shape ",
            shape_string(here.tensor.sizes()), " here and ", shape_string(there.sizes()), " there");
    return there.to(here.tensor.options()) - here.tensor;
  };
  Direction result;
  for (const auto& p : surface.parameters()) result.parameters.push_back(difference(p));
  if (states)
    for (const auto& buffer : surface.buffers())
      result.buffers.push_back(moves(buffer.tensor) ? difference(buffer) : at::Tensor());
  return result;
}

Direction given_direction(const LossSurface& surface, const NamedTensors& tensors) {
  NamedTensors known;
  Direction result;
  for (const auto& p : surface.parameters()) {
    known.push_back(p);
    const auto* d = find(tensors, p.name);
    if (d == nullptr) {
      result.parameters.push_back(at::zeros_like(p.tensor));
      continue;
    }
    require(d->sizes() == p.tensor.sizes(), "landscape: the direction of '", p.name, "' has shape ",
            shape_string(d->sizes()), ", its weight ", shape_string(p.tensor.sizes()));
    result.parameters.push_back(d->detach().to(p.tensor.device(), p.tensor.scalar_type()));
  }
  for (const auto& entry : tensors) static_cast<void>(get(known, entry.name));
  return result;
}

double cosine(const LossSurface& surface, const Direction& a, const Direction& b) {
  check(surface, a);
  check(surface, b);
  double xy = 0, xx = 0, yy = 0;
  const auto add = [&](const TensorList& x, const TensorList& y) {
    for (std::size_t i = 0; i < std::min(x.size(), y.size()); ++i) {
      if (!x[i].defined() || !y[i].defined()) continue;
      const auto p = x[i].to(at::kDouble), q = y[i].to(at::kDouble);
      xy += (p * q).sum().item<double>();
      xx += (p * p).sum().item<double>();
      yy += (q * q).sum().item<double>();
    }
  };
  add(a.parameters, b.parameters);
  add(a.buffers, b.buffers);
  return xx > 0 && yy > 0 ? xy / std::sqrt(xx * yy) : 0;
}

Landscape landscape(const LossSurface& surface, const Direction& d, const Axis& a) {
  return slice(surface, {&d}, values_of(a, "a"), {});
}

Landscape landscape(const LossSurface& surface, const Direction& d1, const Direction& d2, const Axis& a,
                    const Axis& b) {
  auto result = slice(surface, {&d1, &d2}, values_of(a, "a"), values_of(b, "b"));
  result.cosine = cosine(surface, d1, d2);
  return result;
}

std::map<std::string, std::string> settings_of(const DirectionOptions& options) {
  return {{"directions", "random"},
          {"seed", std::to_string(options.seed)},
          {"norm", name_of(options.norm)},
          {"ignore", options.ignore_biasbn ? "biasbn" : "none"},
          {"states", options.states ? "true" : "false"}};
}

void save_landscape(const std::string& path, const Landscape& l) {
  const std::size_t points = l.a.size() * (l.b.empty() ? 1 : l.b.size());
  require(l.loss.size() == points, "save_landscape: ", l.loss.size(), " losses for ", points, " points");
  if (ending(path) == ".csv") {
    std::ostringstream out;
    for (const auto& [key, value] : all_settings(l)) out << "# " << key << " = " << value << "\n";
    out << (l.b.empty() ? "a,loss\n" : "a,b,loss\n");
    for (std::size_t i = 0, k = 0; i < l.a.size(); ++i) {
      if (l.b.empty()) out << number(l.a[i]) << "," << number(l.loss[k++]) << "\n";
      for (const double b : l.b)
        out << number(l.a[i]) << "," << number(b) << "," << number(l.loss[k++]) << "\n";
    }
    write_file_atomically(path, out.str());
    return;
  }
  require(ending(path) == ".safetensors", "save_landscape: '", path,
          "' ends in neither .csv nor .safetensors");
  const auto tensor = [](const std::vector<double>& values) { return at::tensor(values, at::kDouble); };
  NamedTensors tensors{{"a", tensor(l.a)}};
  auto loss = tensor(l.loss);
  if (!l.b.empty()) {
    tensors.push_back({"b", tensor(l.b)});
    loss = loss.view({static_cast<int64_t>(l.a.size()), static_cast<int64_t>(l.b.size())});
  }
  tensors.push_back({"loss", loss});
  save_safetensors(path, tensors, all_settings(l));
}

Landscape load_landscape(const std::string& path) {
  const SafeTensors file(path);
  const auto values = [&](const std::string& name) {
    const auto t = file.tensor(name).to(at::kDouble).contiguous();
    return std::vector<double>(t.const_data_ptr<double>(), t.const_data_ptr<double>() + t.numel());
  };
  require<DataError>(file.contains("a") && file.contains("loss"), path,
                     ": has no tensors 'a' and 'loss'; expected a file that save_landscape wrote");
  Landscape result;
  result.a = values("a");
  if (file.contains("b")) result.b = values("b");
  result.loss = values("loss");
  require<DataError>(result.loss.size() == result.a.size() * (result.b.empty() ? 1 : result.b.size()), path,
                     ": ", result.loss.size(), " losses do not fit its axes");
  result.settings = file.metadata();
  const auto take = [&](const char* key) {
    const auto found = result.settings.find(key);
    if (found == result.settings.end()) return 0.0;
    const double value = std::strtod(found->second.c_str(), nullptr);
    result.settings.erase(found);
    return value;
  };
  result.center = take("center");
  result.cosine = take("cosine");
  result.not_finite = static_cast<int64_t>(take("not_finite"));
  return result;
}

}  // namespace glyptic::sharpness

#include <nlohmann/json.hpp>

#include "glyptic/core/error.h"
#include "glyptic/core/named_tensor.h"
#include "glyptic/core/safetensors.h"
#include "glyptic/data/dataset.h"
#include "glyptic/experiment/classification.h"
#include "glyptic/experiment/config.h"
#include "glyptic/nn/model.h"
#include "glyptic/sharpness/sharpness.h"
#include "glyptic/sparsity/sparsifier.h"

namespace glyptic::experiment {

const std::vector<ExperimentInfo>& experiments() {
  static const std::vector<ExperimentInfo> table{
      {"classification",
       "train an image classifier, dense and sparse, extract the small network, measure all",
       [] { return std::unique_ptr<Experiment>(std::make_unique<Classification>()); }},
  };
  return table;
}

namespace {

std::vector<std::string> experiment_names() {
  std::vector<std::string> names;
  for (const auto& info : experiments()) names.push_back(info.name);
  return names;
}

Options declared(Experiment& experiment) {
  Options options;
  experiment.declare(options);
  return options;
}

std::string option_line(const Option& option) {
  const auto rule = option.rule.text();
  return str(type_name(option.default_value), ", default ", to_text(option.default_value),
             rule.empty() ? "" : ", " + rule);
}

/// Whether an option's doc says that `method` reads it and others do not: it begins with the names of those
/// that do, as in "gmp, granet: sparsity at the start".
bool is_own_option(const Option& option, const std::string& method) {
  std::stringstream readers(option.doc.substr(0, option.doc.find(':')));
  if (option.doc.find(": ") == std::string::npos) return false;
  for (std::string reader; std::getline(readers >> std::ws, reader, ',');)
    if (reader == method) return true;
  return false;
}

/// The methods of all families, each a value of `<family>.method`.
struct MethodEntry {
  std::string family, name, summary, reference, source;
  Preset presets;
};

std::vector<MethodEntry> all_methods() {
  std::vector<MethodEntry> result;
  for (const auto& info : sparsity::methods())
    result.push_back({"sparsity", info.name, info.summary, info.reference, info.source, info.presets});
  for (const auto& info : sharpness::methods())
    result.push_back({"sharpness", info.name, info.summary, info.reference, info.source, info.presets});
  return result;
}

std::string describe_method(const MethodEntry& info) {
  std::string text =
      str(info.name, ": ", info.summary, "\n  reference: ", info.reference, "\n  source: ", info.source,
          "\n  chosen by: ", info.family, ".method: ", info.name, "\n");
  if (!info.presets.empty()) text += "  sets (unless given):\n";
  for (const auto& [leaf, value] : info.presets)
    text += str("    ", info.family, ".", leaf, ": ", to_text(value), "\n");
  sparsity::SparsityOptions sparse;
  sharpness::SharpnessOptions sharp;
  Options options;
  if (info.family == "sparsity")
    options.group("sparsity", sparse, "");
  else
    options.group("sharpness", sharp, "");
  std::string own;
  for (const auto& option : options.list())
    if (is_own_option(option, info.name))
      own += str("    ", option.name, "\n        ", option.doc, " (", option_line(option), ")\n");
  if (!own.empty()) text += "  options of its own:\n" + own;
  return text + "  and those of every method: glyptic describe " + info.family + "\n";
}

/// "  (read from A; also in B)": which of the folders wins, since $GLYPTIC_DATA may hide the shipped set.
std::string folders_of(const std::string& dataset) {
  std::string text;
  const auto folders = data::data_folders(dataset);
  for (std::size_t i = 0; i < folders.size(); ++i)
    text += (i == 0 ? "read from " : i == 1 ? "; also in " : ", ") + folders[i];
  return text;
}

// Whatever is on this machine: the same page everywhere.
std::string dataset_form(const std::string& name) {
  data::DataOptions options;
  options.name = name;
  options.folder = "/dev/null";
  const auto form = data::expected_form(options);
  return str("images of ", shape_string(form.shape), ", ", form.classes, " classes",
             name == "image_folder" ? " (as ImageNet; the folders decide)"
             : name == "shapes"     ? " (generated)"
                                    : "");
}

std::string describe_dataset(const std::string& name) {
  std::string text = str(name, ": ", dataset_form(name), "\n");
  if (name == "shapes") return text;
  const auto found = folders_of(name);
  text += found.empty() ? str("  not found here; put it into $GLYPTIC_DATA/", name, " or set data.folder\n")
                        : str("  ", found, "\n");
  return text;
}

std::string escaped(std::string text) {  // for a cell of a Markdown table
  for (std::size_t at = 0; (at = text.find('|', at)) != std::string::npos; at += 2)
    text.replace(at, 1, "\\|");
  return text;
}

}  // namespace

std::unique_ptr<Experiment> make_experiment(const std::string& name) {
  for (const auto& info : experiments())
    if (info.name == name) return info.make();
  throw ConfigError(str("unknown experiment '", name, "'", did_you_mean(name, experiment_names()),
                        "; known: ", experiments().front().name));
}

Loaded load_experiment(const std::string& config_path, const std::vector<std::string>& sets) {
  const auto file = ConfigFile::read(config_path);
  auto name = file.word("experiment");
  for (const auto& set : sets)
    if (set.rfind("experiment=", 0) == 0) name = set.substr(11);
  Loaded loaded;
  loaded.experiment = make_experiment(name.empty() ? "classification" : name);
  loaded.options = std::make_unique<Options>();
  loaded.experiment->declare(*loaded.options);
  file.apply(*loaded.options);
  for (const auto& set : sets) apply_set(*loaded.options, set);
  loaded.experiment->check();
  return loaded;
}

std::string describe(const std::string& name) {
  for (const auto& info : experiments()) {
    if (info.name != name) continue;
    auto experiment = info.make();
    const auto options = declared(*experiment);
    std::string text = str(info.name, ": ", info.summary, "\n");
    std::string group;
    for (const auto& option : options.list()) {
      const auto dot = option.name.rfind('.');
      const auto of = dot == std::string::npos ? "" : option.name.substr(0, dot);
      if (of != group) text += "\n";
      group = of;
      text += str("  ", option.name, "\n      ", option.doc, " (", option_line(option), ")\n");
    }
    return text;
  }
  for (const auto& info : all_methods())
    if (info.name == name) return describe_method(info);
  for (const auto& model : nn::model_names()) {
    if (model != name) continue;
    const auto graph = nn::build_graph(model);
    const auto cost = nn::cost(graph);
    return str(model, ": ", nn::model_summary(model), "\n  ", cost.parameters, " parameters, ", cost.macs,
               " MACs at ", shape_string(nn::node_shapes(graph).front()), "\n");
  }
  for (const auto& dataset : data::dataset_names())
    if (dataset == name) return describe_dataset(name);
  std::vector<std::string> known = experiment_names();
  for (const auto& dataset : data::dataset_names()) known.push_back(dataset);
  for (const auto& info : all_methods()) known.push_back(info.name);
  for (const auto& model : nn::model_names()) known.push_back(model);
  for (const auto& experiment_info : experiments()) {
    auto experiment = experiment_info.make();
    const auto options = declared(*experiment);
    if (options.contains(name)) {
      const auto& option = options.at(name);
      return str(name, ": ", option.doc, "\n  ", option_line(option), "\n");
    }
    if (options.is_group(name)) {
      std::string text;
      for (const auto& child : options.children(name)) {
        const auto& full = name + "." + child;
        if (options.contains(full))
          text +=
              str("  ", full, "\n      ", options.at(full).doc, " (", option_line(options.at(full)), ")\n");
      }
      return text;
    }
    for (const auto& option : options.list()) known.push_back(option.name);
    for (const auto& group : options.groups()) known.push_back(group.name);
  }
  auto names = nearest(name, known);
  for (const auto& experiment_info : experiments()) {
    const auto options = declared(*experiment_info.make());
    for (const auto& option : options.nearest_names(name))
      if (names.size() < 3 && std::find(names.begin(), names.end(), option) == names.end())
        names.push_back(option);
  }
  throw ArgumentError(str("nothing here is called '", name, "'", did_you_mean(names), "; see: glyptic list"));
}

std::string list_everything() {
  std::string text = "experiments\n";
  for (const auto& info : experiments()) text += str("  ", info.name, "  ", info.summary, "\n");
  std::string family;
  for (const auto& info : all_methods()) {
    if (info.family != family) text += "\n" + info.family + " methods\n";
    family = info.family;
    text += str("  ", info.name, "  ", info.summary, " [", info.source, "]\n");
  }
  text += "\nnetworks\n";
  for (const auto& name : nn::model_names()) text += str("  ", name, "  ", nn::model_summary(name), "\n");
  text += "\ndata sets\n";
  for (const auto& name : data::dataset_names()) {
    text += "  " + name;
    const auto found = folders_of(name);
    text += (found.empty() ? "" : "  (" + found + ")") + "\n";
  }
  return text + "\nMore about any of them, or about an option: glyptic describe NAME\n";
}

std::string reference_markdown() {
  std::string text =
      "# Reference\n\nMade by `glyptic describe --markdown` from the declarations in the code; do not "
      "edit.\n\n## Methods\n\n"
      "| method | option | what it does | reference | source |\n|---|---|---|---|---|\n";
  for (const auto& info : all_methods())
    text += str("| `", info.name, "` | `", info.family, ".method` | ", escaped(info.summary), " | ",
                escaped(info.reference), " | ", info.source, " |\n");
  text += "\nChoosing a method also sets, unless the option is given:\n\n";
  for (const auto& info : all_methods())
    for (const auto& [leaf, value] : info.presets)
      text += str("- `", info.name, "`: `", info.family, ".", leaf, ": ", to_text(value), "`\n");
  text += "\n## Networks\n\n| network | what it is | parameters | MACs |\n|---|---|---|---|\n";
  for (const auto& name : nn::model_names()) {
    const auto cost = nn::cost(nn::build_graph(name));
    text += str("| `", name, "` | ", escaped(nn::model_summary(name)), " | ", cost.parameters, " | ",
                cost.macs, " |\n");
  }
  text += "\n## Data sets\n\n| name | what it holds |\n|---|---|\n";
  for (const auto& name : data::dataset_names()) text += str("| `", name, "` | ", dataset_form(name), " |\n");
  for (const auto& info : experiments()) {
    auto experiment = info.make();
    const auto options = declared(*experiment);
    text += str("\n## Experiment `", info.name, "`\n\n", info.summary, ".\n");
    std::string group = "?";
    for (const auto& option : options.list()) {
      const auto dot = option.name.rfind('.');
      const auto of = dot == std::string::npos ? std::string() : option.name.substr(0, dot);
      if (of != group) {
        group = of;
        std::string doc;
        for (const auto& entry : options.groups())
          if (entry.name == of) doc = entry.doc;
        text += of.empty() ? "\n" : str("\n### `", of, "`: ", doc, "\n\n");
        text += "| option | type | default | values | meaning |\n|---|---|---|---|---|\n";
      }
      text += str("| `", option.name, "` | ", type_name(option.default_value), " | `",
                  escaped(to_text(option.default_value)), "` | ", escaped(option.rule.text()), " | ",
                  escaped(option.doc), " |\n");
    }
  }
  return text;
}

}  // namespace glyptic::experiment

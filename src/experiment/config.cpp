#include "glyptic/experiment/config.h"

#include <yaml-cpp/eventhandler.h>
#include <yaml-cpp/yaml.h>

#include <charconv>

#include "glyptic/core/named_tensor.h"
#include "glyptic/core/safetensors.h"

namespace glyptic::experiment {

namespace {

constexpr uint64_t kLargestConfig = 1 << 16;  // yaml-cpp needs up to 200 times as much memory
constexpr int kMostEntries = 100'000;
constexpr std::size_t kMostFiles = 256;
constexpr int kDeepest = 16;  // nesting of maps, and of includes

std::string place(const std::string& file, const YAML::Mark& mark) {
  if (mark.is_null()) return file;
  return str(file, ":", mark.line + 1, ":", mark.column + 1);
}

// Parses and keeps nothing.
class Nobody final : public YAML::EventHandler {
 public:
  void OnDocumentStart(const YAML::Mark&) override {}
  void OnDocumentEnd() override {}
  void OnNull(const YAML::Mark&, YAML::anchor_t) override {}
  void OnAlias(const YAML::Mark&, YAML::anchor_t) override {}
  void OnScalar(const YAML::Mark&, const std::string&, YAML::anchor_t, const std::string&) override {}
  void OnSequenceStart(const YAML::Mark&, const std::string&, YAML::anchor_t,
                       YAML::EmitterStyle::value) override {}
  void OnSequenceEnd() override {}
  void OnMapStart(const YAML::Mark&, const std::string&, YAML::anchor_t, YAML::EmitterStyle::value) override {
  }
  void OnMapEnd() override {}
};

// Not YAML::LoadAll: yaml-cpp 0.7 finds documents without end in some malformed texts.
YAML::Node load_yaml(const std::string& text, const std::string& file) {
  try {
    std::istringstream stream(text);
    YAML::Parser parser(stream);
    Nobody nobody;
    int documents = 0;
    while (documents < 2 && parser.HandleNextDocument(nobody)) ++documents;
    require<ConfigError>(documents <= 1, file,
                         " holds more than one YAML document; give one (remove the lines '---')");
    return documents == 0 ? YAML::Node() : YAML::Load(text);
  } catch (const YAML::Exception& error) {
    throw ConfigError(str(place(file, error.mark), ": not valid YAML: ", error.msg));
  }
}

bool is_plain(const YAML::Node& node) {
  return node.Tag() != "!";
}  // "!" marks a quoted scalar

std::optional<double> as_number(const std::string& text) {
  if (text == ".inf" || text == "+.inf") return std::numeric_limits<double>::infinity();
  if (text == "-.inf") return -std::numeric_limits<double>::infinity();
  if (text == ".nan") return std::nan("");
  // strtod also takes hex, "inf" and "nan"; YAML numbers here are decimal.
  if (text.empty() || text.find_first_not_of("0123456789+-.eE_") != std::string::npos) return std::nullopt;
  std::string digits = text;
  digits.erase(std::remove(digits.begin(), digits.end(), '_'), digits.end());
  char* end = nullptr;
  const double value = std::strtod(digits.c_str(), &end);
  if (end == digits.c_str() || *end != '\0') return std::nullopt;
  return value;
}

// All 64 bits: a seed does not fit into a double.
std::optional<int64_t> as_integer(const std::string& text) {
  std::string digits = text;
  digits.erase(std::remove(digits.begin(), digits.end(), '_'), digits.end());
  if (!digits.empty() && digits[0] == '+') digits.erase(0, 1);
  int64_t value = 0;
  const char* end = digits.data() + digits.size();
  const auto result = std::from_chars(digits.data(), end, value);
  if (digits.empty() || result.ec != std::errc() || result.ptr != end) return std::nullopt;
  return value;
}

// What a scalar means when the option does not say: YAML 1.2's core schema.
Value scalar_value(const YAML::Node& node, bool want_string) {
  const auto& text = node.Scalar();
  if (want_string || !is_plain(node)) return text;
  if (text == "true") return true;
  if (text == "false") return false;
  if (const auto whole = as_integer(text)) return *whole;
  if (const auto number = as_number(text)) return *number;
  return text;
}

Value node_value(const YAML::Node& node, const Option& option, const std::string& where) {
  const bool want_string = std::holds_alternative<std::string>(option.default_value) ||
                           std::holds_alternative<std::vector<std::string>>(option.default_value);
  const auto expected = [&] {
    const auto rule = option.rule.text();
    return "expected " + type_name(option.default_value) + (rule.empty() ? "" : " " + rule);
  };
  if (node.IsScalar()) return scalar_value(node, want_string);
  if (node.IsSequence()) {
    if (want_string) {
      std::vector<std::string> words;
      for (const auto& item : node) {
        require<ConfigError>(item.IsScalar(), where, ": ", option.name,
                             " holds something that is not a word, ", expected());
        words.push_back(item.Scalar());
      }
      return words;
    }
    std::vector<double> numbers;
    std::vector<int64_t> integers;
    for (const auto& item : node) {
      const auto number = item.IsScalar() && is_plain(item) ? as_number(item.Scalar()) : std::nullopt;
      require<ConfigError>(number.has_value(), where, ": ", option.name, " holds ",
                           item.IsScalar() ? "'" + item.Scalar() + "'" : "a nested value", ", ", expected());
      if (const auto whole = as_integer(item.Scalar())) integers.push_back(*whole);
      numbers.push_back(number.value_or(0));  // it has one: g++ 12 does not see that
    }
    if (integers.size() == numbers.size()) return integers;
    return numbers;
  }
  if (node.IsMap()) {
    std::map<std::string, double> map;
    for (const auto& entry : node) {
      const auto number =
          entry.second.IsScalar() && is_plain(entry.second) ? as_number(entry.second.Scalar()) : std::nullopt;
      require<ConfigError>(entry.first.IsScalar() && number.has_value(), where, ": ", option.name,
                           " is a mapping to something that is not a number, ", expected());
      map[entry.first.Scalar()] = number.value_or(0);
    }
    return map;
  }
  throw ConfigError(str(where, ": ", option.name, " has no value, ", expected()));
}

void apply_map(const YAML::Node& map, const std::string& prefix, const std::string& file, Options& options,
               int depth) {
  require<ConfigError>(depth < kDeepest, file, ": nested more than ", kDeepest, " levels deep");
  for (const auto& entry : map) {
    const std::string key = entry.first.Scalar();
    if (prefix.empty() && key == "include") continue;
    const std::string name = prefix + key;
    const auto where = place(file, entry.first.Mark());
    if (options.is_group(name) && entry.second.IsMap()) {
      apply_map(entry.second, name + ".", file, options, depth + 1);
    } else if (options.is_group(name) && entry.second.IsNull()) {
      continue;  // a heading with nothing below it
    } else if (options.contains(name)) {
      const auto at = entry.second.IsNull() ? where : place(file, entry.second.Mark());
      options.set(name, node_value(entry.second, options.at(name), at), at);
    } else {
      options.set(name, std::string(), where);  // throws, with the nearest names
    }
  }
}

// Keys must be plain words and occur once; yaml-cpp itself lets the first or the last one win.
// `left` counts down over all maps: aliases let a short file stand for billions of entries.
void check_keys(const YAML::Node& map, const std::string& file, int depth, int& left) {
  require<ConfigError>(depth < kDeepest, file, ": nested more than ", kDeepest, " levels deep");
  std::set<std::string> seen;
  for (const auto& entry : map) {
    require<ConfigError>(entry.first.IsScalar(), place(file, entry.first.Mark()), ": a key must be a word");
    require<ConfigError>(seen.insert(entry.first.Scalar()).second, place(file, entry.first.Mark()), ": '",
                         entry.first.Scalar(), "' is given twice");
    require<ConfigError>(--left >= 0, file, ": more than ", kMostEntries,
                         " entries, counted as often as aliases repeat them");
    if (entry.second.IsMap()) check_keys(entry.second, file, depth + 1, left);
  }
}

void check_keys(const YAML::Node& map, const std::string& file) {
  int left = kMostEntries;
  check_keys(map, file, 0, left);
}

}  // namespace

struct ConfigFile::Impl {
  struct Part {
    std::string file;
    YAML::Node root;
  };
  std::vector<Part> parts;  // included files first: later parts win

  void add(const std::string& text, const std::string& file, std::vector<std::string>& open) {
    require<ConfigError>(static_cast<int>(open.size()) < kDeepest, file, ": includes are nested more than ",
                         kDeepest, " deep");
    require<ConfigError>(parts.size() < kMostFiles, file, ": more than ", kMostFiles, " files are included");
    const auto root = load_yaml(text, file);
    require<ConfigError>(root.IsMap() || root.IsNull(), file,
                         ":1:1: a config is a mapping of options to values");
    if (root.IsNull()) return;
    check_keys(root, file);
    if (const auto include = root["include"]) {
      std::vector<YAML::Node> names;
      if (include.IsSequence()) {
        for (const auto& name : include) names.push_back(name);
      } else {
        names.push_back(include);
      }
      for (const auto& name : names) {
        const auto where = place(file, name.Mark());
        require<ConfigError>(name.IsScalar(), where, ": include is a file name or a list of file names");
        const auto path =
            (std::filesystem::path(file).parent_path() / name.Scalar()).lexically_normal().string();
        require<ConfigError>(std::find(open.begin(), open.end(), path) == open.end(), where, ": '",
                             name.Scalar(), "' includes itself");
        open.push_back(path);
        std::string text_of_include;
        try {
          text_of_include = read_file(path, kLargestConfig);
        } catch (const Error&) {
          throw ConfigError(str(where, ": cannot read the included file '", path,
                                "'; its name counts from the folder of the file that includes it"));
        }
        add(text_of_include, path, open);
        open.pop_back();
      }
    }
    parts.push_back({file, root});
  }
};

ConfigFile::ConfigFile() : impl_(std::make_unique<Impl>()) {}
ConfigFile::ConfigFile(ConfigFile&&) noexcept = default;
ConfigFile::~ConfigFile() = default;

ConfigFile ConfigFile::read(const std::string& path) {
  return parse(read_file(path, kLargestConfig), path);
}

ConfigFile ConfigFile::parse(const std::string& text, const std::string& name) {
  ConfigFile config;
  std::vector<std::string> open{std::filesystem::path(name).lexically_normal().string()};
  config.impl_->add(text, name, open);
  return config;
}

std::string ConfigFile::word(const std::string& key) const {
  std::string word;
  for (const auto& part : impl_->parts) {
    const YAML::Node node = part.root[key];
    if (node && node.IsScalar()) word = node.Scalar();
  }
  return word;
}

void ConfigFile::apply(Options& options) const {
  for (const auto& part : impl_->parts) apply_map(part.root, "", part.file, options, 0);
}

Value parse_value(const std::string& text, const Option& option, const std::string& where) {
  // A word is taken as it stands, so that paths with '#' or ': ' in them need no second layer of quotes.
  const bool quoted = text.size() > 1 && (text.front() == '"' || text.front() == '\'');
  if (std::holds_alternative<std::string>(option.default_value) && !quoted) return text;
  YAML::Node node;
  try {
    node = YAML::Load(text);
  } catch (const YAML::Exception& error) {
    throw ConfigError(str(where, ": the value is not valid YAML: ", error.msg));
  }
  if (node.IsMap()) check_keys(node, where);
  return node_value(node, option, where);
}

void apply_set(Options& options, const std::string& assignment) {
  const auto equals = assignment.find('=');
  require<ConfigError>(equals != std::string::npos && equals > 0, "--set ", assignment,
                       ": expected name=value, for example train.epochs=2");
  const auto name = assignment.substr(0, equals);
  const auto where = "--set " + assignment;
  if (!options.contains(name)) options.set(name, std::string(), where);  // throws, with the nearest names
  options.set(name, parse_value(assignment.substr(equals + 1), options.at(name), where), where);
}

std::string to_yaml(const Options& options) {
  std::ostringstream out;
  std::vector<std::string> open;  // groups written so far on the current path
  for (const auto& option : options.list()) {
    std::vector<std::string> path;
    std::stringstream parts(option.name);
    for (std::string part; std::getline(parts, part, '.');) path.push_back(part);
    const std::string leaf = path.back();
    path.pop_back();
    std::size_t common = 0;
    while (common < path.size() && common < open.size() && path[common] == open[common]) ++common;
    open.resize(common);
    for (; common < path.size(); ++common) {
      out << std::string(2 * common, ' ') << path[common] << ":\n";
      open.push_back(path[common]);
    }
    out << std::string(2 * path.size(), ' ') << leaf << ": " << to_text(option.get()) << '\n';
  }
  return out.str();
}

}  // namespace glyptic::experiment

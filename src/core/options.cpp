#include "glyptic/core/options.h"

#include <algorithm>
#include <charconv>
#include <cmath>

#include "glyptic/core/named_tensor.h"

namespace glyptic {

namespace {

std::string number_text(double value) {
  if (std::isnan(value)) return ".nan";
  if (std::isinf(value)) return value > 0 ? ".inf" : "-.inf";
  char buffer[40];
  const auto end =
      std::to_chars(buffer, buffer + sizeof buffer, value).ptr;  // shortest that reads back the same
  std::string text(buffer, end);
  if (text.find_first_of(".einf") == std::string::npos) text += ".0";  // stays a float when read back
  return text;
}

// Plain where YAML reads a plain word as a string, quoted otherwise.
std::string quoted(const std::string& text) {
  const bool plain =
      !text.empty() && std::isalpha(static_cast<unsigned char>(text[0])) != 0 &&
      text.find_first_not_of("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_./-") ==
          std::string::npos &&
      text != "true" && text != "false" && text != "null" && text != "yes" && text != "no" && text != "on" &&
      text != "off" && text != "y" && text != "n";
  if (plain) return text;
  std::string out = "\"";
  for (const char c : text) {
    switch (c) {
      case '"':
        out += "\\\"";
        break;
      case '\\':
        out += "\\\\";
        break;
      case '\n':
        out += "\\n";
        break;
      case '\t':
        out += "\\t";
        break;
      default:
        if (const auto byte = static_cast<unsigned char>(c); byte < 0x20 || byte == 0x7F) {
          constexpr char kHex[] = "0123456789abcdef";
          out += {'\\', 'x', kHex[byte >> 4], kHex[byte & 15]};
        } else {
          out += c;
        }
    }
  }
  return out + "\"";
}

template <class T, class F>
std::string list_text(const std::vector<T>& values, F text) {
  std::string out = "[";
  for (std::size_t i = 0; i < values.size(); ++i) out += (i ? ", " : "") + text(values[i]);
  return out + "]";
}

std::string join(const std::vector<std::string>& words) {
  std::string out;
  for (std::size_t i = 0; i < words.size(); ++i) out += (i ? ", " : "") + words[i];
  return out;
}

template <class T, class V>
bool is(const V& value) {
  return std::holds_alternative<T>(value);
}

// The value as the alternative that `like` holds, or nothing.
std::optional<Value> coerce(const Value& value, const Value& like) {
  if (value.index() == like.index()) return value;
  const auto as_int = [](double x) -> std::optional<int64_t> {
    if (std::floor(x) != x || std::abs(x) > 9.0e15) return std::nullopt;
    return static_cast<int64_t>(x);
  };
  if (is<double>(like) && is<int64_t>(value)) return static_cast<double>(std::get<int64_t>(value));
  if (is<int64_t>(like) && is<double>(value)) {
    if (const auto whole = as_int(std::get<double>(value))) return *whole;
    return std::nullopt;
  }
  if (is<std::vector<double>>(like)) {
    if (is<std::vector<int64_t>>(value)) {
      const auto& list = std::get<std::vector<int64_t>>(value);
      return std::vector<double>(list.begin(), list.end());
    }
    if (is<double>(value)) return std::vector<double>{std::get<double>(value)};
    if (is<int64_t>(value)) return std::vector<double>{static_cast<double>(std::get<int64_t>(value))};
  }
  if (is<std::vector<int64_t>>(like)) {
    if (is<int64_t>(value)) return std::vector<int64_t>{std::get<int64_t>(value)};
    if (is<std::vector<double>>(value)) {
      std::vector<int64_t> whole;
      for (const double x : std::get<std::vector<double>>(value)) {
        const auto i = as_int(x);
        if (!i) return std::nullopt;
        whole.push_back(*i);
      }
      return whole;
    }
  }
  if (is<std::vector<std::string>>(like) && is<std::string>(value))
    return std::vector<std::string>{std::get<std::string>(value)};
  // An empty list has no type of its own.
  const bool empty_list =
      (is<std::vector<int64_t>>(value) && std::get<std::vector<int64_t>>(value).empty()) ||
      (is<std::vector<std::string>>(value) && std::get<std::vector<std::string>>(value).empty());
  if (empty_list) {
    if (is<std::vector<int64_t>>(like)) return std::vector<int64_t>{};
    if (is<std::vector<double>>(like)) return std::vector<double>{};
    if (is<std::vector<std::string>>(like)) return std::vector<std::string>{};
  }
  return std::nullopt;
}

bool within(double x, const Rule& rule) {
  if (std::isnan(x)) return false;
  if (rule.low && (x < *rule.low || (rule.low_open && x == *rule.low))) return false;
  if (rule.high && (x > *rule.high || (rule.high_open && x == *rule.high))) return false;
  return true;
}

}  // namespace

std::string to_text(const Value& value) {
  return std::visit(
      [](const auto& v) -> std::string {
        using T = std::decay_t<decltype(v)>;
        if constexpr (std::is_same_v<T, bool>) return v ? "true" : "false";
        if constexpr (std::is_same_v<T, int64_t>) return std::to_string(v);
        if constexpr (std::is_same_v<T, double>) return number_text(v);
        if constexpr (std::is_same_v<T, std::string>) return quoted(v);
        if constexpr (std::is_same_v<T, std::vector<int64_t>>)
          return list_text(v, [](int64_t x) { return std::to_string(x); });
        if constexpr (std::is_same_v<T, std::vector<double>>) return list_text(v, number_text);
        if constexpr (std::is_same_v<T, std::vector<std::string>>) return list_text(v, quoted);
        if constexpr (std::is_same_v<T, std::map<std::string, double>>) {
          std::string out = "{";
          for (const auto& [key, number] : v)
            out += (out.size() > 1 ? ", " : "") + quoted(key) + ": " + number_text(number);
          return out + "}";
        }
      },
      value);
}

std::string type_name(const Value& value) {
  constexpr const char* names[] = {"bool",        "int",           "float",          "string",
                                   "list of int", "list of float", "list of string", "map of float"};
  return names[value.index()];
}

std::string Rule::text() const {
  if (!choices.empty()) return "one of " + join(choices);
  const auto plain = [](double x) {
    std::ostringstream out;
    out << x;
    return out.str();
  };
  if (low && high)
    return (low_open ? "in (" : "in [") + plain(*low) + ", " + plain(*high) + (high_open ? ")" : "]");
  if (low) return (low_open ? "> " : ">= ") + plain(*low);
  if (high) return (high_open ? "< " : "<= ") + plain(*high);
  return "";
}

Rule above(double low) {
  return {.low = low, .low_open = true};
}
Rule at_least(double low) {
  return {.low = low};
}
Rule between(double low, double high) {
  return {.low = low, .high = high};
}
Rule above_to(double low, double high) {
  return {.low = low, .high = high, .low_open = true};
}
Rule from_below(double low, double high) {
  return {.low = low, .high = high, .high_open = true};
}
Rule one_of(std::vector<std::string> choices) {
  return {.choices = std::move(choices)};
}

void Options::add(Option option) {
  require<Error>(index_.emplace(option.name, options_.size()).second, "option '", option.name,
                 "' is declared twice");
  options_.push_back(std::move(option));
}

Value Options::convert(const Option& option, const Value& value, const std::string& where) {
  const auto coerced = coerce(value, option.default_value);
  require<ConfigError>(coerced.has_value(), where, ": ", option.name, " is ", to_text(value), " (",
                       type_name(value), "), expected ", type_name(option.default_value),
                       option.rule.text().empty() ? "" : " " + option.rule.text());
  const auto check_number = [&](double x) {
    require<ConfigError>(within(x, option.rule), where, ": ", option.name, " is ", to_text(value),
                         ", expected ", type_name(option.default_value), " ", option.rule.text());
  };
  const auto check_word = [&](const std::string& word) {
    const auto& choices = option.rule.choices;
    require<ConfigError>(choices.empty() || std::find(choices.begin(), choices.end(), word) != choices.end(),
                         where, ": ", option.name, " is '", word, "', expected ", option.rule.text(),
                         did_you_mean(word, choices));
  };
  std::visit(
      [&](const auto& v) {
        using T = std::decay_t<decltype(v)>;
        if constexpr (std::is_same_v<T, int64_t> || std::is_same_v<T, double>)
          check_number(static_cast<double>(v));
        if constexpr (std::is_same_v<T, std::vector<int64_t>> || std::is_same_v<T, std::vector<double>>)
          for (const auto x : v) check_number(static_cast<double>(x));
        if constexpr (std::is_same_v<T, std::map<std::string, double>>)
          for (const auto& entry : v) check_number(entry.second);
        if constexpr (std::is_same_v<T, std::string>) check_word(v);
        if constexpr (std::is_same_v<T, std::vector<std::string>>)
          for (const auto& word : v) check_word(word);
      },
      *coerced);
  return *coerced;
}

void Options::set(const std::string& name, const Value& value, const std::string& where) {
  const auto found = index_.find(name);
  if (found == index_.end()) {
    require<ConfigError>(!is_group(name), where, ": '", name,
                         "' is a group of options, not a value; its options are ", join(children(name)));
    auto hint = did_you_mean(nearest_names(name));
    const auto dot = name.rfind('.');
    const std::string group = dot == std::string::npos ? "" : name.substr(0, dot);
    if (hint.empty() && (group.empty() || is_group(group))) hint = "; known: " + join(children(group));
    throw ConfigError(str(where, ": unknown option '", name, "'", hint));
  }
  auto& option = options_[found->second];
  const Value converted = convert(option, value, where);
  option.assign(converted);
  option.is_set = true;
  if (option.presets.empty()) return;
  const auto dot = name.rfind('.');
  const std::string group = dot == std::string::npos ? "" : name.substr(0, dot + 1);
  // What an earlier choice brought with it goes with that choice.
  for (const auto& [choice, preset] : option.presets) {
    for (const auto& [leaf, value_of_other] : preset) {
      auto& other = options_[index_.at(group + leaf)];
      if (!other.is_set) other.assign(other.default_value);
    }
  }
  const auto chosen = option.presets.find(std::get<std::string>(converted));
  if (chosen == option.presets.end()) return;
  for (const auto& [leaf, preset_value] : chosen->second) {
    auto& other = options_[index_.at(group + leaf)];
    if (!other.is_set) other.assign(convert(other, preset_value, "preset of " + name));
  }
}

bool Options::contains(const std::string& name) const {
  return index_.count(name) != 0;
}

bool Options::is_group(const std::string& name) const {
  return std::any_of(groups_.begin(), groups_.end(), [&](const auto& group) { return group.name == name; });
}

const Option& Options::at(const std::string& name) const {
  const auto found = index_.find(name);
  require<Error>(found != index_.end(), "option '", name, "' is not declared");
  return options_[found->second];
}

std::vector<std::string> Options::nearest_names(const std::string& name) const {
  const auto dot = name.rfind('.');
  const std::string group = dot == std::string::npos ? "" : name.substr(0, dot);
  if (group.empty() || is_group(group)) {
    auto names = nearest(name.substr(dot + 1), children(group));  // npos + 1 is 0
    for (auto& found : names) found = group.empty() ? found : group + "." + found;
    if (!names.empty()) return names;
  }
  std::vector<std::string> all;
  std::map<std::string, std::vector<std::string>> of_leaf;
  for (const auto& option : options_) {
    all.push_back(option.name);
    of_leaf[option.name.substr(option.name.rfind('.') + 1)].push_back(option.name);
  }
  if (!group.empty()) return nearest(name, all);
  std::vector<std::string> leaves, names;
  for (const auto& [leaf, options] : of_leaf) leaves.push_back(leaf);
  for (const auto& leaf : of_leaf.count(name) != 0 ? std::vector<std::string>{name} : nearest(name, leaves))
    names.insert(names.end(), of_leaf[leaf].begin(), of_leaf[leaf].end());
  return names;
}

std::vector<std::string> Options::children(const std::string& group) const {
  std::vector<std::string> names;
  const auto consider = [&](const std::string& name) {
    const std::string start = group.empty() ? "" : group + ".";
    if (name.size() > start.size() && name.rfind(start, 0) == 0 &&
        name.find('.', start.size()) == std::string::npos)
      names.push_back(name.substr(start.size()));
  };
  for (const auto& option : options_) consider(option.name);
  for (const auto& entry : groups_) consider(entry.name);
  return names;
}

}  // namespace glyptic

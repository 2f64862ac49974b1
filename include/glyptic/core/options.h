// Options declared once. A struct of options lists its fields in one member function,
//
//   struct SgdOptions {
//     double lr = 0.1;
//     void declare(Options& o) { o.field("lr", lr, "learning rate", above(0)); }
//   };
//
// and from that one list come reading YAML with file:line:column errors, `--set optimizer.lr=0.05`, Python
// keyword arguments, `glyptic describe`, the resolved config of a run folder, and the reference page. The
// default is the value that the member has when `declare` is called; the name is the key; the type is the
// member's type.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

#include "glyptic/core/error.h"

namespace glyptic {

/// Everything that an option can hold.
using Value = std::variant<bool, int64_t, double, std::string, std::vector<int64_t>, std::vector<double>,
                           std::vector<std::string>, std::map<std::string, double>>;

/// "0.1", "[1, 2]", "{conv1: 0.5}": valid YAML that reads back as the same value.
std::string to_text(const Value& value);
/// "bool", "int", "float", "string", "list of int", "list of float", "list of string", "map of float".
std::string type_name(const Value& value);

/// What a value must satisfy.
struct Rule {
  std::optional<double> low, high;
  bool low_open = false, high_open = false;
  std::vector<std::string> choices;
  std::string text() const;  ///< "in (0, 1]", ">= 1", "one of a, b", or ""
};
Rule above(double low);
Rule at_least(double low);
Rule between(double low, double high);     ///< [low, high]
Rule above_to(double low, double high);    ///< (low, high]
Rule from_below(double low, double high);  ///< [low, high)
Rule one_of(std::vector<std::string> choices);

/// Values that choosing a word brings with it: option (in the same group) and value.
using Preset = std::vector<std::pair<std::string, Value>>;

struct Option {
  std::string name;  ///< dotted: "optimizer.lr"
  std::string doc;
  Rule rule;
  std::map<std::string, Preset> presets;  ///< by the option's own value
  Value default_value;
  std::function<Value()> get;
  std::function<void(const Value&)> assign;
  bool is_set = false;  ///< somebody gave it a value
};

struct OptionGroup {
  std::string name;  ///< dotted; "" for the top
  std::string doc;
};

class Options {
 public:
  template <class T>
  Options& field(const std::string& name, T& member, const std::string& doc, Rule rule = {}) {
    Option option;
    option.name = prefix_ + name;
    option.doc = doc;
    option.rule = std::move(rule);
    option.get = [&member] { return Value(widen(member)); };
    option.assign = [&member](const Value& value) { member = static_cast<T>(std::get<Wide<T>>(value)); };
    option.default_value = option.get();
    add(std::move(option));
    return *this;
  }

  /// Choosing one of `presets` also sets what is listed there, except where somebody gave a value (in any
  /// order). Belongs to the field declared last, which holds a string.
  Options& with_presets(std::map<std::string, Preset> presets) {
    options_.back().presets = std::move(presets);
    return *this;
  }

  /// Declares the fields of `group` under "name.".
  template <class G>
  Options& group(const std::string& name, G& group, const std::string& doc) {
    const std::string outer = prefix_;
    groups_.push_back({prefix_ + name, doc});
    prefix_ += name + ".";
    group.declare(*this);
    prefix_ = outer;
    return *this;
  }

  /// Sets one option. `where` ("chase.yaml:12:5", "--set", "keyword") starts the message of the ConfigError
  /// that names an unknown option (with did-you-mean), a wrong type or a value out of range. Integers are
  /// taken for floats, a single value for a list of one.
  void set(const std::string& name, const Value& value, const std::string& where);
  /// Checks one value without setting it.
  static Value convert(const Option& option, const Value& value, const std::string& where);

  bool contains(const std::string& name) const;
  bool is_group(const std::string& name) const;
  const Option& at(const std::string& name) const;
  const std::vector<Option>& list() const { return options_; }
  const std::vector<OptionGroup>& groups() const { return groups_; }
  /// Names directly below a group, for did-you-mean.
  std::vector<std::string> children(const std::string& group) const;
  /// The full names of the options that `name` may stand for, best first: "sparsity.density" for
  /// "sparsity.densty" and for "density".
  std::vector<std::string> nearest_names(const std::string& name) const;

 private:
  template <class T>
  using Wide =
      std::conditional_t<std::is_same_v<T, bool>, bool,
                         std::conditional_t<std::is_integral_v<T>, int64_t,
                                            std::conditional_t<std::is_floating_point_v<T>, double, T>>>;
  template <class T>
  static Wide<T> widen(const T& member) {
    return static_cast<Wide<T>>(member);
  }
  void add(Option option);

  std::string prefix_;
  std::vector<Option> options_;
  std::vector<OptionGroup> groups_;
  std::map<std::string, std::size_t> index_;
};

}  // namespace glyptic

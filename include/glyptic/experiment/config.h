// Reading configs: YAML files with includes, and `--set` overrides, into declared options.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "glyptic/core/options.h"

namespace glyptic::experiment {

/// A config file, parsed but not yet matched against a declaration.
class ConfigFile {
 public:
  /// MissingFileError, or ConfigError "file:line:column: ..." for anything that is not a YAML mapping of sane
  /// size, a key given twice, or an include that is missing or runs in a circle.
  static ConfigFile read(const std::string& path);
  static ConfigFile parse(const std::string& text, const std::string& name);

  /// A top-level word such as `experiment`, "" when the file does not have it.
  std::string word(const std::string& key) const;

  /// Sets every option that the file names; unknown keys, wrong types and ranges are ConfigErrors with a
  /// position.
  void apply(Options& options) const;

  ConfigFile(ConfigFile&&) noexcept;
  ~ConfigFile();

 private:
  struct Impl;
  ConfigFile();
  std::unique_ptr<Impl> impl_;
};

/// Applies "a.b=value" (value as YAML).
void apply_set(Options& options, const std::string& assignment);

/// The value out of YAML text, as the type of `like`.
Value parse_value(const std::string& text, const Option& option, const std::string& where);

/// All options with their values, as YAML that reads back to the same.
std::string to_yaml(const Options& options);

}  // namespace glyptic::experiment

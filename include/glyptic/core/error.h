// Errors. Every exception that Glyptic throws on purpose derives from `glyptic::Error`; its message says what
// is wrong, where (file:line:column, tensor name and shape) and how to mend it, on one line. The command line
// prints that line and exits with `exit_code()`; Python sees the exception class named beside each type.
#pragma once

#include <sstream>
#include <stdexcept>
#include <string>

namespace glyptic {

/// Exit codes of the command line.
enum ExitCode : int {
  kExitOk = 0,
  kExitInternal = 1,       ///< a defect of ours
  kExitUsage = 2,          ///< wrong argument or config
  kExitData = 3,           ///< a file is missing, damaged or of the wrong kind
  kExitDiverged = 4,       ///< training met NaN or Inf
  kExitInterrupted = 130,  ///< Ctrl-C, after a checkpoint
  kExitTerminated = 143    ///< SIGTERM, after a checkpoint
};

/// The text on one line: control characters, which names out of files may hold, as escapes, and the end left
/// out when it is longer than 2,000 bytes.
std::string one_line(const std::string& text);

class Error : public std::runtime_error {
 public:
  explicit Error(const std::string& message, int exit_code = kExitInternal)
      : std::runtime_error(one_line(message)), exit_code_(exit_code) {}
  int exit_code() const noexcept { return exit_code_; }

 private:
  int exit_code_;
};

/// A value that an argument cannot take. Python: `glyptic.ArgumentError`, a `ValueError`.
struct ArgumentError : Error {
  explicit ArgumentError(const std::string& message) : Error(message, kExitUsage) {}
};

/// A config file, `--set` or keyword that does not fit its declaration. Python: `glyptic.ConfigError`, a
/// `ValueError`.
struct ConfigError : Error {
  explicit ConfigError(const std::string& message) : Error(message, kExitUsage) {}
};

/// A damaged file or one of another kind. Python: `glyptic.DataError`, a `ValueError`.
struct DataError : Error {
  explicit DataError(const std::string& message) : Error(message, kExitData) {}
};

/// A file or folder that is not there or cannot be opened. Python: `glyptic.MissingFileError`, a
/// `FileNotFoundError`.
struct MissingFileError : Error {
  explicit MissingFileError(const std::string& message) : Error(message, kExitData) {}
};

/// The loss or the weights are no longer finite. Python: `glyptic.DivergenceError`, an `ArithmeticError`.
struct DivergenceError : Error {
  explicit DivergenceError(const std::string& message) : Error(message, kExitDiverged) {}
};

/// The user asked the run to end; it has been saved. Python: `KeyboardInterrupt`.
struct Interrupted : Error {
  explicit Interrupted(const std::string& message, int code = kExitInterrupted) : Error(message, code) {}
};

/// Joins anything printable: `str("density ", 1.5, " is not in (0, 1]")`.
template <class... Args>
std::string str(const Args&... args) {
  std::ostringstream out;
  (out << ... << args);
  return out.str();
}

/// Throws `E` with the joined message unless `condition` holds.
template <class E = ArgumentError, class... Args>
void require(bool condition, const Args&... args) {
  if (!condition) [[unlikely]]
    throw E(::glyptic::str(args...));
}

}  // namespace glyptic

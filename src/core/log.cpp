// The only file that includes spdlog. It includes no torch header: torch ships another version of fmt.
#include "glyptic/core/log.h"

#include <spdlog/sinks/base_sink.h>
#include <spdlog/sinks/basic_file_sink.h>
#include <spdlog/spdlog.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <mutex>

#include "glyptic/core/error.h"

namespace glyptic::log {
namespace {

using Clock = std::chrono::steady_clock;

// Everything that writes to the terminal holds this: log lines and bars.
std::mutex& terminal_mutex() {
  static std::mutex mutex;
  return mutex;
}

// The bar that is on the screen now, "" when none.
std::string& visible_bar() {
  static std::string bar;
  return bar;
}

bool is_terminal() {
  static const bool terminal = isatty(STDERR_FILENO) != 0;
  return terminal;
}

void draw(const std::string& bar) {
  std::fprintf(stderr, "\r\x1b[2K%s", bar.c_str());
  std::fflush(stderr);
}

class TerminalSink final : public spdlog::sinks::base_sink<std::mutex> {
 protected:
  void sink_it_(const spdlog::details::log_msg& message) override {
    spdlog::memory_buf_t formatted;
    formatter_->format(message, formatted);
    const std::lock_guard<std::mutex> lock(terminal_mutex());
    if (!visible_bar().empty()) std::fputs("\r\x1b[2K", stderr);
    std::fwrite(formatted.data(), 1, formatted.size(), stderr);
    if (!visible_bar().empty()) std::fputs(visible_bar().c_str(), stderr);
    std::fflush(stderr);
  }
  void flush_() override { std::fflush(stderr); }
};

struct Logger {
  std::shared_ptr<TerminalSink> terminal = std::make_shared<TerminalSink>();
  std::shared_ptr<spdlog::sinks::basic_file_sink_mt> file;
  spdlog::logger logger{"glyptic"};
  Level level = Level::info;
  std::mutex mutex;

  Logger() {
    terminal->set_pattern("%^%v%$");
    terminal->set_level(spdlog::level::info);
    logger.set_level(spdlog::level::debug);
    // A log file on a full disk loses lines; whoever writes results there reports the disk, once.
    logger.set_error_handler([](const std::string&) {});
    rebuild();
  }
  void rebuild() {
    logger.sinks().clear();
    logger.sinks().push_back(terminal);
    if (file) logger.sinks().push_back(file);
  }
};

Logger& instance() {
  static Logger logger;
  return logger;
}

void write(spdlog::level::level_enum level, const std::string& message) {
  auto& self = instance();
  const std::lock_guard<std::mutex> lock(self.mutex);
  // Warnings and errors say what they are; information is plain text.
  const char* prefix = level == spdlog::level::warn  ? "warning: "
                       : level == spdlog::level::err ? "error: "
                                                     : "";
  self.logger.log(level, "{}{}", prefix, message);
}

}  // namespace

void debug(const std::string& message) {
  write(spdlog::level::debug, message);
}
void info(const std::string& message) {
  write(spdlog::level::info, message);
}
void warn(const std::string& message) {
  write(spdlog::level::warn, message);
}
void error(const std::string& message) {
  write(spdlog::level::err, message);
}

void set_level(Level level) {
  auto& self = instance();
  const std::lock_guard<std::mutex> lock(self.mutex);
  self.level = level;
  constexpr spdlog::level::level_enum levels[] = {
      spdlog::level::debug, spdlog::level::info, spdlog::level::warn, spdlog::level::err, spdlog::level::off};
  self.terminal->set_level(levels[static_cast<int>(level)]);
}

Level level() {
  return instance().level;
}

void open_file(const std::string& path) {
  auto& self = instance();
  const std::lock_guard<std::mutex> lock(self.mutex);
  try {
    self.file = std::make_shared<spdlog::sinks::basic_file_sink_mt>(path, /*truncate=*/false);
  } catch (const spdlog::spdlog_ex&) {
    throw MissingFileError(str("cannot write the log file '", path, "'; is its folder writable?"));
  }
  self.file->set_pattern("%Y-%m-%d %H:%M:%S.%e %L %v");
  self.file->set_level(spdlog::level::debug);
  self.rebuild();
}

void close_file() {
  auto& self = instance();
  const std::lock_guard<std::mutex> lock(self.mutex);
  try {
    if (self.file) self.file->flush();
  } catch (const spdlog::spdlog_ex&) {  // as above
  }
  self.file.reset();
  self.rebuild();
}

void flush() {
  auto& self = instance();
  const std::lock_guard<std::mutex> lock(self.mutex);
  self.logger.flush();
}

struct Progress::State {
  std::string label;
  int64_t total;
  double plain_seconds;
  Clock::time_point start = Clock::now();
  Clock::time_point drawn{};
  std::mutex mutex;
  bool on_screen = false;
};

Progress::Progress(std::string label, int64_t total, double plain_seconds)
    : state_(std::make_unique<State>()) {
  state_->label = std::move(label);
  state_->total = total;
  state_->plain_seconds = plain_seconds;
}

Progress::~Progress() {
  finish();
}

void Progress::update(int64_t done, const std::string& status) {
  auto& s = *state_;
  const std::lock_guard<std::mutex> own(s.mutex);
  const auto now = Clock::now();
  const double since_drawn = std::chrono::duration<double>(now - s.drawn).count();
  const double elapsed = std::chrono::duration<double>(now - s.start).count();
  const bool last = done >= s.total;
  if (instance().level > Level::info) return;
  const double left =
      done > 0 ? elapsed / static_cast<double>(done) * static_cast<double>(s.total - done) : 0;
  char counts[96];
  std::snprintf(counts, sizeof counts, "%lld/%lld  %.0f s left", static_cast<long long>(done),
                static_cast<long long>(s.total), left);
  if (!is_terminal()) {
    if (since_drawn < s.plain_seconds || last) return;
    s.drawn = now;
    if (elapsed < 1) return;  // the first call only starts the clock
    info(s.label + "  " + counts + (status.empty() ? "" : "  " + status));
    return;
  }
  if (since_drawn < 0.1 && !last) return;
  s.drawn = now;
  constexpr int width = 24;
  const int full = s.total > 0 ? static_cast<int>(width * done / s.total) : 0;
  std::string bar = s.label + " [" + std::string(static_cast<std::size_t>(full), '#') +
                    std::string(static_cast<std::size_t>(width - full), '.') + "] " + counts +
                    (status.empty() ? "" : "  " + status);
  winsize size{};
  if (ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 1 && bar.size() >= size.ws_col)
    bar.resize(size.ws_col - 1u);
  const std::lock_guard<std::mutex> lock(terminal_mutex());
  visible_bar() = bar;
  s.on_screen = true;
  draw(bar);
}

void Progress::finish() {
  auto& s = *state_;
  const std::lock_guard<std::mutex> own(s.mutex);
  if (!s.on_screen) return;
  const std::lock_guard<std::mutex> lock(terminal_mutex());
  visible_bar().clear();
  s.on_screen = false;
  draw("");
}

}  // namespace glyptic::log

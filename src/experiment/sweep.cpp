#include "glyptic/experiment/sweep.h"

#include <ATen/Parallel.h>

#include <algorithm>
#include <filesystem>
#include <set>
#include <sstream>

#include "glyptic/core/error.h"
#include "glyptic/core/log.h"
#include "glyptic/core/safetensors.h"
#include "glyptic/experiment/config.h"

namespace glyptic::experiment {

namespace {

namespace fs = std::filesystem;

constexpr std::size_t kMostPoints = 10000;
constexpr std::size_t kLongestName = 240;  // of a file system's 255, with room for a suffix

std::string escaped(const std::string& text) {
  constexpr char kHex[] = "0123456789ABCDEF";
  std::string out;
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    const bool plain = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
                       c == '.' || c == '_' || c == '+' || c == '-';
    if (plain)
      out += c;
    else
      out += {'%', kHex[byte >> 4], kHex[byte & 15]};
  }
  return out;
}

std::string last_word(const std::string& option) {
  return option.substr(option.rfind('.') + 1);
}

// The first line in which two resolved configs differ, as "sparsity.density is 0.1 there and 0.05 here".
std::string first_difference(const std::string& there, const std::string& here) {
  std::istringstream a(there), b(here);
  std::vector<std::string> path;
  std::string x, y;
  for (;;) {
    const bool more_a = static_cast<bool>(std::getline(a, x)), more_b = static_cast<bool>(std::getline(b, y));
    if (!more_a || !more_b) return "one has options that the other lacks";
    if (x != y) break;
    const auto indent = x.find_first_not_of(' ');
    if (indent == std::string::npos) continue;
    path.resize(std::min(path.size(), indent / 2));
    if (x.back() == ':') path.push_back(x.substr(indent, x.size() - indent - 1));
  }
  const auto indent = x.find_first_not_of(' ');
  const auto colon = x.find(": ");
  if (indent == std::string::npos || colon == std::string::npos || y.compare(0, colon, x, 0, colon) != 0)
    return str("'", x, "' there, '", y, "' here");
  path.resize(std::min(path.size(), indent / 2));
  std::string name;
  for (const auto& part : path) name += part + ".";
  return str(name, x.substr(indent, colon - indent), " is ", x.substr(colon + 2), " there and ",
             y.substr(colon + 2), " here");
}

struct Point {
  std::string folder;
  std::vector<std::string> sets;
  std::string yaml;
  bool begun = false, finished = false;
};

}  // namespace

SweepAxis parse_axis(const std::string& text) {
  const auto equals = text.find('=');
  require<ConfigError>(equals != std::string::npos && equals > 0, "--sweep ", text,
                       ": expected name=value,value, for example seed=1,2,3");
  SweepAxis axis{text.substr(0, equals), {}};
  int depth = 0;
  char quote = '\0';
  std::string value;
  const auto take = [&] {
    const auto first = value.find_first_not_of(' ');
    require<ConfigError>(first != std::string::npos, "--sweep ", text, ": a value is empty; write ",
                         axis.option, "='' where you mean the empty word");
    value = value.substr(first, value.find_last_not_of(' ') - first + 1);
    require<ConfigError>(std::find(axis.values.begin(), axis.values.end(), value) == axis.values.end(),
                         "--sweep ", text, ": the value ", value, " is given twice");
    axis.values.push_back(value);
    value.clear();
  };
  for (const char c : text.substr(equals + 1)) {
    if (quote != '\0') {
      if (c == quote) quote = '\0';
    } else if (c == '"' || c == '\'') {
      quote = c;
    } else if (c == '[' || c == '{') {
      ++depth;
    } else if (c == ']' || c == '}') {
      --depth;
    } else if (c == ',' && depth == 0) {
      take();
      continue;
    }
    value += c;
  }
  require<ConfigError>(depth == 0 && quote == '\0', "--sweep ", text, ": a bracket or quote is not closed");
  take();
  return axis;
}

std::vector<SweepPoint> sweep_points(const std::vector<SweepAxis>& axes) {
  std::set<std::string> options, words;
  std::size_t count = 1;
  for (const auto& axis : axes) {
    require<ConfigError>(options.insert(axis.option).second, "--sweep ", axis.option,
                         " is given twice; join its values: ", axis.option, "=a,b");
    words.insert(last_word(axis.option));
    require<ConfigError>(axis.values.size() <= kMostPoints / count, "--sweep: more than ", kMostPoints,
                         " points; sweep fewer values");
    count *= axis.values.size();
  }
  const bool short_names = words.size() == axes.size();
  std::vector<SweepPoint> points;
  for (std::size_t p = 0; p < count; ++p) {
    SweepPoint point;
    std::size_t rest = p, stride = count;
    for (const auto& axis : axes) {
      stride /= axis.values.size();
      const auto& value = axis.values[rest / stride];
      rest %= stride;
      point.name += (point.name.empty() ? "" : ",") + (short_names ? last_word(axis.option) : axis.option) +
                    "=" + escaped(value);
      point.sets.push_back(axis.option + "=" + value);
    }
    require<ConfigError>(point.name.size() <= kLongestName, "--sweep: the folder '", point.name,
                         "' would have a name of ", point.name.size(),
                         " bytes, more than file systems take (", kLongestName,
                         "); sweep fewer options or shorter values");
    points.push_back(std::move(point));
  }
  return points;
}

SweepResult run_sweep(const SweepOptions& options, const RunPoint& run_point) {
  require<ConfigError>(!options.axes.empty(), "--sweep names no option; for example: --sweep seed=1,2,3");
  const auto grid = sweep_points(options.axes);
  require(!options.index || *options.index < grid.size(), "--sweep-index is ", options.index.value_or(0),
          ", but the sweep has ", grid.size(), " points, 0 to ", grid.size() - 1);
  auto out = options.out;
  if (out.empty())
    out = "runs/" +
          std::get<std::string>(load_experiment(options.config, options.sets).options->at("name").get());

  std::vector<Point> points;
  std::set<std::string> configs;
  for (std::size_t i = 0; i < grid.size(); ++i) {
    if (options.index && i != *options.index) continue;
    Point point;
    point.folder = (fs::path(out) / grid[i].name).string();
    point.sets = options.sets;
    point.sets.insert(point.sets.end(), grid[i].sets.begin(), grid[i].sets.end());
    point.yaml = to_yaml(*load_experiment(options.config, point.sets).options);
    require<ConfigError>(configs.insert(point.yaml).second, "--sweep: the point ", grid[i].name,
                         " is another one in other words (such as 0.1 and 0.10); give each value once");
    std::error_code error;
    point.begun = fs::exists(fs::path(point.folder) / "config.yaml", error);
    if (point.begun) {
      const auto folder = RunFolder::open(point.folder);
      const auto there = read_file(folder.file("config.yaml"));
      require(there == point.yaml, "'", point.folder,
              "' holds a run of another config: ", first_difference(there, point.yaml),
              "; give another --out or remove that folder");
      point.finished = folder.has("results.json");
    }
    points.push_back(std::move(point));
  }

  // The options of one point must not decide how many threads the next one has.
  const int threads = at::get_num_threads();
  SweepResult result;
  for (std::size_t i = 0; i < points.size(); ++i) {
    const auto& point = points[i];
    if (point.finished) {
      log::info(str(point.folder, " is finished"));
      result.finished.push_back(point.folder);
      ++result.left_alone;
      continue;
    }
    log::info(str("point ", options.index.value_or(i) + 1, " of ", grid.size(), ": ", point.folder,
                  point.begun ? " (continued)" : ""));
    try {
      auto loaded = load_experiment(options.config, point.sets);
      const auto wanted = std::get<int64_t>(loaded.options->at("threads").get());
      at::set_num_threads(wanted > 0 ? static_cast<int>(wanted) : threads);
      auto folder = point.begun ? RunFolder::open(point.folder) : RunFolder::create(point.folder);
      folder.lock();
      if (folder.has("results.json")) {  // another process has finished it since
        result.finished.push_back(point.folder);
        ++result.left_alone;
        continue;
      }
      if (!point.begun) {
        write_file_atomically(folder.file("environment.json"), environment_json());
        // The config comes last: a folder with a config is a run that can be resumed.
        write_file_atomically(folder.file("config.yaml"), point.yaml);
      }
      run_point(*loaded.experiment, folder, point.begun);
      result.finished.push_back(point.folder);
    } catch (const Interrupted&) {
      at::set_num_threads(threads);
      throw;
    } catch (const std::exception& error) {
      const auto* ours = dynamic_cast<const Error*>(&error);
      const std::string text = error.what();
      log::error(str(point.folder, ": ", text.substr(0, text.find('\n'))));
      if (result.failed++ == 0) result.exit_code = ours ? ours->exit_code() : static_cast<int>(kExitInternal);
    }
  }
  at::set_num_threads(threads);
  return result;
}

}  // namespace glyptic::experiment

// results.json files as one table.
#include <charconv>
#include <nlohmann/json.hpp>
#include <set>

#include "../core/json.h"
#include "glyptic/core/error.h"
#include "glyptic/core/safetensors.h"
#include "glyptic/experiment/experiment.h"

namespace glyptic::experiment {

namespace {

using Json = nlohmann::ordered_json;

std::string grouped(double value) {
  if (!(std::abs(value) < 1e18)) return str(value);  // more than 64 bits count
  auto digits = std::to_string(std::llround(std::abs(value)));
  for (auto at = static_cast<int64_t>(digits.size()) - 3; at > 0; at -= 3)
    digits.insert(static_cast<std::size_t>(at), ",");
  return (value < 0 ? "-" : "") + digits;
}

// With a deviation above 0 both numbers have the unit of the first.
std::string si(double value, double deviation = 0) {
  constexpr const char* units[] = {"", " k", " M", " G", " T", " P"};
  std::size_t unit = 0;
  double scale = 1;
  // 999.5 would be printed as 1e+03.
  while (std::abs(value / scale) >= 999.5 && unit + 1 < std::size(units)) {
    scale *= 1000;
    ++unit;
  }
  char text[64];
  if (deviation > 0)
    std::snprintf(text, sizeof text, "%.3g ± %.2g%s", value / scale, deviation / scale, units[unit]);
  else
    std::snprintf(text, sizeof text, unit == 0 ? "%.0f%s" : "%.3g%s", value / scale, units[unit]);
  return text;
}

std::string shown(double number, const std::string& format) {
  char text[48];
  if (format == "fixed2") return std::snprintf(text, sizeof text, "%.2f", number), text;
  if (format == "fixed3") return std::snprintf(text, sizeof text, "%.3f", number), text;
  if (format == "grouped") return grouped(number);
  if (format == "si") return si(number);
  return Json(number).dump();
}

// `raw`: numbers as they were stored, for programs; otherwise as a person reads them.
std::string cell(const Json& value, const std::string& format, bool raw) {
  if (value.is_null()) return raw ? "" : "n/a";
  if (value.is_string()) return value.get<std::string>();
  const bool formatted = format == "fixed2" || format == "fixed3" || format == "grouped" || format == "si";
  if (raw || !value.is_number() || !formatted) return value.dump();
  return shown(value.get<double>(), format);
}

struct Moments {
  double mean = 0, deviation = 0;  // the sample's: over n - 1
};
Moments moments(const std::vector<double>& values) {
  Moments result;
  const auto n = static_cast<double>(values.size());
  for (const double value : values) result.mean += value / n;
  double squares = 0;
  for (const double value : values) squares += (value - result.mean) * (value - result.mean);
  if (values.size() > 1) result.deviation = std::sqrt(squares / (n - 1));
  return result;
}

// "128/320": the part and the whole.
std::optional<std::pair<double, std::string>> part_of_whole(const Json& value) {
  if (!value.is_string()) return std::nullopt;
  const auto text = value.get<std::string>();
  const auto slash = text.find('/');
  const auto digits = [](const std::string& s) {
    return !s.empty() && s.size() < 16 && s.find_first_not_of("0123456789") == std::string::npos;
  };
  if (slash == std::string::npos || !digits(text.substr(0, slash)) || !digits(text.substr(slash + 1)))
    return std::nullopt;
  return std::pair{std::stod(text.substr(0, slash)), text.substr(slash + 1)};
}

// One column of the runs of several seeds: what to print, or, for programs, the mean and the deviation.
std::pair<std::string, std::string> pooled_cell(const std::vector<Json>& values, const std::string& format,
                                                bool raw) {
  std::vector<Json> known;
  for (const auto& value : values)
    if (!value.is_null()) known.push_back(value);
  if (known.empty()) return {cell({}, format, raw), ""};
  const std::string missing = raw || known.size() == values.size() ? "" : str(" (n = ", known.size(), ")");
  if (std::all_of(known.begin(), known.end(), [&](const Json& v) { return v == known.front(); })) {
    const bool deviates = known.front().is_number() && known.size() > 1;
    return {cell(known.front(), format, raw) + missing, deviates ? "0" : ""};
  }
  std::vector<double> numbers;
  if (std::all_of(known.begin(), known.end(), [](const Json& v) { return v.is_number(); })) {
    for (const auto& value : known) numbers.push_back(value.get<double>());
    const auto [mean, deviation] = moments(numbers);
    if (raw) return {Json(mean).dump(), Json(deviation).dump()};
    if (format == "si") return {si(mean, deviation) + missing, ""};
    const auto spread =
        format == "grouped" && deviation < 9.5 ? shown(deviation, "fixed2") : shown(deviation, format);
    return {shown(mean, format) + " ± " + spread + missing, ""};
  }
  std::set<std::string> wholes, words;
  for (const auto& value : known) {
    words.insert(cell(value, format, raw));
    if (const auto part = part_of_whole(value)) {
      numbers.push_back(part->first);
      wholes.insert(part->second);
    }
  }
  if (numbers.size() == known.size() && wholes.size() == 1 && !raw) {
    const auto [mean, deviation] = moments(numbers);
    char text[64];
    std::snprintf(text, sizeof text, "%.1f ± %.1f / ", mean, deviation);
    return {text + *wholes.begin() + missing, ""};
  }
  std::string all;
  for (const auto& word : words) all += (all.empty() ? "" : "; ") + word;
  return {all + missing, ""};
}

// Width on a terminal: bytes that continue a UTF-8 character take no column.
std::size_t columns_of(const std::string& text) {
  return static_cast<std::size_t>(
      std::count_if(text.begin(), text.end(), [](char c) { return (c & 0xC0) != 0x80; }));
}

// What tells runs apart: their folders (of another file its own name), without what all of them begin with.
std::vector<std::string> run_labels(const std::vector<std::string>& paths) {
  std::vector<std::vector<std::string>> parts;
  for (const auto& path : paths) {
    auto name = std::filesystem::path(path).lexically_normal();
    if (name.filename() == "results.json") name = name.parent_path();
    parts.emplace_back(name.begin(), name.end());
    if (parts.back().empty()) parts.back().push_back(".");
  }
  const auto shared = [&](std::size_t depth) {
    return std::all_of(parts.begin(), parts.end(), [&](const auto& p) {
      return depth + 1 < p.size() && p[depth] == parts.front()[depth];
    });
  };
  std::size_t depth = 0;
  while (shared(depth)) ++depth;
  std::vector<std::string> labels;
  for (const auto& p : parts) {
    std::filesystem::path label;
    for (std::size_t i = depth; i < p.size(); ++i) label /= p[i];
    labels.push_back(label.string());
  }
  return labels;
}

struct Config {
  std::string text;  // resolved, without its seed and its name, which is a label; "" where there is none
  uint64_t seed = 0;
};

Config read_run_config(const std::string& run) {
  const std::filesystem::path path(run);
  std::error_code error;
  const auto folder = path.filename() == "results.json" ? path.parent_path() : path;
  Config config;
  if (!std::filesystem::is_regular_file(folder / "config.yaml", error)) return config;
  std::istringstream lines(read_file((folder / "config.yaml").string()));
  for (std::string line; std::getline(lines, line);) {
    if (line.rfind("seed: ", 0) == 0) {
      const auto* end = line.data() + line.size();
      if (std::from_chars(line.data() + 6, end, config.seed).ptr != end) return {};
    } else if (line.rfind("name: ", 0) != 0) {
      config.text += line + "\n";
    }
  }
  return config;
}

// "density=0.1/run1" and "density=0.1/run2" are "density=0.1/run*"; "density=0.1,seed=1" and so on are
// "density=0.1", for the seeds are named beside it.
std::string shared_label(const std::vector<std::string>& labels) {
  auto prefix = labels.front(), suffix = labels.front();
  for (const auto& label : labels) {
    const auto from_left = std::mismatch(prefix.begin(), prefix.end(), label.begin(), label.end()).first;
    prefix.erase(from_left, prefix.end());
    const auto from_right = std::mismatch(suffix.rbegin(), suffix.rend(), label.rbegin(), label.rend()).first;
    suffix.erase(0, static_cast<std::size_t>(suffix.rend() - from_right));
  }
  for (const auto& label : labels)  // "a" and "aa": what both begin with is not also what both end with
    suffix.erase(0, suffix.size() - std::min(suffix.size(), label.size() - prefix.size()));
  const auto digit = [](char c) { return c >= '0' && c <= '9'; };  // 1 and 12 differ as a whole
  while (!prefix.empty() && digit(prefix.back())) prefix.pop_back();
  while (!suffix.empty() && digit(suffix.front())) suffix.erase(0, 1);
  for (const std::string seed : {"/seed=", ",seed=", "_seed=", "-seed=", " seed=", "/seed", "_seed", "-seed"})
    if (suffix.empty() && prefix.size() > seed.size() && prefix.ends_with(seed))
      return prefix.substr(0, prefix.size() - seed.size());
  return prefix + "*" + suffix;
}

std::string csv_cell(const std::string& text) {
  if (text.find_first_of(",\"\r\n") == std::string::npos) return text;
  std::string out = "\"";
  for (const char c : text) out += c == '"' ? "\"\"" : std::string(1, c);
  return out + "\"";
}

std::string replaced(const std::string& text, const std::vector<std::pair<std::string, std::string>>& table) {
  std::string out;
  for (std::size_t i = 0; i < text.size();) {
    const auto found = std::find_if(table.begin(), table.end(), [&](const auto& entry) {
      return text.compare(i, entry.first.size(), entry.first) == 0;
    });
    out += found == table.end() ? std::string(1, text[i]) : found->second;
    i += found == table.end() ? 1 : found->first.size();
  }
  return out;
}

std::string markdown_cell(const std::string& text) {
  return replaced(text, {{"|", "\\|"}, {"\r", " "}, {"\n", " "}});
}

std::string latex(const std::string& text) {
  return replaced(text, {{"\\", "\\textbackslash{}"},
                         {"{", "\\{"},
                         {"}", "\\}"},
                         {"$", "\\$"},
                         {"&", "\\&"},
                         {"#", "\\#"},
                         {"%", "\\%"},
                         {"_", "\\_"},
                         {"~", "\\textasciitilde{}"},
                         {"^", "\\textasciicircum{}"},
                         {"<", "\\textless{}"},
                         {">", "\\textgreater{}"},
                         {"|", "\\textbar{}"},
                         {"\"", "\\textquotedbl{}"},
                         {"[", "{[}"},
                         {"]", "{]}"},
                         {"--", "-{}-"},
                         {"±", "$\\pm$"},
                         {"×", "$\\times$"},
                         {"\r", " "},
                         {"\n", " "}});
}

std::string as_csv(const ResultsTable& table) {
  std::ostringstream out;
  const auto line = [&](const std::vector<std::string>& cells) {
    for (std::size_t c = 0; c < cells.size(); ++c) out << (c ? "," : "") << csv_cell(cells[c]);
    out << '\n';
  };
  line(table.titles);
  for (const auto& row : table.rows) line(row);
  return out.str();
}

std::string as_latex(const ResultsTable& table) {
  std::ostringstream out;
  const auto line = [&](const std::vector<std::string>& cells) {
    out << "    ";
    for (std::size_t c = 0; c < cells.size(); ++c) out << (c ? " & " : "") << latex(cells[c]);
    out << " \\\\\n";
  };
  out << "% \\usepackage{booktabs}\n\\begin{table}\n  \\centering\n  \\begin{tabular}{";
  for (const auto& title : table.titles)
    out << (title == "run" || title == "seeds" || title == "network" ? 'l' : 'r');
  out << "}\n    \\toprule\n";
  line(table.titles);
  out << "    \\midrule\n";
  for (const auto& row : table.rows) line(row);
  out << "    \\bottomrule\n  \\end{tabular}\n";
  for (const auto& text : table.notes) out << "  \\par{\\footnotesize " << latex(text) << "}\n";
  out << "\\end{table}\n";
  return out.str();
}

std::string as_markdown(ResultsTable table) {
  auto& [titles, rows, notes] = table;
  for (auto& title : titles) title = markdown_cell(title);
  for (auto& row : rows)
    for (auto& text : row) text = markdown_cell(text);
  std::ostringstream out;
  std::vector<std::size_t> widths;
  for (std::size_t c = 0; c < titles.size(); ++c) {
    widths.push_back(columns_of(titles[c]));
    for (const auto& row : rows) widths[c] = std::max(widths[c], columns_of(row[c]));
  }
  const auto line = [&](const std::vector<std::string>& cells) {
    for (std::size_t c = 0; c < cells.size(); ++c) {
      const std::string pad(widths[c] - columns_of(cells[c]), ' ');
      out << "| " << (c == 0 ? cells[c] + pad : pad + cells[c]) << ' ';
    }
    out << "|\n";
  };
  line(titles);
  for (std::size_t c = 0; c < titles.size(); ++c)
    out << '|' << (c == 0 ? std::string(widths[c] + 2, '-') : std::string(widths[c] + 1, '-') + ":");
  out << "|\n";
  for (const auto& row : rows) line(row);
  if (!notes.empty()) out << '\n';
  for (const auto& text : notes) out << "- " << replaced(text, {{"\r", " "}, {"\n", " "}}) << '\n';
  return out.str();
}

// A results file, each part of it of the type that a table takes for granted.
Json read_results(const std::string& path) {
  auto results = files::parse_json<Json>(read_file(path, files::kLargestJson), str("'", path, "'"));
  require<DataError>(results.at("format") == "glyptic results 1", "'", path,
                     "' is not a results file of this version");
  for (const auto& column : results.at("columns"))
    for (const char* part : {"key", "title", "format"}) column.at(part).get<std::string>();
  for (const char* part : {"data", "model", "paper"}) results.at(part).get<std::string>();
  for (const auto& text : results.at("differs")) text.get<std::string>();
  for (const auto& row : results.at("rows")) {
    row.value("network", "");
    if (row.contains("source")) row["source"].get<std::string>(), row.at("method").get<std::string>();
  }
  return results;
}

}  // namespace

std::vector<SeedGroup> seed_groups(const std::vector<std::string>& runs) {
  std::vector<SeedGroup> groups;
  std::vector<std::string> configs;  // of the groups
  for (std::size_t r = 0; r < runs.size(); ++r) {
    const auto config = read_run_config(runs[r]);
    std::size_t g = 0;
    // Of two runs of one seed there is no spread over seeds to be had: the second begins a group of its own.
    while (g < groups.size() && (config.text.empty() || configs[g] != config.text ||
                                 std::count(groups[g].seeds.begin(), groups[g].seeds.end(), config.seed) > 0))
      ++g;
    if (g == groups.size()) {
      groups.emplace_back();
      configs.push_back(config.text);
    }
    groups[g].runs.push_back(r);
    if (!config.text.empty()) groups[g].seeds.push_back(config.seed);
  }
  const auto labels = run_labels(runs);
  for (auto& group : groups) {
    std::vector<std::string> names;
    for (const auto r : group.runs) names.push_back(labels[r]);
    group.label = names.size() == 1 ? names.front() : shared_label(names);
  }
  return groups;
}

ResultsTable tabulate_results(const std::vector<std::string>& paths, bool raw) {
  require(!paths.empty(), "table: no run was given");
  ResultsTable table;
  const auto add_once = [](auto& list, const auto& entry) {
    if (std::find(list.begin(), list.end(), entry) == list.end()) list.push_back(entry);
  };
  std::vector<Json> all;
  const auto groups = seed_groups(paths);
  std::vector<std::pair<Json, std::string>>
      columns;  // key and format; of all runs: some measure what others do not
  std::vector<std::string> titles;
  bool has_source = false;
  for (std::size_t p = 0; p < paths.size(); ++p) {
    try {
      const auto& results = all.emplace_back(read_results(paths[p]));
      for (const auto& column : results["columns"]) {
        const auto known = std::any_of(columns.begin(), columns.end(),
                                       [&](const auto& other) { return other.first == column["key"]; });
        if (known) continue;
        columns.emplace_back(column["key"], column["format"].get<std::string>());
        titles.push_back(column["title"].get<std::string>());
      }
      add_once(table.notes,
               str(results["data"].get<std::string>(), "; ", results["model"].get<std::string>()));
      for (const auto& row : results["rows"]) {
        if (!row.contains("source")) continue;
        has_source = true;
        if (row.value("network", "") == "masked")
          add_once(table.notes, str(row["method"].get<std::string>(), ": implemented from ",
                                    row["source"].get<std::string>()));
      }
      if (const auto paper = results["paper"].get<std::string>(); !paper.empty())
        add_once(table.notes, "beside: " + paper);
      for (const auto& text : results["differs"])
        add_once(table.notes, "differs: " + text.get<std::string>());
    } catch (const Json::exception& error) {
      throw DataError(str("'", paths[p], "' is not a results file: ", error.what()));
    }
  }
  // Programs find the source in every row; people find it once, below.
  if (raw && has_source) {
    columns.emplace_back("source", "text");
    titles.emplace_back("source");
  }
  const bool several = paths.size() > 1, pooled = groups.size() < paths.size();
  if (several) table.titles.emplace_back("run");
  if (pooled) table.titles.insert(table.titles.end(), {"n", "seeds"});
  for (std::size_t c = 0; c < columns.size(); ++c) {
    table.titles.push_back(titles[c]);
    if (raw && pooled && columns[c].second != "text") table.titles.push_back(titles[c] + " sd");
  }
  for (const auto& group : groups) {
    // Rows of one network and method, in the order in which the runs have them.
    std::vector<std::pair<std::string, std::vector<Json>>> lines;
    for (const auto p : group.runs) {
      std::map<std::string, int> seen;
      for (const auto& row : all[p]["rows"]) {
        auto key = row.value("network", "") + '\n' + Json(row.value("method", Json())).dump();
        key += '\n' + std::to_string(seen[key]++);
        auto found = std::find_if(lines.begin(), lines.end(), [&](const auto& l) { return l.first == key; });
        if (found == lines.end()) found = lines.insert(lines.end(), {key, {}});
        found->second.push_back(row);
      }
    }
    std::string seeds;
    for (const auto seed : group.seeds) seeds += (seeds.empty() ? "" : " ") + std::to_string(seed);
    for (const auto& [key, rows] : lines) {
      std::vector<std::string> cells;
      if (several) cells.push_back(group.label);
      if (pooled) {
        cells.push_back(std::to_string(rows.size()));
        cells.push_back(seeds);
      }
      for (const auto& [name, format] : columns) {
        const auto key_of_column = name.get<std::string>();
        std::vector<Json> values;
        for (const auto& row : rows)
          values.push_back(row.contains(key_of_column) ? row[key_of_column] : Json());
        if (rows.size() == 1) {
          cells.push_back(cell(values.front(), format, raw));
          if (raw && pooled && format != "text") cells.emplace_back();
          continue;
        }
        auto [text, deviation] = pooled_cell(values, format, raw);
        cells.push_back(std::move(text));
        if (raw && format != "text") cells.push_back(std::move(deviation));
      }
      table.rows.push_back(std::move(cells));
    }
  }
  if (pooled)
    table.notes.emplace_back(
        "a ± b: mean and standard deviation (n - 1) over the seeds; one number: all seeds alike");
  return table;
}

std::string results_table(const std::vector<std::string>& paths, const std::string& format) {
  require(format == "markdown" || format == "csv" || format == "latex", "format is '", format,
          "', expected markdown, csv or latex");
  const auto table = tabulate_results(paths, format == "csv");
  return format == "csv" ? as_csv(table) : format == "latex" ? as_latex(table) : as_markdown(table);
}

std::vector<std::string> runs_in(const std::string& path) {
  std::error_code error;
  if (std::filesystem::exists(std::filesystem::path(path) / "config.yaml", error)) return {path};
  std::vector<std::string> found;
  for (std::filesystem::recursive_directory_iterator entry(path, error), end; !error && entry != end;
       entry.increment(error)) {
    if (entry->path().filename() == "config.yaml") found.push_back(entry->path().parent_path().string());
    if (entry.depth() >= 2) entry.disable_recursion_pending();
  }
  std::sort(found.begin(), found.end());
  if (found.empty()) return {path};  // to be refused by name
  return found;
}

}  // namespace glyptic::experiment

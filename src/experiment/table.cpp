// results.json files as one table.
#include <nlohmann/json.hpp>

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

std::string si(double value) {
  constexpr const char* units[] = {"", " k", " M", " G", " T", " P"};
  std::size_t unit = 0;
  // 999.5 would be printed as 1e+03.
  while (std::abs(value) >= 999.5 && unit + 1 < std::size(units)) {
    value /= 1000;
    ++unit;
  }
  char text[32];
  std::snprintf(text, sizeof text, unit == 0 ? "%.0f%s" : "%.3g%s", value, units[unit]);
  return text;
}

// `raw`: numbers as they were stored, for programs; otherwise as a person reads them.
std::string cell(const Json& row, const Json& column, bool raw) {
  const auto key = column.at("key").get<std::string>();
  if (!row.contains(key) || row[key].is_null()) return raw ? "" : "n/a";
  const auto& value = row[key];
  if (value.is_string()) return value.get<std::string>();
  if (raw || !value.is_number()) return value.dump();
  const auto format = column.at("format").get<std::string>();
  const double number = value.get<double>();
  char text[48];
  if (format == "fixed2") return std::snprintf(text, sizeof text, "%.2f", number), text;
  if (format == "fixed3") return std::snprintf(text, sizeof text, "%.3f", number), text;
  if (format == "grouped") return grouped(number);
  if (format == "si") return si(number);
  return value.dump();
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

std::string csv_cell(const std::string& text) {
  if (text.find_first_of(",\"\n") == std::string::npos) return text;
  std::string out = "\"";
  for (const char c : text) out += c == '"' ? "\"\"" : std::string(1, c);
  return out + "\"";
}

}  // namespace

std::string results_table(const std::vector<std::string>& paths, const std::string& format) {
  require(format == "markdown" || format == "csv", "format is '", format, "', expected markdown or csv");
  require(!paths.empty(), "table: no run was given");
  std::vector<std::string> titles;
  std::vector<std::vector<std::string>> rows;
  std::vector<std::string> below;
  Json columns = Json::array();  // those of all runs: some measure what others do not
  std::vector<std::pair<std::string, Json>> lines;
  const auto labels = run_labels(paths);
  for (std::size_t p = 0; p < paths.size(); ++p) {
    const auto& path = paths[p];
    Json results;
    try {
      results = files::parse_json<Json>(read_file(path, files::kLargestJson), str("'", path, "'"));
      require<DataError>(results.at("format") == "glyptic results 1", "'", path,
                         "' is not a results file of this version");
      for (const auto& column : results.at("columns")) {
        const bool known = std::any_of(columns.begin(), columns.end(), [&](const Json& other) {
          return other.at("key") == column.at("key");
        });
        for (const char* part : {"key", "title", "format"}) column.at(part).get<std::string>();
        if (!known) columns.push_back(column);
      }
      for (const auto& row : results.at("rows")) lines.emplace_back(labels[p], row);
      const auto add = [&](const std::string& text) {
        if (std::find(below.begin(), below.end(), text) == below.end()) below.push_back(text);
      };
      add(str(results.at("data").get<std::string>(), "; ", results.at("model").get<std::string>()));
      for (const auto& row : results.at("rows"))
        if (row.contains("source") && row.value("network", "") == "masked")
          add(str(row.at("method").get<std::string>(), ": implemented from ",
                  row.at("source").get<std::string>()));
      if (!results.at("paper").get<std::string>().empty())
        add("beside: " + results.at("paper").get<std::string>());
      for (const auto& text : results.at("differs")) add("differs: " + text.get<std::string>());
    } catch (const Json::exception& error) {
      throw DataError(str("'", path, "' is not a results file: ", error.what()));
    }
  }
  if (paths.size() > 1) titles.push_back("run");
  for (const auto& column : columns) titles.push_back(column.at("title").get<std::string>());
  for (const auto& [name, row] : lines) {
    std::vector<std::string> cells;
    if (paths.size() > 1) cells.push_back(name);
    for (const auto& column : columns) cells.push_back(cell(row, column, format == "csv"));
    rows.push_back(std::move(cells));
  }

  std::ostringstream out;
  if (format == "csv") {
    const auto line = [&](const std::vector<std::string>& cells) {
      for (std::size_t c = 0; c < cells.size(); ++c) out << (c ? "," : "") << csv_cell(cells[c]);
      out << '\n';
    };
    line(titles);
    for (const auto& row : rows) line(row);
    return out.str();
  }
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
  if (!below.empty()) out << '\n';
  for (const auto& text : below) out << "- " << text << '\n';
  return out.str();
}

}  // namespace glyptic::experiment

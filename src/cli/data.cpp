// `glyptic data`: published data sets, from the network into the folder where the readers look.
#include <cstdlib>
#include <filesystem>
#include <iostream>

#include "commands.h"
#include "glyptic/core/error.h"
#include "glyptic/core/log.h"
#include "glyptic/core/safetensors.h"
#include "glyptic/data/dataset.h"
#include "glyptic/data/fetch.h"

namespace glyptic::cli {

namespace {

namespace fs = std::filesystem;

std::string size_text(const data::RemoteSet& set) {
  char text[32];
  const auto bytes = static_cast<double>(set.bytes());
  std::snprintf(text, sizeof text, "%.1f MB", bytes / 1e6);
  return set.bytes() == 0 ? "size unknown" : text;
}

std::string checks_of(const data::RemoteSet& set) {
  std::string kinds;
  for (const auto& file : set.files) {
    const std::string kind = file.checksum.known() ? file.checksum.kind : "not yet verified";
    if (kinds.find(kind) == std::string::npos) kinds += (kinds.empty() ? "" : ", ") + kind;
  }
  return kinds;
}

bool same_folder(const std::string& a, const std::string& b) {
  std::error_code error;
  return fs::equivalent(a, b, error) && !error;
}

// How a config reads what has just been fetched to `root`.
std::string how_to_use(const data::RemoteSet& set, const std::string& root) {
  const auto folder = (fs::path(root) / set.name).lexically_normal().string();
  if (set.use.empty()) return "nothing in Glyptic reads it yet; the files are yours";
  std::string use = set.use;
  const std::string hole = "{folder}";
  if (const auto at = use.find(hole); at != std::string::npos) {
    use.replace(at, hole.size(), folder);
  } else if (const auto found = data::data_folders(set.name);
             found.empty() || !same_folder(found.front(), folder)) {
    use += " data.folder=" + folder;
  }
  std::string text = "use it with: ";
  std::size_t begin = 0;
  while (begin < use.size()) {
    const auto end = std::min(use.find(' ', begin), use.size());
    text += (begin ? " --set " : "--set ") + use.substr(begin, end - begin);
    begin = end + 1;
  }
  return text;
}

}  // namespace

DataCommand::DataCommand(CLI::App& app) {
  data_ = app.add_subcommand("data", "published data sets: list, get, verify");
  data_->require_subcommand(1);
  data_->fallthrough();
  list_ = data_->add_subcommand("list", "the sets that `get` knows: size, checksum, licence, source");
  get_ = data_->add_subcommand("get", "fetch sets, check them, unpack them");
  verify_ = data_->add_subcommand("verify", "read fetched sets again and hold them against their checksums");
  for (auto* command : {get_, verify_}) {
    command->add_option("sets", names_, "names from `glyptic data list`")->required();
    command->add_option("--to", to_,
                        "folder of data sets; default $GLYPTIC_DATA, else ~/.local/share/glyptic");
  }
  for (auto* command : {list_, get_, verify_}) {
    command->fallthrough();
    command->add_option("--catalogue", catalogue_, "JSON file of sets in place of the built-in ones");
  }
  get_->add_option("--mirror", mirror_, "ask URL/<set>/<file> instead; default $GLYPTIC_MIRROR");
  get_->add_flag("--keep-archives", keep_archives_, "keep archives after unpacking them");
  get_->add_flag("--force", force_, "replace files that are there with other content");
  get_->add_option("--timeout", timeout_, "seconds without a byte before a transfer is given up (30)");
  get_->add_option("--retries", retries_, "how often in a row to try an address again (5)");
  get_->add_option("--retry-wait", wait_, "seconds before the first retry, doubled each time (1)");
}

void DataCommand::run() {
  std::vector<data::RemoteSet> own;
  if (!catalogue_.empty()) {
    constexpr uint64_t kLargest = uint64_t{16} << 20;
    own = data::parse_catalogue(read_file(catalogue_, kLargest), "'" + catalogue_ + "'");
  }
  const auto& sets = catalogue_.empty() ? data::catalogue() : own;
  if (list_->parsed()) {
    for (const auto& set : sets) {
      std::cout << set.name << " (" << size_text(set) << ", " << set.files.size()
                << (set.files.size() == 1 ? " file, " : " files, ") << checks_of(set) << ")\n  " << set.title
                << "\n  licence: " << set.licence << "\n  source: " << set.source << '\n';
      const auto found = data::data_folders(set.name);
      if (!found.empty()) std::cout << "  here: " << found.front() << '\n';
    }
    std::cout << std::flush;
    return;
  }

  if (to_.empty()) to_ = data::default_data_root();
  std::vector<const data::RemoteSet*> chosen;
  for (const auto& name : names_) chosen.push_back(&data::find_set(sets, name));  // all of them, before any
  const SignalScope signals;
  if (get_->parsed()) {
    data::FetchOptions options;
    options.root = to_;
    const char* mirror = std::getenv("GLYPTIC_MIRROR");
    options.mirror = !mirror_.empty() ? mirror_ : mirror != nullptr ? mirror : "";
    options.keep_archives = keep_archives_;
    options.force = force_;
    options.timeout_seconds = timeout_;
    options.retries = retries_;
    options.wait_seconds = wait_;
    options.stop = &stop_signal();
    for (const auto* set : chosen) {
      data::fetch(*set, options);
      std::cout << set->name << ": complete in " << (fs::path(to_) / set->name).lexically_normal().string()
                << "; " << how_to_use(*set, to_) << std::endl;
    }
    return;
  }
  std::size_t bad = 0, all = 0;
  for (const auto* set : chosen) {
    for (const auto& file : data::verify(*set, to_, &stop_signal())) {
      std::cout << (file.good ? "good  " : "BAD   ") << file.path << "  " << file.what << std::endl;
      ++all;
      bad += file.good ? 0 : 1;
    }
  }
  require<DataError>(bad == 0, bad, " of ", all,
                     " files are missing or not as they should be; fetch again with: ",
                     "glyptic data get --force ", names_.front());
}

}  // namespace glyptic::cli

// A set of files into its folder, and what is there held against what should be.
#include "glyptic/data/fetch.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>

#include "../core/files.h"
#include "fetch_internal.h"
#include "glyptic/core/log.h"
#include "glyptic/core/safetensors.h"

namespace glyptic::data {

namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

constexpr const char* kRecord = "fetched.json";

// What fetched.json knows: for each file its SHA-256, size, and the download that it came with.
class Record {
 public:
  struct Entry {
    std::string sha256, from, url;
    uint64_t bytes = 0;
  };

  explicit Record(const std::string& folder) : path_(folder + "/" + kRecord) {
    std::error_code error;
    if (!fs::exists(path_, error)) return;
    constexpr uint64_t kLargest = uint64_t{64} << 20;
    try {
      const auto json = Json::parse(read_file(path_, kLargest));
      for (const auto& file : json.at("files")) {
        const auto name = file.at("name").get<std::string>();
        require<DataError>(safe_relative_path(name), "an unsafe name");
        entries[name] = {file.at("sha256").get<std::string>(), file.at("from").get<std::string>(),
                         file.at("url").get<std::string>(), file.at("bytes").get<uint64_t>()};
      }
    } catch (const MissingFileError&) {
      throw;
    } catch (const std::exception&) {
      throw DataError(str("'", path_, "' is damaged; remove it, and fetch the set again with --force"));
    }
  }

  void save(const RemoteSet& set) const {
    Json json{{"set", set.name}, {"title", set.title}, {"licence", set.licence}, {"source", set.source}};
    json["files"] = Json::array();
    for (const auto& [name, entry] : entries)
      json["files"].push_back({{"name", name},
                               {"bytes", entry.bytes},
                               {"sha256", entry.sha256},
                               {"from", entry.from},
                               {"url", entry.url}});
    write_file_atomically(path_, json.dump(2) + "\n");
  }

  std::vector<std::string> unpacked_from(const std::string& archive) const {
    std::vector<std::string> names;
    for (const auto& [name, entry] : entries)
      if (entry.from == archive && name != archive) names.push_back(name);
    return names;
  }

  std::map<std::string, Entry> entries;

 private:
  std::string path_;
};

// Held while a folder is written. The lock is on the folder itself, so nothing is left behind.
class FolderLock {
 public:
  explicit FolderLock(const std::string& folder) {
    descriptor_ = ::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (descriptor_ < 0) files::throw_errno("open", folder, errno);
    // Some network file systems cannot lock; two downloads there would only lose time.
    if (::flock(descriptor_, LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK) {
      ::close(descriptor_);
      throw ArgumentError(str("another process is fetching into '", folder, "'; wait for it or stop it"));
    }
  }
  ~FolderLock() { ::close(descriptor_); }
  FolderLock(const FolderLock&) = delete;
  FolderLock& operator=(const FolderLock&) = delete;

 private:
  int descriptor_;
};

void make_folder(const std::string& folder) {
  std::error_code error;
  fs::create_directories(folder, error);
  if (error)
    throw MissingFileError(
        str("cannot make the folder '", folder, "': ", error.message(), "; name another one with --to"));
}

std::string join(const std::string& folder, const std::string& name) {
  return (fs::path(folder) / name).string();
}

// What of a recorded file is not as it was, "" when it is.
std::string difference_from(const Record::Entry& entry, const std::string& path,
                            const std::atomic<int>* stop) {
  RemoteFile file;
  file.size = entry.bytes;
  file.checksum = {"sha256", entry.sha256};
  return difference(file, path, stop);
}

class Fetcher {
 public:
  Fetcher(const RemoteSet& set, const FetchOptions& options)
      : set_(set), options_(options), folder_(join(options.root, set.name)) {}

  void run() {
    make_folder(folder_);
    const FolderLock lock(folder_);
    Record record(folder_);
    log::info(str(set_.name, ": ", set_.title));
    log::info(str("licence: ", set_.licence));
    log::info(str("source: ", set_.source));
    for (const auto& file : set_.files) {
      check_stop(options_.stop, str("fetching '", set_.name, "'"));
      if (file.unpack.empty())
        plain(file, record);
      else
        archive(file, record);
    }
  }

 private:
  std::vector<std::string> addresses(const RemoteFile& file) const {
    if (options_.mirror.empty()) return file.urls;
    auto base = options_.mirror;
    while (base.ends_with('/')) base.pop_back();
    return {base + "/" + set_.name + "/" + file.name};
  }

  // True when a file of that name is there and right; removes a wrong one only by --force.
  bool there(const RemoteFile& file, const Record& record, const std::string& path) const {
    std::error_code error;
    if (!fs::exists(fs::symlink_status(path, error))) return false;
    auto wrong = difference(file, path, options_.stop);
    const auto known = record.entries.find(file.name);
    if (wrong.empty() && !file.checksum.known() && known != record.entries.end())
      wrong = difference_from(known->second, path, options_.stop);
    if (wrong.empty()) return true;
    require<DataError>(options_.force, "'", path, "' ", wrong,
                       "; remove it, or replace it with: glyptic data get --force ", set_.name);
    return false;
  }

  std::string get(const RemoteFile& file, Record& record, const std::string& path) const {
    const auto url = download(file, addresses(file), path, options_);
    Record::Entry entry;
    entry.sha256 =
        file.checksum.kind == "sha256" ? file.checksum.hex : file_hash(path, "sha256", options_.stop);
    entry.from = file.name;
    entry.url = url;
    entry.bytes = fs::file_size(path);
    if (!file.checksum.known())
      log::warn(str(file.name, ": not yet verified, nobody publishes its checksum; sha256 is ", entry.sha256,
                    ", kept in ", kRecord));
    else
      log::info(str(file.name, ": ", file.checksum.kind, " as published"));
    record.entries[file.name] = entry;
    return path;
  }

  void plain(const RemoteFile& file, Record& record) const {
    const auto path = join(folder_, file.name);
    if (there(file, record, path)) {
      log::info(str(file.name, ": there already"));
      if (record.entries.contains(file.name)) return;
      // Somebody else's copy, and right: written down, so that a later change is seen.
      record.entries[file.name] = {file_hash(path, "sha256", options_.stop), file.name, "",
                                   fs::file_size(path)};
    } else {
      get(file, record, path);
    }
    record.save(set_);
  }

  void archive(const RemoteFile& file, Record& record) const {
    const auto path = join(folder_, file.name);
    const auto names = record.unpacked_from(file.name);
    if (!names.empty() && std::all_of(names.begin(), names.end(), [&](const std::string& name) {
          return difference_from(record.entries.at(name), join(folder_, name), options_.stop).empty();
        })) {
      log::info(str(file.name, ": there already, unpacked"));
      return;
    }
    // Before the network is asked for what would then be refused.
    for (const auto& name : names) {
      const auto target = join(folder_, name);
      std::error_code error;
      if (fs::exists(fs::symlink_status(target, error))) refuse_other(target, record.entries.at(name));
    }
    if (!there(file, record, path)) get(file, record, path);
    const auto url = record.entries.contains(file.name) ? record.entries.at(file.name).url : std::string();

    const auto fresh = join(folder_, ".unpack.part");
    fs::remove_all(fresh);  // of a process that was killed
    make_folder(fresh);
    struct Remove {
      std::string path;
      ~Remove() {
        std::error_code ignored;
        fs::remove_all(path, ignored);
      }
    } const at_the_end{fresh};
    log::info(str("unpacking ", file.name));
    const auto unpacked =
        unpack_archive(path, file.unpack, file.unpacked_bytes, file.unpacked_files, fresh, options_.stop);
    std::map<std::string, Record::Entry> entries;
    for (const auto& name : unpacked) {
      require<DataError>(name != kRecord && name != file.name, "'", path, "' holds a file named '", name,
                         "', which is Glyptic's own name there; it is not unpacked");
      entries[name] = {file_hash(join(fresh, name), "sha256", options_.stop), file.name, url,
                       fs::file_size(join(fresh, name))};
    }
    move_in(fresh, entries);
    for (const auto& name : names) record.entries.erase(name);
    for (const auto& [name, entry] : entries) record.entries[name] = entry;
    if (!options_.keep_archives) record.entries.erase(file.name);
    record.save(set_);
    std::error_code ignored;
    if (!options_.keep_archives) fs::remove(path, ignored);
    log::info(str(file.name, ": ", unpacked.size(), " files unpacked"));
  }

  void refuse_other(const std::string& target, const Record::Entry& entry) const {
    const auto wrong = difference_from(entry, target, options_.stop);
    require<DataError>(wrong.empty() || options_.force, "'", target, "' is there and ", wrong,
                       "; remove it, or replace it with: glyptic data get --force ", set_.name);
  }

  // Everything that would be replaced is looked at before anything is moved. A folder that is not there yet
  // appears whole, by one rename.
  void move_in(const std::string& fresh, const std::map<std::string, Record::Entry>& entries) const {
    for (const auto& [name, entry] : entries) {
      const auto target = join(folder_, name);
      std::error_code error;
      if (!fs::exists(fs::symlink_status(target, error))) continue;
      refuse_other(target, entry);
    }
    std::vector<fs::path> tops;
    for (const auto& entry : fs::directory_iterator(fresh)) tops.push_back(entry.path());
    for (const auto& top : tops) {
      const auto target = fs::path(folder_) / top.filename();
      std::error_code error;
      if (fs::exists(fs::symlink_status(target, error))) continue;
      move(top, target);
    }
    for (const auto& [name, entry] : entries) {
      const fs::path from = join(fresh, name), to = join(folder_, name);
      std::error_code error;
      if (!fs::exists(from, error)) continue;
      make_folder(to.parent_path().string());
      move(from, to);
    }
  }

  static void move(const fs::path& from, const fs::path& to) {
    if (::rename(from.c_str(), to.c_str()) != 0) files::throw_errno("write", to.string(), errno);
  }

  const RemoteSet& set_;
  const FetchOptions& options_;
  std::string folder_;
};

}  // namespace

std::string megabytes(uint64_t bytes) {
  char text[32];
  std::snprintf(text, sizeof text, bytes < 100'000 ? "%.1f kB" : "%.1f MB",
                static_cast<double>(bytes) / (bytes < 100'000 ? 1e3 : 1e6));
  return text;
}

std::string difference(const RemoteFile& file, const std::string& path, const std::atomic<int>* stop) {
  std::error_code error;
  const auto size = fs::file_size(path, error);
  if (error) return str("cannot be read: ", error.message());
  if (file.size > 0 && size != file.size) return str("has ", size, " bytes, expected ", file.size);
  if (!file.checksum.known()) return "";
  const auto hash = file_hash(path, file.checksum.kind, stop);
  if (hash == file.checksum.hex) return "";
  return str(file.checksum.kind, " is ", hash, ", expected ", file.checksum.hex);
}

bool safe_relative_path(const std::string& path) {
  constexpr std::size_t kLongest = 1024, kLongestPart = 255, kDeepest = 32;
  if (path.empty() || path.size() > kLongest || !files::valid_utf8(path)) return false;
  for (const char c : path)
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7F || c == '\\') return false;
  if (path.size() > 1 && path[1] == ':') return false;  // a drive, elsewhere
  std::size_t begin = 0, parts = 0;
  while (begin <= path.size()) {
    const auto end = std::min(path.find('/', begin), path.size());
    const auto part = path.substr(begin, end - begin);
    if (part.empty() || part == "." || part == ".." || part.size() > kLongestPart) return false;
    if (++parts > kDeepest) return false;
    begin = end + 1;
  }
  return true;
}

void refuse_without_libraries() {
  throw ArgumentError(
      "this build of Glyptic cannot fetch data: libcurl, libarchive or OpenSSL was missing when it was "
      "built; "
      "install them (Debian: libcurl4-openssl-dev libarchive-dev libssl-dev) and build again");
}

void fetch(const RemoteSet& set, const FetchOptions& options) {
  if (!can_fetch()) refuse_without_libraries();
  require(!options.root.empty(), "the folder for data has no name; give one with --to");
  require(options.timeout_seconds >= 1, "timeout is ", options.timeout_seconds, " s, expected 1 or more");
  require(options.retries >= 0, "retries is ", options.retries, ", expected 0 or more");
  require(options.wait_seconds >= 0 && options.wait_seconds <= 3600, "retry-wait is ", options.wait_seconds,
          " s, expected 0 to 3600");
  require(options.mirror.empty() || options.mirror.starts_with("http://") ||
              options.mirror.starts_with("https://"),
          "the mirror is '", options.mirror, "', expected an address that begins with https:// or http://");
  Fetcher(set, options).run();
}

std::vector<VerifiedFile> verify(const RemoteSet& set, const std::string& root,
                                 const std::atomic<int>* stop) {
  if (!can_fetch()) refuse_without_libraries();
  const auto folder = join(root, set.name);
  const Record record(folder);
  std::vector<VerifiedFile> result;
  const auto add = [&](const std::string& name, const std::string& wrong, const std::string& right) {
    result.push_back({join(folder, name), wrong.empty(), wrong.empty() ? right : wrong});
  };
  for (const auto& file : set.files) {
    const auto path = join(folder, file.name);
    std::error_code error;
    const bool exists = fs::exists(path, error);
    const auto unpacked = record.unpacked_from(file.name);
    if (!file.unpack.empty() && !unpacked.empty()) {
      for (const auto& name : unpacked) {
        const auto target = join(folder, name);
        add(name,
            fs::exists(target, error) ? difference_from(record.entries.at(name), target, stop) : "missing",
            "sha256 as when it was unpacked");
      }
      if (!exists) continue;
    }
    if (!exists) {
      add(file.name, "missing", "");
      continue;
    }
    const auto known = record.entries.find(file.name);
    if (file.checksum.known())
      add(file.name, difference(file, path, stop), file.checksum.kind + " as published");
    else if (known != record.entries.end())
      add(file.name, difference_from(known->second, path, stop),
          "sha256 as when it was fetched, not yet verified");
    else
      add(file.name, "has no published checksum and no record", "");
  }
  return result;
}

}  // namespace glyptic::data

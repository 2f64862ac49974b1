// Archives of others. Nothing in them is believed: every name is checked before it is used, only plain files
// and folders are made, and what comes out is counted while it comes.
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <memory>
#include <set>

#include "../core/files.h"
#include "fetch_internal.h"

#include <archive.h>
#include <archive_entry.h>

namespace glyptic::data {

namespace {

namespace fs = std::filesystem;

struct ReadFree {
  void operator()(archive* a) const { archive_read_free(a); }
};

class Unpacker {
 public:
  Unpacker(const std::string& path, const std::string& kind, uint64_t most_bytes, uint64_t most_entries,
           const std::string& folder, const std::atomic<int>* stop)
      : path_(path),
        gzip_(kind == "gzip"),
        most_bytes_(most_bytes),
        most_entries_(most_entries),
        folder_(folder),
        stop_(stop),
        archive_(archive_read_new()) {
    require<Error>(archive_ != nullptr, "libarchive cannot be initialized");
    require(kind == "tar" || kind == "zip" || gzip_, "unpack is '", kind, "', expected tar, zip or gzip");
    auto* a = archive_.get();
    if (kind == "tar") {
      archive_read_support_format_tar(a);
      archive_read_support_filter_gzip(a);
      archive_read_support_filter_bzip2(a);
      archive_read_support_filter_xz(a);
    } else if (gzip_) {
      archive_read_support_format_raw(a);
      archive_read_support_filter_gzip(a);
    } else {
      archive_read_support_format_zip(a);
    }
  }

  std::vector<std::string> run() {
    constexpr std::size_t kBlock = std::size_t{1} << 16;
    {
      // libarchive's own message for a missing file does not name it.
      const files::MappedFile exists(path_);
      require<DataError>(exists.size() > 0, "'", path_, "' is empty", kAgain);
    }
    check(archive_read_open_filename(archive_.get(), path_.c_str(), kBlock));
    // Without a gzip header libarchive takes a raw file for what it is.
    if (gzip_ && archive_filter_code(archive_.get(), 0) != ARCHIVE_FILTER_GZIP) fail("it is not gzip");
    archive_entry* entry = nullptr;
    for (uint64_t count = 1;; ++count) {
      check_stop(stop_, str("unpacking '", path_, "'"));
      const int status = archive_read_next_header(archive_.get(), &entry);
      if (status == ARCHIVE_EOF) break;
      check(status);
      if (count > most_entries_)
        fail(str("it holds more than the ", most_entries_, " entries that are expected"));
      take(entry);
    }
    if (made_.empty()) fail("it holds no file");
    return {made_.begin(), made_.end()};
  }

 private:
  static constexpr const char* kAgain = "; nothing of it was kept: fetch it again or tell its publisher";

  [[noreturn]] void fail(const std::string& what) const {
    throw DataError(str("'", path_, "' is not unpacked: ", what, kAgain));
  }
  void check(int status) const {
    if (status == ARCHIVE_OK || status == ARCHIVE_WARN) return;
    const char* message = archive_error_string(archive_.get());
    std::string text = message ? message : "libarchive cannot read it";
    std::replace(text.begin(), text.end(), '\n', ' ');
    fail(text);
  }

  std::string name_of(archive_entry* entry) const {
    if (gzip_) {
      auto name = fs::path(path_).filename().string();
      return name.size() > 3 && name.ends_with(".gz") ? name.substr(0, name.size() - 3) : name + ".unpacked";
    }
    const char* raw = archive_entry_pathname_utf8(entry);
    if (raw == nullptr) raw = archive_entry_pathname(entry);
    std::string name = raw ? raw : "";
    const auto given = files::quoted(name);
    while (name.starts_with("./")) name.erase(0, name.find_first_not_of('/', 1));
    while (name.size() > 1 && name.back() == '/') name.pop_back();
    if (name.empty() || name == ".") return "";  // the folder itself
    if (!safe_relative_path(name))
      fail(str("the name ", given, " leads out of the folder or is not a plain name"));
    return name;
  }

  void take(archive_entry* entry) {
    const auto name = name_of(entry);
    const auto type = gzip_ ? mode_t{AE_IFREG} : archive_entry_filetype(entry);
    if (archive_entry_hardlink(entry) != nullptr || archive_entry_symlink(entry) != nullptr ||
        type == AE_IFLNK)
      fail(str(files::quoted(name), " is a link"));
    if (type != AE_IFREG && type != AE_IFDIR) fail(str(files::quoted(name), " is a device, pipe or socket"));
    if (name.empty()) {
      if (type != AE_IFDIR) fail("a file has no name");
      return;
    }
    const auto target = fs::path(folder_) / name;
    std::error_code error;
    fs::create_directories(type == AE_IFDIR ? target : target.parent_path(), error);
    if (error) {
      if (error == std::errc::not_a_directory || error == std::errc::file_exists)
        fail(str(files::quoted(name), " is both a file and a folder"));
      files::throw_errno("make the folder of", target.string(), error.value());
    }
    if (type == AE_IFDIR) return;
    if (!made_.insert(name).second) fail(str(files::quoted(name), " is in it twice"));
    const bool sized = archive_entry_size_is_set(entry) != 0;
    const int64_t declared = sized ? archive_entry_size(entry) : 0;
    if (declared < 0) fail(str(files::quoted(name), " has a negative size"));
    reserve(static_cast<uint64_t>(declared));
    const uint64_t before = total_;
    const auto end = write(target.string());
    total_ = before + std::max(end, static_cast<uint64_t>(declared));
  }

  // The whole archive's bytes once `more` are added to what is there.
  void reserve(uint64_t more) const {
    if (more > most_bytes_ - total_)
      fail(str("it unpacks to more than the ", most_bytes_, " bytes that are expected"));
  }

  uint64_t write(const std::string& target) {
    struct Descriptor {
      int number;
      ~Descriptor() { ::close(number); }
    } const file{::open(target.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0644)};
    if (file.number < 0 && errno == EISDIR) fail(str(files::quoted(target), " is both a file and a folder"));
    if (file.number < 0) files::throw_errno("write", target, errno);
    uint64_t end = 0;
    for (;;) {
      check_stop(stop_, str("unpacking '", path_, "'"));
      const void* data = nullptr;
      std::size_t size = 0;
      la_int64_t offset = 0;
      const int status = archive_read_data_block(archive_.get(), &data, &size, &offset);
      if (status == ARCHIVE_EOF) break;
      check(status);
      if (offset < 0 || static_cast<uint64_t>(offset) > most_bytes_) reserve(most_bytes_ + 1);
      reserve(static_cast<uint64_t>(offset) + size);
      const char* bytes = static_cast<const char*>(data);
      for (std::size_t done = 0; done < size;) {
        const auto wrote =
            ::pwrite(file.number, bytes + done, size - done, offset + static_cast<off_t>(done));
        if (wrote < 0 && errno == EINTR) continue;
        if (wrote < 0) files::throw_errno("write", target, errno);
        done += static_cast<std::size_t>(wrote);
      }
      end = std::max(end, static_cast<uint64_t>(offset) + size);
    }
    if (::fsync(file.number) != 0) files::throw_errno("write", target, errno);
    return end;
  }

  std::string path_;
  bool gzip_;
  uint64_t most_bytes_, most_entries_;
  std::string folder_;
  const std::atomic<int>* stop_;
  std::unique_ptr<archive, ReadFree> archive_;
  std::set<std::string> made_;
  uint64_t total_ = 0;
};

}  // namespace

std::vector<std::string> unpack_archive(const std::string& archive, const std::string& kind,
                                        uint64_t most_bytes, uint64_t most_entries, const std::string& folder,
                                        const std::atomic<int>* stop) {
  std::error_code error;
  require(fs::is_directory(folder, error) && fs::is_empty(folder, error), "'", folder,
          "' is not an empty folder; unpack into one");
  return Unpacker(archive, kind, most_bytes, most_entries, folder, stop).run();
}

}  // namespace glyptic::data

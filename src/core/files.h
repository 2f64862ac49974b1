// Files at the level of system calls: what safetensors and the readers of data share. Not installed.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace glyptic::files {

/// Throws the error that `error` (an errno) of `action` ("open", "write") on `path` stands for:
/// MissingFileError where the file is not there or not ours to open, DataError where the device failed or is
/// full.
[[noreturn]] void throw_errno(const char* action, const std::string& path, int error);

/// Text of foreign origin, made fit for a one-line message: quoted, escaped, and cut when long.
std::string quoted(std::string_view text);

bool valid_utf8(std::string_view text);

/// A read-only map of a whole regular file. A file that is replaced by rename keeps its old content here; one
/// that is cut short in place would fault, so `check_size` is called before large reads.
class MappedFile {
 public:
  explicit MappedFile(const std::string& path);
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  const std::string& path() const { return path_; }
  const unsigned char* data() const { return data_; }
  uint64_t size() const { return size_; }
  /// DataError when the file on the disk is now shorter than the map.
  void check_size() const;

 private:
  std::string path_;
  int descriptor_ = -1;
  const unsigned char* data_ = nullptr;
  uint64_t size_ = 0;
};

/// A file that appears at `path` complete or not at all. Without `commit` the destructor removes the
/// temporary.
class AtomicFile {
 public:
  /// Removes the temporaries that writers killed before their commit left in `folder`. Only for a folder that
  /// no other process writes to now.
  static void remove_leftovers(const std::string& folder);

  explicit AtomicFile(const std::string& path);
  ~AtomicFile();
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;

  void write(const void* bytes, std::size_t count);
  /// Replaces bytes that were written.
  void rewrite(uint64_t at, const void* bytes, std::size_t count);
  void commit();

 private:
  std::string path_, folder_, temporary_;
  int descriptor_ = -1;
};

}  // namespace glyptic::files

#include "files.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <string_view>
#include <vector>

#include "glyptic/core/error.h"
#include "glyptic/core/safetensors.h"

namespace glyptic {
namespace files {
namespace {

constexpr std::size_t kMostPerCall = std::size_t{1} << 30;  // Linux transfers at most 2 GiB - 4 KiB a call

const char* remedy(int error) {
  switch (error) {
    case ENOENT:
      return "check the path, or create its folder";
    case EACCES:
    case EPERM:
      return "check the permissions of the file and of its folder";
    case EROFS:
      return "choose a folder that can be written";
    case ENOSPC:
    case EDQUOT:
      return "free some space or choose another folder";
    case EFBIG:
      return "raise the limit on file sizes (ulimit -f) or choose another folder";
    case EMFILE:
    case ENFILE:
      return "close some files or raise the limit (ulimit -n)";
    case ENAMETOOLONG:
      return "choose a shorter name";
    case ENOTDIR:
      return "a part of the path is a file where a folder is needed";
    case EISDIR:
      return "name a file, not a folder";
    default:
      return "check the disk";
  }
}

// Opens for reading; throws for everything that is not a file's content.
int open_for_reading(const std::string& path, struct stat& status) {
  int descriptor;
  do descriptor = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  while (descriptor < 0 && errno == EINTR);
  if (descriptor < 0) throw_errno("open", path, errno);
  if (::fstat(descriptor, &status) != 0) {
    const int error = errno;
    ::close(descriptor);
    throw_errno("read", path, error);
  }
  if (S_ISDIR(status.st_mode)) {
    ::close(descriptor);
    throw DataError(str("'", path, "' is a folder; name a file in it"));
  }
  return descriptor;
}

struct Closer {
  int descriptor;
  ~Closer() { ::close(descriptor); }
};

}  // namespace

void throw_errno(const char* action, const std::string& path, int error) {
  const auto message = str("cannot ", action, " '", path, "': ", std::strerror(error), "; ", remedy(error));
  switch (error) {
    case ENOSPC:
    case EDQUOT:
    case EFBIG:
    case EIO:
      throw DataError(message);
    default:
      throw MissingFileError(message);
  }
}

std::string quoted(std::string_view text) {
  constexpr std::size_t kMost = 80;
  std::string result = "'";
  for (const char c : text.substr(0, kMost)) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte >= 0x20 && byte < 0x7F) {
      result += c;
    } else {
      constexpr char kHex[] = "0123456789abcdef";
      result += {'\\', 'x', kHex[byte >> 4], kHex[byte & 15]};
    }
  }
  return result + (text.size() > kMost ? "...'" : "'");
}

bool valid_utf8(std::string_view text) {
  for (std::size_t i = 0; i < text.size();) {
    const auto lead = static_cast<unsigned char>(text[i++]);
    if (lead < 0x80) continue;
    const int follow = lead >= 0xC2 && lead <= 0xDF   ? 1
                       : (lead & 0xF0) == 0xE0        ? 2
                       : lead >= 0xF0 && lead <= 0xF4 ? 3
                                                      : 0;
    if (follow == 0 || text.size() - i < static_cast<std::size_t>(follow)) return false;
    uint32_t code = lead & (0x3Fu >> follow);
    for (int k = 0; k < follow; ++k) {
      const auto byte = static_cast<unsigned char>(text[i++]);
      if ((byte & 0xC0) != 0x80) return false;
      code = code << 6 | (byte & 0x3Fu);
    }
    // Overlong forms, surrogates, and what lies beyond Unicode.
    if (code < (follow == 1 ? 0x80u : follow == 2 ? 0x800u : 0x10000u)) return false;
    if ((code >= 0xD800 && code <= 0xDFFF) || code > 0x10FFFF) return false;
  }
  return true;
}

MappedFile::MappedFile(const std::string& path) : path_(path) {
  struct stat status;
  descriptor_ = open_for_reading(path, status);
  if (!S_ISREG(status.st_mode)) {
    ::close(descriptor_);
    throw DataError(str("'", path, "' is not a regular file and cannot be mapped; copy it to a disk first"));
  }
  size_ = static_cast<uint64_t>(status.st_size);
  if (size_ == 0) return;
  void* map = ::mmap(nullptr, size_, PROT_READ, MAP_PRIVATE, descriptor_, 0);
  if (map == MAP_FAILED) {
    const int error = errno;
    ::close(descriptor_);
    throw_errno("map", path, error);
  }
  data_ = static_cast<const unsigned char*>(map);
}

MappedFile::~MappedFile() {
  if (data_) ::munmap(const_cast<unsigned char*>(data_), size_);
  ::close(descriptor_);
}

void MappedFile::check_size() const {
  struct stat status;
  if (::fstat(descriptor_, &status) != 0) throw_errno("read", path_, errno);
  require<DataError>(static_cast<uint64_t>(status.st_size) >= size_, "'", path_, "' was cut from ", size_,
                     " to ", status.st_size, " bytes while it was open; write it anew and load it again");
}

namespace {

constexpr std::string_view kTemporaryPrefix = ".glyptic-", kTemporarySuffix = ".tmp";

bool is_temporary(const std::string& name) {
  return name.size() > kTemporaryPrefix.size() + kTemporarySuffix.size() &&
         name.compare(0, kTemporaryPrefix.size(), kTemporaryPrefix) == 0 &&
         name.compare(name.size() - kTemporarySuffix.size(), kTemporarySuffix.size(), kTemporarySuffix) == 0;
}

}  // namespace

void AtomicFile::remove_leftovers(const std::string& folder) {
  namespace fs = std::filesystem;
  std::error_code error;  // what cannot be listed or removed stays: it costs disk space and nothing else
  std::vector<fs::path> leftovers;
  for (fs::directory_iterator entry(folder, error), end; !error && entry != end; entry.increment(error))
    if (is_temporary(entry->path().filename().string())) leftovers.push_back(entry->path());
  for (const auto& path : leftovers) fs::remove(path, error);
}

AtomicFile::AtomicFile(const std::string& path) : path_(path) {
  namespace fs = std::filesystem;
  require(!path.empty(), "cannot write a file without a name; give a path");
  std::error_code ignored;
  // A link stays a link, and the file that it points to is replaced.
  if (fs::is_symlink(path_, ignored)) {
    const auto target = fs::weakly_canonical(path_, ignored);
    if (!ignored) path_ = target.string();
  }
  struct stat status;
  const bool exists = ::stat(path_.c_str(), &status) == 0;
  if (exists && S_ISDIR(status.st_mode)) throw_errno("write", path, EISDIR);
  // A rename would replace the device or pipe itself by a file.
  if (exists && !S_ISREG(status.st_mode))
    throw MissingFileError(str("cannot write '", path, "': it is a device or pipe; name a regular file"));

  folder_ = fs::path(path_).parent_path().string();
  if (folder_.empty()) folder_ = ".";
  static std::atomic<uint64_t> counter{0};
  do {
    temporary_ = str(folder_, "/", kTemporaryPrefix, ::getpid(), "-", counter++, kTemporarySuffix);
    descriptor_ = ::open(temporary_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
  } while (descriptor_ < 0 && (errno == EEXIST || errno == EINTR));
  if (descriptor_ < 0) throw_errno("write", path_, errno);
  // Permissions are a property of the name, not of the version; a failure here costs nothing but them.
  if (exists) static_cast<void>(::fchmod(descriptor_, status.st_mode & 07777) == 0);
}

AtomicFile::~AtomicFile() {
  if (descriptor_ >= 0) ::close(descriptor_);
  if (!temporary_.empty()) ::unlink(temporary_.c_str());
}

void AtomicFile::write(const void* bytes, std::size_t count) {
  const char* next = static_cast<const char*>(bytes);
  while (count > 0) {
    const ssize_t done = ::write(descriptor_, next, std::min(count, kMostPerCall));
    if (done < 0) {
      if (errno == EINTR) continue;
      throw_errno("write", path_, errno);
    }
    next += done;
    count -= static_cast<std::size_t>(done);
  }
}

void AtomicFile::rewrite(uint64_t at, const void* bytes, std::size_t count) {
  const char* next = static_cast<const char*>(bytes);
  while (count > 0) {
    const ssize_t done = ::pwrite(descriptor_, next, std::min(count, kMostPerCall), static_cast<off_t>(at));
    if (done < 0) {
      if (errno == EINTR) continue;
      throw_errno("write", path_, errno);
    }
    next += done;
    at += static_cast<uint64_t>(done);
    count -= static_cast<std::size_t>(done);
  }
}

void AtomicFile::commit() {
  if (::fsync(descriptor_) != 0) throw_errno("write", path_, errno);
  const int closed = ::close(descriptor_);
  descriptor_ = -1;
  if (closed != 0 && errno != EINTR) throw_errno("write", path_, errno);
  if (::rename(temporary_.c_str(), path_.c_str()) != 0) throw_errno("write", path_, errno);
  temporary_.clear();
  // The name itself must reach the disk too. Some network file systems cannot do that, and some folders can
  // be written but not opened; the file is complete there all the same.
  const int folder = ::open(folder_.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (folder < 0) return;
  const Closer closer{folder};
  if (::fsync(folder) != 0 && errno == EIO) throw_errno("write", path_, errno);
}

}  // namespace files

std::string one_line(const std::string& text) {
  constexpr std::size_t kMost = 2000;
  std::string result;
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (result.size() >= kMost && (byte & 0xC0) != 0x80) return result + "...";  // not inside a character
    if (byte >= 0x20 && byte != 0x7F) {
      result += c;
    } else if (c == '\n') {
      result += "\\n";
    } else {
      constexpr char kHex[] = "0123456789abcdef";
      result += {'\\', 'x', kHex[byte >> 4], kHex[byte & 15]};
    }
  }
  return result;
}

void write_file_atomically(const std::string& path, const std::string& bytes) {
  files::AtomicFile file(path);
  file.write(bytes.data(), bytes.size());
  file.commit();
}

std::string read_file(const std::string& path, uint64_t limit) {
  struct stat status;
  const files::Closer file{files::open_for_reading(path, status)};
  const auto too_long = [&](uint64_t size) {
    throw DataError(str("'", path, "' has ", S_ISREG(status.st_mode) ? "" : "at least ", size,
                        " bytes, more than the ", limit, " that are read here; is it the right file?"));
  };
  const bool regular = S_ISREG(status.st_mode);
  if (regular && static_cast<uint64_t>(status.st_size) > limit)
    too_long(static_cast<uint64_t>(status.st_size));
  // One byte more than the file has, so that the end is met without growing; pipes and /proc do not know
  // theirs.
  std::string bytes(regular ? static_cast<std::size_t>(status.st_size) + 1 : 0, '\0');
  std::size_t filled = 0;
  for (;;) {
    if (filled == bytes.size()) bytes.resize(std::max<std::size_t>(2 * filled, 65536));
    const ssize_t got =
        ::read(file.descriptor, bytes.data() + filled, std::min(bytes.size() - filled, files::kMostPerCall));
    if (got < 0) {
      if (errno == EINTR) continue;
      files::throw_errno("read", path, errno);
    }
    if (got == 0) break;
    filled += static_cast<std::size_t>(got);
    if (filled > limit) too_long(filled);
  }
  bytes.resize(filled);
  return bytes;
}

}  // namespace glyptic

#include "glyptic/experiment/run_folder.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/utsname.h>
#include <torch/torch.h>
#include <unistd.h>

#include <cerrno>
#include <nlohmann/json.hpp>
#include <utility>

#include "../core/files.h"
#include "glyptic/core/build_info.h"
#include "glyptic/core/distributed.h"
#include "glyptic/core/error.h"
#include "glyptic/core/safetensors.h"

namespace glyptic::experiment {

namespace fs = std::filesystem;

namespace {

std::string reason() {
  return std::strerror(errno);
}

bool has_begun(const fs::path& folder) {
  std::error_code error;
  const auto metrics = fs::file_size(folder / "metrics.jsonl", error);
  return (!error && metrics > 0) || fs::exists(folder / "checkpoints" / "last.safetensors", error);
}

}  // namespace

RunFolder::RunFolder(std::string path) : path_(std::move(path)) {}

RunFolder::RunFolder(RunFolder&& other) noexcept {
  *this = std::move(other);
}

RunFolder& RunFolder::operator=(RunFolder&& other) noexcept {
  std::swap(path_, other.path_);
  std::swap(made_, other.made_);
  std::swap(created_, other.created_);
  std::swap(leads_, other.leads_);
  std::swap(lock_, other.lock_);
  std::swap(metrics_, other.metrics_);
  return *this;
}

RunFolder::~RunFolder() {
  if (metrics_ >= 0) ::close(metrics_);
  if (lock_ >= 0) ::close(lock_);  // closing releases the lock
}

RunFolder RunFolder::create(const std::string& path) {
  require(!path.empty(), "the run folder has no name; give one with --out");
  const fs::path folder(path);
  std::error_code error;
  const bool existed = fs::exists(folder, error);
  // A run that was killed before it computed anything holds nothing that could be lost.
  require(!has_begun(folder) || !fs::exists(folder / "config.yaml", error), "'", path,
          "' already holds a run; continue it with: glyptic resume ", path, " (or give another --out)");
  fs::create_directories(folder / "checkpoints", error);
  if (error)
    throw MissingFileError(str("cannot make the run folder '", path, "': ", error.message(),
                               "; name one that can be written with --out"));
  // A run that starts must not pick up the weights of another.
  require(!fs::exists(folder / "checkpoints" / "last.safetensors", error), "'", path,
          "' has checkpoints but no config.yaml; remove them or give another --out");
  RunFolder result(path);
  result.created_ = true;
  result.made_ = !existed;
  return result;
}

void RunFolder::discard_unbegun() {
  if (!created_ || has_begun(path_)) return;
  if (metrics_ >= 0) ::close(std::exchange(metrics_, -1));
  std::error_code ignored;  // what cannot be removed stays
  for (const char* name : {"config.yaml", "environment.json", "metrics.jsonl", "log.txt", "checkpoints"})
    fs::remove(file(name), ignored);  // a folder only when it is empty
  fs::remove(file(".lock"), ignored);
  if (made_) fs::remove(path_, ignored);
}

RunFolder RunFolder::open(const std::string& path) {
  std::error_code error;
  if (!fs::exists(fs::path(path) / "config.yaml", error))
    throw MissingFileError(
        str("'", path, "' holds no run: it has no config.yaml; name the folder that `glyptic run` wrote"));
  return RunFolder(path);
}

RunFolder RunFolder::follow(const std::string& path) {
  auto result = open(path);
  result.leads_ = false;
  return result;
}

void RunFolder::lock() {
  if (!leads_) return;
  const auto name = file(".lock");
  lock_ = ::open(name.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644);
  if (lock_ < 0)
    throw MissingFileError(str("cannot write in the run folder '", path_, "': ", reason(),
                               "; make it writable or start a run elsewhere"));
  if (::flock(lock_, LOCK_EX | LOCK_NB) != 0) {
    require(errno == EWOULDBLOCK, "cannot lock '", name, "': ", reason(),
            "; choose a folder on a file system with locks");
    throw ArgumentError(str("another process is running in '", path_, "'; wait for it or stop it"));
  }
  // A run killed while it wrote a file leaves its unfinished copy.
  for (const char* folder : {"", "checkpoints", "extracted"})
    files::AtomicFile::remove_leftovers(file(folder));
}

std::string RunFolder::file(const std::string& name) const {
  return (fs::path(path_) / name).string();
}

bool RunFolder::has(const std::string& name) const {
  std::error_code error;
  return fs::exists(file(name), error);
}

void RunFolder::append_metrics(const std::string& line) {
  if (!leads_) return;
  const auto name = file("metrics.jsonl");
  if (metrics_ < 0) metrics_ = ::open(name.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
  if (metrics_ < 0)
    throw MissingFileError(str("cannot write '", name, "': ", reason(), "; is its folder writable?"));
  const std::string text = line + "\n";
  std::size_t done = 0;
  while (done < text.size()) {
    const auto written = ::write(metrics_, text.data() + done, text.size() - done);
    if (written < 0 && errno == EINTR) continue;
    if (written < 0)
      throw DataError(str("cannot append to '", name, "': ", reason(),
                          "; free some space, then continue with: glyptic resume ", path_));
    done += static_cast<std::size_t>(written);
  }
}

int64_t RunFolder::sync_metrics() {
  if (!leads_) return 0;
  if (metrics_ < 0) {
    std::error_code error;
    const auto size = fs::file_size(file("metrics.jsonl"), error);
    return error ? 0 : static_cast<int64_t>(size);
  }
  // A checkpoint that knows more lines than the disk holds could not be resumed.
  if (::fsync(metrics_) != 0 && errno != EINVAL && errno != ENOTSUP)
    throw DataError(str("cannot write '", file("metrics.jsonl"), "' to the disk: ", reason(),
                        "; mend it, then continue with: glyptic resume ", path_));
  struct stat info {};
  if (::fstat(metrics_, &info) != 0)
    throw DataError(str("cannot read the length of metrics.jsonl: ", reason()));
  return info.st_size;
}

void RunFolder::truncate_metrics(int64_t bytes) {
  if (!leads_) return;
  const auto name = file("metrics.jsonl");
  if (!has("metrics.jsonl")) {
    require<DataError>(bytes == 0, "'", name, "' is missing, but the checkpoint knows ", bytes,
                       " bytes of it; put it back");
    return;
  }
  std::error_code error;
  const auto size = fs::file_size(name, error);
  require<DataError>(!error, "cannot read '", name, "': ", error.message());
  require<DataError>(static_cast<int64_t>(size) >= bytes, "'", name, "' is shorter than the ", bytes,
                     " bytes that the checkpoint knows; something else changed it: put it back");
  if (::truncate(name.c_str(), bytes) != 0) throw DataError(str("cannot truncate '", name, "': ", reason()));
}

std::string environment_json() {
  nlohmann::ordered_json json;
  json["glyptic"] = version();
  json["torch"] = TORCH_VERSION;
  json["torch_built_for"] = built_for_torch();
  json["threads"] = at::get_num_threads();
  if (ranks().several()) json["processes"] = ranks().size;
  json["cuda_devices"] = torch::cuda::is_available() ? static_cast<int64_t>(torch::cuda::device_count()) : 0;
  utsname name{};
  if (::uname(&name) == 0) {
    json["system"] = str(name.sysname, " ", name.release);
    json["machine"] = name.machine;
  }
  std::ifstream cpuinfo("/proc/cpuinfo");
  for (std::string line; std::getline(cpuinfo, line);) {
    if (line.rfind("model name", 0) != 0) continue;
    json["processor"] = line.substr(line.find(':') + 2);
    break;
  }
  json["cpu_capability"] = at::get_cpu_capability();
  return json.dump(2) + "\n";
}

}  // namespace glyptic::experiment

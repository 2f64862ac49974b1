// One file over HTTP, by libcurl. What has arrived lies in `<path>.part`, and `<path>.part.json` says from
// where and of which version, so that the rest can be asked for. A server is believed in nothing: not that it
// honours a range, not that it sends the same file as before, not that it sends all of it.
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <chrono>
#include <filesystem>
#include <memory>
#include <mutex>
#include <nlohmann/json.hpp>
#include <thread>
#include <utility>

#include "../core/files.h"
#include "fetch_internal.h"
#include "glyptic/core/build_info.h"
#include "glyptic/core/log.h"
#include "glyptic/core/safetensors.h"

#include <curl/curl.h>

namespace glyptic::data {

namespace fs = std::filesystem;

namespace {

using Json = nlohmann::ordered_json;
using Clock = std::chrono::steady_clock;

constexpr uint64_t kMostOfUnknownSize = uint64_t{1} << 30;
constexpr int kMostRedirects = 5;
constexpr int kMostAttempts = 100;                        // per address, however well each of them went
constexpr uint64_t kWorthAnotherTry = uint64_t{1} << 20;  // an attempt that brought this much is no failure

std::string trimmed(std::string_view text) {
  const auto first = text.find_first_not_of(" \t\r\n");
  if (first == std::string_view::npos) return "";
  return std::string(text.substr(first, text.find_last_not_of(" \t\r\n") - first + 1));
}

std::string lower(std::string text) {
  for (auto& c : text)
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
  return text;
}

bool read_number(std::string_view text, uint64_t& value) {
  const auto result = std::from_chars(text.data(), text.data() + text.size(), value);
  return result.ec == std::errc() && result.ptr == text.data() + text.size();
}

// "bytes 5-9/10"; total is 0 for "*".
bool read_content_range(const std::string& text, uint64_t& first, uint64_t& last, uint64_t& total) {
  constexpr std::string_view kUnit = "bytes ";
  const auto dash = text.find('-'), slash = text.find('/');
  if (text.compare(0, kUnit.size(), kUnit) != 0 || dash == std::string::npos || slash == std::string::npos ||
      slash < dash)
    return false;
  const std::string_view all = text;
  total = 0;
  return read_number(all.substr(kUnit.size(), dash - kUnit.size()), first) &&
         read_number(all.substr(dash + 1, slash - dash - 1), last) && first <= last &&
         (all.substr(slash + 1) == "*" || (read_number(all.substr(slash + 1), total) && last < total));
}

// What has arrived of a file.
class Part {
 public:
  explicit Part(const std::string& path) : path_(path + ".part"), note_(path + ".part.json") {
    descriptor_ = ::open(path_.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0644);
    if (descriptor_ < 0) files::throw_errno("write", path_, errno);
    struct stat status {};
    if (::fstat(descriptor_, &status) != 0) files::throw_errno("read", path_, errno);
    size_ = static_cast<uint64_t>(status.st_size);
    std::error_code error;
    if (size_ == 0 || !fs::exists(note_, error)) return;
    try {
      constexpr uint64_t kLargestNote = 1 << 16;
      const auto note = Json::parse(read_file(note_, kLargestNote));
      url = note.at("url").get<std::string>();
      validator = note.at("validator").get<std::string>();
    } catch (const std::exception&) {  // a note that cannot be read is no note
      url.clear(), validator.clear();
    }
  }
  ~Part() {
    if (descriptor_ >= 0) ::close(descriptor_);
  }
  Part(const Part&) = delete;
  Part& operator=(const Part&) = delete;

  const std::string& path() const { return path_; }
  uint64_t size() const { return size_; }

  void clear() {
    if (::ftruncate(descriptor_, 0) != 0) files::throw_errno("empty", path_, errno);
    size_ = 0;
    url.clear(), validator.clear();
    std::error_code ignored;
    fs::remove(note_, ignored);
  }
  void begin(const std::string& from, const std::string& version) {
    clear();
    url = from, validator = version;
    write_file_atomically(note_, Json{{"url", url}, {"validator", validator}}.dump() + "\n");
  }
  void append(const char* bytes, std::size_t count) {
    while (count > 0) {
      const auto done = ::pwrite(descriptor_, bytes, count, static_cast<off_t>(size_));
      if (done < 0 && errno == EINTR) continue;
      if (done < 0) files::throw_errno("write", path_, errno);
      bytes += done, count -= static_cast<std::size_t>(done), size_ += static_cast<uint64_t>(done);
    }
  }
  // Under its own name, once its bytes are on the disk.
  void commit(const std::string& path) {
    if (::fsync(descriptor_) != 0) files::throw_errno("write", path_, errno);
    if (::rename(path_.c_str(), path.c_str()) != 0) files::throw_errno("rename", path_, errno);
    std::error_code ignored;
    fs::remove(note_, ignored);
    const int folder = ::open(fs::path(path).parent_path().c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (folder < 0) return;
    static_cast<void>(::fsync(folder) == 0);
    ::close(folder);
  }
  void remove() {
    std::error_code ignored;
    fs::remove(path_, ignored);
    fs::remove(note_, ignored);
  }

  std::string url, validator;  // of what is in it; "" where unknown

 private:
  std::string path_, note_;
  int descriptor_ = -1;
  uint64_t size_ = 0;
};

enum class Outcome { complete, again, from_start, give_up };

// One request and what came of it.
class Transfer {
 public:
  Transfer(CURL* curl, const RemoteFile& file, const std::string& url, Part& part,
           const FetchOptions& options, log::Progress& progress)
      : curl_(curl), file_(file), url_(url), part_(part), options_(options), progress_(progress) {}

  // `resume`: ask for what is missing only.
  Outcome run(bool resume) {
    resume = resume && part_.size() > 0;
    start_ = part_.size();
    begun_ = Clock::now();
    curl_easy_reset(curl_);
    set(CURLOPT_URL, url_.c_str());
    set(CURLOPT_USERAGENT, user_agent().c_str());
    set(CURLOPT_NOSIGNAL, 1L);
    set(CURLOPT_FOLLOWLOCATION, 1L);
    set(CURLOPT_MAXREDIRS, static_cast<long>(kMostRedirects));
    // Never from an encrypted address to one that anybody on the way can change.
    const bool encrypted = lower(url_).starts_with("https:");
    set(CURLOPT_PROTOCOLS_STR, encrypted ? "https" : "http,https");
    set(CURLOPT_REDIR_PROTOCOLS_STR, encrypted ? "https" : "http,https");
    set(CURLOPT_CONNECTTIMEOUT, static_cast<long>(options_.timeout_seconds));
    set(CURLOPT_LOW_SPEED_LIMIT, 1L);
    set(CURLOPT_LOW_SPEED_TIME, static_cast<long>(options_.timeout_seconds));
    set(CURLOPT_ERRORBUFFER, message_);
    set(CURLOPT_HEADERFUNCTION, &Transfer::on_header);
    set(CURLOPT_HEADERDATA, this);
    set(CURLOPT_WRITEFUNCTION, &Transfer::on_body);
    set(CURLOPT_WRITEDATA, this);
    set(CURLOPT_NOPROGRESS, 0L);
    set(CURLOPT_XFERINFOFUNCTION, &Transfer::on_progress);
    set(CURLOPT_XFERINFODATA, this);

    curl_slist* list = nullptr;
    if (resume) {
      set(CURLOPT_RANGE, str(part_.size(), "-").c_str());
      if (!part_.validator.empty())
        list = curl_slist_append(nullptr, ("If-Range: " + part_.validator).c_str());
    }
    const std::unique_ptr<curl_slist, decltype(&curl_slist_free_all)> headers(list, &curl_slist_free_all);
    set(CURLOPT_HTTPHEADER, headers.get());
    asked_for_range_ = resume;
    const auto code = curl_easy_perform(curl_);
    if (failure_) std::rethrow_exception(failure_);  // ours: the disk
    check_stop(options_.stop, str("fetching '", file_.name, "'"));
    return judge(code);
  }

  const std::string& reason() const { return reason_; }
  double retry_after() const { return retry_after_; }
  uint64_t gained() const { return part_.size() > start_ ? part_.size() - start_ : 0; }

 private:
  template <class T>
  void set(CURLoption option, T value) {
    const auto code = curl_easy_setopt(curl_, option, value);
    require<DataError>(code == CURLE_OK, "'", url_, "' cannot be asked for: ", curl_easy_strerror(code));
  }
  static std::string user_agent() { return str("glyptic/", version()); }

  static std::size_t on_header(char* bytes, std::size_t, std::size_t count, void* self) {
    static_cast<Transfer*>(self)->header(std::string_view(bytes, count));
    return count;
  }
  static std::size_t on_body(char* bytes, std::size_t, std::size_t count, void* self) {
    auto& transfer = *static_cast<Transfer*>(self);
    try {
      return transfer.body(bytes, count) ? count : 0;
    } catch (...) {  // not through libcurl
      transfer.failure_ = std::current_exception();
      return 0;
    }
  }
  static int on_progress(void* self, curl_off_t, curl_off_t, curl_off_t, curl_off_t) {
    const auto* stop = static_cast<Transfer*>(self)->options_.stop;
    return stop != nullptr && stop->load() != 0 ? 1 : 0;
  }

  void header(std::string_view line) {
    if (line.starts_with("HTTP/")) {  // of the next response, after a redirect
      etag_.clear(), modified_.clear(), range_.clear(), encoding_.clear();
      answered_ = false;
      return;
    }
    const auto colon = line.find(':');
    if (colon == std::string_view::npos) return;
    const auto name = lower(trimmed(line.substr(0, colon)));
    const auto value = trimmed(line.substr(colon + 1));
    if (name == "etag") etag_ = value;
    if (name == "last-modified") modified_ = value;
    if (name == "content-range") range_ = value;
    if (name == "content-encoding") encoding_ = lower(value);
  }

  long status() const {
    long value = 0;
    curl_easy_getinfo(curl_, CURLINFO_RESPONSE_CODE, &value);
    return value;
  }

  // A weak tag does not promise the same bytes.
  std::string strong_validator() const {
    return etag_.empty() || etag_.starts_with("W/") ? modified_ : etag_;
  }

  // Before the first byte of an answer, or at the end of an empty one. False: the answer is of no use.
  bool accept() {
    answered_ = true;
    const auto code = status();
    if (!encoding_.empty() && encoding_ != "identity") {
      bad_ = str("it answers in the encoding '", encoding_, "' that was not asked for");
      return false;
    }
    if (code == 200) {
      if (asked_for_range_)
        log::debug(str(url_, " sends the whole file instead of the rest; from the start"));
      part_.begin(url_, strong_validator());
      return true;
    }
    if (code != 206) return false;  // judged by its number
    uint64_t first = 0, last = 0, total = 0;
    if (!asked_for_range_) {
      bad_ = "it answers with a part of the file where the whole was asked for";
    } else if (!read_content_range(range_, first, last, total)) {
      bad_range_ =
          str("it does not say which part of the file it sends (Content-Range ", files::quoted(range_), ")");
    } else if (first != part_.size() || (file_.size > 0 && total > 0 && total != file_.size)) {
      bad_range_ = str("it sends another part of the file than was asked for (Content-Range ",
                       files::quoted(range_), ")");
    } else if (!part_.validator.empty() && !strong_validator().empty() &&
               strong_validator() != part_.validator && part_.validator != modified_) {
      bad_range_ = "the file has changed since its first part was fetched";
    }
    return bad_.empty() && bad_range_.empty();
  }

  bool body(const char* bytes, std::size_t count) {
    if (!answered_) usable_ = accept();
    if (!usable_) return false;
    const uint64_t most = file_.size > 0 ? file_.size : kMostOfUnknownSize;
    if (count > most - std::min(most, part_.size())) {
      overrun_ = str("it sends more than the ", most, " bytes that are expected");
      return false;
    }
    part_.append(bytes, count);
    const double seconds = std::chrono::duration<double>(Clock::now() - begun_).count();
    if (seconds > 0 && file_.size > 0)
      progress_.update(
          static_cast<int64_t>(part_.size() / 1000),
          str("kB  ", megabytes(static_cast<uint64_t>(static_cast<double>(gained()) / seconds)), "/s"));
    return true;
  }

  Outcome judge(CURLcode code) {
    const auto number = status();
    if (code == CURLE_OK && !answered_ && (number == 200 || number == 206)) usable_ = accept();
    curl_off_t after = 0;
    curl_easy_getinfo(curl_, CURLINFO_RETRY_AFTER, &after);
    retry_after_ = static_cast<double>(after);
    const auto outcome = [&](Outcome result, const std::string& why) {
      reason_ = why;
      return result;
    };
    if (!bad_.empty()) return outcome(Outcome::give_up, bad_);
    if (!bad_range_.empty()) return outcome(Outcome::from_start, bad_range_);
    if (!overrun_.empty())
      return outcome(asked_for_range_ ? Outcome::from_start : Outcome::give_up, overrun_);
    // The part is as long as the file or longer, and yet not the file.
    if (number == 416 && asked_for_range_)
      return outcome(Outcome::from_start, "it has no more of the file (HTTP 416)");
    if (number >= 400) {
      const bool passing = number == 408 || number == 425 || number == 429 || number >= 500;
      return outcome(passing ? Outcome::again : Outcome::give_up, str("it answers HTTP ", number));
    }
    switch (code) {
      case CURLE_OK:
        break;
      case CURLE_TOO_MANY_REDIRECTS:
        return outcome(Outcome::give_up, str("it redirects more than ", kMostRedirects, " times"));
      case CURLE_UNSUPPORTED_PROTOCOL:
        return outcome(Outcome::give_up, "it redirects to an address that is not encrypted or not HTTP");
      case CURLE_OPERATION_TIMEDOUT:
        return outcome(Outcome::again, str("nothing came for ", options_.timeout_seconds, " s"));
      case CURLE_PARTIAL_FILE:
      case CURLE_GOT_NOTHING:
        return outcome(Outcome::again, str("the connection ended after ", part_.size(), " bytes"));
      case CURLE_COULDNT_RESOLVE_HOST:
      case CURLE_COULDNT_RESOLVE_PROXY:
      case CURLE_COULDNT_CONNECT:
      case CURLE_RECV_ERROR:
      case CURLE_SEND_ERROR:
      case CURLE_SSL_CONNECT_ERROR:
      case CURLE_HTTP2:
      case CURLE_HTTP2_STREAM:
        return outcome(Outcome::again, described(code));
      default:
        return outcome(Outcome::give_up, described(code));
    }
    if (number != 200 && number != 206) return outcome(Outcome::give_up, str("it answers HTTP ", number));
    if (file_.size > 0 && part_.size() < file_.size)
      return outcome(Outcome::again, str("it ends after ", part_.size(), " of ", file_.size, " bytes"));
    return Outcome::complete;
  }

  std::string described(CURLcode code) const {
    std::string text = message_[0] != '\0' ? message_ : curl_easy_strerror(code);
    std::replace(text.begin(), text.end(), '\n', ' ');
    return text;
  }

  CURL* curl_;
  const RemoteFile& file_;
  const std::string& url_;
  Part& part_;
  const FetchOptions& options_;
  log::Progress& progress_;
  uint64_t start_ = 0;
  Clock::time_point begun_;
  char message_[CURL_ERROR_SIZE] = {};
  std::string etag_, modified_, range_, encoding_;
  std::string bad_, bad_range_, overrun_, reason_;
  bool asked_for_range_ = false, answered_ = false, usable_ = false;
  double retry_after_ = 0;
  std::exception_ptr failure_;
};

void wait(double seconds, const FetchOptions& options, const std::string& name) {
  const auto end = Clock::now() + std::chrono::duration<double>(seconds);
  while (Clock::now() < end) {
    check_stop(options.stop, str("waiting to fetch '", name, "' again"));
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  }
}

// True when `part` is now the whole file; otherwise `reason` says why this address does not give it.
bool from_address(CURL* curl, const RemoteFile& file, const std::string& url, Part& part,
                  const FetchOptions& options, log::Progress& progress, bool& own, std::string& reason) {
  constexpr double kLongestWait = 30, kLongestObeyed = 120;
  bool from_start = false;
  int failures = 0;
  for (int attempt = 0; attempt < kMostAttempts; ++attempt) {
    // Without a checksum nothing would notice bytes of another version, or those that a power cut left behind
    // in a part of an earlier process.
    const bool same = part.url == url && !part.validator.empty();
    const bool resume = !from_start && (file.checksum.known() || (own && same));
    if (!resume) part.clear();
    // Only the address that gave the first part knows its validator.
    if (part.url != url) part.validator.clear();
    const bool resumed = part.size() > 0;
    own = true;
    Transfer transfer(curl, file, url, part, options, progress);
    auto outcome = transfer.run(resume);
    reason = transfer.reason();
    if (outcome == Outcome::complete) {
      reason = difference(file, part.path(), options.stop);
      if (reason.empty()) return true;
      if (!resumed) {
        part.clear();
        return false;
      }
      outcome = Outcome::from_start;
    }
    if (outcome == Outcome::give_up) return false;
    if (outcome == Outcome::from_start) {
      if (from_start) return false;
      log::info(str(file.name, ": ", reason, "; from the start"));
      from_start = true;
      part.clear();
      continue;
    }
    // What this attempt brought is from the start, so the next one may continue it.
    if (transfer.gained() > 0) from_start = false;
    failures = transfer.gained() >= kWorthAnotherTry ? 1 : failures + 1;
    if (failures > options.retries) return false;
    double seconds = options.wait_seconds;
    for (int i = 1; i < failures && seconds < kLongestWait; ++i) seconds *= 2;
    seconds = std::min(seconds, kLongestWait);
    if (transfer.retry_after() > 0)
      seconds = std::min(std::max(seconds, transfer.retry_after()), kLongestObeyed);
    log::warn(
        str(file.name, ": ", reason, "; again in ", seconds, " s (", failures, " of ", options.retries, ")"));
    wait(seconds, options, file.name);
  }
  return false;
}

}  // namespace

std::string download(const RemoteFile& file, const std::vector<std::string>& urls, const std::string& path,
                     const FetchOptions& options) {
  static std::once_flag once;
  std::call_once(once, [] { curl_global_init(CURL_GLOBAL_DEFAULT); });
  const std::unique_ptr<CURL, decltype(&curl_easy_cleanup)> curl(curl_easy_init(), &curl_easy_cleanup);
  require<Error>(curl != nullptr, "libcurl cannot be initialized");

  Part part(path);
  bool own = false;  // whether the part is of this process
  if (part.size() > 0 && file.checksum.known()) {
    // Killed between the last byte and the rename; or not what it seems.
    if (difference(file, part.path(), options.stop).empty()) {
      part.commit(path);
      return part.url;
    }
    if (file.size > 0 && part.size() >= file.size) part.clear();
  }
  if (part.size() > 0 && file.checksum.known())
    log::info(str("continuing '", file.name, "' after ", megabytes(part.size())));

  log::Progress progress(file.name, static_cast<int64_t>(file.size / 1000));
  std::string reasons;
  for (const auto& url : urls) {
    std::string reason;
    log::info(str("fetching ", url, file.size > 0 ? str(" (", megabytes(file.size), ")") : ""));
    if (from_address(curl.get(), file, url, part, options, progress, own, reason)) {
      part.commit(path);
      return url;
    }
    reasons += str(reasons.empty() ? "" : "; ", url, ": ", reason);
    if (&url != &urls.back()) log::warn(str(url, ": ", reason, "; trying the next address"));
  }
  if (part.size() == 0) part.remove();
  throw DataError(str("'", file.name, "' could not be fetched: ", reasons,
                      part.size() > 0 ? "; what came is kept, the same command continues" : "",
                      " (--mirror takes another address)"));
}

}  // namespace glyptic::data

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <memory>
#include <vector>

#include "../core/files.h"
#include "fetch_internal.h"

#include <openssl/evp.h>

namespace glyptic::data {

bool can_fetch() {
  return true;
}

std::string file_hash(const std::string& path, const std::string& kind, const std::atomic<int>* stop) {
  require(kind == "sha256" || kind == "md5", "the checksum is of kind '", kind, "', expected sha256 or md5");
  const std::unique_ptr<EVP_MD_CTX, decltype(&EVP_MD_CTX_free)> context(EVP_MD_CTX_new(), &EVP_MD_CTX_free);
  require<Error>(
      context && EVP_DigestInit_ex(context.get(), kind == "md5" ? EVP_md5() : EVP_sha256(), nullptr) == 1,
      "OpenSSL cannot compute ", kind, " here");
  struct Descriptor {
    int number;
    ~Descriptor() { ::close(number); }
  } const file{::open(path.c_str(), O_RDONLY | O_CLOEXEC)};
  if (file.number < 0) files::throw_errno("open", path, errno);
  std::vector<unsigned char> buffer(std::size_t{1} << 20);
  for (;;) {
    check_stop(stop, str("reading '", path, "'"));
    const auto got = ::read(file.number, buffer.data(), buffer.size());
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) files::throw_errno("read", path, errno);
    if (got == 0) break;
    EVP_DigestUpdate(context.get(), buffer.data(), static_cast<std::size_t>(got));
  }
  unsigned char digest[EVP_MAX_MD_SIZE];
  unsigned int length = 0;
  EVP_DigestFinal_ex(context.get(), digest, &length);
  constexpr char kHex[] = "0123456789abcdef";
  std::string hex;
  for (unsigned int i = 0; i < length; ++i) hex += {kHex[digest[i] >> 4], kHex[digest[i] & 15]};
  return hex;
}

}  // namespace glyptic::data

// Stands in for fetch_hash.cpp, fetch_http.cpp and fetch_unpack.cpp where their libraries were not found.
#include "fetch_internal.h"

namespace glyptic::data {

bool can_fetch() {
  return false;
}

std::string file_hash(const std::string&, const std::string&, const std::atomic<int>*) {
  refuse_without_libraries();
}

std::string download(const RemoteFile&, const std::vector<std::string>&, const std::string&,
                     const FetchOptions&) {
  refuse_without_libraries();
}

std::vector<std::string> unpack_archive(const std::string&, const std::string&, uint64_t, uint64_t,
                                        const std::string&, const std::atomic<int>*) {
  refuse_without_libraries();
}

}  // namespace glyptic::data

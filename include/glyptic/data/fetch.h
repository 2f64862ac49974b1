// Published data sets: where they lie, how large they are, with which checksums, and how they come into a
// folder whole or not at all. A catalogue (JSON, see docs/data.md) lists them; one is built in.
//
// A download is written to `<name>.part`. It gets its name only when its length and checksum are right, so
// that a file with the right name is a whole file. Archives are unpacked beside their place and moved there
// once complete.
#pragma once

#include <atomic>
#include <cstdint>
#include <string>
#include <vector>

namespace glyptic::data {

struct Checksum {
  std::string kind;  ///< "sha256", "md5", or "" where none is known ("not yet verified")
  std::string hex;   ///< lower case
  bool known() const { return !kind.empty(); }
};

struct RemoteFile {
  std::string name;               ///< in the set's folder
  std::vector<std::string> urls;  ///< tried in this order
  uint64_t size = 0;              ///< bytes; 0 where it is not known
  Checksum checksum;
  std::string unpack;           ///< "" (kept as it is), "tar" (any compression), "zip" or "gzip" (one file)
  uint64_t unpacked_bytes = 0;  ///< an archive that holds more is refused
  uint64_t unpacked_files = 0;  ///< the same for its number of entries
};

struct RemoteSet {
  std::string name;     ///< also the folder below the root
  std::string title;    ///< one line
  std::string licence;  ///< as its publisher states it
  std::string source;   ///< the publisher's page
  std::string use;      ///< options of a config that read it, "" where nothing here does yet
  std::vector<RemoteFile> files;
  uint64_t bytes() const;  ///< of all downloads whose size is known
};

/// The built-in sets, by name.
const std::vector<RemoteSet>& catalogue();

/// A catalogue out of JSON. DataError naming `where`, the set and the field for anything that is not as
/// documented: unsafe names, a hash of the wrong length, http without SHA-256, an archive without limits.
std::vector<RemoteSet> parse_catalogue(const std::string& json, const std::string& where);

/// ArgumentError with did-you-mean.
const RemoteSet& find_set(const std::vector<RemoteSet>& sets, const std::string& name);

/// Where `fetch` puts data and where the readers look first: $GLYPTIC_DATA, else $XDG_DATA_HOME/glyptic, else
/// ~/.local/share/glyptic.
std::string default_data_root();

struct FetchOptions {
  std::string root;    ///< the set goes to <root>/<set>
  std::string mirror;  ///< asked for <mirror>/<set>/<file> in place of the catalogue's addresses
  bool keep_archives = false;
  bool force = false;        ///< replaces files that are there with other content
  int timeout_seconds = 30;  ///< without a byte, or to connect
  int retries = 5;           ///< per address, in a row without progress
  double wait_seconds =
      1;  ///< before the first retry; doubles up to 30 s. A server's Retry-After counts more
  const std::atomic<int>* stop = nullptr;  ///< the number of a signal ends the transfer; it can be resumed
};

/// False when the library was built without libcurl, libarchive and OpenSSL: `fetch` and `verify` then throw
/// an ArgumentError that says so.
bool can_fetch();

/// Downloads what is missing, checks it, unpacks it, and records addresses and SHA-256 in
/// <root>/<set>/fetched.json. Does nothing but check where all is there. ArgumentError when another process
/// fetches the same set; DataError when no address gave the right bytes, an archive is refused, or the disk
/// is full; Interrupted.
void fetch(const RemoteSet& set, const FetchOptions& options);

struct VerifiedFile {
  std::string path;
  bool good = false;
  std::string what;  ///< "sha256 as published", "missing", "md5 is ..., expected ..."
};
/// Reads every file of the set again. What has no published checksum is held against fetched.json.
std::vector<VerifiedFile> verify(const RemoteSet& set, const std::string& root,
                                 const std::atomic<int>* stop = nullptr);

/// Unpacks into `folder`, which must be empty, and returns the files' relative paths, sorted. Absolute paths,
/// "..", links, devices, names given twice and everything above the limits are DataErrors, and nothing
/// outside `folder` is ever written. `kind` as RemoteFile::unpack.
std::vector<std::string> unpack_archive(const std::string& archive, const std::string& kind,
                                        uint64_t most_bytes, uint64_t most_entries, const std::string& folder,
                                        const std::atomic<int>* stop = nullptr);

/// Hex digest of a file; `kind` is "sha256" or "md5".
std::string file_hash(const std::string& path, const std::string& kind,
                      const std::atomic<int>* stop = nullptr);

}  // namespace glyptic::data

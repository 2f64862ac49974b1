// safetensors files (https://github.com/huggingface/safetensors): the format of every checkpoint and result.
// Reading maps the file and validates everything before anything is allocated; no code runs.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "glyptic/core/named_tensor.h"

namespace glyptic {

class SafeTensors {
 public:
  /// MissingFileError when it cannot be opened; DataError (file, what, byte offset, how to mend) when it is
  /// damaged: header length beyond the file or the 100 MB limit, bad UTF-8 or JSON, duplicate keys, unknown
  /// dtype, negative or overflowing shape, offsets out of order, overlapping, leaving gaps, not matching the
  /// shape, trailing bytes, or, in our own files, a header that does not match its checksum.
  explicit SafeTensors(const std::string& path);

  struct Info {
    std::string name;
    std::string dtype;  ///< "F32", "BF16", "BOOL", ...
    std::vector<int64_t> shape;
    uint64_t begin = 0, end = 0;  ///< bytes, from the start of the data
  };
  const std::vector<Info>& infos() const;                      ///< in file (offset) order
  const std::map<std::string, std::string>& metadata() const;  ///< without the checksum
  /// Whether the file was written by `save_safetensors`: then every byte of it is covered by a checksum, and
  /// what is read is what was saved or a DataError.
  bool has_checksum() const;
  bool contains(const std::string& name) const;
  /// An aligned copy in torch's own storage, checked against its checksum where the file has one.
  /// ArgumentError with did-you-mean for an unknown name.
  at::Tensor tensor(const std::string& name) const;
  /// All of them, in the order of the header: for our own files the order in which they were saved.
  NamedTensors tensors() const;

 private:
  struct Impl;
  std::shared_ptr<const Impl> impl_;
};

/// Writes to a temporary file beside `path`, fsyncs it, renames it, fsyncs the folder: at any moment `path`
/// is either the old file or the complete new one (a symbolic link stays, its target is replaced; permissions
/// stay). Tensors are written contiguous, from any device; the header lists them in the given order, the data
/// hold wide items first so that every tensor is aligned, and the metadata's entry `glyptic.crc32` holds the
/// CRC-32 of the header and of every tensor (other readers ignore it). ArgumentError for what the format
/// cannot hold (complex, sparse, names that are not UTF-8), MissingFileError where nothing can be written,
/// DataError when the disk is full.
void save_safetensors(const std::string& path, const NamedTensors& tensors,
                      const std::map<std::string, std::string>& metadata = {});

/// The same guarantee for any bytes.
void write_file_atomically(const std::string& path, const std::string& bytes);

/// The whole file. MissingFileError / DataError (over `limit` bytes).
std::string read_file(const std::string& path, uint64_t limit = uint64_t{1} << 30);

}  // namespace glyptic

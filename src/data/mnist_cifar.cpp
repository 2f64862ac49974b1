// The two oldest formats of the field: IDX (MNIST) and fixed records (CIFAR).
#include <sys/stat.h>
#include <torch/torch.h>
#include <zlib.h>

#include <cerrno>

#include "../core/files.h"
#include "glyptic/core/error.h"
#include "glyptic/core/named_tensor.h"
#include "glyptic/data/dataset.h"
#include "internal.h"

namespace glyptic::data {

bool present(const std::string& path) {
  struct stat status;
  return ::stat(path.c_str(), &status) == 0 || (errno != ENOENT && errno != ENOTDIR);
}

namespace {

constexpr const char* kAgain = "; the file is damaged or of another kind: fetch it again";

// The bytes of a file, inflated where it is gzip, handed out in the order of the file and never more than
// asked.
class ByteSource {
 public:
  explicit ByteSource(const std::string& path) : file_(path) {
    gzip_ = file_.size() >= 2 && file_.data()[0] == 0x1F && file_.data()[1] == 0x8B;
    if (!gzip_) return;
    constexpr int kGzipWindow = 15 + 16;
    require<Error>(inflateInit2(&stream_, kGzipWindow) == Z_OK, "zlib cannot be initialized");
  }
  ~ByteSource() {
    if (gzip_) inflateEnd(&stream_);
  }
  ByteSource(const ByteSource&) = delete;
  ByteSource& operator=(const ByteSource&) = delete;

  /// The most that may still follow: exact for a plain file, else what deflate can reach (1032 : 1).
  uint64_t most_left() const {
    const uint64_t left = file_.size() - consumed_;
    return gzip_ ? 1032 * file_.size() : left;
  }
  bool gzip() const { return gzip_; }

  /// Whether a gzip file really unpacks to `count` bytes and no fewer, found by unpacking it to nowhere.
  bool unpacks_to(uint64_t count) const {
    ByteSource again(file_.path());
    std::vector<unsigned char> nowhere(std::size_t{1} << 16);
    for (uint64_t done = 0; done < count;) {
      const auto got = again.inflate_some(nowhere.data(), std::min<uint64_t>(nowhere.size(), count - done));
      if (got == 0) return false;
      done += got;
    }
    return true;
  }

  void read(void* target, uint64_t count, const char* what) {
    file_.check_size();
    auto* out = static_cast<unsigned char*>(target);
    for (uint64_t done = 0; done < count;) {
      const uint64_t got =
          gzip_ ? inflate_some(out + done, count - done) : copy_some(out + done, count - done);
      if (got == 0) fail(str("the file ends after ", done, " of the ", count, " bytes of ", what));
      done += got;
      delivered_ += got;
    }
  }

  void expect_end() {
    unsigned char extra;
    if (gzip_ ? inflate_some(&extra, 1) != 0 : consumed_ < file_.size())
      fail("more bytes follow than the dimensions claim");
    if (consumed_ < file_.size()) fail("bytes follow the end of the compressed data");
  }

  /// DataError at the present place.
  [[noreturn]] void fail(const std::string& what) const {
    throw DataError(str("'", file_.path(), "', byte ", consumed_, ": ", what, kAgain));
  }

 private:
  uint64_t copy_some(unsigned char* out, uint64_t count) {
    const uint64_t got = std::min(count, file_.size() - consumed_);
    if (got > 0) std::memcpy(out, file_.data() + consumed_, got);
    consumed_ += got;
    return got;
  }

  uint64_t inflate_some(unsigned char* out, uint64_t count) {
    constexpr uint64_t kChunk = uint64_t{1} << 30;  // zlib counts in 32 bits
    const auto room = static_cast<uInt>(std::min(count, kChunk));
    stream_.next_out = out;
    stream_.avail_out = room;
    while (!ended_ && stream_.avail_out == room) {
      stream_.next_in = const_cast<unsigned char*>(file_.data()) + consumed_;
      stream_.avail_in = static_cast<uInt>(std::min(file_.size() - consumed_, kChunk));
      const uInt before = stream_.avail_in;
      const int status = inflate(&stream_, Z_NO_FLUSH);
      consumed_ += before - stream_.avail_in;
      if (status == Z_STREAM_END) {
        ended_ = true;
      } else if (status == Z_BUF_ERROR) {
        fail(str("the compressed data end early, ", delivered_, " bytes in"));
      } else if (status != Z_OK) {
        fail(str("the compressed data are damaged (", stream_.msg ? stream_.msg : "zlib error", ")"));
      }
    }
    return room - stream_.avail_out;
  }

  files::MappedFile file_;
  bool gzip_ = false, ended_ = false;
  z_stream stream_{};
  uint64_t consumed_ = 0, delivered_ = 0;
};

// The first of the usual names of a file that is in the folder.
std::string find_idx(const std::string& folder, const std::string& part, const std::string& kind) {
  const std::string names[] = {part + "-" + kind + "-ubyte", part + "-" + kind + "-ubyte.gz",
                               // some archives unpack with a point
                               part + "-" + kind.substr(0, 6) + "." + kind.substr(7) + "-ubyte",
                               part + "-" + kind.substr(0, 6) + "." + kind.substr(7) + "-ubyte.gz"};
  for (const auto& name : names)
    if (present(folder + "/" + name)) return folder + "/" + name;
  throw MissingFileError(str("no '", names[0], "' (or .gz) in '", folder,
                             "'; MNIST is four such files, name the folder that holds them"));
}

// Records of `labels` label bytes (the last one counts) and 3 x 32 x 32 pixels.
void read_records(const std::string& path, int labels, int64_t classes, std::vector<at::Tensor>& images,
                  std::vector<at::Tensor>& targets) {
  constexpr uint64_t kPixels = 3 * 32 * 32;
  const files::MappedFile file(path);
  const uint64_t record = static_cast<uint64_t>(labels) + kPixels;
  if (file.size() == 0 || file.size() % record != 0)
    throw DataError(str("'", path, "', byte ", file.size() / record * record, ": ", file.size(),
                        " bytes are not a whole number of records of ", record, kAgain));
  const uint64_t count = file.size() / record;
  auto pixels = at::empty({static_cast<int64_t>(count), 3, 32, 32}, at::kByte);
  auto target = at::empty({static_cast<int64_t>(count)}, at::kLong);
  for (uint64_t i = 0; i < count; ++i) {
    const auto* at = file.data() + i * record;
    const int64_t label = at[labels - 1];
    if (label >= classes)
      throw DataError(str("'", path, "', byte ", i * record + static_cast<uint64_t>(labels) - 1, ": label ",
                          label, " is not in 0 to ", classes - 1, kAgain));
    target.data_ptr<int64_t>()[i] = label;
    std::memcpy(pixels.data_ptr<uint8_t>() + i * kPixels, at + labels, kPixels);
  }
  images.push_back(std::move(pixels));
  targets.push_back(std::move(target));
}

}  // namespace

at::Tensor read_idx(const std::string& path) {
  ByteSource source(path);
  unsigned char magic[4];
  source.read(magic, 4, "the magic number");
  if (magic[0] != 0 || magic[1] != 0)
    source.fail(
        str("the magic number starts with ", int{magic[0]}, " ", int{magic[1]}, ", an IDX file with 0 0"));
  if (magic[2] != 0x08)
    source.fail(
        str("the elements are of IDX type ", int{magic[2]}, ", only 8 (unsigned bytes) is read here"));
  const int rank = magic[3];
  if (rank < 1 || rank > 64) source.fail(str("the file has ", rank, " dimensions, expected 1 to 64"));
  std::vector<int64_t> shape;
  uint64_t total = 1;
  bool empty = false;
  for (int d = 0; d < rank; ++d) {
    unsigned char size[4];
    source.read(size, 4, "a dimension");
    const uint64_t value =
        uint64_t{size[0]} << 24 | uint64_t{size[1]} << 16 | uint64_t{size[2]} << 8 | size[3];
    shape.push_back(static_cast<int64_t>(value));
    empty = empty || value == 0;
    // Zeros are left out, so that torch's strides cannot overflow either.
    if (value > 0 &&
        (__builtin_mul_overflow(total, value, &total) || total > static_cast<uint64_t>(INT64_MAX)))
      source.fail(str("dimensions ", shape_string(shape), " are too large to exist"));
  }
  const uint64_t bytes = empty ? 0 : total;
  if (source.gzip() ? bytes > source.most_left() : bytes != source.most_left())
    source.fail(str("dimensions ", shape_string(shape), " need ", bytes, " bytes, ",
                    source.gzip() ? "so many compressed bytes hold at most " : "the file has ",
                    source.most_left()));
  // A few compressed bytes may claim a thousand times as many: large claims are looked into before they cost
  // memory.
  constexpr uint64_t kSmall = uint64_t{1} << 24;
  if (source.gzip() && bytes > kSmall && !source.unpacks_to(4 + 4 * static_cast<uint64_t>(rank) + bytes))
    source.fail(
        str("dimensions ", shape_string(shape), " need ", bytes, " bytes, but the file unpacks to fewer"));
  auto result = at::empty(shape, at::kByte);
  source.read(result.data_ptr(), bytes, "the elements");
  source.expect_end();
  return result;
}

std::shared_ptr<MemoryDataset> read_mnist(const std::string& folder, bool train) {
  const std::string part = train ? "train" : "t10k";
  const auto image_path = find_idx(folder, part, "images-idx3");
  const auto label_path = find_idx(folder, part, "labels-idx1");
  const auto images = read_idx(image_path);
  require<DataError>(images.dim() == 3 && images.numel() > 0, "'", image_path, "' has shape ",
                     shape_string(images.sizes()), ", expected [N, H, W]", kAgain);
  const auto labels = read_idx(label_path);
  require<DataError>(labels.dim() == 1, "'", label_path, "' has shape ", shape_string(labels.sizes()),
                     ", expected [N]", kAgain);
  require<DataError>(labels.size(0) == images.size(0), "'", image_path, "' holds ", images.size(0),
                     " images and '", label_path, "' ", labels.size(0),
                     " labels; take both from the same set");
  const auto* values = labels.const_data_ptr<uint8_t>();
  for (int64_t i = 0; i < labels.size(0); ++i)
    require<DataError>(values[i] < 10, "'", label_path, "', byte ", 8 + i, " (unpacked): label ",
                       int{values[i]}, " is not in 0 to 9", kAgain);
  const int64_t whole = train ? 60000 : 10000;
  const auto size = images.size(0) == whole
                        ? str("MNIST (", grouped(whole))
                        : str("MNIST subset (", grouped(images.size(0)), " of ", grouped(whole));
  return std::make_shared<MemoryDataset>(images.unsqueeze(1), labels.to(at::kLong), 10,
                                         str(size, train ? " train" : " test", " images, ", folder, ")"));
}

std::shared_ptr<MemoryDataset> read_cifar(const std::string& folder, bool train, int classes) {
  require(classes == 10 || classes == 100, "read_cifar: classes is ", classes, ", expected 10 or 100");
  const std::string inner = folder + (classes == 10 ? "/cifar-10-batches-bin" : "/cifar-100-binary");
  std::vector<std::string> names;
  if (classes == 100) {
    names = {train ? "train.bin" : "test.bin"};
  } else if (train) {
    for (int k = 1; k <= 5; ++k) names.push_back(str("data_batch_", k, ".bin"));
  } else {
    names = {"test_batch.bin"};
  }
  const auto where = present(folder + "/" + names[0]) || !present(inner) ? folder : inner;
  std::vector<at::Tensor> images, labels;
  for (const auto& name : names) {
    const auto path = where + "/" + name;
    require<MissingFileError>(present(path), "no '", name, "' in '", where,
                              "'; name the folder that holds the binary ", "version of CIFAR-", classes,
                              " (https://www.cs.toronto.edu/~kriz/cifar.html)");
    read_records(path, classes == 10 ? 1 : 2, classes, images, labels);
  }
  const auto all = at::cat(images);
  return std::make_shared<MemoryDataset>(all, at::cat(labels), classes,
                                         str("CIFAR-", classes, " (", grouped(all.size(0)),
                                             train ? " train" : " test", " images, ", where, ")"));
}

}  // namespace glyptic::data

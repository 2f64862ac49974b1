#include "glyptic/core/safetensors.h"

#include <torch/torch.h>
#include <zlib.h>

#include <bit>
#include <cstring>
#include <nlohmann/json.hpp>
#include <unordered_map>

#include "files.h"
#include "glyptic/core/error.h"

namespace glyptic {
namespace {

static_assert(std::endian::native == std::endian::little,
              "safetensors data are little-endian and are copied as such");

constexpr uint64_t kHeaderLimit = 100'000'000;  // the format's own
constexpr std::size_t kRankLimit = 64;          // torch's own
constexpr const char* kMetadata = "__metadata__";

// The format has no checksum. Our files carry one in their metadata, which other readers ignore: CRC-32 (of
// zlib) as eight hexadecimal digits, first of the length and the header with these eight digits as zeros,
// then of every tensor's bytes in the order of the header. It is the first thing in the file, at a fixed
// place.
constexpr const char* kChecksum = "glyptic.crc32";
constexpr std::string_view kChecksumPrefix = R"({"__metadata__":{"glyptic.crc32":")";
constexpr std::size_t kDigits = 8;

uint32_t crc32_of(const void* bytes, std::size_t count, uint32_t so_far = 0) {
  return static_cast<uint32_t>(::crc32_z(so_far, static_cast<const Bytef*>(bytes), count));
}

std::string hex(uint32_t value) {
  constexpr char kHex[] = "0123456789abcdef";
  std::string digits(kDigits, '0');
  for (std::size_t i = 0; i < kDigits; ++i) digits[kDigits - 1 - i] = kHex[value >> (4 * i) & 15];
  return digits;
}

// Of length and header; `header` begins with kChecksumPrefix.
uint32_t header_checksum(const char* header, uint64_t size) {
  constexpr auto kAt = kChecksumPrefix.size();
  auto crc = crc32_of(&size, sizeof size);
  crc = crc32_of(header, kAt, crc);
  crc = crc32_of("00000000", kDigits, crc);
  return crc32_of(header + kAt + kDigits, size - kAt - kDigits, crc);
}

struct Dtype {
  const char* name;
  at::ScalarType type;
  uint64_t size;
};
constexpr Dtype kDtypes[] = {
    {"BOOL", at::kBool, 1},
    {"U8", at::kByte, 1},
    {"I8", at::kChar, 1},
    {"I16", at::kShort, 2},
    {"U16", at::kUInt16, 2},
    {"I32", at::kInt, 4},
    {"U32", at::kUInt32, 4},
    {"I64", at::kLong, 8},
    {"U64", at::kUInt64, 8},
    {"F16", at::kHalf, 2},
    {"BF16", at::kBFloat16, 2},
    {"F32", at::kFloat, 4},
    {"F64", at::kDouble, 8},
    {"F8_E4M3", at::kFloat8_e4m3fn, 1},
    {"F8_E5M2", at::kFloat8_e5m2, 1},
};

const Dtype* find_dtype(const std::string& name) {
  for (const auto& dtype : kDtypes)
    if (name == dtype.name) return &dtype;
  return nullptr;
}

const Dtype* find_dtype(at::ScalarType type) {
  for (const auto& dtype : kDtypes)
    if (type == dtype.type) return &dtype;
  return nullptr;
}

std::string dtype_names() {
  std::string names;
  for (const auto& dtype : kDtypes) names += (names.empty() ? "" : " ") + std::string(dtype.name);
  return names;
}

// Bytes of the header, counted as the parser consumes them, so that messages can say where.
class CountingIterator {
 public:
  using iterator_category = std::input_iterator_tag;
  using value_type = char;
  using difference_type = std::ptrdiff_t;
  using pointer = const char*;
  using reference = const char&;

  CountingIterator(const char* at, uint64_t* count) : at_(at), count_(count) {}
  reference operator*() const { return *at_; }
  CountingIterator& operator++() {
    ++at_;
    ++*count_;
    return *this;
  }
  CountingIterator operator++(int) {
    auto before = *this;
    ++*this;
    return before;
  }
  bool operator==(const CountingIterator& other) const { return at_ == other.at_; }
  bool operator!=(const CountingIterator& other) const { return at_ != other.at_; }

 private:
  const char* at_;
  uint64_t* count_;
};

struct Entry {
  SafeTensors::Info info;
  uint64_t at = 0;  // byte of the file where the header speaks of it
  const Dtype* dtype = nullptr;
};

struct Header {
  std::vector<Entry> entries;  // as listed
  std::unordered_map<std::string, std::size_t> index;
  std::map<std::string, std::string> metadata;
};

// Receives the parser's events. Whatever is not of the one allowed form throws at once, so nothing is kept
// that was not checked, and nesting ends at the fourth bracket.
class HeaderReader {
 public:
  using json = nlohmann::json;

  HeaderReader(const std::string& path, const uint64_t* consumed, Header& header)
      : path_(path), consumed_(consumed), header_(header) {}

  [[noreturn]] void fail(const std::string& what) const { fail_at(8 + *consumed_, what); }
  [[noreturn]] void fail_at(uint64_t byte, const std::string& what) const {
    throw DataError(str("'", path_, "', byte ", byte, ": ", what,
                        "; the file is damaged or not safetensors: fetch or save it again"));
  }

  bool start_object(std::size_t) {
    switch (state_) {
      case State::top:
        state_ = State::header;
        return true;
      case State::header:
        state_ = key_ == kMetadata ? State::metadata : State::entry;
        if (state_ == State::entry) {
          has_dtype_ = has_shape_ = has_offsets_ = false;
          offsets_.clear();
        }
        return true;
      default:
        fail(str("an object inside ", place()));
    }
  }

  bool key(std::string& name) {
    switch (state_) {
      case State::header:
        key_ = name;
        if (name == kMetadata) {
          if (seen_metadata_) fail("two entries are called '__metadata__'");
          seen_metadata_ = true;
          return true;
        }
        if (!header_.index.emplace(name, header_.entries.size()).second)
          fail(str("two tensors are called ", files::quoted(name)));
        header_.entries.emplace_back();
        header_.entries.back().info.name = name;
        header_.entries.back().at = 8 + *consumed_;
        return true;
      case State::entry: {
        bool* has = name == "dtype"          ? &has_dtype_
                    : name == "shape"        ? &has_shape_
                    : name == "data_offsets" ? &has_offsets_
                                             : nullptr;
        if (!has) fail(str(place(), " has the unknown field ", files::quoted(name)));
        if (*has) fail(str(place(), " has two fields ", files::quoted(name)));
        *has = true;
        field_ = name;
        return true;
      }
      default:
        field_ = name;
        if (header_.metadata.count(name)) fail(str("two metadata entries are called ", files::quoted(name)));
        return true;
    }
  }

  bool string(std::string& value) {
    if (state_ == State::metadata) {
      header_.metadata.emplace(field_, value);
      return true;
    }
    if (state_ == State::entry && field_ == "dtype") {
      auto& entry = header_.entries.back();
      entry.dtype = find_dtype(value);
      if (!entry.dtype)
        fail(str(place(), " has the unknown dtype ", files::quoted(value), " (known: ", dtype_names(), ")"));
      entry.info.dtype = value;
      return true;
    }
    fail(str("a string where none is expected, in ", place()));
  }

  bool start_array(std::size_t) {
    if (state_ == State::entry && field_ == "shape") {
      state_ = State::shape;
    } else if (state_ == State::entry && field_ == "data_offsets") {
      state_ = State::offsets;
    } else {
      fail(str("a list where none is expected, in ", place()));
    }
    return true;
  }

  bool number_unsigned(uint64_t value) {
    if (state_ == State::shape) {
      auto& shape = header_.entries.back().info.shape;
      if (shape.size() == kRankLimit) fail(str(place(), " has more than ", kRankLimit, " dimensions"));
      if (value > static_cast<uint64_t>(INT64_MAX)) fail(str(place(), " has the impossible size ", value));
      shape.push_back(static_cast<int64_t>(value));
      return true;
    }
    if (state_ == State::offsets) {
      if (offsets_.size() == 2) fail(str(place(), " has more than two data_offsets"));
      offsets_.push_back(value);
      return true;
    }
    fail(str("a number where none is expected, in ", place()));
  }
  bool number_integer(int64_t value) { fail(str("the negative number ", value, " in ", place())); }
  bool number_float(double, const std::string& text) {
    fail(str("the number ", files::quoted(text), " in ", place(), " is not a whole one below 2^64"));
  }
  bool null() { fail(str("null in ", place())); }
  bool boolean(bool) { fail(str("true or false in ", place())); }
  bool binary(json::binary_t&) { fail("binary data in the header"); }

  bool end_array() {
    state_ = State::entry;
    return true;
  }
  bool end_object() {
    if (state_ == State::entry) {
      if (!has_dtype_ || !has_shape_ || !has_offsets_)
        fail(str(place(), " has no ", !has_dtype_ ? "dtype" : !has_shape_ ? "shape" : "data_offsets"));
      if (offsets_.size() != 2) fail(str(place(), " has ", offsets_.size(), " data_offsets, expected 2"));
      auto& info = header_.entries.back().info;
      info.begin = offsets_[0];
      info.end = offsets_[1];
    }
    state_ = state_ == State::header ? State::done : State::header;
    return true;
  }
  // What the exception says may quote bytes of the file; where it happened says as much on one clean line.
  bool parse_error(std::size_t, const std::string&, const nlohmann::detail::exception&) {
    fail("the header is not valid JSON in UTF-8 from about here on");
  }

 private:
  enum class State { top, header, entry, shape, offsets, metadata, done };

  std::string place() const {
    switch (state_) {
      case State::top:
      case State::done:
        return "the header";
      case State::header:
        return str("the entry ", files::quoted(key_));
      case State::metadata:
        return "__metadata__";
      default:
        return str("tensor ", files::quoted(header_.entries.back().info.name));
    }
  }

  const std::string& path_;
  const uint64_t* consumed_;
  Header& header_;
  State state_ = State::top;
  std::string key_, field_;
  bool has_dtype_ = false, has_shape_ = false, has_offsets_ = false, seen_metadata_ = false;
  std::vector<uint64_t> offsets_;
};

// Bytes of a tensor; nullopt when the product of the sizes leaves int64, even where a zero would hide it:
// torch computes strides from the same numbers.
std::optional<uint64_t> bytes_of(const std::vector<int64_t>& shape, uint64_t item) {
  uint64_t product = item;
  bool empty = false;
  for (const int64_t size : shape) {
    if (size == 0) {
      empty = true;
    } else if (__builtin_mul_overflow(product, static_cast<uint64_t>(size), &product) ||
               product > static_cast<uint64_t>(INT64_MAX)) {
      return std::nullopt;
    }
  }
  return empty ? 0 : product;
}

}  // namespace

struct SafeTensors::Impl {
  explicit Impl(const std::string& path) : file(path) {}

  files::MappedFile file;
  uint64_t data_begin = 0;
  std::vector<Info> infos;
  std::vector<std::size_t> listed;  // positions in infos, in the order of the header
  std::unordered_map<std::string, std::size_t> index;
  std::map<std::string, std::string> metadata;
  bool checksummed = false;
  std::vector<std::string> checksums;  // of the tensors, in the order of infos; empty when the file has none

  at::Tensor read(std::size_t position) const {
    const Info& info = infos[position];
    file.check_size();
    const auto* source = file.data() + data_begin + info.begin;
    const uint64_t count = info.end - info.begin;
    const auto* dtype = find_dtype(info.dtype);
    require<DataError>(checksums.empty() || hex(crc32_of(source, count)) == checksums[position], "'",
                       file.path(), "', byte ", data_begin + info.begin, ": the ", count, " bytes of tensor ",
                       files::quoted(info.name),
                       " do not match their checksum; the file is damaged: fetch or save it again");
    if (dtype->type == at::kBool) {
      // A bool that is neither 0 nor 1 makes compiled code misbehave later, far from here.
      for (uint64_t i = 0; i < count; ++i)
        require<DataError>(source[i] <= 1, "'", file.path(), "', byte ", data_begin + info.begin + i,
                           ": tensor ", files::quoted(info.name), " is BOOL but holds the value ",
                           int{source[i]}, "; the file is damaged: fetch or save it again");
    }
    auto tensor = at::empty(info.shape, at::TensorOptions(dtype->type));
    if (count > 0) std::memcpy(tensor.data_ptr(), source, count);
    return tensor;
  }
};

SafeTensors::SafeTensors(const std::string& path) {
  auto impl = std::make_shared<Impl>(path);
  const auto& file = impl->file;
  const auto fail = [&](uint64_t byte, const std::string& what) {
    throw DataError(str("'", path, "', byte ", byte, ": ", what,
                        "; the file is damaged or not safetensors: fetch or save it again"));
  };
  if (file.size() < 8)
    fail(0, str("the file has ", file.size(), " bytes, fewer than the 8 of the header's length"));
  uint64_t length;
  std::memcpy(&length, file.data(), 8);
  if (length > kHeaderLimit)
    fail(0, str("the header claims ", length, " bytes, more than the limit of ", kHeaderLimit));
  if (length > file.size() - 8)
    fail(0, str("the header claims ", length, " bytes, but only ", file.size() - 8, " follow"));
  const char* text = reinterpret_cast<const char*>(file.data()) + 8;
  if (length == 0 || text[0] != '{') fail(8, "the header does not start with '{'");
  // The parser would take a zero byte for the end of the text.
  if (const void* zero = std::memchr(text, 0, length))
    fail(8 + static_cast<uint64_t>(static_cast<const char*>(zero) - text), "a zero byte in the header");

  Header header;
  uint64_t consumed = 0;
  HeaderReader reader(path, &consumed, header);
  uint64_t unused = 0;
  if (!nlohmann::json::sax_parse(CountingIterator(text, &consumed), CountingIterator(text + length, &unused),
                                 &reader))
    fail(8 + consumed, "the header is not valid JSON");

  std::string checksum;
  if (auto node = header.metadata.extract(kChecksum)) {
    checksum = std::move(node.mapped());
    if (std::string_view(text, length).substr(0, kChecksumPrefix.size()) != kChecksumPrefix ||
        checksum.size() != kDigits * (1 + header.entries.size()) ||
        checksum.substr(0, kDigits) != hex(header_checksum(text, length)))
      fail(8, str("the header does not match its checksum, '", kChecksum,
                  "' in its metadata, which a program that changes the file must leave out"));
  }

  impl->data_begin = 8 + length;
  const uint64_t data_size = file.size() - impl->data_begin;
  for (const auto& entry : header.entries) {
    const auto& info = entry.info;
    const auto name = files::quoted(info.name);
    if (info.begin > info.end || info.end > data_size)
      fail(entry.at, str("tensor ", name, " claims bytes ", info.begin, " to ", info.end, " of ", data_size));
    const auto bytes = bytes_of(info.shape, entry.dtype->size);
    if (!bytes)
      fail(entry.at, str("tensor ", name, " of shape ", shape_string(info.shape), " is too large to exist"));
    if (*bytes != info.end - info.begin)
      fail(entry.at, str("tensor ", name, " of shape ", shape_string(info.shape), " and dtype ", info.dtype,
                         " needs ", *bytes, " bytes, its data_offsets span ", info.end - info.begin));
  }
  std::vector<std::size_t> order(header.entries.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) {
    const auto &x = header.entries[a].info, &y = header.entries[b].info;
    return std::pair(x.begin, x.end) < std::pair(y.begin, y.end);
  });
  uint64_t covered = 0;
  impl->listed.resize(order.size());
  if (!checksum.empty()) impl->checksums.resize(order.size());
  for (std::size_t position = 0; position < order.size(); ++position) {
    auto& entry = header.entries[order[position]];
    if (entry.info.begin != covered)
      fail(entry.at, str("tensor ", files::quoted(entry.info.name), " starts at byte ", entry.info.begin,
                         " of the data, expected ", covered,
                         entry.info.begin < covered ? " (it overlaps another)" : " (a gap)"));
    covered = entry.info.end;
    impl->listed[order[position]] = position;
    if (!checksum.empty())
      impl->checksums[position] = checksum.substr(kDigits * (1 + order[position]), kDigits);
    impl->index.emplace(entry.info.name, position);
    impl->infos.push_back(std::move(entry.info));
  }
  if (covered != data_size)
    fail(impl->data_begin + covered, str(data_size - covered, " bytes follow that belong to no tensor"));
  impl->metadata = std::move(header.metadata);
  impl->checksummed = !checksum.empty();
  impl_ = std::move(impl);
}

const std::vector<SafeTensors::Info>& SafeTensors::infos() const {
  return impl_->infos;
}
const std::map<std::string, std::string>& SafeTensors::metadata() const {
  return impl_->metadata;
}
bool SafeTensors::has_checksum() const {
  return impl_->checksummed;
}
bool SafeTensors::contains(const std::string& name) const {
  return impl_->index.count(name) != 0;
}

at::Tensor SafeTensors::tensor(const std::string& name) const {
  const auto found = impl_->index.find(name);
  if (found == impl_->index.end()) {
    std::vector<std::string> names;
    for (const auto& info : impl_->infos) names.push_back(info.name);
    throw ArgumentError(
        str("'", impl_->file.path(), "' has no tensor ", files::quoted(name), did_you_mean(name, names)));
  }
  return impl_->read(found->second);
}

NamedTensors SafeTensors::tensors() const {
  NamedTensors result;
  result.reserve(impl_->infos.size());
  for (const std::size_t position : impl_->listed) {
    result.push_back({impl_->infos[position].name, impl_->read(position)});
  }
  return result;
}

void save_safetensors(const std::string& path, const NamedTensors& tensors,
                      const std::map<std::string, std::string>& metadata) {
  check_names(tensors, "save_safetensors");
  const auto check_text = [](const std::string& text, const char* what) {
    require(files::valid_utf8(text), "save_safetensors: ", what, " ", files::quoted(text),
            " is not UTF-8; rename it");
  };
  for (const auto& [key, value] : metadata) {
    check_text(key, "the metadata key");
    check_text(value, "the metadata value");
  }
  std::vector<std::size_t> order;
  for (const auto& [name, tensor] : tensors) {
    check_text(name, "the tensor name");
    require(name != kMetadata, "save_safetensors: '", kMetadata,
            "' is the format's own name; rename the tensor");
    require(tensor.layout() == at::kStrided && !tensor.is_quantized(), "save_safetensors: tensor '", name,
            "' is sparse or quantized; store to_dense() or its parts");
    require(!tensor.is_meta(), "save_safetensors: tensor '", name, "' is on the meta device and has no data");
    require(find_dtype(tensor.scalar_type()) != nullptr, "save_safetensors: tensor '", name, "' has dtype ",
            c10::toString(tensor.scalar_type()), ", which the format lacks (it has ", dtype_names(), ")");
    order.push_back(order.size());
  }
  // Wide items first: then every tensor lies at a multiple of its item size, which other readers rely on.
  std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) {
    return tensors[a].tensor.element_size() > tensors[b].tensor.element_size();
  });
  std::vector<std::pair<uint64_t, uint64_t>> spans(tensors.size());
  uint64_t end = 0;
  for (const std::size_t i : order) {
    const auto bytes =
        bytes_of(tensors[i].tensor.sizes().vec(), static_cast<uint64_t>(tensors[i].tensor.element_size()));
    require(bytes && tensors[i].tensor.dim() <= static_cast<int64_t>(kRankLimit),
            "save_safetensors: tensor '", tensors[i].name, "' of shape ",
            shape_string(tensors[i].tensor.sizes()), " is too large for the format");
    spans[i] = {end, end + *bytes};
    end += *bytes;
  }

  const auto quote = [](const std::string& text) { return nlohmann::json(text).dump(); };
  // Zeros hold the place of the checksum until the data have gone by.
  std::string header(kChecksumPrefix);
  header.append(kDigits * (1 + tensors.size()), '0') += '"';
  for (const auto& [key, value] : metadata)
    if (key != kChecksum) header += "," + quote(key) + ":" + quote(value);
  header += "}";
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    const auto& [name, tensor] = tensors[i];
    std::string shape;
    for (const int64_t size : tensor.sizes()) shape += (shape.empty() ? "" : ",") + std::to_string(size);
    header +=
        str(",", quote(name), ":{\"dtype\":\"", find_dtype(tensor.scalar_type())->name, "\",\"shape\":[",
            shape, "],\"data_offsets\":[", spans[i].first, ",", spans[i].second, "]}");
  }
  header += "}";
  header.resize((header.size() + 7) / 8 * 8, ' ');
  require(header.size() <= kHeaderLimit, "save_safetensors: the header takes ", header.size(),
          " bytes, the format's limit is ", kHeaderLimit, "; shorten the metadata or use several files");

  files::AtomicFile file(path);
  const uint64_t length = header.size();
  file.write(&length, sizeof length);
  file.write(header.data(), header.size());
  const at::NoGradGuard no_grad;
  for (const std::size_t i : order) {
    const auto tensor = tensors[i].tensor.detach().resolve_neg().to(at::kCPU).contiguous();
    const auto count = static_cast<std::size_t>(spans[i].second - spans[i].first);
    file.write(tensor.data_ptr(), count);
    header.replace(kChecksumPrefix.size() + kDigits * (1 + i), kDigits,
                   hex(crc32_of(tensor.data_ptr(), count)));
  }
  header.replace(kChecksumPrefix.size(), kDigits, hex(header_checksum(header.data(), length)));
  file.rewrite(8 + kChecksumPrefix.size(), header.data() + kChecksumPrefix.size(),
               kDigits * (1 + tensors.size()));
  file.commit();
}

}  // namespace glyptic

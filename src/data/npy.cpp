#include "glyptic/data/npy.h"

#include <torch/torch.h>

#include <limits>

#include "../core/files.h"
#include "glyptic/core/error.h"
#include "glyptic/core/named_tensor.h"

namespace glyptic::data {
namespace {

struct Type {
  at::ScalarType dtype;
  const char* name;  // what follows the byte order
};

constexpr Type kTypes[] = {{at::kByte, "u1"},  {at::kBool, "b1"},  {at::kChar, "i1"},
                           {at::kShort, "i2"}, {at::kInt, "i4"},   {at::kLong, "i8"},
                           {at::kHalf, "f2"},  {at::kFloat, "f4"}, {at::kDouble, "f8"}};

constexpr std::size_t kLimit = 65536;  // of a header, in bytes; those of real arrays have about 100
constexpr std::size_t kMostDims = 32;
constexpr std::string_view kMagic = "\x93NUMPY";

// The header is a Python dict of three entries; this reads just such a one, in any order.
class Parser {
 public:
  Parser(const std::string& path, std::string_view text, uint64_t start)
      : path_(path), text_(text), start_(start) {}

  NpyHeader header() {
    NpyHeader result;
    bool descr = false, order = false, shape = false;
    expect('{');
    while (!take('}')) {
      const auto key = word();
      expect(':');
      if (key == "descr" && !descr) {
        descr = true;
        result.dtype = type();
      } else if (key == "fortran_order" && !order) {
        order = true;
        if (!take("False"))
          fail(take("True") ? "Fortran order; save numpy.ascontiguousarray of it" : "no boolean");
      } else if (key == "shape" && !shape) {
        shape = true;
        result.shape = sizes();
      } else {
        fail(str("the key ", files::quoted(key), " is unknown or comes twice"));
      }
      if (take('}')) break;
      expect(',');
    }
    skip();
    if (at_ != text_.size()) fail("text after the dictionary");
    if (!descr || !order || !shape) fail("one of descr, fortran_order and shape is missing");
    return result;
  }

  [[noreturn]] void fail(const std::string& what) const {
    throw DataError(str("'", path_, "', byte ", start_ + at_, ": not a header of an .npy array: ", what,
                        "; write the file anew with numpy.save"));
  }

 private:
  void skip() {
    while (at_ < text_.size() && (text_[at_] == ' ' || text_[at_] == '\n')) ++at_;
  }
  bool take(char c) {
    skip();
    if (at_ >= text_.size() || text_[at_] != c) return false;
    ++at_;
    return true;
  }
  bool take(std::string_view word) {
    skip();
    if (text_.substr(at_, word.size()) != word) return false;
    at_ += word.size();
    return true;
  }
  void expect(char c) {
    if (!take(c)) fail(str("expected '", c, "'"));
  }
  std::string word() {
    skip();
    const char quote = at_ < text_.size() ? text_[at_] : ' ';
    if (quote != '\'' && quote != '"') fail("expected a quoted word");
    const auto end = text_.find(quote, at_ + 1);
    if (end == std::string_view::npos) fail("a word without its closing quote");
    const std::string result(text_.substr(at_ + 1, end - at_ - 1));
    at_ = end + 1;
    return result;
  }
  at::ScalarType type() {
    skip();
    if (at_ < text_.size() && text_[at_] == '[') fail("a structured array; save one plain array");
    const auto descr = word();
    if (descr.size() == 3 && descr[0] == '>' && descr[2] != '1')
      fail(str("type ", files::quoted(descr), " is big-endian; save array.astype('<", descr.substr(1), "')"));
    if (descr.size() == 3 && (descr[0] == '<' || descr[0] == '|' || descr[0] == '='))
      for (const auto& type : kTypes)
        if (descr.substr(1) == type.name && (descr[0] != '|' || descr[2] == '1')) return type.dtype;
    fail(str("type ", files::quoted(descr), " is not read here; use bool, an integer or a floating type"));
  }
  std::vector<int64_t> sizes() {
    std::vector<int64_t> result;
    expect('(');
    while (!take(')')) {
      skip();
      const auto begin = at_;
      int64_t size = 0;
      for (; at_ < text_.size() && '0' <= text_[at_] && text_[at_] <= '9'; ++at_) {
        if (size > (std::numeric_limits<int64_t>::max() - 9) / 10) fail("a size that is too large to exist");
        size = 10 * size + (text_[at_] - '0');
      }
      if (at_ == begin) fail("expected a size");
      if (result.size() == kMostDims) fail("more than 32 dimensions");
      result.push_back(size);
      if (take(')')) break;
      expect(',');
    }
    return result;
  }

  const std::string& path_;
  std::string_view text_;
  uint64_t start_;
  std::size_t at_ = 0;
};

NpyHeader parse(const files::MappedFile& file) {
  const auto& path = file.path();
  const std::string_view bytes(reinterpret_cast<const char*>(file.data()), file.size());
  const auto fail = [&](std::size_t at, const std::string& what) {
    throw DataError(str("'", path, "', byte ", at, ": ", what, "; write the file anew with numpy.save"));
  };
  if (bytes.substr(0, kMagic.size()) != kMagic)
    fail(0, str("no .npy file (it starts with ", files::quoted(bytes.substr(0, 8)), ")"));
  if (bytes.size() < 12) fail(bytes.size(), "the file ends in its header");
  const auto byte = [&](std::size_t i) {
    return static_cast<std::size_t>(static_cast<unsigned char>(bytes[i]));
  };
  const auto version = byte(6);
  if (version < 1 || version > 3 || byte(7) != 0) fail(6, str("format version ", version, ".", byte(7)));
  const std::size_t begin = version == 1 ? 10 : 12;
  const std::size_t length =
      version == 1 ? byte(8) | byte(9) << 8 : byte(8) | byte(9) << 8 | byte(10) << 16 | byte(11) << 24;
  if (length > kLimit) fail(8, str("a header of ", length, " bytes, more than ", kLimit));
  if (begin + length > bytes.size())
    fail(8, str("a header of ", length, " bytes in a file of ", bytes.size()));
  Parser parser(path, bytes.substr(begin, length), begin);
  auto header = parser.header();
  header.offset = begin + length;
  __int128 need = static_cast<__int128>(c10::elementSize(header.dtype));
  bool empty = false;
  for (const int64_t size : header.shape) {
    empty = empty || size == 0;
    need *= size > 0 ? size : 1;
    if (need > std::numeric_limits<int64_t>::max()) parser.fail("a shape that is too large to exist");
  }
  const auto have = static_cast<__int128>(file.size() - header.offset);
  if (empty) need = 0;
  if (need != have)
    fail(header.offset, str("elements of shape ", shape_string(header.shape), " need ",
                            static_cast<int64_t>(need), " bytes, the file has ", static_cast<int64_t>(have)));
  return header;
}

std::string header_text(at::ScalarType dtype, const std::vector<int64_t>& shape) {
  const char* name = nullptr;
  for (const auto& type : kTypes)
    if (type.dtype == dtype) name = type.name;
  require(name != nullptr, "write_npy: ", c10::toString(dtype),
          " has no type in .npy files; convert it first");
  std::string sizes;
  for (const int64_t size : shape)
    sizes += str(size, shape.size() == 1 ? "," : &size == &shape.back() ? "" : ", ");
  auto text = str("{'descr': '", name[1] == '1' ? '|' : '<', name, "', 'fortran_order': False, 'shape': (",
                  sizes, "), }");
  // The elements begin at a multiple of 64.
  const std::size_t prefix = 10;
  text.resize((prefix + text.size() + 1 + 63) / 64 * 64 - prefix - 1, ' ');
  text += '\n';
  return std::string(kMagic) + '\x01' + '\0' + static_cast<char>(text.size() & 255) +
         static_cast<char>(text.size() >> 8) + text;
}

}  // namespace

NpyHeader read_npy_header(const std::string& path) {
  return parse(files::MappedFile(path));
}

at::Tensor read_npy(const std::string& path, int64_t first, int64_t count) {
  const files::MappedFile file(path);
  auto header = parse(file);
  auto offset = header.offset;
  if (first != 0 || count != -1) {
    require<DataError>(!header.shape.empty(), "'", path, "' holds a single number and has no rows");
    const int64_t rows = header.shape[0];
    if (count == -1) count = rows - first;
    require(0 <= first && 0 <= count && first <= rows && count <= rows - first, "read_npy: rows ", first,
            " to ", first + count, " of '", path, "', which has ", rows);
    uint64_t row = c10::elementSize(header.dtype);
    for (std::size_t d = 1; d < header.shape.size(); ++d) row *= static_cast<uint64_t>(header.shape[d]);
    offset += row * static_cast<uint64_t>(first);
    header.shape[0] = count;
  }
  file.check_size();
  auto result = at::empty(header.shape, at::TensorOptions().dtype(header.dtype));
  if (result.numel() > 0) std::memcpy(result.data_ptr(), file.data() + offset, result.nbytes());
  if (header.dtype == at::kBool) {
    const auto* bytes = static_cast<const uint8_t*>(result.const_data_ptr());
    for (int64_t i = 0; i < result.numel(); ++i)
      require<DataError>(bytes[i] <= 1, "'", path, "', element ", i, ": ", static_cast<int>(bytes[i]),
                         " is no boolean; write the file anew with numpy.save");
  }
  return result;
}

struct NpyWriter::Impl {
  files::AtomicFile file;
  at::ScalarType dtype;
  int64_t left;
};

NpyWriter::NpyWriter(const std::string& path, at::ScalarType dtype, const std::vector<int64_t>& shape) {
  int64_t count = 1;
  for (const int64_t size : shape) {
    require(size >= 0, "write_npy: shape is ", shape_string(shape));
    count *= size;
  }
  const auto header = header_text(dtype, shape);
  impl_ = std::unique_ptr<Impl>(new Impl{files::AtomicFile(path), dtype, count});
  impl_->file.write(header.data(), header.size());
}

NpyWriter::~NpyWriter() = default;

void NpyWriter::append(const at::Tensor& values) {
  require(values.scalar_type() == impl_->dtype, "NpyWriter: values are ", c10::toString(values.scalar_type()),
          ", expected ", c10::toString(impl_->dtype));
  require(values.numel() <= impl_->left, "NpyWriter: ", values.numel(), " values, but only ", impl_->left,
          " are left in the shape");
  const auto dense = values.detach().cpu().contiguous();
  if (dense.numel() > 0) impl_->file.write(dense.const_data_ptr(), dense.nbytes());
  impl_->left -= values.numel();
}

void NpyWriter::commit() {
  require(impl_->left == 0, "NpyWriter: ", impl_->left, " values are missing");
  impl_->file.commit();
}

void write_npy(const std::string& path, const at::Tensor& array) {
  require(array.defined() && array.layout() == at::kStrided, "write_npy: the array is undefined or sparse");
  NpyWriter writer(path, array.scalar_type(), array.sizes().vec());
  writer.append(array);
  writer.commit();
}

}  // namespace glyptic::data

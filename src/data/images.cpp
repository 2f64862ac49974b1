// JPEG and PNG by libjpeg-turbo and libpng. Both report errors by a function that must not return; each
// decoder is therefore one function that holds nothing with a destructor while the library is on the stack,
// and jumps back.
#include <csetjmp>
#include <cstdio>
#include <cstdlib>
// jpeglib.h needs the two above.
#include <jerror.h>
#include <jpeglib.h>
#include <png.h>
#include <torch/torch.h>

#include "../core/files.h"
#include "glyptic/core/error.h"
#include "glyptic/core/safetensors.h"
#include "glyptic/data/dataset.h"
#include "internal.h"

namespace glyptic::data {
namespace {

constexpr uint64_t kFileLimit = uint64_t{1} << 29;
constexpr std::size_t kMessage = 256;

struct JpegErrors {
  jpeg_error_mgr base;  // first: the library hands back a pointer to it
  jmp_buf jump;
  char message[JMSG_LENGTH_MAX];
};

[[noreturn]] void jpeg_fail(j_common_ptr info) {
  auto* errors = reinterpret_cast<JpegErrors*>(info->err);
  info->err->format_message(info, errors->message);
  longjmp(errors->jump, 1);
}

void jpeg_message(j_common_ptr info, int level) {
  if (level >= 0) return;  // a trace, not a warning
  // Of the damage that libjpeg paints over, this is what leaves pixels that were never in the picture.
  switch (info->err->msg_code) {
    case JWRN_JPEG_EOF:
    case JWRN_HIT_MARKER:
    case JWRN_HUFF_BAD_CODE:
    case JWRN_MUST_RESYNC:
      jpeg_fail(info);
    default:
      break;
  }
}

void jpeg_silent(j_common_ptr) {}

// A progressive file of a few kilobytes can ask for thousands of passes over a large image.
void jpeg_watch(j_common_ptr info) {
  constexpr int kMostScans = 500;
  if (info->is_decompressor && reinterpret_cast<j_decompress_ptr>(info)->input_scan_number > kMostScans) {
    auto* errors = reinterpret_cast<JpegErrors*>(info->err);
    std::snprintf(errors->message, sizeof errors->message, "more than %d scans", kMostScans);
    longjmp(errors->jump, 1);
  }
}

// False, with a message, when the file is damaged or too large.
bool decode_jpeg(const std::string& bytes, int64_t max_pixels, Pixels& out, char* message) {
  jpeg_decompress_struct info{};
  JpegErrors errors{};
  jpeg_progress_mgr progress{};
  info.err = jpeg_std_error(&errors.base);
  errors.base.error_exit = jpeg_fail;
  errors.base.emit_message = jpeg_message;
  errors.base.output_message = jpeg_silent;
  if (setjmp(errors.jump)) {
    std::snprintf(message, kMessage, "%s", errors.message);
    jpeg_destroy_decompress(&info);
    return false;
  }
  jpeg_create_decompress(&info);
  progress.progress_monitor = jpeg_watch;
  info.progress = &progress;
  jpeg_mem_src(&info, reinterpret_cast<const unsigned char*>(bytes.data()), bytes.size());
  jpeg_read_header(&info, TRUE);
  const int64_t width = info.image_width, height = info.image_height;
  if (width * height > max_pixels) {
    std::snprintf(message, kMessage, "%lld x %lld pixels are more than the limit of %lld",
                  static_cast<long long>(width), static_cast<long long>(height),
                  static_cast<long long>(max_pixels));
    jpeg_destroy_decompress(&info);
    return false;
  }
  const bool four = info.jpeg_color_space == JCS_CMYK || info.jpeg_color_space == JCS_YCCK;
  info.out_color_space = four ? JCS_CMYK : JCS_RGB;
  jpeg_start_decompress(&info);
  out.height = height;
  out.width = width;
  out.rgb.resize(static_cast<std::size_t>(3 * width * height));
  // The library's own pool, which jpeg_destroy frees on every way out.
  auto line = (*info.mem->alloc_sarray)(
      reinterpret_cast<j_common_ptr>(&info), JPOOL_IMAGE,
      static_cast<JDIMENSION>(width) * static_cast<JDIMENSION>(info.output_components), 1);
  while (info.output_scanline < info.output_height) {
    uint8_t* target = out.rgb.data() + static_cast<std::size_t>(3 * width) * info.output_scanline;
    jpeg_read_scanlines(&info, line, 1);
    if (!four) {
      std::memcpy(target, line[0], static_cast<std::size_t>(3 * width));
      continue;
    }
    // Adobe's files, which are nearly all, store the complements of the inks.
    const bool inverted = info.saw_Adobe_marker;
    for (int64_t x = 0; x < width; ++x) {
      const uint8_t* ink = line[0] + 4 * x;
      const int black = inverted ? ink[3] : 255 - ink[3];
      for (int c = 0; c < 3; ++c) {
        const int light = inverted ? ink[c] : 255 - ink[c];
        target[3 * x + c] = static_cast<uint8_t>((light * black + 127) / 255);
      }
    }
  }
  jpeg_finish_decompress(&info);
  jpeg_destroy_decompress(&info);
  return true;
}

// Baseline, 4:2:0 (libjpeg's default and Pillow's). `bytes` was allocated by malloc and is the caller's, on
// every way out.
bool encode_jpeg(const uint8_t* pixels, int64_t height, int64_t width, int64_t channels, int quality,
                 unsigned char** bytes, unsigned long* size, char* message) {
  jpeg_compress_struct info{};
  JpegErrors errors{};
  info.err = jpeg_std_error(&errors.base);
  errors.base.error_exit = jpeg_fail;
  errors.base.output_message = jpeg_silent;
  if (setjmp(errors.jump)) {
    std::snprintf(message, kMessage, "%s", errors.message);
    jpeg_destroy_compress(&info);
    return false;
  }
  jpeg_create_compress(&info);
  jpeg_mem_dest(&info, bytes, size);
  info.image_width = static_cast<JDIMENSION>(width);
  info.image_height = static_cast<JDIMENSION>(height);
  info.input_components = static_cast<int>(channels);
  info.in_color_space = channels == 3 ? JCS_RGB : JCS_GRAYSCALE;
  jpeg_set_defaults(&info);
  jpeg_set_quality(&info, quality, TRUE);
  jpeg_start_compress(&info, TRUE);
  while (info.next_scanline < info.image_height) {
    JSAMPROW row =
        const_cast<uint8_t*>(pixels) + static_cast<std::size_t>(width * channels) * info.next_scanline;
    jpeg_write_scanlines(&info, &row, 1);
  }
  jpeg_finish_compress(&info);
  jpeg_destroy_compress(&info);
  return true;
}

struct PngReader {
  const std::string* bytes;
  std::size_t at = 0;
  char message[kMessage] = "";
};

[[noreturn]] void png_fail(png_structp png, png_const_charp text) {
  auto* reader = static_cast<PngReader*>(png_get_error_ptr(png));
  std::snprintf(reader->message, kMessage, "%s", text);
  png_longjmp(png, 1);
}

void png_silent(png_structp, png_const_charp) {}

void png_take(png_structp png, png_bytep out, std::size_t count) {
  auto* reader = static_cast<PngReader*>(png_get_io_ptr(png));
  if (count > reader->bytes->size() - reader->at) png_error(png, "the file ends early");
  std::memcpy(out, reader->bytes->data() + reader->at, count);
  reader->at += count;
}

bool decode_png(const std::string& bytes, int64_t max_pixels, Pixels& out, std::vector<png_bytep>& rows,
                char* message) {
  PngReader reader;
  reader.bytes = &bytes;
  png_structp png = png_create_read_struct(PNG_LIBPNG_VER_STRING, &reader, png_fail, png_silent);
  png_infop info = png ? png_create_info_struct(png) : nullptr;
  if (!info) {
    png_destroy_read_struct(&png, nullptr, nullptr);
    std::snprintf(message, kMessage, "libpng cannot be initialized");
    return false;
  }
  if (setjmp(png_jmpbuf(png))) {
    std::snprintf(message, kMessage, "%s", reader.message);
    png_destroy_read_struct(&png, &info, nullptr);
    return false;
  }
  png_set_read_fn(png, &reader, png_take);
  constexpr png_uint_32 kMostSide = 1'000'000;
  png_set_user_limits(png, kMostSide, kMostSide);
  png_set_chunk_malloc_max(png, png_alloc_size_t{64} << 20);
  png_read_info(png, info);
  const int64_t width = png_get_image_width(png, info), height = png_get_image_height(png, info);
  if (width * height > max_pixels) {
    std::snprintf(reader.message, kMessage, "%lld x %lld pixels are more than the limit of %lld",
                  static_cast<long long>(width), static_cast<long long>(height),
                  static_cast<long long>(max_pixels));
    png_longjmp(png, 1);
  }
  png_set_expand(png);  // palettes, 1 to 4 bits, and transparent colours to full samples
  png_set_scale_16(png);
  png_set_gray_to_rgb(png);
  png_set_strip_alpha(png);
  png_set_interlace_handling(png);
  png_read_update_info(png, info);
  if (png_get_rowbytes(png, info) != static_cast<std::size_t>(3 * width))
    png_error(png, "an unknown colour type");
  out.height = height;
  out.width = width;
  out.rgb.resize(static_cast<std::size_t>(3 * width * height));
  rows.resize(static_cast<std::size_t>(height));
  for (int64_t y = 0; y < height; ++y) rows[static_cast<std::size_t>(y)] = out.rgb.data() + 3 * width * y;
  png_read_image(png, rows.data());
  png_read_end(png, nullptr);
  png_destroy_read_struct(&png, &info, nullptr);
  return true;
}

// Weights of a triangle filter for one axis: output `i` is the sum of weight[k] * in[first + k].
struct Taps {
  int64_t first;
  std::vector<float> weight;
};

std::vector<Taps> triangle_taps(double begin, double length, int64_t in_size, int64_t out_size) {
  const double scale = length / static_cast<double>(out_size);
  const double reach = std::max(scale, 1.0);  // enlarging interpolates, reducing averages
  std::vector<Taps> result;
  for (int64_t i = 0; i < out_size; ++i) {
    const double centre = begin + (static_cast<double>(i) + 0.5) * scale;
    const auto first = std::max<int64_t>(0, static_cast<int64_t>(std::floor(centre - reach)));
    const auto last = std::min<int64_t>(in_size - 1, static_cast<int64_t>(std::floor(centre + reach)));
    std::vector<double> weights;
    double total = 0;
    for (int64_t k = first; k <= last; ++k) {
      weights.push_back(std::max(0.0, 1.0 - std::abs(static_cast<double>(k) + 0.5 - centre) / reach));
      total += weights.back();
    }
    Taps taps{first, {}};
    for (const double weight : weights) taps.weight.push_back(static_cast<float>(weight / total));
    result.push_back(std::move(taps));
  }
  return result;
}

}  // namespace

Pixels decode_pixels(const std::string& path, int64_t max_pixels) {
  const auto bytes = read_file(path, kFileLimit);
  const auto starts = [&](const char* magic, std::size_t size) {
    return bytes.compare(0, size, magic, size) == 0;
  };
  Pixels pixels;
  char message[kMessage] = "";
  std::vector<png_bytep> rows;
  const bool jpeg = starts("\xFF\xD8\xFF", 3), png = starts("\x89PNG\r\n\x1A\n", 8);
  require<DataError>(jpeg || png, "'", path, "', byte 0: neither JPEG nor PNG (it starts with ",
                     files::quoted(bytes.substr(0, 8)), "); convert or remove it");
  const bool good = jpeg ? decode_jpeg(bytes, max_pixels, pixels, message)
                         : decode_png(bytes, max_pixels, pixels, rows, message);
  require<DataError>(good, "'", path, "' cannot be decoded as ", jpeg ? "JPEG" : "PNG", ": ", message,
                     "; fetch it again or remove it");
  return pixels;
}

void jpeg_round_trip(std::vector<uint8_t>& pixels, int64_t height, int64_t width, int64_t channels,
                     int quality) {
  unsigned char* data = nullptr;
  unsigned long size = 0;
  char message[kMessage] = "";
  const bool encoded = encode_jpeg(pixels.data(), height, width, channels, quality, &data, &size, message);
  const std::string bytes(reinterpret_cast<const char*>(data), encoded ? size : 0);
  std::free(data);
  Pixels decoded;
  require(encoded && decode_jpeg(bytes, height * width, decoded, message), "jpeg: an image of ", height,
          " x ", width, " cannot be compressed: ", message);
  if (channels == 3) {
    pixels = std::move(decoded.rgb);
  } else {
    for (std::size_t i = 0; i < pixels.size(); ++i) pixels[i] = decoded.rgb[3 * i];
  }
}

void resample(const Pixels& image, double top, double left, double height, double width, int64_t side,
              uint8_t* planes) {
  const auto across = triangle_taps(left, width, image.width, side);
  const auto down = triangle_taps(top, height, image.height, side);
  const int64_t first_row = down.front().first;
  const int64_t last_row = down.back().first + static_cast<int64_t>(down.back().weight.size()) - 1;
  // Across first: [rows, side, 3] in float, so that the second pass runs along memory.
  const int64_t line = 3 * side;
  std::vector<float> narrow(static_cast<std::size_t>((last_row - first_row + 1) * line));
  for (int64_t y = first_row; y <= last_row; ++y) {
    const uint8_t* in = image.rgb.data() + 3 * image.width * y;
    float* out = narrow.data() + (y - first_row) * line;
    for (int64_t x = 0; x < side; ++x) {
      const auto& taps = across[static_cast<std::size_t>(x)];
      float r = 0, g = 0, b = 0;
      const uint8_t* p = in + 3 * taps.first;
      for (const float weight : taps.weight) {
        r += weight * static_cast<float>(p[0]);
        g += weight * static_cast<float>(p[1]);
        b += weight * static_cast<float>(p[2]);
        p += 3;
      }
      out[3 * x] = r;
      out[3 * x + 1] = g;
      out[3 * x + 2] = b;
    }
  }
  std::vector<float> sum(static_cast<std::size_t>(line));
  for (int64_t y = 0; y < side; ++y) {
    const auto& taps = down[static_cast<std::size_t>(y)];
    std::fill(sum.begin(), sum.end(), 0.0f);
    const float* in = narrow.data() + (taps.first - first_row) * line;
    for (const float weight : taps.weight) {
      for (int64_t i = 0; i < line; ++i) sum[static_cast<std::size_t>(i)] += weight * in[i];
      in += line;
    }
    for (int64_t x = 0; x < side; ++x)
      for (int64_t c = 0; c < 3; ++c)
        planes[(c * side + y) * side + x] =
            static_cast<uint8_t>(std::min(255.0f, sum[static_cast<std::size_t>(3 * x + c)] + 0.5f));
  }
}

at::Tensor decode_image(const std::string& path, int64_t max_pixels) {
  const auto pixels = decode_pixels(path, max_pixels);
  auto result = at::empty({3, pixels.height, pixels.width}, at::kByte);
  auto* out = result.data_ptr<uint8_t>();
  const int64_t area = pixels.height * pixels.width;
  for (int64_t i = 0; i < area; ++i)
    for (int64_t c = 0; c < 3; ++c) out[c * area + i] = pixels.rgb[static_cast<std::size_t>(3 * i + c)];
  return result;
}

}  // namespace glyptic::data

// Where data sets are found, and the one entry point by name.
#include <dlfcn.h>

#include <cstdlib>
#include <filesystem>

#include "glyptic/core/build_info.h"
#include "glyptic/core/error.h"
#include "glyptic/core/log.h"
#include "glyptic/core/named_tensor.h"
#include "glyptic/core/rng.h"
#include "glyptic/data/dataset.h"
#include "glyptic/data/fetch.h"
#include "internal.h"

namespace glyptic::data {
namespace {

namespace fs = std::filesystem;

// Folders of our own set, from the place of this library: an installation, a wheel, the source tree.
std::vector<std::string> shipped_roots() {
  std::vector<std::string> roots;
  Dl_info info;
  if (dladdr(reinterpret_cast<const void*>(&dataset_names), &info) != 0 && info.dli_fname != nullptr) {
    const auto folder = fs::path(info.dli_fname).parent_path();
    // <prefix>/lib, <prefix>/lib/<architecture>; in a wheel <package> or <package>/lib.
    for (const char* way : {"../share/glyptic/data", "../../share/glyptic/data", "data", "../data"})
      roots.push_back((folder / way).lexically_normal().string());
  }
  roots.push_back(std::string(source_dir()) + "/data");
  return roots;
}

// Every folder that may hold `name`, whether it exists or not.
std::vector<std::string> candidates(const std::string& name) {
  std::vector<std::string> result;
  result.push_back(default_data_root() + "/" + name);
  result.push_back("../shared/data/" + name);
  const std::string shipped = name == "mnist" ? "mnist-6k" : name;
  for (const auto& root : shipped_roots()) result.push_back(root + "/" + shipped);
  return result;
}

bool is_folder(const std::string& path) {
  std::error_code ignored;
  return fs::is_directory(path, ignored);
}

struct Source {
  const char* name;
  const char* get;                                       // how to get the data
  bool (*holds)(const std::string& folder, bool train);  // whether the folder seems to hold them
};

bool holds_mnist(const std::string& folder, bool train) {
  for (const char* kind :
       {"-images-idx3-ubyte", "-images-idx3-ubyte.gz", "-images.idx3-ubyte", "-images.idx3-ubyte.gz"})
    if (present(folder + (train ? "/train" : "/t10k") + kind)) return true;
  return false;
}
bool holds_cifar10(const std::string& folder, bool train) {
  const char* file = train ? "/data_batch_1.bin" : "/test_batch.bin";
  return present(folder + file) || present(folder + "/cifar-10-batches-bin" + file);
}
bool holds_cifar100(const std::string& folder, bool train) {
  const char* file = train ? "/train.bin" : "/test.bin";
  return present(folder + file) || present(folder + "/cifar-100-binary" + file);
}
bool holds_images(const std::string& folder, bool train) {
  return train ? is_folder(folder + "/train") : is_folder(folder + "/test") || is_folder(folder + "/val");
}

constexpr Source kSources[] = {
    {"mnist", "run: glyptic data get mnist, or get its four IDX files elsewhere", holds_mnist},
    {"cifar10",
     "run: glyptic data get cifar10, or get the binary version from "
     "https://www.cs.toronto.edu/~kriz/cifar.html",
     holds_cifar10},
    {"cifar100",
     "run: glyptic data get cifar100, or get the binary version from "
     "https://www.cs.toronto.edu/~kriz/cifar.html",
     holds_cifar100},
    {"image_folder", "make train/<class>/ and test/<class>/ (or val/<class>/) with .jpg or .png files",
     holds_images},
};

bool has_data(const Source& source, const std::string& folder) {
  return is_folder(folder) && source.holds(folder, true) && source.holds(folder, false);
}

std::string find_folder(const Source& source, const DataOptions& options) {
  const auto folders =
      options.folder.empty() ? candidates(source.name) : std::vector<std::string>{options.folder};
  std::string tried;
  for (const auto& folder : folders) {
    if (has_data(source, folder)) return folder;
    tried +=
        (tried.empty() ? "'" : ", '") + folder + (present(folder) ? "' (there, but without the files)" : "'");
  }
  throw MissingFileError(
      str("no data set '", source.name, "' was found in ", tried, "; ", source.get,
          options.folder.empty() ? str(" and put them into $GLYPTIC_DATA/", source.name) : ""));
}

// The number of items to keep; says so when there are fewer than were asked for.
int64_t limit(const Dataset& set, int64_t wanted, const char* option) {
  if (wanted > set.size())
    log::warn(str(option, " is ", grouped(wanted), ", but there are only ", grouped(set.size()),
                  " images: ", set.description()));
  return wanted == 0 ? set.size() : std::min(wanted, set.size());
}

std::shared_ptr<Dataset> take(std::shared_ptr<Dataset> set, int64_t count, bool spread) {
  const int64_t size = set->size();
  if (count == size) return set;
  std::vector<int64_t> indices(static_cast<std::size_t>(count));
  for (int64_t k = 0; k < count; ++k)
    indices[static_cast<std::size_t>(k)] =
        spread ? static_cast<int64_t>(static_cast<__int128>(k) * size / count) : k;
  return subset(std::move(set), std::move(indices));
}

}  // namespace

std::string default_data_root() {
  const auto variable = [](const char* name) {
    const char* value = std::getenv(name);
    return std::string(value != nullptr ? value : "");
  };
  if (auto root = variable("GLYPTIC_DATA"); !root.empty()) return root;
  // The XDG base directory specification: a relative path there is to be ignored.
  if (const auto root = variable("XDG_DATA_HOME"); fs::path(root).is_absolute()) return root + "/glyptic";
  const auto home = variable("HOME");
  return (home.empty() ? "." : home) + "/.local/share/glyptic";
}

std::vector<std::string> data_folders(const std::string& name) {
  std::vector<std::string> result;
  for (const auto& source : kSources)
    if (name == source.name)
      for (const auto& folder : candidates(name))
        if (has_data(source, folder)) result.push_back(folder);
  return result;
}

std::vector<std::string> dataset_names() {
  return {"mnist", "cifar10", "cifar100", "image_folder", "shapes"};
}

ImageForm expected_form(const DataOptions& options) {
  const auto side = [&](int64_t own) { return options.size > 0 ? options.size : own; };
  const auto& name = options.name;
  if (name == "mnist") return {{1, side(28), side(28)}, 10};
  if (name == "cifar10") return {{3, side(32), side(32)}, 10};
  if (name == "cifar100") return {{3, side(32), side(32)}, 100};
  if (name == "shapes") return {{3, side(28), side(28)}, options.classes > 0 ? options.classes : 4};
  require(name == "image_folder", "name: no data set is called '", name, "'",
          did_you_mean(name, dataset_names()));
  const auto folders = options.folder.empty() ? candidates(name) : std::vector<std::string>{options.folder};
  for (const auto& folder : folders)
    if (is_folder(folder + "/train"))
      return {{3, side(224), side(224)},
              static_cast<int64_t>(image_folder_classes(folder + "/train").size())};
  return {{3, side(224), side(224)}, 1000};
}

DataSets load(const DataOptions& options) {
  const auto names = dataset_names();
  require(std::find(names.begin(), names.end(), options.name) != names.end(), "name: no data set is called '",
          options.name, "'", did_you_mean(options.name, names),
          " (known: mnist, cifar10, cifar100, image_folder, shapes)");
  const std::pair<const char*, int64_t> counts[] = {{"train_limit", options.train_limit},
                                                    {"test_limit", options.test_limit},
                                                    {"validation", options.validation},
                                                    {"size", options.size},
                                                    {"classes", options.classes}};
  for (const auto& [option, value] : counts)
    require(value >= 0, option, " is ", value, ", expected 0 or more");
  require(options.classes == 0 || options.name == "shapes", "classes is ", options.classes,
          ", but the classes of '", options.name, "' are given by its files; leave it 0 (it is for shapes)");

  // `plain` is the training set as an evaluation reads it: what validation images come from.
  std::shared_ptr<Dataset> train, plain, test;
  Statistics usual;
  const bool images = options.name == "image_folder";
  if (options.name == "shapes") {
    require(options.folder.empty(), "folder is '", options.folder,
            "', but shapes are generated; leave it empty");
    const int64_t side = options.size ? options.size : 28, classes = options.classes ? options.classes : 4;
    const auto test_seed = RngStream(options.seed, "data/shapes/test").child(0).stream();
    train = generate_shapes(options.train_limit ? options.train_limit : 4000, side, 3, classes, options.seed);
    test = generate_shapes(options.test_limit ? options.test_limit : 1000, side, 3, classes, test_seed);
  } else {
    const auto& source = *std::find_if(std::begin(kSources), std::end(kSources),
                                       [&](const Source& s) { return options.name == s.name; });
    const auto folder = find_folder(source, options);
    if (options.name == "mnist") {
      train = read_mnist(folder, true);
      test = read_mnist(folder, false);
      if (train->size() == 60000) usual = {{0.1307}, {0.3081}};
    } else if (images) {
      const auto test_folder = folder + (is_folder(folder + "/test") ? "/test" : "/val");
      const int64_t side = options.size ? options.size : 224;
      require<DataError>(image_folder_classes(folder + "/train") == image_folder_classes(test_folder), "'",
                         folder, "/train' and '", test_folder,
                         "' have different class folders; give both the same");
      train = read_image_folder(folder + "/train", side, true);
      plain = read_image_folder(folder + "/train", side, false);
      test = read_image_folder(test_folder, side, false);
    } else {
      const int classes = options.name == "cifar10" ? 10 : 100;
      train = read_cifar(folder, true, classes);
      test = read_cifar(folder, false, classes);
      if (train->size() == 50000)
        usual = classes == 10 ? Statistics{{0.4914, 0.4822, 0.4465}, {0.2470, 0.2435, 0.2616}}
                              : Statistics{{0.5071, 0.4865, 0.4409}, {0.2673, 0.2564, 0.2763}};
    }
    require<DataError>(train->image_shape() == test->image_shape(), "train images are ",
                       shape_string(train->image_shape()), ", test images ",
                       shape_string(test->image_shape()), ": ", train->description(),
                       "; take both from the same set");
    if (options.size > 0 && !images && options.size != train->image_shape()[1]) {
      train = area_average(train, options.size);
      test = area_average(test, options.size);
      usual = {};
    }
  }

  const int64_t keep = limit(*train, options.train_limit, "train_limit");
  train = take(std::move(train), keep, images);
  if (plain) plain = take(std::move(plain), keep, images);
  test = take(test, limit(*test, options.test_limit, "test_limit"), images);

  DataSets sets;
  sets.test = std::move(test);
  if (options.validation > 0) {
    auto chosen = validation_indices(*train, options.validation, options.seed);
    auto rest = complement(chosen, train->size());
    sets.validation = subset(plain ? plain : train, std::move(chosen));
    if (plain) plain = subset(plain, rest);
    train = subset(train, std::move(rest));
  }
  if (options.label_noise > 0) train = with_label_noise(train, options.label_noise, options.seed);
  sets.train = std::move(train);
  if (usual.mean.empty()) usual = plain ? measure(*plain, 1000) : measure(*sets.train);
  sets.mean = std::move(usual.mean);
  sets.std = std::move(usual.std);
  return sets;
}

}  // namespace glyptic::data

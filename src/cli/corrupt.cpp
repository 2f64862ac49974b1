// glyptic corrupt: the test images of a data set under every corruption, in the layout of CIFAR-10-C.
#include "corrupt.h"

#include <torch/torch.h>

#include <filesystem>
#include <iostream>

#include "glyptic/core/error.h"
#include "glyptic/data/corruptions.h"

namespace glyptic::cli {
namespace {

struct CorruptArguments {
  data::DataOptions data;
  data::CorruptOptions corrupt;
  std::vector<std::string> names{"all"};
  std::string out;
};

void write(const CorruptArguments& arguments) {
  std::vector<std::string> names;
  const auto subsets = data::corruption_subsets();
  for (const auto& name : arguments.names) {
    const bool subset = std::find(subsets.begin(), subsets.end(), name) != subsets.end();
    for (const auto& one : subset ? data::corruption_names(name) : std::vector<std::string>{name}) {
      if (!subset) data::corruption_parameters(one, 1, 32);  // an unknown name is an error now
      if (std::find(names.begin(), names.end(), one) == names.end()) names.push_back(one);
    }
  }
  const auto test = data::load(arguments.data).test;
  std::error_code error;
  std::filesystem::create_directories(arguments.out, error);
  require<MissingFileError>(!error, "cannot make the folder '", arguments.out, "': ", error.message(),
                            "; choose one that can be written");
  data::write_cifar_c_labels(arguments.out, *test);
  for (const auto& name : names) {
    data::write_cifar_c(arguments.out, *test, name, arguments.corrupt);
    std::cout << arguments.out << "/" << name << ".npy" << std::endl;
  }
}

}  // namespace

void add_corrupt_command(CLI::App& app) {
  const auto arguments = std::make_shared<CorruptArguments>();
  auto* command =
      app.add_subcommand("corrupt", "write a test set under corruptions, in the layout of CIFAR-10-C");
  command->add_option("--out", arguments->out, "folder to write to")->required();
  command->add_option("--data", arguments->data.name, "data set (default cifar10)");
  arguments->data.name = "cifar10";
  command->add_option("--folder", arguments->data.folder, "where the data set is");
  command->add_option("--limit", arguments->data.test_limit, "the first n test images (0: all)");
  command->add_option("--name", arguments->names,
                      "corruptions, or subsets: all, common, validation, noise, blur, weather, digital");
  command->add_option("--seed", arguments->corrupt.seed, "of everything random (default 0)");
  command->add_option("--table", arguments->corrupt.table,
                      "parameters of 32, 64, 224 or 299 pixels (0: by the images' size)");
  command->add_option("--frost-folder", arguments->corrupt.frost_folder,
                      "where frost1.png ... frost5.jpg are");
  command->add_option("--threads", arguments->corrupt.threads, "0: torch's number");
  command->callback([arguments] { write(*arguments); });
}

}  // namespace glyptic::cli

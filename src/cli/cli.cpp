#include "glyptic/cli/cli.h"

#include <torch/torch.h>

#include <CLI/CLI.hpp>
#include <csignal>
#include <iostream>

#include "commands.h"
#include "corrupt.h"
#include "glyptic/core/build_info.h"
#include "glyptic/core/distributed.h"
#include "glyptic/core/error.h"
#include "glyptic/core/log.h"
#include "glyptic/core/safetensors.h"
#include "glyptic/data/dataset.h"
#include "glyptic/experiment/config.h"
#include "glyptic/experiment/experiment.h"
#include "glyptic/experiment/sweep.h"
#include "glyptic/nn/model.h"

namespace glyptic::cli {

namespace {

std::atomic<int> received_signal{0};
static_assert(std::atomic<int>::is_always_lock_free, "a signal handler may only touch lock-free atomics");

void on_signal(int signal) {
  if (received_signal.exchange(signal) != 0) std::_Exit(128 + signal);  // the second one does not wait
}

}  // namespace

const std::atomic<int>& stop_signal() {
  return received_signal;
}

SignalScope::SignalScope() {
  received_signal = 0;
  struct sigaction action {};
  action.sa_handler = on_signal;
  sigemptyset(&action.sa_mask);
  ::sigaction(SIGINT, &action, &old_int_);
  ::sigaction(SIGTERM, &action, &old_term_);
}

SignalScope::~SignalScope() {
  ::sigaction(SIGINT, &old_int_, nullptr);
  ::sigaction(SIGTERM, &old_term_, nullptr);
}

namespace {

void print(const std::string& text) {
  std::cout << text << std::flush;
}

// Without the table at the end, which a sweep prints once for all of its points.
void train_quietly(experiment::Experiment& experiment, experiment::RunFolder& folder) {
  if (folder.leads()) log::open_file(folder.file("log.txt"));
  const SignalScope signals;
  experiment::RunControl control;
  control.stop = &stop_signal();
  try {
    experiment.run(folder, control);
  } catch (const std::exception& error) {
    log::debug(str("ended: ", error.what()));
    log::close_file();
    // Missing data or a setting that cannot be: nothing was computed, and the folder is as it was.
    const auto* ours = dynamic_cast<const Error*>(&error);
    if (ours && (ours->exit_code() == kExitData || ours->exit_code() == kExitUsage)) folder.discard_unbegun();
    throw;
  }
  if (!folder.leads()) return;
  log::info(str("results in ", folder.path()));
  log::close_file();
}

void train(experiment::Experiment& experiment, experiment::RunFolder& folder) {
  train_quietly(experiment, folder);
  if (folder.leads()) print(experiment::results_table({folder.file("results.json")}));
}

void warn_if_environment_changed(const experiment::RunFolder& folder) {
  if (!folder.has("environment.json")) return;
  if (read_file(folder.file("environment.json")) != experiment::environment_json())
    log::warn(
        "threads, versions or machine are not those the run began with (environment.json): it continues, but "
        "its last bits may differ from an unbroken run's");
}

// Before the environment is written down or compared: it holds the number of threads.
void set_threads(const Options& options) {
  if (!options.contains("threads")) return;
  const auto threads = std::get<int64_t>(options.at("threads").get());
  if (threads > 0) at::set_num_threads(static_cast<int>(threads));
}

experiment::RunFolder start_folder(const std::string& path, const Options& options) {
  auto folder = experiment::RunFolder::create(path);
  folder.lock();
  write_file_atomically(folder.file("environment.json"), experiment::environment_json());
  // The config comes last: a folder with a config is a run that can be resumed.
  write_file_atomically(folder.file("config.yaml"), experiment::to_yaml(options));
  wait_for_all();
  return folder;
}

/// The folder that the leading process makes, once it has.
experiment::RunFolder joined_folder(const std::string& path) {
  wait_for_all();
  return experiment::RunFolder::follow(path);
}

// `--sweep a=1,2 b=3` becomes `--sweep a=1,2 --sweep b=3`, so that `--sweep a=1,2 file.yaml` still has its
// file.
std::vector<std::string> part_sweeps(const std::vector<std::string>& arguments) {
  const auto is_assignment = [](const std::string& word) {
    const auto equals = word.find('=');
    return equals != std::string::npos && equals > 0 &&
           word.find_first_not_of("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._") ==
               equals;
  };
  std::vector<std::string> result;
  bool inside = false;
  for (const auto& argument : arguments) {
    const bool first = !result.empty() && result.back() == "--sweep";
    inside = argument == "--sweep" || first || (inside && is_assignment(argument));
    if (inside && !first && argument != "--sweep") result.push_back("--sweep");
    result.push_back(argument);
  }
  return result;
}

// A scheduler's array index where there is one.
std::optional<std::size_t> sweep_index(int64_t given) {
  if (given >= 0) return static_cast<std::size_t>(given);
  const char* task = std::getenv("SLURM_ARRAY_TASK_ID");
  if (task == nullptr || *task == '\0') return std::nullopt;
  const std::string text = task;
  require(text.size() < 10 && text.find_first_not_of("0123456789") == std::string::npos,
          "SLURM_ARRAY_TASK_ID is '", text, "', expected a whole number; unset it or give --sweep-index");
  log::info(str("SLURM_ARRAY_TASK_ID picks point ", text));
  return static_cast<std::size_t>(std::stoul(text));
}

int sweep(experiment::SweepOptions options, const std::vector<std::string>& axes, int64_t index) {
  require(
      !ranks().several(),
      "--sweep runs one point after the other in one process; start one run of several processes per point");
  for (const auto& axis : axes) options.axes.push_back(experiment::parse_axis(axis));
  options.index = sweep_index(index);
  const auto result = experiment::run_sweep(
      options, [](experiment::Experiment& experiment, experiment::RunFolder& folder, bool resumed) {
        if (resumed) warn_if_environment_changed(folder);
        train_quietly(experiment, folder);
      });
  std::vector<std::string> files;
  for (const auto& folder : result.finished) files.push_back(folder + "/results.json");
  if (!files.empty()) print(experiment::results_table(files));
  if (result.failed > 0)
    log::error(str(result.failed, " of ", result.finished.size() + result.failed,
                   " points failed; the same command tries them again"));
  return result.exit_code;
}

std::string doctor() {
  std::ostringstream out;
  out << "glyptic " << version() << ", built for torch " << built_for_torch() << ", running torch "
      << TORCH_VERSION << '\n';
  out << "threads " << at::get_num_threads() << ", CPU capability " << at::get_cpu_capability() << '\n';
  if (has_cuda())
    out << "CUDA kernels built; devices: " << (torch::cuda::is_available() ? torch::cuda::device_count() : 0)
        << '\n';
  else
    out << "CUDA kernels not built: CUDA tensors use the composite operators\n";
  for (const auto& name : data::dataset_names()) {
    const auto folders = data::data_folders(name);
    if (!folders.empty()) out << "data set " << name << ": " << folders.front() << '\n';
  }
  // One masked step, so that a broken installation shows here and not an hour into a run.
  const auto graph = nn::build_graph("mlp");
  nn::Model model(graph, RngStream(0, "doctor"));
  model.forward(at::zeros({1, 1, 28, 28})).sum().backward();
  out << "forward and backward: ok\n";
  return out.str();
}

int dispatch(const std::vector<std::string>& arguments) {
  CLI::App app{"Glyptic: sparse training on LibTorch, down to the small dense network", "glyptic"};
  app.require_subcommand(1);
  app.set_version_flag("--version", str("glyptic ", version(), " (torch ", built_for_torch(), ")"));
  bool verbose = false, quiet = false;
  app.add_flag("-v,--verbose", verbose, "also show debug lines");
  app.add_flag("-q,--quiet", quiet, "only warnings, errors and results");

  std::string config, out, folder, name, format = "markdown";
  std::vector<std::string> sets, sweeps, folders;
  int64_t index = -1;
  bool dry = false, markdown = false;

  auto* run = app.add_subcommand("run", "run the experiment of a YAML file");
  run->add_option("config", config, "YAML file")->required();
  // One value for each --set, so that `--set a=1 file.yaml` still has its file.
  run->add_option("--set", sets, "override an option: --set train.epochs=2 (repeatable)")
      ->allow_extra_args(false);
  run->add_option("--out", out, "run folder; default runs/<name>");
  auto* sweep_option =
      run->add_option("--sweep", sweeps, "run a grid: --sweep seed=1,2,3 sparsity.density=0.05,0.1")
          ->allow_extra_args(false);
  run->add_option("--sweep-index", index, "only this point of the grid, from 0; default $SLURM_ARRAY_TASK_ID")
      ->needs(sweep_option)
      ->check(CLI::Range(int64_t{0}, int64_t{9999}));

  auto* resume = app.add_subcommand("resume", "continue a run from its last checkpoint");
  resume->add_option("folder", folder, "run folder")->required();

  auto* validate = app.add_subcommand("validate", "check a YAML file and print it resolved");
  validate->add_option("config", config, "YAML file")->required();
  validate->add_option("--set", sets, "override an option")->allow_extra_args(false);
  validate->add_flag("--dry-run", dry, "also build the network and take one step on random data");

  auto* list = app.add_subcommand("list", "experiments, methods, networks, data sets");

  auto* describe = app.add_subcommand("describe", "explain one of them, or an option");
  describe->add_option("name", name, "for example chase, classification, sparsity.density");
  describe->add_flag("--markdown", markdown, "the whole reference page");

  auto* table = app.add_subcommand("table", "results of runs as one table");
  table->add_option("runs", folders, "run folders, or folders of run folders")->required();
  table->add_option("--format", format, "markdown, csv or latex");

  app.add_subcommand("report", "runs as one HTML page (see: glyptic report --help)");

  auto* doctor_command = app.add_subcommand("doctor", "check the installation");
  add_corrupt_command(app);
  DataCommand data_command(app);
  for (auto* command : app.get_subcommands({})) {
    command->add_flag("-v,--verbose", verbose, "also show debug lines");
    command->add_flag("-q,--quiet", quiet, "only warnings, errors and results");
  }

  std::vector<std::string> commands;
  for (const auto* command : app.get_subcommands({})) commands.push_back(command->get_name());
  if (!arguments.empty() && arguments[0].rfind('-', 0) != 0)
    require(std::find(commands.begin(), commands.end(), arguments[0]) != commands.end(), "unknown command '",
            arguments[0], "'", did_you_mean(arguments[0], commands), "; see: glyptic --help");
  require(
      arguments.empty() || arguments[0] != "report",
      "report is a command of the program and of `python -m glyptic`; in Python call glyptic.report.main()");
  auto reversed = part_sweeps(arguments);
  std::reverse(reversed.begin(), reversed.end());  // as CLI11 wants them
  try {
    app.parse(reversed);
  } catch (const CLI::ParseError& error) {
    if (error.get_exit_code() == 0) return app.exit(error);  // --help, --version
    throw ArgumentError(str(error.what(), " (see: glyptic --help)"));
  }
  log::set_level(!ranks().leads() ? log::Level::error
                 : verbose        ? log::Level::debug
                 : quiet          ? log::Level::warn
                                  : log::Level::info);

  if (run->parsed() && !sweeps.empty()) {
    return sweep({config, sets, {}, out, {}}, sweeps, index);
  } else if (run->parsed()) {
    auto loaded = experiment::load_experiment(config, sets);
    if (out.empty()) out = "runs/" + std::get<std::string>(loaded.options->at("name").get());
    set_threads(*loaded.options);
    auto run_folder = ranks().leads() ? start_folder(out, *loaded.options) : joined_folder(out);
    train(*loaded.experiment, run_folder);
  } else if (resume->parsed()) {
    auto run_folder =
        ranks().leads() ? experiment::RunFolder::open(folder) : experiment::RunFolder::follow(folder);
    auto loaded = experiment::load_experiment(run_folder.file("config.yaml"), {});
    if (run_folder.has("results.json")) {
      log::info(str("'", folder, "' is finished"));
      if (!ranks().leads()) return kExitOk;
      print(experiment::results_table({run_folder.file("results.json")}));
      return kExitOk;
    }
    run_folder.lock();
    wait_for_all();
    set_threads(*loaded.options);
    warn_if_environment_changed(run_folder);
    train(*loaded.experiment, run_folder);
  } else if (validate->parsed()) {
    auto loaded = experiment::load_experiment(config, sets);
    if (dry) loaded.experiment->dry_run();
    print(experiment::to_yaml(*loaded.options));
  } else if (list->parsed()) {
    print(experiment::list_everything());
  } else if (describe->parsed()) {
    require(markdown || !name.empty(), "describe: name something, for example: glyptic describe chase");
    print(markdown ? experiment::reference_markdown() : experiment::describe(name));
  } else if (table->parsed()) {
    std::vector<std::string> files;
    std::vector<std::string> runs;
    for (const auto& given : folders)
      for (const auto& path : experiment::runs_in(given)) runs.push_back(path);
    for (const auto& path : runs) {
      const auto opened = experiment::RunFolder::open(path);
      require<MissingFileError>(opened.has("results.json"), "'", path,
                                "' has no results yet; continue it with: glyptic resume ", path);
      files.push_back(opened.file("results.json"));
    }
    print(experiment::results_table(files, format));
  } else if (data_command.parsed()) {
    data_command.run();
  } else if (doctor_command->parsed()) {
    print(doctor());
  }
  return kExitOk;
}

}  // namespace

int run(const std::vector<std::string>& arguments) {
  const auto one_line = [](std::string text) {
    text = text.substr(0, text.find('\n'));  // torch appends its C++ stack
    return text;
  };
  try {
    return dispatch(arguments);
  } catch (const Error& error) {
    std::cerr << "glyptic: " << one_line(error.what()) << std::endl;
    return error.exit_code();
  } catch (const c10::Error& error) {
    std::cerr << "glyptic: internal error: " << one_line(error.what_without_backtrace()) << std::endl;
  } catch (const std::exception& error) {
    std::cerr << "glyptic: internal error: " << one_line(error.what()) << std::endl;
  }
  return kExitInternal;
}

}  // namespace glyptic::cli

// Runs end to end, tiny ones: what a run leaves behind, and that an interrupted run ends with the same bits.
#include <gtest/gtest.h>
#include <torch/torch.h>

#include <bit>
#include <csignal>
#include <cstring>
#include <nlohmann/json.hpp>
#include <set>

#include "glyptic/experiment/classification.h"
#include "glyptic/sparsity/sparsifier.h"
#include "support.h"

namespace glyptic::experiment {
namespace {

using Json = nlohmann::json;
using Sets = std::vector<std::string>;

constexpr const char* kTiny = R"(
threads: 1
data: {name: shapes, train_limit: 160, test_limit: 40, size: 12, classes: 3}
model: {name: mlp, widths: [12, 8]}
optimizer: {lr: 0.05}
lr: {warmup_epochs: 0.5}
train: {epochs: 2, batch_size: 16, eval_batch_size: 40, log_every: 3, checkpoint_every: 4}
throughput: {enabled: false}
)";

const Sets kChase{"name=chase",
                  "model.name=vgg_small",
                  "model.widths=[]",
                  "model.width=0.0625",
                  "augment.crop_padding=1",
                  "augment.flip=true",
                  "train.baseline=true",
                  "sparsity.method=chase",
                  "sparsity.density=0.15",
                  "sparsity.update_every=3"};
const Sets kRigl{"name=rigl",
                 "optimizer.name=adamw",
                 "model.dropout=0.2",
                 "augment.cutout=3",
                 "train.accumulate=2",
                 "train.epochs=3",
                 "sparsity.method=rigl",
                 "sparsity.density=0.2",
                 "sparsity.score_steps=2",
                 "sparsity.update_every=3"};

class RunTest : public FolderTest {
 protected:
  // One process' worth of a run: from the start or from where `name` is; `signal` is there from the first
  // step.
  void go(const std::string& name, const Sets& sets, int signal = 0) {
    Classification experiment;
    Options options;
    experiment.declare(options);
    ConfigFile::parse(kTiny, "tiny").apply(options);
    for (const auto& set : sets) apply_set(options, set);
    experiment.check();
    const auto folder_path = path(name);
    auto folder = std::filesystem::exists(folder_path + "/config.yaml") ? RunFolder::open(folder_path)
                                                                        : RunFolder::create(folder_path);
    folder.lock();
    write_file_atomically(folder.file("config.yaml"), to_yaml(options));
    const std::atomic<int> stop{signal};
    RunControl control;
    control.stop = &stop;
    experiment.run(folder, control);
  }

  // Interrupts after every single step, until nothing is left to interrupt. Returns how often.
  int crawl(const std::string& name, const Sets& sets) {
    for (int times = 0; times < 200; ++times) {
      try {
        go(name, sets, SIGINT);
        return times;
      } catch (const Interrupted& stopped) {
        EXPECT_EQ(stopped.exit_code(), 130);
        expect_contains(stopped.what(), "continue with: glyptic resume " + path(name));
        if (phase_of(name) == "finish") {
          go(name, sets);
          return times + 1;
        }
      }
    }
    ADD_FAILURE() << "it never ends";
    return 0;
  }

  std::string phase_of(const std::string& name) const {
    return SafeTensors(path(name) + "/checkpoints/last.safetensors").metadata().at("phase");
  }

  // The wall-clock seconds are the only thing that may differ.
  static void expect_same_bits(const std::string& a, const std::string& b) {
    SCOPED_TRACE(a);
    const SafeTensors x(a), y(b);
    ASSERT_EQ(x.infos().size(), y.infos().size());
    for (const auto& info : x.infos()) {
      auto left = x.tensor(info.name), right = y.tensor(info.name);
      if (info.name == "progress") {
        ASSERT_EQ(left.numel(), 7);
        left = left.narrow(0, 0, 6), right = right.narrow(0, 0, 6);
      }
      ASSERT_EQ(left.sizes(), right.sizes()) << info.name;
      EXPECT_EQ(std::memcmp(left.contiguous().data_ptr(), right.contiguous().data_ptr(), left.nbytes()), 0)
          << info.name;
    }
    EXPECT_EQ(x.metadata(), y.metadata());
  }

  // What must be equal, whatever happened on the way.
  void expect_same_run(const std::string& a, const std::string& b) {
    EXPECT_EQ(slurp(path(a) + "/metrics.jsonl"), slurp(path(b) + "/metrics.jsonl"));
    int files = 0;
    for (const auto& entry : std::filesystem::directory_iterator(path(a) + "/checkpoints")) {
      ++files;
      expect_same_bits(entry.path().string(), path(b) + "/checkpoints/" + entry.path().filename().string());
    }
    EXPECT_GE(files, 2);
    const auto x = results(a), y = results(b);
    ASSERT_EQ(x["rows"].size(), y["rows"].size());
    for (std::size_t i = 0; i < x["rows"].size(); ++i)
      for (const auto& [key, value] : x["rows"][i].items()) {
        if (key != "training_seconds") {
          EXPECT_EQ(value, y["rows"][i][key]) << key;
        }
      }
    if (std::filesystem::exists(path(a) + "/extracted"))
      for (const char* file : {"model.safetensors", "graph.json", "plan.json"})
        EXPECT_EQ(slurp(path(a) + "/extracted/" + file), slurp(path(b) + "/extracted/" + file)) << file;
  }

  Json results(const std::string& name) const { return Json::parse(slurp(path(name) + "/results.json")); }
  std::vector<Json> metrics(const std::string& name) const {
    std::vector<Json> lines;
    std::istringstream in(slurp(path(name) + "/metrics.jsonl"));
    for (std::string line; std::getline(in, line);) lines.push_back(Json::parse(line));
    return lines;
  }
};

Sets with(Sets sets, const Sets& more) {
  sets.insert(sets.end(), more.begin(), more.end());
  return sets;
}

TEST_F(RunTest, InterruptedAfterEveryStepItEndsWithTheSameBits) {
  go("a", kChase);
  // 2 phases of 20 steps; the last step of a phase ends the phase.
  EXPECT_EQ(crawl("b", kChase), 40);
  expect_same_run("a", "b");
}

TEST_F(RunTest, AccumulationWarmUpDropoutAndAdamwSurviveInterruptionsToo) {
  go("a", kRigl);
  EXPECT_EQ(crawl("b", kRigl), 15);
  expect_same_run("a", "b");
}

TEST_F(RunTest, TheBestOnValidationSurvivesInterruptions) {
  const auto sets = with(kChase, {"data.validation=40", "train.select=best_val", "train.epochs=5",
                                  "train.baseline=false", "optimizer.lr=0.3"});
  go("a", sets);
  crawl("b", sets);
  expect_same_run("a", "b");
}

TEST_F(RunTest, ASignalEndsAfterTheStepInTheMiddleOfAnEpoch) {
  try {
    go("a", kRigl, SIGTERM);
    FAIL();
  } catch (const Interrupted& stopped) {
    EXPECT_EQ(stopped.exit_code(), 143);
    EXPECT_EQ(std::string(stopped.what()),
              "stopped after step 1 of 'rigl'; continue with: glyptic resume " + path("a"));
  }
  const SafeTensors saved(path("a") + "/checkpoints/last.safetensors");
  EXPECT_EQ(saved.tensor("progress")[0].item<double>(), 1);
  EXPECT_EQ(saved.metadata().at("phase"), "rigl");
  const auto lines = metrics("a");  // nothing but the masks that the seed drew
  ASSERT_EQ(lines.size(), 1);
  EXPECT_EQ(lines[0]["step"], 0);
  EXPECT_EQ(saved.metadata().at("metrics_bytes"), std::to_string(slurp(path("a") + "/metrics.jsonl").size()));
  EXPECT_FALSE(std::filesystem::exists(path("a") + "/results.json"));
}

TEST_F(RunTest, BetweenTwoPhasesTheNextStartsFromItsOwnWeights) {
  // Until `last` names the next phase while it still holds the network of the one before.
  const auto ended = [&] {
    const SafeTensors last(path("b") + "/checkpoints/last.safetensors");
    return last.metadata().at("phase") == "chase" && last.metadata().at("trained") == "dense";
  };
  for (int i = 0; i < 100; ++i) {
    EXPECT_THROW(go("b", kChase, SIGINT), Interrupted);
    if (ended()) break;
  }
  ASSERT_TRUE(ended());
  go("b", kChase);
  go("a", kChase);
  expect_same_run("a", "b");
}

TEST_F(RunTest, LinesAfterTheCheckpointAreWrittenAgain) {
  go("a", kRigl);
  for (int i = 0; i < 4; ++i) EXPECT_THROW(go("b", kRigl, SIGINT), Interrupted);
  std::ofstream(path("b") + "/metrics.jsonl", std::ios::app) << "{\"step\":99}\n{\"torn";
  go("b", kRigl);
  expect_same_run("a", "b");
}

TEST_F(RunTest, RefusesMetricsThatWereCutShort) {
  for (int i = 0; i < 4; ++i) EXPECT_THROW(go("a", kRigl, SIGINT), Interrupted);
  std::filesystem::resize_file(path("a") + "/metrics.jsonl", 3);
  expect_contains(message_of<DataError>([&] { go("a", kRigl); }), "metrics.jsonl' is shorter than the");
  std::filesystem::remove(path("a") + "/metrics.jsonl");
  expect_contains(message_of<DataError>([&] { go("a", kRigl); }), "metrics.jsonl' is missing");
}

TEST_F(RunTest, AnInterruptedFinishRepeatsOnlyTheFinish) {
  go("a", kChase);
  std::filesystem::copy(path("a"), path("b"), std::filesystem::copy_options::recursive);
  std::filesystem::remove(path("b") + "/results.json");
  std::filesystem::remove_all(path("b") + "/extracted");
  EXPECT_EQ(message_of<Interrupted>([&] { go("b", kChase, SIGINT); }),
            "stopped after training; continue with: glyptic resume " + path("b"));
  go("b", kChase);
  expect_same_run("a", "b");
}

TEST_F(RunTest, MaskEventsAreRecorded) {
  go("rigl", kRigl);
  // The masks that the seed draws are those after a first step, at which none change.
  go("first", with(kRigl, {"train.max_steps=1"}));
  const SafeTensors first(path("first") + "/checkpoints/rigl.safetensors"),
      last(path("rigl") + "/checkpoints/rigl.safetensors");
  const auto bits = [](uint8_t byte) { return std::popcount(byte); };
  int64_t both = 0, either = 0;
  std::map<std::string, int64_t> active_first, active_last;
  for (const auto& info : last.infos()) {
    if (info.name.rfind("sparsity.mask.", 0) != 0) continue;
    const auto a = first.tensor(info.name), b = last.tensor(info.name);
    for (int64_t i = 0; i < a.numel(); ++i) {
      const auto x = a.data_ptr<uint8_t>()[i], y = b.data_ptr<uint8_t>()[i];
      both += bits(x & y);
      either += bits(x | y);
      active_first[info.name.substr(14)] += bits(x);
      active_last[info.name.substr(14)] += bits(y);
    }
  }
  ASSERT_EQ(active_first.size(), 3);
  std::vector<Json> records;
  std::vector<int64_t> steps;
  for (const auto& line : metrics("rigl")) {
    if (!line.contains("masks")) continue;
    records.push_back(line["masks"]);
    steps.push_back(line["step"].get<int64_t>());
  }
  // 15 steps: one event at 3, 6 and 9 (RigL explores until 0.75 of them).
  EXPECT_EQ(steps, (std::vector<int64_t>{0, 3, 6, 9}));
  EXPECT_EQ(records.front()["size"],
            (Json{{"fc1.weight", 12 * 432}, {"fc2.weight", 8 * 12}, {"fc3.weight", 3 * 8}}));
  EXPECT_EQ(records.front()["active"], Json(active_first));
  EXPECT_EQ(records.back()["active"], Json(active_last));
  EXPECT_DOUBLE_EQ(records.back()["overlap_first"].get<double>(),
                   static_cast<double>(both) / static_cast<double>(either));
  int64_t active = 0;
  for (const auto& [name, count] : active_first) active += count;
  for (std::size_t i = 1; i < records.size(); ++i) {
    const auto dropped = records[i]["dropped"].get<int64_t>(), grown = records[i]["grown"].get<int64_t>();
    EXPECT_GT(dropped, 0);
    EXPECT_DOUBLE_EQ(records[i]["overlap_previous"].get<double>(),
                     static_cast<double>(active - dropped) / static_cast<double>(active + grown));
    active += grown - dropped;
  }
  EXPECT_EQ(records[1]["overlap_previous"], records[1]["overlap_first"]);
  EXPECT_LT(records.back()["overlap_first"].get<double>(), records[1]["overlap_first"].get<double>());
}

TEST_F(RunTest, LiveChannelsAreRecordedFromAllToWhatIsLeft) {
  go("chase", kChase);
  std::vector<Json> records;
  for (const auto& line : metrics("chase"))
    if (line.contains("masks")) records.push_back(line["masks"]["live_channels"]);
  ASSERT_GE(records.size(), 3);
  int64_t all = 0, left = 0;
  for (const auto& count : records.front()) all += count.get<int64_t>();
  for (const auto& count : records.back()) left += count.get<int64_t>();
  EXPECT_EQ(results("chase")["rows"].back()["live_channels"], str(left, "/", all));
  EXPECT_LT(left, all);
}

TEST_F(RunTest, LoaderThreadsChangeNoBit) {
  const auto sets = with(kRigl, {"augment.crop_padding=1", "augment.flip=true"});
  go("a", with(sets, {"train.loader_threads=0"}));
  for (const int threads : {1, 3}) {
    const auto name = "b" + std::to_string(threads);
    go(name, with(sets, {"train.loader_threads=" + std::to_string(threads)}));
    expect_same_run("a", name);
  }
}

TEST_F(RunTest, ResultsHoldTheTableAndWhereItComesFrom) {
  go("a", with(kChase, {"throughput.enabled=true", "throughput.batches=[1, 2]", "throughput.repeats=5",
                        "throughput.warmup=0", "paper.title=T", "paper.differs=[one, two]"}));
  const auto r = results("a");
  EXPECT_EQ(r["format"], "glyptic results 1");
  EXPECT_EQ(r["name"], "chase");
  EXPECT_EQ(r["seed"], 1);
  EXPECT_EQ(r["model"], "vgg_small");
  EXPECT_EQ(r["paper"], "T");
  EXPECT_EQ(r["differs"], Json::array({"one", "two"}));
  EXPECT_EQ(r["environment"]["glyptic"], version());
  EXPECT_EQ(r["environment"]["threads"], 1);
  ASSERT_EQ(r["rows"].size(), 3u);
  const std::vector<std::string> networks{"dense", "masked", "extracted"};
  for (std::size_t i = 0; i < 3; ++i) {
    const auto& row = r["rows"][i];
    EXPECT_EQ(row["network"], networks[i]);
    EXPECT_GE(row["accuracy"].get<double>(), 0);
    EXPECT_LE(row["accuracy"].get<double>(), 100);
    EXPECT_GT(row["images_per_second_1"].get<double>(), 0);
    EXPECT_EQ(row["timing"]["2"]["calls"], 5);
    EXPECT_EQ(row["steps"], 20);
  }
  const auto &dense = r["rows"][0], &masked = r["rows"][1], &extracted = r["rows"][2];
  EXPECT_EQ(dense["density"], 1.0);
  EXPECT_EQ(dense["training_flops_ratio"], 1.0);
  EXPECT_NEAR(masked["density"].get<double>(), 0.15, 1e-3);  // round(d N) of some thousand weights
  EXPECT_LT(masked["parameters"].get<double>(), dense["parameters"].get<double>());
  EXPECT_LT(masked["flops"].get<double>(), dense["flops"].get<double>());
  EXPECT_EQ(masked["source"], "released code");
  // Half of the channels that may go are gone, and the small network computes the same.
  EXPECT_EQ(masked["live_channels"], extracted["live_channels"]);
  EXPECT_EQ(masked["accuracy"], extracted["accuracy"]);
  EXPECT_LT(extracted["flops"].get<double>(), dense["flops"].get<double>());
  EXPECT_LE(r["extraction"]["max_logit_difference"].get<double>(),
            1e-5 * r["extraction"]["max_logit"].get<double>());
  // Every column of the table has its key in a row.
  for (const auto& column : r["columns"])
    EXPECT_TRUE(masked.contains(column["key"].get<std::string>())) << column;
  // The metrics hold no times, so that they can be equal.
  for (const auto& line : metrics("a"))
    for (const auto& [key, value] : line.items()) EXPECT_EQ(key.find("second"), std::string::npos);
}

TEST_F(RunTest, TheResolvedConfigIsWhatRan) {
  go("a", kRigl);
  const auto loaded = load_experiment(path("a") + "/config.yaml", {});
  EXPECT_EQ(to_yaml(*loaded.options), slurp(path("a") + "/config.yaml"));
  EXPECT_EQ(to_text(loaded.options->at("sparsity.skip_optimizer_on_update").get()), "true");  // rigl's preset
  // Running the resolved file gives the same run.
  auto folder = RunFolder::create(path("b"));
  write_file_atomically(folder.file("config.yaml"), to_yaml(*loaded.options));
  loaded.experiment->run(folder, RunControl());
  expect_same_run("a", "b");
}

TEST_F(RunTest, TheBestOnValidationIsTakenAndSaysWhich) {
  // A rate that climbs over the whole run spoils the network again: the best epoch is not the last.
  const Sets sets{"data.validation=40", "train.select=best_val",  "train.epochs=6",
                  "optimizer.lr=4",     "lr.schedule=constant",   "lr.warmup_epochs=6",
                  "name=best",          "optimizer.momentum=0.95"};
  go("a", sets);
  double best = -1;
  int64_t best_step = 0;
  for (const auto& line : metrics("a")) {
    if (!line.contains("validation_accuracy")) continue;
    EXPECT_FALSE(line.contains("test_accuracy"));
    if (line["validation_accuracy"].get<double>() > best) {
      best = line["validation_accuracy"];
      best_step = line["step"];
    }
  }
  const SafeTensors taken(path("a") + "/checkpoints/dense.safetensors"),
      kept(path("a") + "/checkpoints/best.dense.safetensors");
  const auto progress = taken.tensor("progress");
  EXPECT_EQ(progress[0].item<double>(), 42);  // 120 images, 7 steps an epoch: the run's own end
  EXPECT_EQ(progress[4].item<double>(), best);
  EXPECT_EQ(progress[5].item<double>(), static_cast<double>(best_step));
  ASSERT_LT(best_step, 42) << "the test needs a run whose best epoch is not its last";
  EXPECT_EQ(kept.tensor("progress")[0].item<double>(), static_cast<double>(best_step));
  for (const auto& info : kept.infos()) {
    if (info.name.rfind("model.", 0) == 0) {
      EXPECT_TRUE(at::equal(taken.tensor(info.name), kept.tensor(info.name))) << info.name;
    }
  }
  EXPECT_EQ(results("a")["rows"][0]["steps"], 42);
}

TEST_F(RunTest, TheBestIsSoughtOnlyAmongNetworksOfTheFinalSize) {
  // Gradual pruning starts dense, where validation is easiest; no such network may be the result.
  const Sets sets{"data.validation=40",
                  "train.select=best_val",
                  "train.epochs=6",
                  "sparsity.method=gmp",
                  "sparsity.density=0.05",
                  "sparsity.update_every=2",
                  "sparsity.prune_end=0.6667",
                  "name=gmp",
                  "optimizer.lr=0.01"};
  go("a", sets);
  EXPECT_NEAR(results("a")["rows"][1]["density"].get<double>(), 0.05, 1e-3);
  const SafeTensors taken(path("a") + "/checkpoints/gmp.safetensors");
  EXPECT_GE(taken.tensor("progress")[5].item<double>(), 28);  // 42 steps, pruned until step 28
}

// --- what can go wrong

TEST_F(RunTest, ADivergedRunKeepsItsLastGoodCheckpoint) {
  for (int i = 0; i < 3; ++i) EXPECT_THROW(go("a", kRigl, SIGINT), Interrupted);
  const auto before = slurp(path("a") + "/checkpoints/last.safetensors");
  const auto message = message_of<DivergenceError>([&] {
    go("a", with(kRigl, {"optimizer.lr=1e38", "optimizer.eps=1e-8", "train.checkpoint_every=0"}));
  });
  expect_contains(message, "of 'rigl'");
  expect_contains(message, "lower optimizer.lr");
  expect_contains(message, path("a") + "/checkpoints/last.safetensors");
  EXPECT_EQ(slurp(path("a") + "/checkpoints/last.safetensors"), before);
  go("a", kRigl);  // and it still continues
  go("b", kRigl);
  expect_same_run("b", "a");
}

TEST_F(RunTest, WeightsThatAreNotFiniteAreNeverSaved) {
  // One step, finite loss, infinite weights: nothing but the weights themselves tells.
  const Sets sets{"train.max_steps=1", "optimizer.lr=1e300", "lr.warmup_epochs=0", "name=inf"};
  const auto message = message_of<DivergenceError>([&] { go("a", sets); });
  expect_contains(message, "holds NaN or Inf after step 1 of 'dense'");
  EXPECT_FALSE(std::filesystem::exists(path("a") + "/checkpoints/last.safetensors"));
}

TEST_F(RunTest, ADamagedCheckpointIsNamed) {
  EXPECT_THROW(go("a", kRigl, SIGINT), Interrupted);
  const auto file = path("a") + "/checkpoints/last.safetensors";
  const auto whole = slurp(file);
  std::filesystem::resize_file(file, whole.size() - 5);
  expect_contains(message_of<DataError>([&] { go("a", kRigl); }), "last.safetensors', byte");
  write("a/checkpoints/last.safetensors", "nonsense that is not a header");
  expect_contains(message_of<DataError>([&] { go("a", kRigl); }), "last.safetensors', byte");
  save_safetensors(file, {{"x", at::ones({1})}});
  expect_contains(message_of<DataError>([&] { go("a", kRigl); }), "not one of a run");
}

TEST_F(RunTest, ACheckpointOfAnotherNetworkNamesTheTensor) {
  EXPECT_THROW(go("a", kRigl, SIGINT), Interrupted);
  const auto message = message_of<DataError>([&] { go("a", with(kRigl, {"model.widths=[12, 9]"})); });
  expect_contains(message, "checkpoints/last.safetensors' does not fit config.yaml");
  expect_contains(message, "fc2.weight");
  expect_contains(message, "[8, 12]");
  expect_contains(message_of<DataError>([&] { go("a", with(kRigl, {"sparsity.method=set"})); }),
                  "of phase 'rigl', which this config does not have");
  // Bytes that are not what they claim: a progress of another kind, and a bad count of metrics.
  const auto file = path("a") + "/checkpoints/last.safetensors";
  const SafeTensors saved(file);
  auto tensors = saved.tensors();
  auto metadata = saved.metadata();
  metadata["metrics_bytes"] = "12x";
  save_safetensors(path("copy"), tensors, metadata);
  std::filesystem::copy_file(path("copy"), file, std::filesystem::copy_options::overwrite_existing);
  expect_contains(message_of<DataError>([&] { go("a", kRigl); }), "metrics_bytes is '12x'");
  tensors.back().tensor = at::zeros({3});
  save_safetensors(path("copy"), tensors, saved.metadata());
  std::filesystem::copy_file(path("copy"), file, std::filesystem::copy_options::overwrite_existing);
  expect_contains(message_of<DataError>([&] { go("a", kRigl); }), "'progress' has the wrong shape");
}

TEST_F(RunTest, FoldersAreTakenOnce) {
  auto first = RunFolder::create(path("a"));
  first.lock();
  write("a/config.yaml", "name: a\n");
  auto second = RunFolder::open(path("a"));
  expect_contains(message_of<ArgumentError>([&] { second.lock(); }), "another process is running in");
  RunFolder::create(path("a"));  // nothing was computed yet, so nothing can be lost
  write("a/metrics.jsonl", "{}\n");
  expect_contains(message_of<ArgumentError>([&] { RunFolder::create(path("a")); }),
                  "already holds a run; continue it with: glyptic resume " + path("a"));
  { auto moved = std::move(first); }  // its end releases the lock
  // What a writer killed before its rename leaves goes with the next lock; other names are somebody's files.
  write("a/checkpoints/.glyptic-41-6.tmp", "half");
  write("a/.glyptic-41-7.tmp", "half");
  write("a/checkpoints/.glyptic.tmp", "mine");
  second.lock();
  EXPECT_FALSE(std::filesystem::exists(path("a/checkpoints/.glyptic-41-6.tmp")));
  EXPECT_FALSE(std::filesystem::exists(path("a/.glyptic-41-7.tmp")));
  EXPECT_TRUE(std::filesystem::exists(path("a/checkpoints/.glyptic.tmp")));
  expect_contains(message_of<MissingFileError>([&] { RunFolder::open(path("none")); }), "holds no run");
  write("file", "x");
  expect_contains(message_of<MissingFileError>([&] { RunFolder::create(path("file")); }),
                  "cannot make the run folder");
  write("b/checkpoints/last.safetensors", "x");
  expect_contains(message_of<ArgumentError>([&] { RunFolder::create(path("b")); }), "no config.yaml");
}

TEST_F(RunTest, TooFewImagesForABatchAreNamed) {
  expect_contains(message_of<ArgumentError>([&] { go("a", with(kRigl, {"train.batch_size=81"})); }),
                  "train.batch_size x train.accumulate is 162, more than the 160");
}

TEST_F(RunTest, ASeedOfItsOwnMovesTheMasksAndNothingElse) {
  const auto sets = with(kRigl, {"train.max_steps=1", "extract.enabled=false"});
  go("a", sets);
  go("b", with(sets, {"sparsity.seed=5"}));
  const SafeTensors a(path("a") + "/checkpoints/rigl.safetensors"),
      b(path("b") + "/checkpoints/rigl.safetensors");
  EXPECT_FALSE(at::equal(a.tensor("sparsity.mask.fc1.weight"), b.tensor("sparsity.mask.fc1.weight")));
}

// --- dry runs

TEST(DryRun, TakesShapeAndClassesFromTheDataThatNeedNotBeThere) {
  for (const auto& [name, shape, classes] :
       std::vector<std::tuple<std::string, std::vector<int64_t>, int64_t>>{
           {"mnist", {1, 28, 28}, 10},
           {"cifar10", {3, 32, 32}, 10},
           {"cifar100", {3, 32, 32}, 100},
           {"image_folder", {3, 224, 224}, 1000},
           {"shapes", {3, 28, 28}, 4}}) {
    data::DataOptions options;
    options.name = name;
    options.folder = name == "shapes" ? "" : "/nowhere";
    const auto form = data::expected_form(options);
    EXPECT_EQ(form.shape, shape) << name;
    EXPECT_EQ(form.classes, classes) << name;
  }
  data::DataOptions small;
  small.name = "cifar100";
  small.size = 16;
  EXPECT_EQ(data::expected_form(small).shape, (std::vector<int64_t>{3, 16, 16}));

  Classification experiment;
  Options options;
  experiment.declare(options);
  for (const char* set : {"data.name=cifar100", "data.folder=/nowhere", "model.name=vgg19_bn",
                          "model.width=0.0625", "sparsity.method=chase", "threads=1"})
    apply_set(options, set);
  experiment.check();
  experiment.dry_run();
}

TEST(DryRun, ExpectedFormIsWhatLoadGives) {
  for (const char* name : {"mnist", "shapes"})
    for (const int64_t size : {0, 14}) {
      data::DataOptions options;
      options.name = name;
      if (options.name == "mnist") options.folder = tree("data/mnist-6k");
      options.size = size;
      options.train_limit = options.test_limit = 20;
      const auto sets = data::load(options);
      const auto form = data::expected_form(options);
      EXPECT_EQ(form.shape, sets.train->image_shape()) << name;
      EXPECT_EQ(form.classes, sets.train->num_classes()) << name;
    }
}

// --- tables

class TableTest : public FolderTest {
 protected:
  std::string results(const std::string& name, const Json& columns, const Json& rows) {
    Json r{{"format", "glyptic results 1"}, {"name", name}, {"data", "D"}, {"model", "M"}, {"paper", "P"}};
    r["differs"] = {"size"};
    r["columns"] = columns;
    r["rows"] = rows;
    return write(name + ".json", r.dump());
  }
  static Json column(const std::string& key, const std::string& format) {
    return {{"key", key}, {"title", key}, {"format", format}};
  }
};

TEST_F(TableTest, AlignsAndFormats) {
  const auto file = results(
      "a",
      {column("network", "text"), column("acc", "fixed2"), column("n", "grouped"), column("flops", "si")},
      {{{"network", "dense"}, {"acc", 12.345}, {"n", 1234567}, {"flops", 999.7e6}},
       {{"network", "masked"}, {"acc", nullptr}, {"n", 12}, {"flops", 12.0}}});
  EXPECT_EQ(results_table({file}),
            "| network |   acc |         n | flops |\n"
            "|---------|------:|----------:|------:|\n"
            "| dense   | 12.35 | 1,234,567 |   1 G |\n"
            "| masked  |   n/a |        12 |    12 |\n"
            "\n- D; M\n- beside: P\n- differs: size\n");
  EXPECT_EQ(results_table({file}, "csv"),
            "network,acc,n,flops\ndense,12.345,1234567,999700000.0\nmasked,,12,12.0\n");
  expect_contains(message_of<ArgumentError>([&] { results_table({file}, "html"); }),
                  "expected markdown, csv or latex");
}

TEST_F(TableTest, LatexIsForBooktabsAndHoldsNoCommandOfAFile) {
  const auto file = results("a", {column("network", "text"), column("acc_%", "fixed2")},
                            {{{"network", "\\input{x} $a_b^2$ & #~<[b]|"}, {"acc_%", 12.345}}});
  EXPECT_EQ(results_table({file}, "latex"),
            "% \\usepackage{booktabs}\n\\begin{table}\n  \\centering\n  \\begin{tabular}{lr}\n    \\toprule\n"
            "    network & acc\\_\\% \\\\\n    \\midrule\n"
            "    \\textbackslash{}input\\{x\\} \\$a\\_b\\textasciicircum{}2\\$ \\& "
            "\\#\\textasciitilde{}\\textless{}{[}b{]}\\textbar{} & 12.35 \\\\\n"
            "    \\bottomrule\n  \\end{tabular}\n  \\par{\\footnotesize D; M}\n"
            "  \\par{\\footnotesize beside: P}\n  \\par{\\footnotesize differs: size}\n\\end{table}\n");
  EXPECT_EQ(results_table(
                {results("b", Json::array({column("a|b", "text")}), Json::array({Json{{"a|b", "c|\nd"}}}))})
                .substr(0, 30),
            "| a\\|b  |\n|-------|\n| c\\| d |\n");
}

TEST_F(TableTest, RunsThatDifferBySeedAreOneRow) {
  const auto columns =
      Json::array({column("network", "text"), column("acc", "fixed2"), column("live", "text"),
                   column("n_of", "grouped"), column("flops", "si"), column("speed", "fixed2")});
  std::vector<std::string> files;
  const auto run = [&](const std::string& folder, int seed, const std::string& density, double acc, int live,
                       Json speed) {
    const Json rows{{{"network", "masked"},
                     {"method", "chase"},
                     {"source", "released code"},
                     {"acc", acc},
                     {"live", str(live, "/20")},
                     {"n_of", 1000 + live},
                     {"flops", 1e6 * live},
                     {"speed", speed}}};
    write(folder + "/config.yaml",
          str("name: ", folder, "\nseed: ", seed, "\nsparsity:\n  density: ", density, "\n"));
    files.push_back(write(folder + "/results.json", slurp(results("same", columns, rows))));
  };
  run("d=1,s=1", 1, "0.1", 90, 10, 1.0);
  run("d=2,s=1", 1, "0.2", 70, 8, 1.0);
  run("d=1,s=22", 22, "0.1", 92, 12, nullptr);
  run("d=1,s=3", 3, "0.1", 97, 17, 2.0);
  // Means 93, 13; squared deviations 9 + 1 + 16, so 26 / 2 = 13 and sqrt 3.6056.
  EXPECT_EQ("\n" + results_table(files), R"(
| run     | n |  seeds | network |          acc |            live |         n_of |      flops |               speed |
|---------|--:|-------:|--------:|-------------:|----------------:|-------------:|-----------:|--------------------:|
| d=1,s=* | 3 | 1 22 3 |  masked | 93.00 ± 3.61 | 13.0 ± 3.6 / 20 | 1,013 ± 3.61 | 13 ± 3.6 M | 1.50 ± 0.71 (n = 2) |
| d=2,s=1 | 1 |      1 |  masked |        70.00 |            8/20 |        1,008 |        8 M |                1.00 |

- D; M
- chase: implemented from released code
- beside: P
- differs: size
- a ± b: mean and standard deviation (n - 1) over the seeds; one number: all seeds alike
)");
  const auto csv = results_table({files[0], files[2]}, "csv");
  EXPECT_EQ(
      csv,
      "run,n,seeds,network,acc,acc sd,live,n_of,n_of sd,flops,flops sd,speed,speed sd,source\n"
      "\"d=1,s=*\",2,1 22,masked,91.0,1.4142135623730951,10/20; 12/20,1011.0,1.4142135623730951,11000000.0,"
      "1414213.562373095,1.0,,released code\n");
  expect_contains(results_table(files, "latex"), "93.00 $\\pm$ 3.61");
  for (const char* folder : {"s/d=1,seed=1", "s/d=1,seed=12", "s/d=2,seed=1"})
    std::filesystem::create_directories(path(folder));
  std::vector<std::string> swept;
  for (const auto& [folder, seed] : std::map<std::string, int>{{"s/d=1,seed=1", 1}, {"s/d=1,seed=12", 12}})
    write(folder + "/config.yaml", str("seed: ", seed, "\nd: 1\n")), swept.push_back(path(folder));
  write("s/d=2,seed=1/config.yaml", "seed: 1\nd: 2\n");
  swept.push_back(path("s/d=2,seed=1"));
  const auto groups = seed_groups(swept);
  ASSERT_EQ(groups.size(), 2);
  EXPECT_EQ(groups[0].label, "d=1");
  EXPECT_EQ(groups[0].seeds, (std::vector<uint64_t>{1, 12}));
  EXPECT_EQ(groups[1].label, "d=2,seed=1");
  std::filesystem::remove_all(path("s"));
  // The same seed twice is no spread over seeds.
  EXPECT_EQ(seed_groups({files[0], files[0], files[2]}).size(), 2);
  EXPECT_EQ(runs_in(path(".")).size(), 4);
  EXPECT_EQ(runs_in(path("d=2,s=1")), std::vector<std::string>{path("d=2,s=1")});
  EXPECT_EQ(runs_in(path("nothing")), std::vector<std::string>{path("nothing")});
}

TEST_F(TableTest, RunsThatMeasuredDifferentThingsShareOneTable) {
  const auto a = results("a", {column("network", "text"), column("speed_1", "grouped")},
                         {{{"network", "dense"}, {"speed_1", 1000}}});
  const auto b = results("b", {column("network", "text"), column("speed_2", "grouped")},
                         {{{"network", "dense"}, {"speed_2", 2000}}});
  EXPECT_EQ(results_table({a, b}, "csv"),
            "run,network,speed_1,speed_2\na.json,dense,1000,\nb.json,dense,,2000\n");
}

TEST_F(TableTest, RunsOfOneNameAreToldApartByTheirFolders) {
  const auto columns = Json::array({column("network", "text")});
  const auto rows = Json::array({Json{{"network", "dense"}}});
  std::vector<std::string> files;
  for (const char* folder : {"old/run", "new/run", "new/run2"})
    files.push_back(write(std::string(folder) + "/results.json", slurp(results("same", columns, rows))));
  EXPECT_EQ(results_table(files, "csv"), "run,network\nold/run,dense\nnew/run,dense\nnew/run2,dense\n");
  EXPECT_EQ(results_table({files[1], files[2]}, "csv"), "run,network\nrun,dense\nrun2,dense\n");
  EXPECT_EQ(results_table({files[1], files[1]}, "csv"), "run,network\nrun,dense\nrun,dense\n");
}

TEST_F(TableTest, NamesFilesThatAreNotResults) {
  expect_contains(message_of<DataError>([&] { results_table({write("x.json", "{")}); }), "x.json' is not");
  expect_contains(message_of<DataError>([&] { results_table({write("y.json", "{\"format\": 1}")}); }),
                  "not a results file of this version");
  const auto deep = str(R"({"format": "glyptic results 1", "rows": [)", std::string(100000, '['), "]}");
  expect_contains(message_of<DataError>([&] { results_table({write("d.json", deep)}); }),
                  "d.json': lists and objects are nested more than 64 deep");
  const auto huge = write("h.json", std::string(600000, ' '));
  expect_contains(message_of<DataError>([&] { results_table({huge}); }), "more than the 524288");
  const auto torn = results("z", {{{"key", "k"}}}, Json::array());
  expect_contains(message_of<DataError>([&] { results_table({torn}); }), "z.json' is not a results file");
}

// --- describe

TEST(Describe, KnowsEverythingThatIsListed) {
  std::set<std::string> listed;
  std::istringstream lines(list_everything());
  for (std::string line; std::getline(lines, line);)
    if (line.rfind("  ", 0) == 0) listed.insert(line.substr(2, line.find_first_of(" \n", 2) - 2));
  EXPECT_GE(listed.size(), 25u);
  for (const auto& name : listed) EXPECT_NE(describe(name).find(name), std::string::npos) << name;
  expect_contains(describe("sparsity.density"), "in (0, 1]");
  expect_contains(describe("sparsity"), "sparsity.density");
  expect_contains(message_of<ArgumentError>([] { describe("chasee"); }), "did you mean 'chase'");
  expect_contains(message_of<ArgumentError>([] { describe("density"); }), "did you mean 'sparsity.density'?");
  expect_contains(message_of<ArgumentError>([] { describe("densty"); }), "'sparsity.density'");
  const auto chase = describe("chase");
  for (const auto& [leaf, value] : sparsity::method_info("chase").presets)
    expect_contains(chase, "sparsity." + leaf + ": " + to_text(value) + "\n");
  expect_contains(chase, "    sparsity.channel_sparsity\n        chase: share of the grouped channels");
  expect_contains(chase, "sparsity.hard_phase");
  EXPECT_EQ(chase.find("sparsity.initial_sparsity"), std::string::npos);  // of gmp and granet
  for (const char* method : {"gmp", "granet"}) expect_contains(describe(method), "sparsity.prune_begin\n");
  EXPECT_EQ(describe("set").find("options of its own"), std::string::npos);
  const auto page = reference_markdown();
  for (const auto& name : listed) EXPECT_NE(page.find("`" + name), std::string::npos) << name;
}

}  // namespace
}  // namespace glyptic::experiment

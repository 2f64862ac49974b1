// Grids: their points and names by hand, and what a sweep does with folders that are there, with runs that
// stand in.
#include "glyptic/experiment/sweep.h"

#include <torch/torch.h>

#include <random>
#include <set>

#include "support.h"

namespace glyptic::experiment {
namespace {

using Words = std::vector<std::string>;

TEST(SweepAxis, Parses) {
  const auto axis = parse_axis("sparsity.density=0.05, 0.1");
  EXPECT_EQ(axis.option, "sparsity.density");
  EXPECT_EQ(axis.values, (Words{"0.05", "0.1"}));
  EXPECT_EQ(parse_axis("throughput.batches=[1,64],[128]").values, (Words{"[1,64]", "[128]"}));
  EXPECT_EQ(parse_axis("name='a,b',c").values, (Words{"'a,b'", "c"}));
  EXPECT_EQ(parse_axis("a=b=c").values, (Words{"b=c"}));
}

TEST(SweepAxis, Refuses) {
  for (const char* text :
       {"", "seed", "=1", "seed=", "seed=1,,2", "seed=1,", "seed=1,1", "a=[1,2", "a=1]", "a='b"})
    expect_contains(message_of<ConfigError>([&] { parse_axis(text); }), str("--sweep ", text));
}

TEST(SweepPoints, LastAxisFastest) {
  const auto points = sweep_points({{"seed", {"1", "2"}}, {"sparsity.density", {"0.05", "0.1"}}});
  Words names;
  for (const auto& point : points) names.push_back(point.name);
  EXPECT_EQ(names, (Words{"seed=1,density=0.05", "seed=1,density=0.1", "seed=2,density=0.05",
                          "seed=2,density=0.1"}));
  EXPECT_EQ(points[1].sets, (Words{"seed=1", "sparsity.density=0.1"}));
}

TEST(SweepPoints, FullNamesWhereLastWordsAreTheSame) {
  const auto points = sweep_points({{"optimizer.name", {"sgd"}}, {"sparsity.name", {"x"}}});
  EXPECT_EQ(points[0].name, "optimizer.name=sgd,sparsity.name=x");
}

TEST(SweepPoints, NamesAreSafeAndTellPointsApart) {
  EXPECT_EQ(sweep_points({{"data.folder", {"../a b/%c,d=e"}}})[0].name, "folder=..%2Fa%20b%2F%25c%2Cd%3De");
  std::mt19937 random(3);
  for (int round = 0; round < 200; ++round) {
    std::set<std::string> values;
    while (values.size() < 12) {
      std::string value;
      for (int i = 0; i < 3; ++i) value += "/,%=a2F.\x80"[random() % 9];
      values.insert(value);
    }
    const Words list(values.begin(), values.end());
    std::set<std::string> names;
    for (const auto& point : sweep_points({{"a", list}, {"b", list}})) {
      EXPECT_TRUE(names.insert(point.name).second) << point.name;
      for (const char c : point.name)
        ASSERT_TRUE(std::isalnum(static_cast<unsigned char>(c)) || std::strchr("%=,._+-", c));
    }
  }
}

TEST(SweepPoints, Refuses) {
  expect_contains(message_of<ConfigError>([] { sweep_points({{"a", {"1"}}, {"a", {"2"}}}); }), "given twice");
  const Words hundred = [] {
    Words words;
    for (int i = 0; i < 101; ++i) words.push_back(std::to_string(i));
    return words;
  }();
  expect_contains(message_of<ConfigError>([&] {
                    sweep_points({{"a", hundred}, {"b", hundred}});
                  }),
                  "10000 points");
  expect_contains(message_of<ConfigError>([] {
                    sweep_points({{"a", {std::string(300, 'x')}}});
                  }),
                  "302 bytes");
}

class Sweep : public FolderTest {
 protected:
  void SetUp() override {
    FolderTest::SetUp();
    options_.config =
        write("c.yaml", "name: sw\nthreads: 1\ndata: {name: shapes}\nmodel: {name: mlp, widths: [4]}\n");
    options_.axes = {parse_axis("seed=1,2"), parse_axis("optimizer.lr=0.1,0.2")};
    options_.out = path("out");
  }
  // Stands in for training: writes down that it ran, and results unless told to fail.
  RunPoint run() {
    return [this](Experiment&, RunFolder& folder, bool resumed) {
      const auto name = std::filesystem::path(folder.path()).filename().string();
      ran_.push_back(name + (resumed ? " resumed" : ""));
      folder.append_metrics("{}");
      if (name == fail_) throw DivergenceError("the loss is NaN");
      if (name == interrupt_) throw Interrupted("stopped");
      write_file_atomically(folder.file("results.json"), "{}");
    };
  }

  SweepOptions options_;
  Words ran_;
  std::string fail_, interrupt_;
};

TEST_F(Sweep, RunsEveryPointOnce) {
  const auto result = run_sweep(options_, run());
  EXPECT_EQ(ran_, (Words{"seed=1,lr=0.1", "seed=1,lr=0.2", "seed=2,lr=0.1", "seed=2,lr=0.2"}));
  EXPECT_EQ(result.finished.size(), 4u);
  EXPECT_EQ(result.exit_code, 0);
  expect_contains(slurp(path("out/seed=2,lr=0.1/config.yaml")), "seed: 2\n");
  ran_.clear();
  EXPECT_EQ(run_sweep(options_, run()).left_alone, 4u);
  EXPECT_EQ(ran_, Words{});
  // A wider grid in the same folder takes what is there.
  options_.axes = {parse_axis("seed=1,2,3"), parse_axis("optimizer.lr=0.1,0.2")};
  EXPECT_EQ(run_sweep(options_, run()).finished.size(), 6u);
  EXPECT_EQ(ran_, (Words{"seed=3,lr=0.1", "seed=3,lr=0.2"}));
}

TEST_F(Sweep, AFailedPointDoesNotStopTheOthers) {
  fail_ = "seed=1,lr=0.2";
  auto result = run_sweep(options_, run());
  EXPECT_EQ(ran_.size(), 4u);
  EXPECT_EQ(result.failed, 1u);
  EXPECT_EQ(result.exit_code, kExitDiverged);
  EXPECT_EQ(result.finished.size(), 3u);
  ran_.clear();
  fail_.clear();
  result = run_sweep(options_, run());
  EXPECT_EQ(ran_, (Words{"seed=1,lr=0.2 resumed"}));
  EXPECT_EQ(result.exit_code, 0);
}

TEST_F(Sweep, AnInterruptStopsAll) {
  interrupt_ = "seed=1,lr=0.2";
  EXPECT_THROW(run_sweep(options_, run()), Interrupted);
  EXPECT_EQ(ran_.size(), 2u);
}

TEST_F(Sweep, OnePoint) {
  options_.index = 2;
  EXPECT_EQ(run_sweep(options_, run()).finished, (Words{path("out/seed=2,lr=0.1")}));
  EXPECT_EQ(ran_, (Words{"seed=2,lr=0.1"}));
  options_.index = 4;
  expect_contains(message_of<ArgumentError>([&] { run_sweep(options_, run()); }), "4 points, 0 to 3");
}

TEST_F(Sweep, RefusesAFolderOfAnotherConfigBeforeAnythingRuns) {
  run_sweep(options_, run());
  std::filesystem::remove(path("out/seed=1,lr=0.1/results.json"));
  ran_.clear();
  options_.sets = {"model.widths=[8]"};
  const auto message = message_of<ArgumentError>([&] { run_sweep(options_, run()); });
  expect_contains(message, "model.widths is [4] there and [8] here");
  EXPECT_EQ(ran_, Words{});
}

TEST_F(Sweep, RefusesBadPointsBeforeAnythingRuns) {
  options_.axes = {parse_axis("seed=1,2"), parse_axis("optimizer.lr=0.1,-1")};
  expect_contains(message_of<ConfigError>([&] { run_sweep(options_, run()); }), "optimizer.lr is -1");
  options_.axes = {parse_axis("optimizer.lr=0.1,0.10")};
  expect_contains(message_of<ConfigError>([&] { run_sweep(options_, run()); }), "in other words");
  options_.axes = {parse_axis("trian.epochs=1")};
  expect_contains(message_of<ConfigError>([&] { run_sweep(options_, run()); }),
                  "unknown option 'trian.epochs'");
  EXPECT_FALSE(std::filesystem::exists(path("out")));
}

TEST_F(Sweep, ThreadsOfOnePointAreNotThoseOfTheNext) {
  const int before = at::get_num_threads();
  options_.axes = {parse_axis("threads=1,0")};
  std::vector<int> threads;
  run_sweep(options_, [&](Experiment&, RunFolder& folder, bool) {
    threads.push_back(at::get_num_threads());
    write_file_atomically(folder.file("results.json"), "{}");
  });
  EXPECT_EQ(threads, (std::vector<int>{1, before}));
  EXPECT_EQ(at::get_num_threads(), before);
}

}  // namespace
}  // namespace glyptic::experiment

// The command line called as a function, as the Python entry point does. (tests/python/test_cli.py runs it as
// a process.)
#include "glyptic/cli/cli.h"

#include "support.h"

namespace glyptic::experiment {
namespace {

constexpr const char* kTiny = R"(name: tiny
threads: 1
data: {name: shapes, train_limit: 64, test_limit: 20, size: 12, classes: 3}
model: {name: mlp, widths: [12]}
train: {epochs: 1, batch_size: 16, eval_batch_size: 20}
throughput: {enabled: false}
sparsity: {method: rigl, density: 0.2, update_every: 2}
)";

class CliTest : public FolderTest {
 protected:
  struct Said {
    int code;
    std::string out, error;
  };
  Said glyptic(const std::vector<std::string>& arguments) {
    testing::internal::CaptureStdout();
    testing::internal::CaptureStderr();
    Said said{cli::run(arguments), "", ""};
    log::flush();
    said.out = testing::internal::GetCapturedStdout();
    said.error = testing::internal::GetCapturedStderr();
    return said;
  }
  std::string out(const std::vector<std::string>& arguments) {
    const auto said = glyptic(arguments);
    EXPECT_EQ(said.code, kExitOk) << said.error;
    return said.out;
  }
  void refuses(const std::vector<std::string>& arguments, int code, const std::string& part) {
    const auto said = glyptic(arguments);
    EXPECT_EQ(said.code, code);
    EXPECT_EQ(said.error.rfind("glyptic: ", 0), 0u) << said.error;
    EXPECT_EQ(said.error.find('\n'), said.error.size() - 1) << said.error;  // one line
    expect_contains(said.error, part);
  }
};

TEST_F(CliTest, RunsResumesAndTabulates) {
  const auto config = write("tiny.yaml", kTiny);
  const auto table = out({"run", "-q", config, "--out", path("a"), "--set", "seed=3"});
  expect_contains(table, "| masked");
  EXPECT_EQ(out({"resume", "-q", path("a")}), table);  // finished: its table
  EXPECT_EQ(out({"table", path("a")}), table);
  refuses({"run", config, "--out", path("a")}, kExitUsage, "already holds a run");

  // Unfinished: it goes on, and says when the environment is another.
  std::filesystem::remove(path("a/results.json"));
  refuses({"table", path("a")}, kExitData, "has no results yet");
  write("a/environment.json", "{}");
  const auto resumed = glyptic({"resume", path("a")});
  EXPECT_EQ(resumed.code, kExitOk);
  expect_contains(resumed.error, "threads, versions or machine are not those the run began with");
  EXPECT_EQ(resumed.out, table);
}

TEST_F(CliTest, ValidatesListsDescribesAndChecks) {
  const auto config = write("tiny.yaml", kTiny);
  const auto resolved = out({"validate", config, "--dry-run", "--set", "train.epochs=5"});
  expect_contains(resolved, "  epochs: 5\n");
  EXPECT_EQ(out({"validate", write("resolved.yaml", resolved)}), resolved);
  expect_contains(out({"list"}), "sparsity methods");
  expect_contains(out({"describe", "sparsity.density"}), "in (0, 1]");
  expect_contains(out({"describe", "--markdown"}), "# Reference");
  expect_contains(out({"doctor"}), "forward and backward: ok");
  expect_contains(out({"--version"}), "glyptic ");
  expect_contains(out({"--help"}), "run the experiment of a YAML file");
  expect_contains(out({"--help"}), "runs as one HTML page");
}

TEST_F(CliTest, RefusesInOneLineWithItsCode) {
  const auto config = write("tiny.yaml", kTiny);
  refuses({}, kExitUsage, "glyptic --help");
  refuses({"trian"}, kExitUsage, "unknown command 'trian'");
  refuses({"describe"}, kExitUsage, "name something");
  refuses({"run", path("none.yaml")}, kExitData, "none.yaml");
  refuses({"resume", folder_}, kExitData, "holds no run");
  refuses({"validate", config, "--set", "train.epoch=1"}, kExitUsage, "did you mean 'train.epochs'?");
}

// Bad data are found once the folder exists; a run that cannot begin takes away what it made, and no more.
TEST_F(CliTest, ARunThatCannotBeginLeavesNothing) {
  const auto config = write("tiny.yaml", kTiny);
  const std::vector<std::string> bad{"run", "-q", config, "--set", "train.batch_size=1000", "--out"};
  const auto with = [&](const std::string& folder) {
    auto arguments = bad;
    arguments.push_back(folder);
    return arguments;
  };
  refuses(with(path("a")), kExitUsage, "more than the 64 training images");
  EXPECT_FALSE(std::filesystem::exists(path("a")));
  write("mine/notes.txt", "mine");
  refuses(with(path("mine")), kExitUsage, "more than the 64 training images");
  EXPECT_EQ(slurp(path("mine/notes.txt")), "mine");
  EXPECT_FALSE(std::filesystem::exists(path("mine/config.yaml")));
  EXPECT_FALSE(std::filesystem::exists(path("mine/checkpoints")));
}

}  // namespace
}  // namespace glyptic::experiment

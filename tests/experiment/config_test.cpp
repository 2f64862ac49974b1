#include "glyptic/experiment/config.h"

#include <gtest/gtest.h>

#include "glyptic/experiment/classification.h"
#include "support.h"

namespace glyptic::experiment {
namespace {

class ConfigTest : public FolderTest {
 protected:
  ConfigTest() { config.declare(options); }
  void apply(const std::string& text) { ConfigFile::parse(text, "c.yaml").apply(options); }
  std::string error(const std::string& text) {
    return message_of<ConfigError>([&] { apply(text); });
  }
  std::string set_error(const std::string& assignment) {
    return message_of<ConfigError>([&] { apply_set(options, assignment); });
  }
  ClassificationConfig config;
  Options options;
};

TEST_F(ConfigTest, ReadsEveryKindOfValue) {
  apply(
      "name: 123\n"
      "seed: 1234567890123456789\n"  // a double would round it
      "model:\n  widths: [8, 16]\n"
      "lr: {milestones: [0.5, 1], gamma: 1}\n"
      "augment:\n  flip: true\n"
      "sparsity:\n  exclude: fc*\n  custom_density: {conv1.weight: 0.5, fc: 1}\n"
      "optimizer:\n  lr: 1e-3\n  weight_decay: 0\n"
      "train:\n  max_steps: 1_000\n"
      "throughput:\n  batches: 4\n"
      "paper:\n");  // a heading with nothing below it
  EXPECT_EQ(config.name, "123");
  EXPECT_EQ(config.seed, 1234567890123456789u);
  EXPECT_EQ(config.model.widths, (std::vector<int64_t>{8, 16}));
  EXPECT_EQ(config.lr.milestones, (std::vector<double>{0.5, 1}));
  EXPECT_EQ(config.lr.gamma, 1);
  EXPECT_TRUE(config.augment.flip);
  EXPECT_EQ(config.sparsity.exclude, std::vector<std::string>{"fc*"});
  EXPECT_EQ(config.sparsity.custom_density.at("conv1.weight"), 0.5);
  EXPECT_EQ(config.optimizer.lr, 1e-3);
  EXPECT_EQ(config.optimizer.weight_decay, 0);
  EXPECT_EQ(config.train.max_steps, 1000);
  EXPECT_EQ(config.throughput.batches, std::vector<int64_t>{4});
}

TEST_F(ConfigTest, EmptyFilesAreAllDefaults) {
  for (const char* text : {"", "\n\n", "# nothing\n", "---\n", "{}\n"}) {
    ClassificationConfig fresh;
    Options declared;
    fresh.declare(declared);
    ConfigFile::parse(text, "c.yaml").apply(declared);
    EXPECT_EQ(to_yaml(declared), to_yaml(options)) << text;
  }
}

TEST_F(ConfigTest, ErrorsNameThePlace) {
  EXPECT_EQ(error("seed: 1\nsparsity:\n  densty: 0.5\n"),
            "c.yaml:3:3: unknown option 'sparsity.densty'; did you mean 'sparsity.density'?");
  EXPECT_EQ(error("sparsity:\n  density: 0\n"),
            "c.yaml:2:12: sparsity.density is 0, expected float in (0, 1]");
  EXPECT_EQ(error("train:\n  epochs: two\n"), "c.yaml:2:11: train.epochs is two (string), expected int >= 1");
  EXPECT_EQ(error("train: {epochs: 2.5}\n"), "c.yaml:1:17: train.epochs is 2.5 (float), expected int >= 1");
  EXPECT_EQ(error("optimizer:\n  name: adamV\n"),
            "c.yaml:2:9: optimizer.name is 'adamV', expected one of sgd, adamw, adam; did you mean 'adam' or "
            "'adamw'?");
  EXPECT_EQ(error("seed: 1\nseed: 2\n"), "c.yaml:2:1: 'seed' is given twice");
  EXPECT_EQ(error("train:\n  epochs: 1\n  epochs: 2\n"), "c.yaml:3:3: 'epochs' is given twice");
  EXPECT_EQ(error("lr:\n  milestones: [0.5, x]\n"),
            "c.yaml:2:15: lr.milestones holds 'x', expected list of float in [0, 1]");
  EXPECT_EQ(error("optimizer:\n  lr:\n"), "c.yaml:2:3: optimizer.lr has no value, expected float >= 0");
  EXPECT_EQ(error("sparsity: chase\n").substr(0, 61),
            "c.yaml:1:1: 'sparsity' is a group of options, not a value; it");
  expect_contains(error("train:\n  epochs: [1\n"), "not valid YAML");
  expect_contains(error("train:\n  epochs: [1\n"), "c.yaml:");
  expect_contains(error("a: b: c\n"), "c.yaml:1:");
}

TEST_F(ConfigTest, QuotedNumbersAreWords) {
  EXPECT_EQ(error("optimizer:\n  lr: \"0.1\"\n"),
            "c.yaml:2:7: optimizer.lr is \"0.1\" (string), expected float >= 0");
  expect_contains(error("lr:\n  milestones: ['0.5']\n"), "holds '0.5'");
  expect_contains(error("sparsity:\n  custom_density: {fc: '0.5'}\n"), "not a number");
  expect_contains(error("augment:\n  flip: 'true'\n"), "expected bool");
  expect_contains(error("train:\n  epochs: 0x10\n"), "expected int");  // decimal only
  expect_contains(error("optimizer:\n  lr: nan\n"), "expected float");
  expect_contains(error("optimizer:\n  lr: .nan\n"), "optimizer.lr is .nan");
}

TEST_F(ConfigTest, RefusesWhatIsNotOneMapping) {
  EXPECT_EQ(error("- 1\n- 2\n"), "c.yaml:1:1: a config is a mapping of options to values");
  EXPECT_EQ(error("just words\n"), "c.yaml:1:1: a config is a mapping of options to values");
  expect_contains(error("seed: 1\n---\nseed: 2\n"), "more than one YAML document");
  expect_contains(error("? [a, b]\n: 1\n"), "a key must be a word");
  expect_contains(error("sparsity: &a\n  density: *a\n"), "c.yaml");  // a mapping inside itself
  std::string deep;
  for (int i = 0; i < 40; ++i) deep += std::string(static_cast<std::size_t>(i), ' ') + "a:\n";
  expect_contains(error(deep + std::string(40, ' ') + "b: 1\n"), "levels deep");
  // So deep that a parser without a guard would run out of stack.
  expect_contains(error("a: " + std::string(200000, '[')), "c.yaml");
}

TEST_F(ConfigTest, IncludesThatMultiplyEndAtOnce) {
  write("i0.yaml", "name: a\n");
  for (int level = 1; level < 10; ++level) {
    std::string list;
    for (int i = 0; i < 9; ++i) list += str(i ? ", i" : "i", level - 1, ".yaml");
    write(str("i", level, ".yaml"), "include: [" + list + "]\n");
  }
  expect_contains(message_of<ConfigError>([&] { ConfigFile::read(path("i9.yaml")); }),
                  "more than 256 files are included");
}

TEST_F(ConfigTest, AliasesThatMultiplyEndAtOnce) {
  std::string bomb = "a0: &a0 {k: 1}\n";
  for (int level = 1; level < 15; ++level) {
    bomb += str("a", level, ": &a", level, " {");
    for (int i = 0; i < 9; ++i) bomb += str(i ? ", k" : "k", i, ": *a", level - 1);
    bomb += "}\n";
  }
  expect_contains(error(bomb), "as often as aliases repeat them");
}

TEST_F(ConfigTest, FilesAreBoundedAndNamed) {
  EXPECT_THROW(ConfigFile::read(path("none.yaml")), MissingFileError);
  const auto big = write("big.yaml", "# " + std::string(1 << 16, 'x') + "\n");
  expect_contains(message_of<DataError>([&] { ConfigFile::read(big); }), "more than the 65536");
  const auto full = write("full.yaml", "name: a\n#" + std::string((1 << 16) - 9, 'x'));
  ConfigFile::read(full).apply(options);
  EXPECT_EQ(config.name, "a");
}

TEST_F(ConfigTest, IncludesComeFirstAndTheFileItselfWins) {
  write("base/a.yaml", "seed: 1\nname: a\nsparsity: {density: 0.5, update_every: 7}\n");
  write("base/b.yaml", "include: a.yaml\nseed: 2\n");
  write("c.yaml", "name: c\n");
  const auto top = write("top.yaml", "train: {epochs: 3}\ninclude: [base/b.yaml, c.yaml]\nseed: 3\n");
  ConfigFile::read(top).apply(options);
  EXPECT_EQ(config.seed, 3u);
  EXPECT_EQ(config.name, "c");
  EXPECT_EQ(config.sparsity.density, 0.5);
  EXPECT_EQ(config.sparsity.update_every, 7);
  EXPECT_EQ(config.train.epochs, 3);
}

TEST_F(ConfigTest, IncludeErrorsNameTheFileThatIncludes) {
  write("a.yaml", "include: b.yaml\n");
  write("b.yaml", "seed: 1\ninclude: a.yaml\n");
  EXPECT_EQ(message_of<ConfigError>([&] { ConfigFile::read(path("a.yaml")); }),
            path("b.yaml") + ":2:10: 'a.yaml' includes itself");
  write("self.yaml", "include: ./self.yaml\n");
  expect_contains(message_of<ConfigError>([&] { ConfigFile::read(path("self.yaml")); }), "includes itself");
  write("lost.yaml", "include: none.yaml\n");
  EXPECT_EQ(message_of<ConfigError>([&] { ConfigFile::read(path("lost.yaml")); }),
            path("lost.yaml") + ":1:10: cannot read the included file '" + path("none.yaml") +
                "'; its name counts from the folder of the file that includes it");
  write("map.yaml", "include: {a: 1}\n");
  expect_contains(message_of<ConfigError>([&] { ConfigFile::read(path("map.yaml")); }),
                  "include is a file name");
  // An error inside an included file has that file's place.
  write("bad.yaml", "sead: 1\n");
  const auto outer = write("outer.yaml", "include: bad.yaml\n");
  EXPECT_EQ(message_of<ConfigError>([&] { ConfigFile::read(outer).apply(options); }).substr(0, 60),
            (path("bad.yaml") + ":1:1: unknown option 'sead'; did you mean 'seed'?").substr(0, 60));
  // The same file twice, but not inside itself, is fine.
  write("twice.yaml", "include: [c.yaml, c.yaml]\n");
  write("c.yaml", "seed: 9\n");
  ConfigFile::read(path("twice.yaml")).apply(options);
  EXPECT_EQ(config.seed, 9u);
}

TEST_F(ConfigTest, PresetsOfAnIncludedFileYieldToAnotherMethod) {
  write("rigl.yaml", "sparsity: {method: rigl}\n");
  const auto set = write("set.yaml", "include: rigl.yaml\nsparsity: {method: set}\n");
  ConfigFile::read(set).apply(options);
  EXPECT_EQ(config.sparsity.grow_criterion, "random");
  EXPECT_FALSE(config.sparsity.skip_optimizer_on_update);  // rigl's, gone with rigl
  apply_set(options, "sparsity.method=rigl");
  EXPECT_TRUE(config.sparsity.skip_optimizer_on_update);
}

TEST_F(ConfigTest, PresetsApplyInAnyOrderOfKeys) {
  apply("sparsity:\n  update_every: 5\n  method: chase\n");
  EXPECT_EQ(config.sparsity.update_every, 5);
  EXPECT_EQ(config.sparsity.scope, "global");
  ClassificationConfig other;
  Options declared;
  other.declare(declared);
  ConfigFile::parse("sparsity:\n  method: chase\n  update_every: 5\n", "c").apply(declared);
  EXPECT_EQ(to_yaml(declared), to_yaml(options));
}

TEST_F(ConfigTest, SetTakesAllForms) {
  for (const char* assignment :
       {"train.epochs=2", "optimizer.lr=1e-2", "augment.flip=true", "model.widths=[4, 8]",
        "throughput.batches=16", "sparsity.custom_density={fc.weight: 0.5}", "sparsity.exclude=[fc*, conv1]",
        "data.folder=/a b/#c: d=e", "name=\"quoted: #1\""})
    apply_set(options, assignment);
  EXPECT_EQ(config.train.epochs, 2);
  EXPECT_EQ(config.optimizer.lr, 1e-2);
  EXPECT_TRUE(config.augment.flip);
  EXPECT_EQ(config.model.widths, (std::vector<int64_t>{4, 8}));
  EXPECT_EQ(config.throughput.batches, std::vector<int64_t>{16});
  EXPECT_EQ(config.sparsity.custom_density.at("fc.weight"), 0.5);
  EXPECT_EQ(config.sparsity.exclude, (std::vector<std::string>{"fc*", "conv1"}));
  EXPECT_EQ(config.data.folder, "/a b/#c: d=e");
  EXPECT_EQ(config.name, "quoted: #1");
  apply_set(options, "data.folder=");
  EXPECT_EQ(config.data.folder, "");

  EXPECT_EQ(set_error("train.epochs"), "--set train.epochs: expected name=value, for example train.epochs=2");
  EXPECT_EQ(set_error("=2"), "--set =2: expected name=value, for example train.epochs=2");
  EXPECT_EQ(set_error("train.epoch=2"),
            "--set train.epoch=2: unknown option 'train.epoch'; did you mean 'train.epochs'?");
  EXPECT_EQ(set_error("train.epochs=0"), "--set train.epochs=0: train.epochs is 0, expected int >= 1");
  EXPECT_EQ(set_error("train.epochs="), "--set train.epochs=: train.epochs has no value, expected int >= 1");
  expect_contains(set_error("model.widths=[1"), "--set model.widths=[1: the value is not valid YAML");
  expect_contains(set_error("train=1"), "is a group of options");
}

TEST(ToYaml, ReadsBackToTheSameForEveryExperiment) {
  for (const auto& info : experiments()) {
    auto experiment = info.make(), again = info.make();
    Options options, read;
    experiment->declare(options);
    again->declare(read);
    const auto defaults = to_yaml(options);
    ConfigFile::parse(defaults, "d").apply(read);
    EXPECT_EQ(to_yaml(read), defaults) << info.name;
    // Every option at another value than its default, strings at an awkward one.
    for (const auto& option : options.list()) {
      Value value = option.get();
      if (auto* flag = std::get_if<bool>(&value)) *flag = !*flag;
      if (auto* word = std::get_if<std::string>(&value))
        *word = option.rule.choices.empty() ? "no: #1 \"\\ \n\x02 é" : option.rule.choices.back();
      if (auto* number = std::get_if<double>(&value)) *number = option.rule.high.value_or(3.5) * 0.3125;
      if (auto* number = std::get_if<int64_t>(&value))
        *number = option.rule.high ? std::min<int64_t>(7, static_cast<int64_t>(*option.rule.high) - 1)
                                   : 1234567890123456789;
      if (auto* list = std::get_if<std::vector<int64_t>>(&value)) *list = {3, 1, 2};
      if (auto* list = std::get_if<std::vector<double>>(&value)) *list = {0.1, 1.0 / 3};
      if (auto* list = std::get_if<std::vector<std::string>>(&value)) *list = {"a, b", "1", "", "true"};
      if (auto* map = std::get_if<std::map<std::string, double>>(&value)) *map = {{"a: b", 0.1}, {"7", 1}};
      options.set(option.name, value, "test");
    }
    const auto changed = to_yaml(options);
    auto third = info.make();
    Options reread;
    third->declare(reread);
    ConfigFile::parse(changed, "c").apply(reread);
    EXPECT_EQ(to_yaml(reread), changed) << info.name;
    for (const auto& option : options.list())
      EXPECT_EQ(reread.at(option.name).get(), option.get()) << option.name;
  }
}

TEST(Configs, EveryShippedOneIsValid) {
  int count = 0;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(tree("configs"))) {
    if (entry.path().extension() != ".yaml") continue;
    ++count;
    SCOPED_TRACE(entry.path().string());
    const auto loaded = load_experiment(entry.path().string(), {});
    const bool base = entry.path().filename() == "base.yaml";
    if (!base) {
      EXPECT_EQ(to_text(loaded.options->at("name").get()), entry.path().stem().string());
    }
    // The resolved form means the same.
    Options again;
    auto experiment = make_experiment(std::get<std::string>(loaded.options->at("experiment").get()));
    experiment->declare(again);
    ConfigFile::parse(to_yaml(*loaded.options), "resolved").apply(again);
    EXPECT_EQ(to_yaml(again), to_yaml(*loaded.options));
  }
  EXPECT_GE(count, 12);
}

TEST(Load, ChoosesTheExperimentByName) {
  EXPECT_EQ(message_of<ConfigError>([] { make_experiment("clasification"); }),
            "unknown experiment 'clasification'; did you mean 'classification'?; known: classification");
  EXPECT_NE(make_experiment("classification"), nullptr);
}

TEST(Check, FindsWhatNeedsMoreThanOneOption) {
  const auto check = [](const std::vector<std::string>& sets) {
    Classification experiment;
    Options options;
    experiment.declare(options);
    for (const auto& set : sets) apply_set(options, set);
    try {
      experiment.check();
    } catch (const Error& error) {
      EXPECT_EQ(error.exit_code(), kExitUsage);
      return std::string(error.what());
    }
    return std::string();
  };
  EXPECT_EQ(check({}), "");
  expect_contains(check({"optimizer.nesterov=true", "optimizer.momentum=0"}), "momentum above 0");
  expect_contains(check({"optimizer.nesterov=true", "optimizer.dampening=0.5"}), "dampening 0");
  expect_contains(check({"train.select=best_val"}), "data.validation is 0");
  expect_contains(check({"sparsity.method=rigl", "sparsity.begin=0.9"}), "sparsity.begin is 0.9");
  expect_contains(check({"sparsity.total_steps=5"}), "leave it 0");
  expect_contains(check({"model.name=resnet20", "model.widths=[3]"}), "fixed widths");
  expect_contains(check({"model.name=vgg19_bn", "data.name=mnist", "data.size=7"}), "model 'vgg19_bn'");
}

}  // namespace
}  // namespace glyptic::experiment

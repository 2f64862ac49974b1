#include "glyptic/core/options.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

namespace glyptic {
namespace {

struct Inner {
  std::string kind = "plain";
  double rate = 0.5;
  bool fast = false;
  int64_t every = 10;
  void declare(Options& o) {
    o.field("kind", kind, "kind", one_of({"plain", "quick", "slow"}))
        .with_presets({{"quick", {{"rate", 0.25}, {"fast", true}}}, {"slow", {{"every", int64_t{99}}}}});
    o.field("rate", rate, "rate", above_to(0, 1));
    o.field("fast", fast, "fast");
    o.field("every", every, "every", at_least(1));
  }
};

struct Outer {
  uint64_t seed = 7;
  int count = 3;
  float share = 0.5f;
  std::string name = "x";
  std::vector<int64_t> widths = {1, 2};
  std::vector<double> milestones;
  std::vector<std::string> exclude;
  std::map<std::string, double> custom;
  Inner inner;
  void declare(Options& o) {
    o.field("seed", seed, "seed", at_least(0));
    o.field("count", count, "count", between(0, 10));
    o.field("share", share, "share", from_below(0, 1));
    o.field("name", name, "name");
    o.field("widths", widths, "widths", at_least(1));
    o.field("milestones", milestones, "milestones", between(0, 1));
    o.field("exclude", exclude, "exclude");
    o.field("custom", custom, "custom", above(0));
    o.group("inner", inner, "inner things");
  }
};

class OptionsTest : public ::testing::Test {
 protected:
  OptionsTest() { outer.declare(options); }
  void set(const std::string& name, const Value& value) { options.set(name, value, "here"); }
  std::string error_of(const std::string& name, const Value& value) {
    try {
      set(name, value);
    } catch (const ConfigError& error) {
      return error.what();
    }
    return "no error";
  }
  Outer outer;
  Options options;
};

TEST_F(OptionsTest, SetsMembersOfEveryType) {
  set("seed", int64_t{123456789012345678});
  set("count", int64_t{10});
  set("share", 0.25);
  set("name", std::string("a b"));
  set("widths", std::vector<int64_t>{5});
  set("milestones", std::vector<double>{0.5, 1});
  set("exclude", std::vector<std::string>{"fc*"});
  set("custom", std::map<std::string, double>{{"fc", 0.5}});
  set("inner.fast", true);
  EXPECT_EQ(outer.seed, 123456789012345678u);
  EXPECT_EQ(outer.count, 10);
  EXPECT_EQ(outer.share, 0.25f);
  EXPECT_EQ(outer.name, "a b");
  EXPECT_EQ(outer.widths, std::vector<int64_t>{5});
  EXPECT_EQ(outer.milestones, (std::vector<double>{0.5, 1}));
  EXPECT_EQ(outer.exclude, std::vector<std::string>{"fc*"});
  EXPECT_EQ(outer.custom.at("fc"), 0.5);
  EXPECT_TRUE(outer.inner.fast);
}

TEST_F(OptionsTest, ConvertsOnlyWhatLosesNothing) {
  set("share", int64_t{0});
  EXPECT_EQ(outer.share, 0);
  set("count", 4.0);
  EXPECT_EQ(outer.count, 4);
  set("widths", int64_t{8});
  EXPECT_EQ(outer.widths, std::vector<int64_t>{8});
  set("widths", std::vector<double>{2, 3});
  EXPECT_EQ(outer.widths, (std::vector<int64_t>{2, 3}));
  set("milestones", std::vector<int64_t>{0, 1});
  EXPECT_EQ(outer.milestones, (std::vector<double>{0, 1}));
  set("milestones", 0.5);
  EXPECT_EQ(outer.milestones, std::vector<double>{0.5});
  set("exclude", std::string("conv1"));
  EXPECT_EQ(outer.exclude, std::vector<std::string>{"conv1"});
  set("exclude", std::vector<int64_t>{});  // an empty list has no type of its own
  EXPECT_TRUE(outer.exclude.empty());
  EXPECT_EQ(error_of("count", 4.5), "here: count is 4.5 (float), expected int in [0, 10]");
  EXPECT_EQ(error_of("inner.fast", int64_t{1}), "here: inner.fast is 1 (int), expected bool");
  EXPECT_EQ(error_of("name", int64_t{1}), "here: name is 1 (int), expected string");
  EXPECT_EQ(error_of("share", std::string("0.5")),
            "here: share is \"0.5\" (string), expected float in [0, 1)");
  EXPECT_EQ(error_of("widths", std::vector<double>{1.5}),
            "here: widths is [1.5] (list of float), expected list of int >= 1");
}

TEST_F(OptionsTest, RangesAreAsWritten) {
  EXPECT_EQ(error_of("inner.rate", 0.0), "here: inner.rate is 0.0, expected float in (0, 1]");
  EXPECT_EQ(error_of("inner.rate", std::nan("")), "here: inner.rate is .nan, expected float in (0, 1]");
  EXPECT_EQ(error_of("share", 1.0), "here: share is 1.0, expected float in [0, 1)");
  EXPECT_EQ(error_of("seed", int64_t{-1}), "here: seed is -1, expected int >= 0");
  EXPECT_EQ(error_of("widths", std::vector<int64_t>{4, 0}),
            "here: widths is [4, 0], expected list of int >= 1");
  EXPECT_EQ(error_of("custom", std::map<std::string, double>{{"a", 0.0}}),
            "here: custom is {a: 0.0}, expected map of float > 0");
  set("inner.rate", 1.0);
  set("share", 0.0);
  EXPECT_EQ(outer.inner.rate, 1.0);
}

TEST_F(OptionsTest, AFailedValueChangesNothing) {
  set("count", int64_t{5});
  error_of("count", int64_t{11});
  EXPECT_EQ(outer.count, 5);
  error_of("inner.kind", std::string("quik"));
  EXPECT_EQ(outer.inner.kind, "plain");
  EXPECT_EQ(outer.inner.rate, 0.5);
}

TEST_F(OptionsTest, UnknownNamesNameTheNearest) {
  EXPECT_EQ(error_of("inner.rat", 0.5), "here: unknown option 'inner.rat'; did you mean 'inner.rate'?");
  EXPECT_EQ(error_of("inner.kind", std::string("quik")),
            "here: inner.kind is 'quik', expected one of plain, quick, slow; did you mean 'quick'?");
  EXPECT_EQ(error_of("inner.zzzzzzzz", 1.0),
            "here: unknown option 'inner.zzzzzzzz'; known: kind, rate, fast, every");
  EXPECT_EQ(error_of("inner", 1.0),
            "here: 'inner' is a group of options, not a value; its options are kind, rate, fast, every");
  EXPECT_NE(error_of("iner.rate", 0.5).find("did you mean 'inner.rate'?"), std::string::npos);
  EXPECT_EQ(error_of("rate", 0.5), "here: unknown option 'rate'; did you mean 'inner.rate'?");
  EXPECT_EQ(error_of("rte", 0.5), "here: unknown option 'rte'; did you mean 'inner.rate'?");
  EXPECT_NE(error_of("count.low", 0.5).find("unknown option 'count.low'"), std::string::npos);
}

TEST_F(OptionsTest, PresetsApplyInAnyOrderAndExplicitValuesWin) {
  set("inner.kind", std::string("quick"));
  EXPECT_EQ(outer.inner.rate, 0.25);
  EXPECT_TRUE(outer.inner.fast);

  Outer before;
  Options first;
  before.declare(first);
  first.set("inner.rate", 0.75, "here");
  first.set("inner.kind", std::string("quick"), "here");
  EXPECT_EQ(before.inner.rate, 0.75);
  EXPECT_TRUE(before.inner.fast);

  Outer after;
  Options last;
  after.declare(last);
  last.set("inner.kind", std::string("quick"), "here");
  last.set("inner.rate", 0.75, "here");
  EXPECT_EQ(after.inner.rate, 0.75);
  EXPECT_TRUE(after.inner.fast);
}

TEST_F(OptionsTest, AnotherChoiceTakesItsForerunnersPresetBack) {
  set("inner.kind", std::string("quick"));
  set("inner.every", int64_t{3});
  set("inner.kind", std::string("slow"));
  EXPECT_EQ(outer.inner.rate, 0.5);
  EXPECT_FALSE(outer.inner.fast);
  EXPECT_EQ(outer.inner.every, 3);  // given, so the preset's 99 does not count
  set("inner.kind", std::string("plain"));
  EXPECT_EQ(outer.inner.every, 3);
}

TEST_F(OptionsTest, KnowsWhatWasSet) {
  EXPECT_FALSE(options.at("count").is_set);
  set("count", int64_t{3});
  EXPECT_TRUE(options.at("count").is_set);
  set("inner.kind", std::string("quick"));
  EXPECT_FALSE(options.at("inner.rate").is_set);  // a preset is not somebody's choice
  EXPECT_TRUE(options.contains("inner.rate"));
  EXPECT_FALSE(options.contains("inner"));
  EXPECT_TRUE(options.is_group("inner"));
  EXPECT_EQ(options.children("inner"), (std::vector<std::string>{"kind", "rate", "fast", "every"}));
}

TEST_F(OptionsTest, ANameIsDeclaredOnce) {
  int again = 0;
  EXPECT_THROW(options.field("count", again, "twice"), Error);
}

TEST(OptionText, IsYamlThatReadsBack) {
  EXPECT_EQ(to_text(true), "true");
  EXPECT_EQ(to_text(int64_t{-3}), "-3");
  EXPECT_EQ(to_text(1.0), "1.0");
  EXPECT_EQ(to_text(0.1), "0.1");
  EXPECT_EQ(to_text(std::numeric_limits<double>::infinity()), ".inf");
  EXPECT_EQ(to_text(std::string("runs/a-b_1.yaml")), "runs/a-b_1.yaml");
  EXPECT_EQ(to_text(std::string("")), "\"\"");
  EXPECT_EQ(to_text(std::string("1e5")), "\"1e5\"");
  EXPECT_EQ(to_text(std::string("no")), "\"no\"");
  EXPECT_EQ(to_text(std::string("a: b # \"c\"\\\n\t\r\x01")), "\"a: b # \\\"c\\\"\\\\\\n\\t\\x0d\\x01\"");
  EXPECT_EQ(to_text(std::vector<int64_t>{1, 2}), "[1, 2]");
  EXPECT_EQ(to_text(std::vector<double>{}), "[]");
  EXPECT_EQ(to_text(std::map<std::string, double>{{"a.b", 0.5}}), "{a.b: 0.5}");
}

}  // namespace
}  // namespace glyptic

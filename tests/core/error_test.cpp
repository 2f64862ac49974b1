#include "glyptic/core/error.h"

#include <gtest/gtest.h>

namespace glyptic {
namespace {

// Names out of files may hold anything; a message is one line all the same.
TEST(Error, MessagesAreOneLine) {
  EXPECT_STREQ(DataError("a\nb\r\tc\x1b[31m\x7f").what(), "a\\nb\\x0d\\x09c\\x1b[31m\\x7f");
  EXPECT_STREQ(Error("größe 'ñ'").what(), "größe 'ñ'");
  EXPECT_STREQ(Error(std::string("a\0b", 3)).what(), "a\\x00b");
}

TEST(Error, LongMessagesEndBetweenCharacters) {
  const std::string text = std::string(1999, 'x') + "ößü" + std::string(100, 'y');
  EXPECT_EQ(std::string(Error(text).what()), std::string(1999, 'x') + "ö...");
  EXPECT_EQ(std::string(Error(std::string(2000, 'x')).what()), std::string(2000, 'x'));
}

}  // namespace
}  // namespace glyptic

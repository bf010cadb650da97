#include "core/json.h"

#include <gtest/gtest.h>

#include <cmath>

#include "core/env.h"

namespace sheaf {
namespace {

TEST(JsonWriterTest, PutsCommasWhereTheyBelong) {
  JsonWriter json;
  json.begin_object()
      .key("a")
      .value(1)
      .key("b")
      .begin_array()
      .value(true)
      .null()
      .value("x")
      .end_array();
  json.key("c")
      .begin_object()
      .end_object()
      .key("d")
      .value(1.5)
      .key("e")
      .value(std::nan(""))
      .end_object();
  EXPECT_EQ(std::move(json).take(), R"({"a":1,"b":[true,null,"x"],"c":{},"d":1.5,"e":null})");
}

TEST(JsonWriterTest, StringsAreEscapedAndAlwaysValidUtf8) {
  EXPECT_EQ(json_quote("a\"\\\n\t\x01"), "\"a\\\"\\\\\\n\\t\\u0001\"");
  EXPECT_EQ(json_quote("gr\xc3\xbc\xc3\x9f"), "\"gr\xc3\xbc\xc3\x9f\"");
  EXPECT_EQ(json_quote("\xff"), "\"\xef\xbf\xbd\"");
  EXPECT_EQ(json_quote("\xed\xa0\x80").find('\xed'), std::string::npos);  // a surrogate
}

TEST(JsonParserTest, ReadsEveryKind) {
  auto parsed = parse_json(
      R"( {"n":null,"t":true,"i":-9223372036854775808,"d":2.5e3,)"
      R"("s":"\u00fc\ud83d\ude00","a":[1,[]]} )");
  ASSERT_TRUE(parsed.has_value()) << parsed.status().to_string();
  EXPECT_TRUE(parsed->find("n")->is_null());
  EXPECT_TRUE(*parsed->find("t")->as_bool());
  EXPECT_EQ(*parsed->find("i")->as_int(), INT64_MIN);
  double number = 0;
  EXPECT_TRUE(parsed->find("d")->as_number(&number));
  EXPECT_EQ(number, 2500.0);
  EXPECT_EQ(*parsed->find("s")->as_string(), "\xc3\xbc\xf0\x9f\x98\x80");
  EXPECT_EQ(parsed->find("a")->as_array()->size(), 2u);
  EXPECT_EQ(parsed->find("missing"), nullptr);
}

TEST(JsonParserTest, RefusesWhatIsNotJson) {
  for (const char* text :
       {"",         "{",       "[1,]",        "{\"a\":1,}",  "01",    "+1",
        "1.",       ".5",      "1e",          "nul",         "'a'",   "\"a",
        "\"\\x\"",  "\"\t\"",  "\"\\ud800\"", "\"\\udc00\"", "[1] 2", "{\"a\":1,\"a\":2}",
        "\"\xff\"", "// x\n1", "NaN",         "{a:1}",       "[1 2]", "-"}) {
    EXPECT_FALSE(parse_json(text).has_value()) << text;
  }
  EXPECT_EQ(parse_json("{\n \"a\": x}").status().message(),
            "JSON line 2 column 7: unexpected character");
}

TEST(JsonParserTest, DepthIsBounded) {
  EXPECT_TRUE(parse_json(std::string(60, '[') + std::string(60, ']')).has_value());
  EXPECT_FALSE(parse_json(std::string(100000, '[')).has_value());
}

TEST(JsonParserTest, MutatedTextEndsInAValueOrAnError) {
  uint64_t state = 42;
  const std::string original = R"({"key":[1,2.5,"text\u00e9",null,true,{"x":{}}],"other":-17e-2})";
  for (int round = 0; round < 20000; ++round) {
    std::string text = original;
    for (uint64_t i = splitmix64(state) % 4; i < 4; ++i) {
      text[splitmix64(state) % text.size()] = static_cast<char>(splitmix64(state));
    }
    text.resize(splitmix64(state) % (text.size() + 1));
    (void)parse_json(text);
  }
}

TEST(JsonParserTest, WrittenStringsComeBack) {
  uint64_t state = 7;
  for (int round = 0; round < 2000; ++round) {
    std::string text;
    for (uint64_t i = splitmix64(state) % 30; i > 0; --i)
      text += static_cast<char>(splitmix64(state) % 128);
    auto parsed = parse_json(json_quote(text));
    ASSERT_TRUE(parsed.has_value());
    EXPECT_EQ(*parsed->as_string(), text);
  }
}

}  // namespace
}  // namespace sheaf

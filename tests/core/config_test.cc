#include "core/config.h"

#include <gtest/gtest.h>

#include <fstream>
#include <sstream>

namespace sheaf {
namespace {

using namespace std::chrono_literals;

std::string message_of(const Status& status) { return std::string(status.message()); }

TEST(ConfigTest, LaterSourcesWin) {
  Config config;
  EXPECT_EQ(config.get_int("workers.max"), 1024);
  EXPECT_EQ(config.origin("workers.max"), "default");
  ASSERT_TRUE(config.apply_toml(
      "[workers]\nmax = 7\nidle_timeout = \"250ms\"\n[store]\nmemory = \"1.5GiB\"\n", "a.toml"));
  EXPECT_EQ(config.get_int("workers.max"), 7);
  EXPECT_EQ(config.get_duration("workers.idle_timeout"), 250ms);
  EXPECT_EQ(config.get_bytes("store.memory"), 1610612736u);
  ASSERT_TRUE(config.apply_environment(
      {{"SHEAF_WORKERS_MAX", "9"}, {"HOME", "/"}, {"SHEAF_FAULT", "x:1:kill"}}));
  EXPECT_EQ(config.get_int("workers.max"), 9);
  ASSERT_TRUE(config.set("workers.max", "11", "code"));
  EXPECT_EQ(config.get_int("workers.max"), 11);
  EXPECT_EQ(config.origin("workers.max"), "code");
}

TEST(ConfigTest, UnknownKeyNamesTheNearest) {
  Config config;
  EXPECT_EQ(message_of(config.apply_toml("[store]\nmemroy = 1\n", "a.toml")),
            "a.toml: unknown key 'store.memroy'; did you mean 'store.memory'?");
  EXPECT_EQ(message_of(config.apply_environment({{"SHEAF_STORE_MEMROY", "1"}})),
            "environment: unknown variable SHEAF_STORE_MEMROY; did you mean SHEAF_STORE_MEMORY?");
  EXPECT_EQ(config.set("wokers.max", "1", "code").code(), StatusCode::kInvalidArgument);
  EXPECT_FALSE(config.apply_toml("memory = 1\n", "a.toml"));
}

TEST(ConfigTest, WrongTypesAndRangesAreErrors) {
  Config config;
  EXPECT_FALSE(config.apply_toml("[workers]\nmax = \"7\"\n", "a"));
  EXPECT_FALSE(config.apply_toml("[workers]\nidle_timeout = 3\n", "a"));
  EXPECT_FALSE(config.apply_toml("[workers]\nidle_timeout = [\"3s\"]\n", "a"));
  EXPECT_FALSE(config.apply_toml("[store]\nhuge_pages = 1\n", "a"));
  EXPECT_FALSE(config.apply_toml("[store\n", "a"));
  for (const char* text : {"", "x", "12x", "1.5", "99999999999999999999", "0", "-3"}) {
    EXPECT_FALSE(config.set("workers.max", text, "code")) << text;
  }
  for (const char* text : {"", "GB", "-1", "1 XB", "nan", "inf", "1e300"}) {
    EXPECT_FALSE(config.set("store.memory", text, "code")) << text;
  }
  EXPECT_FALSE(config.set("store.full_wait", "10", "code"));
  EXPECT_FALSE(config.set("store.huge_pages", "yes", "code"));
  EXPECT_EQ(config.as_map(), Config().as_map());
}

TEST(ConfigTest, MapCarriesEverything) {
  Config config, copy;
  ASSERT_TRUE(config.set("store.spill_dir", "/x y", "code"));
  ASSERT_TRUE(config.set("store.memory", "2 GB", "code"));
  for (const auto& [key, text] : config.as_map()) ASSERT_TRUE(copy.set(key, text, "cluster"));
  EXPECT_EQ(copy.get_string("store.spill_dir"), "/x y");
  EXPECT_EQ(copy.get_bytes("store.memory"), 2000000000u);
}

TEST(ConfigTest, MissingFileIsAnError) {
  EXPECT_EQ(Config::load("/nonexistent/sheaf.toml", {}).status().code(), StatusCode::kNotFound);
  EXPECT_EQ(Config::load("", {{"SHEAF_CONFIG", "/nonexistent/sheaf.toml"}}).status().code(),
            StatusCode::kNotFound);
  EXPECT_TRUE(Config::load("", {}).has_value());
}

TEST(ConfigTest, DocumentationIsThatOfTheSchema) {
  std::ifstream in(SHEAF_SOURCE_DIR "/docs/configuration.md");
  ASSERT_TRUE(in) << "docs/configuration.md is missing";
  std::stringstream text;
  text << in.rdbuf();
  EXPECT_NE(text.str().find(config_markdown()), std::string::npos)
      << "the table in docs/configuration.md differs from core/config_schema.cc; it must be:\n"
      << config_markdown();
}

TEST(ConfigDeathTest, AskingForAnotherTypeStops) {
  EXPECT_DEATH(Config().get_int("store.memory"), "check failed");
  EXPECT_DEATH(Config().get_int("no.such"), "check failed");
}

}  // namespace
}  // namespace sheaf

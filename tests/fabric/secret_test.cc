#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "transport/fabric/cluster_secret.h"

namespace sheaf::transport {
namespace {

class ClusterSecretTest : public testing::Test {
 protected:
  ClusterSecretTest() {
    dir = std::filesystem::temp_directory_path() / ("sheaf-secret-" + std::to_string(getpid()));
    std::filesystem::create_directory(dir);
  }
  ~ClusterSecretTest() override { std::filesystem::remove_all(dir); }
  std::filesystem::path dir;
};

TEST_F(ClusterSecretTest, WhatIsWrittenIsRead) {
  ClusterSecret secret = ClusterSecret::random();
  ASSERT_TRUE(secret.write_new(dir / "s").is_ok());
  struct stat st;
  ASSERT_EQ(stat((dir / "s").c_str(), &st), 0);
  EXPECT_EQ(st.st_mode & 0777, 0600u);
  auto read = ClusterSecret::read(dir / "s");
  ASSERT_TRUE(read.has_value()) << read.status().to_string();
  EXPECT_EQ(read->cluster, secret.cluster);
  EXPECT_EQ(read->token, secret.token);
  EXPECT_EQ(read->derive_key("a"), secret.derive_key("a"));
  EXPECT_NE(read->derive_key("a"), secret.derive_key("b"));
  EXPECT_NE(ClusterSecret::random().token, secret.token);
}

TEST_F(ClusterSecretTest, AnExistingFileIsNeverOverwritten) {
  ClusterSecret secret = ClusterSecret::random();
  ASSERT_TRUE(secret.write_new(dir / "s").is_ok());
  EXPECT_EQ(secret.write_new(dir / "s").code(), StatusCode::kAlreadyExists);
  std::filesystem::create_symlink(dir / "elsewhere", dir / "link");
  EXPECT_FALSE(secret.write_new(dir / "link").is_ok());
  EXPECT_FALSE(std::filesystem::exists(dir / "elsewhere"));
}

TEST_F(ClusterSecretTest, AFileThatOthersMayReadIsRefused) {
  ClusterSecret secret = ClusterSecret::random();
  ASSERT_TRUE(secret.write_new(dir / "s").is_ok());
  for (mode_t mode : {0640, 0604, 0620, 0666}) {
    ASSERT_EQ(chmod((dir / "s").c_str(), mode), 0);
    EXPECT_EQ(ClusterSecret::read(dir / "s").status().code(), StatusCode::kPermissionDenied);
  }
  ASSERT_EQ(chmod((dir / "s").c_str(), 0600), 0);
  std::filesystem::create_symlink(dir / "s", dir / "link");
  EXPECT_FALSE(ClusterSecret::read(dir / "link").has_value());
  EXPECT_FALSE(ClusterSecret::read(dir).has_value());
  ASSERT_EQ(mkfifo((dir / "fifo").c_str(), 0600), 0);
  EXPECT_FALSE(ClusterSecret::read(dir / "fifo").has_value());
  EXPECT_EQ(ClusterSecret::read(dir / "none").status().code(), StatusCode::kNotFound);
}

TEST_F(ClusterSecretTest, ADamagedFileIsSaidToBeDamaged) {
  ClusterSecret secret = ClusterSecret::random();
  ASSERT_TRUE(secret.write_new(dir / "s").is_ok());
  auto size = std::filesystem::file_size(dir / "s");
  for (uintmax_t keep = 0; keep + 1 < size; keep += 7) {
    std::filesystem::resize_file(dir / "s", keep);
    EXPECT_EQ(ClusterSecret::read(dir / "s").status().code(), StatusCode::kCorrupt) << keep;
    std::filesystem::remove(dir / "s");
    ASSERT_TRUE(secret.write_new(dir / "s").is_ok());
  }
}

}  // namespace
}  // namespace sheaf::transport

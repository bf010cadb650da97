// How many instructions the hot paths take, counted by callgrind, against perf/instructions.txt.
// The count does not depend on the load or the speed of the machine. SHEAF_TEST_UPDATE_GOLDEN=1
// writes the file anew.
#include <gtest/gtest.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <map>
#include <sstream>
#include <string>
#include <vector>

namespace {

namespace fs = std::filesystem;

constexpr double kTolerance = 0.05;   // another libc's malloc and memcpy
constexpr double kSlack = 3;          // instructions, for the shortest paths
constexpr double kRounds = 1000;      // as in perf/count_instructions.cc

using Counts = std::map<std::string, double>;

struct Expected {
  std::string build;
  Counts counts;
};

Expected read_expected(const std::string& path) {
  Expected out;
  std::ifstream file(path);
  for (std::string line; std::getline(file, line);) {
    std::istringstream words(line);
    std::string name;
    double count = 0;
    if (line.rfind("build ", 0) == 0) out.build = line.substr(6);
    else if (line.rfind('#', 0) != 0 && words >> name >> count) out.counts[name] = count;
  }
  return out;
}

std::string build() {
  std::string text = SHEAF_TEST_BUILD;
  while (!text.empty() && text.back() == ' ') text.pop_back();
  return text;
}

void write_expected(const std::string& path, const Counts& counts) {
  std::ofstream file(path);
  file << "# Instructions of the hot paths, by callgrind: see docs/performance.md. Written by\n"
          "# SHEAF_TEST_UPDATE_GOLDEN=1 ctest -R instructions_test\n"
          "build " << build() << '\n';
  for (auto& [name, count] : counts) file << name << ' ' << std::llround(count) << '\n';
}

bool has_valgrind() { return system("valgrind --version >/dev/null 2>&1") == 0; }

// One file a path: "desc: Trigger: Client Request: NAME", "totals: N".
Counts read_counts(const fs::path& folder) {
  Counts out;
  for (auto& entry : fs::directory_iterator(folder)) {
    std::ifstream file(entry.path());
    std::string name;
    for (std::string line; std::getline(file, line);) {
      const std::string trigger = "desc: Trigger: Client Request: ", totals = "totals: ";
      if (line.rfind(trigger, 0) == 0) name = line.substr(trigger.size());
      if (line.rfind(totals, 0) == 0 && !name.empty()) {
        out[name] = std::stod(line.substr(totals.size())) / kRounds;
      }
    }
  }
  double nothing = out["nothing"];
  out.erase("nothing");
  for (auto& [name, count] : out) count -= nothing;
  return out;
}

class TempFolder {
 public:
  TempFolder() {
    std::string name = (fs::temp_directory_path() / "sheaf-test-XXXXXX").string();
    path_ = mkdtemp(name.data());
  }
  ~TempFolder() { fs::remove_all(path_); }
  const fs::path& path() const { return path_; }

 private:
  fs::path path_;
};

Counts count_now() {
  TempFolder folder;
  std::string counts = (folder.path() / "counts").string(), log = (folder.path() / "log").string();
  std::string command = "valgrind --tool=callgrind --collect-atstart=no --callgrind-out-file='" +
                        counts + "' '" SHEAF_TEST_PROGRAM "' >/dev/null 2>'" + log + "'";
  int status = system(command.c_str());
  EXPECT_EQ(status, 0) << std::ifstream(log).rdbuf();
  return read_counts(folder.path());
}

}  // namespace

TEST(InstructionsTest, HotPathsTakeNoMoreThanWritten) {
  if (!has_valgrind()) GTEST_SKIP() << "valgrind is not installed";
  bool update = getenv("SHEAF_TEST_UPDATE_GOLDEN") != nullptr;
  Expected expected = read_expected(SHEAF_TEST_EXPECTED);
  if (!update && expected.build != build()) {
    GTEST_SKIP() << "the counts are for " << expected.build << ", this is " << build();
  }
  Counts counts = count_now();
  if (counts.empty()) GTEST_SKIP() << "built without valgrind/callgrind.h";
  if (update) return write_expected(SHEAF_TEST_EXPECTED, counts);
  for (auto& [name, limit] : expected.counts) {
    ASSERT_TRUE(counts.count(name)) << name << " was not counted";
    EXPECT_LE(counts[name], limit * (1 + kTolerance) + kSlack) << name;
    if (counts[name] < limit * (1 - kTolerance) - kSlack) {
      GTEST_LOG_(INFO) << name << " takes " << counts[name] << " instead of " << limit
                       << ": write the file anew";
    }
  }
  EXPECT_EQ(counts.size(), expected.counts.size());
}

TEST(InstructionsTest, CountsAreTheSameEachTime) {
  if (!has_valgrind()) GTEST_SKIP() << "valgrind is not installed";
  if (!std::string(SHEAF_TEST_BUILD).ends_with(' ')) GTEST_SKIP() << "not under a sanitizer";
  Counts once = count_now(), again = count_now();
  if (once.empty()) GTEST_SKIP() << "built without valgrind/callgrind.h";
  for (auto& [name, count] : once) EXPECT_NEAR(count, again[name], 1 + count / 500) << name;
}

// The Task Bench programs: every pattern runs, every task finds the inputs that the graph says, on
// each system that was built here.
#include <gtest/gtest.h>
#include <stdlib.h>
#include <unistd.h>

#include <array>
#include <cstdio>
#include <set>
#include <sstream>
#include <string>
#include <vector>

#include "perf/taskbench_graph.h"

namespace {

using taskbench::kMaxInputs;
using taskbench::kPatternNames;
using taskbench::Output;
using taskbench::Pattern;
using taskbench::Shape;

std::vector<int64_t> inputs(const Shape& shape, int64_t t, int64_t i) {
  int64_t found[kMaxInputs];
  int n = shape.inputs(t, i, found);
  return {found, found + n};
}

// The last line that `command` prints for each request.
std::vector<std::string> ask(const std::string& command, const std::vector<std::string>& requests) {
  std::string text;
  for (auto& request : requests) text += request + "\\n";
  std::string line_by_line = "printf '" + text + "end\\n' | timeout 100 " + command + " 2>&1";
  FILE* pipe = popen(line_by_line.c_str(), "r");
  std::vector<std::string> answers;
  std::array<char, 4096> line;
  while (fgets(line.data(), line.size(), pipe) != nullptr) {
    std::string one = line.data();
    if (one.rfind("ok ", 0) == 0 || one.rfind("error", 0) == 0) answers.push_back(one);
  }
  EXPECT_EQ(pclose(pipe), 0) << command;
  return answers;
}

bool exists(const std::string& path) { return access(path.c_str(), X_OK) == 0; }

class TaskBenchTest : public ::testing::TestWithParam<const char*> {};

}  // namespace

TEST(TaskBenchGraphTest, InputsAreAscendingAndOfTheRowBefore) {
  for (int p = 0; p < 8; ++p) {
    for (int64_t width : {1, 2, 3, 8, 13}) {
      Shape shape{static_cast<Pattern>(p), width, 20};
      for (int64_t t = 0; t < shape.steps; ++t) {
        for (int64_t i = 0; i < shape.width_at(t); ++i) {
          auto found = inputs(shape, t, i);
          ASSERT_TRUE(t > 0 || found.empty());
          for (size_t k = 0; k < found.size(); ++k) {
            ASSERT_GE(found[k], 0);
            ASSERT_LT(found[k], shape.width_at(t - 1)) << kPatternNames[p] << " " << t << " " << i;
            ASSERT_TRUE(k == 0 || found[k - 1] < found[k]);
          }
        }
      }
    }
  }
}

TEST(TaskBenchGraphTest, PatternsAreWhatTheirNamesSay) {
  using Points = std::vector<int64_t>;
  EXPECT_EQ(inputs({Pattern::kStencil1d, 8, 9}, 3, 0), (Points{0, 1}));
  EXPECT_EQ(inputs({Pattern::kStencil1d, 8, 9}, 3, 4), (Points{3, 4, 5}));
  EXPECT_EQ(inputs({Pattern::kFft, 8, 9}, 1, 4), (Points{3, 4, 5}));
  EXPECT_EQ(inputs({Pattern::kFft, 8, 9}, 3, 4), (Points{0, 4}));
  EXPECT_EQ(inputs({Pattern::kFft, 8, 9}, 4, 4), (Points{3, 4, 5}));
  EXPECT_EQ(inputs({Pattern::kTree, 8, 9}, 2, 3), (Points{1}));
  EXPECT_EQ(inputs({Pattern::kTree, 8, 9}, 5, 3), (Points{3}));
  EXPECT_EQ(inputs({Pattern::kNearest, 8, 9}, 2, 4), (Points{2, 3, 4, 5, 6}));
  EXPECT_EQ(inputs({Pattern::kSpread, 10, 9}, 1, 0), (Points{0, 3, 5, 7, 9}));
  EXPECT_EQ(inputs({Pattern::kNoComm, 8, 9}, 2, 4), (Points{4}));
}

TEST(TaskBenchGraphTest, WrongInputsAreSeen) {
  Shape shape{Pattern::kStencil1d, 8, 9};
  Output a{1, 3, 0}, b{1, 4, 0}, c{1, 5, 0}, old{0, 5, 0};
  const Output *right[] = {&a, &b, &c}, *swapped[] = {&b, &a, &c}, *stale[] = {&a, &b, &old};
  EXPECT_TRUE(inputs_are_right(shape, 2, 4, right, 3));
  EXPECT_FALSE(inputs_are_right(shape, 2, 4, swapped, 3));
  EXPECT_FALSE(inputs_are_right(shape, 2, 4, stale, 3));
  EXPECT_FALSE(inputs_are_right(shape, 2, 4, right, 2));
}

TEST_P(TaskBenchTest, EveryPatternRunsWithTheRightInputs) {
  std::string name = GetParam();
  std::string path = SHEAF_TEST_FOLDER "/taskbench_" + name;
  if (!exists(path)) GTEST_SKIP() << path << " was not built: its library is not here";
  if (name == "mpi") {
    if (system("mpirun --version >/dev/null 2>&1") != 0) GTEST_SKIP() << "there is no mpirun";
    std::string as_root = getuid() == 0 ? "--allow-run-as-root " : "";
    path = "mpirun " + as_root + "--oversubscribe -n 2 " + path;
  }
  setenv("SHEAF_SHEAFD", SHEAF_TEST_SHEAFD, 0);
  setenv("SHEAF_WORKER", SHEAF_TEST_WORKER, 0);
  setenv("STARPU_HOME", ::testing::TempDir().c_str(), 0);
  unsetenv("SHEAF_ADDRESS");
  std::vector<std::string> requests;
  for (const char* pattern : kPatternNames) {
    requests.push_back(std::string("graph ") + pattern + " 6 12 10");
  }
  requests.push_back("graph nonsense 6 12 10");
  auto answers = ask(path, requests);
  ASSERT_EQ(answers.size(), requests.size());
  for (int p = 0; p < 8; ++p) {
    std::istringstream words(answers[static_cast<size_t>(p)]);
    std::string ok;
    double seconds = 0;
    int64_t tasks = 0;
    words >> ok >> seconds >> tasks;
    EXPECT_EQ(ok, "ok") << kPatternNames[p] << ": " << answers[static_cast<size_t>(p)];
    EXPECT_GT(seconds, 0);
    EXPECT_EQ(tasks, std::string(kPatternNames[p]) == "tree" ? 61 : 72);
  }
  EXPECT_EQ(answers.back().rfind("error", 0), 0u);
}

INSTANTIATE_TEST_SUITE_P(Systems, TaskBenchTest,
                         ::testing::Values("sheaf", "openmp", "mpi", "starpu"),
                         [](const auto& info) { return std::string(info.param); });

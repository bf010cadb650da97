// Reads names of text files from the standard input, builds their inverted index serially and as tasks, compares the two
// and prints what each took. Exit status 1 when they differ.
#include <sys/stat.h>

#include <chrono>
#include <cstdio>
#include <iostream>
#include <string>

#include "index_tasks.h"

namespace {

using Clock = std::chrono::steady_clock;
constexpr int64_t kBytesPerTask = 1 << 20;

double ms_since(Clock::time_point start) {
  return std::chrono::duration<double, std::milli>(Clock::now() - start).count();
}

// Groups of files of about kBytesPerTask each.
std::vector<std::vector<TextFile>> read_names(std::istream& in) {
  std::vector<std::vector<TextFile>> groups(1);
  int64_t bytes = 0;
  int32_t number = 0;
  for (std::string path; std::getline(in, path);) {
    struct stat info {};
    if (stat(path.c_str(), &info) != 0) continue;
    if (bytes > kBytesPerTask) {
      groups.emplace_back();
      bytes = 0;
    }
    groups.back().push_back({number++, path});
    bytes += info.st_size;
  }
  return groups;
}

std::vector<Index> run_serially(const std::vector<std::vector<TextFile>>& groups) {
  std::vector<std::vector<Index>> pieces(kPartitions);
  for (const auto& group : groups) {
    auto parts = index_files(group);
    for (size_t p = 0; p < kPartitions; ++p) pieces[p].push_back(std::move(parts[p]));
  }
  std::vector<Index> index;
  for (const auto& of_one : pieces) index.push_back(merge(of_one));
  return index;
}

std::vector<Index> run_as_tasks(const std::vector<std::vector<TextFile>>& groups) {
  std::vector<sheaf::ObjectRef<std::vector<sheaf::ObjectRef<Index>>>> mapped;
  for (const auto& group : groups) mapped.push_back(sheaf::task(map_files).remote(group));
  std::vector<std::vector<sheaf::ObjectRef<Index>>> pieces(kPartitions);
  for (const auto& parts : sheaf::get(mapped)) {
    for (size_t p = 0; p < kPartitions; ++p) pieces[p].push_back(parts[p]);
  }
  std::vector<sheaf::ObjectRef<Index>> reduced;
  for (const auto& of_one : pieces) reduced.push_back(sheaf::task(reduce_part).remote(of_one));
  return sheaf::get(reduced);
}

}  // namespace

int main() {
  auto groups = read_names(std::cin);
  auto start = Clock::now();
  sheaf::init();
  double up = ms_since(start);

  run_serially(groups);   // once to warm the page cache, for both
  start = Clock::now();
  auto expected = run_serially(groups);
  double serial = ms_since(start);
  start = Clock::now();
  auto index = run_as_tasks(groups);
  double parallel = ms_since(start);
  bool same = index == expected;

  size_t words = 0;
  for (const Index& part : index) words += part.size();
  std::printf("%zu words of %zu map and %d reduce tasks, %s\n", words, groups.size(), kPartitions,
              same ? "equal to the serial run" : "NOT equal to the serial run");
  std::printf("cluster up after %.0f ms\nserial %.0f ms\ntasks  %.0f ms\n", up, serial, parallel);
  sheaf::shutdown();
  return same ? 0 : 1;
}

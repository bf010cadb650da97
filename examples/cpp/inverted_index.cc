// An inverted index by map tasks and a reduction, compared with a serial run. Reads file names from stdin, one a line.
#include <sheaf/sheaf.h>

#include <chrono>
#include <cstdio>
#include <iostream>

#include "tasks.h"

namespace {

constexpr size_t kFilesPerTask = 64;

double milliseconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count();
}

std::vector<std::vector<std::string>> read_groups(std::istream& in) {
  std::vector<std::vector<std::string>> groups;
  for (std::string path; std::getline(in, path);) {
    if (groups.empty() || groups.back().size() == kFilesPerTask) groups.emplace_back();
    groups.back().push_back(path);
  }
  return groups;
}

}  // namespace

int main() {
  auto groups = read_groups(std::cin);

  auto start = std::chrono::steady_clock::now();
  std::vector<examples::Index> parts;
  for (const auto& group : groups) parts.push_back(examples::map_files(group));
  examples::Index expected = examples::reduce_indices(parts);
  std::printf("serial %.1f ms\n", milliseconds_since(start));

  sheaf::init();
  start = std::chrono::steady_clock::now();
  std::vector<sheaf::ObjectRef<examples::Index>> refs;
  for (const auto& group : groups) refs.push_back(sheaf::task(examples::map_files).remote(group));
  examples::Index index = examples::reduce_indices(sheaf::get(refs));
  std::printf("tasks %.1f ms: %zu words from %zu map tasks\n", milliseconds_since(start), index.size(), refs.size());
  sheaf::shutdown();

  if (index != expected) {
    std::fprintf(stderr, "the index differs from the serial one\n");
    return 1;
  }
  return 0;
}

// An inverted index (word -> files) by map and reduce. The same functions run serially and as tasks.
#pragma once

#include <sheaf/sheaf.h>

#include <cstdint>
#include <string>
#include <unordered_map>
#include <vector>

struct TextFile {
  int32_t number = 0;   // in the list of all files
  std::string path;
  template <class A>
  void fields(A& a) { a(number, path); }
};

inline constexpr int kPartitions = 4;
using Index = std::unordered_map<std::string, std::vector<int32_t>>;   // word -> numbers of files, ascending

// The words of these files, split into kPartitions by a hash of the word.
std::vector<Index> index_files(const std::vector<TextFile>& files);
// One partition's index from its pieces, which are given in the order of their files.
Index merge(const std::vector<Index>& pieces);

// The tasks: each piece becomes an object of its own, so that a reducer reads only its partition.
std::vector<sheaf::ObjectRef<Index>> map_files(const std::vector<TextFile>& files);
Index reduce_part(const std::vector<sheaf::ObjectRef<Index>>& pieces);

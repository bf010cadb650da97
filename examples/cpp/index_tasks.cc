#include "index_tasks.h"

#include <fstream>
#include <functional>
#include <iterator>
#include <unordered_set>

namespace {

constexpr size_t kWordLengthMin = 3;

bool in_word(char c) { return (c >= 'a' && c <= 'z') || c == '_'; }
char lower(char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c; }

std::unordered_set<std::string> words_of(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::string text((std::istreambuf_iterator<char>(file)), {});
  for (char& c : text) c = lower(c);
  std::unordered_set<std::string> words;
  for (size_t at = 0; at < text.size();) {
    size_t end = at;
    while (end < text.size() && in_word(text[end])) ++end;
    if (end - at >= kWordLengthMin) words.insert(text.substr(at, end - at));
    at = end + 1;
  }
  return words;
}

}  // namespace

std::vector<Index> index_files(const std::vector<TextFile>& files) {
  std::vector<Index> parts(kPartitions);
  for (const TextFile& file : files) {
    for (const std::string& word : words_of(file.path)) {
      parts[std::hash<std::string>()(word) % kPartitions][word].push_back(file.number);
    }
  }
  return parts;
}

Index merge(const std::vector<Index>& pieces) {
  Index index;
  for (const Index& piece : pieces) {
    for (const auto& [word, files] : piece) {
      auto& all = index[word];
      all.insert(all.end(), files.begin(), files.end());
    }
  }
  return index;
}

std::vector<sheaf::ObjectRef<Index>> map_files(const std::vector<TextFile>& files) {
  std::vector<sheaf::ObjectRef<Index>> refs;
  for (const Index& part : index_files(files)) refs.push_back(sheaf::put(part));
  return refs;
}

Index reduce_part(const std::vector<sheaf::ObjectRef<Index>>& pieces) { return merge(sheaf::get(pieces)); }

SHEAF_REMOTE(map_files);
SHEAF_REMOTE(reduce_part);

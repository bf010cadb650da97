#include "runtime/process_title.h"

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <sstream>
#include <utility>

namespace sheaf::runtime {

namespace {

// Fields of /proc/self/stat, counted from the one behind the name in parentheses.
constexpr int kArgStart = 45;
constexpr int kArgEnd = 46;

bool find_arguments(char** begin, size_t* size) {
  std::ifstream file("/proc/self/stat");
  std::string text((std::istreambuf_iterator<char>(file)), {});
  size_t name_end = text.rfind(')');
  if (name_end == std::string::npos) return false;
  std::istringstream fields(text.substr(name_end + 1));
  std::string field;
  uintptr_t start = 0, end = 0;
  for (int i = 0; fields >> field; ++i) {
    if (i == kArgStart) start = std::strtoull(field.c_str(), nullptr, 10);
    if (i == kArgEnd) end = std::strtoull(field.c_str(), nullptr, 10);
  }
  if (start == 0 || end <= start) return false;   // hidden by the kernel
  *begin = reinterpret_cast<char*>(start);
  *size = end - start;
  return true;
}

}  // namespace

void ProcessTitle::show(std::string_view title) {
  // Children have their arguments where the parent has them: a template has looked for its workers.
  static char* begin = nullptr;
  static size_t room = 0;
  static const bool found = find_arguments(&begin, &room);
  if (found && !std::exchange(sought_, true)) {
    begin_ = begin;
    room_ = room;
  }
  if (title == shown_) return;
  if (room_ < 2) return;
  shown_ = title;
  size_t used = std::min(title.size(), room_ - 1);
  std::memcpy(begin_, title.data(), used);
  std::memset(begin_ + used, 0, room_ - used);   // a last byte of zero says that the text ends here
}

}  // namespace sheaf::runtime

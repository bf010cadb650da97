// What `ps` shows as this process's command line: a title, written over the arguments that it was started with.
//
// Nothing but this process's own memory is touched; no system call after the first title. Where the place of the
// arguments is not known nothing happens. Owned by one thread at a time.
#pragma once

#include <string>
#include <string_view>

namespace sheaf::runtime {

class ProcessTitle {
 public:
  // Cut to the length of the arguments.
  void show(std::string_view title);

 private:
  bool sought_ = false;
  char* begin_ = nullptr;
  size_t room_ = 0;
  std::string shown_;
};

}  // namespace sheaf::runtime

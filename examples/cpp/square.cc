// The five-line example in C++.
#include <sheaf/sheaf.h>

#include <cstdio>

#include "tasks.h"

int main() {
  sheaf::init();
  std::vector<sheaf::ObjectRef<int64_t>> refs;
  for (int64_t i = 0; i < 10; ++i) refs.push_back(sheaf::task(examples::square).remote(i));
  for (int64_t value : sheaf::get(refs)) std::printf("%lld ", static_cast<long long>(value));
  std::printf("\n");
  sheaf::shutdown();
}

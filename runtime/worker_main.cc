// sheaf-worker: the process in which C++ tasks and actors run. Started by sheafd (launchers/worker_spawner.h).
#include <unistd.h>

#include <cstdio>
#include <cstdlib>

#include "runtime/api/worker.h"

int main() {
  constexpr int kOptionsFd = 3;
  auto options = sheaf::internal::read_worker_options(kOptionsFd);
  if (!options) {
    std::fprintf(stderr, "sheaf-worker is started by sheafd: %s\n", options.status().to_string().c_str());
    return 2;
  }
  if (sheaf::internal::is_program(options->library)) {
    // The driver registers its own functions: it is its own library, and init() in it becomes the worker.
    setenv(sheaf::internal::kWorkerVariable, "1", 1);
    char* arguments[] = {options->library.data(), nullptr};
    execv(options->library.c_str(), arguments);
    std::perror(options->library.c_str());
    return 1;
  }
  int status = sheaf::internal::run_worker(*options, true);
  std::fflush(nullptr);
  _exit(status);   // destructors of the user's libraries would run beside threads that still wait
}

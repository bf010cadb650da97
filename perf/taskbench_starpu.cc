// Task Bench on StarPU: one handle a cell of the last rows; the runtime finds the dependences.
#include <starpu.h>

#include <atomic>
#include <vector>

#include "perf/taskbench_serve.h"

namespace taskbench {
namespace {

constexpr int64_t kRows = 8;   // rows that exist at once: a row waits for the readers of the one eight before
std::atomic<bool> g_wrong{false};

struct Call {
  Shape shape;
  int64_t step, point, iterations;
  int inputs;
};

void run_cell(void* buffers[], void* argument) {
  const Call& call = *static_cast<const Call*>(argument);
  const Output* inputs[kMaxInputs];
  for (int k = 0; k < call.inputs; ++k) {
    inputs[k] = reinterpret_cast<const Output*>(STARPU_VARIABLE_GET_PTR(buffers[k + 1]));
  }
  if (!inputs_are_right(call.shape, call.step, call.point, inputs, call.inputs)) g_wrong = true;
  auto* own = reinterpret_cast<Output*>(STARPU_VARIABLE_GET_PTR(buffers[0]));
  *own = {call.step, call.point, compute(call.iterations)};
}

starpu_codelet make_codelet() {
  starpu_codelet codelet;
  starpu_codelet_init(&codelet);
  codelet.cpu_funcs[0] = run_cell;
  codelet.nbuffers = STARPU_VARIABLE_NBUFFERS;
  codelet.name = "cell";
  return codelet;
}

double run(const Shape& shape, int64_t iterations) {
  static starpu_codelet codelet = make_codelet();
  std::vector<Output> cells(static_cast<size_t>(shape.width * kRows));
  std::vector<starpu_data_handle_t> handles(cells.size());
  starpu_resume();
  for (size_t i = 0; i < cells.size(); ++i) {
    starpu_variable_data_register(&handles[i], STARPU_MAIN_RAM, reinterpret_cast<uintptr_t>(&cells[i]), sizeof(Output));
  }
  auto handle = [&](int64_t t, int64_t i) {
    return handles[static_cast<size_t>((t % kRows) * shape.width + i)];
  };
  g_wrong = false;
  auto start = Clock::now();
  for (int64_t t = 0; t < shape.steps; ++t) {
    for (int64_t i = 0; i < shape.width_at(t); ++i) {
      int64_t in[kMaxInputs];
      int n = shape.inputs(t, i, in);
      starpu_task* task = starpu_task_create();
      task->cl = &codelet;
      task->nbuffers = n + 1;
      task->handles[0] = handle(t, i);
      task->modes[0] = STARPU_W;
      for (int k = 0; k < n; ++k) {
        task->handles[k + 1] = handle(t - 1, in[k]);
        task->modes[k + 1] = STARPU_R;
      }
      task->cl_arg = malloc(sizeof(Call));
      *static_cast<Call*>(task->cl_arg) = {shape, t, i, iterations, n};
      task->cl_arg_size = sizeof(Call);
      task->cl_arg_free = 1;
      if (starpu_task_submit(task) != 0) return -1;
    }
  }
  starpu_task_wait_for_all();
  double seconds = seconds_since(start);
  for (auto h : handles) starpu_data_unregister(h);
  starpu_pause();
  return g_wrong ? -1.0 : seconds;
}

}  // namespace
}  // namespace taskbench

int main() {
  starpu_conf options;
  starpu_conf_init(&options);
  options.ncuda = 0;
  options.nopencl = 0;
  if (starpu_init(&options) != 0) return 1;
  starpu_pause();
  taskbench::serve(taskbench::run);
  starpu_resume();
  starpu_shutdown();
}

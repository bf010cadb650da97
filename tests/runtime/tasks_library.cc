#include "tests/runtime/tasks_library.h"

#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include <chrono>
#include <fstream>
#include <numeric>
#include <thread>

namespace testlib {

namespace {

void sleep_ms(int ms) { std::this_thread::sleep_for(std::chrono::milliseconds(ms)); }

bool exists(const std::string& file) {
  struct stat info {};
  return stat(file.c_str(), &info) == 0;
}

int lines(const std::string& file) {
  std::ifstream in(file);
  int n = 0;
  for (std::string line; std::getline(in, line);) ++n;
  return n;
}

}  // namespace

int64_t square(int64_t x) { return x * x; }
int64_t add(int64_t a, int64_t b) { return a + b; }
int64_t sum(const std::vector<int64_t>& values) { return std::accumulate(values.begin(), values.end(), int64_t{0}); }

std::string repeat(const std::string& text, int times) {
  std::string out;
  for (int i = 0; i < times; ++i) out += text;
  return out;
}

std::vector<double> ramp(int64_t n) {
  std::vector<double> out(static_cast<size_t>(n));
  std::iota(out.begin(), out.end(), 0.0);
  return out;
}

double total(sheaf::View<double> values) { return std::accumulate(values.begin(), values.end(), 0.0); }

int64_t length_of_ref(sheaf::ObjectRef<std::string> ref) { return static_cast<int64_t>(sheaf::get(ref).size()); }

std::vector<sheaf::ObjectRef<int64_t>> make_refs(int n) {
  std::vector<sheaf::ObjectRef<int64_t>> out;
  for (int i = 0; i < n; ++i) {
    out.push_back(i % 2 ? sheaf::put(int64_t{i}) : sheaf::task(square).remote(i));
  }
  return out;
}

int64_t sum_of_refs(const std::vector<sheaf::ObjectRef<int64_t>>& refs) {
  int64_t out = 0;
  for (int64_t v : sheaf::get(refs)) out += v;
  return out;
}

int64_t fibonacci(int n) {
  if (n < 2) return n;
  auto a = sheaf::task(fibonacci).remote(n - 1);
  auto b = sheaf::task(fibonacci).remote(n - 2);
  return sheaf::get(a) + sheaf::get(b);
}

int64_t depth(int n) { return n == 0 ? 0 : 1 + sheaf::get(sheaf::task(depth).remote(n - 1)); }

int pid_of_worker() { return getpid(); }
void nothing() {}
int fail(const std::string& text) { throw std::invalid_argument(text); }
int fail_oddly() { throw 42; }

int flaky(const std::string& file, int failures) {
  int before = lines(file);
  std::ofstream(file, std::ios::app) << "x\n";
  if (before < failures) throw std::runtime_error("attempt " + std::to_string(before));
  return before;
}

int die(int signal) {
  kill(getpid(), signal);
  sleep_ms(10000);
  return 0;
}

int die_once(const std::string& file) {
  if (exists(file)) return 1;
  std::ofstream(file) << "x\n";
  return die(SIGKILL);
}

int64_t slow_square(int64_t x, int ms) {
  sleep_ms(ms);
  return x * x;
}

bool sleep_until_cancelled(int ms_max) {
  for (int i = 0; i < ms_max && !sheaf::cancelled(); ++i) sleep_ms(1);
  if (sheaf::cancelled()) throw sheaf::TaskCancelledError(sheaf::ErrorKind::kCancelled, "stopped as asked");
  return false;
}

void count_to(sheaf::Stream<int64_t>& out, int64_t n) {
  for (int64_t i = 0; i < n; ++i) out.yield(i);
}

void count_and_fail(sheaf::Stream<int64_t>& out, int64_t n) {
  count_to(out, n);
  throw std::runtime_error("after the last item");
}

void large_items(sheaf::Stream<std::vector<double>>& out, int n, int64_t size) {
  for (int i = 0; i < n; ++i) out.yield(std::vector<double>(static_cast<size_t>(size), i));
}

int wait_for_file(const std::string& file) {
  for (int i = 0; i < 20000 && !exists(file); ++i) sleep_ms(1);
  return getpid();
}

std::string cross_check(const std::vector<std::byte>& bytes, bool flag, double number, const std::string& text) {
  return std::to_string(bytes.size()) + (flag ? " true " : " false ") + std::to_string(number) + " " + text;
}

int Counter::pid() const { return getpid(); }

std::vector<int64_t> Counter::log(int64_t v) {
  log_.push_back(v);
  return log_;
}

int Counter::die() { return testlib::die(SIGKILL); }
int Counter::fail(const std::string& text) { throw std::out_of_range(text); }

int64_t Counter::sleep_and_add(int ms, int64_t by) {
  sleep_ms(ms);
  return add(by);
}

void Counter::leave() { sheaf::exit_actor(); }
void Counter::count(sheaf::Stream<int64_t>& out, int64_t n) { count_to(out, n); }

Broken::Broken() { throw std::runtime_error("cannot be made"); }

bool Barrier::meet(int ms_max) {
  ++arrived_;
  for (int i = 0; i < ms_max && arrived_ < participants_; ++i) sleep_ms(1);
  return arrived_ >= participants_;
}

int64_t use_counter(sheaf::ActorHandle<Counter> counter, int64_t by) {
  return sheaf::get(counter.task(&Counter::add).remote(by));
}

SHEAF_REMOTE(square);
SHEAF_REMOTE(add);
SHEAF_REMOTE(sum);
SHEAF_REMOTE(repeat);
SHEAF_REMOTE(ramp);
SHEAF_REMOTE(total);
SHEAF_REMOTE(length_of_ref);
SHEAF_REMOTE(make_refs);
SHEAF_REMOTE(sum_of_refs);
SHEAF_REMOTE(fibonacci);
SHEAF_REMOTE(depth);
SHEAF_REMOTE(pid_of_worker);
SHEAF_REMOTE(nothing);
SHEAF_REMOTE(fail);
SHEAF_REMOTE(fail_oddly);
SHEAF_REMOTE(flaky);
SHEAF_REMOTE(die);
SHEAF_REMOTE(die_once);
SHEAF_REMOTE(slow_square);
SHEAF_REMOTE(sleep_until_cancelled);
SHEAF_REMOTE(count_to);
SHEAF_REMOTE(count_and_fail);
SHEAF_REMOTE(large_items);
SHEAF_REMOTE(wait_for_file);
SHEAF_REMOTE(cross_check);
SHEAF_REMOTE(use_counter);

}  // namespace testlib

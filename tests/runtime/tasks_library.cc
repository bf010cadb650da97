#include "tests/runtime/tasks_library.h"

#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <fstream>
#include <numeric>
#include <sstream>
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

std::vector<double> shifted(sheaf::View<double> values, double by) {
  std::vector<double> out = values.to_vector();
  for (double& v : out) v += by;
  return out;
}

std::vector<double> noted_ramp(const std::string& file, int64_t n) {
  std::ofstream(file, std::ios::app) << "x\n";
  return ramp(n);
}

double noted_total(const std::string& file, sheaf::View<double> values) {
  std::ofstream(file, std::ios::app) << "x\n";
  return total(std::move(values));
}

double total_of_refs(const std::vector<sheaf::ObjectRef<std::vector<double>>>& refs) {
  double out = 0;
  for (const auto& ref : refs) out += total(sheaf::get_view(ref));
  return out;
}

RampAndPid make_ramp_and_pid(int64_t n) {
  auto ref = sheaf::task(ramp).remote(n);
  sheaf::wait(std::vector{ref});
  return {ref, getpid()};
}

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

std::tuple<int64_t, int64_t> divide(int64_t a, int64_t b) {
  if (b == 0) throw std::domain_error("division by zero");
  return {a / b, a % b};
}

std::tuple<std::vector<double>, std::string, sheaf::ObjectRef<int64_t>> mixed_results(int64_t n) {
  return {ramp(n), std::to_string(n), sheaf::task(square).remote(n)};
}

std::array<int64_t, 2> low_and_high(const std::vector<int64_t>& values) {
  auto [low, high] = std::minmax_element(values.begin(), values.end());
  return {*low, *high};
}

std::pair<std::vector<double>, int> ramp_and_pid(int64_t n) { return {ramp(n), getpid()}; }

std::map<std::string, std::string> context_of_task() {
  auto c = sheaf::runtime_context();
  std::ostringstream cpu;
  cpu << c.resources["CPU"];
  return {{"node", c.node_id}, {"job", std::to_string(c.job)}, {"process", std::to_string(c.process)},
          {"task", c.task_id}, {"name", c.task_name}, {"actor", c.actor_id}, {"cpu", cpu.str()},
          {"restarted", std::to_string(c.was_restarted)}};
}

int64_t sum_of_map(const std::map<std::string, std::vector<sheaf::ObjectRef<int64_t>>>& refs) {
  int64_t out = 0;
  for (const auto& [key, list] : refs) out += sum_of_refs(list);
  return out;
}

int note_and_hold(const std::string& note, const std::string& go) {
  std::ofstream(note, std::ios::app) << getpid() << std::endl;
  return wait_for_file(go);
}

int fail_with_own_type() { throw OwnError("own"); }

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

std::vector<double> ramp_after(const std::string& file, int64_t n) {
  wait_for_file(file);
  return ramp(n);
}

int64_t held(const std::string& go, int64_t x) {
  wait_for_file(go);
  if (x < 0) throw OwnError("held");
  return x;
}

std::tuple<int64_t, int64_t> held_two(const std::string& go, int64_t x) { return {held(go, x), x + 1}; }

std::vector<sheaf::ObjectRef<int64_t>> held_refs(const std::string& go, int n) {
  wait_for_file(go);
  return make_refs(n);
}

int64_t held_by_child(const std::string& note, const std::string& go, int64_t x) {
  std::ofstream(note, std::ios::app) << getpid() << std::endl;
  return sheaf::get(sheaf::task(held).remote(go, x));
}

int64_t noted_add(const std::string& file, int64_t a, int64_t b) {
  std::ofstream(file, std::ios::app) << "x\n";
  return a + b;
}

int64_t meet(const std::string& file, int n, int64_t x) {
  std::ofstream(file, std::ios::app) << "x\n";
  for (int i = 0; i < 20000 && lines(file) < n; ++i) sleep_ms(1);
  return lines(file) < n ? -1 : x;
}

void held_count(sheaf::Stream<int64_t>& out, const std::string& go, int64_t n) {
  wait_for_file(go);
  count_to(out, n);
}

sheaf::Value same_value(const sheaf::Value& value) { return value; }

std::map<std::string, int64_t> word_counts(const std::string& text) {
  std::map<std::string, int64_t> out;
  std::istringstream words(text);
  for (std::string word; words >> word;) ++out[word];
  return out;
}

std::optional<int> maybe(std::optional<int> x) { return x ? std::optional(*x + 1) : std::nullopt; }

std::map<int64_t, std::vector<std::string>> group_by_length(const std::vector<std::string>& words) {
  std::map<int64_t, std::vector<std::string>> out;
  for (const auto& word : words) out[static_cast<int64_t>(word.size())].push_back(word);
  return out;
}

int64_t call_python_add(int64_t a, int64_t b) {
  return sheaf::get(sheaf::py_function<int64_t>("cross_functions", "add").remote(a, b));
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
SHEAF_REMOTE(shifted);
SHEAF_REMOTE(noted_ramp);
SHEAF_REMOTE(noted_total);
SHEAF_REMOTE(total_of_refs);
SHEAF_REMOTE(make_ramp_and_pid);
SHEAF_REMOTE(length_of_ref);
SHEAF_REMOTE(make_refs);
SHEAF_REMOTE(sum_of_refs);
SHEAF_REMOTE(fibonacci);
SHEAF_REMOTE(depth);
SHEAF_REMOTE(pid_of_worker);
SHEAF_REMOTE(divide);
SHEAF_REMOTE(mixed_results);
SHEAF_REMOTE(low_and_high);
SHEAF_REMOTE(ramp_and_pid);
SHEAF_REMOTE(context_of_task);
SHEAF_REMOTE(sum_of_map);
SHEAF_REMOTE(note_and_hold);
SHEAF_REMOTE(fail_with_own_type);
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
SHEAF_REMOTE(ramp_after);
SHEAF_REMOTE(held);
SHEAF_REMOTE(held_two);
SHEAF_REMOTE(held_refs);
SHEAF_REMOTE(held_by_child);
SHEAF_REMOTE(noted_add);
SHEAF_REMOTE(meet);
SHEAF_REMOTE(held_count);
SHEAF_REMOTE(same_value);
SHEAF_REMOTE(word_counts);
SHEAF_REMOTE(maybe);
SHEAF_REMOTE(group_by_length);
SHEAF_REMOTE(call_python_add);
SHEAF_REMOTE(cross_check);
SHEAF_REMOTE(use_counter);

}  // namespace testlib

// The user's library of these tests: functions and actors that the drivers link and the workers load.
#pragma once

#include <array>
#include <atomic>
#include <map>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "runtime/sheaf.h"

namespace testlib {

int64_t square(int64_t x);
int64_t add(int64_t a, int64_t b);
int64_t sum(const std::vector<int64_t>& values);
std::string repeat(const std::string& text, int times);
std::vector<double> ramp(int64_t n);             // 0, 1, 2, ...
double total(sheaf::View<double> values);
std::vector<double> shifted(sheaf::View<double> values, double by);
// These append a line to `file` at each run.
std::vector<double> noted_ramp(const std::string& file, int64_t n);
double noted_total(const std::string& file, sheaf::View<double> values);
double total_of_refs(const std::vector<sheaf::ObjectRef<std::vector<double>>>& refs);
struct RampAndPid {
  sheaf::ObjectRef<std::vector<double>> ref;
  int pid = 0;
  template <class A>
  void fields(A& a) { a(ref, pid); }
};
RampAndPid make_ramp_and_pid(int64_t n);         // by a nested task: this worker is the object's maker
int64_t length_of_ref(sheaf::ObjectRef<std::string> ref);
std::vector<sheaf::ObjectRef<int64_t>> make_refs(int n);
int64_t sum_of_refs(const std::vector<sheaf::ObjectRef<int64_t>>& refs);
int64_t fibonacci(int n);                        // by nested tasks
int64_t depth(int n);                            // a chain of n tasks, each waiting for the next
int pid_of_worker();
std::tuple<int64_t, int64_t> divide(int64_t a, int64_t b);
std::tuple<std::vector<double>, std::string, sheaf::ObjectRef<int64_t>> mixed_results(int64_t n);
std::array<int64_t, 2> low_and_high(const std::vector<int64_t>& values);
std::pair<std::vector<double>, int> ramp_and_pid(int64_t n);
std::map<std::string, std::string> context_of_task();
int64_t sum_of_map(const std::map<std::string, std::vector<sheaf::ObjectRef<int64_t>>>& refs);
int note_and_hold(const std::string& note, const std::string& go);   // appends its pid to `note`, then waits for `go`
struct OwnError : std::runtime_error {
  using std::runtime_error::runtime_error;
};
int fail_with_own_type();
void nothing();
int fail(const std::string& text);
int fail_oddly();
int flaky(const std::string& file, int failures);   // throws until `file` has so many lines
int die(int signal);
int die_once(const std::string& file);           // kills its worker unless `file` exists
int64_t slow_square(int64_t x, int ms);
bool sleep_until_cancelled(int ms_max);
void count_to(sheaf::Stream<int64_t>& out, int64_t n);
void count_and_fail(sheaf::Stream<int64_t>& out, int64_t n);
void large_items(sheaf::Stream<std::vector<double>>& out, int n, int64_t size);
// Waits for a file; holds its worker meanwhile.
int wait_for_file(const std::string& file);
std::vector<double> ramp_after(const std::string& file, int64_t n);
int64_t held(const std::string& go, int64_t x);  // x once there is `go`; throws below 0
std::tuple<int64_t, int64_t> held_two(const std::string& go, int64_t x);   // x, x + 1
std::vector<sheaf::ObjectRef<int64_t>> held_refs(const std::string& go, int n);
int64_t held_by_child(const std::string& note, const std::string& go, int64_t x);   // by a nested task
int64_t noted_add(const std::string& file, int64_t a, int64_t b);          // appends a line
int64_t meet(const std::string& file, int n, int64_t x);                   // x once `n` calls have appended a line
void held_count(sheaf::Stream<int64_t>& out, const std::string& go, int64_t n);
sheaf::Value same_value(const sheaf::Value& value);
std::map<std::string, int64_t> word_counts(const std::string& text);
std::optional<int> maybe(std::optional<int> x);  // one more, or None
std::map<int64_t, std::vector<std::string>> group_by_length(const std::vector<std::string>& words);
int64_t call_python_add(int64_t a, int64_t b);   // cross_functions.add
std::string cross_check(const std::vector<std::byte>& bytes, bool flag, double number, const std::string& text);

class Counter {
 public:
  explicit Counter(int64_t start) : n_(start) {}
  int64_t add(int64_t by) { return n_ += by; }
  int64_t get() const { return n_; }
  std::pair<int64_t, int64_t> swap(int64_t n) { return {std::exchange(n_, n), n}; }
  std::map<std::string, std::string> context() const { return context_of_task(); }
  int64_t add_length(sheaf::View<double> values) { return n_ += static_cast<int64_t>(values.size()); }
  int pid() const;
  std::vector<int64_t> log(int64_t v);           // all values so far, in the order of their calls
  int die();
  int fail(const std::string& text);
  int64_t sleep_and_add(int ms, int64_t by);
  void leave();
  void count(sheaf::Stream<int64_t>& out, int64_t n);

 private:
  int64_t n_;
  std::vector<int64_t> log_;
};

class Broken {
 public:
  Broken();
  int get() { return 0; }
};

// Methods meet each other: needs as many threads as participants.
class Barrier {
 public:
  explicit Barrier(int participants) : participants_(participants) {}
  bool meet(int ms_max);

 private:
  int participants_;
  std::atomic<int> arrived_{0};
};

int64_t use_counter(sheaf::ActorHandle<Counter> counter, int64_t by);

}  // namespace testlib

SHEAF_ACTOR(testlib::Counter, (int64_t), add, get, swap, context, add_length, pid, log, die, fail, sleep_and_add, leave, count)
SHEAF_ACTOR(testlib::Broken, (), get)
SHEAF_ACTOR(testlib::Barrier, (int), meet)

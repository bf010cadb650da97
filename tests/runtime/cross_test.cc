// C++ calls Python by name, and (by cross_driver.py) Python calls C++: real workers of both languages in one cluster.
#include "tests/runtime/cluster_fixture.h"

namespace testlib {
namespace {

constexpr const char* kModule = "cross_functions";

void find_python_sources() {
  std::string path = SHEAF_TEST_SOURCES;
  if (*SHEAF_TEST_PYTHONPATH) path += std::string(":") + SHEAF_TEST_PYTHONPATH;
  setenv("PYTHONPATH", path.c_str(), 1);
  setenv("PYTHONDONTWRITEBYTECODE", "1", 1);
}

class CrossTest : public ClusterTest {
 public:
  static void SetUpTestSuite() {
    find_python_sources();
    sheaf::Options options = small_cluster();
    options.python = SHEAF_TEST_PYTHON;
    start(options);
  }

 protected:
  template <class R, class... A>
  static R call(const std::string& name, const A&... args) {
    return sheaf::get(sheaf::py_function<R>(kModule, name).remote(args...), 60s);
  }
  template <class T>
  static void expect_same(const T& value) {
    EXPECT_EQ(call<T>("same", value), value);
  }
  // What get() throws is a TaskError whose text has all of `words`.
  template <class Call>
  static void expect_task_error(const Call& action, const std::vector<std::string>& words) {
    try {
      action();
      ADD_FAILURE() << "nothing was thrown";
    } catch (const sheaf::TaskError& e) {
      for (const auto& word : words) EXPECT_NE(std::string(e.what()).find(word), std::string::npos) << e.what();
    }
  }
};

TEST_F(CrossTest, PlainDataOfEveryKindComesBack) {
  EXPECT_EQ(call<int64_t>("add", 40, 2), 42);
  EXPECT_EQ(call<double>("add", 0.5, 2), 2.5);
  EXPECT_EQ(call<std::string>("add", "a", std::string("b")), "ab");
  expect_same(true);
  expect_same(int64_t{-1});
  expect_same(INT64_MIN);
  expect_same(UINT64_MAX);
  expect_same(1e300);
  expect_same(std::string("hé\0llo", 7));
  expect_same(std::string(100000, 'x'));
  expect_same(std::vector<std::byte>{std::byte{0}, std::byte{255}});
  expect_same(std::vector<std::byte>(50000, std::byte{7}));
  expect_same(std::vector<int64_t>{});
  expect_same(std::vector<double>{1.5, -2.5});
  expect_same(std::vector<std::string>{"a", "", "c"});
  expect_same(std::map<std::string, std::vector<int64_t>>{{"a", {1, 2}}, {"b", {}}});
  expect_same(std::map<int64_t, std::string>{{1, "x"}});
  expect_same(std::tuple<int64_t, std::string, double>{1, "two", 3.0});
  expect_same(std::optional<int64_t>());
  expect_same(std::optional<int64_t>(5));
  expect_same(std::vector<std::vector<std::optional<double>>>{{1.0, std::nullopt}, {}});
  EXPECT_EQ(call<std::vector<int64_t>>("large", 50000).back(), 49999);
  EXPECT_EQ(call<int64_t>("numbers_sum", std::vector<int32_t>(40000, 2)), 80000);
  sheaf::get(sheaf::py_function<void>(kModule, "same").remote(std::monostate()), 20s);
}

TEST_F(CrossTest, PythonSeesItsOwnTypes) {
  auto types = call<std::vector<std::string>>("describe", 1, 1.0, true, "s", std::vector<std::byte>(2), std::vector<int>{1},
                                              std::map<std::string, int>{{"a", 1}}, std::tuple<int, int>{1, 2},
                                              std::monostate(), std::vector<uint8_t>{1}, std::vector<bool>{true});
  EXPECT_EQ(types, (std::vector<std::string>{"int", "float", "bool", "str", "bytes", "list", "dict", "tuple", "NoneType",
                                             "bytes", "list"}));
}

TEST_F(CrossTest, ValuesOfTypesThatAreKnownLater) {
  using sheaf::Value;
  Value record = call<Value>("record");
  EXPECT_EQ(record["name"].as<std::string>(), "sheaf");
  EXPECT_TRUE(record["none"].is_none());
  EXPECT_EQ(record["big"].as<uint64_t>(), uint64_t{1} << 63);
  EXPECT_EQ(record["numbers"][2].as<double>(), 3.5);
  EXPECT_EQ(record["numbers"].as<std::vector<double>>(), (std::vector<double>{1, -2, 3.5}));
  EXPECT_EQ(record["raw"].get<Value::Bytes>().size(), 2u);
  EXPECT_EQ(record["nested"]["deep"][0]["er"][1].as<std::string>(), "two");
  EXPECT_EQ(record.size(), 8u);
  EXPECT_THROW(record["absent"], sheaf::DecodeError);
  EXPECT_THROW(record["name"].as<int>(), sheaf::DecodeError);
  EXPECT_THROW(record["numbers"][3], sheaf::DecodeError);
  Value back = call<Value>("same", record);
  EXPECT_EQ(back, record);
  Value built = Value::List{1, 2.5, "x", Value(), Value::Dict{{"k", Value::List{true}}}};
  EXPECT_EQ(call<Value>("same", built), built);
}

TEST_F(CrossTest, ReferencesPassBothWays) {
  auto first = sheaf::py_function<int64_t>(kModule, "add").remote(1, 2);
  EXPECT_EQ(call<int64_t>("add", first, sheaf::put(int64_t{4})), 7);
  EXPECT_EQ(sheaf::get(sheaf::task(add).remote(first, 10), 60s), 13);          // a C++ task reads what Python made
  EXPECT_EQ(call<int64_t>("add", sheaf::task(square).remote(5), 1), 26);       // and the other way round
  std::vector<sheaf::ObjectRef<int64_t>> refs{first, sheaf::task(square).remote(3)};
  EXPECT_EQ(call<int64_t>("get_inside", refs), 12);
  EXPECT_EQ(call<double>("numbers_sum", sheaf::task(ramp).remote(100)), 4950);
  EXPECT_EQ(call<double>("numbers_sum", sheaf::task(ramp).remote(20000)), 19999.0 * 10000);
}

TEST_F(CrossTest, DecoratedAndNestedFunctionsAreFound) {
  EXPECT_EQ(call<int64_t>("decorated", 4), 40);
  EXPECT_EQ(call<int64_t>("Outer.inner", 4), 5);
  EXPECT_EQ(sheaf::get(sheaf::py_function<double>("math", "sqrt").num_cpus(0.5).name("root").remote(16), 20s), 4.0);
}

TEST_F(CrossTest, PythonErrorsKeepTypeAndText) {
  expect_task_error([] { call<int>("fail", "the reason"); }, {"OddError", "the reason"});
  expect_task_error([] { call<int>("unplain"); }, {"plain data"});
  expect_task_error([] { call<int>("no_such_function"); }, {"no_such_function"});
  expect_task_error([] { sheaf::get(sheaf::py_function<int>("no_such_module", "f").remote(), 60s); }, {"no_such_module"});
  expect_task_error([] { call<int>("add", 1); }, {"TypeError"});
  EXPECT_THROW(call<int>("same", "text"), sheaf::DecodeError);
  EXPECT_THROW(call<std::string>("same", 5), sheaf::DecodeError);
  EXPECT_THROW(call<int8_t>("same", 500), sheaf::DecodeError);
  auto failed = sheaf::py_function<int64_t>(kModule, "fail").remote("passed on");
  expect_task_error([&] { sheaf::get(sheaf::task(add).remote(failed, 1), 60s); }, {"OddError", "passed on"});
}

TEST_F(CrossTest, PythonActorsServeCppCallers) {
  auto account = sheaf::py_actor(kModule, "Account").name("savings").remote("ann", 10);
  EXPECT_EQ(sheaf::get(account.call<int64_t>("deposit", 5), 60s), 15);
  expect_task_error([&] { sheaf::get(account.call<int64_t>("deposit", -5), 60s); }, {"ValueError", "ann cannot deposit -5"});
  expect_task_error([&] { sheaf::get(account.call<int64_t>("no_such_method"), 60s); }, {"no_such_method"});
  auto again = sheaf::get_py_actor("savings");
  auto state = sheaf::get(again.call<sheaf::Value>("state"), 60s);
  EXPECT_EQ(state["owner"].as<std::string>(), "ann");
  EXPECT_EQ(state["balance"].as<int>(), 15);
  auto async = sheaf::py_actor(kModule, "AsyncAccount").num_cpus(0).remote();
  EXPECT_EQ(sheaf::get(async.call<int64_t>("double", sheaf::task(square).remote(3)), 60s), 18);
  account.kill();
  EXPECT_THROW(sheaf::get(again.call<int64_t>("deposit", 1), 60s), sheaf::ActorDiedError);
  auto broken = sheaf::py_actor(kModule, "Account").remote("bob", -1);
  try {
    sheaf::get(broken.call<int64_t>("deposit", 1), 60s);
    FAIL();
  } catch (const sheaf::ActorDiedError& e) {
    EXPECT_NE(std::string(e.what()).find("a negative balance"), std::string::npos) << e.what();
  }
}

// A process of its own: one process is one driver.
TEST(CrossDriverTest, PythonDriverCallsCpp) {
  use_build_tree();
  find_python_sources();
  const char* command = SHEAF_TEST_PYTHON " " SHEAF_TEST_SOURCES "/cross_driver.py " SHEAF_TEST_LIBRARY;
  EXPECT_EQ(system(command), 0);
}

}  // namespace
}  // namespace testlib

// A C++ driver that calls Python by name. Arguments: the folder of text_tools.py, the interpreter that has sheaf.
#include <sheaf/sheaf.h>

#include <cstdio>
#include <cstdlib>

int main(int argc, char** argv) {
  if (argc > 1) setenv("PYTHONPATH", argv[1], 1);   // workers see the driver's environment
  sheaf::Options options;
  options.num_cpus = 2;
  if (argc > 2) options.python = argv[2];
  sheaf::init(options);

  // The result's type is named; sheaf::Value takes any plain data.
  auto shorten = sheaf::py_function<sheaf::Value>("text_tools", "shorten");
  sheaf::Value result = sheaf::get(shorten.remote("to be or not to be", 5));
  std::printf("'%s' of %d\n", result["text"].as<std::string>().c_str(), result["length"].as<int>());
  double root = sheaf::get(sheaf::py_function<double>("math", "sqrt").remote(2));
  std::printf("%.3f\n", root);

  auto speller = sheaf::py_actor("text_tools", "Speller").remote(std::vector<std::string>{"rose", "is"});
  auto unknown = speller.call<std::vector<std::string>>("unknown", std::vector<std::string>{"rose", "thorn"});
  std::printf("%s\n", sheaf::get(unknown)[0].c_str());
  try {
    sheaf::get(speller.call<std::vector<std::string>>("unknown", std::vector<std::string>()));
  } catch (const sheaf::TaskError& e) {
    std::printf("%s: %s\n", e.type().c_str(), e.text().c_str());
  }
  sheaf::shutdown();
}

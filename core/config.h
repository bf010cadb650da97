// Configuration: a fixed schema of typed keys, and one set of values from defaults, a TOML file, the environment and
// code, each later source over the earlier ones.
//
// An unknown key, a wrong type or a value out of range is an error that names the source, the key and the nearest
// known key; nothing is ever ignored. Keys are "section.name"; the environment spells them SHEAF_SECTION_NAME. Values
// travel between processes as as_map(). Immutable once loaded; then safe to share between threads.
#pragma once

#include <chrono>
#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <variant>

#include "core/status.h"

namespace sheaf {

// kBytes: a whole number, or text such as "512MiB", "2GB". kDuration: text such as "250us", "10ms", "3s", "5min".
enum class ConfigType : uint8_t { kBool, kInt, kDouble, kString, kBytes, kDuration };

struct ConfigKey {
  std::string_view key;
  ConfigType type;
  std::string_view fallback;  // the default, as text
  double least, most;         // of a number, inclusive; bytes, nanoseconds
  std::string_view doc;       // one sentence, for docs/configuration.md
};

std::span<const ConfigKey> config_schema();

// SHEAF_* environment variables that are no configuration; any further one is an error.
struct OtherVariable {
  std::string_view name;
  std::string_view doc;
};
std::span<const OtherVariable> other_variables();

// SHEAF_STORE_MEMORY for "store.memory".
std::string config_env_name(std::string_view key);
// The tables of docs/configuration.md; a test compares them.
std::string config_markdown();

class Config {
 public:
  // All defaults.
  Config();

  // Defaults, then $SHEAF_CONFIG or `file` if one is named, then the SHEAF_* variables of `environment`.
  static Result<Config> load(const std::string& file, const std::map<std::string, std::string>& environment);

  Status apply_toml(std::string_view text, const std::string& origin);
  Status apply_environment(const std::map<std::string, std::string>& environment);
  // From code or a command line. `origin` is named in errors and by origin().
  Status set(std::string_view key, std::string_view text, std::string_view origin);

  // A key that is not in the schema, or of another type, is a defect and stops the process.
  bool get_bool(std::string_view key) const;
  int64_t get_int(std::string_view key) const;
  double get_double(std::string_view key) const;
  const std::string& get_string(std::string_view key) const;
  uint64_t get_bytes(std::string_view key) const;
  std::chrono::nanoseconds get_duration(std::string_view key) const;

  // Where the value came from: "default", "environment", a path, or what set() was told.
  const std::string& origin(std::string_view key) const;
  // All keys, as text that set() takes.
  std::map<std::string, std::string> as_map() const;

 private:
  using Value = std::variant<bool, int64_t, double, std::string>;
  struct Setting {
    const ConfigKey* key;
    Value value;
    std::string text;
    std::string origin;
  };
  const Setting& setting(std::string_view key, ConfigType type) const;
  static Result<Value> parse(const ConfigKey& key, std::string_view text);

  std::map<std::string, Setting, std::less<>> settings_;
};

// This process's environment variables.
std::map<std::string, std::string> current_environment();

}  // namespace sheaf

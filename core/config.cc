#include "core/config.h"

#include <algorithm>
#include <cctype>
#include <charconv>
#include <cmath>
#include <cstdlib>
#include <fstream>
#include <optional>
#include <sstream>
#include <vector>

#define TOML_EXCEPTIONS 0
#include <toml++/toml.h>

extern char** environ;

namespace sheaf {
namespace {

constexpr std::string_view kPrefix = "SHEAF_";

// Builds, tests and benchmarks name theirs freely.
constexpr std::string_view kFreePrefixes[] = {"SHEAF_TEST_", "SHEAF_BUILD_", "SHEAF_BENCH_"};

struct Unit {
  std::string_view name;
  double factor;
};
constexpr Unit kByteUnits[] = {{"", 1},
                               {"B", 1},
                               {"KB", 1e3},
                               {"MB", 1e6},
                               {"GB", 1e9},
                               {"TB", 1e12},
                               {"KiB", 1024.0},
                               {"MiB", 1048576.0},
                               {"GiB", 1073741824.0},
                               {"TiB", 1099511627776.0}};
constexpr Unit kTimeUnits[] = {{"ns", 1},  {"us", 1e3},   {"ms", 1e6},
                               {"s", 1e9}, {"min", 60e9}, {"h", 3600e9}};

std::string_view type_name(ConfigType type) {
  switch (type) {
    case ConfigType::kBool: return "true or false";
    case ConfigType::kInt: return "a whole number";
    case ConfigType::kDouble: return "a number";
    case ConfigType::kString: return "text";
    case ConfigType::kBytes: return "bytes, such as 1048576 or \"512MiB\"";
    case ConfigType::kDuration: return "a duration, such as \"10ms\" or \"3s\"";
  }
  return "?";
}

// Levenshtein distance, for "did you mean".
size_t edit_distance(std::string_view a, std::string_view b) {
  std::vector<size_t> row(b.size() + 1);
  for (size_t j = 0; j <= b.size(); ++j) row[j] = j;
  for (size_t i = 1; i <= a.size(); ++i) {
    size_t diagonal = row[0];
    row[0] = i;
    for (size_t j = 1; j <= b.size(); ++j) {
      size_t replaced = diagonal + (a[i - 1] != b[j - 1]);
      diagonal = row[j];
      row[j] = std::min({row[j] + 1, row[j - 1] + 1, replaced});
    }
  }
  return row[b.size()];
}

template <class Spell>
std::string nearest(std::string_view wrong, Spell spell) {
  std::string best;
  size_t best_distance = ~size_t{0};
  for (const ConfigKey& key : config_schema()) {
    std::string candidate = spell(key.key);
    size_t distance = edit_distance(wrong, candidate);
    if (distance < best_distance) {
      best_distance = distance;
      best = candidate;
    }
  }
  return best;
}

const ConfigKey* find_key(std::string_view name) {
  for (const ConfigKey& key : config_schema()) {
    if (key.key == name) return &key;
  }
  return nullptr;
}

// "<number><unit>", with blanks allowed between; false when the text is anything else.
bool parse_with_unit(std::string_view text, std::span<const Unit> units, double* out) {
  double number = 0;
  auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error != std::errc()) return false;
  std::string_view unit(end, static_cast<size_t>(text.data() + text.size() - end));
  while (unit.starts_with(' ')) unit.remove_prefix(1);
  for (const Unit& candidate : units) {
    if (unit == candidate.name) {
      *out = number * candidate.factor;
      return true;
    }
  }
  return false;
}

Status invalid(std::string_view origin, std::string message) {
  return Status(StatusCode::kInvalidArgument, std::string(origin) + ": " + std::move(message));
}

// A TOML scalar as the text that Config::set takes; nothing for anything else.
std::optional<std::string> scalar_text(const toml::node& node) {
  if (auto text = node.value_exact<std::string>()) return *text;
  if (auto flag = node.value_exact<bool>()) return std::string(*flag ? "true" : "false");
  if (auto integer = node.value_exact<int64_t>()) return std::to_string(*integer);
  if (auto number = node.value_exact<double>()) return std::to_string(*number);
  return std::nullopt;
}

// Text where a number belongs, or the other way round, is a mistake even if it could be converted.
bool toml_type_fits(ConfigType type, const toml::node& node) {
  switch (type) {
    case ConfigType::kBool: return node.is_boolean();
    case ConfigType::kInt: return node.is_integer();
    case ConfigType::kDouble: return node.is_number();
    case ConfigType::kString: return node.is_string();
    case ConfigType::kBytes: return node.is_integer() || node.is_string();
    case ConfigType::kDuration: return node.is_string();
  }
  return false;
}

}  // namespace

std::string config_env_name(std::string_view key) {
  std::string name(kPrefix);
  for (char c : key)
    name += c == '.' ? '_' : static_cast<char>(std::toupper(static_cast<unsigned char>(c)));
  return name;
}

std::string config_markdown() {
  std::string out = "| key | type | default | environment | meaning |\n|---|---|---|---|---|\n";
  static constexpr std::string_view kNames[] = {"bool", "int",   "float",
                                                "text", "bytes", "duration"};
  for (const ConfigKey& key : config_schema()) {
    std::string fallback = key.fallback.empty() ? "(empty)" : "`" + std::string(key.fallback) + "`";
    std::string type(kNames[static_cast<size_t>(key.type)]);
    out += "| `" + std::string(key.key) + "` | " + type + " | " + fallback + " | `" +
           config_env_name(key.key) + "` | " + std::string(key.doc) + " |\n";
  }
  out += "\nVariables that are no configuration:\n\n| variable | meaning |\n|---|---|\n";
  for (const OtherVariable& variable : other_variables()) {
    out += "| `" + std::string(variable.name) + "` | " + std::string(variable.doc) + " |\n";
  }
  return out;
}

Config::Config() {
  for (const ConfigKey& key : config_schema()) {
    Status status = set(key.key, key.fallback, "default");
    SHEAF_CHECK(status.is_ok());
  }
}

Result<Config> Config::load(const std::string& file,
                            const std::map<std::string, std::string>& environment) {
  Config config;
  std::string path = file;
  if (auto it = environment.find("SHEAF_CONFIG"); path.empty() && it != environment.end())
    path = it->second;
  if (!path.empty()) {
    std::ifstream in(path, std::ios::binary);
    if (!in) return Status(StatusCode::kNotFound, "cannot read configuration file " + path);
    std::stringstream text;
    text << in.rdbuf();
    SHEAF_TRY(config.apply_toml(text.str(), path));
  }
  SHEAF_TRY(config.apply_environment(environment));
  return config;
}

Status Config::apply_toml(std::string_view text, const std::string& origin) {
  toml::parse_result parsed = toml::parse(text);
  if (parsed.failed()) {
    return invalid(origin, "line " + std::to_string(parsed.error().source().begin.line) + ": " +
                               std::string(parsed.error().description()));
  }
  for (const auto& [section, node] : parsed.table()) {
    const toml::table* table = node.as_table();
    if (table == nullptr) {
      return invalid(
          origin, "'" + std::string(section.str()) + "' stands outside a section; did you mean '" +
                      nearest(section.str(), [](std::string_view k) { return std::string(k); }) +
                      "'?");
    }
    for (const auto& [name, value] : *table) {
      std::string full = std::string(section.str()) + "." + std::string(name.str());
      const ConfigKey* key = find_key(full);
      std::optional<std::string> scalar = scalar_text(value);
      if (key != nullptr && (!scalar || !toml_type_fits(key->type, value))) {
        return invalid(origin, full + " must be " + std::string(type_name(key->type)));
      }
      SHEAF_TRY(set(full, scalar.value_or(""), origin));
    }
  }
  return Status::ok();
}

Status Config::apply_environment(const std::map<std::string, std::string>& environment) {
  std::map<std::string, std::string_view> names;
  for (const ConfigKey& key : config_schema()) names.emplace(config_env_name(key.key), key.key);
  for (auto it = environment.lower_bound(std::string(kPrefix)); it != environment.end(); ++it) {
    const auto& [name, text] = *it;
    if (!name.starts_with(kPrefix)) break;
    if (std::ranges::any_of(kFreePrefixes, [&](std::string_view p) { return name.starts_with(p); }))
      continue;
    if (std::ranges::any_of(other_variables(),
                            [&](const OtherVariable& v) { return name == v.name; }))
      continue;
    auto known = names.find(name);
    if (known == names.end()) {
      std::string close = nearest(name, config_env_name);
      return invalid("environment", "unknown variable " + name + "; did you mean " + close + "?");
    }
    SHEAF_TRY(set(known->second, text, "environment"));
  }
  return Status::ok();
}

Status Config::set(std::string_view name, std::string_view text, std::string_view origin) {
  const ConfigKey* key = find_key(name);
  if (key == nullptr) {
    return invalid(origin, "unknown key '" + std::string(name) + "'; did you mean '" +
                               nearest(name, [](std::string_view k) { return std::string(k); }) +
                               "'?");
  }
  Result<Value> value = parse(*key, text);
  if (!value) return invalid(origin, std::string(value.status().message()));
  settings_.insert_or_assign(std::string(name),
                             Setting{key, *value, std::string(text), std::string(origin)});
  return Status::ok();
}

Result<Config::Value> Config::parse(const ConfigKey& key, std::string_view text) {
  auto wrong = [&] {
    return Status(StatusCode::kInvalidArgument, std::string(key.key) + " must be " +
                                                    std::string(type_name(key.type)) + ", not '" +
                                                    std::string(text) + "'");
  };
  double number = 0;
  switch (key.type) {
    case ConfigType::kString: return Value(std::string(text));
    case ConfigType::kBool:
      if (text == "true" || text == "1") return Value(true);
      if (text == "false" || text == "0") return Value(false);
      return wrong();
    case ConfigType::kInt: {
      int64_t integer = 0;
      auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), integer);
      if (error != std::errc() || end != text.data() + text.size()) return wrong();
      number = static_cast<double>(integer);
      break;
    }
    case ConfigType::kDouble: {
      auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
      if (error != std::errc() || end != text.data() + text.size() || !std::isfinite(number))
        return wrong();
      break;
    }
    case ConfigType::kBytes:
      if (!parse_with_unit(text, kByteUnits, &number)) return wrong();
      break;
    case ConfigType::kDuration:
      if (!parse_with_unit(text, kTimeUnits, &number)) return wrong();
      break;
  }
  if (!(number >= key.least && number <= key.most)) {
    return Status(StatusCode::kInvalidArgument,
                  std::string(key.key) + " is out of range: '" + std::string(text) + "'");
  }
  if (key.type == ConfigType::kDouble) return Value(number);
  return Value(static_cast<int64_t>(number));
}

const Config::Setting& Config::setting(std::string_view key, ConfigType type) const {
  auto it = settings_.find(key);
  SHEAF_CHECK(it != settings_.end());
  SHEAF_CHECK(it->second.key->type == type);
  return it->second;
}

bool Config::get_bool(std::string_view key) const {
  return std::get<bool>(setting(key, ConfigType::kBool).value);
}
int64_t Config::get_int(std::string_view key) const {
  return std::get<int64_t>(setting(key, ConfigType::kInt).value);
}
double Config::get_double(std::string_view key) const {
  return std::get<double>(setting(key, ConfigType::kDouble).value);
}
const std::string& Config::get_string(std::string_view key) const {
  return std::get<std::string>(setting(key, ConfigType::kString).value);
}
uint64_t Config::get_bytes(std::string_view key) const {
  return static_cast<uint64_t>(std::get<int64_t>(setting(key, ConfigType::kBytes).value));
}
std::chrono::nanoseconds Config::get_duration(std::string_view key) const {
  return std::chrono::nanoseconds(std::get<int64_t>(setting(key, ConfigType::kDuration).value));
}

const std::string& Config::origin(std::string_view key) const {
  auto it = settings_.find(key);
  SHEAF_CHECK(it != settings_.end());
  return it->second.origin;
}

std::map<std::string, std::string> Config::as_map() const {
  std::map<std::string, std::string> out;
  for (const auto& [key, setting] : settings_) out.emplace(key, setting.text);
  return out;
}

std::map<std::string, std::string> current_environment() {
  std::map<std::string, std::string> out;
  for (char** entry = environ; entry != nullptr && *entry != nullptr; ++entry) {
    std::string_view text(*entry);
    size_t equals = text.find('=');
    if (equals != std::string_view::npos)
      out.emplace(text.substr(0, equals), text.substr(equals + 1));
  }
  return out;
}

}  // namespace sheaf

// Answers to StateQuery: what the daemon knows, as JSON for people and for Python (metrics:
// Prometheus text).
//
// Rows are objects whose members have the names of Ray's state API where it has such a thing; times
// are milliseconds and nanoseconds since 1970, 0 or absent when unknown; ids are hexadecimal.
// Filters compare a member's text: {"state": "FAILED"}, or {"state": "!FAILED"}; a row without the
// member does not match. Reads only; lives for one answer.
#pragma once

#include <functional>
#include <map>
#include <string>
#include <vector>

#include "core/json.h"
#include "launchers/service.h"

namespace sheaf::launchers {

class StateReporter {
 public:
  explicit StateReporter(const Service& service) : s_(service) {}
  // kInvalidArgument for an unknown `what`.
  Result<protocol::StateReply> report(const protocol::StateQuery& query);

 private:
  // One row: members in order, as JSON text. Filters look at the text without quotes.
  class Row {
   public:
    Row& text(std::string_view name, std::string_view value);
    template <class T>
    Row& number(std::string_view name, T value) {
      return raw(name, std::to_string(value), std::to_string(value));
    }
    Row& flag(std::string_view name, bool value) {
      return raw(name, value ? "true" : "false", value ? "true" : "false");
    }
    Row& json(std::string_view name, const std::string& value) { return raw(name, value, value); }
    bool matches(const std::map<std::string, std::string>& filters) const;
    void append(JsonWriter& w) const;

   private:
    Row& raw(std::string_view name, std::string json, std::string plain);
    struct Member {
      std::string name, json, plain;
    };
    std::vector<Member> members_;
  };
  using Rows = std::function<void(const std::function<bool(Row&&)>& take)>;
  protocol::StateReply list(const protocol::StateQuery& query, const Rows& rows) const;

  void nodes(const std::function<bool(Row&&)>& take) const;
  void actors(const std::function<bool(Row&&)>& take) const;
  void tasks(const std::function<bool(Row&&)>& take) const;
  void objects(const std::function<bool(Row&&)>& take) const;
  void workers(const std::function<bool(Row&&)>& take) const;
  void jobs(const std::function<bool(Row&&)>& take) const;
  void topology(const std::function<bool(Row&&)>& take) const;
  void groups(const std::function<bool(Row&&)>& take) const;
  void pins(const std::function<bool(Row&&)>& take) const;
  void logs(const std::function<bool(Row&&)>& take) const;
  void runtime_envs(const std::function<bool(Row&&)>& take) const;
  void events(const std::function<bool(Row&&)>& take) const;
  std::string amounts(const protocol::ResourceMap& map) const;
  protocol::ResourceMap cluster_sum(protocol::ResourceMap scheduler::NodeInfo::* part) const;
  std::string metrics() const;
  std::string trace() const;
  int64_t wall_ms(scheduler::Time t) const;
  const Client* client(ProcessId id) const;
  int32_t pid_of(ProcessId id) const;

  const Service& s_;
};

}  // namespace sheaf::launchers

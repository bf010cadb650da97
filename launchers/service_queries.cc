// Service: questions about the state of the cluster, and who answers which part of them.
#include <fmt/format.h>

#include <array>

#include "launchers/metric_table.h"
#include "launchers/service.h"
#include "launchers/service_send.h"
#include "launchers/state_report.h"

namespace sheaf::launchers {

using protocol::MessageType;

namespace {

constexpr auto kFlushWait = std::chrono::milliseconds(200);
constexpr auto kGatherWait = std::chrono::milliseconds(2000);

// What every node knows of itself: an answer has the rows of all.
constexpr std::array<std::string_view, 10> kOfEveryNode = {
    "tasks",        "objects",        "workers",  "pins",    "logs",
    "runtime_envs", "cluster_events", "topology", "metrics", "trace"};
// What the controller knows.
constexpr std::array<std::string_view, 6> kOfTheHead = {
    "nodes", "actors", "jobs", "placement_groups", "cluster_resources", "available_resources"};

bool is_among(const auto& names, std::string_view what) {
  return std::find(names.begin(), names.end(), what) != names.end();
}

// Of JSON arrays, or of objects that hold one each and nothing else.
std::string joined(const std::vector<std::string>& parts) {
  std::string out;
  for (const std::string& part : parts) {
    const size_t from = part.find('[') + 1, to = part.rfind(']');
    if (to == std::string::npos || from >= to) continue;
    if (out.empty())
      out.append(part, 0, from);
    else
      out += ',';
    out.append(part, from, to - from);
  }
  if (out.empty()) return parts.empty() ? "[]" : parts.front();
  return out.append(parts.front(), parts.front().rfind(']'));
}

std::string combined(const std::string& what, std::vector<std::string> parts) {
  if (parts.size() == 1) return std::move(parts.front());
  return what == "metrics" ? merge_metric_texts(parts) : joined(parts);
}

// At most so many elements of a JSON array. False: all of them.
bool cut_rows(std::string& array, uint32_t limit) {
  uint32_t rows = 0;
  int depth = 0;
  bool quoted = false;
  for (size_t i = 0; i < array.size(); ++i) {
    char c = array[i];
    if (quoted) {
      if (c == '\\') ++i;
      quoted = c != '"';
      continue;
    }
    if (c == '"') quoted = true;
    if (c == '[' || c == '{') ++depth;
    if (c == ']' || c == '}') --depth;
    if (c != ',' || depth != 1 || ++rows < limit) continue;
    array.resize(i);
    array += ']';
    return true;
  }
  return false;
}

}  // namespace

void Service::state_query(Client& client, uint64_t request, protocol::StateQuery query) {
  after_flush(query, [this, asker = client.id, request, query] {
    answer_query(asker, request, query);
  });
}

// `then` runs when this node's processes have told what they had not told yet, as far as the answer
// depends on it.
void Service::after_flush(const protocol::StateQuery& query, std::function<void()> then) {
  if (query.what == "logs") logs_->catch_up();
  if (query.what != "tasks" && query.what != "metrics") return then();
  Flush flush{std::move(then), {}, 0};
  uint64_t ticket = next_ticket_++;
  for (const auto& [id, other] : clients_->all()) {
    if (!other->alive() || other->broken || other->kind == protocol::ClientKind::kTool) continue;
    flush.awaited.insert(id);
    send(*other, MessageType::kFlushRequest, protocol::FlushRequest{ticket});
  }
  if (flush.awaited.empty()) return flush.then();
  flush.timer = loop_.call_after(kFlushWait, [this, ticket] { finish_flush(ticket); });
  flushes_.emplace(ticket, std::move(flush));
}

void Service::flush_done(Client& client, uint64_t ticket) {
  if (auto it = flushes_.find(ticket); it != flushes_.end()) {
    it->second.awaited.erase(client.id);
    if (it->second.awaited.empty()) finish_flush(ticket);
  } else if (auto f = fences_.find(ticket); f != fences_.end() && f->second.client == client.id) {
    for (ProcessId gone : f->second.gone) {
      if (is_here(gone))
        broker_->let_go(client.id, gone);
      else
        relays_->let_go(client.id, gone);
    }
    fences_.erase(f);
  }
}

void Service::finish_flush(uint64_t ticket) {
  auto flush = flushes_.extract(ticket);
  if (flush.empty()) return;
  loop_.cancel_timer(flush.mapped().timer);
  flush.mapped().then();
}

void Service::answer_query(ProcessId asker, uint64_t request, const protocol::StateQuery& query) {
  pump();
  bool head_only = is_among(kOfTheHead, query.what);
  std::vector<PeerId> others;
  if (head_only && away_) {
    Status away(StatusCode::kDisconnected,
                "the head of the cluster is gone, and only it can answer this");
    return reply(asker, request, away);
  }
  if (head_only && !controller_)
    others.push_back(options_.cluster->head);
  else if (is_among(kOfEveryNode, query.what))
    others.assign(peers_up_.begin(), peers_up_.end());
  Result<protocol::StateReply> own = protocol::StateReply{"[]", false};
  if (!head_only || controller_) own = StateReporter(*this).report(query);
  if (!own) return reply(asker, request, own.status());
  if (others.empty()) return reply(asker, request, Status::ok(), wire::encode(*own));
  uint64_t ticket = next_ticket_++;
  Gather gather{asker, request, query.what, {}, own->truncated, {others.begin(), others.end()},
                query.limit, head_only && !controller_};
  if (!gather.head_only) gather.parts.push_back(std::move(own->text));
  gather.timer = loop_.call_after(kGatherWait, [this, ticket] { finish_gather(ticket); });
  gathers_.emplace(ticket, std::move(gather));
  std::string text = wire::encode(ForwardedQuery{ticket, query});
  for (const PeerId& node : others) tell_node(node.node, NodeMessageType::kQuery, text);
}

void Service::remote_query(const PeerId& from, ForwardedQuery question) {
  after_flush(question.query, [this, from, question] {
    pump();
    QueryAnswer answer;
    answer.ticket = question.ticket;
    bool may = controller_ || !is_among(kOfTheHead, question.query.what);
    Result<protocol::StateReply> own = Status(StatusCode::kUnsupported, "this is not the head");
    if (may) own = StateReporter(*this).report(question.query);
    if (own)
      answer.reply = std::move(*own);
    else
      answer.code = own.status().code();
    tell_node(from.node, NodeMessageType::kAnswer, wire::encode(answer));
  });
}

void Service::remote_answer(const PeerId& from, QueryAnswer answer) {
  auto it = gathers_.find(answer.ticket);
  if (it == gathers_.end() || it->second.awaited.erase(from) == 0) return;
  Gather& all = it->second;
  if (answer.code == StatusCode::kOk) {
    all.parts.push_back(std::move(answer.reply.text));
    all.truncated = all.truncated || answer.reply.truncated;
  }
  if (it->second.awaited.empty()) finish_gather(answer.ticket);
}

void Service::queries_lost(const PeerId& node) {
  std::vector<uint64_t> done;
  for (auto& [ticket, gather] : gathers_) {
    if (gather.awaited.erase(node) > 0 && gather.awaited.empty()) done.push_back(ticket);
  }
  for (uint64_t ticket : done) finish_gather(ticket);
}

void Service::finish_gather(uint64_t ticket) {
  auto gather = gathers_.extract(ticket);
  if (gather.empty()) return;
  Gather& g = gather.mapped();
  loop_.cancel_timer(g.timer);
  if (g.head_only && !g.awaited.empty()) {
    return reply(g.asker, g.request,
                 Status(StatusCode::kTimeout, "the head of the cluster did not answer in time"));
  }
  protocol::StateReply all{combined(g.what, std::move(g.parts)), g.truncated};
  all.truncated = all.truncated || !g.awaited.empty();  // some did not answer in time
  if (all.text.starts_with('[') && cut_rows(all.text, g.limit)) all.truncated = true;
  reply(g.asker, g.request, Status::ok(), wire::encode(all));
}

}  // namespace sheaf::launchers

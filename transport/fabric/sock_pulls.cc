// Pulls, from the reader's and from the exporter's side.
#include <fmt/core.h>

#include <algorithm>
#include <utility>

#include "transport/fabric/sock_state.h"

namespace sheaf::transport {
namespace {

// How long less urgent pulls may get nothing at all, per step of urgency.
constexpr auto kPatience = std::chrono::milliseconds(500);

size_t index_of(const Pull& pull) { return static_cast<size_t>(pull.options.priority); }

}  // namespace

SockBulk::Events SockFabric::bulk_events() {
  SockBulk::Events out;
  out.on_progress = [this](uint64_t session, PullId id, uint64_t bytes) {
    on_progress(session, id, bytes);
  };
  out.on_received = [this](uint64_t, PullId id) { on_received(id); };
  out.on_detached = [this](uint64_t, PullId id) { on_detached(id); };
  out.on_sent = [this](uint64_t session, PullId id, uint64_t bytes) {
    on_sent(session, id, bytes);
  };
  out.on_broken = [this](uint64_t session, Status why) { end_session(session, why); };
  out.on_dropped = [this](uint64_t session) { finish_session(session); };
  return out;
}

Result<PullId> SockFabric::pull(const PeerId& from, const RemoteRange& range,
                                std::span<std::byte> into, const PullOptions& options,
                                OnPulled done) {
  Session* session = live(from);
  if (session == nullptr) {
    return Status(StatusCode::kDisconnected, "no session with node " + to_string(from));
  }
  if (options.priority > PullPriority::kReplicate || into.size() != range.length ||
      range.length > UINT64_MAX - range.offset) {
    return Status(StatusCode::kInvalidArgument,
                  "a pull needs a priority and a place of its own length");
  }
  PullId id = next_pull_++;
  auto pull = std::make_unique<Pull>();
  pull->id = id;
  pull->session = session->number;
  pull->from = from;
  pull->range = range;
  pull->into = into;
  pull->options = options;
  pull->started = loop_.now();
  pull->done = std::move(done);
  if (options.deadline != EventLoop::TimePoint::max()) {
    pull->timer = loop_.call_at(options.deadline, [this, id] {
      stop_pull(id, Status(StatusCode::kTimeout, "the pull did not end by its deadline"));
    });
  }
  session->pulls.insert(id);
  session->wanting[index_of(*pull)].insert(id);
  pulls_.emplace(id, std::move(pull));
  ++stats_.pulls_started;
  need_bulk(*session);
  grant(*session);
  return id;
}

// The dialer makes the bulk connection, when either side first needs it.
void SockFabric::need_bulk(Session& session) {
  if (!session.dialer || session.has_bulk || session.bulk_dial) return;
  Hello hello;
  hello.purpose = ConnectionPurpose::kBulk;
  hello.self = options_.self;
  hello.expected = session.peer;
  hello.session = session.secret;
  hello.cluster = options_.cluster;
  uint64_t number = session.number;
  auto dialed = [this, number](Greeted greeted) {
    Session* at = live(number);
    if (at == nullptr) return;
    std::unique_ptr<Greeting> ended = std::move(at->bulk_dial);  // it is running us
    if (!greeted.status.is_ok()) return end_session(number, greeted.status);
    at->has_bulk = true;
    bulk(number).attach(number, std::move(greeted.stream));
  };
  auto greeting = Greeting::dial(loop_, tls_, options_, session.address, hello, dialed);
  if (greeting) {
    session.bulk_dial = std::move(greeting).value();
  } else {
    post([this, number, why = greeting.status()] { end_session(number, why); });
  }
}

// The oldest of the most urgent pulls, unless a less urgent one has waited too long for its turn.
// 0: none wants more.
PullId SockFabric::next_to_grant(const Session& session) const {
  PullId best = 0;
  for (size_t i = 0; i < kPullPriorities; ++i) {
    if (session.wanting[i].empty()) continue;
    PullId id = *session.wanting[i].begin();
    if (best == 0) {
      best = id;
      continue;
    }
    auto since = std::max(session.served[i], pulls_.at(id)->started);
    if (loop_.now() - since > kPatience * static_cast<int>(i)) return id;
  }
  return best;
}

// Gives out what is free of the window.
void SockFabric::grant(Session& session) {
  for (PullId id = next_to_grant(session); id != 0; id = next_to_grant(session)) {
    Pull& pull = *pulls_[id];
    uint64_t room = kPullWindowBytes - std::min(kPullWindowBytes, session.on_the_way);
    uint64_t granted = pull.range.length;
    if (granted - pull.granted > room) {
      granted = (pull.granted + room) / kPullGrantBytes * kPullGrantBytes;
      if (granted <= pull.granted) return;
    }
    if (!pull.opened && session.opened >= kOpenPullsMax) return;
    session.on_the_way += granted - pull.granted;
    pull.granted = granted;
    session.served[index_of(pull)] = loop_.now();
    if (granted == pull.range.length) session.wanting[index_of(pull)].erase(id);
    if (pull.opened) {
      session.link->send_frame(FrameKind::kPullGrant, PullGrant{id, granted});
      continue;
    }
    pull.opened = true;
    ++session.opened;
    bulk(session.number).expect(session.number, id, pull.into);
    session.link->send_frame(FrameKind::kPullOpen,
                             PullOpen{id, pull.range, pull.options.priority, granted});
  }
}

void SockFabric::on_progress(uint64_t number, PullId id, uint64_t bytes) {
  auto it = pulls_.find(id);
  Session* session = live(number);
  if (it == pulls_.end() || session == nullptr) return;
  Pull& pull = *it->second;
  stats_.pull_bytes_received += bytes - pull.received;
  if (!pull.ending) session->on_the_way -= bytes - pull.received;
  pull.received = bytes;
  grant(*session);
}

void SockFabric::on_received(PullId id) {
  auto it = pulls_.find(id);
  if (it == pulls_.end()) return;
  Pull& pull = *it->second;
  stats_.pull_bytes_received += pull.range.length - pull.received;
  if (Session* session = live(pull.session); session != nullptr && !pull.ending) {
    session->on_the_way -= pull.range.length - pull.received;
  }
  pull.received = pull.range.length;
  // It came in time, though somebody had given it up meanwhile; or its session has, and that is why
  // nobody may rely on what it said last.
  finish_pull(id, live(pull.session) != nullptr ? Status::ok() : pull.status);
}

void SockFabric::cancel(PullId id) {
  stop_pull(id, {StatusCode::kCancelled, "the pull was cancelled"});
}

void SockFabric::stop_pull(PullId id, Status why) {
  auto it = pulls_.find(id);
  if (it == pulls_.end() || it->second->ending) return;
  Pull& pull = *it->second;
  pull.ending = true;
  pull.status = std::move(why);
  Session* session = live(pull.session);
  if (session == nullptr) return;
  session->wanting[index_of(pull)].erase(id);
  session->on_the_way -= pull.granted - pull.received;
  if (!pull.opened) {
    return post([this, id] { on_detached(id); });
  }
  session->link->send_frame(FrameKind::kPullClose, PullClose{id});
  bulk(pull.session).detach(pull.session, id);
  grant(*session);
}

void SockFabric::on_detached(PullId id) {
  auto it = pulls_.find(id);
  if (it == pulls_.end()) return;
  finish_pull(id, it->second->status);
}

void SockFabric::finish_pull(PullId id, Status status) {
  auto taken = pulls_.extract(id);
  if (taken.empty()) return;
  Pull& pull = *taken.mapped();
  if (pull.timer != 0) loop_.cancel_timer(pull.timer);
  ++(status.is_ok() ? stats_.pulls_done : stats_.pulls_failed);
  Session* session = live(pull.session);
  if (session != nullptr) {
    session->pulls.erase(id);
    session->wanting[index_of(pull)].erase(id);
    if (pull.opened) --session->opened;
  }
  pull.done(status);
  if (closed_) return;
  session = live(pull.session);  // the caller may have ended it
  if (session != nullptr) grant(*session);
}

void SockFabric::on_pull_open(Session& session, const PullOpen& open) {
  const RemoteRange& range = open.range;
  // As many again may be on their way out after a close.
  if (open.pull == 0 || open.granted > range.length || open.priority > PullPriority::kReplicate ||
      session.held.contains(open.pull) || session.held.size() >= 4 * kOpenPullsMax) {
    return session.link->violation("opens a pull that may not be there");
  }
  auto it = exports_.find(range.region);
  Status status;
  if (it == exports_.end() || it->second.withdrawn) {
    status = {StatusCode::kNotFound, fmt::format("region {} is not exported", range.region)};
  } else if (range.offset > it->second.memory.size() ||
             range.length > it->second.memory.size() - range.offset) {
    status = {StatusCode::kInvalidArgument,
              fmt::format("{} bytes at {} are outside of region {}", range.length, range.offset,
                          range.region)};
  } else {
    status = it->second.guard->acquire(session.peer, range);
  }
  if (!status.is_ok() || range.length == 0) {
    if (status.is_ok()) it->second.guard->release(session.peer, range);
    std::string text(status.message());
    session.link->send_frame(FrameKind::kPullFailed,
                             PullFailed{open.pull, status.code(), text.substr(0, 256)});
    return;
  }
  session.held.emplace(open.pull, Held{range});
  ++it->second.held;
  ++stats_.ranges_held;
  need_bulk(session);
  bulk(session.number)
      .send(session.number, {open.pull, it->second.memory.data() + range.offset, range.length,
                             open.priority, open.granted});
}

void SockFabric::on_sent(uint64_t number, PullId id, uint64_t bytes) {
  stats_.pull_bytes_sent += bytes;
  auto it = sessions_.find(number);
  if (it != sessions_.end()) release(*it->second, id);
}

void SockFabric::release(Session& session, PullId id) {
  auto taken = session.held.extract(id);
  if (taken.empty()) return;
  const RemoteRange& range = taken.mapped().range;
  --stats_.ranges_held;
  auto it = exports_.find(range.region);
  it->second.guard->release(session.peer, range);
  if (--it->second.held > 0 || !it->second.withdrawn) return;
  std::function<void()> on_free = std::move(it->second.on_free);
  exports_.erase(it);
  on_free();
}

// The exporter has nothing to send (any more): an empty range, or an error.
void SockFabric::on_pull_end(Session& session, const PullFailed& end) {
  auto it = pulls_.find(end.pull);
  if (it == pulls_.end() || it->second->session != session.number || it->second->ending) return;
  Pull& pull = *it->second;
  if (end.code == StatusCode::kOk) {
    if (pull.range.length > 0) return session.link->violation("ends a pull that is not complete");
    pull.ending = true;
  }
  if (!pull.ending) {
    pull.ending = true;
    pull.status = Status(end.code, end.message);
    session.wanting[index_of(pull)].erase(pull.id);
    session.on_the_way -= pull.granted - pull.received;
  }
  bulk(pull.session).detach(pull.session, pull.id);
  grant(session);
}

}  // namespace sheaf::transport

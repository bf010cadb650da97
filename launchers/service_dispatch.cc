// Service: what each message of a client does.
#include <fmt/format.h>

#include <utility>

#include "launchers/control_events.h"
#include "launchers/service.h"
#include "launchers/service_send.h"

namespace sheaf::launchers {

using protocol::MessageType;
using scheduler::AgentEvent;
using scheduler::ControllerEvent;

namespace {
constexpr uint32_t kPrestartWorkersMax = 2;
}  // namespace

template <class T>
std::optional<T> Service::read(Client& client, wire::Bytes body) {
  auto message = wire::decode<T>(body);
  if (message) return std::move(*message);
  clients_->end_session(client, "a message cannot be decoded");
  return std::nullopt;
}

void Service::dispatch(Client& client, const transport::Message& message) {
  wire::Reader reader(message.payload);
  protocol::Envelope envelope;
  reader(envelope);
  if (!reader.ok()) return clients_->end_session(client, "a message has no envelope");
  wire::Bytes body = reader.take(reader.remaining());
  auto type = static_cast<MessageType>(message.type);
  if (dispatch_object(client, type, envelope.request, body) ||
      dispatch_control(client, type, envelope.request, body) ||
      dispatch_other(client, type, envelope.request, body)) {
    return;
  }
  clients_->end_session(client, fmt::format("unknown message type {:#x}", message.type));
}

bool Service::dispatch_object(Client& client, MessageType type, uint64_t request,
                              wire::Bytes body) {
  auto check = [&](const Status& s) {
    if (!s.is_ok()) clients_->end_session(client, s.to_string());
  };
  switch (type) {
    case MessageType::kObjectSeal:
      if (auto m = read<protocol::ObjectSeal>(client, body)) {
        check(store_->seal(client.id, m->id, m->locator, m->holder, m->contained));
      }
      return true;
    case MessageType::kObjectPublish:
      if (auto m = read<protocol::ObjectPublish>(client, body)) {
        check(store_->publish(client.id, m->id, m->state, std::move(m->bytes), m->contained));
      }
      return true;
    case MessageType::kHold:
      if (auto m = read<protocol::Hold>(client, body))
        store_->hold(client.id, m->process, m->add, m->drop);
      return true;
    case MessageType::kObjectSubscribe:
      if (auto m = read<protocol::ObjectSubscribe>(client, body)) {
        store_->subscribe(client.id, m->ids, m->restore, loop_.now(), m->where);
      }
      return true;
    case MessageType::kTaskLineage:
      if (auto m = read<protocol::TaskLineage>(client, body)) {
        check(store_->record_task(client.id, {client.job, m->runs_left, std::move(m->returns),
                                              std::move(m->arguments), std::move(m->task)}));
      }
      return true;
    case MessageType::kObjectMade:
      if (auto m = read<protocol::ObjectPublish>(client, body)) {
        check(store_->made(client.id, m->id, m->state, std::move(m->bytes), m->contained));
      }
      return true;
    case MessageType::kObjectReplicate:
      if (auto m = read<protocol::ObjectReplicate>(client, body))
        store_->replicate(m->id, m->copies);
      return true;
    case MessageType::kObjectFree:
      if (auto m = read<protocol::ObjectFree>(client, body)) {
        store_->free(m->ids);
        reply(client.id, request, Status::ok());
      }
      return true;
    case MessageType::kExtentAbort:
      if (auto m = read<protocol::ExtentAbort>(client, body))
        store_->abort_extent(client.id, m->locator);
      return true;
    case MessageType::kExtentAlloc:
      if (auto m = read<protocol::ExtentAlloc>(client, body)) {
        auto wait = std::chrono::milliseconds(m->wait_ms);
        auto answer = store_->alloc_extent(client.id, request, m->payload_bytes, wait, loop_.now());
        if (answer) space_answer(client.id, request, std::move(*answer), false);
      }
      return true;
    case MessageType::kSlabLease:
      if (auto answer = store_->lease_slab(client.id, request, loop_.now())) {
        space_answer(client.id, request, std::move(*answer), true);
      } else {
        slab_requests_.insert({client.id, request});
      }
      return true;
    default: return false;
  }
}

void Service::space_answer(ProcessId process, uint64_t request, Result<objstore::Locator> answer,
                           bool slab) {
  if (!answer) return reply(process, request, answer.status());
  const objstore::Locator& l = *answer;
  reply(process, request, Status::ok(),
        slab ? wire::encode(protocol::SlabLeaseReply{l.offset, l.length, l.generation})
             : wire::encode(protocol::ExtentAllocReply{l}));
}

bool Service::dispatch_control(Client& client, MessageType type, uint64_t request,
                               wire::Bytes body) {
  Result<ControllerEvent> event = control_event(type, client.id, request, body);
  if (!event && event.status().code() == StatusCode::kUnsupported)
    return dispatch_lease(client, type, request, body);
  if (!event) {
    clients_->end_session(client, std::string(event.status().message()));
    return true;
  }
  if (auto* job = std::get_if<scheduler::From<protocol::RegisterJob>>(&*event)) {
    client.warm_python = !job->message.python.empty();
    if (client.warm_python) spawner_->warm(job->message);
    client.job_request = request;
  }
  if (!controller_) {
    to_head(*event, ForwardedRequest{client.id, request, static_cast<uint16_t>(type),
                                     std::string(wire::as_text(body))});
    return true;
  }
  push(std::move(*event));
  if (type != MessageType::kRegisterJob) return true;
  pump();
  // At once, or when the controller's first record of this life is on disk; its reply comes after.
  job_registered(client, controller_->job_of(client.id));
  return true;
}

bool Service::dispatch_lease(Client& client, MessageType type, uint64_t request,
                             wire::Bytes body) {
  switch (type) {
    case MessageType::kLeaseRequest:
      if (auto m = read<protocol::LeaseRequest>(client, body)) {
        push(AgentEvent(scheduler::LeaseRequested{client.id, client.job, m->class_id,
                                                  std::move(m->spec), m->backlog,
                                                  std::move(m->bytes_at)}));
      }
      return true;
    case MessageType::kLeaseReturn:
      if (auto m = read<protocol::LeaseReturn>(client, body)) {
        push(AgentEvent(scheduler::LeaseReturned{client.id, m->lease, m->worker_exits}));
      }
      return true;
    case MessageType::kBlocked: push(AgentEvent(scheduler::WorkerBlocked{client.id})); return true;
    case MessageType::kUnblocked:
      push(AgentEvent(scheduler::WorkerUnblocked{client.id}));
      return true;
    case MessageType::kKillProcess:
      if (auto m = read<protocol::KillProcess>(client, body))
        kill_process(client, request, m->process);
      return true;
    case MessageType::kCancelTask:
      if (auto m = read<protocol::CancelTask>(client, body)) {
        send(m->id.process(), MessageType::kCancelRequest, *m);
      }
      return true;
    default: return false;
  }
}

// The job's number is needed by the very next message of the same client.
void Service::job_registered(Client& client, JobId job) {
  client.job = job;
  if (client.job == 0 || !std::exchange(client.warm_python, false)) return;
  auto cpus = scheduler::amount_of(offer_.resources, scheduler::kCpu) / protocol::kResourceUnit;
  auto count = static_cast<uint32_t>(std::clamp<int64_t>(cpus, 0, kPrestartWorkersMax));
  if (count > 0) push(AgentEvent(scheduler::Prestart{{client.job, "python", ""}, count}));
}

void Service::kill_process(Client& client, uint64_t request, ProcessId target) {
  if (is_here(target)) return kill_worker(client.id, request, client.job, target);
  tell_node(node_of(target), NodeMessageType::kKill,
            wire::encode(KillRemote{client.id, request, client.job, target}));
}

void Service::kill_worker(ProcessId asker, uint64_t request, JobId job, ProcessId target) {
  pump();
  auto it = agent_->workers().find(target);
  if (it == agent_->workers().end() || it->second.key.job != job) {
    return reply(asker, request, {StatusCode::kNotFound, "no such worker of this job"});
  }
  push(AgentEvent(scheduler::KillRequested{job, target}));
  pump();
  reply(asker, request, Status::ok());
}

bool Service::dispatch_other(Client& client, MessageType type, uint64_t request, wire::Bytes body) {
  switch (type) {
    case MessageType::kStateQuery:
      if (auto m = read<protocol::StateQuery>(client, body))
        state_query(client, request, std::move(*m));
      return true;
    case MessageType::kMetricsPush:
      if (auto m = read<protocol::MetricsPush>(client, body)) pushed_metrics_.add(client.id, *m);
      return true;
    case MessageType::kTaskEvents:
      if (auto m = read<protocol::TaskEvents>(client, body)) {
        tasks_.add(*m, client.id, client.pid, client.job,
                   client.kind == protocol::ClientKind::kWorker);
      }
      return true;
    case MessageType::kFlushDone:
      if (auto m = read<protocol::FlushRequest>(client, body)) flush_done(client, m->ticket);
      return true;
    case MessageType::kShutdownCluster:
      if (auto m = read<protocol::ShutdownCluster>(client, body)) {
        reply(client.id, request, Status::ok());
        std::string reason = m->reason.empty() ? "a client asked for it" : m->reason;
        if (!controller_) tell_node(kHeadNumber, NodeMessageType::kShutdown, wire::encode(*m));
        begin_shutdown(reason, kShutdownGrace);
      }
      return true;
    case MessageType::kDrainNode:
      if (auto m = read<scheduler::DrainRequest>(client, body)) drain_node(*m);
      reply(client.id, request, Status::ok());
      return true;
    default: return false;
  }
}

}  // namespace sheaf::launchers

#include "launchers/control_events.h"

#include <type_traits>
#include <utility>

namespace sheaf::launchers {

namespace {

template <class T>
Result<scheduler::ControllerEvent> event_of(ProcessId process, uint64_t request,
                                            wire::Bytes body) {
  auto message = wire::decode<T>(body);
  if (!message) return Status(StatusCode::kCorrupt, "a message cannot be decoded");
  return scheduler::ControllerEvent(scheduler::From<T>{process, request, std::move(*message)});
}

}  // namespace

Result<scheduler::ControllerEvent> control_event(protocol::MessageType type, ProcessId process,
                                                 uint64_t request, wire::Bytes body) {
  using protocol::MessageType;
  auto as = [&]<class T>(std::type_identity<T>) { return event_of<T>(process, request, body); };
  switch (type) {
    case MessageType::kRegisterJob: return as(std::type_identity<protocol::RegisterJob>{});
    case MessageType::kKvPut: return as(std::type_identity<protocol::KvPut>{});
    case MessageType::kKvGet: return as(std::type_identity<protocol::KvGet>{});
    case MessageType::kKvDelete: return as(std::type_identity<protocol::KvDelete>{});
    case MessageType::kKvKeys: return as(std::type_identity<protocol::KvKeys>{});
    case MessageType::kActorCreate: return as(std::type_identity<protocol::ActorCreate>{});
    case MessageType::kActorSubscribe: return as(std::type_identity<protocol::ActorSubscribe>{});
    case MessageType::kActorHold: return as(std::type_identity<protocol::ActorHold>{});
    case MessageType::kActorKill: return as(std::type_identity<protocol::ActorKill>{});
    case MessageType::kActorLookup: return as(std::type_identity<protocol::ActorLookup>{});
    case MessageType::kActorNames: return as(std::type_identity<protocol::ActorNames>{});
    case MessageType::kActorStarted: return as(std::type_identity<protocol::ActorStarted>{});
    case MessageType::kActorExiting: return as(std::type_identity<protocol::ActorExiting>{});
    case MessageType::kGroupCreate: return as(std::type_identity<protocol::GroupCreate>{});
    case MessageType::kGroupRemove: return as(std::type_identity<protocol::GroupRemove>{});
    case MessageType::kGroupSubscribe: return as(std::type_identity<protocol::GroupSubscribe>{});
    default: return Status(StatusCode::kUnsupported, "not the controller's");
  }
}

}  // namespace sheaf::launchers

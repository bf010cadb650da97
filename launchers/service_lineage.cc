// Service: who runs a lost object's task again when the process that submitted it is gone.
#include <algorithm>
#include <iterator>

#include "launchers/service.h"
#include "launchers/service_send.h"

namespace sheaf::launchers {

using protocol::MessageType;

void Service::connect_lineage(objstore::StoreOptions& store) {
  store.find_maker = [this](JobId job, const std::set<ProcessId>& tried) {
    return find_maker(job, tried);
  };
  store.hand_task = [this](ProcessId maker, const objstore::TaskRecord& record) {
    hand_task(maker, record);
  };
}

// Of this node. The driver first: it lives as long as the job.
ProcessId Service::process_of_job(JobId job, const std::set<ProcessId>& tried) const {
  ProcessId worker = kNoProcess;
  for (const auto& [id, client] : clients_->all()) {
    if (client->job != job || !client->alive() || client->broken || tried.contains(id)) continue;
    if (client->kind == protocol::ClientKind::kDriver) return id;
    if (client->kind == protocol::ClientKind::kWorker && worker == kNoProcess) worker = id;
  }
  return worker;
}

// A driver elsewhere before workers here; then, for jobs that outlive their driver, every node.
ProcessId Service::find_maker(JobId job, const std::set<ProcessId>& tried) const {
  ProcessId driver = driver_of(job);
  bool elsewhere = driver != kNoProcess && !is_here(driver);
  if (elsewhere && !tried.contains(driver) &&
      peers_up_.contains(PeerId{node_of(driver), incarnation_of(driver)})) {
    return driver;
  }
  if (ProcessId here = process_of_job(job, tried); here != kNoProcess) return here;
  for (const PeerId& peer : peers_up_) {
    ProcessId daemon = make_process(static_cast<uint16_t>(peer.node),
                                    static_cast<uint16_t>(peer.incarnation),
                                    static_cast<uint32_t>(kDaemonProcess));
    if (!tried.contains(daemon)) return daemon;
  }
  return kNoProcess;
}

void Service::hand_task(ProcessId maker, const objstore::TaskRecord& record) {
  protocol::TaskLineage task{record.returns, record.arguments, record.runs_left, record.task};
  if (is_here(maker)) return send(maker, MessageType::kAdoptTask, task);
  tell_node(node_of(maker), NodeMessageType::kHandTask,
            wire::encode(HandedTask{maker, record.job, std::move(task)}));
}

void Service::task_handed(const PeerId& from, const HandedTask& handed) {
  bool choose = number_of(handed.maker) == number_of(kDaemonProcess);
  ProcessId maker = choose ? process_of_job(handed.job, {}) : handed.maker;
  if (maker == kNoProcess || clients_->alive(maker) == nullptr) {
    return tell_node(from.node, NodeMessageType::kMakerGone,
                     wire::encode(ClientWent{handed.maker, {}}));
  }
  adopters_[maker].insert({from, handed.maker});
  send(maker, MessageType::kAdoptTask, handed.task);
}

void Service::adopter_died(ProcessId process) {
  auto adopter = adopters_.extract(process);
  if (adopter.empty()) return;
  for (const auto& [node, asked] : adopter.mapped()) {
    tell_node(node.node, NodeMessageType::kMakerGone, wire::encode(ClientWent{asked, {}}));
  }
}

}  // namespace sheaf::launchers

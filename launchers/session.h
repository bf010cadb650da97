// The session directory: everything that a cluster has in the file system of its node.
//
// $SHEAF_TMPDIR, else $XDG_RUNTIME_DIR/sheaf, else /tmp/sheaf-<uid>; in it one directory a cluster:
//   <root>/<id>/cluster.json  {"pid", "start_time" (ticks, /proc/<pid>/stat), "socket",
//   "session_dir", "node_id", "head",
//                              "embedded", "created" (unix seconds), "version"}; written whole when
//                              the daemon serves
//   <root>/<id>/{sheafd.sock, lock, logs/, spill/, bells/, journal.db, secret}
// Every directory is ours, 0700 and not a symbolic link, or creation fails; a root that is there
// already may be readable, but not writable, for others. `lock` is held (flock) while the daemon
// lives, so that a stale directory is told from a live one without guessing. To find a cluster
// ("auto"): the newest cluster.json of the root whose pid lives with that start time. Owned by the
// daemon's main thread.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <string>

#include "core/fd.h"
#include "core/status.h"

namespace sheaf::launchers {

// Where this user's clusters are; not created.
std::string default_session_root();

struct SessionOptions {
  std::string root;       // "" = default_session_root()
  std::string directory;  // a whole path instead of root/<id>: a restart finds its journal there
};

class SessionDirectory {
 public:
  // Makes the directories and takes the lock. kPermissionDenied when one of them is not safely
  // ours; kAlreadyExists when a live daemon serves there.
  static Result<SessionDirectory> create(const SessionOptions& options);
  SessionDirectory(SessionDirectory&&) = default;

  const std::string& path() const { return path_; }
  std::string socket_path() const { return path_ + "/sheafd.sock"; }
  std::string log_directory() const { return path_ + "/logs"; }
  std::string bell_directory() const { return path_ + "/bells"; }
  std::string spill_directory() const { return path_ + "/spill"; }
  std::string journal_path() const { return path_ + "/journal.db"; }
  std::string secret_path() const { return path_ + "/secret"; }

  // An earlier daemon has left its journal here.
  bool resumed() const { return resumed_; }

  // Makes the cluster visible to clients that look for one.
  Status publish(const std::string& cluster_json);
  // keep_logs: logs/ and journal.db* stay, everything else goes.
  void remove(bool keep_logs);

 private:
  SessionDirectory() = default;
  std::string path_;
  Fd lock_;
  bool resumed_ = false;
};

// Removes the directories of daemons that died without doing so: those whose lock is free and whose
// pid in cluster.json is gone, or which have no cluster.json and are older than a minute. Returns
// how many.
int remove_stale_sessions(const std::string& root);

// Makes `path` (its last level only, 0700), or verifies what is there: ours, no link, none of the
// `forbidden` mode bits.
Status make_private_directory(const std::string& path, mode_t forbidden = 077);
// Deletes a tree without following symbolic links. False when something stayed.
bool remove_tree(const std::string& path);

// Clock ticks after boot; 0 when there is no such process. Tells a process from a later one with
// its pid.
uint64_t process_start_time(pid_t pid);

}  // namespace sheaf::launchers

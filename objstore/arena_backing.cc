#include "objstore/arena_backing.h"

#include <fcntl.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <string>

#include <fmt/format.h>

#include "objstore/pages.h"

namespace sheaf::objstore::internal {
namespace {

constexpr unsigned kMfdHuge2Mb = 21u << 26;   // MFD_HUGE_2MB, which sys/mman.h does not have

bool send_fd(int sock, int fd) {
  char byte = 'f';
  iovec iov{&byte, 1};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
  msghdr msg{};
  msg.msg_iov = &iov;
  msg.msg_iovlen = 1;
  msg.msg_control = control;
  msg.msg_controllen = sizeof control;
  cmsghdr* c = CMSG_FIRSTHDR(&msg);
  c->cmsg_level = SOL_SOCKET;
  c->cmsg_type = SCM_RIGHTS;
  c->cmsg_len = CMSG_LEN(sizeof(int));
  std::memcpy(CMSG_DATA(c), &fd, sizeof fd);
  return sendmsg(sock, &msg, MSG_NOSIGNAL) == 1;
}

// -1 when the peer has closed without sending one.
int receive_fd(int sock) {
  char byte = 0;
  iovec iov{&byte, 1};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
  msghdr msg{};
  msg.msg_iov = &iov;
  msg.msg_iovlen = 1;
  msg.msg_control = control;
  msg.msg_controllen = sizeof control;
  ssize_t n;
  do n = recvmsg(sock, &msg, MSG_CMSG_CLOEXEC);
  while (n < 0 && errno == EINTR);
  cmsghdr* c = n == 1 ? CMSG_FIRSTHDR(&msg) : nullptr;
  if (c == nullptr || c->cmsg_type != SCM_RIGHTS) return -1;
  int fd = -1;
  std::memcpy(&fd, CMSG_DATA(c), sizeof fd);
  return fd;
}

bool write_file(const char* path, const char* text) {
  int fd = open(path, O_WRONLY | O_CLOEXEC);
  if (fd < 0) return false;
  ssize_t n = write(fd, text, std::strlen(text));
  close(fd);
  return n == static_cast<ssize_t>(std::strlen(text));
}

// In the forked child: only system calls, as the parent may have threads. The mount dies with this
// process's namespace; the file lives on by its descriptor.
[[noreturn]] void namespace_child(int sock, const char* mount_options, const char* uid_map,
                                  const char* gid_map) {
  bool separate = geteuid() == 0 && unshare(CLONE_NEWNS) == 0;
  if (!separate) {
    if (unshare(CLONE_NEWUSER | CLONE_NEWNS) != 0) _exit(1);
    write_file("/proc/self/setgroups", "deny");
    if (!write_file("/proc/self/uid_map", uid_map)) _exit(2);
    if (!write_file("/proc/self/gid_map", gid_map)) _exit(3);
  }
  if (mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0) _exit(4);
  for (const char* where : {"/tmp", "/dev/shm", "/mnt"}) {
    if (mount("tmpfs", where, "tmpfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, mount_options) != 0)
      continue;
    int fd = open(where, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
    if (fd >= 0) _exit(send_fd(sock, fd) ? 0 : 5);
  }
  _exit(6);
}

int open_huge_tmpfs(uint64_t bytes) {
  int pair[2];
  if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) != 0) return -1;
  std::string mount_options = fmt::format("huge=always,mode=0700,size={}", bytes);
  std::string uid_map = fmt::format("{0} {0} 1", geteuid());
  std::string gid_map = fmt::format("{0} {0} 1", getegid());
  pid_t child = fork();
  if (child == 0) namespace_child(pair[1], mount_options.c_str(), uid_map.c_str(), gid_map.c_str());
  close(pair[1]);
  int fd = child > 0 ? receive_fd(pair[0]) : -1;
  close(pair[0]);
  if (child > 0) {
    while (waitpid(child, nullptr, 0) < 0 && errno == EINTR) {}
  }
  return fd;
}

// The word in brackets, as in "always [advise] never".
bool shmem_huge_pages_allowed() {
  std::ifstream in("/sys/kernel/mm/transparent_hugepage/shmem_enabled");
  std::string text((std::istreambuf_iterator<char>(in)), {});
  for (const char* word : {"[always]", "[within_size]", "[advise]", "[force]"}) {
    if (text.find(word) != std::string::npos) return true;
  }
  return false;
}

bool huge_pages_reserved(uint64_t bytes) {
  std::ifstream in("/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages");
  uint64_t pages = 0;
  return in >> pages && pages * kHugePage >= bytes;
}

int open_kind(ArenaBacking kind, uint64_t bytes) {
  switch (kind) {
    case ArenaBacking::kHugeTmpfs: return open_huge_tmpfs(bytes);
    case ArenaBacking::kMemfdThp:
      return shmem_huge_pages_allowed() ? memfd_create("sheaf-arena", MFD_CLOEXEC) : -1;
    case ArenaBacking::kHugetlb:
      if (!huge_pages_reserved(bytes)) return -1;
      return memfd_create("sheaf-arena", MFD_CLOEXEC | MFD_HUGETLB | kMfdHuge2Mb);
    case ArenaBacking::kMemfd: return memfd_create("sheaf-arena", MFD_CLOEXEC);
  }
  return -1;
}

}  // namespace

Result<BackingFile> open_backing(ArenaBacking first, uint64_t bytes) {
  for (int k = static_cast<int>(first); k <= static_cast<int>(ArenaBacking::kMemfd); ++k) {
    auto kind = static_cast<ArenaBacking>(k);
    int fd = open_kind(kind, bytes);
    if (fd < 0) continue;
    if (ftruncate(fd, static_cast<off_t>(bytes)) == 0) return BackingFile{fd, kind};
    close(fd);
  }
  return Status::from_errno("cannot make shared memory for the object store", errno);
}

}  // namespace sheaf::objstore::internal

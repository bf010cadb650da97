// The fabric between two processes of one machine, or of two hosts, with floors beside the figures:
// memcpy, a raw TCP stream, a raw TLS stream with the same cipher and record size, and the round
// trip of a message while nothing else happens and while a pull fills the wire.
//   bench_fabric [repeats]                    both ends on 127.0.0.1
//   bench_fabric serve ADDRESS SECRET_FILE    the far end; prints its address
//   bench_fabric drive ADDRESS SECRET_FILE LISTEN_HOST [repeats]
#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "transport/fabric/sock_fabric.h"
#include "transport/fabric/sock_greeting.h"

namespace {

using namespace sheaf;             // NOLINT: a small main
using namespace sheaf::transport;  // NOLINT
using Clock = EventLoop::Clock;
using std::chrono::seconds;

constexpr size_t kRegionBytes = size_t{256} << 20;
constexpr size_t kPiece = 128 * 1024;
constexpr uint16_t kEcho = 1;
// Asks the far end for a stream of kRegionBytes on a new connection: with TLS or not, where to.
constexpr uint16_t kStream = 2;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

struct OpenGuard : RangeGuard {
  Status acquire(const PeerId&, const RemoteRange&) override { return Status::ok(); }
  void release(const PeerId&, const RemoteRange&) override {}
};

[[noreturn]] void fail(const Status& status) {
  std::fprintf(stderr, "bench_fabric: %s\n", status.to_string().c_str());
  std::exit(1);
}

template <class T>
T must(Result<T> result) {
  if (!result) fail(result.status());
  return std::move(result).value();
}

// Both ends of the raw streams block.
bool finish_handshake(TlsStream& tls) { return tls.handshake() == TlsStream::Io::kDone; }

void stream_out(const FabricAddress& to, bool tls, const ClusterSecret& secret,
                const std::vector<std::byte>& memory) {
  SocketAddress address = must(to_socket_address(to));
  Fd fd(::socket(address.storage.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (::connect(fd.get(), reinterpret_cast<sockaddr*>(&address.storage), address.size) != 0) return;
  if (!tls) {
    for (size_t at = 0; at < memory.size();) {
      ssize_t n = ::send(fd.get(), memory.data() + at, std::min(kPiece, memory.size() - at),
                         MSG_NOSIGNAL);
      if (n <= 0) return;
      at += static_cast<size_t>(n);
    }
    return;
  }
  TlsStream stream(must(TlsContext::create(secret)), std::move(fd), TlsStream::Role::kClient);
  stream.tune_for(TlsUse::kBulk);
  if (!finish_handshake(stream)) return;
  for (size_t at = 0, done = 0; at < memory.size(); at += done) {
    if (stream.write(memory.data() + at, memory.size() - at, &done) != TlsStream::Io::kDone) return;
  }
}

struct Far {
  std::unique_ptr<EventLoop> loop;
  std::unique_ptr<Fabric> fabric;
  std::vector<std::byte> memory;
  OpenGuard guard;
};

int serve(const FabricAddress& address, const ClusterSecret& secret, int report_fd) {
  Far far;
  far.loop = must(EventLoop::create());
  far.memory.assign(kRegionBytes, std::byte{7});
  SockFabricOptions options;
  options.self = {2, 1};
  options.secret = secret;
  options.listen = address;
  options.events.on_peer = [](const PeerId&, PeerState, const Status&) {};
  options.events.on_message = [&](const PeerId& from, uint16_t type, wire::Bytes payload) {
    if (type == kEcho) (void)far.fabric->send(from, kEcho, payload);
    if (type != kStream) return;
    std::string text(wire::as_text(payload));
    stream_out(must(parse_fabric_address(text.substr(1))), text[0] == 't', secret, far.memory);
  };
  far.fabric = must(make_sock_fabric(*far.loop, std::move(options)));
  if (Status s = far.fabric->export_region(1, far.memory, &far.guard); !s.is_ok()) fail(s);
  std::string line = to_string(far.fabric->address()) + "\n";
  (void)!::write(report_fd, line.data(), line.size());
  far.loop->run();
  return 0;
}

struct Near {
  std::unique_ptr<EventLoop> loop;
  std::unique_ptr<Fabric> fabric;
  std::vector<std::byte> into;
  size_t echoes = 0;
  ClusterSecret secret;
  std::string host;

  template <class F>
  void run_until(F condition) {
    while (!condition()) loop->run_once(seconds(1));
  }
  double pull_seconds(size_t bytes) {
    bool ended = false;
    auto start = Clock::now();
    (void)must(fabric->pull({2, 1}, {1, 0, 0, bytes}, std::span(into).first(bytes), {},
                            [&](const Status& end) {
                              if (!end.is_ok()) fail(end);
                              ended = true;
                            }));
    run_until([&] { return ended; });
    return seconds_since(start);
  }
  double round_trip_us(size_t count, std::vector<double>* all) {
    for (size_t i = 0; i < count; ++i) {
      size_t before = echoes;
      auto start = Clock::now();
      (void)fabric->send({2, 1}, kEcho, wire::as_bytes("0123456789abcdef"));
      run_until([&] { return echoes > before; });
      all->push_back(1e6 * seconds_since(start));
    }
    std::sort(all->begin(), all->end());
    return (*all)[all->size() / 2];
  }
  double stream_seconds(bool tls) {
    FabricAddress where;
    Fd door = must(listen_on({host, 0}, &where));
    (void)fcntl(door.get(), F_SETFL, 0);  // accept() waits
    std::string text = (tls ? "t" : "p") + to_string(where);
    (void)fabric->send({2, 1}, kStream, wire::as_bytes(text));
    for (int i = 0; i < 3; ++i) loop->run_once(std::chrono::nanoseconds(0));  // it leaves here
    Fd fd(::accept(door.get(), nullptr, nullptr));
    auto start = Clock::now();
    if (!tls) {
      for (size_t at = 0; at < into.size();) {
        ssize_t n = ::recv(fd.get(), into.data() + at, std::min(kPiece, into.size() - at), 0);
        if (n <= 0) break;
        at += static_cast<size_t>(n);
      }
      return seconds_since(start);
    }
    TlsStream stream(must(TlsContext::create(secret)), std::move(fd), TlsStream::Role::kServer);
    stream.tune_for(TlsUse::kBulk);
    if (!finish_handshake(stream)) fail(stream.error());
    start = Clock::now();
    for (size_t at = 0, done = 0; at < into.size(); at += done) {
      if (stream.read(into.data() + at, into.size() - at, &done) != TlsStream::Io::kDone) break;
    }
    return seconds_since(start);
  }
};

double gb_per_s(size_t bytes, double time) { return static_cast<double>(bytes) / time / 1e9; }

struct Spread {
  std::vector<double> values;
  void add(double value) { values.push_back(value); }
  double median() {
    std::sort(values.begin(), values.end());
    return values[values.size() / 2];
  }
  void print(const char* name, const char* unit) {
    double mid = median();
    std::printf("%-34s %9.2f %s   (%.2f to %.2f)\n", name, mid, unit, values.front(),
                values.back());
  }
};

void bulk_figures(Near& near, int repeats) {
  Spread copy, tcp, tls, whole, quarter, small;
  std::vector<std::byte> from(kRegionBytes, std::byte{1});
  near.pull_seconds(kRegionBytes);
  for (int i = 0; i < repeats; ++i) {
    auto start = Clock::now();
    std::memcpy(near.into.data(), from.data(), from.size());
    copy.add(gb_per_s(from.size(), seconds_since(start)));
    tcp.add(gb_per_s(kRegionBytes, near.stream_seconds(false)));
    tls.add(gb_per_s(kRegionBytes, near.stream_seconds(true)));
    whole.add(gb_per_s(kRegionBytes, near.pull_seconds(kRegionBytes)));
    quarter.add(gb_per_s(kRegionBytes / 4, near.pull_seconds(kRegionBytes / 4)));
    small.add(1e6 * near.pull_seconds(64 * 1024));
  }
  copy.print("floor: memcpy, warm, 256 MB", "GB/s");
  tcp.print("floor: raw TCP stream, 256 MB", "GB/s");
  tls.print("floor: raw TLS stream, 256 MB", "GB/s");
  whole.print("pull of 256 MB", "GB/s");
  quarter.print("pull of 64 MB", "GB/s");
  small.print("pull of 64 KB", "us");
  std::printf("pull / raw TLS stream: %.2f at 256 MB, %.2f at 64 MB\n",
              whole.median() / tls.median(), quarter.median() / tls.median());
}

void control_figures(Near& near, int repeats) {
  Spread idle, loaded, late;
  for (int i = 0; i < repeats; ++i) {
    std::vector<double> times;
    idle.add(near.round_trip_us(2000, &times));
    bool ended = false, stop = false;
    std::function<void()> again = [&] {
      (void)must(near.fabric->pull({2, 1}, {1, 0, 0, kRegionBytes}, near.into,
                                   {PullPriority::kReplicate}, [&](const Status&) {
                                     if (stop) {
                                       ended = true;
                                     } else {
                                       again();
                                     }
                                   }));
    };
    again();
    uint64_t begun = near.fabric->stats().pull_bytes_received;
    near.run_until([&] { return near.fabric->stats().pull_bytes_received > begun; });
    times.clear();
    loaded.add(near.round_trip_us(2000, &times));
    late.add(times[times.size() * 99 / 100]);
    stop = true;
    near.run_until([&] { return ended; });
  }
  idle.print("round trip, idle", "us");
  loaded.print("round trip under bulk", "us");
  late.print("  of which 99 of 100 are below", "us");
  std::printf("under bulk / idle: %.2f\n", loaded.median() / idle.median());
}

int drive(const FabricAddress& to, const ClusterSecret& secret, const std::string& host,
          int repeats) {
  Near near;
  near.loop = must(EventLoop::create());
  near.secret = secret;
  near.host = host;
  near.into.assign(kRegionBytes, std::byte{0});
  SockFabricOptions options;
  options.self = {1, 1};
  options.secret = secret;
  options.listens = false;
  options.events.on_peer = [](const PeerId&, PeerState, const Status&) {};
  options.events.on_message = [&](const PeerId&, uint16_t, wire::Bytes) { ++near.echoes; };
  near.fabric = must(make_sock_fabric(*near.loop, std::move(options)));
  bool up = false;
  near.fabric->connect({2, 0}, to, Clock::now() + seconds(10), [&](Result<PeerId> peer) {
    if (!peer) fail(peer.status());
    up = true;
  });
  near.run_until([&] { return up; });
  setvbuf(stdout, nullptr, _IOLBF, 0);
  std::printf("sock fabric, %ld cores, median of %d (from, to)\n", sysconf(_SC_NPROCESSORS_ONLN),
              repeats);
  bulk_figures(near, repeats);
  control_figures(near, repeats);
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  std::string mode = argc > 1 ? argv[1] : "";
  if (mode == "serve" && argc > 3) {
    // Port 0 is fine here, and not in an address to connect to.
    std::string text = argv[2];
    FabricAddress address{text.substr(0, text.rfind(':')),
                          static_cast<uint16_t>(std::atoi(text.c_str() + text.rfind(':') + 1))};
    return serve(address, must(ClusterSecret::read(argv[3])), 1);
  }
  if (mode == "drive" && argc > 4) {
    return drive(must(parse_fabric_address(argv[2])), must(ClusterSecret::read(argv[3])), argv[4],
                 argc > 5 ? std::atoi(argv[5]) : 7);
  }
  int repeats = std::max(1, argc > 1 ? std::atoi(argv[1]) : 7);
  ClusterSecret secret = ClusterSecret::random();
  int ready[2];
  if (pipe(ready) != 0) return 1;
  pid_t child = fork();
  if (child < 0) return 1;
  if (child == 0) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    return serve({"127.0.0.1", 0}, secret, ready[1]);
  }
  std::string line;
  for (char c; ::read(ready[0], &c, 1) == 1 && c != '\n';) line += c;
  int code = drive(must(parse_fabric_address(line)), secret, "127.0.0.1", repeats);
  kill(child, SIGKILL);
  waitpid(child, nullptr, 0);
  return code;
}

#pragma once

#include <c10/util/Exception.h>

#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <string>

namespace hpu_emulator {

// One process holds a card (synDeviceAcquire: backend/habana_device/HPUDevice.cpp:77-87,187-196) until it ends.  It
// acquires the card on the first use of device or pinned memory, or on a query that initialises the device.  The host
// is a name that a process passes to its children.  A card is a socket address, freed when the process ends.
class Card {
 public:
  int64_t count = 8; // cards of the host

  void acquire() {
    std::lock_guard<std::mutex> guard(mutex_);
    if (owner_ == getpid()) {
      return;
    }
    const char* host = std::getenv("HPU_EMULATOR_HOST");
    if (host && *host) {
      bool free = false;
      for (int64_t card = 0; card < count && !free; ++card) {
        free = bind(std::string("hpu-emulator/") + host + "/" + std::to_string(card));
      }
      TORCH_CHECK(
          free, "synDeviceAcquire failed: each of the ", count, " cards of this emulated host is held by another process");
    }
    owner_ = getpid();
  }

  bool held() {
    std::lock_guard<std::mutex> guard(mutex_);
    return owner_ == getpid();
  }

 private:
  static bool bind(const std::string& name) {
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    if (name.size() + 1 > sizeof(address.sun_path)) {
      return false;
    }
    std::memcpy(address.sun_path + 1, name.data(), name.size()); // leading zero: abstract address, no file
    const auto length = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + 1 + name.size());
    const int socket = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (socket >= 0 && ::bind(socket, reinterpret_cast<const sockaddr*>(&address), length) == 0) {
      return true; // stays open until the process ends
    }
    if (socket >= 0) {
      ::close(socket);
    }
    return false;
  }

  std::mutex mutex_;
  pid_t owner_ = 0;
};

inline Card& card() {
  static auto* held = new Card;
  return *held;
}

} // namespace hpu_emulator

#pragma once

#include <c10/util/ArrayRef.h>

#include <cstddef>
#include <cstdint>
#include <cstring>

namespace hpu_emulator {

// Hashing.  With 128 bits, collisions of signatures can be ignored.

struct Hash {
  uint64_t a = 0x9E3779B97F4A7C15ULL;
  uint64_t b = 0xC2B2AE3D27D4EB4FULL;

  void mix(uint64_t v) {
    a = (a ^ v) * 0xFF51AFD7ED558CCDULL;
    a ^= a >> 32;
    b = (b + v) * 0xC4CEB9FE1A85EC53ULL;
    b ^= b >> 29;
  }
  void mix(at::IntArrayRef values) {
    mix(values.size());
    for (auto v : values) {
      mix(static_cast<uint64_t>(v));
    }
  }
  void mix(const Hash& other) {
    mix(other.a);
    mix(other.b);
  }
  bool operator==(const Hash& other) const {
    return a == other.a && b == other.b;
  }
};

struct HashOfHash {
  size_t operator()(const Hash& h) const {
    return h.a;
  }
};

inline uint64_t bits_of(double v) {
  uint64_t bits = 0;
  std::memcpy(&bits, &v, sizeof bits);
  return bits;
}

} // namespace hpu_emulator

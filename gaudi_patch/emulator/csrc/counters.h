#pragma once

#include "memory.h"

#include <algorithm>
#include <cstdint>
#include <map>
#include <sstream>
#include <string>
#include <utility>

namespace hpu_emulator {

// Options and counters.

struct Options {
  bool lazy = true; // PT_HPU_LAZY_MODE
  enum Schedule { kLaziest, kReversed, kSync } schedule = kLaziest;
  enum Strict { kIgnore, kCount, kRaise } strict = kCount; // operators without a kernel on the device
  enum NonContiguous { kCopy, kRefuse, kAsBridge } noncontiguous_d2h = kCopy;
  bool int64_as_int32 = false;
  bool tolerant_index = false;
  bool signature_offsets = true;
  bool eager_stream_join = false;
  enum Bounces { kLate, kWaited } bounces = kLate; // non-blocking copies of unpinned host memory
  bool held_d2h = false; // PT_HPU_ENABLE_SFG in lazy mode
};

using NamedCounts = std::map<std::string, int64_t>;

struct Counters {
  int64_t graph_launches = 0, graph_compilation = 0, recipe_cache_hits = 0, recipe_cache_misses = 0;
  int64_t ops = 0, dynamic_ops = 0, cpu_fallback = 0;
  int64_t h2d_copies = 0, h2d_bytes = 0, d2h_copies = 0, d2h_bytes = 0, d2d_copies = 0, d2d_bytes = 0;
  int64_t pinned_copies = 0, unpinned_copies = 0, pinned_bytes = 0, bounce_bytes = 0;
  int64_t blocking_copies = 0, nonblocking_unpinned_copies = 0;
  int64_t device_syncs = 0, stream_syncs = 0, event_syncs = 0, mark_steps = 0, empty_mark_steps = 0;
  int64_t view_writes = 0, view_write_bytes = 0, device_traffic_bytes = 0, device_errors = 0;
  int64_t whole_copies = 0, whole_copy_bytes = 0;
  NamedCounts op_histogram, step_causes, cpu_fallback_ops, dynamic_op_names;
};

inline std::string quoted(const std::string& text) {
  std::string out = "\"";
  for (char c : text) {
    if (c == '"' || c == '\\') {
      out += '\\';
    }
    out += static_cast<unsigned char>(c) < 0x20 ? ' ' : c;
  }
  return out + "\"";
}

inline std::string json(const NamedCounts& counts) {
  std::ostringstream out;
  const char* separator = "{";
  for (const auto& [name, count] : counts) {
    out << separator << quoted(name) << ":" << count;
    separator = ",";
  }
  out << (counts.empty() ? "{}" : "}");
  return out.str();
}

inline std::string json(const Counters& c) {
  const std::pair<const char*, int64_t> numbers[] = {
      {"graph_launches", c.graph_launches},
      {"graph_compilation", c.graph_compilation},
      {"recipe_cache_hits", c.recipe_cache_hits},
      {"recipe_cache_misses", c.recipe_cache_misses},
      {"ops", c.ops},
      {"dynamic_ops", c.dynamic_ops},
      {"cpu_fallback", c.cpu_fallback},
      {"h2d_copies", c.h2d_copies},
      {"h2d_bytes", c.h2d_bytes},
      {"d2h_copies", c.d2h_copies},
      {"d2h_bytes", c.d2h_bytes},
      {"d2d_copies", c.d2d_copies},
      {"d2d_bytes", c.d2d_bytes},
      {"pinned_copies", c.pinned_copies},
      {"unpinned_copies", c.unpinned_copies},
      {"pinned_bytes", c.pinned_bytes},
      {"bounce_bytes", c.bounce_bytes},
      {"blocking_copies", c.blocking_copies},
      {"nonblocking_unpinned_copies", c.nonblocking_unpinned_copies},
      {"device_syncs", c.device_syncs},
      {"stream_syncs", c.stream_syncs},
      {"event_syncs", c.event_syncs},
      {"mark_steps", c.mark_steps},
      {"empty_mark_steps", c.empty_mark_steps},
      {"view_writes", c.view_writes},
      {"view_write_bytes", c.view_write_bytes},
      {"whole_copies", c.whole_copies},
      {"whole_copy_bytes", c.whole_copy_bytes},
      {"device_traffic_bytes", c.device_traffic_bytes},
      {"device_errors", c.device_errors},
      {"peak_staging_bytes", std::max<int64_t>(0, memory().window_peak - memory().window_base)},
      {"live_bytes", memory().live},
  };
  std::ostringstream out;
  out << "{";
  for (const auto& [name, value] : numbers) {
    out << quoted(name) << ":" << value << ",";
  }
  out << "\"op_histogram\":" << json(c.op_histogram) << ",\"step_causes\":" << json(c.step_causes)
      << ",\"cpu_fallback_ops\":" << json(c.cpu_fallback_ops) << ",\"dynamic_op_names\":" << json(c.dynamic_op_names)
      << "}";
  return out.str();
}

} // namespace hpu_emulator

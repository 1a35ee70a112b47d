#pragma once

#include "counters.h"
#include "hash.h"
#include "types.h"

#include <c10/core/impl/LocalDispatchKeySet.h>
#include <c10/util/flat_hash_map.h>

#include <algorithm>
#include <chrono>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <sstream>
#include <string>
#include <unordered_map>
#include <unordered_set>
#include <utility>
#include <vector>

namespace hpu_emulator {

// Scheduler.  In lazy mode, operators gather in one graph, which all threads share as in the bridge
// (habana_lazy/lazy_executor.cpp:196).  In eager mode, each operator is a separate graph.  A stream is a FIFO of
// launched graphs, copies and events in the order of issue.  Entries run only when something waits for them.

using Job = std::function<void()>;

struct EventRecord {
  bool done = false;
  bool asked = false;
  std::chrono::steady_clock::time_point time;
};

struct Event {
  int64_t stream = -1;
  uint64_t sequence = 0;
  std::shared_ptr<EventRecord> record; // null until recorded
};

struct Work {
  std::vector<Job> jobs;
  int64_t wait_stream = -1; // first run this stream up to wait_sequence
  uint64_t wait_sequence = 0;
  std::vector<std::shared_ptr<EventRecord>> records; // marked as done when reached
  bool held = false; // a copy to the host that an event alone does not cover
};

struct Stream {
  std::deque<Work> queue;
  uint64_t issued = 0;
  uint64_t done = 0;
  bool asked = false;
};

// The graph under construction.
struct Graph {
  size_t ops = 0;
  std::vector<Job> jobs;
  Hash signature;
  ska::flat_hash_map<const StorageImpl*, uint32_t> ordinals; // every storage that the graph touches
  std::unordered_set<const StorageImpl*> written;
  std::string text; // filled only while tracing

  void clear() {
    ops = 0;
    jobs.clear();
    signature = Hash();
    ordinals.clear();
    written.clear();
    text.clear();
  }
};

inline thread_local int64_t current_stream = 0; // per thread, as in backend/habana_device/HPUStream.cpp:54

class Runtime {
 public:
  Options options;
  Counters counters;
  Graph graph;

  static Runtime& get() {
    static auto* runtime = new Runtime; // leaked on purpose: a process may end with work pending
    return *runtime;
  }

  bool writes_pending(const StorageImpl* host) const {
    return graph.ops > 0 && graph.written.count(host) != 0;
  }
  bool reads_pending(const StorageImpl* host) const {
    return graph.ops > 0 && graph.ordinals.count(host) != 0;
  }

  // Enqueues one operator.  `signature` must cover its name, attributes and shapes; its position in the graph is added
  // here.
  void enqueue(
      const std::string& name,
      Hash signature,
      at::ArrayRef<std::pair<const StorageImpl*, int64_t>> operands,
      at::ArrayRef<const StorageImpl*> written,
      Job job) {
    gather(name, signature, operands, written);
    if (options.schedule == Options::kSync) {
      attempt(job);
    } else {
      graph.jobs.push_back(std::move(job));
    }
    if (!options.lazy && compiled_depth_ == 0) {
      launch("eager");
    }
  }

  // A torch.compile'd function is one launch in both modes.
  void begin_compiled() {
    if (compiled_depth_++ == 0) {
      launch("compiled");
    }
  }
  void end_compiled() {
    if (--compiled_depth_ == 0) {
      settle_targets();
      launch("compiled");
    }
  }

  // Adds an operator to the graph's signature and to the counters.
  void gather(
      const std::string& name,
      Hash signature,
      at::ArrayRef<std::pair<const StorageImpl*, int64_t>> operands,
      at::ArrayRef<const StorageImpl*> written) {
    ++counters.ops;
    ++counters.op_histogram[name];
    ++graph.ops;
    for (const auto& [host, offset] : operands) {
      const auto ordinal = static_cast<uint32_t>(graph.ordinals.size());
      signature.mix(graph.ordinals.emplace(host, ordinal).first->second);
      // A view's offset is a constant of the recipe: backend/kernel/hpu_habana_cache.cpp:197-211,
      // habana_lazy/ops/index.h:121-124.
      signature.mix(options.signature_offsets ? static_cast<uint64_t>(offset) : 0);
    }
    graph.signature.mix(signature);
    for (const auto& [host, offset] : operands) {
      land_on_device(host); // before the graph, so that a copy back to the host need not cut it
    }
    if (compiled_depth_ > 0) {
      std::unordered_set<const StorageImpl*> seen;
      for (const auto& [host, offset] : operands) {
        targets_[host].uses += seen.insert(host).second ? 1 : 0;
      }
      for (const auto* host : written) {
        if (name.rfind("index_copy", 0) == 0 && !operands.empty() && host == operands[0].first) { // in place
          ++targets_[host].writers;
          targets_[host].nbytes = static_cast<int64_t>(host->nbytes());
        }
      }
    }
    for (const auto* host : written) {
      graph.written.insert(host);
    }
  }

  // Counts the cost of index_copy_ in a compiled graph.  hpu_backend runs it in place if the graph uses its target for
  // nothing else (compile_backend/passes.py:2606-2625).  Otherwise each one copies the whole target, and another copy
  // writes the last result back.
  void settle_targets() {
    for (const auto& [host, target] : targets_) {
      if (target.writers == 0 || target.uses == 1) {
        continue;
      }
      const auto nbytes = 2 * target.nbytes * (target.writers + 1);
      counters.whole_copies += target.writers + 1;
      counters.whole_copy_bytes += nbytes;
      counters.device_traffic_bytes += nbytes;
    }
    targets_.clear();
  }

  // Ends the graph and pushes it to the current stream; returns false if it is empty.
  bool launch(const char* cause) {
    if (graph.ops == 0) {
      return false;
    }
    ++counters.graph_launches;
    ++counters.step_causes[cause];
    if (recipes_.insert(graph.signature).second) {
      ++counters.graph_compilation;
      ++counters.recipe_cache_misses;
    } else {
      ++counters.recipe_cache_hits;
    }
    if (tracing) {
      std::ostringstream line;
      line << "{\"kind\":\"graph\",\"cause\":" << quoted(cause) << ",\"ops\":" << graph.ops
           << ",\"stream\":" << current_stream << ",\"signature\":\"" << std::hex << graph.signature.a << std::dec
           << "\",\"text\":" << quoted(graph.text) << "}";
      trace.push_back(line.str());
    }
    Work work;
    work.jobs = std::move(graph.jobs);
    graph.clear();
    push(std::move(work));
    return true;
  }

  uint64_t push(Work work) {
    return push(current_stream, std::move(work));
  }

  uint64_t push(int64_t stream, Work work) {
    auto& s = streams_[stream];
    s.queue.push_back(std::move(work));
    s.asked = false;
    const uint64_t sequence = ++s.issued;
    if (options.schedule == Options::kSync) {
      run(stream, sequence);
    }
    return sequence;
  }

  // Runs a stream up to and including `sequence`.  As on a device, the next wait raises its errors.
  void run(int64_t stream, uint64_t sequence) {
    auto& s = streams_[stream];
    while (s.done < sequence && !s.queue.empty()) {
      Work work = std::move(s.queue.front());
      s.queue.pop_front();
      if (work.wait_stream >= 0) {
        run(work.wait_stream, work.wait_sequence);
      }
      for (auto& job : work.jobs) {
        attempt(job);
        job = nullptr; // releases its memory before the next job runs
      }
      for (const auto& record : work.records) {
        record->done = true;
        record->time = std::chrono::steady_clock::now();
      }
      ++s.done;
    }
  }

  void run(int64_t stream) {
    run(stream, streams_[stream].issued);
  }

  void attempt(const Job& job) {
    try {
      job();
    } catch (const std::exception& error) {
      ++counters.device_errors;
      if (error_.empty()) {
        error_ = error.what();
      }
    }
  }

  void run_all() {
    std::vector<int64_t> ids;
    for (const auto& [id, stream] : streams_) {
      if (!stream.queue.empty()) {
        ids.push_back(id);
      }
    }
    if (options.schedule == Options::kReversed) {
      std::reverse(ids.begin(), ids.end());
    }
    for (auto id : ids) {
      run(id);
    }
  }

  void raise_device_error() {
    if (!error_.empty()) {
      std::string what;
      what.swap(error_);
      TORCH_CHECK(false, "hpu emulator: device error in work issued earlier: ", what);
    }
  }

  // torch.hpu.synchronize: StepMarker, then the whole device (hpu/csrc/bindings.cpp:188-201).
  void synchronize() {
    ++counters.device_syncs;
    launch("synchronize");
    run_all();
    forget_late();
    traced("synchronize", "");
    raise_device_error();
  }

  void mark_step() {
    ++counters.mark_steps;
    if (!launch("mark_step")) {
      ++counters.empty_mark_steps;
    }
  }

  // Launches the graph only if the stream is *not* the current one (HPUStream.cpp:147-158): pending operators belong to
  // the current stream, and this wait does not cover them.
  void synchronize_stream(int64_t stream) {
    ++counters.stream_syncs;
    if (options.lazy && stream != current_stream) {
      launch("stream_synchronize");
    }
    run(stream);
    traced("stream_synchronize", ",\"stream\":" + std::to_string(stream));
    raise_device_error();
  }

  // HPUStream.cpp:99-130.  The laziest device answers "not yet", but a polling loop has to end: the second query in a
  // row runs the work.
  bool query_stream(int64_t stream) {
    if (options.lazy && stream != current_stream) {
      launch("stream_query");
    }
    auto& s = streams_[stream];
    if (!s.queue.empty() && !std::exchange(s.asked, true)) {
      return false;
    }
    run(stream);
    return true;
  }

  void set_stream(int64_t stream) {
    if (stream == current_stream) {
      return;
    }
    if (options.lazy) {
      launch("set_stream"); // HPUStream.cpp:222-226
    } else if (options.eager_stream_join && current_stream == 0) {
      // HPUStream.cpp:229-236: eager mode makes the new stream wait for the default one.  Off by default: code should
      // not rely on it, since there is no such wait on the way back.
      Work wait;
      wait.wait_stream = 0;
      wait.wait_sequence = streams_[0].issued;
      push(stream, std::move(wait));
    }
    current_stream = stream;
  }

  int64_t new_stream() {
    return next_stream_++;
  }

  // HPUEvent.cpp:90-98: recording on a stream other than the current one does not launch the graph, so the event does
  // not cover pending operators.
  void record_event(Event& event, int64_t stream) {
    if (options.lazy && stream == current_stream) {
      launch("event_record");
    }
    event.record = std::make_shared<EventRecord>();
    event.stream = stream;
    // The event precedes copies to the host that a thread of the bridge still holds back.
    auto& s = streams_[stream];
    size_t held = 0;
    while (held < s.queue.size() && s.queue[s.queue.size() - 1 - held].held) {
      ++held;
    }
    if (held > 0) {
      event.sequence = s.issued - held;
      if (held == s.queue.size()) {
        event.record->done = true;
        event.record->time = std::chrono::steady_clock::now();
      } else {
        s.queue[s.queue.size() - 1 - held].records.push_back(event.record);
      }
      return;
    }
    Work work;
    work.records.push_back(event.record);
    event.sequence = push(stream, std::move(work));
  }

  void wait_event(const Event& event, int64_t stream) {
    if (!event.record || event.stream == stream) { // HPUEvent.cpp:118-126
      return;
    }
    Work work;
    work.wait_stream = event.stream;
    work.wait_sequence = event.sequence;
    push(stream, std::move(work));
  }

  void synchronize_event(const Event& event) {
    ++counters.event_syncs;
    if (event.record) {
      run(event.stream, event.sequence);
    }
    raise_device_error();
  }

  bool query_event(const Event& event) {
    if (event.record && !event.record->done) {
      if (!std::exchange(event.record->asked, true)) { // see query_stream
        return false;
      }
      run(event.stream, event.sequence);
    }
    return true;
  }

  int64_t pending() const {
    auto count = static_cast<int64_t>(graph.ops);
    for (const auto& [id, stream] : streams_) {
      for (const auto& work : stream.queue) {
        count += static_cast<int64_t>(work.jobs.size());
      }
    }
    return count;
  }

  void reset(bool signatures) {
    counters = Counters();
    memory().window_base = memory().live.load();
    memory().window_peak = memory().live.load();
    if (signatures) {
      recipes_.clear();
    }
  }

  // Host memory that queued host-to-device copies have not read yet.
  std::vector<std::pair<const char*, size_t>> host_reads;

  // Non-blocking copies of unpinned host memory.  The bridge runs them in its own threads, and no wait covers them.
  // To the host, a callback copies the bridge's buffer to the target (device.cpp:1484-1504); only a copy to the device
  // from the same address waits for it (:1273-1274).  From the host, a thread reads the source (:1282-1297); only the
  // first use of the destination waits for it (stream_event_manager.cpp:56-78).
  struct LateHost {
    at::Tensor target, buffer;
    int64_t stream;
    uint64_t sequence;
  };
  std::deque<LateHost> late_hosts;
  std::unordered_map<const StorageImpl*, std::vector<Job>> late_devices;

  // Passes the late copies into `host` to `take`, and forgets them.
  template <typename Take>
  void land_on_device(const StorageImpl* host, Take take) {
    const auto found = late_devices.empty() ? late_devices.end() : late_devices.find(host);
    if (found != late_devices.end()) {
      auto jobs = std::move(found->second);
      late_devices.erase(found);
      for (auto& job : jobs) {
        take(std::move(job));
      }
    }
  }

  void land_on_device(const StorageImpl* host) {
    land_on_device(host, [this](Job job) {
      Work work;
      work.jobs.push_back(std::move(job));
      push(std::move(work));
    });
  }

  void land_on_host(LateHost& late) {
    run(late.stream, late.sequence);
    attempt([&late] { late.target.copy_(late.buffer); });
  }

  // Drops late copies whose result nothing can see any more.
  void forget_late() {
    const auto unseen = [](const LateHost& late) {
      return late.target.use_count() == 1 && late.target.storage().use_count() == 1;
    };
    late_hosts.erase(std::remove_if(late_hosts.begin(), late_hosts.end(), unseen), late_hosts.end());
    for (auto next = late_devices.begin(); next != late_devices.end();) {
      const auto uses = c10::raw::intrusive_ptr::use_count(const_cast<StorageImpl*>(next->first));
      next = uses == next->second.size() ? late_devices.erase(next) : std::next(next);
    }
  }

  bool tracing = false;
  std::vector<std::string> trace;

  void traced(const char* kind, const std::string& fields) {
    if (tracing) {
      trace.push_back(std::string("{\"kind\":\"") + kind + "\"" + fields + "}");
    }
  }

 private:
  struct Target {
    int64_t uses = 0, writers = 0, nbytes = 0;
  };
  std::unordered_map<const StorageImpl*, Target> targets_; // of the compiled graph under construction
  std::map<int64_t, Stream> streams_{{0, Stream()}};
  int64_t next_stream_ = 1;
  std::unordered_set<Hash, HashOfHash> recipes_;
  std::string error_;
  int compiled_depth_ = 0;
};

// Runs kernels of queued work in the dispatcher's plain state, regardless of the thread that waits for them: no
// autograd, no autocast, no Python modes.
struct PlainDispatch {
  c10::impl::ForceDispatchKeyGuard guard{
      DispatchKeySet(DispatchKey::BackendSelect),
      c10::autograd_dispatch_keyset_with_ADInplaceOrView | c10::autocast_dispatch_keyset | c10::python_ks};
};

} // namespace hpu_emulator

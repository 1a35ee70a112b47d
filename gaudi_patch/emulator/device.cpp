// An emulated Habana "hpu" device for stock PyTorch.
//
// Tensors live on PyTorch's own HPU dispatch key.  Their memory is host memory; every operator runs on zero-copy CPU
// aliases of it, but *when* it runs is decided by an adversarial scheduler: the laziest schedule that the rules of the
// device allow.  A program that waits where it must gets the right answer; one that does not gets poison.
//
// "bridge" in the comments is HabanaAI/gaudi-pytorch-bridge, release 1.19.0, whose rules are followed.  No code of it is
// used.  README.md lists what is emulated and what is not.
//
// Sections: 1 hashing  2 lock  3 memory  4 counters  5 scheduler  6 generators  7 tensors  8 copies  9 operators
// 10 registration: allocator, hooks, guard, kernels, control surface.

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/EmptyTensor.h>
#include <ATen/autocast_mode.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/detail/HPUHooksInterface.h>
#include <ATen/native/Resize.h>
#include <c10/core/Allocator.h>
#include <c10/core/DispatchKeySet.h>
#include <c10/core/ScalarTypeToTypeMeta.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <c10/core/impl/LocalDispatchKeySet.h>
#include <c10/util/flat_hash_map.h>
#include <dlfcn.h>
#include <torch/library.h>

#include <atomic>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <sstream>
#include <string>
#include <unordered_map>
#include <unordered_set>
#include <utility>
#include <vector>

namespace hpu_emulator {
namespace {

using at::IValue;
using at::Tensor;
using c10::DispatchKey;
using c10::DispatchKeySet;
using c10::OperatorHandle;
using c10::ScalarType;
using c10::StorageImpl;
using Stack = torch::jit::Stack;

constexpr auto kDevice = c10::DeviceType::HPU;
constexpr int kPoison = 0xDB; // as an index it is far out of range, as a float it is large and negative
constexpr size_t kAlignment = 128; // device cache line; LMCache and vllm-gaudi align their pools to it
constexpr size_t kFreedPoisonBytes = size_t{1} << 20;
constexpr size_t kQuarantineBytes = size_t{64} << 20;

// ---------------------------------------------------------------------------------------------------------------------
// 1. Hashing.  128 bits, so that two signatures that collide need not be considered.

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

uint64_t bits_of(double v) {
  uint64_t bits = 0;
  std::memcpy(&bits, &v, sizeof bits);
  return bits;
}

// ---------------------------------------------------------------------------------------------------------------------
// 2. Lock.  One recursive mutex guards the scheduler.  It must never be waited for with the GIL held: the thread that
// owns it may be running a Python meta kernel, or dropping the last reference to a tensor that Python owns, and both
// need the GIL.  The interpreter is reached through dlsym, so that one library serves every Python version.

std::recursive_mutex& mutex() {
  static auto* m = new std::recursive_mutex; // leaked: tensors may outlive static destruction
  return *m;
}

class Lock {
 public:
  Lock() {
    if (mutex().try_lock()) {
      return;
    }
    static auto* const check = reinterpret_cast<int (*)()>(dlsym(RTLD_DEFAULT, "PyGILState_Check"));
    static auto* const initialized = reinterpret_cast<int (*)()>(dlsym(RTLD_DEFAULT, "Py_IsInitialized"));
    static auto* const save = reinterpret_cast<void* (*)()>(dlsym(RTLD_DEFAULT, "PyEval_SaveThread"));
    static auto* const restore = reinterpret_cast<void (*)(void*)>(dlsym(RTLD_DEFAULT, "PyEval_RestoreThread"));
    const bool python = check && initialized && save && restore;
    void* state = python && initialized() && check() ? save() : nullptr;
    mutex().lock();
    if (state) {
      restore(state); // no one waits for this mutex with the GIL held, so this cannot deadlock
    }
  }
  ~Lock() {
    mutex().unlock();
  }
  Lock(const Lock&) = delete;
  Lock& operator=(const Lock&) = delete;
};

// ---------------------------------------------------------------------------------------------------------------------
// 3. Memory.  A device storage's data pointer owns a Block, and the Block owns a CPU StorageImpl over the same bytes.
// CPU aliases share that StorageImpl, so queued work keeps the bytes alive after Python has dropped the tensor, as a
// stream-ordered allocator does, while the accounting below follows what the program holds.

struct MemoryStats {
  std::atomic<int64_t> live{0};
  std::atomic<int64_t> peak{0}; // since reset_peak, for torch.hpu.max_memory_allocated
  std::atomic<int64_t> window_peak{0}; // since the counters' reset
  std::atomic<int64_t> window_base{0};
  std::atomic<int64_t> allocations{0}, frees{0}, largest{0};
  std::atomic<int64_t> total_allocations{0}, total_frees{0}; // not reset

  static void raise_to(std::atomic<int64_t>& target, int64_t value) {
    int64_t seen = target.load();
    while (value > seen && !target.compare_exchange_weak(seen, value)) {
    }
  }
  void allocated(int64_t n) {
    const int64_t now = live.fetch_add(n) + n;
    raise_to(peak, now);
    raise_to(window_peak, now);
    raise_to(largest, n);
    ++allocations;
    ++total_allocations;
  }
  void freed(int64_t n) {
    live -= n;
    ++frees;
    ++total_frees;
  }
};

MemoryStats& memory() {
  static auto* stats = new MemoryStats;
  return *stats;
}

std::atomic<bool> poison_enabled{true};

// Freed blocks are poisoned and kept for a while, so that a stale address reads poison instead of crashing or, worse,
// reading the old data.
class Quarantine {
 public:
  void put(void* ptr, size_t n) {
    if (!poison_enabled) {
      std::free(ptr);
      return;
    }
    std::memset(ptr, kPoison, std::min(n, kFreedPoisonBytes));
    std::lock_guard<std::mutex> guard(mutex_);
    blocks_.emplace_back(ptr, n);
    held_ += n;
    while (held_ > kQuarantineBytes && !blocks_.empty()) {
      std::free(blocks_.front().first);
      held_ -= blocks_.front().second;
      blocks_.pop_front();
    }
  }

 private:
  std::mutex mutex_;
  std::deque<std::pair<void*, size_t>> blocks_;
  size_t held_ = 0;
};

Quarantine& quarantine() {
  static auto* q = new Quarantine;
  return *q;
}

struct Allocation {
  void* ptr;
  size_t nbytes;
};

void free_allocation(void* context) {
  std::unique_ptr<Allocation> allocation(static_cast<Allocation*>(context));
  quarantine().put(allocation->ptr, allocation->nbytes);
}

void* aligned_allocation(size_t n) {
  void* ptr = nullptr;
  const size_t rounded = (n + kAlignment - 1) / kAlignment * kAlignment;
  TORCH_CHECK_WITH(
      OutOfMemoryError, posix_memalign(&ptr, kAlignment, rounded) == 0, "hpu emulator: cannot allocate ", n, " bytes");
  return ptr;
}

struct Block {
  c10::intrusive_ptr<StorageImpl> host;
  int64_t nbytes;
};

// The live blocks by address.  PyTorch wraps device memory by its bare address now and then (at::from_blob, in pickling
// for one); such a storage has no Block of its own and is found here.
struct LiveBlocks {
  std::mutex mutex;
  std::map<uintptr_t, Block*> by_address;
};

LiveBlocks& live_blocks() {
  static auto* blocks = new LiveBlocks;
  return *blocks;
}

void delete_block(void* context) {
  std::unique_ptr<Block> block(static_cast<Block*>(context));
  memory().freed(block->nbytes);
  std::lock_guard<std::mutex> guard(live_blocks().mutex);
  live_blocks().by_address.erase(reinterpret_cast<uintptr_t>(block->host->data()));
}

c10::Device current_device() {
  return {kDevice, 0};
}

c10::DataPtr allocate_block(size_t n) {
  void* ptr = nullptr;
  c10::DataPtr host_data(nullptr, c10::Device(c10::kCPU));
  if (n > 0) {
    ptr = aligned_allocation(n);
    if (poison_enabled) {
      std::memset(ptr, kPoison, n);
    }
    host_data = c10::DataPtr(ptr, new Allocation{ptr, n}, &free_allocation, c10::Device(c10::kCPU));
  }
  auto host = c10::make_intrusive<StorageImpl>(
      StorageImpl::use_byte_size_t(), static_cast<int64_t>(n), std::move(host_data), nullptr, /*resizable=*/false);
  memory().allocated(static_cast<int64_t>(n));
  auto* block = new Block{std::move(host), static_cast<int64_t>(n)};
  if (ptr) {
    std::lock_guard<std::mutex> guard(live_blocks().mutex);
    live_blocks().by_address[reinterpret_cast<uintptr_t>(ptr)] = block;
  }
  return {ptr, block, &delete_block, current_device()};
}

// Where a storage's bytes are: the CPU storage that owns them, and the distance from its start.
struct Place {
  StorageImpl* host;
  int64_t distance;
};

Place place_of(const c10::Storage& storage) {
  const auto& data = storage.data_ptr();
  if (data.get_deleter() == &delete_block) {
    return {static_cast<Block*>(data.get_context())->host.get(), 0};
  }
  const auto address = reinterpret_cast<uintptr_t>(data.get());
  std::lock_guard<std::mutex> guard(live_blocks().mutex);
  const auto& blocks = live_blocks().by_address;
  auto found = blocks.upper_bound(address);
  TORCH_CHECK(found != blocks.begin(), "hpu emulator: an hpu storage over memory that is not the device's");
  --found;
  const auto distance = static_cast<int64_t>(address - found->first);
  TORCH_CHECK(
      distance + static_cast<int64_t>(storage.nbytes()) <= found->second->nbytes,
      "hpu emulator: an hpu storage over memory that is not the device's, or was freed");
  return {found->second->host.get(), distance};
}

StorageImpl* host_of(const Tensor& tensor) {
  return place_of(tensor.storage()).host;
}

// Pinned memory is recognised by the base address of an allocation and by nothing else, as in the bridge
// (backend/synapse_helpers/host_memory.cpp:114-131): a slice of a pinned buffer counts as unpinned.
struct PinnedBlocks {
  std::mutex mutex;
  std::unordered_set<const void*> bases;

  bool contains(const void* ptr) {
    std::lock_guard<std::mutex> guard(mutex);
    return bases.count(ptr) != 0;
  }
};

PinnedBlocks& pinned_blocks() {
  static auto* blocks = new PinnedBlocks;
  return *blocks;
}

void free_pinned(void* ptr) {
  {
    std::lock_guard<std::mutex> guard(pinned_blocks().mutex);
    pinned_blocks().bases.erase(ptr);
  }
  std::free(ptr);
}

struct PinnedAllocator final : c10::Allocator {
  c10::DataPtr allocate(size_t n) override {
    if (n == 0) {
      return {nullptr, c10::Device(c10::kCPU)};
    }
    void* ptr = aligned_allocation(n);
    if (poison_enabled) {
      std::memset(ptr, kPoison, n);
    }
    std::lock_guard<std::mutex> guard(pinned_blocks().mutex);
    pinned_blocks().bases.insert(ptr);
    return {ptr, ptr, &free_pinned, c10::Device(c10::kCPU)};
  }
  c10::DeleterFnPtr raw_deleter() const override {
    return &free_pinned;
  }
  void copy_data(void* dest, const void* src, size_t count) const override {
    default_copy_data(dest, src, count);
  }
};

struct DeviceAllocator final : c10::Allocator {
  c10::DataPtr allocate(size_t n) override {
    return allocate_block(n);
  }
  void copy_data(void* dest, const void* src, size_t count) const override {
    default_copy_data(dest, src, count);
  }
};

PinnedAllocator pinned_allocator;
DeviceAllocator device_allocator;

bool is_pinned(const Tensor& host) {
  return host.is_contiguous() && pinned_blocks().contains(host.const_data_ptr());
}

// ---------------------------------------------------------------------------------------------------------------------
// 4. Options and counters.

struct Options {
  bool lazy = true; // PT_HPU_LAZY_MODE
  enum Schedule { kLaziest, kReversed, kSync } schedule = kLaziest;
  enum Strict { kIgnore, kCount, kRaise } strict = kCount; // operators that the device cannot run
  enum NonContiguous { kCopy, kRefuse, kAsBridge } noncontiguous_d2h = kCopy;
  bool int64_as_int32 = false;
  bool tolerant_index = false;
  bool signature_offsets = true;
  bool eager_stream_join = false;
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
  NamedCounts op_histogram, step_causes, cpu_fallback_ops, dynamic_op_names;
};

std::string quoted(const std::string& text) {
  std::string out = "\"";
  for (char c : text) {
    if (c == '"' || c == '\\') {
      out += '\\';
    }
    out += static_cast<unsigned char>(c) < 0x20 ? ' ' : c;
  }
  return out + "\"";
}

std::string json(const NamedCounts& counts) {
  std::ostringstream out;
  const char* separator = "{";
  for (const auto& [name, count] : counts) {
    out << separator << quoted(name) << ":" << count;
    separator = ",";
  }
  out << (counts.empty() ? "{}" : "}");
  return out.str();
}

std::string json(const Counters& c) {
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

// ---------------------------------------------------------------------------------------------------------------------
// 5. Scheduler.  In lazy rules operators gather in one graph, shared by all threads as in the bridge
// (habana_lazy/lazy_executor.cpp:196); in eager rules each is a graph of its own.  A launched graph, a copy and an event
// are entries of the FIFO of the stream they were issued on.  Entries run only when something waits for them.

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
  int64_t wait_stream = -1; // run that stream up to wait_sequence first
  uint64_t wait_sequence = 0;
  std::shared_ptr<EventRecord> record; // set done when reached
};

struct Stream {
  std::deque<Work> queue;
  uint64_t issued = 0;
  uint64_t done = 0;
  bool asked = false;
};

// The graph that is being gathered.
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

thread_local int64_t current_stream = 0; // per thread, as in backend/habana_device/HPUStream.cpp:54

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

  // One operator of the device.  `signature` must hold its name, attributes and shapes; what makes it depend on the
  // graph it stands in is added here.
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
    if (!options.lazy) {
      launch("eager");
    }
  }

  // Enters an operator in the graph's signature and in the counters.
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
    for (const auto* host : written) {
      graph.written.insert(host);
    }
  }

  // Ends the graph and puts it on the current stream.  Nothing happens when it is empty.
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

  // Runs a stream up to and including `sequence`.  Device errors are kept for the next wait, as on a device.
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
        job = nullptr; // releases what it held before the next one runs
      }
      if (work.record) {
        work.record->done = true;
        work.record->time = std::chrono::steady_clock::now();
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
    traced("synchronize", "");
    raise_device_error();
  }

  void mark_step() {
    ++counters.mark_steps;
    if (!launch("mark_step")) {
      ++counters.empty_mark_steps;
    }
  }

  // The graph is launched only when the stream is *not* the current one (HPUStream.cpp:147-158): the pending operators
  // belong to the current stream and are not waited for.
  void synchronize_stream(int64_t stream) {
    ++counters.stream_syncs;
    if (options.lazy && stream != current_stream) {
      launch("stream_synchronize");
    }
    run(stream);
    traced("stream_synchronize", ",\"stream\":" + std::to_string(stream));
    raise_device_error();
  }

  // HPUStream.cpp:99-130.  The laziest device answers "not yet"; but a loop that polls has to end, so the second query
  // in a row does the work.
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
      // HPUStream.cpp:229-236: eager mode makes the new stream wait for the default one.  Off unless asked for: code
      // should not lean on it, since the way back has no such wait.
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

  // HPUEvent.cpp:90-98: recording on another stream than the current one does not launch, so it does not cover the
  // operators that are still being gathered.
  void record_event(Event& event, int64_t stream) {
    if (options.lazy && stream == current_stream) {
      launch("event_record");
    }
    event.record = std::make_shared<EventRecord>();
    event.stream = stream;
    Work work;
    work.record = event.record;
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

  // Host memory that a queued host-to-device copy has yet to read.
  std::vector<std::pair<const char*, size_t>> host_reads;

  bool tracing = false;
  std::vector<std::string> trace;

  void traced(const char* kind, const std::string& fields) {
    if (tracing) {
      trace.push_back(std::string("{\"kind\":\"") + kind + "\"" + fields + "}");
    }
  }

 private:
  std::map<int64_t, Stream> streams_{{0, Stream()}};
  int64_t next_stream_ = 1;
  std::unordered_set<Hash, HashOfHash> recipes_;
  std::string error_;
};

// Kernels of queued work run under the dispatcher's plain state, whatever the thread that happens to wait for them has
// set: no autograd, no autocast, no Python modes.
struct PlainDispatch {
  c10::impl::ForceDispatchKeyGuard guard{
      DispatchKeySet(DispatchKey::BackendSelect),
      c10::autograd_dispatch_keyset_with_ADInplaceOrView | c10::autocast_dispatch_keyset | c10::python_ks};
};

// ---------------------------------------------------------------------------------------------------------------------
// 6. Generators.  An operator draws its seed when it is issued, so seeding never waits for the queue.

struct Generator final : c10::GeneratorImpl {
  Generator() : Generator(at::detail::createCPUGenerator()) {}
  explicit Generator(at::Generator source)
      : c10::GeneratorImpl(current_device(), DispatchKeySet(DispatchKey::HPU)), source_(std::move(source)) {}

  void set_current_seed(uint64_t seed) override {
    source_.set_current_seed(seed);
  }
  void set_offset(uint64_t /*offset*/) override {
    TORCH_CHECK(false, "hpu generators have no offset");
  }
  uint64_t get_offset() const override {
    TORCH_CHECK(false, "hpu generators have no offset");
  }
  uint64_t current_seed() const override {
    return source_.current_seed();
  }
  uint64_t seed() override {
    return source_.seed();
  }
  void set_state(const c10::TensorImpl& state) override {
    source_.unsafeGetGeneratorImpl()->set_state(state);
  }
  c10::intrusive_ptr<c10::TensorImpl> get_state() const override {
    return source_.unsafeGetGeneratorImpl()->get_state();
  }
  uint64_t draw() {
    auto* source = at::check_generator<at::CPUGeneratorImpl>(source_);
    std::lock_guard<std::mutex> guard(source->mutex_);
    return source->random64();
  }
  static c10::DeviceType device_type() {
    return kDevice;
  }

 private:
  Generator* clone_impl() const override {
    return new Generator(source_.clone());
  }
  at::Generator source_;
};

const at::Generator& default_generator() {
  static auto* generator = new at::Generator(at::make_generator<Generator>());
  return *generator;
}

// ---------------------------------------------------------------------------------------------------------------------
// 7. Tensors.

// Marks a tensor that a view operator made.  The bridge tells such tensors apart (a lazy tensor with stride_params) and
// turns a write through one into a strided_insert into its base (habana_kernels/lazy_kernels.cpp:403-445).
struct ViewMark final : c10::BackendMeta {};

const c10::intrusive_ptr<c10::BackendMeta>& view_mark() {
  static auto* mark = new c10::intrusive_ptr<c10::BackendMeta>(c10::make_intrusive<ViewMark>());
  return *mark;
}

bool is_marked_view(const Tensor& tensor) {
  return tensor.unsafeGetTensorImpl()->get_backend_meta() == view_mark().get();
}

bool is_device(const Tensor& tensor) {
  return tensor.device().type() == kDevice;
}

Tensor new_tensor(at::IntArrayRef sizes, at::IntArrayRef strides, ScalarType dtype) {
  const auto type = c10::scalarTypeToTypeMeta(dtype);
  const size_t nbytes = at::detail::computeStorageNbytes(sizes, strides, type.itemsize());
  auto storage = c10::make_intrusive<StorageImpl>(
      StorageImpl::use_byte_size_t(),
      static_cast<int64_t>(nbytes),
      device_allocator.allocate(nbytes),
      &device_allocator,
      /*resizable=*/true);
  auto tensor =
      at::detail::make_tensor<c10::TensorImpl>(c10::Storage(std::move(storage)), DispatchKeySet(DispatchKey::HPU), type);
  tensor.unsafeGetTensorImpl()->set_sizes_and_strides(sizes, strides);
  return tensor;
}

Tensor new_contiguous(at::IntArrayRef sizes, ScalarType dtype) {
  at::DimVector strides(sizes.size());
  int64_t stride = 1;
  for (auto i = static_cast<int64_t>(sizes.size()) - 1; i >= 0; --i) {
    strides[i] = stride;
    stride *= std::max<int64_t>(sizes[i], 1);
  }
  return new_tensor(sizes, strides, dtype);
}

// A view shares the base's storage *and key set*: without the latter, torch.inference_mode() dies with "Cannot set
// version_counter for inference tensor".
Tensor new_view(
    const Tensor& base,
    at::IntArrayRef sizes,
    at::IntArrayRef strides,
    int64_t offset,
    caffe2::TypeMeta type) {
  auto view = at::detail::make_tensor<c10::TensorImpl>(
      c10::TensorImpl::VIEW, c10::Storage(base.storage()), base.key_set(), type);
  auto* impl = view.unsafeGetTensorImpl();
  impl->set_sizes_and_strides(sizes, strides, offset);
  impl->set_backend_meta(view_mark());
  return view;
}

// The same bytes as a CPU tensor.
Tensor host_alias(const Tensor& tensor, std::optional<ScalarType> bits = std::nullopt) {
  const auto place = place_of(tensor.storage());
  const auto type = bits ? c10::scalarTypeToTypeMeta(*bits) : tensor.dtype();
  auto cpu = at::detail::make_tensor<c10::TensorImpl>(
      c10::Storage(c10::intrusive_ptr<StorageImpl>::reclaim_copy(place.host)), DispatchKeySet(DispatchKey::CPU), type);
  auto* impl = cpu.unsafeGetTensorImpl();
  const auto itemsize = static_cast<int64_t>(type.itemsize());
  TORCH_CHECK(place.distance % itemsize == 0, "hpu emulator: device memory wrapped at an odd address");
  impl->set_sizes_and_strides(tensor.sizes(), tensor.strides(), tensor.storage_offset() + place.distance / itemsize);
  impl->_set_conj(tensor.is_conj());
  impl->_set_neg(tensor.is_neg());
  if (tensor.unsafeGetTensorImpl()->is_wrapped_number()) {
    impl->set_wrapped_number(true);
  }
  return cpu;
}

int64_t bytes_of(const Tensor& tensor) {
  return tensor.numel() * static_cast<int64_t>(tensor.element_size());
}

void mix_tensor(Hash& hash, const Tensor& tensor) {
  hash.mix(static_cast<uint64_t>(tensor.scalar_type()) | uint64_t{1} << 32);
  hash.mix(tensor.sizes());
  hash.mix(tensor.strides());
}

std::string describe(const Tensor& tensor) {
  std::ostringstream out;
  if (!tensor.defined()) {
    return "None";
  }
  out << c10::toString(tensor.scalar_type()) << tensor.sizes();
  if (!tensor.is_contiguous()) {
    out << ":" << tensor.strides();
  }
  if (tensor.storage_offset() != 0) {
    out << "+" << tensor.storage_offset();
  }
  return out.str();
}

// A write through a view: the base is read and written whole, unless the graph compiler elides it.
void count_view_write(const Tensor& target) {
  if (is_marked_view(target)) {
    auto& counters = Runtime::get().counters;
    const auto nbytes = 2 * static_cast<int64_t>(target.storage().nbytes());
    ++counters.view_writes;
    counters.view_write_bytes += nbytes;
    counters.device_traffic_bytes += nbytes;
  }
}

Tensor empty_memory_format(
    at::IntArrayRef sizes,
    std::optional<ScalarType> dtype,
    std::optional<c10::Layout> layout,
    std::optional<c10::Device> device,
    std::optional<bool> pin_memory,
    std::optional<c10::MemoryFormat> format) {
  TORCH_CHECK(!layout || *layout == c10::kStrided, "hpu: only strided tensors are supported");
  TORCH_CHECK(!pin_memory || !*pin_memory, "Only dense CPU tensors can be pinned");
  TORCH_CHECK(
      !device || device->index() <= 0, "habana active device: ", static_cast<int>(device->index()), " != 0");
  return at::detail::empty_generic(
      sizes, &device_allocator, DispatchKeySet(DispatchKey::HPU), c10::dtype_or_default(dtype), format);
}

Tensor empty_strided(
    at::IntArrayRef sizes,
    at::IntArrayRef strides,
    std::optional<ScalarType> dtype,
    std::optional<c10::Layout> /*layout*/,
    std::optional<c10::Device> device,
    std::optional<bool> pin_memory) {
  TORCH_CHECK(!pin_memory || !*pin_memory, "Only dense CPU tensors can be pinned");
  TORCH_CHECK(
      !device || device->index() <= 0, "habana active device: ", static_cast<int>(device->index()), " != 0");
  return at::detail::empty_strided_generic(
      sizes, strides, &device_allocator, DispatchKeySet(DispatchKey::HPU), c10::dtype_or_default(dtype));
}

Tensor as_strided(
    const Tensor& self,
    at::IntArrayRef sizes,
    at::IntArrayRef strides,
    std::optional<int64_t> offset) {
  const auto start = offset.value_or(self.storage_offset());
  TORCH_CHECK(sizes.size() == strides.size(), "mismatch in length of strides and shape");
  TORCH_CHECK(start >= 0, "storage_offset must be non-negative, got: ", start);
  const auto needed = at::detail::computeStorageNbytes(sizes, strides, self.element_size(), start);
  TORCH_CHECK(
      needed <= self.storage().nbytes() || c10::multiply_integers(sizes) == 0,
      "setStorage: sizes ", sizes, ", strides ", strides, ", storage offset ", start, ", and itemsize ",
      self.element_size(), " requiring a storage size of ", needed, " are out of bounds for storage of size ",
      self.storage().nbytes());
  return new_view(self, sizes, strides, start, self.dtype());
}

// Gives a storage another size.  Queued work holds the old bytes, so it is done first.
void resize_storage(StorageImpl* storage, size_t nbytes) {
  auto& runtime = Runtime::get();
  runtime.launch("resize");
  runtime.run_all();
  auto fresh = device_allocator.allocate(nbytes);
  if (storage->nbytes() > 0 && nbytes > 0) {
    std::memcpy(fresh.get(), storage->data_ptr().get(), std::min(nbytes, storage->nbytes()));
  }
  storage->set_data_ptr_noswap(std::move(fresh));
  storage->set_nbytes(nbytes);
}

void ensure_storage(const Tensor& self) {
  const auto needed =
      at::detail::computeStorageNbytes(self.sizes(), self.strides(), self.element_size(), self.storage_offset());
  auto* storage = self.storage().unsafeGetStorageImpl();
  if (self.numel() > 0 && needed > storage->nbytes()) {
    TORCH_CHECK(storage->resizable(), "Trying to resize storage that is not resizable");
    resize_storage(storage, needed);
  }
}

const Tensor& resize_(const Tensor& self, at::IntArrayRef sizes, std::optional<c10::MemoryFormat> format) {
  if (self.sizes() != sizes) {
    Lock lock;
    self.unsafeGetTensorImpl()->set_sizes_contiguous(sizes);
    ensure_storage(self);
  }
  if (format && *format != c10::MemoryFormat::Preserve) {
    self.unsafeGetTensorImpl()->empty_tensor_restride(*format);
  }
  return self;
}

Tensor& set_storage_offset(
    Tensor& self,
    c10::Storage source,
    int64_t offset,
    at::IntArrayRef sizes,
    at::IntArrayRef strides) {
  TORCH_CHECK(
      source.device_type() == kDevice,
      "Attempted to set the storage of a tensor on device \"hpu:0\" to a storage on different device \"",
      source.device(), "\". This is no longer allowed; the devices must match.");
  Lock lock;
  auto* impl = self.unsafeGetTensorImpl();
  impl->set_storage_keep_dtype(std::move(source));
  if (strides.data() == nullptr) {
    impl->set_sizes_contiguous(sizes);
    impl->set_storage_offset(offset);
  } else {
    impl->set_sizes_and_strides(sizes, strides, offset);
  }
  ensure_storage(self);
  return self;
}

Tensor& set_storage(Tensor& self, c10::Storage source) {
  const auto count = static_cast<int64_t>(source.nbytes() / self.element_size());
  return set_storage_offset(self, std::move(source), 0, {count}, {});
}

Tensor& set_tensor(Tensor& self, const Tensor& source) {
  if (!self.is_same(source)) {
    set_storage_offset(self, source.storage(), source.storage_offset(), source.sizes(), source.strides());
  }
  return self;
}

Tensor& set_nothing(Tensor& self) {
  return set_storage(self, new_contiguous({0}, self.scalar_type()).storage());
}

void record_stream(Tensor& /*self*/, c10::Stream /*stream*/) {
  // Queued work owns the memory that it uses, on every stream: there is nothing to record.
}

// ---------------------------------------------------------------------------------------------------------------------
// 8. Copies.

Runtime& runtime() {
  return Runtime::get();
}

// A device-to-device copy is an operator like any other.
void enqueue_copy(const Tensor& to, const Tensor& from, const char* name) {
  auto& r = runtime();
  static const std::hash<std::string> hash_name;
  Hash signature;
  signature.mix(hash_name(name));
  mix_tensor(signature, to);
  mix_tensor(signature, from);
  count_view_write(to);
  ++r.counters.d2d_copies;
  r.counters.d2d_bytes += bytes_of(to);
  r.counters.device_traffic_bytes += bytes_of(from) + bytes_of(to);
  if (r.tracing) {
    r.graph.text += std::string(name) + "(" + describe(to) + ", " + describe(from) + "); ";
  }
  const std::pair<const StorageImpl*, int64_t> operands[] = {
      {host_of(to), to.storage_offset()}, {host_of(from), from.storage_offset()}};
  const StorageImpl* written[] = {host_of(to)};
  r.enqueue(name, signature, operands, written, [to = host_alias(to), from = host_alias(from)] {
    PlainDispatch plain;
    to.copy_(from);
  });
}

void count_copy(bool to_device, const Tensor& host, int64_t nbytes, bool non_blocking) {
  auto& r = runtime();
  auto& c = r.counters;
  const bool pinned = is_pinned(host);
  ++(to_device ? c.h2d_copies : c.d2h_copies);
  (to_device ? c.h2d_bytes : c.d2h_bytes) += nbytes;
  if (pinned) {
    ++c.pinned_copies;
    c.pinned_bytes += nbytes;
  } else {
    ++c.unpinned_copies;
    c.bounce_bytes += nbytes;
    c.nonblocking_unpinned_copies += non_blocking ? 1 : 0;
  }
  // A device-to-host copy to unpinned memory is documented to block; the 1.19 sources run it in the background
  // (backend/helpers/tensor_utils.cpp:411-446).  It is counted as the former and scheduled as the latter.
  c.blocking_copies += !non_blocking || (!to_device && !pinned) ? 1 : 0;
  if (r.tracing) {
    std::ostringstream fields;
    fields << ",\"bytes\":" << nbytes << ",\"pinned\":" << (pinned ? "true" : "false")
           << ",\"non_blocking\":" << (non_blocking ? "true" : "false") << ",\"stream\":" << current_stream;
    r.traced(to_device ? "h2d" : "d2h", fields.str());
  }
}

// Does the copy as late as its contract allows.  A blocking copy whose device memory no queued work touches is done at
// once, without the rest of its stream: the DMA engine need not wait for unrelated work.
void schedule_copy(bool untouched, bool non_blocking, Job job) {
  auto& r = runtime();
  if (!non_blocking && untouched) {
    job();
    return;
  }
  Work work;
  work.jobs.push_back(std::move(job));
  const auto sequence = r.push(std::move(work));
  if (!non_blocking) {
    r.run(current_stream, sequence);
    r.raise_device_error();
  }
}

bool untouched(const StorageImpl* host) {
  return c10::raw::intrusive_ptr::use_count(const_cast<StorageImpl*>(host)) == 1; // only its Block refers to it
}

void check_int32_range(const Tensor& host) {
  if (runtime().options.int64_as_int32 && host.scalar_type() == at::kLong && host.numel() > 0) {
    PlainDispatch plain;
    const auto low = host.min().item<int64_t>();
    const auto high = host.max().item<int64_t>();
    // habana_kernels/lazy_kernels.cpp:281-299
    TORCH_CHECK(
        low >= std::numeric_limits<int32_t>::min() && high <= std::numeric_limits<int32_t>::max(),
        "Error when trying to cast Long to Int, Input values range [", low, ", ", high, "] exceeds Int range [",
        std::numeric_limits<int32_t>::min(), ", ", std::numeric_limits<int32_t>::max(), "]");
  }
}

int64_t dma_bytes(const Tensor& tensor) {
  const bool halved = runtime().options.int64_as_int32 && tensor.scalar_type() == at::kLong;
  return halved ? bytes_of(tensor) / 2 : bytes_of(tensor);
}

void copy_to_contiguous_device(const Tensor& to, const Tensor& from, bool non_blocking) {
  auto& r = runtime();
  check_int32_range(from);
  const auto* host = host_of(to);
  if (r.writes_pending(host)) {
    r.launch("h2d"); // habana_kernels/lazy_kernels.cpp:1000-1004
  } else if (r.reads_pending(host)) {
    // The bridge does not cut here; keeping the program's order does need it, so the launch shows under its own name.
    r.launch("h2d_into_input");
  }
  count_copy(/*to_device=*/true, from, dma_bytes(from), non_blocking);
  const bool free_now = untouched(host);
  if (!non_blocking) {
    schedule_copy(free_now, false, [to = host_alias(to), from] {
      PlainDispatch plain;
      to.copy_(from);
    });
    return;
  }
  // The source is read when the copy runs, not now: a source that is overwritten too early shows.
  const auto* begin = static_cast<const char*>(from.const_data_ptr());
  const auto extent = at::detail::computeStorageNbytes(from.sizes(), from.strides(), from.element_size());
  r.host_reads.emplace_back(begin, extent);
  schedule_copy(free_now, true, [to = host_alias(to), from, begin, extent] {
    auto& reads = runtime().host_reads;
    const auto found = std::find(reads.begin(), reads.end(), std::make_pair(begin, extent));
    if (found != reads.end()) {
      reads.erase(found);
    }
    PlainDispatch plain;
    to.copy_(from);
  });
}

void copy_host_to_device(const Tensor& to, const Tensor& from, bool non_blocking) {
  auto& r = runtime();
  const bool through_view = r.options.lazy && is_marked_view(to);
  if (to.is_contiguous() && to.scalar_type() == from.scalar_type() && !through_view) {
    copy_to_contiguous_device(to, from, non_blocking);
    return;
  }
  // Into a view (lazy_kernels.cpp:1112-1133), a strided tensor or another dtype: a plain copy, then an operator.
  const auto staged = new_contiguous(from.sizes(), from.scalar_type());
  copy_to_contiguous_device(staged, from, non_blocking);
  enqueue_copy(to, staged, through_view || !to.is_contiguous() ? "strided_insert" : "cast");
}

void poison_host(const Tensor& host) {
  if (!poison_enabled) {
    return;
  }
  const auto* begin = static_cast<const char*>(host.const_data_ptr());
  const auto extent = at::detail::computeStorageNbytes(host.sizes(), host.strides(), host.element_size());
  for (const auto& [other, length] : runtime().host_reads) {
    if (other < begin + extent && begin < other + length) {
      return; // an earlier copy of this queue has yet to read it; in stream order that is legal
    }
  }
  if (host.is_contiguous()) {
    std::memset(host.mutable_data_ptr(), kPoison, bytes_of(host));
  } else {
    auto filler = at::empty(host.sizes(), host.options().pinned_memory(false));
    std::memset(filler.mutable_data_ptr(), kPoison, bytes_of(filler));
    host.copy_(filler);
  }
}

void copy_device_to_host(const Tensor& to, const Tensor& source, bool non_blocking) {
  auto& r = runtime();
  Tensor from = source;
  if (from.scalar_type() != to.scalar_type()) {
    const auto cast = new_contiguous(from.sizes(), to.scalar_type());
    enqueue_copy(cast, from, "cast");
    from = cast;
  } else if (!from.is_contiguous()) {
    const auto packed = new_contiguous(from.sizes(), from.scalar_type());
    enqueue_copy(packed, from, "as_strided");
    from = packed;
  }
  bool lost = false;
  int64_t misplaced_by = 0;
  if (r.options.noncontiguous_d2h != Options::kCopy) {
    // lazy: lazy_kernels.cpp:858 rebinds `self` to a contiguous copy and never writes back; eager:
    // habana_eager/ops/copy_from.cpp:188-202 resets the destination's storage offset.
    lost = r.options.lazy && !to.is_contiguous();
    misplaced_by = !r.options.lazy && to.is_contiguous() && !source.is_contiguous() ? to.storage_offset() : 0;
    TORCH_CHECK(
        r.options.noncontiguous_d2h != Options::kRefuse || (!lost && misplaced_by == 0),
        "hpu emulator: this copy to the host is lost or misplaced by the bridge: ",
        lost ? "the destination is not contiguous"
             : "the source is not contiguous and the destination has a storage offset");
  }
  const auto* host = host_of(from);
  if (r.writes_pending(host)) {
    r.launch("d2h"); // lazy_kernels.cpp:693-710; an input of the pending graph does not cut it
  }
  count_copy(/*to_device=*/false, to, dma_bytes(from), non_blocking);
  const bool free_now = untouched(host);
  if (non_blocking && !lost) {
    poison_host(to);
  }
  Tensor target = to;
  if (misplaced_by != 0) {
    target = to.as_strided(to.sizes(), to.strides(), 0);
  }
  schedule_copy(free_now, non_blocking, [target, from = host_alias(from), lost] {
    if (!lost) {
      PlainDispatch plain;
      target.copy_(from);
    }
  });
}

Tensor& copy_(Tensor& self, const Tensor& src, bool non_blocking) {
  TORCH_CHECK(self.defined() && src.defined(), "copy_: undefined tensor");
  if (self.is_same(src)) {
    return self;
  }
  const auto from = src.sizes() == self.sizes() ? src : src.expand(self.sizes());
  if (self.numel() == 0) {
    return self;
  }
  Lock lock;
  PlainDispatch plain;
  if (is_device(self) && is_device(from)) {
    enqueue_copy(self, from, "copy_");
  } else if (is_device(self)) {
    TORCH_CHECK(from.is_cpu(), "hpu: cannot copy from ", from.device());
    copy_host_to_device(self, from, non_blocking);
  } else {
    TORCH_CHECK(self.is_cpu(), "hpu: cannot copy to ", self.device());
    copy_device_to_host(self, from, non_blocking);
  }
  return self;
}

Tensor copy_from(const Tensor& self, const Tensor& destination, bool non_blocking) {
  Tensor target = destination;
  return copy_(target, self, non_blocking);
}

Tensor copy_from_and_resize(const Tensor& self, const Tensor& destination) {
  destination.resize_(self.sizes());
  return copy_from(self, destination, false);
}

at::Scalar local_scalar_dense(const Tensor& self) {
  Lock lock;
  PlainDispatch plain;
  auto& r = runtime();
  if (r.writes_pending(host_of(self))) {
    r.launch("item");
  }
  auto value = at::empty({1}, at::TensorOptions().dtype(self.dtype()).device(c10::kCPU));
  copy_device_to_host(value, self.as_strided({1}, {1}, self.storage_offset()), false);
  return at::_local_scalar_dense(value);
}

// ---------------------------------------------------------------------------------------------------------------------
// 9. Operators.  One boxed fallback serves every operator that has no kernel of its own above.

enum class Traffic { kAll, kGather, kScatter, kWriteOnly };

// What has to be known of an operator, worked out once from its schema.
struct OpInfo {
  std::string name; // without namespace and ".out": "index_select"
  uint64_t id = 0; // of the whole name with overload
  bool view = false;
  bool moves_only = false; // only moves elements: may run on other types of the same width
  bool seeded = false;
  bool index_list_to_device = false; // index/index_put take CPU indices
  bool counts_index_copies = false;
  bool inferable = true; // results are tensors or nothing
  Traffic traffic = Traffic::kAll;
  int generator_arg = -1;
  int index_arg = -1, dim_arg = -1, source_arg = -1;
  enum class Index { kNone, kSelect, kCopy } index = Index::kNone;
  std::vector<int> write_args;
  std::vector<bool> out_args; // kwarg-only outputs, by argument
  std::vector<int> return_args; // the argument that a result is, or -1
};

const std::unordered_set<std::string>& movement_ops() {
  static const auto* names = new std::unordered_set<std::string>{
      "index_select", "index_copy", "index_copy_", "index", "_index_put_impl_", "index_put_", "index_put", "gather",
      "scatter", "scatter_", "cat", "_cat", "stack", "_stack", "take", "repeat", "roll", "flip", "embedding", "tril",
      "triu", "masked_select", "unfold_copy", "repeat_interleave", "index_fill_", "slice_scatter", "select_scatter"};
  return *names;
}

int find_arg(const c10::FunctionSchema& schema, const char* name) {
  return schema.argumentIndexWithName(name).value_or(-1);
}

std::unique_ptr<OpInfo> describe_op(const OperatorHandle& op) {
  const auto& schema = op.schema();
  auto info = std::make_unique<OpInfo>();
  const auto separator = schema.name().find("::");
  info->name = schema.name().substr(separator == std::string::npos ? 0 : separator + 2);
  if (schema.name().rfind("aten::", 0) != 0) {
    info->name = schema.name();
  }
  info->id = std::hash<std::string>()(schema.name() + "." + schema.overload_name());
  info->seeded = op.hasTag(at::Tag::nondeterministic_seeded);
  info->moves_only = movement_ops().count(info->name) != 0;
  const auto& arguments = schema.arguments();
  info->out_args.resize(arguments.size());
  for (int i = 0; i < static_cast<int>(arguments.size()); ++i) {
    const auto& argument = arguments[i];
    if (argument.alias_info() && argument.alias_info()->isWrite()) {
      info->write_args.push_back(i);
      info->out_args[i] = argument.kwarg_only();
    }
    auto type = argument.type();
    if (auto optional = type->cast<c10::OptionalType>()) {
      type = optional->getElementType();
    }
    if (type->kind() == c10::TypeKind::GeneratorType) {
      info->generator_arg = i;
    }
  }
  for (const auto& result : schema.returns()) {
    int argument = -1;
    if (const auto* alias_info = result.alias_info()) {
      for (int i = 0; i < static_cast<int>(arguments.size()); ++i) {
        const auto* other = arguments[i].alias_info();
        if (other && other->isWrite() && alias_info->isWrite() && other->beforeSets() == alias_info->beforeSets()) {
          argument = i;
        }
      }
      info->view = info->view || !alias_info->isWrite();
    }
    const auto kind = result.type()->kind();
    const bool tensors = kind == c10::TypeKind::TensorType ||
        (kind == c10::TypeKind::ListType && result.type()->containedType(0)->kind() == c10::TypeKind::TensorType);
    info->inferable = info->inferable && tensors;
    info->return_args.push_back(argument);
  }
  static const std::unordered_set<std::string> gathers{"index_select", "index", "gather", "take", "embedding"};
  static const std::unordered_set<std::string> scatters{
      "index_copy", "index_copy_", "index_add", "index_add_", "_index_put_impl_", "index_put_", "scatter", "scatter_",
      "index_reduce", "index_reduce_"};
  static const std::unordered_set<std::string> fills{"fill_", "zero_", "zero", "fill", "arange", "normal_", "uniform_"};
  if (gathers.count(info->name)) {
    info->traffic = Traffic::kGather;
  } else if (scatters.count(info->name)) {
    info->traffic = Traffic::kScatter;
  } else if (fills.count(info->name)) {
    info->traffic = Traffic::kWriteOnly;
  }
  info->index_arg = find_arg(schema, "index");
  info->dim_arg = find_arg(schema, "dim");
  for (const char* name : {"source", "src", "values"}) {
    info->source_arg = std::max(info->source_arg, find_arg(schema, name));
  }
  if (info->name == "index_select") {
    info->index = OpInfo::Index::kSelect;
  } else if (info->name.rfind("index_copy", 0) == 0 || info->name.rfind("index_reduce", 0) == 0) {
    info->index = OpInfo::Index::kCopy;
  }
  info->index_list_to_device = info->name == "index" || info->name == "_index_put_impl_" || info->name == "index_put_";
  // index is structured: its shape inference has already moved (and counted) the indices.
  info->counts_index_copies = info->index_list_to_device && info->name != "index";
  return info;
}

const OpInfo& info_of(const OperatorHandle& op) {
  static auto* table = new ska::flat_hash_map<const c10::FunctionSchema*, std::unique_ptr<OpInfo>>;
  auto& slot = (*table)[&op.schema()];
  if (!slot) {
    slot = describe_op(op);
  }
  return *slot;
}

// Calls fn(tensor) for every defined tensor in an argument.
template <class Fn>
void for_each_tensor(const IValue& value, Fn fn) {
  if (value.isTensor()) {
    const auto& tensor = value.toTensor();
    if (tensor.defined()) {
      fn(tensor);
    }
  } else if (value.isTensorList()) {
    for (const Tensor& tensor : value.toTensorVector()) {
      fn(tensor);
    }
  } else if (value.isOptionalTensorList()) {
    for (const auto& tensor : value.toOptionalTensorVector()) {
      if (tensor && tensor->defined()) {
        fn(*tensor);
      }
    }
  }
}

// The argument with every tensor replaced by fn(tensor).
template <class Fn>
IValue map_tensors(const IValue& value, Fn fn) {
  if (value.isTensor()) {
    const auto& tensor = value.toTensor();
    return tensor.defined() ? IValue(fn(tensor)) : value;
  }
  if (value.isTensorList()) {
    c10::List<Tensor> list;
    for (const Tensor& tensor : value.toTensorVector()) {
      list.push_back(fn(tensor));
    }
    return list;
  }
  if (value.isOptionalTensorList()) {
    c10::List<std::optional<Tensor>> list;
    for (const auto& tensor : value.toOptionalTensorVector()) {
      list.push_back(tensor && tensor->defined() ? std::optional<Tensor>(fn(*tensor)) : std::nullopt);
    }
    return list;
  }
  return value;
}

void mix_value(Hash& hash, const IValue& value) {
  if (value.isInt()) {
    hash.mix(uint64_t{1});
    hash.mix(static_cast<uint64_t>(value.toInt()));
  } else if (value.isNone()) {
    hash.mix(uint64_t{2});
  } else if (value.isBool()) {
    hash.mix(value.toBool() ? uint64_t{4} : uint64_t{3});
  } else if (value.isDouble()) {
    hash.mix(uint64_t{5});
    hash.mix(bits_of(value.toDouble()));
  } else if (value.isIntList()) {
    hash.mix(at::IntArrayRef(value.toIntVector()));
  } else if (value.isComplexDouble()) {
    const auto z = value.toComplexDouble();
    hash.mix(bits_of(z.real()));
    hash.mix(bits_of(z.imag()));
  } else if (value.isString()) {
    hash.mix(std::hash<std::string>()(value.toStringRef()));
  } else if (value.isDoubleList()) {
    hash.mix(uint64_t{6});
    for (double v : value.toDoubleVector()) {
      hash.mix(bits_of(v));
    }
  } else if (value.isList()) {
    hash.mix(uint64_t{7});
    hash.mix(value.toListRef().size());
    for (const auto& element : value.toListRef()) {
      mix_value(hash, element);
    }
  } else if (value.isDevice() || value.isGenerator()) {
    hash.mix(uint64_t{8});
  } else {
    std::ostringstream text;
    text << value;
    hash.mix(std::hash<std::string>()(text.str()));
  }
}

// Shapes, as PyTorch's Meta kernels give them, kept by signature: asking a Python meta kernel costs 80 us.
struct Shape {
  at::DimVector sizes, strides;
  ScalarType dtype = ScalarType::Undefined;
};

struct Inference {
  bool known = false; // false: depends on data, or there is no Meta kernel
  std::vector<std::vector<Shape>> results; // by return; one entry, or one for each element of a list
  std::vector<bool> is_list;
  std::vector<std::vector<Shape>> writes; // by OpInfo::write_args: the shapes that outputs will have
};

Shape shape_of(const Tensor& tensor) {
  return {at::DimVector(tensor.sizes()), at::DimVector(tensor.strides()), tensor.scalar_type()};
}

Inference infer(const OperatorHandle& op, const OpInfo& info, c10::ArrayRef<IValue> args) {
  Inference inference;
  if (!info.inferable) {
    return inference;
  }
  if (info.name == "index" && info.out_args.back()) {
    // index is structured: it comes with an output of the right shape, for which a boolean index has been through
    // nonzero already, and its Meta kernel cannot take one.
    inference.results.emplace_back();
    inference.is_list.push_back(false);
    inference.writes.push_back({shape_of(args.back().toTensor())});
    inference.known = true;
    return inference;
  }
  PlainDispatch plain;
  Stack stack;
  const auto to_meta = [](const Tensor& tensor) {
    if (!is_device(tensor)) {
      return tensor; // a 0-dim CPU tensor: its type category counts
    }
    auto meta = at::empty_strided(
        tensor.sizes(), tensor.strides(), at::TensorOptions().dtype(tensor.dtype()).device(c10::kMeta));
    if (tensor.unsafeGetTensorImpl()->is_wrapped_number()) {
      meta.unsafeGetTensorImpl()->set_wrapped_number(true);
    }
    return meta;
  };
  for (const auto& arg : args) {
    if (arg.isDevice() && arg.toDevice().type() == kDevice) {
      stack.emplace_back(c10::Device(c10::kMeta));
    } else if (arg.isGenerator()) {
      stack.emplace_back();
    } else {
      stack.push_back(map_tensors(arg, to_meta));
    }
  }
  const Stack metas = stack;
  try {
    op.redispatchBoxed(DispatchKeySet(DispatchKey::Meta), &stack);
  } catch (const std::exception&) {
    // No Meta kernel, a result that depends on data, or wrong arguments.  The CPU kernel, run at once, decides which.
    return inference;
  }
  for (const auto& result : stack) {
    inference.results.emplace_back();
    inference.is_list.push_back(result.isTensorList());
    for_each_tensor(result, [&](const Tensor& t) { inference.results.back().push_back(shape_of(t)); });
    if (!result.isTensorList() && inference.results.back().empty()) {
      return inference; // an undefined tensor
    }
  }
  for (int i : info.write_args) {
    inference.writes.emplace_back();
    for_each_tensor(metas[i], [&](const Tensor& t) { inference.writes.back().push_back(shape_of(t)); });
  }
  inference.known = true;
  return inference;
}

// The element type to run a data movement as, where the CPU has no kernel for the tensor's own.
std::optional<ScalarType> movement_type(const OpInfo& info, ScalarType type) {
  if (!info.moves_only) {
    return std::nullopt;
  }
  switch (type) {
    case ScalarType::Float8_e4m3fn:
    case ScalarType::Float8_e5m2:
    case ScalarType::Float8_e4m3fnuz:
    case ScalarType::Float8_e5m2fnuz:
    case ScalarType::Float8_e8m0fnu:
      return ScalarType::Byte;
    case ScalarType::UInt16:
      return ScalarType::Short;
    case ScalarType::UInt32:
      return ScalarType::Int;
    case ScalarType::UInt64:
      return ScalarType::Long;
    default:
      return std::nullopt;
  }
}

bool is_float8(ScalarType type) {
  return c10::isFloat8Type(type);
}

// What the device has no kernel for (bridge docs/Pytorch_Operators.rst:183,501-506); it falls back to the CPU there.
const char* unsupported(const OpInfo& info, c10::ArrayRef<IValue> args) {
  if (args.empty() || !args[0].isTensor() || !args[0].toTensor().defined()) {
    return nullptr;
  }
  const auto& self = args[0].toTensor();
  const auto type = self.scalar_type();
  if (info.name == "_index_put_impl_" || info.name == "index_put_") {
    return is_float8(type) || type == ScalarType::Char ? "index_put_ has no fp8 or int8 kernel" : nullptr;
  }
  if (info.name == "scatter" || info.name == "scatter_") {
    return is_float8(type) ? "scatter has no fp8 kernel" : nullptr;
  }
  if (info.name == "index_copy" || info.name == "index_copy_") {
    return type == ScalarType::Long ? "index_copy_ has no int64 kernel" : nullptr;
  }
  if (info.name == "index_select") {
    return self.dim() > 5 ? "index_select supports up to 5 dimensions" : nullptr;
  }
  return nullptr;
}

[[noreturn]] void mixed_devices(const OpInfo& info, const Tensor& tensor) {
  TORCH_CHECK(
      false, "Expected all tensors to be on the same device, but found at least two devices, hpu:0 and ",
      tensor.device(), "! (when checking arguments of ", info.name, ")");
}

// Makes out-of-range indices harmless, for rigs in which a runner pads with -1.  What the hardware does is not known.
void tolerate_indices(const OpInfo& info, Stack& args) {
  if (info.index == OpInfo::Index::kNone || info.index_arg < 0 || info.dim_arg < 0) {
    return;
  }
  const auto& self = args[0].toTensor();
  const auto& index = args[info.index_arg].toTensor();
  const int64_t length = self.dim() == 0 ? 1 : self.size(args[info.dim_arg].toInt());
  if (length > 0) {
    args[info.index_arg] =
        info.index == OpInfo::Index::kSelect ? index.clamp(0, length - 1) : index.remainder(length);
  }
}

// Runs the CPU kernel on aliases.
void run_on_cpu(const OperatorHandle& op, const OpInfo& info, Stack& stack, uint64_t seed) {
  PlainDispatch plain;
  if (runtime().options.tolerant_index) {
    tolerate_indices(info, stack);
  }
  if (info.generator_arg >= 0) {
    stack[info.generator_arg] = at::detail::createCPUGenerator(seed);
  }
  if (!info.seeded || info.generator_arg >= 0) {
    op.redispatchBoxed(DispatchKeySet(DispatchKey::CPU), &stack);
    return;
  }
  // A random operator without a generator argument draws from the CPU's default one: lend it ours for the call.
  auto cpu = at::detail::getDefaultCPUGenerator();
  const auto saved = cpu.get_state();
  cpu.set_current_seed(seed);
  try {
    op.redispatchBoxed(DispatchKeySet(DispatchKey::CPU), &stack);
  } catch (...) {
    cpu.set_state(saved);
    throw;
  }
  cpu.set_state(saved);
}

uint64_t draw_seed(const OpInfo& info, c10::ArrayRef<IValue> args) {
  if (!info.seeded && info.generator_arg < 0) {
    return 0;
  }
  auto generator = default_generator();
  if (info.generator_arg >= 0 && args[info.generator_arg].isGenerator()) {
    generator = args[info.generator_arg].toGenerator();
    TORCH_CHECK(
        generator.device().type() == kDevice, "Expected a 'hpu' device type for generator but found '",
        generator.device().type(), "'");
  }
  return at::check_generator<Generator>(generator)->draw();
}

void carry_as_int32(const Tensor& host) {
  if (host.scalar_type() == at::kLong) {
    host.copy_(host.to(at::kInt));
  }
}

Tensor wrap_view(const Tensor& base, const Tensor& view) {
  return new_view(base, view.sizes(), view.strides(), view.storage_offset(), view.dtype());
}

void run_view(const OperatorHandle& op, Stack* stack, size_t count) {
  Tensor base;
  Stack args(stack->end() - static_cast<ptrdiff_t>(count), stack->end());
  for (auto& arg : args) {
    for_each_tensor(arg, [&](const Tensor& t) {
      if (!base.defined() && is_device(t)) {
        base = t;
      }
    });
  }
  Stack cpu;
  for (const auto& arg : args) {
    cpu.push_back(map_tensors(arg, [](const Tensor& t) { return is_device(t) ? host_alias(t) : t; }));
  }
  {
    PlainDispatch plain;
    op.redispatchBoxed(DispatchKeySet(DispatchKey::CPU), &cpu);
  }
  torch::jit::drop(*stack, count);
  for (auto& result : cpu) {
    stack->push_back(map_tensors(result, [&](const Tensor& t) {
      TORCH_CHECK(
          t.storage().unsafeGetStorageImpl() == host_of(base) && place_of(base.storage()).distance == 0, "hpu emulator: ", op.schema().name(),
          " is declared a view, but returned other memory");
      return wrap_view(base, t);
    }));
  }
}

Tensor upload_result(const Tensor& host) {
  auto device = new_tensor(host.sizes(), host.strides(), host.scalar_type());
  host_alias(device).copy_(host);
  return device;
}

// Operators whose result depends on data, and those that fall back to the CPU: the pending work is launched and waited
// for, as on the device, and the operator runs now.
void run_now(const OperatorHandle& op, const OpInfo& info, Stack* stack, const Stack& args, const char* cause) {
  auto& r = runtime();
  const auto seed = draw_seed(info, args);
  r.launch(cause);
  r.run(current_stream);
  r.raise_device_error();
  r.traced("op", ",\"cause\":" + quoted(cause) + ",\"name\":" + quoted(info.name));
  Stack cpu;
  for (size_t i = 0; i < args.size(); ++i) {
    if (args[i].isDevice()) {
      cpu.emplace_back(c10::Device(c10::kCPU));
      continue;
    }
    cpu.push_back(map_tensors(args[i], [&](const Tensor& t) {
      if (!is_device(t)) {
        return t;
      }
      // An output may come back with another size, and an alias cannot be resized.
      return info.out_args[i] ? at::empty({0}, at::TensorOptions().dtype(t.dtype()).device(c10::kCPU))
                              : host_alias(t, movement_type(info, t.scalar_type()));
    }));
  }
  const Stack before = cpu;
  run_on_cpu(op, info, cpu, seed);
  PlainDispatch plain;
  for (int i : info.write_args) {
    if (!info.out_args[i] || !args[i].isTensor()) {
      continue;
    }
    const auto& out = args[i].toTensor();
    const auto& host = before[i].toTensor();
    if (out.sizes() != host.sizes()) {
      resize_(out, host.sizes(), std::nullopt);
    }
    host_alias(out).copy_(host);
  }
  torch::jit::drop(*stack, args.size());
  for (size_t i = 0; i < cpu.size(); ++i) {
    const int argument = info.return_args[i];
    if (argument >= 0) {
      stack->push_back(args[argument]);
      continue;
    }
    stack->push_back(map_tensors(cpu[i], [&](const Tensor& host) {
      const auto device = upload_result(host);
      // A movement that ran on another type of the same width: back to its own.
      if (info.moves_only && args[0].isTensor() && movement_type(info, args[0].toTensor().scalar_type()) ==
              std::optional<ScalarType>(host.scalar_type())) {
        return new_view(device, device.sizes(), device.strides(), 0, args[0].toTensor().dtype());
      }
      return device;
    }));
  }
}

int64_t traffic_of(const OpInfo& info, c10::ArrayRef<IValue> args, c10::ArrayRef<Tensor> outputs) {
  int64_t in = 0, out = 0, written = 0;
  for (const auto& t : outputs) {
    out += bytes_of(t);
  }
  for (size_t i = 0; i < args.size(); ++i) {
    if (!info.out_args[i]) {
      for_each_tensor(args[i], [&](const Tensor& t) { in += is_device(t) ? bytes_of(t) : 0; });
    }
  }
  for (int i : info.write_args) {
    for_each_tensor(args[i], [&](const Tensor& t) { written += bytes_of(t); });
  }
  switch (info.traffic) {
    case Traffic::kGather:
      return 2 * (out + written);
    case Traffic::kScatter: {
      int64_t moved = 0;
      if (info.source_arg >= 0) {
        for_each_tensor(args[info.source_arg], [&](const Tensor& t) { moved = bytes_of(t); });
      }
      return 2 * moved;
    }
    case Traffic::kWriteOnly:
      return out + written;
    case Traffic::kAll:
      break;
  }
  return in + out + written;
}

void fallback(const OperatorHandle& op, Stack* stack) {
  Lock lock;
  auto& r = runtime();
  const auto& info = info_of(op);
  const size_t count = op.schema().arguments().size();
  const auto first = stack->end() - static_cast<ptrdiff_t>(count);

  bool mixed = false;
  for (auto arg = first; arg != stack->end(); ++arg) {
    for_each_tensor(*arg, [&](const Tensor& t) { mixed = mixed || (!is_device(t) && t.dim() > 0); });
  }
  if (mixed) {
    for (auto arg = first; arg != stack->end(); ++arg) {
      const bool index_list = info.index_list_to_device && arg->isOptionalTensorList();
      for_each_tensor(*arg, [&](const Tensor& t) {
        if (!is_device(t) && t.dim() > 0 && !(index_list && t.is_cpu())) {
          mixed_devices(info, t);
        }
      });
      if (index_list) {
        *arg = map_tensors(*arg, [&](const Tensor& t) {
          if (is_device(t)) {
            return t;
          }
          const auto device = new_contiguous(t.sizes(), t.scalar_type());
          if (info.counts_index_copies) {
            copy_to_contiguous_device(device, t, /*non_blocking=*/false);
          } else {
            host_alias(device).copy_(t);
          }
          return device;
        });
      }
    }
  }
  if (info.view) {
    run_view(op, stack, count);
    return;
  }

  const Stack args(first, stack->end());
  if (r.options.strict != Options::kIgnore) {
    if (const char* reason = unsupported(info, args)) {
      TORCH_CHECK_NOT_IMPLEMENTED(r.options.strict != Options::kRaise, "hpu emulator: ", info.name, ": ", reason);
      ++r.counters.ops;
      ++r.counters.op_histogram[info.name];
      ++r.counters.cpu_fallback;
      ++r.counters.cpu_fallback_ops[info.name];
      run_now(op, info, stack, args, "cpu_fallback");
      return;
    }
  }

  Hash signature;
  signature.mix(info.id);
  c10::SmallVector<std::pair<const StorageImpl*, int64_t>, 8> operands;
  for (const auto& arg : args) {
    bool tensors = arg.isTensorList() || arg.isOptionalTensorList();
    for_each_tensor(arg, [&](const Tensor& t) {
      tensors = true;
      mix_tensor(signature, t);
      if (is_device(t)) {
        operands.emplace_back(host_of(t), t.storage_offset());
      } else if (t.unsafeGetTensorImpl()->is_wrapped_number()) {
        PlainDispatch plain;
        signature.mix(bits_of(t.item().toComplexDouble().real()));
        signature.mix(uint64_t{9});
      }
    });
    if (!tensors) {
      mix_value(signature, arg);
    }
  }

  static auto* inferences = new std::unordered_map<Hash, Inference, HashOfHash>;
  Hash key = signature;
  key.mix(static_cast<uint64_t>(c10::typeMetaToScalarType(at::get_default_dtype())));
  auto known = inferences->find(key);
  if (known == inferences->end()) {
    known = inferences->emplace(key, infer(op, info, args)).first;
  }
  const Inference& inference = known->second;
  if (!inference.known) {
    ++r.counters.dynamic_ops;
    ++r.counters.dynamic_op_names[info.name];
    r.gather(info.name, signature, operands, {}); // it is the last operator of the graph that it ends
    run_now(op, info, stack, args, "dynamic");
    return;
  }

  c10::SmallVector<const StorageImpl*, 4> written;
  for (size_t w = 0; w < info.write_args.size(); ++w) {
    size_t n = 0;
    for_each_tensor(args[info.write_args[w]], [&](const Tensor& t) {
      const auto& shape = inference.writes[w][n++];
      if (t.sizes() != at::IntArrayRef(shape.sizes)) {
        resize_(t, shape.sizes, std::nullopt);
        operands.emplace_back(host_of(t), t.storage_offset());
      }
      count_view_write(t);
      written.push_back(host_of(t));
    });
  }

  Stack results;
  std::vector<Tensor> outputs; // the new ones
  for (size_t i = 0; i < inference.results.size(); ++i) {
    if (info.return_args[i] >= 0) {
      results.push_back(args[info.return_args[i]]);
      continue;
    }
    c10::List<Tensor> list;
    for (const auto& shape : inference.results[i]) {
      outputs.push_back(new_tensor(shape.sizes, shape.strides, shape.dtype));
      written.push_back(host_of(outputs.back()));
      operands.emplace_back(host_of(outputs.back()), 0);
      if (inference.is_list[i]) {
        list.push_back(outputs.back());
      } else {
        results.emplace_back(outputs.back());
      }
    }
    if (inference.is_list[i]) {
      results.emplace_back(list);
    }
  }
  r.counters.device_traffic_bytes += traffic_of(info, args, outputs);
  if (r.tracing) {
    std::ostringstream text;
    text << info.name << "(";
    for (const auto& arg : args) {
      if (arg.isTensor()) {
        text << describe(arg.toTensor()) << ", ";
      } else if (arg.isTensorList()) {
        text << "[" << arg.toTensorVector().size() << " tensors], ";
      } else if (arg.isInt() || arg.isDouble() || arg.isBool() || arg.isIntList()) {
        text << arg << ", ";
      }
    }
    text << "); ";
    r.graph.text += text.str();
  }

  Stack cpu;
  cpu.reserve(args.size());
  for (const auto& arg : args) {
    if (arg.isDevice()) {
      cpu.emplace_back(c10::Device(c10::kCPU));
      continue;
    }
    cpu.push_back(map_tensors(arg, [&](const Tensor& t) {
      if (is_device(t)) {
        return host_alias(t, movement_type(info, t.scalar_type()));
      }
      // A 0-dim CPU tensor is read now.  A wrapped Python number belongs to nobody else and needs no copy.
      return t.unsafeGetTensorImpl()->is_wrapped_number() ? t : t.clone();
    }));
  }
  std::vector<Tensor> targets;
  targets.reserve(outputs.size());
  for (const auto& t : outputs) {
    targets.push_back(host_alias(t, movement_type(info, t.scalar_type())));
  }
  const auto seed = draw_seed(info, args);
  r.enqueue(
      info.name, signature, operands, written,
      [op, &info, cpu = std::move(cpu), targets = std::move(targets), seed]() mutable {
        Stack call = std::move(cpu);
        std::vector<Tensor> in_place;
        const bool narrow = runtime().options.int64_as_int32;
        if (narrow) {
          for (int i : info.write_args) {
            for_each_tensor(call[i], [&](const Tensor& t) { in_place.push_back(t); });
          }
        }
        run_on_cpu(op, info, call, seed);
        PlainDispatch plain;
        size_t n = 0;
        for (size_t i = 0; i < call.size(); ++i) {
          if (info.return_args[i] < 0) {
            for_each_tensor(call[i], [&](const Tensor& t) {
              TORCH_CHECK(
                  n < targets.size() && targets[n].sizes() == t.sizes(), "hpu emulator: ", info.name,
                  " did not return the shape that its Meta kernel announced");
              targets[n++].copy_(t);
            });
          }
        }
        if (narrow) {
          std::for_each(targets.begin(), targets.end(), carry_as_int32);
          std::for_each(in_place.begin(), in_place.end(), carry_as_int32);
        }
      });
  torch::jit::drop(*stack, count);
  stack->insert(stack->end(), results.begin(), results.end());
}

// Convolution has one entry for devices that PyTorch does not know: it runs as the general operator.
void convolution(const OperatorHandle& /*op*/, Stack* stack) {
  static const auto general = c10::Dispatcher::singleton().findSchemaOrThrow("aten::convolution", "");
  fallback(general, stack);
}

void convolution_backward(const OperatorHandle& /*op*/, Stack* stack) {
  static const auto general = c10::Dispatcher::singleton().findSchemaOrThrow("aten::convolution_backward", "");
  // (grad_output, input, weight, stride, padding, dilation, transposed, output_padding, groups, output_mask); the
  // general operator takes the bias's sizes after the weight.
  const auto first = stack->end() - 10;
  const auto& weight = first[2].toTensor();
  const bool transposed = first[6].toBool();
  const int64_t channels = transposed ? weight.size(1) * first[8].toInt() : weight.size(0);
  stack->insert(first + 3, IValue(c10::List<int64_t>({channels})));
  fallback(general, stack);
}

// Autocast with the bridge's default lists (hpu_ops/autocast_helpers.h:34-125).  Its third list, of operators that run in
// the widest type of their arguments, is what type promotion does anyway.
void autocast(const OperatorHandle& op, Stack* stack) {
  enum class Cast { kNone, kLower, kLowerFirst, kFloat };
  static const std::unordered_set<std::string> lower{
      "addmm", "addbmm", "baddbmm", "bmm", "conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d",
      "conv_transpose3d", "dot", "dropout", "feature_dropout", "leaky_relu", "linear", "matmul", "mean", "mm", "mul",
      "mv", "softmax", "log_softmax", "scaled_dot_product_attention"};
  static const std::unordered_set<std::string> lower_first{"layer_norm", "group_norm", "instance_norm", "batch_norm"};
  static const std::unordered_set<std::string> full{
      "acos", "addcdiv", "asin", "atan2", "bilinear", "binary_cross_entropy", "binary_cross_entropy_with_logits",
      "cdist", "cosh", "cosine_embedding_loss", "cosine_similarity", "cross_entropy_loss", "dist", "div", "divide",
      "embedding", "embedding_bag", "erfinv", "exp", "expm1", "hinge_embedding_loss", "huber_loss", "kl_div", "l1_loss",
      "log", "log10", "log1p", "log2", "logsumexp", "margin_ranking_loss", "mse_loss", "multi_margin_loss",
      "multilabel_margin_loss", "nll_loss", "pdist", "poisson_nll_loss", "pow", "reciprocal", "renorm", "rsqrt", "sinh",
      "smooth_l1_loss", "soft_margin_loss", "softplus", "tan", "topk", "triplet_margin_loss", "true_divide"};
  static auto* casts = new ska::flat_hash_map<const c10::FunctionSchema*, Cast>;
  c10::impl::ExcludeDispatchKeyGuard no_autocast(DispatchKey::AutocastHPU);
  const auto& schema = op.schema();
  Cast cast;
  {
    Lock lock;
    auto known = casts->find(&schema);
    if (known == casts->end()) {
      const auto name = schema.name().substr(schema.name().find("::") + 2);
      const bool writes = schema.is_mutable();
      const auto found = writes ? Cast::kNone
          : lower.count(name)   ? Cast::kLower
          : lower_first.count(name) ? Cast::kLowerFirst
          : full.count(name)    ? Cast::kFloat
                                : Cast::kNone;
      known = casts->emplace(&schema, found).first;
    }
    cast = known->second;
  }
  if (cast != Cast::kNone) {
    const auto type = cast == Cast::kFloat ? at::kFloat : at::autocast::get_autocast_dtype(kDevice);
    const auto count = static_cast<ptrdiff_t>(schema.arguments().size());
    const auto last = cast == Cast::kLowerFirst ? stack->end() - count + 1 : stack->end();
    for (auto arg = stack->end() - count; arg != last; ++arg) {
      *arg = map_tensors(*arg, [&](const Tensor& t) {
        const bool eligible = is_device(t) && t.is_floating_point() && t.scalar_type() != at::kDouble;
        return eligible && t.scalar_type() != type ? t.to(type) : t;
      });
    }
  }
  op.callBoxed(stack);
}

// ---------------------------------------------------------------------------------------------------------------------
// 10. Registration.

void check_index(c10::Device device) {
  // One device per process: backend/habana_device/HPUGuardImpl.h:41-52.
  TORCH_CHECK(device.index() <= 0, "habana active device: ", static_cast<int>(device.index()), " != 0");
}

struct Guard final : c10::impl::DeviceGuardImplInterface {
  c10::DeviceType type() const override {
    return kDevice;
  }
  c10::Device exchangeDevice(c10::Device device) const override {
    check_index(device);
    return current_device();
  }
  c10::Device getDevice() const override {
    return current_device();
  }
  void setDevice(c10::Device device) const override {
    check_index(device);
  }
  void uncheckedSetDevice(c10::Device /*device*/) const noexcept override {}
  c10::Stream getStream(c10::Device /*device*/) const noexcept override {
    return stream(current_stream);
  }
  c10::Stream getDefaultStream(c10::Device /*device*/) const override {
    return stream(0);
  }
  c10::Stream getStreamFromGlobalPool(c10::Device device, bool /*high_priority*/) const override {
    return getNewStream(device, 0);
  }
  c10::Stream getNewStream(c10::Device device, int /*priority*/) const override {
    check_index(device);
    Lock lock;
    return stream(runtime().new_stream());
  }
  c10::Stream exchangeStream(c10::Stream next) const noexcept override {
    Lock lock;
    const auto previous = current_stream;
    runtime().set_stream(next.id());
    return stream(previous);
  }
  bool queryStream(const c10::Stream& s) const override {
    Lock lock;
    return runtime().query_stream(s.id());
  }
  void synchronizeStream(const c10::Stream& s) const override {
    Lock lock;
    runtime().synchronize_stream(s.id());
  }
  void recordDataPtrOnStream(const c10::DataPtr& /*data*/, const c10::Stream& /*stream*/) const override {}
  void synchronizeDevice(c10::DeviceIndex /*index*/) const override {
    Lock lock;
    runtime().synchronize();
  }
  c10::DeviceIndex deviceCount() const noexcept override {
    return 1;
  }
  void record(void** event, const c10::Stream& s, c10::DeviceIndex /*index*/, c10::EventFlag /*flag*/) const override {
    Lock lock;
    if (!*event) {
      *event = new Event;
    }
    runtime().record_event(*static_cast<Event*>(*event), s.id());
  }
  void block(void* event, const c10::Stream& s) const override {
    Lock lock;
    if (event) {
      runtime().wait_event(*static_cast<Event*>(event), s.id());
    }
  }
  bool queryEvent(void* event) const override {
    Lock lock;
    return !event || runtime().query_event(*static_cast<Event*>(event));
  }
  void synchronizeEvent(void* event) const override {
    Lock lock;
    if (event) {
      runtime().synchronize_event(*static_cast<Event*>(event));
    }
  }
  void destroyEvent(void* event, c10::DeviceIndex /*index*/) const noexcept override {
    delete static_cast<Event*>(event);
  }
  double elapsedTime(void* start, void* end, c10::DeviceIndex /*index*/) const override {
    Lock lock;
    const auto finish = [](void* event) {
      TORCH_CHECK(
          event && static_cast<Event*>(event)->record,
          "Both events must be recorded before calculating elapsed time.");
      const auto& recorded = *static_cast<Event*>(event);
      runtime().run(recorded.stream, recorded.sequence);
      return recorded.record->time;
    };
    const auto first = finish(start);
    return std::chrono::duration<double, std::milli>(finish(end) - first).count();
  }

 private:
  static c10::Stream stream(int64_t id) {
    return c10::Stream(c10::Stream::UNSAFE, current_device(), id);
  }
};

} // namespace
} // namespace hpu_emulator

namespace at {

// PyTorch looks the hooks up by this very class name; with another one everything half-works.
struct HPUHooks final : HPUHooksInterface {
  explicit HPUHooks(HPUHooksArgs /*args*/) {}
  void init() const override {}
  bool hasHPU() const override {
    return true;
  }
  bool isBuilt() const override {
    return true;
  }
  bool isAvailable() const override {
    return true;
  }
  bool hasPrimaryContext(DeviceIndex index) const override {
    return index <= 0;
  }
  DeviceIndex deviceCount() const override {
    return 1;
  }
  DeviceIndex getCurrentDevice() const override {
    return 0;
  }
  void setCurrentDevice(DeviceIndex index) const override {
    hpu_emulator::check_index({kHPU, index});
  }
  DeviceIndex exchangeDevice(DeviceIndex index) const override {
    hpu_emulator::check_index({kHPU, index});
    return 0;
  }
  DeviceIndex maybeExchangeDevice(DeviceIndex index) const override {
    return exchangeDevice(index);
  }
  bool isPinnedPtr(const void* data) const override {
    return hpu_emulator::pinned_blocks().contains(data);
  }
  Allocator* getPinnedMemoryAllocator() const override {
    return &hpu_emulator::pinned_allocator;
  }
  Device getDeviceFromPtr(void* /*data*/) const override {
    return hpu_emulator::current_device();
  }
  const Generator& getDefaultGenerator(DeviceIndex index) const override {
    hpu_emulator::check_index({kHPU, index});
    return hpu_emulator::default_generator();
  }
  Generator getNewGenerator(DeviceIndex index) const override {
    hpu_emulator::check_index({kHPU, index});
    return make_generator<hpu_emulator::Generator>();
  }
};

REGISTER_HPU_HOOKS(HPUHooks);

} // namespace at

namespace hpu_emulator {
namespace {

C10_REGISTER_GUARD_IMPL(HPU, Guard);

const bool allocator_registered = [] {
  c10::SetAllocator(kDevice, &device_allocator);
  return true;
}();

TORCH_LIBRARY_IMPL(_, HPU, m) {
  m.fallback(torch::CppFunction::makeFromBoxedFunction<&fallback>());
}

TORCH_LIBRARY_IMPL(_, AutocastHPU, m) {
  m.fallback(torch::CppFunction::makeFromBoxedFunction<&autocast>());
}

TORCH_LIBRARY_IMPL(aten, HPU, m) {
  m.impl("empty.memory_format", TORCH_FN(empty_memory_format));
  m.impl("empty_strided", TORCH_FN(empty_strided));
  m.impl("as_strided", TORCH_FN(as_strided));
  m.impl("copy_", TORCH_FN(copy_));
  m.impl("_copy_from", TORCH_FN(copy_from));
  m.impl("_copy_from_and_resize", TORCH_FN(copy_from_and_resize));
  m.impl("_local_scalar_dense", TORCH_FN(local_scalar_dense));
  m.impl("resize_", TORCH_FN(resize_));
  m.impl("set_.source_Storage", TORCH_FN(set_storage));
  m.impl("set_.source_Storage_storage_offset", TORCH_FN(set_storage_offset));
  m.impl("set_.source_Tensor", TORCH_FN(set_tensor));
  m.impl("set_", TORCH_FN(set_nothing));
  m.impl("record_stream", TORCH_FN(record_stream));
  m.impl("convolution_overrideable", torch::CppFunction::makeFromBoxedFunction<&convolution>());
  m.impl("convolution_backward_overrideable", torch::CppFunction::makeFromBoxedFunction<&convolution_backward>());
  // PyTorch would compose these of smaller operators for a device that it does not know; the device has kernels.
  m.impl("native_layer_norm", torch::CppFunction::makeFromBoxedFunction<&fallback>());
  m.impl("native_group_norm", torch::CppFunction::makeFromBoxedFunction<&fallback>());
}

void set_option(const std::string& name, int64_t value) {
  Lock lock;
  auto& options = runtime().options;
  if (name == "lazy") {
    options.lazy = value != 0;
  } else if (name == "schedule") {
    runtime().launch("synchronize");
    runtime().run_all();
    options.schedule = static_cast<Options::Schedule>(value);
  } else if (name == "strict") {
    options.strict = static_cast<Options::Strict>(value);
  } else if (name == "noncontiguous_d2h") {
    options.noncontiguous_d2h = static_cast<Options::NonContiguous>(value);
  } else if (name == "poison") {
    poison_enabled = value != 0;
  } else if (name == "int64_as_int32") {
    options.int64_as_int32 = value != 0;
  } else if (name == "tolerant_index") {
    options.tolerant_index = value != 0;
  } else if (name == "signature_offsets") {
    options.signature_offsets = value != 0;
  } else if (name == "eager_stream_join") {
    options.eager_stream_join = value != 0;
  } else {
    TORCH_CHECK(false, "hpu emulator: unknown option ", name);
  }
}

std::string read_counters() {
  Lock lock;
  return json(runtime().counters);
}

void reset_counters(bool signatures) {
  Lock lock;
  runtime().reset(signatures);
}

void set_tracing(bool on) {
  Lock lock;
  runtime().tracing = on;
}

std::string take_trace() {
  Lock lock;
  std::string out = "[";
  for (const auto& event : runtime().trace) {
    out += (out.size() > 1 ? "," : "") + event;
  }
  runtime().trace.clear();
  return out + "]";
}

void synchronize() {
  Lock lock;
  runtime().synchronize();
}

void mark_step(bool wait) {
  Lock lock;
  runtime().mark_step();
  if (wait) {
    runtime().run(current_stream);
    runtime().raise_device_error();
  }
}

int64_t pending() {
  Lock lock;
  return runtime().pending();
}

std::vector<int64_t> memory_stats() {
  const auto& m = memory();
  return {m.live, m.peak, m.allocations, m.frees, m.largest, m.total_allocations, m.total_frees};
}

void reset_peak_memory() {
  memory().peak = memory().live.load();
}

void reset_accumulated_memory() {
  memory().allocations = 0;
  memory().frees = 0;
}

double elapsed_time(int64_t start, int64_t end) {
  const auto* guard = c10::impl::getDeviceGuardImpl(kDevice);
  return guard->elapsedTime(reinterpret_cast<void*>(start), reinterpret_cast<void*>(end), 0);
}

at::Generator get_default_generator() {
  return default_generator();
}

TORCH_LIBRARY(hpu_emulator, m) {
  m.def("set_option(str name, int value) -> ()", &set_option);
  m.def("counters() -> str", &read_counters);
  m.def("reset_counters(bool signatures) -> ()", &reset_counters);
  m.def("set_tracing(bool on) -> ()", &set_tracing);
  m.def("take_trace() -> str", &take_trace);
  m.def("synchronize() -> ()", &synchronize);
  m.def("mark_step(bool wait) -> ()", &mark_step);
  m.def("pending() -> int", &pending);
  m.def("memory_stats() -> int[]", &memory_stats);
  m.def("reset_peak_memory() -> ()", &reset_peak_memory);
  m.def("reset_accumulated_memory() -> ()", &reset_accumulated_memory);
  m.def("elapsed_time(int start, int end) -> float", &elapsed_time);
  m.def("default_generator() -> Generator?", &get_default_generator);
}

} // namespace
} // namespace hpu_emulator

#pragma once

#include "copies.h"
#include "cpu_kernel.h"
#include "inference.h"
#include "limits.h"
#include "lock.h"
#include "op_info.h"
#include "values.h"

#include <algorithm>
#include <iterator>
#include <sstream>
#include <unordered_map>
#include <utility>
#include <vector>

namespace hpu_emulator {

// One boxed fallback serves every operator without a kernel of its own.  It checks devices, handles views, infers
// shapes, makes the results, and hands a job to the scheduler.

[[noreturn]] inline void mixed_devices(const OpInfo& info, const Tensor& tensor) {
  TORCH_CHECK(
      false, "Expected all tensors to be on the same device, but found at least two devices, hpu:0 and ",
      tensor.device(), "! (when checking arguments of ", info.name, ")");
}

inline Tensor wrap_view(const Tensor& base, const Tensor& view) {
  return new_view(base, view.sizes(), view.strides(), view.storage_offset(), view.dtype());
}

inline void run_view(const OperatorHandle& op, Stack* stack, size_t count) {
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

inline Tensor upload_result(const Tensor& host) {
  auto device = new_tensor(host.sizes(), host.strides(), host.scalar_type());
  host_alias(device).copy_(host);
  return device;
}

// Runs an operator now, after launching the pending work and waiting for it, as on the device: for results that depend
// on data, and for CPU fallbacks.
inline void run_now(const OperatorHandle& op, const OpInfo& info, Stack* stack, const Stack& args, const char* cause) {
  auto& r = runtime();
  const auto seed = draw_seed(info, args);
  r.launch(cause);
  for (const auto& arg : args) {
    for_each_tensor(arg, [&](const Tensor& t) {
      if (is_device(t)) {
        r.land_on_device(host_of(t));
      }
    });
  }
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
      // The kernel may resize an output, but an alias cannot be resized.
      const auto bits = movement_type(info, t.scalar_type());
      const auto type = bits.value_or(t.scalar_type());
      return info.out_args[i] ? at::empty({0}, at::TensorOptions().dtype(type).device(c10::kCPU)) : host_alias(t, bits);
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
    host_alias(out, movement_type(info, out.scalar_type())).copy_(host);
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
      // A movement that ran as another type of the same width: restore its own type.
      if (info.moves_only && args[0].isTensor() && movement_type(info, args[0].toTensor().scalar_type()) ==
              std::optional<ScalarType>(host.scalar_type())) {
        return new_view(device, device.sizes(), device.strides(), 0, args[0].toTensor().dtype());
      }
      return device;
    }));
  }
}

inline int64_t traffic_of(const OpInfo& info, c10::ArrayRef<IValue> args, c10::ArrayRef<Tensor> outputs) {
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

// Raises PyTorch's usual error for arguments on several devices.  CPU scalars may be mixed with device tensors, and CPU
// tensors in the index list of index and index_put are moved to the device.
inline void settle_devices(const OpInfo& info, Stack::iterator first, Stack::iterator last) {
  bool mixed = false;
  for (auto arg = first; arg != last; ++arg) {
    for_each_tensor(*arg, [&](const Tensor& t) { mixed = mixed || (!is_device(t) && t.dim() > 0); });
  }
  if (!mixed) {
    return;
  }
  for (auto next = first; next != last; ++next) {
    auto& arg = *next;
    const bool index_list = info.takes_host_indices && arg.isOptionalTensorList();
    for_each_tensor(arg, [&](const Tensor& t) {
      if (!is_device(t) && t.dim() > 0 && !(index_list && t.is_cpu())) {
        mixed_devices(info, t);
      }
    });
    if (!index_list) {
      continue;
    }
    arg = map_tensors(arg, [&](const Tensor& t) {
      if (is_device(t)) {
        return t;
      }
      const auto device = new_contiguous(t.sizes(), t.scalar_type());
      if (info.name == "index") {
        host_alias(device).copy_(t); // structured: its shape inference has already moved and counted the indices
      } else {
        copy_to_contiguous_device(device, t, /*non_blocking=*/false);
      }
      return device;
    });
  }
}

using Operands = c10::SmallVector<std::pair<const StorageImpl*, int64_t>, 8>;

// Hashes name, attributes, types, sizes and strides; appends the device tensors among the arguments to `operands`.
inline Hash signature_of(const OpInfo& info, c10::ArrayRef<IValue> args, Operands& operands) {
  Hash signature;
  signature.mix(info.id);
  for (const auto& arg : args) {
    bool tensors = arg.isTensorList() || arg.isOptionalTensorList();
    for_each_tensor(arg, [&](const Tensor& t) {
      tensors = true;
      mix_tensor(signature, t);
      if (is_device(t)) {
        operands.emplace_back(host_of(t), t.storage_offset());
      } else if (t.unsafeGetTensorImpl()->is_wrapped_number()) {
        PlainDispatch plain;
        const auto value = t.item().toComplexDouble();
        signature.mix(bits_of(value.real()));
        signature.mix(bits_of(value.imag()));
        signature.mix(uint64_t{9});
      }
    });
    if (!tensors) {
      mix_value(signature, arg);
    }
  }
  return signature;
}

inline const Inference& infer_cached(
    const OperatorHandle& op,
    const OpInfo& info,
    c10::ArrayRef<IValue> args,
    Hash signature) {
  static auto* known = new std::unordered_map<Hash, Inference, HashOfHash>;
  // The default type matters: it is the result type of an integer division.
  signature.mix(static_cast<uint64_t>(c10::typeMetaToScalarType(at::get_default_dtype())));
  auto found = known->find(signature);
  if (found == known->end()) {
    found = known->emplace(signature, infer(op, info, args)).first;
  }
  return found->second;
}

// Prepares the written arguments: resizes outputs of another size now, since the shape is known.
inline void settle_written(
    const OpInfo& info,
    const Inference& inference,
    c10::ArrayRef<IValue> args,
    Operands& operands,
    c10::SmallVectorImpl<const StorageImpl*>& written) {
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
}

// Makes the results of a call that has not run yet; appends the new tensors to `outputs`.
inline Stack make_results(
    const OpInfo& info,
    const Inference& inference,
    c10::ArrayRef<IValue> args,
    std::vector<Tensor>& outputs) {
  Stack results;
  for (size_t i = 0; i < inference.results.size(); ++i) {
    if (info.return_args[i] >= 0) {
      results.push_back(args[info.return_args[i]]);
      continue;
    }
    c10::List<Tensor> list;
    for (const auto& shape : inference.results[i]) {
      outputs.push_back(new_tensor(shape.sizes, shape.strides, shape.dtype));
      if (inference.is_list[i]) {
        list.push_back(outputs.back());
      } else {
        results.emplace_back(outputs.back());
      }
    }
    if (inference.is_list[i]) {
      results.emplace_back(std::move(list));
    }
  }
  return results;
}

inline void trace_operator(const OpInfo& info, c10::ArrayRef<IValue> args) {
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
  runtime().graph.text += text.str();
}

// Converts the arguments for the CPU kernel, which runs later.
inline Stack host_arguments(const OpInfo& info, c10::ArrayRef<IValue> args) {
  Stack host;
  host.reserve(args.size());
  for (const auto& arg : args) {
    if (arg.isDevice()) {
      host.emplace_back(c10::Device(c10::kCPU));
      continue;
    }
    host.push_back(map_tensors(arg, [&](const Tensor& t) {
      if (is_device(t)) {
        return host_alias(t, movement_type(info, t.scalar_type()));
      }
      // A 0-dim CPU tensor is copied now.  A wrapped Python number has no other owner and needs no copy.
      return t.unsafeGetTensorImpl()->is_wrapped_number() ? t : t.clone();
    }));
  }
  return host;
}

constexpr const char* kAnnounced = "return the shape that its Meta kernel announced";

// Truncates int64 results to int32, as on the device, if so configured.
inline void carry_results(const OpInfo& info, const Stack& args, const std::vector<Tensor>& targets) {
  if (!runtime().options.int64_as_int32) {
    return;
  }
  PlainDispatch plain;
  std::for_each(targets.begin(), targets.end(), carry_as_int32);
  for (int i : info.write_args) {
    for_each_tensor(args[i], carry_as_int32);
  }
}

// Makes the job that runs the operator when the device reaches it.
inline Job make_job(const OperatorHandle& op, const OpInfo& info, Stack args, std::vector<Tensor> targets, uint64_t seed) {
  return [op, &info, args = std::move(args), targets = std::move(targets), seed]() {
    Stack call = args;
    if (info.into && targets.size() == 1) { // write directly into the result: large gathers need no second copy
      const auto sizes = targets[0].sizes().vec();
      call.emplace_back(targets[0]);
      run_on_cpu(*info.into, info, call, seed);
      TORCH_CHECK(targets[0].sizes() == sizes, "hpu emulator: ", info.name, " did not ", kAnnounced);
      carry_results(info, args, targets);
      return;
    }
    run_on_cpu(op, info, call, seed);
    PlainDispatch plain;
    size_t n = 0;
    for (size_t i = 0; i < call.size(); ++i) {
      if (info.return_args[i] < 0) {
        for_each_tensor(call[i], [&](const Tensor& t) {
          TORCH_CHECK(
              n < targets.size() && targets[n].sizes() == t.sizes(), "hpu emulator: ", info.name, " did not ", kAnnounced);
          targets[n++].copy_(t);
        });
      }
    }
    carry_results(info, args, targets);
  };
}

inline void fallback(const OperatorHandle& op, Stack* stack) {
  Lock lock;
  auto& r = runtime();
  const auto& info = info_of(op);
  const size_t count = op.schema().arguments().size();
  const auto first = stack->end() - static_cast<ptrdiff_t>(count);
  settle_devices(info, first, stack->end());
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
  Operands operands;
  const auto signature = signature_of(info, args, operands);
  const auto& inference = infer_cached(op, info, args, signature);
  if (!inference.known) {
    ++r.counters.dynamic_ops;
    ++r.counters.dynamic_op_names[info.name];
    r.gather(info.name, signature, operands, {}); // the operator ends the graph and is its last
    run_now(op, info, stack, args, "dynamic");
    return;
  }
  c10::SmallVector<const StorageImpl*, 4> written;
  settle_written(info, inference, args, operands, written);
  std::vector<Tensor> outputs;
  auto results = make_results(info, inference, args, outputs);
  std::vector<Tensor> targets;
  for (const auto& t : outputs) {
    written.push_back(host_of(t));
    operands.emplace_back(host_of(t), 0);
    targets.push_back(host_alias(t, movement_type(info, t.scalar_type())));
  }
  r.counters.device_traffic_bytes += traffic_of(info, args, outputs);
  if (r.tracing) {
    trace_operator(info, args);
  }
  r.enqueue(
      info.name, signature, operands, written,
      make_job(op, info, host_arguments(info, args), std::move(targets), draw_seed(info, args)));
  torch::jit::drop(*stack, count);
  stack->insert(stack->end(), std::make_move_iterator(results.begin()), std::make_move_iterator(results.end()));
}

} // namespace hpu_emulator

#pragma once

#include "generator.h"
#include "op_info.h"
#include "scheduler.h"

namespace hpu_emulator {

// Running an operator on the CPU aliases of its arguments.

// Makes out-of-range indices harmless, for runners that pad with -1.  The behaviour of the hardware is unknown.
inline void tolerate_indices(const OpInfo& info, Stack& args) {
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
inline void run_on_cpu(const OperatorHandle& op, const OpInfo& info, Stack& stack, uint64_t seed) {
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
  // A random operator without a generator argument uses the CPU's default generator: reseed that for the call.
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

inline uint64_t draw_seed(const OpInfo& info, c10::ArrayRef<IValue> args) {
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

inline void carry_as_int32(const Tensor& host) {
  if (host.scalar_type() == at::kLong) {
    host.copy_(host.to(at::kInt));
  }
}

} // namespace hpu_emulator

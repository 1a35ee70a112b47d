#pragma once

#include "op_info.h"

#include <optional>

namespace hpu_emulator {

// What the CPU, or the device, has no kernel for.

// The element type to run a data movement as, where the CPU has no kernel for the tensor's own.
inline std::optional<ScalarType> movement_type(const OpInfo& info, ScalarType type) {
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

inline bool is_float8(ScalarType type) {
  return c10::isFloat8Type(type);
}

// What the device has no kernel for (bridge docs/Pytorch_Operators.rst:183,501-506); it falls back to the CPU there.
inline const char* unsupported(const OpInfo& info, c10::ArrayRef<IValue> args) {
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

} // namespace hpu_emulator

#pragma once

#include "op_info.h"

#include <optional>
#include <string>
#include <unordered_map>

namespace hpu_emulator {

// Types without a kernel on the CPU or on the device.

// Returns the element type for a data movement if the CPU has no kernel for the tensor's own type.
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

// The columns of bridge docs/Pytorch_Operators.rst. int64 has none: on the device it is int32, unless
// PT_ENABLE_INT64_SUPPORT is set.
enum Kind : unsigned { kFloat = 1, kBFloat16 = 2, kHalf = 4, kFloat8 = 8, kInt = 16, kShort = 32, kByte = 64, kBool = 128, kAny = 255 };

inline unsigned kind_of(ScalarType type) {
  switch (type) {
    case ScalarType::Float:
      return kFloat;
    case ScalarType::BFloat16:
      return kBFloat16;
    case ScalarType::Half:
      return kHalf;
    case ScalarType::Int:
      return kInt;
    case ScalarType::Short:
      return kShort;
    case ScalarType::Char:
      return kByte;
    case ScalarType::Bool:
      return kBool;
    default:
      return is_float8(type) ? kFloat8 : kAny; // the table does not list other types
  }
}

// Returns the documented types of operators that move elements but have no kernel for some types: rows 164, 174, 182,
// 213-215, 252, 257, 280, 501-505, 547-551, 590-599 of the table.
inline const std::unordered_map<std::string, unsigned>& documented() {
  constexpr unsigned kPlain = kFloat | kBFloat16 | kHalf | kInt;
  static const auto* table = new std::unordered_map<std::string, unsigned>{
      {"_index_put_impl_", kFloat | kBFloat16 | kInt},
      {"index_put_", kFloat | kBFloat16 | kInt},
      {"scatter", kPlain | kByte | kBool},
      {"scatter_", kPlain | kByte | kBool},
      {"gather", kPlain | kShort | kByte | kBool},
      {"flip", kPlain | kShort | kByte | kBool},
      {"masked_scatter", kPlain | kByte | kBool},
      {"masked_scatter_", kPlain | kByte | kBool},
      {"masked_select", kFloat | kBFloat16 | kInt},
      {"take", kFloat | kBFloat16 | kInt},
      {"roll", kFloat | kBFloat16 | kFloat8 | kInt | kShort | kByte | kBool},
      {"repeat_interleave", kPlain | kByte | kBool}};
  return *table;
}

// Returns why the device has no kernel for this call and falls back to the CPU, else nullptr.
inline const char* unsupported(const OpInfo& info, c10::ArrayRef<IValue> args) {
  if (args.empty() || !args[0].isTensor() || !args[0].toTensor().defined()) {
    return nullptr;
  }
  const auto& self = args[0].toTensor();
  const auto type = self.scalar_type();
  const auto& table = documented();
  const auto row = table.find(info.name);
  if (row != table.end() && !(row->second & kind_of(type))) {
    return "the device has no kernel for this type";
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

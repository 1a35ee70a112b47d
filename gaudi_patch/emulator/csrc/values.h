#pragma once

#include "hash.h"
#include "types.h"

#include <functional>
#include <optional>
#include <sstream>
#include <string>

namespace hpu_emulator {

// The arguments of a boxed call.

// Calls fn(tensor) for every defined tensor in an argument.
template <class Fn>
inline void for_each_tensor(const IValue& value, Fn fn) {
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

// Returns the argument with every tensor replaced by fn(tensor).
template <class Fn>
inline IValue map_tensors(const IValue& value, Fn fn) {
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

inline void mix_value(Hash& hash, const IValue& value) {
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

} // namespace hpu_emulator

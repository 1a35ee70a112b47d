#pragma once

#include "types.h"

#include <ATen/core/dispatch/Dispatcher.h>
#include <c10/util/flat_hash_map.h>

#include <algorithm>
#include <memory>
#include <optional>
#include <string>
#include <unordered_set>
#include <vector>

namespace hpu_emulator {

enum class Traffic { kAll, kGather, kScatter, kWriteOnly };

// The properties of an operator, derived once from its schema.
struct OpInfo {
  std::string name; // without namespace and ".out": "index_select"
  uint64_t id = 0; // hash of the full name with overload
  bool view = false;
  bool moves_only = false; // only moves elements, so it may run as another type of the same width
  bool seeded = false;
  bool takes_host_indices = false; // index and index_put accept CPU tensors in their index list
  bool inferable = true; // all results are tensors
  Traffic traffic = Traffic::kAll;
  int generator_arg = -1;
  int index_arg = -1, dim_arg = -1, source_arg = -1;
  enum class Index { kNone, kSelect, kCopy } index = Index::kNone;
  std::vector<int> write_args;
  std::vector<bool> out_args; // kwarg-only outputs, by argument
  std::vector<int> return_args; // per result: the argument that it returns, or -1
  std::optional<OperatorHandle> into; // the overload that writes its only result into existing memory
};

inline const std::unordered_set<std::string>& movement_ops() {
  static const auto* names = new std::unordered_set<std::string>{
      "index_select", "index_copy", "index_copy_", "index", "_index_put_impl_", "index_put_", "index_put", "gather",
      "scatter", "scatter_", "cat", "_cat", "stack", "_stack", "take", "repeat", "roll", "flip", "embedding", "tril",
      "triu", "masked_select", "unfold_copy", "repeat_interleave", "index_fill_", "slice_scatter", "select_scatter"};
  return *names;
}

inline int find_arg(const c10::FunctionSchema& schema, const char* name) {
  return schema.argumentIndexWithName(name).value_or(-1);
}

// Returns `index_select.out` for `index_select`: the same arguments plus the output, with its own CPU kernel.
inline std::optional<OperatorHandle> overload_into(const c10::FunctionSchema& schema) {
  const auto& overload = schema.overload_name();
  const auto found = c10::Dispatcher::singleton().findSchema(
      {schema.name(), overload.empty() ? "out" : overload + "_out"});
  if (!found || !found->hasKernelForDispatchKey(DispatchKey::CPU)) {
    return std::nullopt;
  }
  const auto& given = schema.arguments();
  const auto& taken = found->schema().arguments();
  const bool same = taken.size() == given.size() + 1 && found->schema().returns().size() == 1 &&
      std::equal(given.begin(), given.end(), taken.begin(), [](const auto& one, const auto& other) {
                      return one.name() == other.name() && *one.type() == *other.type();
                    });
  return same ? found : std::nullopt;
}

inline std::unique_ptr<OpInfo> describe_op(const OperatorHandle& op) {
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
  const auto& returns = schema.returns();
  if (info->moves_only && info->write_args.empty() && returns.size() == 1 &&
      returns[0].type()->kind() == c10::TypeKind::TensorType) {
    info->into = overload_into(schema);
  }
  info->takes_host_indices = info->name == "index" || info->name == "_index_put_impl_" || info->name == "index_put_";
  return info;
}

inline const OpInfo& info_of(const OperatorHandle& op) {
  static auto* table = new ska::flat_hash_map<const c10::FunctionSchema*, std::unique_ptr<OpInfo>>;
  auto& slot = (*table)[&op.schema()];
  if (!slot) {
    slot = describe_op(op);
  }
  return *slot;
}

} // namespace hpu_emulator

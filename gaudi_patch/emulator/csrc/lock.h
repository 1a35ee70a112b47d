#pragma once

#include <dlfcn.h>

#include <mutex>

namespace hpu_emulator {

// Lock.  One recursive mutex guards the scheduler.  A thread must never wait for it while holding the GIL: its owner
// may be running a Python meta kernel or dropping the last reference to a tensor of Python's, and both need the GIL.
// Python functions are looked up with dlsym, so that one library serves every Python version.

inline std::recursive_mutex& mutex() {
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
      restore(state); // no thread waits for this mutex while holding the GIL, so this cannot deadlock
    }
  }
  ~Lock() {
    mutex().unlock();
  }
  Lock(const Lock&) = delete;
  Lock& operator=(const Lock&) = delete;
};

} // namespace hpu_emulator

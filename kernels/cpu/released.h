// The GIL, given back while a kernel runs.
#pragma once
#include <Python.h>

#include <atomic>
#include <chrono>
#include <thread>

// Set when the interpreter begins to end.
inline std::atomic<bool> ending{false};
inline const std::thread::id main_thread = std::this_thread::get_id();

// The GIL is free while this lives. nanobind's own cannot be used: a daemon thread that asks for the GIL when the
// interpreter has ended is killed inside a destructor, and the program with it. Such a thread waits here for the end.
class Released {
 public:
  Released() : state_(PyEval_SaveThread()) {}
  ~Released() {
    while (ending.load() && std::this_thread::get_id() != main_thread) std::this_thread::sleep_for(std::chrono::hours(1));
    PyEval_RestoreThread(state_);
  }
  Released(const Released&) = delete;

 private:
  PyThreadState* state_;
};

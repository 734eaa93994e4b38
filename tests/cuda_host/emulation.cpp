// SPDX-License-Identifier: Apache-2.0
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <vector>

#include "cuda/platform.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#endif

#if defined(__x86_64__)
// Keep what a called function must keep, change stacks, return on the other one. Unlike swapcontext it makes no system
// call, of which a run would make millions.
extern "C" void snnfast_switch_stacks(void** from, void* to);
asm(R"(
.text
.globl snnfast_switch_stacks
snnfast_switch_stacks:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
)");
#else
#include <ucontext.h>
#endif

namespace emulation {

Index thread_index, block_index, block_size;

namespace {

constexpr size_t kStack = 256 << 10;
constexpr int kWarp = 32;

[[noreturn]] void fail(const char* what) {
  std::fprintf(stderr, "emulation: %s\n", what);
  std::abort();
}

#if defined(__x86_64__)
using Context = void*;
void switch_to(Context& from, Context& to) { snnfast_switch_stacks(&from, to); }
void prepare(Context& context, char* stack, void (*entry)()) {
  void** top = reinterpret_cast<void**>((reinterpret_cast<uintptr_t>(stack) + kStack) & ~uintptr_t{15}) - 2;
  *top = reinterpret_cast<void*>(entry);  // where the first switch returns to
  context = top - 6;
}
#else
using Context = ucontext_t;
void switch_to(Context& from, Context& to) { swapcontext(&from, &to); }
void prepare(Context& context, char* stack, void (*entry)()) {
  getcontext(&context);
  context.uc_stack.ss_sp = stack;
  context.uc_stack.ss_size = kStack;
  context.uc_link = nullptr;
  makecontext(&context, entry, 0);
}
#endif

struct Fiber {
  Context context;
  std::unique_ptr<char[]> stack{new char[kStack]};
  bool done;
  int exchanges;  // so far
  void* fake_stack = nullptr;
};

// What the threads of a warp give each other. Two places in turn: nobody can be two exchanges ahead of another.
struct Warp {
  uint32_t values[2][kWarp];
  int arrived[2];
};

std::vector<std::unique_ptr<Fiber>> fibers;  // kept from block to block
std::vector<Warp> warps;
Context scheduler;
Fiber* running;
const std::function<void()>* kernel;
int live, at_barrier;
int64_t barriers_passed, switches_without_progress;
char* shared;

#if defined(__SANITIZE_ADDRESS__)
void* scheduler_fake_stack;
const void* scheduler_stack;
size_t scheduler_stack_size;
#endif

void resume(Fiber& f) {
  running = &f;
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_start_switch_fiber(&scheduler_fake_stack, f.stack.get(), kStack);
#endif
  switch_to(scheduler, f.context);
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(scheduler_fake_stack, nullptr, nullptr);
#endif
}

void back_to_scheduler(Fiber& f) {
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_start_switch_fiber(f.done ? nullptr : &f.fake_stack, scheduler_stack, scheduler_stack_size);
#endif
  switch_to(f.context, scheduler);
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(f.fake_stack, &scheduler_stack, &scheduler_stack_size);
#endif
}

void wait_a_turn() {
  if (++switches_without_progress > 4 * static_cast<int64_t>(fibers.size()))
    fail("threads wait for each other for ever");
  Fiber& self = *running;
  const Index index = thread_index;
  back_to_scheduler(self);
  thread_index = index;
}

void enter() {
  Fiber& self = *running;
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(nullptr, &scheduler_stack, &scheduler_stack_size);
#endif
  (*kernel)();
  self.done = true;
  --live;
  switches_without_progress = 0;
  back_to_scheduler(self);
}

}  // namespace

void run_block(int threads, size_t shared_bytes, const std::function<void()>& body) {
  if (threads < 1 || threads % kWarp != 0) fail("a block must be whole warps");
  block_size = {static_cast<unsigned>(threads), 1};
  // Exactly as many bytes as were asked for, and never zeros: a kernel must write what it reads.
  const std::unique_ptr<void, void (*)(void*)> memory(std::malloc(shared_bytes ? shared_bytes : 1), std::free);
  shared = static_cast<char*>(memory.get());
  for (size_t i = 0; i < shared_bytes; ++i) shared[i] = static_cast<char>(0xa5);
  while (fibers.size() < static_cast<size_t>(threads)) fibers.push_back(std::make_unique<Fiber>());
  warps.assign(static_cast<size_t>(threads / kWarp), Warp{});
  kernel = &body;
  live = threads;
  at_barrier = 0;
  switches_without_progress = 0;
  for (int i = 0; i < threads; ++i) {
    Fiber& f = *fibers[static_cast<size_t>(i)];
    prepare(f.context, f.stack.get(), enter);
    f.done = false;
    f.exchanges = 0;
  }
  while (live > 0) {
    for (int i = 0; i < threads; ++i) {
      Fiber& f = *fibers[static_cast<size_t>(i)];
      if (f.done) continue;
      thread_index = {static_cast<unsigned>(i), 0};
      resume(f);
    }
  }
}

void barrier() {
  const int64_t before = barriers_passed;
  switches_without_progress = 0;
  if (++at_barrier == live) {
    at_barrier = 0;
    ++barriers_passed;
  }
  while (barriers_passed == before) wait_a_turn();
}

const uint32_t* exchange(uint32_t value) {
  Warp& warp = warps[thread_index.x / kWarp];
  const int turn = running->exchanges++ % 2;
  warp.values[turn][thread_index.x % kWarp] = value;
  switches_without_progress = 0;
  if (++warp.arrived[turn] == kWarp) warp.arrived[1 - turn] = 0;
  while (warp.arrived[turn] < kWarp) wait_a_turn();
  return warp.values[turn];
}

void* shared_memory() { return shared; }

}  // namespace emulation

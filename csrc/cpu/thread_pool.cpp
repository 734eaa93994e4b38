// SPDX-License-Identifier: Apache-2.0
#include "cpu/thread_pool.h"

#include <pthread.h>
#include <sched.h>
#include <signal.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <exception>
#include <mutex>
#include <thread>
#include <vector>

namespace snnfast {
namespace {

int available_cores() {
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof set, &set) == 0) return std::max(1, CPU_COUNT(&set));
  return std::max(1u, std::thread::hardware_concurrency());
}

constexpr std::chrono::milliseconds kPollInterval{20};

// How many forks lie between this process and the one that first used a pool.
std::atomic<int> g_forks{0};

// New threads inherit which signals are blocked. Ours block all of them: signals are for the program's own threads, one
// of which may wait for one with all others blocked. But faults, which strike the thread that makes them, and which a
// program may have a handler for.
class BlockedSignals {
 public:
  BlockedSignals() {
    sigset_t all;
    sigfillset(&all);
    for (int fault : {SIGSEGV, SIGBUS, SIGFPE, SIGILL}) sigdelset(&all, fault);
    pthread_sigmask(SIG_SETMASK, &all, &before_);
  }
  ~BlockedSignals() { pthread_sigmask(SIG_SETMASK, &before_, nullptr); }
  BlockedSignals(const BlockedSignals&) = delete;
  BlockedSignals& operator=(const BlockedSignals&) = delete;

 private:
  sigset_t before_;
};

enum class Outcome { finished, stopped, forked };

class Pool {
 public:
  // Starts as many of the threads as the system allows.
  explicit Pool(int threads) {
    workers_.reserve(static_cast<size_t>(threads - 1));
    const BlockedSignals blocked;
    for (int i = 1; i < threads; ++i) {
      try {
        workers_.emplace_back([this] { work(); });
      } catch (const std::exception&) {  // no more threads, or no memory for one
        return;
      }
    }
  }

  ~Pool() {
    {
      std::lock_guard<std::mutex> lock(mutex_);
      closing_ = true;
    }
    wake_.notify_all();
    for (std::thread& worker : workers_) worker.join();
  }

  // Forked: this is the child of a fork that happened meanwhile, in a handler of signals. The workers do not exist
  // here, and a lock that one of them held stays locked.
  Outcome run(int64_t count, ItemFunction function, void* context, const Interrupt& interrupt) {
    const int forks = g_forks.load();
    {
      std::lock_guard<std::mutex> lock(mutex_);
      function_ = function;
      context_ = context;
      count_ = count;
      next_.store(0);
      stop_.store(false);
      open_ = true;
      ++generation_;
    }
    wake_.notify_all();
    take_items(function, context, count);
    if (g_forks.load() != forks) return Outcome::forked;
    std::unique_lock<std::mutex> lock(mutex_);
    // Nobody waits for workers that have not come yet: where other programs have the cores, that takes longer than all
    // the items together.
    open_ = false;
    while (!done_.wait_for(lock, kPollInterval, [this] { return active_ == 0; })) {
      lock.unlock();
      interrupt.poll(interrupt.context);
      if (g_forks.load() != forks) return Outcome::forked;
      lock.lock();
    }
    return stop_.load() ? Outcome::stopped : Outcome::finished;
  }

  size_t size() const { return workers_.size(); }

 private:
  void take_items(ItemFunction function, void* context, int64_t count) {
    while (!stop_.load(std::memory_order_relaxed)) {
      const int64_t i = next_.fetch_add(1);
      if (i >= count) break;
      if (!function(context, i)) stop_.store(true);
    }
  }

  void work() {
    uint64_t seen = 0;
    std::unique_lock<std::mutex> lock(mutex_);
    while (true) {
      wake_.wait(lock, [&] { return closing_ || (open_ && generation_ != seen); });
      if (closing_) return;
      seen = generation_;
      ++active_;
      const ItemFunction function = function_;
      void* const context = context_;
      const int64_t count = count_;
      lock.unlock();
      take_items(function, context, count);
      lock.lock();
      if (--active_ == 0) done_.notify_one();
    }
  }

  std::vector<std::thread> workers_;
  std::mutex mutex_;
  std::condition_variable wake_, done_;
  ItemFunction function_ = nullptr;
  void* context_ = nullptr;
  int64_t count_ = 0;
  uint64_t generation_ = 0;
  int active_ = 0;     // workers that take items
  bool open_ = false;  // for workers to come
  bool closing_ = false;
  std::atomic<int64_t> next_{0};
  std::atomic<bool> stop_{false};
};

// All of it is remade in the child of a fork: its threads do not exist there and its locks may be held for ever.
struct Shared {
  std::atomic<bool> busy{false};  // set by the one loop that runs
  Pool* pool = nullptr;
  int pool_threads = 0;
};

std::atomic<int> g_threads{0};
std::atomic<int64_t> g_parallel_loops{0};
Shared* g_shared = nullptr;

void after_fork_in_child() {
  g_shared = new Shared;  // the parent's is left alone on purpose: it cannot be closed
  g_forks.fetch_add(1);
}

Shared& shared() {
  static const bool once = [] {
    g_shared = new Shared;
    pthread_atfork(nullptr, nullptr, after_fork_in_child);
    return true;
  }();
  (void)once;
  return *g_shared;
}

bool run_alone(int64_t count, ItemFunction function, void* context) {
  for (int64_t i = 0; i < count; ++i) {
    if (!function(context, i)) return false;
  }
  return true;
}

}  // namespace

int num_threads() {
  int n = g_threads.load();
  if (n == 0) {
    n = available_cores();
    g_threads.store(n);
  }
  return n;
}

void set_num_threads(int n) { g_threads.store(std::max(1, n)); }

int64_t parallel_loops() { return g_parallel_loops.load(); }

bool parallel_for(int64_t count, ItemFunction function, void* context, const Interrupt& interrupt) {
  const int threads = num_threads();
  if (threads == 1 || count <= 1) return run_alone(count, function, context);
  Shared& common = shared();
  if (common.busy.exchange(true)) return run_alone(count, function, context);
  struct Release {
    std::atomic<bool>& busy;
    ~Release() { busy.store(false); }
  } release{common.busy};
  if (common.pool_threads != threads) {
    delete common.pool;
    common.pool = nullptr;
    common.pool_threads = 0;
    common.pool = new Pool(threads);
    common.pool_threads = threads;
  }
  if (common.pool->size() == 0) return run_alone(count, function, context);
  g_parallel_loops.fetch_add(1);
  const Outcome outcome = common.pool->run(count, function, context, interrupt);
  // The parent's workers have some of the items; items may be done twice.
  return outcome == Outcome::forked ? run_alone(count, function, context) : outcome == Outcome::finished;
}

}  // namespace snnfast

#include "cuda_emulator.h"

#include <stdexcept>
#include <string>
#include <vector>

// Puts the registers that a call keeps on this stack, and takes another stack's.
extern "C" void emulator_switch(void** from, void* to);
asm(R"(
.text
.hidden emulator_switch
.globl emulator_switch
emulator_switch:
  push %rbp
  push %rbx
  push %r12
  push %r13
  push %r14
  push %r15
  mov %rsp, (%rdi)
  mov %rsi, %rsp
  pop %r15
  pop %r14
  pop %r13
  pop %r12
  pop %rbx
  pop %rbp
  ret
)");

dim3 blockIdx, gridDim;

namespace pydelta {
// What the kernels' `extern __shared__` names, and some room behind it that must stay as it is.
alignas(128) float4 shared[(emulator::kMostShared + 8192) / sizeof(float4)];
}  // namespace pydelta

namespace emulator {
namespace {

constexpr size_t kStackBytes = 64 << 10;
constexpr int kSavedRegisters = 6;

std::vector<Fiber> fibers;
Barrier block_barrier, warp_barriers[kMostThreads / 32];
uint64_t words[kMostThreads / 32][2][32];
int current, live;
int idle;  // turns since a fiber last came to a barrier or ended
const std::function<void()>* body;
const char* failure;
void* launcher;

void choose_next() {
  do {
    current = (current + 1) % int(fibers.size());
  } while (fibers[current].done);
}

void yield() {
  if (++idle > int(fibers.size())) fail("threads wait at a barrier that others never reach");
  Fiber& from = self();
  choose_next();
  if (&self() != &from) emulator_switch(&from.stack, self().stack);
}

void enter() {
  (*body)();
  Fiber& from = self();
  from.done = true;
  idle = 0;
  if (--live == 0) emulator_switch(&from.stack, launcher);
  choose_next();
  emulator_switch(&from.stack, self().stack);
  __builtin_unreachable();
}

// A stack from which emulator_switch returns into enter, aligned as after a call.
void* fresh_stack(char* end) {
  const uintptr_t top = reinterpret_cast<uintptr_t>(end) & ~uintptr_t(63);
  void** address = reinterpret_cast<void**>(top) - 2;
  *address = reinterpret_cast<void*>(enter);
  return address - kSavedRegisters;
}

void run_block(int threads, size_t shared) {
  static std::vector<char> stacks(kMostThreads * kStackBytes);
  char* bytes = reinterpret_cast<char*>(pydelta::shared);
  memset(bytes, 0xff, sizeof(pydelta::shared));  // NaN
  block_barrier = {threads};
  for (Barrier& barrier : warp_barriers) barrier = {32};
  fibers.assign(threads, {});
  for (int t = 0; t < threads; ++t) {
    fibers[t].index = dim3(t, 0, 0);
    fibers[t].stack = fresh_stack(stacks.data() + (t + 1) * kStackBytes);
  }
  current = idle = 0;
  live = threads;
  failure = nullptr;
  emulator_switch(&launcher, fibers[0].stack);
  if (failure != nullptr) throw std::runtime_error(failure);
  const auto touched = [](char byte) { return byte != char(0xff); };
  if (std::any_of(bytes + shared, bytes + sizeof(pydelta::shared), touched)) {
    throw std::runtime_error("a block wrote beyond its " + std::to_string(shared) + " shared bytes");
  }
}

}  // namespace

Fiber& self() { return fibers[current]; }
Barrier& thread_block() { return block_barrier; }
Barrier& warp() { return warp_barriers[self().index.x / 32]; }

uint64_t* exchanged_words() {
  Fiber& fiber = self();
  return words[fiber.index.x / 32][fiber.parity ^= 1];
}

void wait(Barrier& barrier) {
  idle = 0;
  const unsigned generation = barrier.generation;
  if (++barrier.count == barrier.size) {
    barrier.count = 0;
    ++barrier.generation;
  }
  while (barrier.generation == generation) yield();
}

void fail(const char* message) {
  failure = message;
  emulator_switch(&self().stack, launcher);
  __builtin_unreachable();
}

void run(dim3 grid, dim3 block, size_t shared, const std::function<void()>& kernel) {
  if (block.x > kMostThreads || shared > size_t(kMostShared)) throw std::runtime_error("too large a block");
  body = &kernel;
  gridDim = grid;
  for (unsigned y = 0; y < grid.y; ++y) {
    for (unsigned x = 0; x < grid.x; ++x) {
      blockIdx = dim3(x, y);
      run_block(int(block.x), shared);
    }
  }
}

}  // namespace emulator

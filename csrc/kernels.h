// The kernels' contract: plain structs and pointers, no PyTorch, so that they can be tested alone.
//
// Letters   L time steps, B batch rows, N documents, D channels (directions times hidden size),
//           R rows of a state: N with documents, B without. IO: the tensors' element type;
//           S: the state's, double for double, float for the rest.
// Layout    contiguous, last dim fastest. With documents B = 1 and L counts all their steps.
// Absent    optional tensors are null pointers.
// Sharing   a kernel does share `part` of `parts`; the caller runs the shares, in threads or not.
//           What a share computes, and the order of every sum, depend on the shapes alone: results
//           are the same for any number of parts.
#pragma once

#include <cstdint>

namespace torchsru {

enum class Type : int32_t { f64, f32, bf16, f16 };

struct Shape {
  int64_t L, B, D, R;
  int32_t directions;       // 1 or 2; the upper half of D runs backward in time
  const bool* mask;         // [L, B] true at padding, or null
  const int64_t* documents; // [R + 1] bounds, rising from 0 to L, or null
};

struct SruArgs {
  Shape shape;
  Type type;
  int32_t k;            // 3, or 4 when u holds the highway input
  bool tanh, contractive, v_varies;
  double alpha;
  const void* u;        // IO [L, B, k, D]
  const void* x;        // IO [L, B, D] or null
  const void* v;        // S [2, D], [L, B, 2, D] if v_varies, or null
  const void* b;        // S [2, D] or null
  const void* c0;       // S [R, D] or null
  const void* out_mask; // S [R, D] or null
};

struct SruForward : SruArgs {
  void* h;      // IO [L, B, D]
  void* c_last; // S [R, D]
  void* c;      // S [L, B, D], or null for inference
};

struct SruBackward : SruArgs {
  const void* c;       // S [L, B, D], of every step
  const void* gh;      // IO [L, B, D]
  const void* gc_last; // S [R, D] or null
  void* gu;            // IO [L, B, k, D]
  void* gx;            // IO [L, B, D], null with x
  void* gv;            // S like v: written if v_varies, otherwise by sru_reduce; null with v
  void* gb;            // S [2, D], by sru_reduce; null with b
  void* gc0;           // S [R, D]; needed as scratch, even if c0 is null
  void* gout_mask;     // S [R, D], null with out_mask
  double* sums;        // [row_blocks(shape), 4, D] scratch: sums of gv_f, gv_r, gb_f, gb_r
};

struct LinearForward {
  Shape shape;
  Type type;
  const void* a;  // IO [L, B, D]
  const void* b;  // IO [L, B, D]
  const void* c0; // S [R, D] or null
  void* c;        // IO [L, B, D]
  void* c_last;   // S [R, D]
};

struct LinearBackward {
  Shape shape;
  Type type;
  const void* a;       // IO [L, B, D]
  const void* c;       // IO [L, B, D], the forward pass's output
  const void* c0;      // S [R, D] or null
  const void* gc;      // IO [L, B, D]
  const void* gc_last; // S [R, D] or null
  void* ga;            // IO [L, B, D]
  void* gb;            // IO [L, B, D]
  void* gc0;           // S [R, D]; needed as scratch, even if c0 is null
};

// One table per instruction set, filled by kernels.cpp.
struct Kernels {
  const char* name;
  void (*sru_forward)(const SruForward&, int64_t part, int64_t parts);
  void (*sru_backward)(const SruBackward&, int64_t part, int64_t parts);
  void (*sru_reduce)(const SruBackward&); // after every share of sru_backward is done
  void (*linear_forward)(const LinearForward&, int64_t part, int64_t parts);
  void (*linear_backward)(const LinearBackward&, int64_t part, int64_t parts);
  // y[i] = sigmoid(x[i]) or tanh(x[i]) as the kernels compute it, for the tests of its error
  void (*sigmoid_f32)(const float* x, float* y, int64_t n);
  void (*tanh_f32)(const float* x, float* y, int64_t n);
  // conversions as the kernels do them, for the tests of their rounding
  void (*f32_to_half)(Type type, const float* x, uint16_t* y, int64_t n);
  void (*half_to_f32)(Type type, const uint16_t* x, float* y, int64_t n);
};

// Static, as every object has its own instruction set: the linker must not share a copy.
// Rows whose sums are kept apart, so that threads can share the rows: a function of R alone.
static inline int64_t rows_per_block(const Shape& s) {
  return s.R / 16 > 1 ? s.R / 16 : 1;
}
static inline int64_t row_blocks(const Shape& s) {
  const int64_t rows = rows_per_block(s);
  return (s.R + rows - 1) / rows;
}

// The widest instruction set that this CPU has, or the one that TORCHSRU_ISA names.
// Throws std::runtime_error, naming variable, rule and value, if that one can't run here.
const Kernels& kernels();

// Units in the last place by which sigmoid_f32 and tanh_f32 may be off; the test reads them too.
constexpr double kSigmoidMaxUlp = 2.5;
constexpr double kTanhMaxUlp = 2.5;

} // namespace torchsru

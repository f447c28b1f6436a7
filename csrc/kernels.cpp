// SRU and linear recurrences on a CPU, forward and backward; compiled once per instruction set.
//
// Computes   eqs. (1)-(4) of arXiv 1709.02755 and c_t = a_t c_{t-1} + b_t
// Order      time outside, rows inside, columns innermost: memory is streamed, the state of the
//            rows at hand stays in the cache (it lives in the output that becomes the last state)
// Precision  loads and stores IO; computes and carries the state in S (double for double, else
//            float); sums over time and rows go through float for a few dozen steps, then double,
//            but out_mask's gradient, a sum over time alone, stays in S
// Memory     the backward pass reads c of every step and computes the gates again
// Limits     any L, B, R, D, zero included; int64 offsets; no alignment asked for
// Build      GCC/Clang vector types, no intrinsics, no library code but exp and tanh of double
// Check      tests/ops/test_sru.py, csrc/tests/kernel_tests.cpp      Speed  src/torchsru/bench

#include "kernels.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#ifndef TORCHSRU_ISA
#define TORCHSRU_ISA baseline
#endif
#define TORCHSRU_PASTE2(a, b) a##b
#define TORCHSRU_PASTE(a, b) TORCHSRU_PASTE2(a, b)
#define TORCHSRU_STRING2(a) #a
#define TORCHSRU_STRING(a) TORCHSRU_STRING2(a)

#define INLINE inline __attribute__((always_inline))
#define INLINE_LAMBDA __attribute__((always_inline))
#define CALL_LAMBDA __attribute__((noinline)) // once per step and row: keeps the code small

namespace torchsru {
namespace {

#if defined(__AVX512F__)
constexpr int kBytes = 64;
#elif defined(__AVX2__)
constexpr int kBytes = 32;
#else
constexpr int kBytes = 16; // SSE2, NEON
#endif

typedef float f32v __attribute__((vector_size(kBytes)));
typedef int32_t i32v __attribute__((vector_size(kBytes)));
typedef uint32_t u32v __attribute__((vector_size(kBytes)));
typedef uint16_t u16v __attribute__((vector_size(kBytes / 2)));
typedef double f64v __attribute__((vector_size(kBytes)));
typedef int64_t i64v __attribute__((vector_size(kBytes)));

template <class To, class From>
INLINE To bit_cast(From from) {
  static_assert(sizeof(To) == sizeof(From), "same size");
  To to;
  memcpy(&to, &from, sizeof to);
  return to;
}

// ---- element types: how IO becomes the vector that we compute with -------------------------------

struct F64 {
  typedef double io;
  typedef double state;
  typedef f64v vec;
  static constexpr int lanes = kBytes / 8;
  static INLINE vec widen(vec raw) { return raw; }
  static INLINE vec narrow(vec v) { return v; }
  typedef vec raw;
};

struct F32 {
  typedef float io;
  typedef float state;
  typedef f32v vec;
  static constexpr int lanes = kBytes / 4;
  static INLINE vec widen(vec raw) { return raw; }
  static INLINE vec narrow(vec v) { return v; }
  typedef vec raw;
};

struct BF16 {
  typedef uint16_t io;
  typedef float state;
  typedef f32v vec;
  typedef u16v raw;
  static constexpr int lanes = kBytes / 4;
  static INLINE vec widen(raw r) { return bit_cast<f32v>(__builtin_convertvector(r, u32v) << 16); }
  // Round to nearest, ties to even; NaN stays NaN.
  static INLINE raw narrow(vec v) {
    const u32v bits = bit_cast<u32v>(v);
    const u32v rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
    const u32v quiet = (bits >> 16) | 0x40u;
    return __builtin_convertvector(v == v ? rounded : quiet, u16v);
  }
};

struct F16 {
  typedef uint16_t io;
  typedef float state;
  typedef f32v vec;
  typedef u16v raw;
  static constexpr int lanes = kBytes / 4;
  // The exponent moves by 127 - 15 = 112: exact as a product, subnormals included.
  static INLINE vec widen(raw r) {
    const u32v bits = __builtin_convertvector(r, u32v);
    const u32v sign = (bits & 0x8000u) << 16, magnitude = (bits & 0x7fffu) << 13;
    const u32v finite = bit_cast<u32v>(bit_cast<f32v>(magnitude) * 0x1p112f);
    const u32v special = magnitude | 0x7f800000u; // infinity and NaN
    return bit_cast<f32v>(((bits & 0x7c00u) == 0x7c00u ? special : finite) | sign);
  }
  // Round to nearest, ties to even; past the largest half -> infinity; NaN stays NaN.
  static INLINE raw narrow(vec v) {
    const u32v bits = bit_cast<u32v>(v), sign = (bits >> 16) & 0x8000u;
    const u32v magnitude = bits & 0x7fffffffu;
    const f32v a = bit_cast<f32v>(magnitude);
    // below 2^-14 a half steps by 2^-24, as does a float at 0.5: adding 0.5 rounds there
    const u32v small = bit_cast<u32v>(a + 0.5f) - 0x3f000000u;
    const u32v usual = (magnitude - (112u << 23) + 0xfffu + ((magnitude >> 13) & 1u)) >> 13;
    u32v half = a < 0x1p-14f ? small : usual;
    half = a >= 65520.0f ? u32v{} + 0x7c00u : half;
    half = a == a ? half : u32v{} + 0x7e00u;
    return __builtin_convertvector(half | sign, u16v);
  }
};

template <class T>
INLINE typename T::vec load(const void* p, int64_t i, int n) {
  typename T::raw r{};
  if (n == T::lanes) {
    memcpy(&r, static_cast<const typename T::io*>(p) + i, sizeof r);
  } else {
    memcpy(&r, static_cast<const typename T::io*>(p) + i, n * sizeof(typename T::io));
  }
  return T::widen(r);
}

template <class T>
INLINE void store(void* p, int64_t i, int n, typename T::vec v) {
  const typename T::raw r = T::narrow(v);
  if (n == T::lanes) {
    memcpy(static_cast<typename T::io*>(p) + i, &r, sizeof r);
  } else {
    memcpy(static_cast<typename T::io*>(p) + i, &r, n * sizeof(typename T::io));
  }
}

template <class T> struct StateOf { typedef F32 type; };
template <> struct StateOf<F64> { typedef F64 type; };

// ---- functions -----------------------------------------------------------------------------------

// exp(sign v) of floats: +inf from 88.4 on, exp(-87) below -87, NaN -> NaN.
// sign v = n ln 2 + r, |r| <= ln 2 / 2; exp(r) = 1 + r + r^2 P(r), P fitted to a relative 1e-8.
template <int sign>
INLINE f32v exp_(f32v v) {
  const float most = sign > 0 ? 89.0f : 87.0f, least = sign > 0 ? -87.0f : -89.0f;
  v = v > most ? f32v{} + most : v; // 2^128 below is infinity
  v = v < least ? f32v{} + least : v;
  const float round = 0x1.8p23f + 127; // adding it leaves n + 127, 2^n's exponent, in the last bits
  const f32v shifted = v * (sign * 0x1.715476p+0f) + round;
  const f32v n = shifted - round;
  f32v r = (sign > 0 ? v : -v) - n * 0x1.62e4p-1f; // ln 2 in two parts: n times the first is exact
  r = r - n * 0x1.7f7d1cp-20f;
  f32v p = r * 0.001394121441990137f + 0.00836323481053114f;
  p = p * r + 0.04166637361049652f;
  p = p * r + 0.16666576266288757f;
  p = p * r + 0.5f;
  p = p * r + 1.0f;
  p = p * r + 1.0f;
  return p * bit_cast<f32v>(bit_cast<i32v>(shifted) << 23);
}

// sigmoid(v): logistic function of one SIMD vector of floats.
// Error  at most kSigmoidMaxUlp against double where the result is normal; the test reads it too
// Range  every float: -inf -> 0, +inf -> 1, NaN -> NaN
INLINE f32v sigmoid(f32v v) { return 1.0f / (1.0f + exp_<-1>(v)); }

// tanh(v): odd polynomial near zero, where 1 - 2 / (e^2v + 1) would cancel.
// Error  at most kTanhMaxUlp against double        Range  every float; NaN -> NaN
INLINE f32v tanh_(f32v v) {
  const f32v z = v * v;
  f32v q = z * -0.006111054215580225f + 0.021008627489209175f;
  q = q * z - 0.05385376885533333f;
  q = q * z + 0.1333279311656952f;
  q = q * z - 0.333333283662796f;
  const f32v near = v + v * z * q;
  const f32v size = v < 0.0f ? -v : v; // below zero the difference would round near 2, not 1
  const f32v far_size = 1.0f - 2.0f / (exp_<1>(2.0f * size) + 1.0f);
  const f32v far = v < 0.0f ? -far_size : far_size;
  return z < 0.625f * 0.625f ? near : far;
}

// In double, exactness counts and speed does not: the C library, lane by lane.
INLINE f64v sigmoid(f64v v) {
  f64v out{};
  for (int i = 0; i < F64::lanes; ++i) out[i] = 1.0 / (1.0 + ::exp(-v[i]));
  return out;
}
INLINE f64v tanh_(f64v v) {
  f64v out{};
  for (int i = 0; i < F64::lanes; ++i) out[i] = ::tanh(v[i]);
  return out;
}

// |v_f| up to here keeps the contractive Jacobian in [0, 1]; ops/sru/__init__.py derives it.
constexpr double kContractiveBound = 2.2334;

// ---- the walk over a share -----------------------------------------------------------------------

struct Range { int64_t begin, end; };

INLINE Range share(int64_t n, int64_t part, int64_t parts) {
  // n * part may overflow where n / parts * part does not
  const int64_t each = n / parts, rest = n % parts;
  const int64_t begin = each * part + (part < rest ? part : rest);
  return {begin, begin + each + (part < rest ? 1 : 0)};
}

struct Share { Range blocks, columns; };

// The most steps of documents that a part gets when blocks of them are shared.
INLINE int64_t longest_share(const Shape& s, int64_t parts) {
  const int64_t n = rows_per_block(s), blocks = row_blocks(s);
  int64_t longest = 0;
  for (int64_t part = 0; part < parts; ++part) {
    const Range mine = share(blocks, part, parts);
    const int64_t begin = mine.begin * n, end = mine.end * n < s.R ? mine.end * n : s.R;
    const int64_t steps = begin < end ? s.documents[end] - s.documents[begin] : 0;
    longest = steps > longest ? steps : longest;
  }
  return longest;
}

// Rows if each part gets about as many blocks of them, else columns, in lines of 16 counted from
// each direction's start: whatever the parts, the same columns make a vector, and the same a rest.
// Documents if there are more parts than lines, and no part gets more steps than that is worth.
INLINE Share share_of(const Shape& s, int64_t part, int64_t parts) {
  const int64_t d = s.D / s.directions, lines_each = (d + 15) / 16;
  const int64_t blocks = row_blocks(s), lines = lines_each * s.directions;
  const bool even = blocks % parts == 0 || blocks >= 4 * parts;
  if (s.documents ? lines < parts && longest_share(s, parts) * lines < s.L : even || lines < parts) {
    return {share(blocks, part, parts), {0, s.D}};
  }
  const auto column = [&](int64_t line) {
    if (line == lines) return s.D;
    return line / lines_each * d + line % lines_each * 16;
  };
  const Range mine = share(lines, part, parts);
  return {{0, blocks}, {column(mine.begin), column(mine.end)}};
}

INLINE Range rows_of(const Shape& s, Range blocks) {
  const int64_t n = rows_per_block(s);
  return {blocks.begin * n, blocks.end * n < s.R ? blocks.end * n : s.R};
}

// Where a step stands: `at` indexes the (time, batch) rows of u, x, h and c; `before` the step
// before it in the direction's own order, or -1 at the first; `row` indexes the states.
struct Place { int64_t at, before, row; };

// Calls step(place) for every step and row of a block, first to last in the order of the direction
// (or last to first, for gradients). Stops neither at padding nor at a document's end.
template <class Step>
INLINE void walk(const Shape& s, Range rows, bool backward_in_time, bool reverse, const Step& step) {
  const bool down = backward_in_time != reverse; // t falls
  const int64_t first_offset = backward_in_time ? 1 : -1;
  if (s.documents) {
    for (int64_t row = rows.begin; row < rows.end; ++row) {
      const int64_t start = s.documents[row], end = s.documents[row + 1];
      const int64_t first = backward_in_time ? end - 1 : start;
      for (int64_t i = 0; i < end - start; ++i) {
        const int64_t t = down ? end - 1 - i : start + i;
        step(Place{t, t == first ? -1 : t + first_offset, row});
      }
    }
    return;
  }
  const int64_t first = backward_in_time ? s.L - 1 : 0;
  for (int64_t i = 0; i < s.L; ++i) {
    const int64_t t = down ? s.L - 1 - i : i;
    for (int64_t row = rows.begin; row < rows.end; ++row) {
      step(Place{t * s.B + row, t == first ? -1 : (t + first_offset) * s.B + row, row});
    }
  }
}

// Calls body(j, n) for the columns [begin, end): n lanes from column j.
template <int lanes, class Body>
INLINE void columns(Range c, const Body& body) {
  int64_t j = c.begin;
  for (; j + lanes <= c.end; j += lanes) body(j, lanes);
  if (j < c.end) body(j, static_cast<int>(c.end - j));
}

// Calls body(columns, backward_in_time) for each direction that the columns touch.
template <class Body>
INLINE void directions(const Shape& s, Range c, const Body& body) {
  const int64_t d = s.D / s.directions;
  for (int q = 0; q < s.directions; ++q) {
    const Range mine{c.begin > q * d ? c.begin : q * d, c.end < (q + 1) * d ? c.end : (q + 1) * d};
    if (mine.begin < mine.end) body(mine, q == 1);
  }
}

template <class T>
INLINE void copy_or_zero(void* to, const void* from, int64_t offset, Range c) {
  typedef typename T::io io;
  io* out = static_cast<io*>(to) + offset + c.begin;
  const size_t bytes = (c.end - c.begin) * sizeof(io);
  if (from) memcpy(out, static_cast<const io*>(from) + offset + c.begin, bytes);
  else memset(out, 0, bytes);
}

// A row that stands in for an absent tensor, for every step: the inner loop has no branches.
template <class S>
struct ConstantRow {
  S* row;
  ConstantRow(int64_t D, S value) : row(static_cast<S*>(malloc((D ? D : 1) * sizeof(S)))) {
    if (!row) abort();
    for (int64_t j = 0; j < D; ++j) row[j] = value;
  }
  ~ConstantRow() { free(row); }
  ConstantRow(const ConstantRow&) = delete;
  ConstantRow& operator=(const ConstantRow&) = delete;
};

template <class E>
INLINE const E* row_of(const void* p, int64_t offset) { return static_cast<const E*>(p) + offset; }

// ---- SRU -----------------------------------------------------------------------------------------

template <class T, bool kTanh, bool kContractive>
struct Sru {
  typedef typename StateOf<T>::type S;
  typedef typename T::io io;
  typedef typename S::io real;
  typedef typename T::vec vec;
  static constexpr int lanes = T::lanes;

  // The rows of one step's inputs.
  struct Rows {
    const io *u_c, *u_f, *u_r, *x;
    const real *v_f, *v_r, *b_f, *b_r, *m;
  };

  static INLINE Rows rows_at(const SruArgs& a, const real* zeros, const real* ones, Place p) {
    const int64_t D = a.shape.D;
    const io* u = row_of<io>(a.u, p.at * a.k * D);
    const io* no_x = reinterpret_cast<const io*>(zeros);
    const real* v = a.v ? row_of<real>(a.v, a.v_varies ? p.at * 2 * D : 0) : nullptr;
    const real* b = static_cast<const real*>(a.b);
    return {u, u + D, u + 2 * D,
            a.k == 4 ? u + 3 * D : a.x ? row_of<io>(a.x, p.at * D) : no_x,
            v ? v : zeros, v ? v + D : zeros,
            b ? b : zeros, b ? b + D : zeros,
            a.out_mask ? row_of<real>(a.out_mask, p.row * D) : ones};
  }

  struct Gates { vec u_c, f, r, s, w_f, v_r; };

  // f and r; s is what v_f multiplies, w_f is v_f, clipped if contractive.
  static INLINE Gates gates(const Rows& in, vec c, int64_t j, int n) {
    Gates g;
    g.u_c = load<T>(in.u_c, j, n);
    g.w_f = load<S>(in.v_f, j, n);
    g.v_r = load<S>(in.v_r, j, n);
    g.s = c;
    if (kContractive) {
      const real bound = static_cast<real>(kContractiveBound);
      g.w_f = g.w_f > bound ? vec{} + bound : g.w_f;
      g.w_f = g.w_f < -bound ? vec{} - bound : g.w_f;
      g.s = tanh_(c - g.u_c);
    }
    g.f = sigmoid(load<T>(in.u_f, j, n) + g.w_f * g.s + load<S>(in.b_f, j, n)); // (1)
    g.r = sigmoid(load<T>(in.u_r, j, n) + g.v_r * c + load<S>(in.b_r, j, n));   // (3)
    return g;
  }

  static void forward(const SruForward& a, int64_t part, int64_t parts) {
    const Shape& s = a.shape;
    const Share mine = share_of(s, part, parts);
    const Range rows = rows_of(s, mine.blocks);
    const ConstantRow<real> zeros(s.D, 0), ones(s.D, 1);
    const real alpha = static_cast<real>(a.alpha);
    const int64_t D = s.D;
    for (int64_t row = rows.begin; row < rows.end; ++row) {
      copy_or_zero<S>(a.c_last, a.c0, row * D, mine.columns);
    }
    directions(s, mine.columns, [&](Range cols, bool backward_in_time) INLINE_LAMBDA {
      walk(s, rows, backward_in_time, false, [&](Place p) CALL_LAMBDA {
        real* c_row = static_cast<real*>(a.c_last) + p.row * D; // the running state
        io* h_row = static_cast<io*>(a.h) + p.at * D;
        real* c_out = a.c ? static_cast<real*>(a.c) + p.at * D : nullptr;
        if (s.mask && s.mask[p.at]) {
          copy_or_zero<T>(h_row, nullptr, 0, cols);
          if (c_out) copy_or_zero<S>(c_out, c_row, 0, cols);
          return;
        }
        const Rows in = rows_at(a, zeros.row, ones.row, p);
        columns<lanes>(cols, [&](int64_t j, int n) INLINE_LAMBDA {
          vec c = load<S>(c_row, j, n);
          const Gates g = gates(in, c, j, n);
          c = g.f * c + (1 - g.f) * g.u_c;                                              // (2)
          const vec r = load<S>(in.m, j, n) * g.r;
          const vec h = r * (kTanh ? tanh_(c) : c) + (1 - r) * (alpha * load<T>(in.x, j, n)); // (4)
          store<S>(c_row, j, n, c);
          if (c_out) store<S>(c_out, j, n, c);
          store<T>(h_row, j, n, h);
        });
      });
    });
  }

  // The running gradient of the state lives in gc0. For the step's outputs h and c it holds:
  //   gr = gh m (g(c) - x') r (1 - r)      gc = gh m r g'(c) + carried     x' = alpha x
  //   J = dc_t / dc_{t-1}                  carried = gc J + gr v_r
  static void backward(const SruBackward& a, int64_t part, int64_t parts) {
    const Shape& s = a.shape;
    const Share mine = share_of(s, part, parts);
    const ConstantRow<real> zeros(s.D, 0), ones(s.D, 1);
    const real alpha = static_cast<real>(a.alpha);
    const int64_t D = s.D;
    constexpr int64_t flush_every = 64; // terms that are summed in S before they go to double
    const ConstantRow<real> partial(4 * D, 0); // sums of a few steps: gv_f, gv_r, gb_f, gb_r
    real* sum = partial.row;

    for (int64_t block = mine.blocks.begin; block < mine.blocks.end; ++block) {
      const Range rows = rows_of(s, {block, block + 1});
      double* total = a.sums + block * 4 * D;
      for (int i = 0; i < 4; ++i) copy_or_zero<F64>(total, nullptr, i * D, mine.columns);
      for (int64_t row = rows.begin; row < rows.end; ++row) {
        copy_or_zero<S>(a.gc0, a.gc_last, row * D, mine.columns);
        if (a.gout_mask) copy_or_zero<S>(a.gout_mask, nullptr, row * D, mine.columns);
      }
      directions(s, mine.columns, [&](Range cols, bool backward_in_time) INLINE_LAMBDA {
        int64_t steps = 0;
        const auto flush = [&] {
          for (int i = 0; i < 4; ++i) {
            for (int64_t j = cols.begin; j < cols.end; ++j) {
              total[i * D + j] += sum[i * D + j];
              sum[i * D + j] = 0;
            }
          }
        };
        walk(s, rows, backward_in_time, true, [&](Place p) CALL_LAMBDA {
          io* gu = static_cast<io*>(a.gu) + p.at * a.k * D;
          io* gx = a.k == 4 ? gu + 3 * D : a.gx ? static_cast<io*>(a.gx) + p.at * D : nullptr;
          real* gv = a.v_varies && a.gv ? static_cast<real*>(a.gv) + p.at * 2 * D : nullptr;
          if (s.mask && s.mask[p.at]) {
            for (int i = 0; i < 3; ++i) copy_or_zero<T>(gu, nullptr, i * D, cols);
            if (gx) copy_or_zero<T>(gx, nullptr, 0, cols);
            for (int i = 0; gv && i < 2; ++i) copy_or_zero<S>(gv, nullptr, i * D, cols);
            return;
          }
          const Rows in = rows_at(a, zeros.row, ones.row, p);
          const real* c_row = row_of<real>(a.c, p.at * D);
          const real* c_before = p.before >= 0 ? row_of<real>(a.c, p.before * D)
                                 : a.c0        ? row_of<real>(a.c0, p.row * D) : zeros.row;
          const io* gh_row = row_of<io>(a.gh, p.at * D);
          real* carried_row = static_cast<real*>(a.gc0) + p.row * D;
          real* gm = a.gout_mask ? static_cast<real*>(a.gout_mask) + p.row * D : nullptr;
          columns<lanes>(cols, [&](int64_t j, int n) INLINE_LAMBDA {
            const vec before = load<S>(c_before, j, n);
            const Gates g = gates(in, before, j, n);
            const vec c = load<S>(c_row, j, n), gh = load<T>(gh_row, j, n);
            const vec out = kTanh ? tanh_(c) : c;
            const vec x_scaled = alpha * load<T>(in.x, j, n);
            const vec m = load<S>(in.m, j, n), r = m * g.r;
            const vec gh_r = gh * (out - x_scaled) * g.r; // gradient of m
            const vec gr = gh_r * m * (1 - g.r);
            const vec gc = load<S>(carried_row, j, n) + (kTanh ? gh * r * (1 - out * out) : gh * r);
            const vec df = (before - g.u_c) * g.f * (1 - g.f); // dc_t / d(argument of f)
            const vec gf = gc * df;
            vec J, gu_c;
            if (kContractive) {
              J = g.f + df * g.w_f * (1 - g.s * g.s);
              gu_c = gc * (1 - J);
            } else {
              J = g.f + df * g.w_f;
              gu_c = gc * (1 - g.f);
            }
            store<S>(carried_row, j, n, gc * J + gr * g.v_r);
            store<T>(gu, j, n, gu_c);
            store<T>(gu + D, j, n, gf);
            store<T>(gu + 2 * D, j, n, gr);
            if (gx) store<T>(gx, j, n, alpha * gh * (1 - r));
            vec gv_f = gf * g.s;
            if (kContractive) {
              const vec v_f = load<S>(in.v_f, j, n);
              const real bound = static_cast<real>(kContractiveBound);
              gv_f = (v_f <= bound) & (v_f >= -bound) ? gv_f : vec{};
            }
            const vec gv_r = gr * before;
            if (gv) {
              store<S>(gv, j, n, gv_f);
              store<S>(gv + D, j, n, gv_r);
            } else {
              store<S>(sum, j, n, load<S>(sum, j, n) + gv_f);
              store<S>(sum + D, j, n, load<S>(sum + D, j, n) + gv_r);
            }
            store<S>(sum + 2 * D, j, n, load<S>(sum + 2 * D, j, n) + gf);
            store<S>(sum + 3 * D, j, n, load<S>(sum + 3 * D, j, n) + gr);
            if (gm) store<S>(gm, j, n, load<S>(gm, j, n) + gh_r);
          });
          if (++steps % flush_every == 0) flush();
        });
        flush();
      });
    }
  }

  static void reduce(const SruBackward& a) {
    const int64_t D = a.shape.D, blocks = row_blocks(a.shape);
    real* gv = a.v_varies ? nullptr : static_cast<real*>(a.gv);
    real* gb = static_cast<real*>(a.gb);
    for (int64_t j = 0; j < 2 * D; ++j) {
      double v = 0, b = 0;
      for (int64_t block = 0; block < blocks; ++block) {
        v += a.sums[block * 4 * D + j];
        b += a.sums[block * 4 * D + 2 * D + j];
      }
      if (gv) gv[j] = static_cast<real>(v);
      if (gb) gb[j] = static_cast<real>(b);
    }
  }
};

// ---- linear recurrence ---------------------------------------------------------------------------

template <class T>
struct Linear {
  typedef typename StateOf<T>::type S;
  typedef typename T::io io;
  typedef typename S::io real;
  typedef typename T::vec vec;
  static constexpr int lanes = T::lanes;

  static void forward(const LinearForward& a, int64_t part, int64_t parts) {
    const Shape& s = a.shape;
    const Share mine = share_of(s, part, parts);
    const Range rows = rows_of(s, mine.blocks);
    const int64_t D = s.D;
    for (int64_t row = rows.begin; row < rows.end; ++row) {
      copy_or_zero<S>(a.c_last, a.c0, row * D, mine.columns);
    }
    directions(s, mine.columns, [&](Range cols, bool backward_in_time) INLINE_LAMBDA {
      walk(s, rows, backward_in_time, false, [&](Place p) CALL_LAMBDA {
        const bool skip = s.mask && s.mask[p.at];
        const io *a_row = row_of<io>(a.a, p.at * D), *b_row = row_of<io>(a.b, p.at * D);
        io* c_row = static_cast<io*>(a.c) + p.at * D;
        real* state = static_cast<real*>(a.c_last) + p.row * D;
        columns<lanes>(cols, [&](int64_t j, int n) INLINE_LAMBDA {
          vec c = load<S>(state, j, n);
          if (!skip) c = load<T>(a_row, j, n) * c + load<T>(b_row, j, n);
          store<S>(state, j, n, c);
          store<T>(c_row, j, n, c);
        });
      });
    });
  }

  static void backward(const LinearBackward& a, int64_t part, int64_t parts) {
    const Shape& s = a.shape;
    const Share mine = share_of(s, part, parts);
    const Range rows = rows_of(s, mine.blocks);
    const int64_t D = s.D;
    const ConstantRow<real> zeros(s.D, 0);
    for (int64_t row = rows.begin; row < rows.end; ++row) {
      copy_or_zero<S>(a.gc0, a.gc_last, row * D, mine.columns);
    }
    directions(s, mine.columns, [&](Range cols, bool backward_in_time) INLINE_LAMBDA {
      walk(s, rows, backward_in_time, true, [&](Place p) CALL_LAMBDA {
        const bool skip = s.mask && s.mask[p.at];
        const io *a_row = row_of<io>(a.a, p.at * D), *gc_row = row_of<io>(a.gc, p.at * D);
        io *ga = static_cast<io*>(a.ga) + p.at * D, *gb = static_cast<io*>(a.gb) + p.at * D;
        const io* c_before = p.before >= 0 ? row_of<io>(a.c, p.before * D) : nullptr;
        const real* c_first = a.c0 ? row_of<real>(a.c0, p.row * D) : zeros.row;
        real* carried = static_cast<real*>(a.gc0) + p.row * D;
        columns<lanes>(cols, [&](int64_t j, int n) INLINE_LAMBDA {
          const vec gc = load<T>(gc_row, j, n) + load<S>(carried, j, n);
          if (skip) {
            store<S>(carried, j, n, gc);
            store<T>(ga, j, n, vec{});
            store<T>(gb, j, n, vec{});
            return;
          }
          const vec before = c_before ? load<T>(c_before, j, n) : load<S>(c_first, j, n);
          store<S>(carried, j, n, gc * load<T>(a_row, j, n));
          store<T>(ga, j, n, gc * before);
          store<T>(gb, j, n, gc);
        });
      });
    });
  }
};

// ---- the table -----------------------------------------------------------------------------------

template <class T, bool kTanh, bool kContractive>
struct ForwardOf { static constexpr auto run = &Sru<T, kTanh, kContractive>::forward; };
template <class T, bool kTanh, bool kContractive>
struct BackwardOf { static constexpr auto run = &Sru<T, kTanh, kContractive>::backward; };

template <template <class, bool, bool> class Which, class T, class Args>
void run_variant(const Args& a, int64_t part, int64_t parts) {
  if (a.tanh) {
    if (a.contractive) Which<T, true, true>::run(a, part, parts);
    else Which<T, true, false>::run(a, part, parts);
  } else {
    if (a.contractive) Which<T, false, true>::run(a, part, parts);
    else Which<T, false, false>::run(a, part, parts);
  }
}

template <template <class, bool, bool> class Which, class Args>
void run_sru(const Args& a, int64_t part, int64_t parts) {
  switch (a.type) {
    case Type::f64: return run_variant<Which, F64>(a, part, parts);
    case Type::f32: return run_variant<Which, F32>(a, part, parts);
    case Type::bf16: return run_variant<Which, BF16>(a, part, parts);
    case Type::f16: return run_variant<Which, F16>(a, part, parts);
  }
}

void reduce(const SruBackward& a) {
  if (a.type == Type::f64) Sru<F64, false, false>::reduce(a);
  else Sru<F32, false, false>::reduce(a);
}

void linear_forward(const LinearForward& a, int64_t part, int64_t parts) {
  switch (a.type) {
    case Type::f64: return Linear<F64>::forward(a, part, parts);
    case Type::f32: return Linear<F32>::forward(a, part, parts);
    case Type::bf16: return Linear<BF16>::forward(a, part, parts);
    case Type::f16: return Linear<F16>::forward(a, part, parts);
  }
}

void linear_backward(const LinearBackward& a, int64_t part, int64_t parts) {
  switch (a.type) {
    case Type::f64: return Linear<F64>::backward(a, part, parts);
    case Type::f32: return Linear<F32>::backward(a, part, parts);
    case Type::bf16: return Linear<BF16>::backward(a, part, parts);
    case Type::f16: return Linear<F16>::backward(a, part, parts);
  }
}

void sigmoid_f32(const float* x, float* y, int64_t n) {
  columns<F32::lanes>({0, n}, [&](int64_t j, int m) {
    store<F32>(y, j, m, sigmoid(load<F32>(x, j, m)));
  });
}

void tanh_f32(const float* x, float* y, int64_t n) {
  columns<F32::lanes>({0, n}, [&](int64_t j, int m) {
    store<F32>(y, j, m, tanh_(load<F32>(x, j, m)));
  });
}

void f32_to_half(Type type, const float* x, uint16_t* y, int64_t n) {
  columns<F32::lanes>({0, n}, [&](int64_t j, int m) {
    if (type == Type::bf16) store<BF16>(y, j, m, load<F32>(x, j, m));
    else store<F16>(y, j, m, load<F32>(x, j, m));
  });
}

void half_to_f32(Type type, const uint16_t* x, float* y, int64_t n) {
  columns<F32::lanes>({0, n}, [&](int64_t j, int m) {
    if (type == Type::bf16) store<F32>(y, j, m, load<BF16>(x, j, m));
    else store<F32>(y, j, m, load<F16>(x, j, m));
  });
}

} // namespace

extern const Kernels TORCHSRU_PASTE(kernels_, TORCHSRU_ISA);
const Kernels TORCHSRU_PASTE(kernels_, TORCHSRU_ISA) = {
    TORCHSRU_STRING(TORCHSRU_ISA),
    run_sru<ForwardOf, SruForward>,
    run_sru<BackwardOf, SruBackward>,
    reduce,
    linear_forward,
    linear_backward,
    sigmoid_f32,
    tanh_f32,
    f32_to_half,
    half_to_f32,
};

} // namespace torchsru

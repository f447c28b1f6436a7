// The kernels alone, without PyTorch: run under the address and undefined-behaviour sanitizers.
//
// Every buffer is a heap block of exactly the size that kernels.h promises, so a read or write past
// an end is caught; outputs start as NaN, so an element that is not written shows. Values are
// compared with plain loops in double (loosely: tests/ops measures the rounding), and every number
// of parts with one part, bit for bit.
// Exit  0, or 1 after printing what failed, or 77 if this CPU can't run what TORCHSRU_ISA names

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "kernels.h"

using namespace torchsru;

namespace {

int failures = 0;

template <class... Values>
void fail(const std::string& where, const char* format, Values... values) {
  if (++failures > 20) return;
  std::printf("FAILED %s: ", where.c_str());
  std::printf(format, values...);
  std::printf("\n");
}

// ---- numbers ---------------------------------------------------------------------------------------

struct Format { int exponent_bits, mantissa_bits; };
Format format_of(Type type) { return type == Type::f16 ? Format{5, 10} : Format{8, 7}; }

double half_to_double(Type type, uint16_t bits) {
  const Format f = format_of(type);
  const int bias = (1 << (f.exponent_bits - 1)) - 1, top = (1 << f.exponent_bits) - 1;
  const int exponent = bits >> f.mantissa_bits & top, mantissa = bits & ((1 << f.mantissa_bits) - 1);
  double value;
  if (exponent == top) value = mantissa ? NAN : INFINITY;
  else if (exponent == 0) value = std::ldexp(mantissa, 1 - bias - f.mantissa_bits);
  else value = std::ldexp(mantissa + (1 << f.mantissa_bits), exponent - bias - f.mantissa_bits);
  return bits & 0x8000 ? -value : value;
}

// To nearest, ties to even, in steps of the format's last place.
uint16_t double_to_half(Type type, double value) {
  const Format f = format_of(type);
  const int bias = (1 << (f.exponent_bits - 1)) - 1;
  const uint16_t sign = std::signbit(value) ? 0x8000 : 0;
  const uint16_t infinity = static_cast<uint16_t>(((1 << f.exponent_bits) - 1) << f.mantissa_bits);
  const double a = std::fabs(value);
  if (std::isnan(value)) return sign | infinity | 1 << (f.mantissa_bits - 1);
  if (a == 0) return sign;
  int exponent = std::isinf(a) ? bias + 1 : std::ilogb(a);
  if (exponent < 1 - bias) exponent = 1 - bias;
  if (exponent > bias) return sign | infinity;
  // steps may reach the next power of two: the sum below then carries into the exponent, as it should
  const double steps = std::nearbyint(std::ldexp(a, f.mantissa_bits - exponent));
  const int bits = ((exponent + bias - 1) << f.mantissa_bits) + static_cast<int>(steps);
  return sign | (bits < infinity ? static_cast<uint16_t>(bits) : infinity);
}

size_t size_of(Type type) { return type == Type::f64 ? 8 : type == Type::f32 ? 4 : 2; }
Type state_of(Type type) { return type == Type::f64 ? Type::f64 : Type::f32; }

uint64_t random_bits() { // xorshift
  static uint64_t s = 88172645463325252u;
  s ^= s << 13;
  s ^= s >> 7;
  return s ^= s << 17;
}
double random_number() { return random_bits() % 4096 / 1024.0 - 2; }

// n elements of a type, in a block of exactly their size; or none.
struct Buffer {
  Type type = Type::f64;
  int64_t n = 0;
  std::unique_ptr<unsigned char[]> bytes;

  Buffer() = default;
  Buffer(Type type, int64_t n) : type(type), n(n), bytes(new unsigned char[n * size_of(type)]) {
    for (int64_t i = 0; i < n; ++i) set(i, NAN);
  }
  static Buffer random(Type type, int64_t n) {
    Buffer b(type, n);
    for (int64_t i = 0; i < n; ++i) b.set(i, random_number());
    return b;
  }
  void* data() const { return bytes.get(); }
  size_t size() const { return n * size_of(type); }

  double operator[](int64_t i) const {
    if (type == Type::f64) return as<double>(i);
    if (type == Type::f32) return as<float>(i);
    return half_to_double(type, as<uint16_t>(i));
  }
  void set(int64_t i, double value) {
    if (type == Type::f64) put(i, value);
    else if (type == Type::f32) put(i, static_cast<float>(value));
    else put(i, double_to_half(type, value));
  }
  std::string contents() const {
    return bytes ? std::string(reinterpret_cast<const char*>(bytes.get()), size()) : std::string();
  }

 private:
  template <class T> T as(int64_t i) const {
    T out;
    std::memcpy(&out, bytes.get() + i * sizeof(T), sizeof(T));
    return out;
  }
  template <class T> void put(int64_t i, T value) {
    std::memcpy(bytes.get() + i * sizeof(T), &value, sizeof(T));
  }
};

void compare(const std::string& where, const char* name, const Buffer& got,
             const std::vector<double>& expected) {
  if (!got.bytes) return;
  if (got.n != static_cast<int64_t>(expected.size())) return fail(where, "%s: size", name);
  double largest = 1e-3;
  for (const double value : expected) largest = std::fmax(largest, std::fabs(value));
  const double tolerance =
      got.type == Type::f64 ? 1e-10 : got.type == Type::f32 ? 1e-3 : got.type == Type::f16 ? 1e-2 : 5e-2;
  for (int64_t i = 0; i < got.n; ++i) {
    if (!(std::fabs(got[i] - expected[i]) <= tolerance * largest)) { // NaN fails too
      return fail(where, "%s[%lld] is %g, expected %g", name, static_cast<long long>(i), got[i],
                  expected[i]);
    }
  }
}

// ---- shapes ----------------------------------------------------------------------------------------

struct Sizes {
  int64_t L, B, D;
  int32_t directions;
  enum { rows, mask, documents } sequences;
};

// The shape, its mask and bounds in blocks of their exact size.
struct Sequences {
  Shape shape;
  std::unique_ptr<bool[]> mask;
  std::unique_ptr<int64_t[]> bounds;

  explicit Sequences(const Sizes& s) : shape{s.L, s.B, s.D, s.B, s.directions, nullptr, nullptr} {
    if (s.sequences == Sizes::mask) {
      mask.reset(new bool[s.L * s.B]);
      for (int64_t i = 0; i < s.L * s.B; ++i) {
        mask[i] = random_bits() % 3 == 0 || (s.B > 1 && i % s.B == 1);
      }
      shape.mask = mask.get();
    } else if (s.sequences == Sizes::documents) {
      if (s.L < 100) {
        bounds.reset(new int64_t[6]{0, 0, s.L / 3, s.L / 3, s.L, s.L});
        shape.R = 5;
      } else { // several to a block
        shape.R = 40;
        bounds.reset(new int64_t[41]{0});
        for (int64_t i = 1; i <= 40; ++i) bounds[i] = i < 40 ? 7 * i % 8 + bounds[i - 1] : s.L;
      }
      shape.documents = bounds.get();
    }
  }

  // The places (time, batch) of a state's row in a direction's order.
  std::vector<int64_t> places(int64_t row, bool backward_in_time) const {
    std::vector<int64_t> out;
    if (shape.documents) {
      for (int64_t t = bounds[row]; t < bounds[row + 1]; ++t) out.push_back(t);
    } else {
      for (int64_t t = 0; t < shape.L; ++t) out.push_back(t * shape.B + row);
    }
    return backward_in_time ? std::vector<int64_t>(out.rbegin(), out.rend()) : out;
  }
};

std::string name_of(Type type) {
  return type == Type::f64 ? "f64" : type == Type::f32 ? "f32" : type == Type::bf16 ? "bf16" : "f16";
}
std::string name_of(const Sizes& s, Type type) {
  const char* sequences[] = {"rows", "mask", "documents"};
  return name_of(type) + " L=" + std::to_string(s.L) + " B=" + std::to_string(s.B) +
         " D=" + std::to_string(s.D) + " directions=" + std::to_string(s.directions) + " " +
         sequences[s.sequences];
}

constexpr int64_t kParts[] = {1, 2, 3, 4, 7, 16, 64};

double sigmoid(double v) { return 1 / (1 + std::exp(-v)); }

// ---- SRU -------------------------------------------------------------------------------------------

struct Options {
  bool k4, x, b, c0, out_mask, gc_last, tanh, contractive;
  enum { none, fixed, varies } v;
};

struct SruCase {
  Sequences seq;
  Options o;
  Type type, S;
  int64_t k;
  double alpha = 1.25;
  Buffer u, x, v, b, c0, out_mask, gh, gc_last;        // given
  Buffer h, c_last, c, gu, gx, gv, gb, gc0, gout_mask; // computed
  Buffer sums;

  SruCase(const Sizes& sizes, Type type, const Options& o)
      : seq(sizes), o(o), type(type), S(state_of(type)), k(o.k4 ? 4 : 3) {
    const Shape& s = seq.shape;
    const int64_t steps = s.L * s.B * s.D, states = s.R * s.D;
    u = Buffer::random(type, steps * k);
    gh = Buffer::random(type, steps);
    if (o.x && !o.k4) x = Buffer::random(type, steps);
    if (o.v == Options::fixed) v = Buffer::random(S, 2 * s.D);
    if (o.v == Options::varies) v = Buffer::random(S, 2 * steps);
    for (int64_t i = 0; o.contractive && i < v.n; ++i) v.set(i, 2 * v[i]); // past the clip
    if (o.b) b = Buffer::random(S, 2 * s.D);
    if (o.c0) c0 = Buffer::random(S, states);
    if (o.out_mask) out_mask = Buffer::random(S, states);
    if (o.gc_last) gc_last = Buffer::random(S, states);
  }

  void fill(SruArgs& a) const {
    a.shape = seq.shape;
    a.type = type;
    a.k = static_cast<int32_t>(k);
    a.tanh = o.tanh;
    a.contractive = o.contractive;
    a.v_varies = o.v == Options::varies;
    a.alpha = alpha;
    a.u = u.data();
    a.x = x.data();
    a.v = v.data();
    a.b = b.data();
    a.c0 = c0.data();
    a.out_mask = out_mask.data();
  }

  // Forward, forward without c, backward, in shares; returns all results' bytes.
  std::string run(int64_t parts) {
    const Shape& s = seq.shape;
    const int64_t steps = s.L * s.B * s.D, states = s.R * s.D;
    const Kernels& kernel = kernels();
    SruForward f{};
    fill(f);
    h = Buffer(type, steps);
    c_last = Buffer(S, states);
    f.h = h.data();
    f.c_last = c_last.data();
    for (int64_t part = 0; part < parts; ++part) kernel.sru_forward(f, part, parts);
    const std::string inference = h.contents() + c_last.contents();
    h = Buffer(type, steps);
    c_last = Buffer(S, states);
    c = Buffer(S, steps);
    f.h = h.data();
    f.c_last = c_last.data();
    f.c = c.data();
    for (int64_t part = 0; part < parts; ++part) kernel.sru_forward(f, part, parts);
    if (inference != h.contents() + c_last.contents()) {
      fail("sru", "inference and training differ with %lld parts", static_cast<long long>(parts));
    }

    SruBackward g{};
    fill(g);
    gu = Buffer(type, steps * k);
    gx = x.bytes ? Buffer(type, steps) : Buffer();
    gv = v.bytes ? Buffer(S, v.n) : Buffer();
    gb = b.bytes ? Buffer(S, b.n) : Buffer();
    gc0 = Buffer(S, states);
    gout_mask = out_mask.bytes ? Buffer(S, states) : Buffer();
    sums = Buffer(Type::f64, row_blocks(s) * 4 * s.D);
    g.c = c.data();
    g.gh = gh.data();
    g.gc_last = gc_last.data();
    g.gu = gu.data();
    g.gx = gx.data();
    g.gv = gv.data();
    g.gb = gb.data();
    g.gc0 = gc0.data();
    g.gout_mask = gout_mask.data();
    g.sums = reinterpret_cast<double*>(sums.data());
    for (int64_t part = 0; part < parts; ++part) kernel.sru_backward(g, part, parts);
    kernel.sru_reduce(g);
    return inference + c.contents() + gu.contents() + gx.contents() + gv.contents() +
           gb.contents() + gc0.contents() + gout_mask.contents();
  }

  // The same in double, a row and channel at a time, from the equations and their adjoints.
  void check(const std::string& where) const {
    const Shape& s = seq.shape;
    const int64_t D = s.D, d = D / s.directions, steps = s.L * s.B * D, states = s.R * D;
    typedef std::vector<double> Values;
    Values h_(steps), c_(steps), last_(states), gu_(steps * k), gx_(steps), gv_(v.n), gb_(2 * D);
    Values gc0_(states), gm_(states);
    for (int64_t row = 0; row < s.R; ++row) {
      for (int64_t j = 0; j < D; ++j) {
        const std::vector<int64_t> places = seq.places(row, j >= d);
        const double m = out_mask.bytes ? out_mask[row * D + j] : 1;
        const double first = c0.bytes ? c0[row * D + j] : 0;
        const auto v_at = [&](int64_t p, int i) {
          if (!v.bytes) return 0.0;
          return v[(o.v == Options::varies ? p * 2 * D : 0) + i * D + j];
        };
        struct Step { double z, f, r, s, w, x, before, c; };
        std::vector<Step> trace;
        double c = first;
        for (const int64_t p : places) {
          Step t{};
          t.before = c;
          if (!s.mask || !s.mask[p]) {
            t.z = u[p * k * D + j];
            t.x = alpha * (k == 4 ? u[p * k * D + 3 * D + j] : x.bytes ? x[p * D + j] : 0);
            t.w = v_at(p, 0);
            t.s = c;
            if (o.contractive) {
              t.w = std::fmin(std::fmax(t.w, -2.2334), 2.2334);
              t.s = std::tanh(c - t.z);
            }
            t.f = sigmoid(u[p * k * D + D + j] + t.w * t.s + (b.bytes ? b[j] : 0));
            t.r = sigmoid(u[p * k * D + 2 * D + j] + v_at(p, 1) * c + (b.bytes ? b[D + j] : 0));
            c = t.f * c + (1 - t.f) * t.z;
            h_[p * D + j] = m * t.r * (o.tanh ? std::tanh(c) : c) + (1 - m * t.r) * t.x;
          }
          t.c = c;
          c_[p * D + j] = c;
          trace.push_back(t);
        }
        last_[row * D + j] = c;

        double gc = gc_last.bytes ? gc_last[row * D + j] : 0;
        for (int64_t i = static_cast<int64_t>(places.size()) - 1; i >= 0; --i) {
          const int64_t p = places[i];
          const Step& t = trace[i];
          if (s.mask && s.mask[p]) continue;
          const double out = o.tanh ? std::tanh(t.c) : t.c, seed = gh[p * D + j];
          const double gr = seed * m * (out - t.x) * t.r * (1 - t.r);
          gm_[row * D + j] += seed * (out - t.x) * t.r;
          const double gx_here = alpha * seed * (1 - m * t.r);
          if (k == 4) gu_[p * k * D + 3 * D + j] = gx_here;
          gx_[p * D + j] = gx_here;
          gc += seed * m * t.r * (o.tanh ? 1 - out * out : 1);
          const double gf = gc * (t.before - t.z) * t.f * (1 - t.f);
          const double ds = o.contractive ? 1 - t.s * t.s : 1;
          gu_[p * k * D + j] = gc * (1 - t.f) - (o.contractive ? gf * t.w * ds : 0);
          gu_[p * k * D + D + j] = gf;
          gu_[p * k * D + 2 * D + j] = gr;
          gb_[j] += gf;
          gb_[D + j] += gr;
          if (v.bytes) {
            const int64_t at = o.v == Options::varies ? p * 2 * D : 0;
            if (!o.contractive || std::fabs(v_at(p, 0)) <= 2.2334) gv_[at + j] += gf * t.s;
            gv_[at + D + j] += gr * t.before;
          }
          gc = gc * t.f + gf * t.w * ds + gr * v_at(p, 1);
        }
        gc0_[row * D + j] = gc;
      }
    }
    compare(where, "h", h, h_);
    compare(where, "c", c, c_);
    compare(where, "c_last", c_last, last_);
    compare(where, "gu", gu, gu_);
    compare(where, "gx", gx, gx_);
    compare(where, "gv", gv, gv_);
    compare(where, "gb", gb, gb_);
    compare(where, "gc0", gc0, gc0_);
    compare(where, "gout_mask", gout_mask, gm_);
  }
};

void test_sru(const Sizes& sizes, Type type, const Options& o) {
  const std::string where = "sru " + name_of(sizes, type) + " k=" + (o.k4 ? "4" : "3") +
                            " x=" + std::to_string(o.x) + " v=" + std::to_string(o.v) +
                            " b=" + std::to_string(o.b) + " c0=" + std::to_string(o.c0) +
                            " tanh=" + std::to_string(o.tanh) +
                            " contractive=" + std::to_string(o.contractive);
  SruCase test(sizes, type, o);
  std::string one;
  for (const int64_t parts : kParts) {
    const std::string bytes = test.run(parts);
    if (parts == 1) {
      one = bytes;
      test.check(where);
    } else if (bytes != one) {
      fail(where, "bits differ with %lld parts", static_cast<long long>(parts));
    }
  }
}

// ---- linear recurrence -----------------------------------------------------------------------------

void test_linear(const Sizes& sizes, Type type, bool with_c0) {
  const std::string where = "linear " + name_of(sizes, type) + " c0=" + std::to_string(with_c0);
  const Sequences seq(sizes);
  const Shape& s = seq.shape;
  const Type S = state_of(type);
  const int64_t D = s.D, d = D / s.directions, steps = s.L * s.B * D, states = s.R * D;
  Buffer a = Buffer::random(type, steps), b = Buffer::random(type, steps);
  for (int64_t i = 0; i < steps; ++i) a.set(i, a[i] / 2); // does not grow
  const Buffer c0 = with_c0 ? Buffer::random(S, states) : Buffer();
  const Buffer gc = Buffer::random(type, steps);
  const Buffer gc_last = with_c0 ? Buffer::random(S, states) : Buffer();

  std::string one;
  for (const int64_t parts : kParts) {
    Buffer c(type, steps), c_last(S, states), ga(type, steps), gb(type, steps), gc0(S, states);
    const LinearForward f{s, type, a.data(), b.data(), c0.data(), c.data(), c_last.data()};
    for (int64_t part = 0; part < parts; ++part) kernels().linear_forward(f, part, parts);
    const LinearBackward g{s,         type,           a.data(),  c.data(),  c0.data(),
                           gc.data(), gc_last.data(), ga.data(), gb.data(), gc0.data()};
    for (int64_t part = 0; part < parts; ++part) kernels().linear_backward(g, part, parts);
    const std::string bytes = c.contents() + c_last.contents() + ga.contents() + gb.contents() +
                              gc0.contents();
    if (parts > 1) {
      if (bytes != one) fail(where, "bits differ with %lld parts", static_cast<long long>(parts));
      continue;
    }
    one = bytes;
    std::vector<double> c_(steps), last_(states), ga_(steps), gb_(steps), gc0_(states);
    for (int64_t row = 0; row < s.R; ++row) {
      for (int64_t j = 0; j < D; ++j) {
        const std::vector<int64_t> places = seq.places(row, j >= d);
        double state = c0.bytes ? c0[row * D + j] : 0;
        std::vector<double> before;
        for (const int64_t p : places) {
          before.push_back(state);
          if (!s.mask || !s.mask[p]) state = a[p * D + j] * state + b[p * D + j];
          c_[p * D + j] = state;
        }
        last_[row * D + j] = state;
        double carried = gc_last.bytes ? gc_last[row * D + j] : 0;
        for (int64_t i = static_cast<int64_t>(places.size()) - 1; i >= 0; --i) {
          const int64_t at = places[i] * D + j;
          carried += gc[at];
          if (s.mask && s.mask[places[i]]) continue;
          ga_[at] = carried * before[i];
          gb_[at] = carried;
          carried *= a[at];
        }
        gc0_[row * D + j] = carried;
      }
    }
    compare(where, "c", c, c_);
    compare(where, "c_last", c_last, last_);
    compare(where, "ga", ga, ga_);
    compare(where, "gb", gb, gb_);
    compare(where, "gc0", gc0, gc0_);
  }
}

// ---- conversions -----------------------------------------------------------------------------------

void test_widening(Type type) {
  const std::string where = "half_to_f32 " + name_of(type);
  constexpr int64_t n = 65536;
  const std::unique_ptr<uint16_t[]> x(new uint16_t[n]);
  const std::unique_ptr<float[]> y(new float[n]);
  for (int64_t i = 0; i < n; ++i) x[i] = static_cast<uint16_t>(i);
  kernels().half_to_f32(type, x.get(), y.get(), n);
  for (int64_t i = 0; i < n; ++i) {
    const double expected = half_to_double(type, x[i]);
    const bool same = std::isnan(expected)
        ? std::isnan(y[i])
        : y[i] == expected && std::signbit(y[i]) == std::signbit(expected);
    if (!same) return fail(where, "of %04x is %g, expected %g", x[i], y[i], expected);
  }
}

void test_narrowing(Type type) {
  const std::string where = "f32_to_half " + name_of(type);
  std::vector<float> values{0.0f, -0.0f, INFINITY, -INFINITY, NAN, 1e-45f, -1e-45f, 3.4e38f, -3.4e38f};
  for (const uint32_t bits : {0x7f800001u, 0x7fffffffu, 0xff800001u, 0xffffffffu, 0x7f80ffffu}) {
    float nan; // a NaN whose high bits alone look like infinity, or that a carry would wrap
    std::memcpy(&nan, &bits, sizeof nan);
    values.push_back(nan);
  }
  for (int i = 0; i < 65536; ++i) { // each half, the tie with the next one, and their neighbours
    const double here = half_to_double(type, static_cast<uint16_t>(i));
    const double next = half_to_double(type, static_cast<uint16_t>(i + 1));
    if (!std::isfinite(here)) continue;
    for (const double value : {here, (here + next) / 2}) {
      const float f = static_cast<float>(value);
      if (!std::isfinite(f)) continue;
      values.insert(values.end(), {f, std::nextafterf(f, INFINITY), std::nextafterf(f, -INFINITY)});
    }
  }
  for (const float f : {65504.0f, 65519.0f, 65519.996f, 65520.0f, 65536.0f, 1e38f}) {
    values.insert(values.end(), {f, -f});
  }
  const int64_t n = static_cast<int64_t>(values.size());
  const std::unique_ptr<float[]> x(new float[n]);
  const std::unique_ptr<uint16_t[]> y(new uint16_t[n]);
  std::memcpy(x.get(), values.data(), n * sizeof(float));
  kernels().f32_to_half(type, x.get(), y.get(), n);
  for (int64_t i = 0; i < n; ++i) {
    const uint16_t expected = double_to_half(type, x[i]);
    const bool same =
        std::isnan(x[i]) ? std::isnan(half_to_double(type, y[i])) : y[i] == expected;
    if (!same) return fail(where, "of %a is %04x, expected %04x", x[i], y[i], expected);
  }
}

// Every tail of a vector, in blocks of its exact size; what is special stays so.
void test_functions() {
  for (int64_t n = 0; n <= 40; ++n) {
    const std::unique_ptr<float[]> x(new float[n]), y(new float[n]), z(new float[n]);
    for (int64_t i = 0; i < n; ++i) x[i] = static_cast<float>(random_number());
    kernels().sigmoid_f32(x.get(), y.get(), n);
    kernels().tanh_f32(x.get(), z.get(), n);
    for (int64_t i = 0; i < n; ++i) {
      if (std::fabs(y[i] - sigmoid(x[i])) > 1e-6) fail("sigmoid", "of %g is %g", x[i], y[i]);
      if (std::fabs(z[i] - std::tanh(x[i])) > 1e-6) fail("tanh", "of %g is %g", x[i], z[i]);
    }
  }
  const float special[] = {INFINITY, -INFINITY, NAN, 1e38f, -1e38f};
  float y[5], z[5];
  kernels().sigmoid_f32(special, y, 5);
  kernels().tanh_f32(special, z, 5);
  if (y[0] != 1 || y[1] != 0 || !std::isnan(y[2]) || y[3] != 1 || y[4] != 0) fail("sigmoid", "ends");
  if (z[0] != 1 || z[1] != -1 || !std::isnan(z[2]) || z[3] != 1 || z[4] != -1) fail("tanh", "ends");
}

} // namespace

int main() {
  try {
    std::printf("kernels: %s\n", kernels().name);
  } catch (const std::runtime_error& error) {
    std::printf("skipped: %s\n", error.what());
    return 77;
  }

  const Type types[] = {Type::f64, Type::f32, Type::bf16, Type::f16};
  const Sizes shapes[] = {
      {1, 1, 1, 1, Sizes::rows},      {7, 3, 5, 1, Sizes::rows},       {3, 2, 129, 1, Sizes::mask},
      {70, 2, 33, 1, Sizes::rows},    {5, 35, 6, 2, Sizes::mask},      {9, 17, 70, 2, Sizes::rows},
      {13, 1, 34, 2, Sizes::documents}, {13, 1, 129, 1, Sizes::documents}, {4, 64, 16, 1, Sizes::rows},
      {0, 3, 4, 1, Sizes::rows},      {3, 0, 4, 2, Sizes::rows},       {3, 2, 0, 1, Sizes::rows},
      {0, 1, 6, 2, Sizes::documents}, {2, 3, 2, 2, Sizes::mask},      {150, 1, 7, 1, Sizes::documents},
      {150, 1, 34, 2, Sizes::documents},
  };
  for (const Type type : types) {
    int turn = 0; // options take turns, shapes and types see them all
    for (const Sizes& sizes : shapes) {
      for (int i = 0; i < 6; ++i, ++turn) {
        Options o{};
        o.k4 = turn % 3 == 0;
        o.x = turn % 2 == 0;
        o.b = turn % 5 != 0;
        o.c0 = turn % 4 != 0;
        o.out_mask = turn % 3 == 1;
        o.gc_last = turn % 5 != 1;
        o.tanh = i / 2 % 2 == 1;
        o.contractive = i % 2 == 1;
        o.v = turn % 7 < 3 ? Options::fixed : turn % 7 < 6 ? Options::varies : Options::none;
        test_sru(sizes, type, o);
      }
      test_linear(sizes, type, true);
      test_linear(sizes, type, false);
    }
  }
  for (const Type type : {Type::bf16, Type::f16}) {
    test_widening(type);
    test_narrowing(type);
  }
  test_functions();
  std::printf(failures ? "%d failures\n" : "passed\n", failures);
  return failures ? 1 : 0;
}

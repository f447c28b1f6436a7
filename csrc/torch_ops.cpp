// The CPU ops as PyTorch sees them: schemas, checks, allocation and threads around the kernels.
//
// Only PyTorch's stable C interface is used: one library serves every PyTorch from 2.10 on, and an
// AOTInductor package can call the ops in a process without Python.
// Memory   inputs that are not contiguous are copied; outputs are fresh
// Errors   std::runtime_error naming argument, rule and value; Python raises it as RuntimeError.
//          Python checks shapes before (ops/sru/__init__.py); here they guard memory.
//          If PyTorch refuses the registration, no op is registered, and torchsru_load_error says why
// Check    tests/ops/test_sru.py, tests/ops/test_registration.py, csrc/tests/torch_ops_tests.cpp

#include <pthread.h>

#include <cstdio>
#include <initializer_list>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "kernels.h"
#include "stable_abi.h"

namespace torchsru {
namespace {

// 2.10.0, the interface's version that the calls below keep to
constexpr uint64_t kTorchVersion = uint64_t{2} << 56 | uint64_t{10} << 48;

void ok(AOTITorchError code, const char* what) {
  if (code != 0) throw std::runtime_error(std::string("torchsru: PyTorch refused ") + what);
}

// For destructors, which must not throw: the process goes on, and what could not be freed is lost.
void report(AOTITorchError code, const char* what) {
  if (code != 0) std::fprintf(stderr, "torchsru: PyTorch refused %s\n", what);
}

[[noreturn]] void fail(const std::string& message) { throw std::runtime_error(message); }

std::string text(const std::vector<int64_t>& sizes) {
  std::string out = "[";
  for (size_t i = 0; i < sizes.size(); ++i) {
    out += (i ? ", " : "") + std::to_string(sizes[i]);
  }
  return out + "]";
}

// Names as Python prints them, for errors.
std::string dtype_name(int32_t dtype) {
  const struct { int32_t number; const char* name; } names[] = {
      {aoti_torch_dtype_float64(), "float64"},     {aoti_torch_dtype_float32(), "float32"},
      {aoti_torch_dtype_bfloat16(), "bfloat16"},   {aoti_torch_dtype_float16(), "float16"},
      {aoti_torch_dtype_bool(), "bool"},           {aoti_torch_dtype_uint8(), "uint8"},
      {aoti_torch_dtype_int8(), "int8"},           {aoti_torch_dtype_int16(), "int16"},
      {aoti_torch_dtype_int32(), "int32"},         {aoti_torch_dtype_int64(), "int64"},
      {aoti_torch_dtype_complex64(), "complex64"}, {aoti_torch_dtype_complex128(), "complex128"},
  };
  for (const auto& type : names) {
    if (type.number == dtype) return type.name;
  }
  return "type number " + std::to_string(dtype); // one that only newer PyTorch may name
}

std::string device_name(int32_t device) {
  const struct { int32_t number; const char* name; } names[] = {
      {aoti_torch_device_type_cpu(), "cpu"},   {aoti_torch_device_type_cuda(), "cuda"},
      {aoti_torch_device_type_meta(), "meta"}, {aoti_torch_device_type_xpu(), "xpu"},
      {aoti_torch_device_type_mps(), "mps"},
  };
  for (const auto& type : names) {
    if (type.number == device) return type.name;
  }
  return "device number " + std::to_string(device);
}

// An owned tensor, or none.
class Tensor {
 public:
  Tensor() = default;
  explicit Tensor(AtenTensorHandle handle) : handle_(handle) {}
  Tensor(Tensor&& other) noexcept : handle_(std::exchange(other.handle_, nullptr)) {}
  Tensor& operator=(Tensor&& other) noexcept {
    std::swap(handle_, other.handle_);
    return *this;
  }
  ~Tensor() {
    if (handle_) report(aoti_torch_delete_tensor_object(handle_), "to free a tensor");
  }

  static Tensor empty(const std::vector<int64_t>& sizes, int32_t dtype) {
    std::vector<int64_t> strides(sizes.size());
    int64_t stride = 1;
    for (size_t i = sizes.size(); i-- > 0;) {
      strides[i] = stride;
      stride *= sizes[i] > 1 ? sizes[i] : 1;
    }
    AtenTensorHandle handle = nullptr;
    ok(aoti_torch_empty_strided(static_cast<int64_t>(sizes.size()), sizes.data(), strides.data(),
                                dtype, aoti_torch_device_type_cpu(), -1, &handle),
       "memory for an output");
    return Tensor(handle);
  }

  explicit operator bool() const { return handle_ != nullptr; }
  AtenTensorHandle get() const { return handle_; }
  AtenTensorHandle release() { return std::exchange(handle_, nullptr); }

  std::vector<int64_t> sizes() const {
    int64_t dim = 0, *sizes = nullptr;
    ok(aoti_torch_get_dim(handle_, &dim), "a tensor's rank");
    ok(aoti_torch_get_sizes(handle_, &sizes), "a tensor's sizes");
    return std::vector<int64_t>(sizes, sizes + dim);
  }
  int32_t dtype() const {
    int32_t dtype = 0;
    ok(aoti_torch_get_dtype(handle_, &dtype), "a tensor's type");
    return dtype;
  }
  void* data() const {
    if (!handle_) return nullptr;
    void* data = nullptr;
    ok(aoti_torch_get_data_ptr(handle_, &data), "a tensor's memory");
    return data;
  }
  void make_contiguous() {
    bool contiguous = false;
    ok(aoti_torch_is_contiguous(handle_, &contiguous), "a tensor's layout");
    if (contiguous) return;
    Tensor copy = empty(sizes(), dtype());
    ok(aoti_torch_copy_(copy.handle_, handle_, 0), "a copy");
    *this = std::move(copy);
  }

 private:
  AtenTensorHandle handle_ = nullptr;
};

// An op's arguments, taken off the stack one after the other: they are ours, whatever happens.
class Arguments {
 public:
  Arguments(StableIValue* stack, std::initializer_list<char> kinds) { // 't'ensor, '?' optional, 'v'alue
    values_.reserve(kinds.size());
    for (const char kind : kinds) {
      const StableIValue raw = stack[values_.size()];
      values_.emplace_back();
      if (kind == 't') {
        values_.back().tensor = Tensor(reinterpret_cast<AtenTensorHandle>(raw));
      } else if (kind == '?' && raw != 0) {
        const std::unique_ptr<StableIValue> inner(reinterpret_cast<StableIValue*>(raw));
        values_.back().tensor = Tensor(reinterpret_cast<AtenTensorHandle>(*inner));
      } else {
        values_.back().value = raw;
      }
    }
  }
  Tensor tensor() { return std::move(values_[next_++].tensor); }
  int64_t integer() { return static_cast<int64_t>(values_[next_++].value); }
  bool boolean() { return (values_[next_++].value & 0xff) != 0; }
  double real() {
    static_assert(sizeof(double) == sizeof(StableIValue), "a float argument is a double");
    double out;
    __builtin_memcpy(&out, &values_[next_++].value, sizeof out);
    return out;
  }

 private:
  struct Value {
    Tensor tensor;
    StableIValue value = 0;
  };
  std::vector<Value> values_;
  size_t next_ = 0;
};

void give(StableIValue* stack, std::initializer_list<Tensor*> outputs) {
  for (Tensor* output : outputs) *stack++ = reinterpret_cast<StableIValue>(output->release());
}

Type type_of(const char* name, const Tensor& t) {
  const int32_t dtype = t.dtype();
  if (dtype == aoti_torch_dtype_float32()) return Type::f32;
  if (dtype == aoti_torch_dtype_bfloat16()) return Type::bf16;
  if (dtype == aoti_torch_dtype_float64()) return Type::f64;
  if (dtype == aoti_torch_dtype_float16()) return Type::f16;
  fail(std::string(name) + " must be float64, float32, bfloat16 or float16, got " +
       dtype_name(dtype));
}

int32_t state_dtype(Type type) {
  return type == Type::f64 ? aoti_torch_dtype_float64() : aoti_torch_dtype_float32();
}

// Checks a tensor that is there, and makes it contiguous: the kernels trust what comes out of here.
void take(const char* name, Tensor& t, const std::vector<int64_t>& sizes, int32_t dtype) {
  if (!t) return;
  if (t.sizes() != sizes) {
    fail(std::string(name) + " must be " + text(sizes) + ", got " + text(t.sizes()));
  }
  if (t.dtype() != dtype) {
    fail(std::string(name) + " must be " + dtype_name(dtype) + ", got " + dtype_name(t.dtype()));
  }
  int32_t device = 0;
  ok(aoti_torch_get_device_type(t.get(), &device), "a tensor's device");
  if (device != aoti_torch_device_type_cpu()) {
    fail(std::string(name) + " must be on cpu, got " + device_name(device));
  }
  t.make_contiguous();
}

// The shape's part that the recurrences share; keeps the bounds and the mask alive.
struct Sequences {
  Tensor mask, cu_seqlens;
  std::vector<int64_t> bounds;

  Shape shape(int64_t L, int64_t B, int64_t D, int64_t directions) {
    if (directions != 1 && directions != 2) {
      fail("num_directions must be 1 or 2, got " + std::to_string(directions));
    }
    if (D % directions != 0) fail("D must be even with two directions, got " + std::to_string(D));
    Shape s{L, B, D, B, static_cast<int32_t>(directions), nullptr, nullptr};
    take("mask", mask, {L, B}, aoti_torch_dtype_bool());
    s.mask = static_cast<const bool*>(mask.data());
    if (cu_seqlens) {
      if (mask) fail("mask must be None beside cu_seqlens");
      if (B != 1) fail("B must be 1 beside cu_seqlens, got " + std::to_string(B));
      read_bounds(L);
      s.R = static_cast<int64_t>(bounds.size()) - 1;
      s.documents = bounds.data();
    }
    return s;
  }

 private:
  void read_bounds(int64_t L) {
    const std::vector<int64_t> sizes = cu_seqlens.sizes();
    if (sizes.size() != 1 || sizes[0] < 1) fail("cu_seqlens must be [N + 1], got " + text(sizes));
    const int32_t dtype = cu_seqlens.dtype();
    const bool wide = dtype == aoti_torch_dtype_int64();
    if (!wide && dtype != aoti_torch_dtype_int32()) {
      fail("cu_seqlens must be int32 or int64, got " + dtype_name(dtype));
    }
    take("cu_seqlens", cu_seqlens, sizes, dtype);
    const void* data = cu_seqlens.data();
    bounds.resize(sizes[0]);
    for (size_t i = 0; i < bounds.size(); ++i) {
      bounds[i] = wide ? static_cast<const int64_t*>(data)[i] : static_cast<const int32_t*>(data)[i];
      if (i == 0 && bounds[0] != 0) {
        fail("cu_seqlens[0] must be 0, got " + std::to_string(bounds[0]));
      }
      if (i > 0 && bounds[i] < bounds[i - 1]) {
        fail("cu_seqlens must not fall, got " + std::to_string(bounds[i - 1]) + " then " +
             std::to_string(bounds[i]) + " at index " + std::to_string(i));
      }
    }
    if (bounds.back() != L) {
      fail("cu_seqlens[" + std::to_string(bounds.size() - 1) + "] must be the number of steps, " +
           std::to_string(L) + ", got " + std::to_string(bounds.back()));
    }
  }
};

// Is this a forked child? OpenMP's threads stay behind in the parent, and a parallel region waits for
// them forever; a thread pool that nobody has used yet would do, but we can't see whether so.
bool forked = false;

// Runs a kernel's shares on PyTorch's threads; small work, and a forked child's, stays on this one.
template <class Args>
void run(void (*kernel)(const Args&, int64_t, int64_t), const Args& args) {
  constexpr int64_t elements_per_thread = 16384; // a thread's wake-up is worth about this many
  const Shape& s = args.shape;
  uint32_t threads = 1;
  if (!forked) ok(torch_get_num_threads(&threads), "the number of threads");
  const int64_t rows = s.L * s.B; // D * rows would fit: the tensors exist
  const int64_t useful = rows * s.D / elements_per_thread;
  const int64_t parts = useful < threads ? (useful > 1 ? useful : 1) : threads;
  if (parts == 1) return kernel(args, 0, 1);
  struct Context {
    void (*kernel)(const Args&, int64_t, int64_t);
    const Args* args;
    int64_t parts;
  } context{kernel, &args, parts};
  const auto body = [](int64_t begin, int64_t end, void* p) {
    const Context& c = *static_cast<Context*>(p);
    for (int64_t part = begin; part < end; ++part) c.kernel(*c.args, part, c.parts);
  };
  ok(torch_parallel_for(0, parts, 1, body, &context), "threads");
}

// ---- SRU -----------------------------------------------------------------------------------------

struct SruInputs {
  Tensor u, x, v, b, c0, out_mask;
  Sequences sequences;

  void take_tensors(Arguments& in) {
    u = in.tensor();
    x = in.tensor();
    v = in.tensor();
    b = in.tensor();
    c0 = in.tensor();
    sequences.mask = in.tensor();
    sequences.cu_seqlens = in.tensor();
    out_mask = in.tensor();
  }

  void fill(SruArgs& a, Arguments& in) {
    const std::vector<int64_t> sizes = u.sizes();
    if (sizes.size() != 4 || (sizes[2] != 3 && sizes[2] != 4)) {
      fail("u must be [L, B, k, D] with k = 3 or 4, got " + text(sizes));
    }
    const int64_t L = sizes[0], B = sizes[1], D = sizes[3];
    a.type = type_of("u", u);
    a.k = static_cast<int32_t>(sizes[2]);
    a.shape = sequences.shape(L, B, D, in.integer());
    a.tanh = in.boolean();
    a.contractive = in.boolean();
    a.alpha = in.real();
    a.v_varies = v && v.sizes().size() == 4;
    if (a.k == 4 && x) fail("x must be None when u holds the highway input (k = 4)");

    const int32_t S = state_dtype(a.type);
    take("u", u, sizes, u.dtype());
    take("x", x, {L, B, D}, u.dtype());
    if (a.v_varies) take("v", v, {L, B, 2, D}, S);
    else take("v", v, {2, D}, S);
    take("b", b, {2, D}, S);
    take("c0", c0, {a.shape.R, D}, S);
    take("out_mask", out_mask, {a.shape.R, D}, S);
    a.u = u.data();
    a.x = x.data();
    a.v = v.data();
    a.b = b.data();
    a.c0 = c0.data();
    a.out_mask = out_mask.data();
  }
};

void sru_forward_op(StableIValue* stack, bool keep_states) {
  Arguments in(stack, {'t', '?', '?', '?', '?', '?', '?', '?', 'v', 'v', 'v', 'v'});
  SruInputs inputs;
  SruForward a{};
  inputs.take_tensors(in);
  inputs.fill(a, in);
  const Shape& s = a.shape;
  const int32_t S = state_dtype(a.type);
  Tensor h = Tensor::empty({s.L, s.B, s.D}, inputs.u.dtype());
  Tensor c_last = Tensor::empty({s.R, s.D}, S), c;
  if (keep_states) c = Tensor::empty({s.L, s.B, s.D}, S);
  a.h = h.data();
  a.c_last = c_last.data();
  a.c = c.data();
  run(kernels().sru_forward, a);
  if (keep_states) give(stack, {&h, &c_last, &c});
  else give(stack, {&h, &c_last});
}

void sru_forward(StableIValue* stack, uint64_t, uint64_t) { sru_forward_op(stack, false); }
void sru_forward_train(StableIValue* stack, uint64_t, uint64_t) { sru_forward_op(stack, true); }

void sru_backward(StableIValue* stack, uint64_t, uint64_t) {
  Arguments in(stack, {'t', '?', 't', '?', '?', '?', '?', '?', '?', '?', 't', 'v', 'v', 'v', 'v'});
  SruInputs inputs;
  SruBackward a{};
  Tensor gh = in.tensor(), gc_last = in.tensor();
  inputs.take_tensors(in);
  Tensor c = in.tensor();
  inputs.fill(a, in);
  const Shape& s = a.shape;
  const int32_t S = state_dtype(a.type), IO = inputs.u.dtype();
  take("gh", gh, {s.L, s.B, s.D}, IO);
  take("gc_last", gc_last, {s.R, s.D}, S);
  take("c", c, {s.L, s.B, s.D}, S);
  const auto like = [](const Tensor& t, int32_t dtype) {
    return t ? Tensor::empty(t.sizes(), dtype) : Tensor::empty({0}, dtype);
  };
  Tensor gu = like(inputs.u, IO), gx = like(inputs.x, IO), gv = like(inputs.v, S);
  Tensor gb = like(inputs.b, S), gout_mask = like(inputs.out_mask, S);
  Tensor gc0 = Tensor::empty({s.R, s.D}, S);
  const std::vector<int64_t> sums_sizes{row_blocks(s), 4, s.D};
  const Tensor sums = Tensor::empty(sums_sizes, aoti_torch_dtype_float64());
  a.c = c.data();
  a.gh = gh.data();
  a.gc_last = gc_last.data();
  a.gu = gu.data();
  a.gx = inputs.x ? gx.data() : nullptr;
  a.gv = inputs.v ? gv.data() : nullptr;
  a.gb = inputs.b ? gb.data() : nullptr;
  a.gc0 = gc0.data();
  a.gout_mask = inputs.out_mask ? gout_mask.data() : nullptr;
  a.sums = static_cast<double*>(sums.data());
  run(kernels().sru_backward, a);
  kernels().sru_reduce(a);
  if (!inputs.c0) gc0 = Tensor::empty({0}, S);
  give(stack, {&gu, &gx, &gv, &gb, &gc0, &gout_mask});
}

// ---- linear recurrence ---------------------------------------------------------------------------

struct LinearInputs {
  Tensor a, b, c0;
  Sequences sequences;

  void take_tensors(Arguments& in) {
    a = in.tensor();
    b = in.tensor();
    c0 = in.tensor();
    sequences.mask = in.tensor();
    sequences.cu_seqlens = in.tensor();
  }

  template <class Args>
  void fill(Args& args, int64_t directions) {
    const std::vector<int64_t> sizes = a.sizes();
    if (sizes.size() != 3) fail("a must be [L, B, D], got " + text(sizes));
    args.type = type_of("a", a);
    args.shape = sequences.shape(sizes[0], sizes[1], sizes[2], directions);
    take("a", a, sizes, a.dtype());
    take("b", b, sizes, a.dtype());
    take("c0", c0, {args.shape.R, sizes[2]}, state_dtype(args.type));
    args.a = a.data();
    args.c0 = c0.data();
  }
};

void linear_forward(StableIValue* stack, uint64_t, uint64_t) {
  Arguments in(stack, {'t', 't', '?', '?', '?', 'v'});
  LinearInputs inputs;
  LinearForward args{};
  inputs.take_tensors(in);
  inputs.fill(args, in.integer());
  const Shape& s = args.shape;
  Tensor c = Tensor::empty({s.L, s.B, s.D}, inputs.a.dtype());
  Tensor c_last = Tensor::empty({s.R, s.D}, state_dtype(args.type));
  args.b = inputs.b.data();
  args.c = c.data();
  args.c_last = c_last.data();
  run(kernels().linear_forward, args);
  give(stack, {&c, &c_last});
}

void linear_backward(StableIValue* stack, uint64_t, uint64_t) {
  Arguments in(stack, {'t', '?', 't', 't', '?', '?', '?', 't', 'v'});
  LinearInputs inputs;
  LinearBackward args{};
  Tensor gc = in.tensor(), gc_last = in.tensor();
  inputs.take_tensors(in);
  Tensor c = in.tensor();
  inputs.fill(args, in.integer());
  const Shape& s = args.shape;
  const int32_t IO = inputs.a.dtype(), S = state_dtype(args.type);
  take("gc", gc, {s.L, s.B, s.D}, IO);
  take("gc_last", gc_last, {s.R, s.D}, S);
  take("c", c, {s.L, s.B, s.D}, IO);
  Tensor ga = Tensor::empty({s.L, s.B, s.D}, IO), gb = Tensor::empty({s.L, s.B, s.D}, IO);
  Tensor gc0 = Tensor::empty({s.R, s.D}, S);
  args.c = c.data();
  args.gc = gc.data();
  args.gc_last = gc_last.data();
  args.ga = ga.data();
  args.gb = gb.data();
  args.gc0 = gc0.data();
  run(kernels().linear_backward, args);
  if (!inputs.c0) gc0 = Tensor::empty({0}, S);
  give(stack, {&ga, &gb, &gc0});
}

// ---- registration, when the library is loaded ----------------------------------------------------

#define SRU_INPUTS \
  "Tensor u, Tensor? x, Tensor? v, Tensor? b, Tensor? c0, " \
  "Tensor? mask, Tensor? cu_seqlens, Tensor? out_mask"
#define SRU_OPTIONS "int num_directions, bool tanh, bool contractive, float alpha"
#define LINEAR_INPUTS "Tensor a, Tensor b, Tensor? c0, Tensor? mask, Tensor? cu_seqlens"

// The same text as in ops/sru/__init__.py and ops/scan/__init__.py, where the library is absent.
const struct {
  const char* schema;
  const char* name;
  void (*function)(StableIValue*, uint64_t, uint64_t);
} ops[] = {
    {"sru_forward(" SRU_INPUTS ", " SRU_OPTIONS ") -> (Tensor h, Tensor c_last)",
     "sru_forward", sru_forward},
    {"sru_forward_train(" SRU_INPUTS ", " SRU_OPTIONS ") -> (Tensor h, Tensor c_last, Tensor c)",
     "sru_forward_train", sru_forward_train},
    {"sru_backward(Tensor gh, Tensor? gc_last, " SRU_INPUTS ", Tensor c, " SRU_OPTIONS ") -> "
     "(Tensor gu, Tensor gx, Tensor gv, Tensor gb, Tensor gc0, Tensor gout_mask)",
     "sru_backward", sru_backward},
    {"linear_forward(" LINEAR_INPUTS ", int num_directions) -> (Tensor c, Tensor c_last)",
     "linear_forward", linear_forward},
    {"linear_forward_train(" LINEAR_INPUTS ", int num_directions) -> (Tensor c, Tensor c_last)",
     "linear_forward_train", linear_forward},
    {"linear_backward(Tensor gc, Tensor? gc_last, " LINEAR_INPUTS ", Tensor c, "
     "int num_directions) -> (Tensor ga, Tensor gb, Tensor gc0)",
     "linear_backward", linear_backward},
};

// An owned handle of ops' definitions or implementations; when it goes, they go.
class Library {
 public:
  Library() = default;
  Library(const Library&) = delete;
  Library& operator=(const Library&) = delete;
  ~Library() {
    if (handle_) report(aoti_torch_delete_library_object(handle_), "to take back ops");
  }
  TorchLibraryHandle* fill() { return &handle_; }
  TorchLibraryHandle get() const { return handle_; }
  void keep() { handle_ = nullptr; } // for the process's life

 private:
  TorchLibraryHandle handle_ = nullptr;
};

// Registers every op or, if PyTorch refuses one, none: an error then takes back what was there, so
// that Python can define the ops under the same names.
void register_ops() {
  Library definitions, implementations; // implementations go first
  ok(aoti_torch_library_init_def("torchsru", __FILE__, __LINE__, definitions.fill()),
     "the namespace torchsru, perhaps because another copy of this library is loaded");
  ok(aoti_torch_library_init_impl("torchsru", "CPU", __FILE__, __LINE__, implementations.fill()),
     "the CPU's ops");
  for (const auto& op : ops) {
    ok(aoti_torch_library_def(definitions.get(), op.schema), op.name);
    ok(torch_library_impl(implementations.get(), op.name, op.function, kTorchVersion), op.name);
  }
  if (pthread_atfork(nullptr, nullptr, [] { forked = true; }) != 0) {
    fail("torchsru: no memory to be told of a fork");
  }
  definitions.keep();
  implementations.keep();
}

// Runs while the library is loaded, where an exception would end the process.
const std::string load_error = []() -> std::string {
  try {
    register_ops();
    return "";
  } catch (const std::exception& error) {
    return error.what();
  }
}();

} // namespace
} // namespace torchsru

// Why no op is registered, or null if all are.
extern "C" __attribute__((visibility("default"))) const char* torchsru_load_error() {
  return torchsru::load_error.empty() ? nullptr : torchsru::load_error.c_str();
}

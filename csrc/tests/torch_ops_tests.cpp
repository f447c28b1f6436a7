// torch_ops.cpp beside a PyTorch that fails when told to: registration is all or nothing, errors
// leave no tensor behind, and no return code is lost. Run under the sanitizers.
// Exit  0, or 1 after printing what failed

#include <unistd.h>

#include <cstdlib>
#include <cstring>

// what the registration at start-up finds, so constant from the start
static int tensors = 0, libraries = 0, kept_ops = 0; // alive
static int registrations_until_error = -1;           // negative: none fails
static bool deletes_fail = false;

#include "../torch_ops.cpp"

// ---- a PyTorch of our own: tensors on the heap, registrations and frees that fail when told to ---

struct AtenTensorOpaque {
  std::vector<int64_t> sizes;
  int32_t dtype;
  std::vector<double> memory; // enough for every type
};
struct TorchLibraryOpaque {};

namespace {

AOTITorchError next_registration() { return registrations_until_error-- == 0; }

int failures = 0;
void check(bool good, const char* what) {
  if (good) return;
  ++failures;
  std::printf("FAILED %s\n", what);
}

} // namespace

extern "C" {

static AOTITorchError new_library(TorchLibraryHandle* ret) {
  if (next_registration()) return 1;
  ++libraries;
  static TorchLibraryOpaque library;
  *ret = &library;
  return 0;
}
AOTITorchError aoti_torch_library_init_def(
    const char*, const char*, uint32_t, TorchLibraryHandle* ret) {
  return new_library(ret);
}
AOTITorchError aoti_torch_library_init_impl(
    const char*, const char*, const char*, uint32_t, TorchLibraryHandle* ret) {
  return new_library(ret);
}
AOTITorchError aoti_torch_library_def(TorchLibraryHandle, const char*) {
  return next_registration();
}
AOTITorchError torch_library_impl(
    TorchLibraryHandle, const char*, void (*)(StableIValue*, uint64_t, uint64_t), uint64_t) {
  if (next_registration()) return 1;
  ++kept_ops;
  return 0;
}
AOTITorchError aoti_torch_delete_library_object(TorchLibraryHandle) {
  --libraries;
  kept_ops = 0;
  return deletes_fail;
}

AOTITorchError aoti_torch_delete_tensor_object(AtenTensorHandle tensor) {
  --tensors;
  delete tensor;
  return deletes_fail;
}
AOTITorchError aoti_torch_get_dim(AtenTensorHandle tensor, int64_t* ret) {
  *ret = static_cast<int64_t>(tensor->sizes.size());
  return 0;
}
AOTITorchError aoti_torch_get_sizes(AtenTensorHandle tensor, int64_t** ret) {
  *ret = tensor->sizes.data();
  return 0;
}
AOTITorchError aoti_torch_get_dtype(AtenTensorHandle tensor, int32_t* ret) {
  *ret = tensor->dtype;
  return 0;
}
AOTITorchError aoti_torch_get_device_type(AtenTensorHandle, int32_t* ret) {
  *ret = aoti_torch_device_type_cpu();
  return 0;
}
AOTITorchError aoti_torch_is_contiguous(AtenTensorHandle, bool* ret) {
  *ret = true;
  return 0;
}
AOTITorchError aoti_torch_get_data_ptr(AtenTensorHandle tensor, void** ret) {
  *ret = tensor->memory.data();
  return 0;
}
AOTITorchError aoti_torch_empty_strided(
    int64_t ndim, const int64_t* sizes, const int64_t*, int32_t dtype, int32_t, int32_t,
    AtenTensorHandle* ret) {
  int64_t n = 1;
  for (int64_t i = 0; i < ndim; ++i) n *= sizes[i];
  ++tensors;
  *ret = new AtenTensorOpaque{std::vector<int64_t>(sizes, sizes + ndim), dtype,
                              std::vector<double>(n)};
  return 0;
}
AOTITorchError aoti_torch_copy_(AtenTensorHandle, AtenTensorHandle, int32_t) { return 1; }

int32_t aoti_torch_device_type_cpu() { return 0; }
int32_t aoti_torch_device_type_cuda() { return 1; }
int32_t aoti_torch_device_type_meta() { return 2; }
int32_t aoti_torch_device_type_xpu() { return 3; }
int32_t aoti_torch_device_type_mps() { return 4; }
int32_t aoti_torch_dtype_float64() { return 0; }
int32_t aoti_torch_dtype_float32() { return 1; }
int32_t aoti_torch_dtype_bfloat16() { return 2; }
int32_t aoti_torch_dtype_float16() { return 3; }
int32_t aoti_torch_dtype_bool() { return 4; }
int32_t aoti_torch_dtype_uint8() { return 5; }
int32_t aoti_torch_dtype_int8() { return 6; }
int32_t aoti_torch_dtype_int16() { return 7; }
int32_t aoti_torch_dtype_int32() { return 8; }
int32_t aoti_torch_dtype_int64() { return 9; }
int32_t aoti_torch_dtype_complex64() { return 10; }
int32_t aoti_torch_dtype_complex128() { return 11; }

AOTITorchError torch_get_num_threads(uint32_t* ret) {
  *ret = 1;
  return 0;
}
AOTITorchError torch_parallel_for(int64_t, int64_t, int64_t, ParallelFunc, void*) { return 1; }

} // extern "C"

// ---- tests ---------------------------------------------------------------------------------------

namespace {

using namespace torchsru;

std::string refusal(int after) {
  registrations_until_error = after;
  try {
    register_ops();
  } catch (const std::runtime_error& error) {
    return error.what();
  }
  return "";
}

void test_registration_is_all_or_nothing() {
  const int number = sizeof ops / sizeof *ops, calls = 2 + 2 * number;
  check(!torchsru_load_error() && kept_ops == number, "every op is there after loading");
  libraries = kept_ops = 0;
  for (int i = 0; i < calls; ++i) {
    const std::string why = refusal(i);
    const std::string refused = i < 2 ? "" : ops[(i - 2) / 2].name;
    check(why.find("torchsru: PyTorch refused " + refused) == 0, "the error names what was refused");
    check(libraries == 0 && kept_ops == 0, "an error takes back every op");
  }
  check(refusal(-1).empty() && libraries == 2 && kept_ops == number, "all ops are kept");
}

StableIValue tensor(std::vector<int64_t> sizes, int32_t dtype) {
  return reinterpret_cast<StableIValue>(
      Tensor::empty(std::move(sizes), dtype).release());
}
StableIValue optional(StableIValue value) {
  return reinterpret_cast<StableIValue>(new StableIValue(value));
}

// sru_forward of u [2, 3, 3, 4] and an x; what it throws, or "".
std::string forward(std::vector<int64_t> x_sizes, int32_t x_dtype) {
  const int32_t f32 = aoti_torch_dtype_float32();
  const double alpha = 1;
  StableIValue stack[12] = {tensor({2, 3, 3, 4}, f32), optional(tensor(std::move(x_sizes), x_dtype))};
  stack[8] = 1;
  std::memcpy(&stack[11], &alpha, sizeof alpha);
  try {
    sru_forward(stack, 12, 2);
  } catch (const std::runtime_error& error) {
    return error.what();
  }
  for (int i = 0; i < 2; ++i) Tensor(reinterpret_cast<AtenTensorHandle>(stack[i])); // h, c
  return "";
}

void test_a_call_leaves_no_tensor_behind() {
  check(forward({2, 3, 4}, aoti_torch_dtype_float32()).empty(), "a good call runs");
  check(tensors == 0, "a good call frees its inputs");
  check(forward({2, 3, 5}, aoti_torch_dtype_float32()) == "x must be [2, 3, 4], got [2, 3, 5]",
        "a wrong size is named");
  check(forward({2, 3, 4}, aoti_torch_dtype_int64()) == "x must be float32, got int64",
        "a wrong type is named");
  check(tensors == 0, "an error frees the inputs");
}

std::string stderr_of(void (*body)()) {
  std::FILE* file = std::tmpfile();
  if (!file) std::abort();
  std::fflush(stderr);
  const int before = dup(2);
  dup2(fileno(file), 2);
  body();
  std::fflush(stderr);
  dup2(before, 2);
  close(before);
  std::rewind(file);
  std::string out(4096, '\0');
  out.resize(std::fread(&out[0], 1, out.size(), file));
  std::fclose(file);
  return out;
}

void test_what_a_destructor_is_refused_is_reported() {
  deletes_fail = true;
  check(stderr_of([] { Tensor::empty({1}, 0); }) == "torchsru: PyTorch refused to free a tensor\n",
        "a tensor that can't be freed is reported");
  const std::string twice = stderr_of([] { refusal(2); });
  check(twice == "torchsru: PyTorch refused to take back ops\n"
                 "torchsru: PyTorch refused to take back ops\n",
        "ops that can't be taken back are reported");
  deletes_fail = false;
  check(stderr_of([] { Tensor::empty({1}, 0); }).empty(), "else nothing is printed");
}

} // namespace

int main() {
  test_registration_is_all_or_nothing();
  test_a_call_leaves_no_tensor_behind();
  test_what_a_destructor_is_refused_is_reported();
  std::printf(failures ? "%d failures\n" : "passed\n", failures);
  return failures ? 1 : 0;
}

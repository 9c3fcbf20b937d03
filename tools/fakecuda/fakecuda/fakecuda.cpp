// A CUDA device for the CPU build of PyTorch, made of ordinary memory. See README.md.
//
// Tensors on it have the device type, dispatch keys and generators of CUDA. An operation without a composite kernel
// comes to `fallback`, which looks at devices and types as CUDA does, hands CPU tensors on the same memory to the
// CPU kernel, and gives the results back as tensors on the device.
#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/EmptyTensor.h>
#include <ATen/detail/CUDAHooksInterface.h>
#include <ATen/native/Resize.h>
#include <ATen/native/TensorFactories.h>
#include <ATen/ops/set_native.h>
#include <c10/core/CPUAllocator.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <torch/library.h>

#include <atomic>
#include <chrono>
#include <limits>
#include <map>
#include <mutex>
#include <unordered_set>

#include "tables.h"  // HAS_CUDA, NO_CHECK: names of operators, from native_functions.yaml

using at::Tensor;
using c10::Device;
using c10::DispatchKey;
using c10::DispatchKeySet;
using c10::IValue;
using c10::Storage;
using c10::StorageImpl;

namespace {

const Device GPU(c10::DeviceType::CUDA, 0);
const DispatchKeySet MODIFIERS{DispatchKey::Conjugate, DispatchKey::Negative, DispatchKey::ZeroTensor};

// ---------------------------------------------------------------- memory

std::atomic<int64_t> held{0}, peak{0}, limit{std::numeric_limits<int64_t>::max()};

void check_memory(int64_t bytes) {
  TORCH_CHECK_WITH(OutOfMemoryError, held + bytes <= limit, "CUDA out of memory. Tried to allocate ", bytes,
                   " bytes. GPU 0 has a total capacity of ", limit.load(), " bytes of which ", limit - held,
                   " bytes are free.");
}

struct Block {  // owns memory that came from the CPU allocator, and counts it as device memory
  c10::DataPtr data;
  int64_t bytes;
  Block(c10::DataPtr data, int64_t bytes) : data(std::move(data)), bytes(bytes) {
    check_memory(bytes);
    int64_t now = held += bytes, old = peak;
    while (now > old && !peak.compare_exchange_weak(old, now)) {}
  }
  ~Block() { held -= bytes; }
  static void remove(void* block) { delete static_cast<Block*>(block); }
};

c10::DataPtr on_device(c10::DataPtr data, size_t bytes) {
  void* pointer = data.get();
  return {pointer, new Block(std::move(data), bytes), &Block::remove, GPU};
}

struct Allocator final : c10::Allocator {
  c10::DataPtr allocate(size_t n) override {
    check_memory(n);
    return on_device(c10::GetCPUAllocator()->allocate(n), n);
  }
  void copy_data(void* to, const void* from, size_t n) const override { default_copy_data(to, from, n); }
} allocator;

// ---------------------------------------------------------------- device, generator, hooks

struct Guard final : c10::impl::DeviceGuardImplInterface {
  c10::DeviceType type() const override { return c10::DeviceType::CUDA; }
  Device exchangeDevice(Device) const override { return GPU; }
  Device getDevice() const override { return GPU; }
  void setDevice(Device) const override {}
  void uncheckedSetDevice(Device) const noexcept override {}
  c10::Stream getStream(Device) const override { return c10::Stream(c10::Stream::DEFAULT, GPU); }
  c10::Stream getDefaultStream(Device) const override { return c10::Stream(c10::Stream::DEFAULT, GPU); }
  c10::Stream exchangeStream(c10::Stream) const override { return c10::Stream(c10::Stream::DEFAULT, GPU); }
  c10::DeviceIndex deviceCount() const noexcept override { return 1; }
  void record(void**, const c10::Stream&, const c10::DeviceIndex, const c10::EventFlag) const override {}
  void block(void*, const c10::Stream&) const override {}
  bool queryEvent(void*) const override { return true; }
  bool queryStream(const c10::Stream&) const override { return true; }
  void synchronizeStream(const c10::Stream&) const override {}
};

struct Generator final : c10::GeneratorImpl {  // of the device, drawing from a CPU generator of its own
  at::Generator cpu;
  explicit Generator(at::Generator cpu = at::detail::createCPUGenerator())
      : GeneratorImpl(GPU, DispatchKeySet(DispatchKey::CUDA)), cpu(std::move(cpu)) {}
  void set_current_seed(uint64_t seed) override { cpu.set_current_seed(seed); }
  void set_offset(uint64_t) override {}
  uint64_t get_offset() const override { return 0; }
  uint64_t current_seed() const override { return cpu.current_seed(); }
  uint64_t seed() override { return cpu.seed(); }
  void set_state(const c10::TensorImpl& state) override { cpu.unsafeGetGeneratorImpl()->set_state(state); }
  c10::intrusive_ptr<c10::TensorImpl> get_state() const override { return cpu.unsafeGetGeneratorImpl()->get_state(); }
  Generator* clone_impl() const override { return new Generator(cpu.clone()); }
};

const at::Generator& default_generator() {
  static at::Generator generator(c10::make_intrusive<Generator>());
  return generator;
}

}  // namespace

namespace at {
struct CUDAHooks final : CUDAHooksInterface {
  explicit CUDAHooks(CUDAHooksArgs) {}
  void init() const override {}
  bool hasCUDA() const override { return true; }
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return true; }
  bool hasPrimaryContext(DeviceIndex) const override { return true; }
  const at::Generator& getDefaultGenerator(DeviceIndex) const override { return default_generator(); }
  at::Generator getNewGenerator(DeviceIndex) const override {
    return at::Generator(c10::make_intrusive<::Generator>());
  }
  Device getDeviceFromPtr(void*) const override { return GPU; }
  DeviceIndex current_device() const override { return 0; }
  DeviceIndex deviceCount() const override { return 1; }
  DeviceIndex getCurrentDevice() const override { return 0; }
  void setCurrentDevice(DeviceIndex) const override {}
  DeviceIndex exchangeDevice(DeviceIndex) const override { return 0; }
  DeviceIndex maybeExchangeDevice(DeviceIndex) const override { return 0; }
  c10::Allocator* getPinnedMemoryAllocator() const override { return c10::GetCPUAllocator(); }
  c10::Allocator* getCUDADeviceAllocator() const override { return &::allocator; }
  int getNumGPUs() const override { return 1; }
  void deviceSynchronize(DeviceIndex) const override {}
};
REGISTER_CUDA_HOOKS(CUDAHooks);
}  // namespace at

namespace {

// ---------------------------------------------------------------- CPU tensors on the memory of the device, and back

Tensor tensor_like(const Tensor& t, Storage storage, DispatchKey backend) {
  auto keys = DispatchKeySet(backend) | (t.key_set() & MODIFIERS);
  auto made = at::detail::make_tensor<c10::TensorImpl>(std::move(storage), keys, t.dtype());
  auto* impl = made.unsafeGetTensorImpl();
  impl->set_sizes_and_strides(t.sizes(), t.strides(), t.storage_offset());
  if (t.unsafeGetTensorImpl()->is_wrapped_number()) impl->set_wrapped_number(true);
  return made;
}

bool is_plain(const Tensor& t) { return t.defined() && t.layout() == c10::kStrided && !t.is_quantized(); }
bool is_gpu(const Tensor& t) { return t.defined() && t.device().type() == c10::DeviceType::CUDA; }

class Aliases {
 public:
  Tensor to_cpu(const Tensor& t) {
    if (!is_gpu(t)) return t;
    TORCH_CHECK(is_plain(t), "fakecuda: only dense tensors");
    for (auto& [gpu, cpu] : tensors)
      if (gpu.is_same(t)) return cpu;
    auto cpu = tensor_like(t, cpu_storage(t.storage()), DispatchKey::CPU);
    tensors.emplace_back(t, cpu);
    return cpu;
  }

  // What a kernel returned: an argument, a view of one, or something new.
  Tensor to_gpu(const Tensor& t) {
    if (!t.defined()) return t;
    for (auto& [gpu, cpu] : tensors)
      if (cpu.is_same(t)) return gpu;
    for (auto& argument : arguments)
      if (argument.is_same(t)) return t;  // such as the CPU side of a copy
    return tensor_like(t, gpu_storage(t.storage()), DispatchKey::CUDA);
  }

  void keep(const Tensor& t) { arguments.push_back(t); }

  // Carry over what a kernel did to the shape or the size of its arguments.
  void update() {
    for (auto& [gpu, cpu] : tensors) {
      auto* from = cpu.storage().unsafeGetStorageImpl();
      auto* to = gpu.storage().unsafeGetStorageImpl();
      if (from->data() != to->data()) {
        auto bytes = from->nbytes();
        to->set_data_ptr_noswap(on_device(from->set_data_ptr(c10::DataPtr()), bytes));
        to->set_nbytes(bytes);
        from->set_data_ptr_noswap(c10::DataPtr(to->mutable_data(), c10::kCPU));
      }
      if (cpu.sizes() != gpu.sizes() || cpu.strides() != gpu.strides() || cpu.storage_offset() != gpu.storage_offset())
        gpu.unsafeGetTensorImpl()->set_sizes_and_strides(cpu.sizes(), cpu.strides(), cpu.storage_offset());
    }
  }

 private:
  std::vector<std::pair<Tensor, Tensor>> tensors;    // on the device, on the CPU
  std::vector<std::pair<Storage, Storage>> storages;
  std::vector<Tensor> arguments;

  Storage cpu_storage(const Storage& gpu) {
    for (auto& [a, b] : storages)
      if (a.unsafeGetStorageImpl() == gpu.unsafeGetStorageImpl()) return b;
    void* data = const_cast<void*>(gpu.data());
    Storage cpu(c10::make_intrusive<StorageImpl>(StorageImpl::use_byte_size_t(), gpu.nbytes(),
        c10::DataPtr(data, c10::kCPU), c10::GetCPUAllocator(), true));
    storages.emplace_back(gpu, cpu);
    return cpu;
  }

  Storage gpu_storage(const Storage& cpu) {
    for (auto& [a, b] : storages)
      if (b.unsafeGetStorageImpl() == cpu.unsafeGetStorageImpl()) return a;
    auto* owner = new Storage(cpu);
    void* data = const_cast<void*>(cpu.data());
    auto release = [](void* s) { delete static_cast<Storage*>(s); };
    Storage gpu(c10::make_intrusive<StorageImpl>(StorageImpl::use_byte_size_t(), cpu.nbytes(),
        on_device(c10::DataPtr(data, owner, release, c10::kCPU), cpu.nbytes()), &allocator, true));
    storages.emplace_back(gpu, cpu);
    return gpu;
  }
};

// ---------------------------------------------------------------- what CUDA refuses

template <class F>
void each_tensor(const IValue& v, F f) {
  if (v.isTensor()) f(v.toTensor());
  else if (v.isTensorList()) for (const Tensor& t : v.toTensorVector()) f(t);
  else if (v.isOptionalTensorList())
    for (const auto& t : v.toOptionalTensorVector())
      if (t) f(*t);
}

// Matrix products have no kernels for integers; the loose ones below take indices, or copy, from another device.
const std::unordered_set<std::string> PRODUCTS{"aten::mm.out", "aten::bmm.out", "aten::addmm.out", "aten::baddbmm.out",
    "aten::addbmm", "aten::addmv.out", "aten::dot", "aten::vdot", "aten::addr.out"};
const std::unordered_set<std::string> ANY_DEVICE{"aten::copy_", "aten::index.Tensor_out", "aten::_index_put_impl_"};

void check(const std::string& name, const c10::FunctionSchema& schema, const std::vector<IValue>& arguments) {
  TORCH_CHECK_NOT_IMPLEMENTED(
      HAS_CUDA.count(name) || name.rfind("aten::", 0) != 0,
      "Could not run '", name, "' with arguments from the 'CUDA' backend.");
  const bool loose = NO_CHECK.count(name), any = ANY_DEVICE.count(name), product = PRODUCTS.count(name);
  for (size_t i = 0; i < arguments.size(); ++i)
    each_tensor(arguments[i], [&](const Tensor& t) {
      if (!t.defined()) return;
      if (is_gpu(t)) {
        TORCH_CHECK(!product || !c10::isIntegralType(t.scalar_type(), true),
                    "\"", name.substr(6), "_cuda\" not implemented for '", toString(t.scalar_type()), "'");
      } else if (!any && !(loose && t.dim() == 0)) {
        TORCH_CHECK(false, "Expected all tensors to be on the same device, but got ", schema.arguments()[i].name(),
                    " is on ", t.device(), ", different from other tensors on cuda:0 (when checking argument in method ",
                    "wrapper_CUDA_", name.substr(6), ")");
      }
    });
  if (name == "aten::_index_put_impl_") {
    const Tensor &self = arguments[0].toTensor(), &values = arguments[2].toTensor();
    TORCH_CHECK(is_gpu(self), "indices should be either on cpu or on the same device as the indexed tensor (cpu)");
    TORCH_CHECK(is_gpu(values) || (values.dim() == 0 && !arguments[3].toBool()),
                "Expected all tensors to be on the same device, but found at least two devices, cuda:0 and cpu!");
  }
}

// ---------------------------------------------------------------- the kernel of everything

struct Cost {  // of the calls of one operator: what they would ask of a real GPU, and what they took here
  int64_t calls = 0, kernels = 0, waits = 0, uploads = 0, nanoseconds = 0;
};

std::mutex mutex;
std::map<std::string, Cost> costs;

bool is_mask(const Tensor& t) { return t.scalar_type() == at::kBool || t.scalar_type() == at::kByte; }

void count(Cost& cost, const c10::OperatorHandle& op, const std::string& name,
           const std::vector<IValue>& arguments) {
  const auto& schema = op.schema();
  ++cost.calls;
  if (name == "aten::copy_" && !is_gpu(arguments[0].toTensor())) { ++cost.waits; return; }
  if (name == "aten::copy_" && !is_gpu(arguments[1].toTensor())) { ++cost.uploads; return; }
  if (name == "aten::_local_scalar_dense") { ++cost.waits; return; }
  const auto* alias = schema.returns().empty() ? nullptr : schema.returns()[0].alias_info();
  if (name == "aten::resize_" || (alias && !alias->isWrite())) return;  // looks at the same memory: no kernel
  ++cost.kernels;
  if (name == "aten::_index_put_impl_") {  // its own kernel counts masks and brings indices to the device
    const Tensor& values = arguments[2].toTensor();
    bool masked = false;
    each_tensor(arguments[1], [&](const Tensor& t) {
      if (!is_gpu(t)) ++cost.uploads;
      else masked |= is_mask(t);
    });
    if (!is_gpu(values) && !masked) ++cost.uploads;
    if (masked && is_gpu(values)) ++cost.kernels, ++cost.waits;  // one CPU number needs no positions: masked_fill
  } else if (op.hasTag(at::Tag::data_dependent_output)) {
    ++cost.waits;
  } else if (op.hasTag(at::Tag::dynamic_output_shape) && name != "aten::index.Tensor") {  // which calls nonzero
    const auto size = schema.argumentIndexWithName("output_size");
    if (!size || arguments[*size].isNone()) ++cost.waits;
  }
}

void fallback(const c10::OperatorHandle& op, DispatchKeySet, torch::jit::Stack* stack) {
  const auto& schema = op.schema();
  const size_t n = schema.arguments().size();
  const auto name = toString(op.operator_name());
  const std::vector<IValue> arguments(stack->end() - n, stack->end());
  check(name, schema, arguments);

  Aliases aliases;
  at::Generator locked;
  for (size_t i = 0; i < n; ++i) {
    IValue& v = (*stack)[stack->size() - n + i];
    if (v.isTensor()) {
      if (!is_gpu(v.toTensor())) aliases.keep(v.toTensor());
      v = aliases.to_cpu(v.toTensor());
    } else if (v.isTensorList()) {
      c10::List<Tensor> list;
      for (const Tensor& t : v.toTensorVector()) list.push_back(aliases.to_cpu(t));
      v = list;
    } else if (v.isOptionalTensorList()) {
      c10::List<std::optional<Tensor>> list;
      for (const auto& t : v.toOptionalTensorVector()) list.push_back(t ? std::optional(aliases.to_cpu(*t)) : t);
      v = list;
    } else if (v.isDevice() && v.toDevice().is_cuda()) {
      v = Device(c10::kCPU);
    } else if (v.isGenerator() || (v.isNone() && schema.arguments()[i].name() == "generator")) {
      const auto generator = v.isGenerator() ? v.toGenerator() : default_generator();
      TORCH_CHECK(generator.device().is_cuda(), "Expected a 'cuda' device type for generator but found '",
                  generator.device().type(), "'");
      v = static_cast<Generator*>(generator.unsafeGetGeneratorImpl())->cpu;
    }
  }
  const auto start = std::chrono::steady_clock::now();
  op.redispatchBoxed(DispatchKeySet(DispatchKey::CPU), stack);
  const int64_t took = std::chrono::nanoseconds(std::chrono::steady_clock::now() - start).count();
  {
    std::lock_guard<std::mutex> lock(mutex);
    auto& cost = costs[name];
    count(cost, op, name, arguments);
    cost.nanoseconds += took;
  }
  aliases.update();
  const size_t results = schema.returns().size();
  for (size_t i = 0; i < results; ++i) {
    IValue& v = (*stack)[stack->size() - results + i];
    if (v.isTensor()) {
      v = aliases.to_gpu(v.toTensor());
    } else if (v.isTensorList()) {
      c10::List<Tensor> list;
      for (const Tensor& t : v.toTensorVector()) list.push_back(aliases.to_gpu(t));
      v = list;
    }
  }
}

// ---------------------------------------------------------------- what cannot come from the CPU's kernel

void look_at(std::optional<Device> device) {
  TORCH_CHECK(!device || device->index() <= 0, "CUDA error: invalid device ordinal");
}

Tensor empty(c10::IntArrayRef size, std::optional<at::ScalarType> dtype, std::optional<at::Layout> layout,
             std::optional<Device> device, std::optional<bool> pin, std::optional<at::MemoryFormat> format) {
  look_at(device);
  TORCH_CHECK(at::layout_or_default(layout) == c10::kStrided, "fakecuda: only dense tensors");
  TORCH_CHECK(!at::pinned_memory_or_default(pin), "Only dense CPU tensors can be pinned");
  const DispatchKeySet keys(DispatchKey::CUDA);
  return at::detail::empty_generic(size, &allocator, keys, at::dtype_or_default(dtype), format);
}

Tensor empty_strided(c10::IntArrayRef size, c10::IntArrayRef stride, std::optional<at::ScalarType> dtype,
                     std::optional<at::Layout>, std::optional<Device> device, std::optional<bool>) {
  look_at(device);
  const DispatchKeySet keys(DispatchKey::CUDA);
  return at::detail::empty_strided_generic(size, stride, &allocator, keys, at::dtype_or_default(dtype));
}

Tensor zero_tensor(c10::IntArrayRef size, std::optional<at::ScalarType> dtype, std::optional<at::Layout>,
                   std::optional<Device>, std::optional<bool>) {
  static at::native::ZeroTensorAllocator none(GPU);
  auto keys = DispatchKeySet(DispatchKey::CUDA) | DispatchKeySet(DispatchKey::ZeroTensor);
  return at::detail::empty_generic(size, &none, keys, at::dtype_or_default(dtype), std::nullopt);
}

Tensor& set_storage(Tensor& t, Storage source, int64_t offset, c10::IntArrayRef size, c10::IntArrayRef stride) {
  auto* impl = t.unsafeGetTensorImpl();
  impl->set_storage_keep_dtype(std::move(source));
  impl->set_storage_offset(offset);
  at::native::resize_impl_cpu_(impl, size, stride.data() ? at::OptionalIntArrayRef(stride) : at::OptionalIntArrayRef());
  return t;
}

Tensor& set_empty(Tensor& t) {
  return set_storage(t, Storage(Storage::use_byte_size_t(), 0, &allocator, true), 0, {0}, {});
}

int64_t attention_by_products(const Tensor&, const Tensor&, const Tensor&, const std::optional<Tensor>&, double, bool,
                              std::optional<double>, bool) { return 0; }

std::vector<std::string> read_costs() {  // lines of an operator and its cost, with tabs
  std::lock_guard<std::mutex> lock(mutex);
  std::vector<std::string> out;
  for (const auto& [name, cost] : costs) {
    std::string line = name;
    for (int64_t n : {cost.calls, cost.kernels, cost.waits, cost.uploads, cost.nanoseconds})
      line += "\t" + std::to_string(n);
    out.push_back(line);
  }
  return out;
}

void synchronize() {
  std::lock_guard<std::mutex> lock(mutex);
  auto& cost = costs["synchronize"];
  ++cost.calls, ++cost.waits;
}

std::vector<int64_t> read_memory(bool reset) {  // bytes held, the most that were held, and the limit
  std::vector<int64_t> out{held, peak, limit};
  if (reset) peak = held.load();
  return out;
}

static const bool registered = [] { c10::SetAllocator(c10::DeviceType::CUDA, &allocator); return true; }();
static c10::impl::DeviceGuardImplRegistrar guard(c10::DeviceType::CUDA, new Guard());

TORCH_LIBRARY_IMPL(_, CUDA, m) { m.fallback(torch::CppFunction::makeFromBoxedFunction<&fallback>()); }

TORCH_LIBRARY_IMPL(aten, CUDA, m) {
  m.impl("empty.memory_format", &empty);
  m.impl("empty_strided", &empty_strided);
  m.impl("_efficientzerotensor", &zero_tensor);
  m.impl("set_.source_Storage_storage_offset", &set_storage);
  m.impl("set_.source_Storage", &at::native::set_);
  m.impl("set_.source_Tensor", &at::native::set_tensor_);
  m.impl("set_", &set_empty);
  m.impl("_fused_sdp_choice", &attention_by_products);
  m.impl("copy_", torch::CppFunction::makeFromBoxedFunction<&fallback>());
}

TORCH_LIBRARY(fakecuda, m) {
  m.def("default_generator() -> Generator?", [] { return std::optional(default_generator()); });
  m.def("costs() -> str[]", &read_costs);
  m.def("synchronize() -> ()", &synchronize);
  m.def("memory(bool reset) -> int[]", &read_memory);
  m.def("limit_memory(int bytes) -> ()", [](int64_t bytes) { limit = bytes; });
}

}  // namespace

// SPDX-License-Identifier: Apache-2.0
// snnfast._core: the CPU backend for Python. Tensors cross as pointers and sizes, which snnfast.backends has checked;
// nothing here knows torch, so one build serves every torch release.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>
#include <pybind11/typing.h>

#include <optional>

#include "bind/addresses.h"
#include "bind/fast_call.h"
#include "bind/network_spec.h"
#include "bind/run_plan.h"
#include "bind/take_lock.h"
#include "core/float_mode.h"
#include "cpu/dispatch.h"
#include "cpu/measure_ceiling.h"
#include "cpu/plan.h"
#include "cpu/thread_pool.h"

namespace py = pybind11;
using namespace snnfast;

namespace {

[[noreturn]] void throw_not_finite(const float* x, int64_t i, int64_t n) {
  const char* value = std::isnan(x[i]) ? "nan" : x[i] > 0 ? "inf" : "-inf";
  throw py::value_error("observations must be finite, got " + std::string(value) + " at sample " +
                        std::to_string(i / n) + ", feature " + std::to_string(i % n));
}

// The quick way to a decision, or `fallback` itself for a network with very many outputs.
py::object fast_act(const py::object& plan, const py::object& fallback, const py::object& tensor_type) {
  const Plan& p = plan.cast<const Plan&>();
  if (p.n_out() > kMaxActions) return fallback;
  PyObject* function = make_act(p, plan.ptr(), fallback.ptr(), tensor_type.ptr());
  if (!function) throw py::error_already_set();
  return py::reinterpret_steal<py::object>(function);
}

// The quick way for a batch. Tensors of a type that cannot be exchanged without a call into Python are never plain.
py::object fast_run(const py::object& plan, const py::object& tensor_type,
                    const py::typing::Callable<py::bool_()>& is_tracing,
                    const std::vector<std::tuple<Namespace, py::str, py::object>>& quiet) {
  const Plan& p = plan.cast<const Plan&>();
  auto watch = std::make_unique<Watch>(Watch{is_tracing, quiet});
  PyObject* function = make_run_batch(p, plan.ptr(), tensor_type.ptr(), std::move(watch));
  if (!function) throw py::error_already_set();
  return py::reinterpret_steal<py::object>(function);
}

const Kernels& choose_kernels(const std::optional<std::string>& isa) {
  return isa ? kernels_for(*isa) : default_kernels();
}

std::unique_ptr<Plan> make_plan(const std::vector<FloatArray>& weights,
                                const std::vector<std::optional<FloatArray>>& biases, double alpha, double beta,
                                double threshold, double initial_membrane, const std::string& reset,
                                const std::string& order, int64_t timesteps, const std::string& encoding,
                                const std::string& decoding, bool split_inputs, bool bias_input,
                                const std::optional<py::typing::Dict<py::str, py::object>>& code,
                                const std::optional<std::string>& isa, bool exact, const std::string& method) {
  const NetworkSpec spec = make_spec(weights, biases, alpha, beta, threshold, initial_membrane, reset, order, timesteps,
                                     encoding, decoding, split_inputs, bias_input, code);
  PlanOptions options;
  options.exact = exact;
  options.method = choose<Method>("method", method,
                                  {{"auto", Method::automatic},
                                   {"events", Method::events},
                                   {"tables", Method::tables},
                                   {"slices", Method::slices},
                                   {"prefix_sums", Method::prefix_sums}});
  const bool slices = !isa && options.method == Method::slices;
  return std::make_unique<Plan>(spec, slices ? kernels_with_slices() : choose_kernels(isa), options);
}

void run_request(const Plan& plan, const Request& request) {
  require(request.batch >= 0, "batch must be at least 0");
  if (request.batch == 0) return;
  // A tensor that stands for another one (fake, functional, known to be zero) has no numbers to read.
  require(request.observations && request.output, "observations must be a plain tensor with data of its own");
  int64_t bad = -1;
  const bool finished = run_interruptible(plan.work(request.batch), [&](const Interrupt& interrupt) {
    bad = first_not_finite(request.observations, request.batch * plan.n_in());
    return bad >= 0 || plan.run(request, interrupt);
  });
  if (!finished) throw py::error_already_set();
  if (bad >= 0) throw_not_finite(request.observations, bad, plan.n_in());
}

void plan_run(const Plan& plan, uint64_t observations, int64_t batch, uint64_t output, uint64_t seed,
              uint64_t first_sample) {
  Request request{};
  request.observations = pointer<const float>(observations);
  request.batch = batch;
  request.seed = seed;
  request.first_sample = first_sample;
  request.output = pointer<float>(output);
  run_request(plan, request);
}

void plan_simulate(const Plan& plan, uint64_t observations, int64_t batch, uint64_t output, uint64_t seed,
                   uint64_t first_sample, const std::vector<uint64_t>& spike_counts, uint64_t input_counts,
                   const std::vector<uint64_t>& spikes, const std::vector<uint64_t>& potentials, uint64_t steps,
                   uint64_t certified, uint64_t saturated) {
  const auto spiking = static_cast<size_t>(plan.spiking_layers()), layers = static_cast<size_t>(plan.n_layers());
  require(spike_counts.size() == spiking, "spike_counts must have one address per spiking layer");
  require(spikes.empty() || spikes.size() == spiking, "spikes must have one address per spiking layer, or none");
  require(potentials.empty() || potentials.size() == layers, "potentials must have one address per layer, or none");
  require(!input_counts || plan.encodes_spikes(), "input_counts needs an encoding by spikes");
  const auto counts_at = pointers<float>(spike_counts);
  const auto spikes_at = pointers<float>(spikes), potentials_at = pointers<float>(potentials);
  Request request{};
  request.observations = pointer<const float>(observations);
  request.batch = batch;
  request.seed = seed;
  request.first_sample = first_sample;
  request.output = pointer<float>(output);
  request.spike_counts = counts_at.data();
  request.input_counts = pointer<float>(input_counts);
  request.spikes = spikes.empty() ? nullptr : spikes_at.data();
  request.potentials = potentials.empty() ? nullptr : potentials_at.data();
  request.steps = pointer<float>(steps);
  request.certified = pointer<float>(certified);
  request.saturated = pointer<float>(saturated);
  run_request(plan, request);
}

void layer_over_time(uint64_t current, uint64_t membrane, uint64_t spikes, int64_t steps, int64_t width,
                     float threshold, const std::string& order, const std::optional<std::string>& isa) {
  struct Job {
    const Kernels& kernels;
    const float* current;
    float *membrane, *spikes;
    int64_t steps, width, slice;
    float threshold;
    bool delayed;
    Interrupt interrupt;
  };
  require(steps >= 0 && width >= 0, "steps and width must be at least 0");
  if (steps == 0 || width == 0) return;
  require(current && membrane && spikes, "current and v0 must be plain tensors with data of their own");
  const bool delayed = choose<bool>("order", order, {{"immediate", false}, {"delayed", true}});
  Job job{choose_kernels(isa),
          pointer<const float>(current),
          pointer<float>(membrane),
          pointer<float>(spikes),
          steps,
          width,
          int64_t{1} << 15,
          threshold,
          delayed,
          kNoInterrupt};
  const double work = static_cast<double>(steps) * static_cast<double>(width) / 4.0;
  const bool finished = run_interruptible(work, [&](const Interrupt& interrupt) {
    job.interrupt = interrupt;
    const StandardFloatMode standard;
    // On the calling thread alone: the loop moves two numbers per operation, so memory is the limit, not the core.
    return job.kernels.if_forward(job.current, job.membrane, job.spikes, job.steps, job.width, 0, job.width,
                                  job.threshold, job.delayed, job.interrupt);
  });
  if (!finished) throw py::error_already_set();
}

py::typing::Dict<py::str, py::object> info() {
  py::typing::Dict<py::str, py::object> d;
  py::list isas;
  for (const Kernels* k : supported_kernels()) isas.append(k->isa);
  d["compiler"] =
#if defined(__clang__)
      std::string("clang ") + __clang_version__;
#else
      std::string("gcc ") + __VERSION__;
#endif
  d["pybind11"] = std::to_string(PYBIND11_VERSION_MAJOR) + "." + std::to_string(PYBIND11_VERSION_MINOR);
  d["version"] = SNNFAST_VERSION;
  d["supported_isas"] = isas;
  d["isa"] = default_kernels().isa;
  d["threads"] = num_threads();
  return d;
}

}  // namespace

PYBIND11_MODULE(_core, m, py::mod_gil_not_used()) {
  m.doc() = "CPU backend of snnfast. Private: use snnfast.SpikingNetwork and snnfast.if_forward.";

  py::class_<Plan>(m, "Plan", "A network made ready to run on this machine.")
      .def(py::init(&make_plan), py::kw_only(), py::arg("weights"), py::arg("biases"), py::arg("alpha"),
           py::arg("beta"), py::arg("threshold"), py::arg("initial_membrane"), py::arg("reset"), py::arg("order"),
           py::arg("timesteps"), py::arg("encoding"), py::arg("decoding"), py::arg("split_inputs"),
           py::arg("bias_input"), py::arg("code") = py::none(), py::arg("isa") = py::none(), py::arg("exact") = true,
           py::arg("method") = "auto")
      .def("run", &plan_run, py::arg("observations"), py::arg("batch"), py::arg("output"), py::arg("seed") = 0,
           py::arg("first_sample") = 0, "Run a batch; addresses of float32 arrays (batch, n_in) and (batch, n_out).")
      .def("simulate", &plan_simulate, py::arg("observations"), py::arg("batch"), py::arg("output"), py::arg("seed"),
           py::arg("first_sample"), py::arg("spike_counts"), py::arg("input_counts"), py::arg("spikes"),
           py::arg("potentials"), py::arg("steps") = 0, py::arg("certified") = 0, py::arg("saturated") = 0,
           "Run a batch and record; empty lists and address 0 mean: not wanted.")
      .def_property_readonly("isa", [](const Plan& p) { return std::string(p.kernels().isa); })
      .def_property_readonly("method", [](const Plan& p) { return std::string(p.method()); })
      .def_property_readonly("why", [](const Plan& p) { return p.why(); })
      .def_property_readonly("trains", &Plan::trains, "Spike trains of the first layer in a table by now.")
      .def_property_readonly("counts_last", &Plan::counts_last, "Whether the last layer goes by counts of spikes.")
      .def_property_readonly("n_in", &Plan::n_in)
      .def_property_readonly("n_out", &Plan::n_out);

  m.def("fast_act", &fast_act, py::arg("plan"), py::arg("fallback"), py::arg("tensor_type"),
        "A function observation -> decision; anything but a plain array or tensor goes to `fallback`.");
  m.def(
      "fast_run", &fast_run, py::arg("plan"), py::arg("tensor_type"), py::arg("is_tracing"), py::arg("quiet"),
      "A function observations -> output; None for anything but a plain float32 tensor or a plain array, and for a "
      "tensor while is_tracing() says so or, of `quiet`, a name in a namespace has another value than the one there.");
  m.def("if_forward", &layer_over_time, py::arg("current"), py::arg("membrane"), py::arg("spikes"), py::arg("steps"),
        py::arg("width"), py::arg("threshold"), py::arg("order"), py::arg("isa") = py::none(),
        "One layer over time; addresses of current (steps, width), membrane (width, updated) and spikes.");
  m.def(
      "measure_ceiling",
      [](const std::string& name, int64_t bytes, const std::optional<std::string>& isa) {
        const Kernels& kernels = choose_kernels(isa);
        const Unlocked unlocked;
        return measure_ceiling(name, bytes, kernels);
      },
      py::arg("name"), py::arg("bytes") = 0, py::arg("isa") = py::none(),
      "Units per second of one core at best; csrc/cpu/measure_ceiling.h lists the names.");
  m.def("supported_isas", [] {
    std::vector<std::string> names;
    for (const Kernels* k : supported_kernels()) names.emplace_back(k->isa);
    return names;
  });
  m.def("cap_isa", &cap_isa, py::arg("name"));
  m.def("num_threads", &num_threads);
  m.def("set_num_threads", &set_num_threads, py::arg("n"));
  m.def("parallel_loops", &parallel_loops, "How many loops have used more than one thread so far.");
  m.def("info", &info);
}

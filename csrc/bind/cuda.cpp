// SPDX-License-Identifier: Apache-2.0
// snnfast._cuda: the CUDA backend for Python. Tensors cross as addresses, which snnfast.cuda_backend has checked;
// nothing here knows torch, so one build serves every torch release. Importing needs neither a driver nor a device.
#include <pybind11/stl.h>
#include <pybind11/typing.h>

#include <memory>

#include "bind/addresses.h"
#include "bind/network_spec.h"
#include "bind/take_lock.h"
#include "cuda/device.h"
#include "cuda/plan.h"

namespace py = pybind11;
using namespace snnfast;

namespace {

std::unique_ptr<cuda::Plan> make_plan(const std::vector<FloatArray>& weights,
                                      const std::vector<std::optional<FloatArray>>& biases, double alpha, double beta,
                                      double threshold, double initial_membrane, const std::string& reset,
                                      const std::string& order, int64_t timesteps, const std::string& encoding,
                                      const std::string& decoding, bool split_inputs, bool bias_input,
                                      const std::optional<py::typing::Dict<py::str, py::object>>& code, int device,
                                      bool exact) {
  return std::make_unique<cuda::Plan>(make_spec(weights, biases, alpha, beta, threshold, initial_membrane, reset, order,
                                                timesteps, encoding, decoding, split_inputs, bias_input, code),
                                      cuda::limits(device), exact);
}

// The packed weights, as a view that keeps the plan alive.
py::array_t<float> packed(const py::object& self) {
  const std::vector<float>& p = self.cast<const cuda::Plan&>().packed();
  return py::array_t<float>(static_cast<py::ssize_t>(p.size()), p.data(), self);
}

void run(const cuda::Plan& plan, uint64_t stream, uint64_t packed_weights, uint64_t workspace, uint64_t observations,
         int64_t batch, uint64_t output, uint64_t seed, uint64_t first_sample,
         const std::vector<uint64_t>& spike_counts, uint64_t input_counts, const std::vector<uint64_t>& spikes,
         const std::vector<uint64_t>& potentials, uint64_t steps, uint64_t certified, uint64_t saturated) {
  const auto spiking = static_cast<size_t>(plan.spiking_layers()), layers = static_cast<size_t>(plan.n_layers());
  require(batch >= 0, "batch must be at least 0, got " + std::to_string(batch));
  if (batch == 0) return;
  require(packed_weights && observations && output, "observations must be a plain tensor with data of its own");
  require(spike_counts.empty() || spike_counts.size() == spiking, "spike_counts must have one address per layer");
  require(spikes.empty() || spikes.size() == spiking, "spikes must have one address per spiking layer, or none");
  require(potentials.empty() || potentials.size() == layers, "potentials must have one address per layer, or none");
  require(!input_counts || plan.encodes_spikes(), "input_counts needs an encoding by spikes");
  require(plan.is_coded() || (!steps && !certified && !saturated), "steps, certified and saturated need a code");
  const bool simulate = !spike_counts.empty() || !spikes.empty() || !potentials.empty() || input_counts;
  require(workspace || plan.workspace_bytes(batch, simulate) == 0, "workspace must be allocated");
  const auto counts_at = pointers<float>(spike_counts);
  const auto spikes_at = pointers<float>(spikes), potentials_at = pointers<float>(potentials);
  Request request{};
  request.observations = pointer<const float>(observations);
  request.batch = batch;
  request.seed = seed;
  request.first_sample = first_sample;
  request.output = pointer<float>(output);
  request.spike_counts = spike_counts.empty() ? nullptr : counts_at.data();
  request.input_counts = pointer<float>(input_counts);
  request.spikes = spikes.empty() ? nullptr : spikes_at.data();
  request.potentials = potentials.empty() ? nullptr : potentials_at.data();
  request.steps = pointer<float>(steps);
  request.certified = pointer<float>(certified);
  request.saturated = pointer<float>(saturated);
  const Unlocked unlocked;
  plan.run(request, pointer<const float>(packed_weights), pointer<void>(workspace), pointer<void>(stream));
}

py::typing::Dict<py::str, py::object> info() {
  const cuda::Versions v = cuda::versions();
  py::typing::Dict<py::str, py::object> d;
  d["version"] = SNNFAST_VERSION;
  d["cuda"] = v.compiled;
  d["driver_cuda"] = v.driver;
  d["architectures"] = SNNFAST_CUDA_ARCHITECTURES;
  return d;
}

}  // namespace

PYBIND11_MODULE(_cuda, m, py::mod_gil_not_used()) {
  m.doc() = "CUDA backend of snnfast. Private: use snnfast.SpikingNetwork(..., backend=\"cuda\").";

  py::class_<cuda::Plan>(m, "Plan", "A network made ready to run on a CUDA device; owns nothing there.")
      .def(py::init(&make_plan), py::kw_only(), py::arg("weights"), py::arg("biases"), py::arg("alpha"),
           py::arg("beta"), py::arg("threshold"), py::arg("initial_membrane"), py::arg("reset"), py::arg("order"),
           py::arg("timesteps"), py::arg("encoding"), py::arg("decoding"), py::arg("split_inputs"),
           py::arg("bias_input"), py::arg("code") = py::none(), py::arg("device"), py::arg("exact") = true)
      .def_property_readonly("packed", &packed, "Float32 array that run wants a copy of on the device.")
      .def("workspace_bytes", &cuda::Plan::workspace_bytes, py::arg("batch"), py::arg("simulate"))
      .def("run", &run, py::arg("stream"), py::arg("packed"), py::arg("workspace"), py::arg("observations"),
           py::arg("batch"), py::arg("output"), py::arg("seed") = 0, py::arg("first_sample") = 0,
           py::arg("spike_counts") = std::vector<uint64_t>{}, py::arg("input_counts") = 0,
           py::arg("spikes") = std::vector<uint64_t>{}, py::arg("potentials") = std::vector<uint64_t>{},
           py::arg("steps") = 0, py::arg("certified") = 0, py::arg("saturated") = 0,
           "Queue a batch on a stream of the current device; empty lists and address 0 mean: not wanted.")
      .def_property_readonly("sliced_layers", &cuda::Plan::sliced_layers, "Layers that products of matrices serve.")
      .def_property_readonly("method", [](const cuda::Plan& p) { return std::string(p.method()); });

  m.def("info", &info, "What this module was built for, and what the driver can run.");
}

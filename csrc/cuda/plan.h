// SPDX-License-Identifier: Apache-2.0
// A network made ready to run on a CUDA device: checked, packed, its methods chosen. A Plan lives on the host and owns
// nothing on the device: whoever holds it copies packed() there once, and gives every call that copy, a workspace, and
// a stream. So all device memory is the caller's, from an allocator of the caller's choice.
#pragma once

#include <cstdint>
#include <vector>

#include "core/request.h"
#include "core/spec.h"
#include "cuda/kernels.h"

namespace snnfast::cuda {

// What a Plan needs to know of the device.
struct Device {
  int64_t shared_bytes;  // that a block may ask for
  int64_t multiprocessors;
  bool tensor_cores;  // with products of bytes of the shape that slices.cu uses, and code that has them
  // Spikes of a tile may take this much workspace, and so may the states of neurons; more is cut into chunks of samples
  // and tiles of steps.
  int64_t workspace_bytes = int64_t{512} << 20;
};

class Plan {
 public:
  // `exact`: hold to the exact contract, see docs/numerics.md. Throws std::invalid_argument if the description is not
  // valid, or too large for this backend.
  Plan(const NetworkSpec& spec, const Device& device, bool exact = true);

  const std::vector<float>& packed() const { return packed_; }
  // Bytes of workspace that run needs for a batch; its contents before and after a call are of no interest.
  int64_t workspace_bytes(int64_t batch, bool simulate) const;
  // Queue a batch on a stream. `packed` and `workspace` are on the device and aligned to 256 bytes. Throws
  // std::runtime_error if a launch fails.
  void run(const Request& request, const float* packed, void* workspace, void* stream) const;

  const char* method() const { return is_coded() ? "coded" : tiny_ ? "tiny" : sliced_ > 0 ? "slices" : "events"; }
  // Layers that products of matrices serve.
  int64_t sliced_layers() const { return sliced_; }
  int64_t n_in() const { return spec_.n_in; }
  int64_t n_out() const { return layers_.back().n_out; }
  int64_t n_layers() const { return static_cast<int64_t>(layers_.size()); }
  int64_t spiking_layers() const { return n_layers() - (layers_.back().fires ? 0 : 1); }
  bool encodes_spikes() const { return spec_.encoding != Encoding::constant; }
  bool is_coded() const { return !coded_tables_.empty(); }

 private:
  struct PackedLayer {
    int64_t n_in, n_out, padded, lanes;
    int64_t weights, bias;  // where they lie in packed_
    bool shared, fires;
    int32_t slices;  // 0: the layer takes its events one by one
    int64_t scale;   // sliced: where it lies in packed_; the digits lie at `weights`
  };
  // The network's options, without its weights.
  struct Options {
    NeuronSpec neuron;
    int64_t timesteps, n_in, features;
    Encoding encoding;
    Decoding decoding;
    bool split, bias;
  };
  // How a batch is cut: samples per chunk and steps per tile.
  struct Cut {
    int64_t rows, steps;
  };
  struct Workspace;
  // Where a layer's tables, and the network's, lie in packed_; -1: nowhere.
  struct CodedTables {
    int64_t weights, bias, values, thresholds, guards, drift, rounding;
  };
  struct CodedLists {
    int64_t levels, step_weights, divisors, bounds, left, overtake, largest;
  };

  void pack(const LayerSpec& layer, bool constant, bool fires);
  bool pack_slices(const LayerSpec& layer, bool fires, bool exact);
  void make_tiny(const NetworkSpec& spec);
  int64_t pack_rows(const std::vector<float>& table, int64_t n, int64_t padded, float silent);
  void make_coded(const NetworkSpec& spec);
  int64_t coded_rows(int64_t batch) const;
  int64_t coded_workspace(int64_t batch) const;
  void run_coded(const Request& request, const float* packed, void* workspace, void* stream) const;
  Cut cut(int64_t batch) const;
  Workspace lay_out(char* base, const Cut& cut) const;
  void run_tiny(const Request& request, const float* packed, void* stream) const;
  void run_chunk(const Request& request, const float* packed, const Workspace& at, const Cut& cut, int64_t first,
                 void* stream) const;
  void run_layer(const Request& request, const float* packed, const Workspace& at, size_t index, Layer launch,
                 void* stream) const;
  void shape_events(const PackedLayer& p, Layer& launch) const;
  void shape_slices(Layer& launch) const;

  Device device_;
  Options spec_;
  std::vector<PackedLayer> layers_;
  std::vector<float> packed_;
  int64_t words_ = 0;     // of the widest row of spikes
  int64_t capacity_ = 0;  // of the longest list
  int64_t padded_sum_ = 0;
  int64_t sliced_ = 0;
  bool tiny_ = false;
  Tiny tiny_launch_{};
  int64_t tiny_first_ = 0;  // where its first weights lie in packed_
  Coded coded_launch_{};
  std::vector<CodedTables> coded_tables_;  // empty without a code
  CodedLists coded_lists_{};
};

}  // namespace snnfast::cuda

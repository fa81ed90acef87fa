// The direct convolution on the CPU: plans, chooses the instruction set, runs.
#pragma once

#include "jobs.h"

namespace deeplab {

template <typename T>
void direct_forward(const ConvGeometry& g, const T* x, const T* weight, WeightStrides strides,
                    const T* bias, T* y, const ConvOptions& options, Parallel parallel);

template <typename T>
void direct_grad_input(const ConvGeometry& g, const T* grad_y, const T* weight,
                       WeightStrides strides, T* grad_x, const ConvOptions& options,
                       Parallel parallel);

// Planar maps (not channels-last).
template <typename T>
void direct_grad_weight(const ConvGeometry& g, const T* grad_y, const T* x, T* grad_weight,
                        const ConvOptions& options, Parallel parallel);

}  // namespace deeplab

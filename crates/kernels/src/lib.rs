//! CPU kernels of a diffusion U-Net on plain slices, forward and backward.

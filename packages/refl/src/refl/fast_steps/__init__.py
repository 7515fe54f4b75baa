"""Faster denoising steps: the denoiser in half precision, and CUDA graphs."""

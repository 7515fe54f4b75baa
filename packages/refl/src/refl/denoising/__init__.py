"""Denoising arithmetic: noise schedules, steps, and rollouts from noise to clean latents."""

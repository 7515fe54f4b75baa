"""Scorers with a vision-language model as backbone: HPSv3 (Qwen2-VL) and HPSv3++ (Qwen3-VL)."""

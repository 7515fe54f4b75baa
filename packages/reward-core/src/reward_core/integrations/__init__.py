"""Rewards in other libraries. Each module needs its library and must be imported explicitly."""

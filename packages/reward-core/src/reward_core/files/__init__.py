"""Atomic writes, and reading and writing of JSON, tables, zips and score files."""

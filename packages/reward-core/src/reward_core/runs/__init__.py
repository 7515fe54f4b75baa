"""Parts of long runs: settings, locks, checkpoints, metrics, progress and more."""

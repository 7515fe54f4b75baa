"""What every long run needs: settings, progress, locks, checkpoints, metrics, interruption."""

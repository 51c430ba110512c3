"""What the replica says about itself: logs, status, metrics."""

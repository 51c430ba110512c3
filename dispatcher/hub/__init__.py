"""The hub: subscribers, the fan-out of batches to them, and the seam between catching up and live."""

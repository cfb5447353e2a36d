"""How a machine is used: compiled loops, threads, signals, the way to a device and back."""

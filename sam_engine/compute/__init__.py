"""How a machine is used: compiled loops, threads, the way to a device and back."""

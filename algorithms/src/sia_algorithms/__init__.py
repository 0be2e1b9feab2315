"""Six RL algorithms behind one interface, one readable file each."""

"""A stand-in for the 3D Slicer application: its real MRML core, and widgets whose names come from its own headers."""

"""What a graph costs on a device."""

"""Every spelling of an operation becomes the one NPU operator for it."""

"""Dense language models of the transformers library: load, build small, quantize, run, compare."""


class ModelError(ValueError):
    """A model that cannot be loaded or is not supported; the text names the fix."""

"""From options to a compiled model: the list of stages, plans and variants."""

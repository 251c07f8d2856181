"""UB from reflections measured on a monochromatic instrument."""

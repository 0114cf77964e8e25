"""Helpers that the native module calls."""


def build(make, keywords):
    """Makes an object again, for pickle."""
    return make(**keywords)


def jsonable(value):
    """NumPy's scalars and arrays, and sets, as JSON has them."""
    if hasattr(value, "tolist"):
        return value.tolist()
    if isinstance(value, (set, frozenset, tuple)):
        return list(value)
    raise TypeError(f"{type(value).__name__} has no place in a scheduler config")

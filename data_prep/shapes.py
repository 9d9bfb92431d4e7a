"""What a JSON that is read back must look like, as a value of the same build."""

import math


def fits(value: object, shape: object) -> bool:
    """Whether a value of a JSON has a shape.

    Args:
        value: As json.loads gives it.
        shape: A type (float for any finite number), [shape] for a list of them, {...: shape} for a dict of them, a dict
            with the keys that must be there, a tuple of shapes of which one fits, or else the value itself.
    """
    if isinstance(shape, tuple):
        return any(fits(value, one) for one in shape)
    if isinstance(shape, list):
        return isinstance(value, list) and all(fits(part, shape[0]) for part in value)
    if isinstance(shape, dict):
        if not isinstance(value, dict):
            return False
        each = shape.get(...)
        named = all(key in value and fits(value[key], one) for key, one in shape.items() if key is not ...)
        return named and (each is None or all(fits(part, each) for part in value.values()))
    if shape is float:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if isinstance(shape, type):
        return isinstance(value, shape) and (shape is bool or not isinstance(value, bool))
    return type(value) is type(shape) and value == shape
